"""Tests of proxy/core/failures.py: whose words a caller may read."""

from __future__ import annotations

import orjson
import pytest

from plugins.contract import Failure, FailureKind
from proxy.core.chat import CHAT
from proxy.core.failures import clean, error_for
from proxy.core.responses import RESPONSES
from proxy.errors import openai_body

EXPECTED: dict[FailureKind, tuple[int, bool]] = {
    # kind: status, whether the provider's words are shown
    FailureKind.INVALID_REQUEST: (400, True),
    FailureKind.TOO_LARGE: (413, True),
    FailureKind.CREDENTIALS: (502, False),
    FailureKind.CREDITS: (502, False),
    FailureKind.IN_FLIGHT_BUDGET: (503, False),
    FailureKind.MODERATION: (403, True),
    FailureKind.FORBIDDEN: (502, False),
    FailureKind.NOT_FOUND: (404, True),
    FailureKind.TIMEOUT: (504, True),
    FailureKind.RATE_LIMIT: (429, True),
    FailureKind.PROVIDER: (502, True),
    FailureKind.UNREACHABLE: (503, False),
}


@pytest.mark.parametrize("kind", FailureKind)
def test_every_kind_has_its_error(kind: FailureKind) -> None:
    """The table is complete: each kind has a status, and a rule for its words and for the caller's own retries."""
    status, is_shown = EXPECTED[kind]
    error = error_for(Failure(kind, "the provider's very words"), "acme")
    assert error.status == status
    assert ("very words" in error.message) is is_shown
    assert ("acme" in error.message) is (not is_shown)
    headers = error.headers()
    is_callers = status in (400, 403, 404, 413)
    assert headers.get("x-should-retry") == (None if is_callers else "false")
    assert ("retry-after" in headers) is (status in (429, 503))
    assert error.details == ({} if is_callers else {"provider": "acme"})


CODES: dict[int, str | None] = {400: "content_filter", 403: "content_filter", 413: "content_filter"}
"""Whoever is not at fault for what he asked gets our own code."""


@pytest.mark.parametrize("kind", FailureKind)
def test_whose_code_is_shown(kind: FailureKind) -> None:
    """A caller who is at fault reads the provider's code and the field; of a model that is not there, our code."""
    error = error_for(Failure(kind, "no", code="content_filter", param="messages[0].content"), "acme")
    shown = openai_body(error)["error"]
    own = "model_not_found" if kind is FailureKind.NOT_FOUND else type(error).code
    assert shown["code"] == CODES.get(error.status, own)
    assert shown["param"] == ("messages[0].content" if error.status in (*CODES, 404) else None)
    assert error.error_code == own


def test_an_event_has_the_code_too() -> None:
    """The error events of chat and of the Responses API say what an answer would."""
    failure = Failure(FailureKind.INVALID_REQUEST, "no", code="context_length_exceeded", param="input")
    error = error_for(failure, "acme")
    for form in (CHAT, RESPONSES):
        event = orjson.loads(form.error_event(error, None, number=3).partition(b"data: ")[2])
        places = (event["error"], event) if form is RESPONSES else (event["error"],)
        assert {(each["code"], each["param"]) for each in places} == {("context_length_exceeded", "input")}


@pytest.mark.parametrize(
    "word",
    [
        "",
        "two words",
        "https://llm.internal",
        "x" * 65,
        "käse",
        "line\n",
        "sk-or-v1-abcdef",
        "hf_AbCdEfGh",
        "invalid_api_key",
        "insufficient_quota",
        "rate_limit_exceeded",
        "permission_denied",
    ],
)
def test_what_is_no_code_of_the_callers(word: str) -> None:
    """Text, secrets, and what a provider says of this gateway's own key and limits are no code and no field."""
    error = error_for(Failure(FailureKind.INVALID_REQUEST, "no", code=word, param=word), "acme")
    shown = openai_body(error)["error"]
    assert (shown["code"], shown["param"]) == (None, None)


def test_the_providers_wait_is_kept() -> None:
    """What the provider said about waiting is passed on in whole seconds."""
    error = error_for(Failure(FailureKind.RATE_LIMIT, "slow down", retry_after=39.2), "acme")
    assert error.headers()["retry-after"] == "40"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("visit https://openrouter.ai/settings now", "visit [link] now"),
        ("see www.example.com/x", "see [link]"),
        ("key sk-or-v1-abcdef is bad", "key [removed] is bad"),
        ("token hf_AbCdEfGh is bad", "token [removed] is bad"),
        ("sent Bearer abc.def", "sent [removed]"),
        ("your aipasta_0123456789 key", "your [removed] key"),
        ("sk-or-v1-1234*********cdef", "[removed]"),
        ("task-based work is fine, so is hf", "task-based work is fine, so is hf"),
    ],
)
def test_addresses_and_secrets_are_taken_out(said: str, shown: str) -> None:
    """A provider's text loses links and whatever looks like a key, and nothing else."""
    assert clean(said) == shown
