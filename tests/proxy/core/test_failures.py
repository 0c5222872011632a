"""Tests of proxy/core/failures.py: whose words a caller may read."""

from __future__ import annotations

import pytest

from plugins.contract import Failure, FailureKind
from proxy.core.failures import clean, error_for

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
