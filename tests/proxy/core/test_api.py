"""Tests of the forms of the APIs besides chat: what is read of a request, and how an error is said."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings

from plugins.contract import Failure, ProviderOptions
from plugins.openai_compatible import OpenAICompatible
from proxy.core.answer import NO_CHOICES, NOT_JSON
from proxy.core.answer_stream import UNEXPLAINED
from proxy.core.api import ApiRequest, Form, parse
from proxy.core.chat import CHAT
from proxy.core.embeddings import EMBEDDINGS, NO_VECTORS
from proxy.core.messages import MESSAGES, NO_CONTENT, MessagesStream
from proxy.core.responses import NO_OUTPUT, RESPONSES, UNFINISHED, ResponsesStream
from proxy.core.stream import ChatStream
from proxy.errors import InvalidRequest, ProviderTimeout, RateLimited
from tests.proxy.core.test_chat import json_values

PLAIN = OpenAICompatible(ProviderOptions("plain"))
HELLO = [{"role": "user", "content": "hi"}]
RIGHT: dict[str, tuple[Form, dict[str, Any]]] = {
    "chat": (CHAT, {"model": "m", "messages": HELLO}),
    "embeddings": (EMBEDDINGS, {"model": "m", "input": "hi"}),
    "responses": (RESPONSES, {"model": "m", "input": "hi"}),
    "messages": (MESSAGES, {"model": "m", "messages": HELLO, "max_tokens": 7}),
}
_NAMES = (
    "background conversation include input instructions max_output_tokens max_tokens mcp_servers messages model models"
    " plugins previous_response_id prompt service_tier store stream system tools"
)
FIELDS = _NAMES.split()


@pytest.mark.parametrize("name", RIGHT)
def test_the_body_passes_untouched(name: str) -> None:
    """What was sent is what is kept, but that a response is never stored."""
    form, body = RIGHT[name]
    body = {**body, "x": {"y": [1, 2.5, None]}, "temperature": "hot"}
    kept = {"store": False} if name == "responses" else {}
    asked = parse(form, orjson.dumps(body))
    assert asked.body == body | kept
    assert (asked.form.api, asked.model, asked.models, asked.stream) == (name, "m", (), False)
    assert asked.paid_extras == ()


@pytest.mark.parametrize("name", RIGHT)
@given(value=json_values)
@settings(deadline=None)
def test_no_json_breaks_a_reader(name: str, value: Any) -> None:
    """Any JSON in any field is read or refused with one sentence, and never raises anything else."""
    form, body = RIGHT[name]
    for field in FIELDS:
        with contextlib.suppress(InvalidRequest):
            assert isinstance(parse(form, json.dumps({**body, field: value}).encode()), ApiRequest)
    for field in ("messages", "input"):
        wrong = {**body, field: [{"role": "user", "content": [value]}, {"type": "x", "y": value}]}
        with contextlib.suppress(InvalidRequest):
            parse(form, json.dumps(wrong).encode())


@pytest.mark.parametrize(
    ("name", "body", "fault"),
    [
        ("chat", {"choices": [{"message": {"content": "hi"}}]}, None),
        ("chat", {"choices": []}, NO_CHOICES),
        ("embeddings", {"data": [{"embedding": [1.5]}]}, None),
        ("embeddings", {"data": []}, NO_VECTORS),
        ("embeddings", {"data": {}}, NO_VECTORS),
        ("responses", {"output": [], "status": "completed", "error": None}, None),
        ("responses", {"output": [], "status": "incomplete"}, None),
        ("responses", {"output": []}, None),
        ("responses", {"output": None, "status": "completed"}, NO_OUTPUT),
        ("responses", {"output": [], "status": "failed"}, UNEXPLAINED),
        ("responses", {"output": [], "status": "queued"}, UNFINISHED),
        ("responses", {"output": [], "status": ["completed"]}, UNFINISHED),
        ("messages", {"content": [{"type": "text", "text": "hi"}]}, None),
        ("messages", {"content": "hi"}, NO_CONTENT),
    ],
)
def test_what_is_an_answer(name: str, body: dict[str, Any], fault: Failure | None) -> None:
    """Each API's whole answer has its output; what has none, or is not finished, is a failure."""
    form, _ = RIGHT[name]
    answer = form.read_answer(PLAIN, orjson.dumps(body), None)
    assert (answer.failure, orjson.loads(answer.body)) == (fault, body)
    assert form.read_answer(PLAIN, b"[]", None).failure == NOT_JSON


