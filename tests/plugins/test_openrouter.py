"""The OpenRouter plugin, against recorded answers of OpenRouter."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugins.contract import (
    Api,
    ApiCall,
    ChecksKeys,
    Failure,
    FailureKind,
    Head,
    Price,
    Provider,
    ProviderOptions,
)
from plugins.openrouter import OpenRouter, read_price
from tests.plugins import recordings

ROUTER = OpenRouter(ProviderOptions("openrouter", app_url="https://aipasta.example", app_title="AI Pasta"))
CALL = ApiCall(body={}, model="openai/gpt-4o-mini", stream=False, max_tokens=None)
KINDS = {
    "400_invalid_model": FailureKind.NOT_FOUND,
    "400_missing_messages": FailureKind.INVALID_REQUEST,
    "400_invalid_json": FailureKind.INVALID_REQUEST,
    "400_reasoning_mandatory": FailureKind.INVALID_REQUEST,
    "400_zod_other_routes": FailureKind.INVALID_REQUEST,
    "400_availability_model_not_found_documented": FailureKind.NOT_FOUND,
    "401_no_key": FailureKind.CREDENTIALS,
    "401_no_key_spec_example": FailureKind.CREDENTIALS,
    "401_bad_key": FailureKind.CREDENTIALS,
    "402_credits_documented": FailureKind.CREDITS,
    "402_max_tokens_too_high": FailureKind.CREDITS,
    "402_in_flight_budget_documented": FailureKind.IN_FLIGHT_BUDGET,
    "403_guardrail_documented": FailureKind.MODERATION,
    "404_data_policy": FailureKind.NOT_FOUND,
    "404_generation": FailureKind.NOT_FOUND,
    "408_documented": FailureKind.TIMEOUT,
    "413_documented": FailureKind.TOO_LARGE,
    "429_free_daily": FailureKind.RATE_LIMIT,
    "429_upstream_no_hint": FailureKind.RATE_LIMIT,
    "429_upstream_retry_after": FailureKind.RATE_LIMIT,
    "429_capacity_exhausted_documented": FailureKind.RATE_LIMIT,
    "500_documented": FailureKind.PROVIDER,
    "502_documented": FailureKind.PROVIDER,
    "503_documented": FailureKind.PROVIDER,
    "524_documented": FailureKind.TIMEOUT,
    "529_documented": FailureKind.PROVIDER,
    "200_error_body": FailureKind.PROVIDER,
    "200_choice_error_documented": FailureKind.PROVIDER,
}
WAITS = {
    "402_in_flight_budget_documented": 3,
    "429_upstream_retry_after": 1,
    "429_capacity_exhausted_documented": 40,
}


def sent(call: ApiCall) -> dict[str, Any]:
    """Read back what is sent."""
    body: dict[str, Any] = orjson.loads(ROUTER.api_request(call, "k").body)
    return body


def test_is_a_provider() -> None:
    """The OpenRouter plugin satisfies the contract."""
    assert isinstance(ROUTER, Provider)


def test_attribution() -> None:
    """The application's name goes with every request, where there is one."""
    for request in (ROUTER.models_request(None), ROUTER.api_request(CALL, "k")):
        assert request.headers["HTTP-Referer"] == "https://aipasta.example"
        assert request.headers["X-OpenRouter-Title"] == "AI Pasta"
    bare = OpenRouter(ProviderOptions("openrouter")).models_request(None)
    assert bare.headers == {"Accept-Encoding": "identity"}


def test_routing_fields_stay() -> None:
    """OpenRouter's own fields go through untouched."""
    body = {
        "models": ["a", "b"],
        "provider": {"order": ["x"]},
        "plugins": [],
        "route": "fallback",
        "transforms": [],
    }
    assert sent(replace(CALL, body=body)) == {**body, "model": CALL.model, "stream": False}


@pytest.mark.parametrize(
    ("wanted", "bounds"),
    [
        (None, {"prompt": "0.15", "completion": "0.6", "request": "0.005"}),
        ("nonsense", {"prompt": "0.15", "completion": "0.6", "request": "0.005"}),
        ({"prompt": 0.1, "image": 1}, {"prompt": 0.1, "completion": "0.6", "request": "0.005", "image": 1}),
        ({"prompt": 5, "completion": "-1"}, {"prompt": "0.15", "completion": "0.6", "request": "0.005"}),
        ({"completion": "0.6", "request": 0}, {"prompt": "0.15", "completion": "0.6", "request": 0}),
    ],
)
def test_max_price(wanted: Any, bounds: dict[str, Any]) -> None:
    """A backing dearer than the hold is forbidden, per million tokens and per request; lower bounds stay."""
    price = Price(Decimal("0.00000015"), Decimal("0.0000006"), request=Decimal("0.005"))
    body = {"provider": {"order": ["x"], "max_price": wanted}}
    assert sent(replace(CALL, body=body, max_price=price))["provider"] == {
        "order": ["x"],
        "max_price": bounds,
    }


