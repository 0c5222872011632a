"""What the plain plugin makes of errors: in a refusal, in an answer, in the middle of a stream."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.contract import FailureKind, ProviderOptions
from plugins.openai_compatible import OpenAICompatible
from tests.plugins import recordings

PLAIN = OpenAICompatible(ProviderOptions("local"))


def kind_of(status: int, body: Any) -> FailureKind:
    """Judge a refusal."""
    return PLAIN.read_failure(status, {}, orjson.dumps(body)).kind


@pytest.mark.parametrize("error", [None, False, 0, "", {}])
def test_no_error(error: Any) -> None:
    """An empty error is no error."""
    frame = {"error": error, "choices": [{"finish_reason": "stop", "error": error}]}
    assert PLAIN.read_error(frame) is None


@pytest.mark.parametrize(
    "stream",
    [
        "openai_stream_include_usage.sse",
        "hf_stream_groq_include_usage.sse",
        "hf_stream_usage_on_finish_chunk.sse",
        "hf_stream_no_usage.sse",
        "openrouter_stream_ok.sse",
    ],
)
def test_no_error_in_recorded_streams(stream: str) -> None:
    """No frame of a recorded good stream is taken for an error."""
    assert [PLAIN.read_error(frame) for frame in recordings.frames(stream) if PLAIN.read_error(frame)] == []


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ("boom", FailureKind.PROVIDER, "boom"),
        (True, FailureKind.PROVIDER, "the provider reported an error"),
        ([1], FailureKind.PROVIDER, "the provider reported an error"),
        ({"message": "slow", "code": "429"}, FailureKind.RATE_LIMIT, "slow"),
        ({"message": "slow", "code": 429}, FailureKind.RATE_LIMIT, "slow"),
        ({"message": "x", "code": "server_error"}, FailureKind.PROVIDER, "x"),
        ({"message": "x", "code": 1302}, FailureKind.PROVIDER, "x"),
        ({"message": "x", "metadata": {"error_type": "timeout"}}, FailureKind.TIMEOUT, "x"),
        (
            {"message": "x", "metadata": {"error_type": "content_policy_violation"}},
            FailureKind.MODERATION,
            "x",
        ),
        ({"message": "x", "code": "context_length_exceeded"}, FailureKind.INVALID_REQUEST, "x"),
        (
            {"message": "x", "type": "invalid_request_error", "code": "invalid_api_key"},
            FailureKind.CREDENTIALS,
            "x",
        ),
        ({"message": "x", "code": "insufficient_quota"}, FailureKind.CREDITS, "x"),
    ],
)
def test_error_in_frame(error: Any, kind: FailureKind, message: str) -> None:
    """An error inside a 200 is judged by its number, then by its words, then as the provider's."""
    for frame in ({"error": error}, {"choices": [{"finish_reason": "error", "error": error}]}):
        failure = PLAIN.read_error(frame)
        assert failure is not None
        assert (failure.kind, failure.message) == (kind, message)


def test_answer_that_ends_in_error() -> None:
    """A finish reason of "error" is an error even if nothing explains it."""
    choice = {"finish_reason": "error", "native_finish_reason": "MALFORMED_FUNCTION_CALL"}
    failure = PLAIN.read_error({"choices": [{"finish_reason": "stop"}, choice]})
    assert failure is not None
    assert failure.kind is FailureKind.PROVIDER
    assert failure.message == "the provider ended the answer with MALFORMED_FUNCTION_CALL"
    assert PLAIN.read_error({"choices": [{"finish_reason": "error"}]}) is not None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, FailureKind.INVALID_REQUEST),
        (401, FailureKind.CREDENTIALS),
        (402, FailureKind.CREDITS),
        (403, FailureKind.FORBIDDEN),
        (404, FailureKind.NOT_FOUND),
        (408, FailureKind.TIMEOUT),
        (410, FailureKind.NOT_FOUND),
        (413, FailureKind.TOO_LARGE),
        (418, FailureKind.PROVIDER),
        (422, FailureKind.INVALID_REQUEST),
        (429, FailureKind.RATE_LIMIT),
        (500, FailureKind.PROVIDER),
        (502, FailureKind.PROVIDER),
        (503, FailureKind.PROVIDER),
        (504, FailureKind.TIMEOUT),
        (524, FailureKind.TIMEOUT),
        (529, FailureKind.PROVIDER),
        (302, FailureKind.PROVIDER),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"\xff\xfe", b"{}", b"null", b"[]", b"7"])
def test_status_alone(status: int, kind: FailureKind, body: bytes) -> None:
    """An answer that says nothing is judged by its status, and told in neutral words."""
    failure = PLAIN.read_failure(status, {}, body)
    assert (failure.kind, failure.status) == (kind, status)
    assert failure.message == f"HTTP {status} from the provider"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": "str"}, "str"),
        ({"error": {"message": "m"}}, "m"),
        ({"error": True, "message": "m"}, "m"),
        ({"message": "m"}, "m"),
        ({"detail": "d"}, "d"),
        (
            {"detail": [{"loc": ["body", "messages", 0], "msg": "field required"}, {"msg": "x"}]},
            "body.messages: field required; x",
        ),
        ([{"error": {"message": "google", "code": 400}}], "google"),
        ({"success": False, "error": {"name": "ZodError", "message": "[\n {}\n]"}}, "[ {} ]"),
        ({"error": {"message": "<!DOCTYPE html><p>x"}}, "HTTP 400 from the provider"),
        ({"error": {"message": "unexpected <|im_end|> in List<int>"}}, "unexpected <|im_end|> in List<int>"),
        ({"error": {"message": "a\u0000b\u202ec"}}, "a b c"),
        ({"error": {"message": 7}}, "HTTP 400 from the provider"),
    ],
)
def test_message(body: Any, message: str) -> None:
    """The message is found in every shape, in one printable line, and never is HTML."""
    assert PLAIN.read_failure(400, {}, orjson.dumps(body)).message == message