def test_each_api_has_its_stream() -> None:
    """Chunks for chat, and events with names for the others that stream."""
    for name, kind in (("chat", ChatStream), ("responses", ResponsesStream), ("messages", MessagesStream)):
        form, body = RIGHT[name]
        assert type(form.stream(PLAIN, parse(form, orjson.dumps(body)), None)) is kind


def test_the_caps() -> None:
    """Each API's cap is read; a message must have one, and an embedding has none."""
    assert parse(RESPONSES, orjson.dumps({"model": "m", "input": "x"})).max_tokens is None
    assert (
        parse(RESPONSES, orjson.dumps({"model": "m", "input": "x", "max_output_tokens": 5})).max_tokens == 5
    )
    assert parse(MESSAGES, orjson.dumps(RIGHT["messages"][1])).max_tokens == 7
    assert parse(EMBEDDINGS, orjson.dumps(RIGHT["embeddings"][1])).max_tokens == 0


@pytest.mark.parametrize(
    ("name", "fields", "extras"),
    [
        ("embeddings", {"model": "a:online"}, (":online",)),
        ("responses", {"tools": [{"type": "web_search"}]}, ("tools",)),
        ("responses", {"tools": [{"type": "function", "name": "f"}, {"type": "custom"}]}, ()),
        ("responses", {"models": ["a:online"]}, (":online",)),
        ("messages", {"tools": [{"name": "f"}, {"type": "custom", "name": "g"}]}, ()),
        ("messages", {"tools": [{"type": "code_execution_20250825"}]}, ("tools",)),
        ("messages", {"container": {"skills": []}, "mcp_servers": [{}]}, ("mcp_servers", "container")),
        ("messages", {"speed": "fast"}, ("speed",)),
    ],
)
def test_what_costs_extra(name: str, fields: dict[str, Any], extras: tuple[str, ...]) -> None:
    """What a provider bills on top of the tokens is named, in every API."""
    form, body = RIGHT[name]
    assert parse(form, orjson.dumps({**body, **fields})).paid_extras == extras


def test_errors_are_said_in_the_form_of_the_api() -> None:
    """As a body and as an event: OpenAI's object, its event with a number, or Anthropic's with the request's id."""
    error = ProviderTimeout("too slow")
    said = {"message": "too slow", "type": "upstream_error", "param": None, "code": "provider_timeout"}
    for form in (CHAT, EMBEDDINGS, RESPONSES):
        assert form.error_body(error, "req_1") == {"error": said}
    assert CHAT.error_event(error, "req_1", number=3) == b"data: %b\n\n" % orjson.dumps({"error": said})
    head, data = RESPONSES.error_event(error, "req_1", number=3).decode().strip().split("\n")
    assert head == "event: error"
    assert json.loads(data.removeprefix("data: ")) == {
        "type": "error",
        "sequence_number": 3,
        "code": "provider_timeout",
        "message": "too slow",
        "param": None,
        "error": said,
    }
    anthropics = {
        "type": "error",
        "error": {"type": "timeout_error", "message": "too slow"},
        "request_id": "req_1",
    }
    assert MESSAGES.error_body(error, "req_1") == anthropics
    head, data = MESSAGES.error_event(error, "req_1", number=3).decode().strip().split("\n")
    assert (head, json.loads(data.removeprefix("data: "))) == ("event: error", anthropics)
    assert MESSAGES.error_body(RateLimited("x"), None)["error"]["type"] == "rate_limit_error"