@pytest.mark.parametrize("routing", [None, "nonsense", []])
def test_max_price_without_routing(routing: Any) -> None:
    """The bound is sent where the caller says nothing of providers, or nothing sensible."""
    body = {"provider": routing}
    found = sent(replace(CALL, body=body, max_price=Price(Decimal(0), Decimal(0))))["provider"]
    assert found == {"max_price": {"prompt": "0", "completion": "0", "request": "0"}}


FREE_PARSER = {"id": "file-parser", "pdf": {"engine": "cloudflare-ai"}}
DEAR_PARSER = {"id": "file-parser", "pdf": {"engine": "mistral-ocr"}}


@pytest.mark.parametrize("api", [Api.CHAT, Api.RESPONSES, Api.MESSAGES])
@pytest.mark.parametrize(
    ("given", "plugins"),
    [
        ({}, [FREE_PARSER]),
        ({"plugins": None}, [FREE_PARSER]),
        ({"plugins": []}, [FREE_PARSER]),
        ({"plugins": [{"id": "web"}]}, [{"id": "web"}, FREE_PARSER]),
        ({"plugins": [DEAR_PARSER]}, [DEAR_PARSER]),
        ({"plugins": [{"id": "web"}, {"id": "file-parser"}]}, [{"id": "web"}, {"id": "file-parser"}]),
        ({"plugins": "nonsense"}, "nonsense"),
    ],
)
def test_files_are_read_for_free(api: Api, given: dict[str, Any], plugins: Any) -> None:
    """OpenRouter is told of its free engine where a model takes no files, and the caller has chosen no reader."""
    call = replace(CALL, body=given, api=api, has_unread_files=True)
    assert sent(call)["plugins"] == plugins
    untouched = sent(replace(call, has_unread_files=False))
    assert {name: value for name, value in untouched.items() if name == "plugins"} == given


def test_embeddings_have_no_plugins() -> None:
    """What its description does not have, OpenRouter's API for embeddings does not get."""
    call = replace(CALL, api=Api.EMBEDDINGS, has_unread_files=True)
    assert sent(call) == {"model": CALL.model}


def test_head_and_backing() -> None:
    """The generation id is in the headers, the backing in every frame."""
    assert ROUTER.read_head({"x-generation-id": "gen-1"}) == Head(generation_id="gen-1")
    assert ROUTER.read_head({}) == Head()
    frames = recordings.frames("openrouter_stream_ok.sse")
    assert {ROUTER.read_backing(frame) for frame in frames} == {"OpenAI"}
    assert ROUTER.read_backing({"provider": {}}) is None


def test_every_recorded_error_is_judged() -> None:
    """The table of this test names every recorded error."""
    assert [answer.name for answer in recordings.answers("openrouter_errors.json")] == list(KINDS)


def failure_of(answer: recordings.Answer) -> Failure:
    """Read an error answer, or the error in an answer with status 200."""
    if answer.status != 200:
        return ROUTER.read_failure(answer.status, answer.headers, answer.body)
    failure = ROUTER.read_error(orjson.loads(answer.body))
    assert failure is not None
    return failure


@pytest.mark.parametrize("answer", recordings.answers("openrouter_errors.json"), ids=lambda each: each.name)
def test_recorded_errors(answer: recordings.Answer) -> None:
    """Each recorded error is judged rightly, in OpenRouter's words and with its wait."""
    failure = failure_of(answer)
    assert failure.kind is KINDS[answer.name]
    assert failure.retry_after == WAITS.get(answer.name)
    body = orjson.loads(answer.body)
    error = body.get("error") or body["choices"][0]["error"]
    assert failure.message == " ".join(error["message"].split())
    assert failure.status == (answer.status if answer.status != 200 else error["code"])