@pytest.mark.parametrize(
    ("error", "code", "param"),
    [
        ({"code": "context_length_exceeded", "param": "messages"}, "context_length_exceeded", "messages"),
        ({"code": None, "param": None}, None, None),
        ({"code": "", "param": ""}, None, None),
        ({"code": 400, "param": ["messages"]}, None, None),
        ({"code": "400"}, None, None),
        ({"code": "3230"}, "3230", None),
        (
            {"code": 400, "metadata": {"error_type": "context_length_exceeded"}},
            "context_length_exceeded",
            None,
        ),
        ({"error_type": "invalid_request", "http_status": 400}, "invalid_request", None),
        ({"code": "invalid_prompt", "metadata": {"error_type": "unmapped"}}, "invalid_prompt", None),
        ("too long", None, None),
    ],
)
def test_code_and_param(error: Any, code: str | None, param: str | None) -> None:
    """An error's word for itself and the field that it names are kept; a status is no such word."""
    refused, reported = (
        PLAIN.read_failure(400, {}, orjson.dumps({"error": error})),
        PLAIN.read_error({"error": error}),
    )
    assert reported is not None
    assert (refused.code, refused.param) == (reported.code, reported.param) == (code, param)


def test_plain_text_message() -> None:
    """A body in plain text is the message; one that calls itself HTML is none."""
    assert PLAIN.read_failure(503, {}, b"overloaded\n").message == "overloaded"
    html = {"content-type": "text/HTML; charset=utf-8"}
    assert PLAIN.read_failure(503, html, b"overloaded").message == "HTTP 503 from the provider"


def test_long_message() -> None:
    """A message has at most 500 characters."""
    assert len(PLAIN.read_failure(400, {}, b"x" * 10_000).message) == 500


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"code": "model_not_found"}, FailureKind.NOT_FOUND),
        (400, {"message": "acme/x is not a valid model ID"}, FailureKind.NOT_FOUND),
        (422, {"code": "model_not_supported"}, FailureKind.NOT_FOUND),
        (400, {"code": "content_filter"}, FailureKind.MODERATION),
        (429, {"code": "insufficient_quota"}, FailureKind.CREDITS),
        (500, {"code": 429}, FailureKind.RATE_LIMIT),
        (400, {"code": 1302}, FailureKind.INVALID_REQUEST),
        (413, {"code": "rate_limit_exceeded", "type": "tokens"}, FailureKind.TOO_LARGE),
        (402, {"metadata": {"reason": "weight_exceeds_budget"}}, FailureKind.CREDITS),
        (403, {"metadata": {"reasons": [], "limit_source": "key_limit"}}, FailureKind.FORBIDDEN),
        (403, {"metadata": {"reasons": ["violence"], "flagged_input": "x"}}, FailureKind.MODERATION),
    ],
)
def test_status_is_refined(status: int, error: dict[str, Any], kind: FailureKind) -> None:
    """The error's own number comes before the status, and its words make it exact."""
    assert kind_of(status, {"error": error}) is kind


@pytest.mark.parametrize(
    ("headers", "error", "wait"),
    [
        ({"retry-after": "3"}, {}, 3.0),
        ({"retry-after": "0.5"}, {}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "3"}, {}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, {}, None),
        ({"retry-after": "-1"}, {}, None),
        ({"retry-after": "nan"}, {}, None),
        ({"retry-after": "99999999"}, {}, None),
        ({}, {"metadata": {"headers": {"Retry-After": "4"}}}, 4.0),
        ({}, {"metadata": {"headers": {"retry-after": 4}}}, 4.0),
        ({}, {"metadata": {"retry_after_seconds": 5}}, 5.0),
        ({}, {"availability": {"retry_after": 40}}, 40.0),
        ({}, {"metadata": {"headers": [], "retry_after_seconds": True}}, None),
        ({}, {}, None),
    ],
)
def test_retry_after(headers: dict[str, str], error: dict[str, Any], wait: float | None) -> None:
    """The wait is found in the headers or in the error, in seconds; a date is given up."""
    assert PLAIN.read_failure(429, headers, orjson.dumps({"error": error})).retry_after == wait


@recordings.PATIENT
@given(st.integers(-1, 999), recordings.HEADERS, recordings.BODIES)
def test_no_refusal_breaks_it(status: int, headers: dict[str, str], body: bytes) -> None:
    """No refusal raises; its message is one short line without HTML, its wait finite."""
    failure = PLAIN.read_failure(status, headers, body)
    assert 0 < len(failure.message) <= 500
    assert failure.message.isprintable()
    assert "<html" not in failure.message.lower()
    assert failure.retry_after is None or 0 <= failure.retry_after < 10**7
    PLAIN.read_head(headers)