@pytest.mark.parametrize(
    ("raw", "message", "code", "param"),
    [
        ('{"error": {"message": "temperature: too hot"}}', "temperature: too hot", "invalid_request", None),
        (
            '{"error": {"message": "too long", "code": "context_length_exceeded", "param": "messages"}}',
            "too long",
            "context_length_exceeded",
            "messages",
        ),
        ('{"detail": "too hot"}', "too hot", "invalid_request", None),
        ("too hot", "too hot", "invalid_request", None),
        ("<html>", "Provider returned error", "invalid_request", None),
        (None, "Provider returned error", "invalid_request", None),
    ],
)
def test_raw_message(raw: Any, message: str, code: str, param: str | None) -> None:
    """What a backing found wrong with a request comes before OpenRouter's general sentence."""
    metadata = {"raw": raw, "error_type": "invalid_request"}
    error = {"code": 400, "message": "Provider returned error", "metadata": metadata}
    failure = ROUTER.read_failure(400, {}, orjson.dumps({"error": error}))
    assert (failure.message, failure.code, failure.param) == (message, code, param)


@pytest.mark.parametrize(
    ("stream", "kinds"),
    [
        ("openrouter_stream_ok.sse", []),
        ("openrouter_stream_error_first_event.sse", [FailureKind.PROVIDER]),
        ("openrouter_stream_error_mid.sse", [FailureKind.RATE_LIMIT]),
    ],
)
def test_errors_in_recorded_streams(stream: str, kinds: list[FailureKind]) -> None:
    """An error event is found wherever it is in the stream, and nothing else is taken for one."""
    found = [ROUTER.read_error(frame) for frame in recordings.frames(stream)]
    assert [failure.kind for failure in found if failure is not None] == kinds


@pytest.mark.parametrize("suffix", ["nitro", "floor", "thinking", "extended", "online", "exacto"])
def test_base_id(suffix: str) -> None:
    """A suffix that steers the routing is stripped, one at a time."""
    assert ROUTER.base_id(f"openai/gpt-4o:{suffix}") == "openai/gpt-4o"
    assert ROUTER.base_id(f"openai/gpt-oss-20b:free:{suffix}") == "openai/gpt-oss-20b:free"


@pytest.mark.parametrize(
    "model", ["openai/gpt-4o", "openai/gpt-oss-20b:free", "a/b:groq", ":nitro", "", "a/b:"]
)
def test_no_base_id(model: str) -> None:
    """A free model is a record of its own, and an unknown suffix is no suffix."""
    assert ROUTER.base_id(model) is None


@pytest.mark.parametrize(
    ("backing", "stops"),
    [
        ("OpenAI", True),
        ("Azure", True),
        ("xAI", True),
        ("DeepInfra", True),
        ("SF Compute", True),
        ("Amazon Bedrock", False),
        ("Google AI Studio", False),
        ("Groq", False),
        ("Mistral", False),
        ("Somebody New", False),
        ("", False),
        (None, False),
    ],
)
def test_stops_billing(backing: str | None, stops: bool) -> None:  # noqa: FBT001
    """Only for a backing that OpenRouter lists does closing the stream stop the bill."""
    assert ROUTER.stops_billing(backing) is stops


@recordings.PATIENT
@given(recordings.JSON, st.text(max_size=20))
def test_no_frame_breaks_it(frame: Any, model: str) -> None:
    """No JSON value and no name raises."""
    ROUTER.read_backing(frame)
    ROUTER.read_usage(frame)
    ROUTER.read_error(frame)
    ROUTER.stops_billing(model)
    ROUTER.base_id(model)
    read_price(frame)


@recordings.PATIENT
@given(st.integers(100, 599), recordings.HEADERS, recordings.BODIES)
def test_no_refusal_breaks_it(status: int, headers: dict[str, str], body: bytes) -> None:
    """No refusal raises."""
    assert 0 < len(ROUTER.read_failure(status, headers, body).message) <= 500
    ROUTER.read_head(headers)


@recordings.PATIENT
@given(recordings.OBJECTS, st.integers(0, 10**6))
def test_no_caller_escapes_the_bound(body: dict[str, Any], price: int) -> None:
    """Whatever the caller writes, no bound that is sent is above what is held."""
    dollars = Decimal(price).scaleb(-6)
    bounds = sent(replace(CALL, body=body, max_price=Price(dollars, dollars)))["provider"]["max_price"]
    assert Decimal(str(bounds["prompt"])) <= price
    assert Decimal(str(bounds["completion"])) <= price
    assert Decimal(str(bounds["request"])) <= 0


def test_a_key_is_tried_where_keys_are_looked_at() -> None:
    """The list of models is open to everybody, so the key itself is asked for."""
    request = ROUTER.key_request("sk-or-v1-x")
    assert isinstance(ROUTER, ChecksKeys)
    assert (request.method, request.path) == ("GET", "/key")
    assert request.headers["Authorization"] == "Bearer sk-or-v1-x"
