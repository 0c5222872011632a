"""Tests of proxy/errors.py: the table of what an error becomes, row by row, from the provider's wire to the client's."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
import pytest

from proxy import errors
from proxy.core.routing import Role
from proxy.errors import GatewayError, RateLimited, Unauthenticated, envelope, openai_body
from tests.proxy.stage import FREE, KEYS, MINI, OSS, PLAIN, Stage, ask, staged
from tests.upstreams import Behaviour, Failure, SimulatedUpstream

SECRET = "gsk-canary/with+odd.characters"
KINDS: dict[str, type[GatewayError]] = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, GatewayError) and "status" in vars(kind) and kind is not GatewayError
}
OPENROUTER: list[tuple[str, int, str | None, bool]] = [
    # name of the recorded answer, our status, our code, whether the provider's words are for the caller
    ("400_invalid_model", 404, "model_not_found", True),
    ("400_missing_messages", 400, None, True),
    ("400_reasoning_mandatory", 400, None, True),
    ("400_availability_model_not_found_documented", 404, "model_not_found", True),
    ("401_no_key", 502, "provider_error", False),
    ("401_bad_key", 502, "provider_error", False),
    ("402_credits_documented", 502, "provider_error", False),
    ("402_max_tokens_too_high", 502, "provider_error", False),
    ("402_in_flight_budget_documented", 503, "service_unavailable", False),
    ("403_guardrail_documented", 403, "content_policy_violation", True),
    ("404_data_policy", 404, "model_not_found", True),
    ("408_documented", 504, "provider_timeout", True),
    ("413_documented", 413, "request_too_large", True),
    ("429_free_daily", 429, "provider_rate_limited", True),
    ("429_upstream_no_hint", 429, "provider_rate_limited", True),
    ("429_upstream_retry_after", 429, "provider_rate_limited", True),
    ("429_capacity_exhausted_documented", 429, "provider_rate_limited", True),
    ("500_documented", 502, "provider_error", True),
    ("502_documented", 502, "provider_error", True),
    ("503_documented", 502, "provider_error", True),
    ("524_documented", 504, "provider_timeout", True),
    ("529_documented", 502, "provider_error", True),
    ("200_error_body", 502, "provider_error", True),
]
HUGGINGFACE: list[tuple[str, int, str | None, bool]] = [
    ("400_model_not_supported", 404, "model_not_found", True),
    ("400_not_chat_model", 404, "model_not_found", True),
    ("401_bad_token", 502, "provider_error", False),
    ("401_no_token", 502, "provider_error", False),
    ("402_credits", 502, "provider_error", False),
    ("403_permission", 502, "provider_error", False),
    ("410_deprecated_pair", 404, "model_not_found", True),
    ("429_upstream_openai_shape_sim", 429, "provider_rate_limited", True),
    ("429_hub_ratelimit_headers", 429, "provider_rate_limited", True),
    ("upstream_message_shape_sim", 400, None, True),
    ("upstream_detail_shape_sim", 400, None, True),
    ("503_html_sim", 502, "provider_error", False),
    ("504_html_sim", 504, "provider_timeout", False),
    ("503_legacy_loading", 502, "provider_error", True),
]


def assert_openai_error(response: httpx.Response, status: int, code: str | None) -> dict[str, Any]:
    """Check the one canonical body: four fields, strings or null, and our request id beside it."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    return error


async def check(stage: Stage, key: str, row: tuple[str, int, str | None, bool], provider: str) -> None:
    name, status, code, is_for_caller = row
    upstream: SimulatedUpstream = getattr(stage, provider)
    model = MINI if provider == "openrouter" else f"huggingface/{OSS}"
    upstream.script.enqueue(Behaviour(error=name))
    response = await stage.gateway.chat(key, ask(model))
    error = assert_openai_error(response, status, code)
    failure = upstream.failure(Behaviour(error=name))
    assert failure is not None
    words = failure.message.split("https://")[0][:20]
    assert (words in error["message"]) is is_for_caller, error["message"]
    retry = response.headers.get("x-should-retry")
    assert retry == ("false" if status >= 429 else None), name
    assert ("retry-after" in response.headers) is (status in (429, 503)), name


async def test_every_refusal_of_openrouter_has_its_place(mongodb_uri: str) -> None:
    """Each recorded refusal of OpenRouter's becomes the status, code and headers of the table."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        for row in OPENROUTER:
            await check(stage, key, row, "openrouter")
        assert len(await stage.events(len(OPENROUTER))) == len(OPENROUTER)


async def test_every_refusal_of_hugging_face_has_its_place(mongodb_uri: str) -> None:
    """The same for Hugging Face, whose errors come as objects, strings, HTML and plain text."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key()
        for row in HUGGINGFACE:
            await check(stage, key, row, "huggingface")
        await stage.events(len(HUGGINGFACE))


async def test_a_fault_of_the_callers_keeps_its_code(mongodb_uri: str) -> None:
    """Clients branch on `code` and `param`: they are the provider's, before an answer and as a stream's first event."""
    too_long = {"message": "Too long.", "type": "invalid_request_error"}
    too_long |= {"param": "messages", "code": "context_length_exceeded"}
    ours = {"message": "Bad key.", "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key()
        for stream, after in ((False, None), (True, None), (True, 0)):
            for error, status, code in (
                (too_long, 400, "context_length_exceeded"),
                (ours, 502, "provider_error"),
            ):
                refusal = Failure(400 if error is too_long else 401, {"error": error})
                stage.plain.script.enqueue(Behaviour(error=refusal, error_after=after))
                response = await stage.gateway.chat(key, ask(PLAIN, stream=stream))
                shown = assert_openai_error(response, status, code)
                assert shown["param"] == (error["param"] if status == 400 else None)
        stage.plain.script.enqueue(Behaviour(error=Failure(400, {"error": too_long}), error_after=2))
        response = await stage.gateway.chat(key, ask(PLAIN, stream=True))
        assert orjson.loads(response.text.split("data: ")[-1])["error"] == too_long
        # A provider's words are no labels, for there is no end of them.
        metrics = (await stage.gateway.http.get("/metrics")).text
        assert 'code="invalid_request_error"' in metrics
        assert "context_length_exceeded" not in metrics


async def test_waits_are_the_providers(mongodb_uri: str) -> None:
    """`Retry-After` is what the provider said, in whole seconds, wherever it said it; else a short guess."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        for name, seconds in (
            ("429_upstream_retry_after", "1"),
            ("429_capacity_exhausted_documented", "40"),
            ("402_in_flight_budget_documented", "3"),
            ("429_free_daily", "2"),
        ):
            stage.openrouter.script.enqueue(Behaviour(error=name))
            assert (await stage.gateway.chat(key, ask(MINI))).headers["retry-after"] == seconds
        stage.huggingface.script.enqueue(Behaviour(error="429_hub_ratelimit_headers"))
        response = await stage.gateway.chat(key, ask(f"huggingface/{OSS}"))
        assert response.headers["retry-after"] == "55"


async def test_an_unreachable_provider_is_503(mongodb_uri: str) -> None:
    """A provider that nobody answers at is 503 with Retry-After, and no event: it was never reached."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key()
        await stage.plain.pause()
        response = await stage.gateway.chat(key, ask(PLAIN))
        assert_openai_error(response, 503, "service_unavailable")
        assert response.headers["retry-after"] == "2"
        assert await stage.gateway.events() == []


async def test_no_answer_shows_what_only_the_operator_may_know(mongodb_uri: str) -> None:
    """Keys and addresses that a provider puts into its errors never reach the client, in bodies or in streams."""
    async with staged(mongodb_uri, provider_keys={"plain": (SECRET,)}) as stage:
        key = await stage.gateway.key()
        place = stage.plain.base_url
        leak = f"key {SECRET} at {place}/chat/completions ({place.removeprefix('http://')}), Bearer {SECRET}, hf_abcdefgh"
        for status in (400, 403, 404, 422, 429, 500):
            failures: tuple[Any, ...] = (
                {"error": {"message": leak, "type": leak, "param": leak, "code": leak}},
                {"error": leak},
                {"detail": [{"loc": ["body", SECRET], "msg": leak}]},
                leak,
            )
            for body in failures:
                stage.plain.script.enqueue(Behaviour(error=Failure(status, body, {"x-leak": SECRET})))
                response = await stage.gateway.chat(key, ask(PLAIN))
                assert response.status_code >= 400
                assert_clean(response, place)
        for after in (0, 2):
            error = Failure(500, {"error": {"message": leak, "code": leak}})
            stage.plain.script.enqueue(Behaviour(error=error, error_after=after))
            response = await stage.gateway.chat(key, ask(PLAIN, stream=True))
            assert "error" in response.text
            assert_clean(response, place)


def assert_clean(response: httpx.Response, place: str) -> None:
    shown = response.text + str(response.headers)
    for secret in (SECRET, *KEYS["openrouter"], place, place.split("/")[2], "hf_abcdefgh", "Traceback"):
        assert secret not in shown, shown


async def test_what_the_caller_may_not(mongodb_uri: str) -> None:
    """The caller's own errors: key 401, role 403, unknown model 404, a bad body 400, a used-up limit 429."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key()
        assert_openai_error(await stage.gateway.chat("nonsense", ask(FREE)), 401, "invalid_api_key")
        error = assert_openai_error(await stage.gateway.chat(key, ask(MINI)), 403, "model_not_allowed")
        assert (error["type"], error["param"]) == ("permission_error", "model")
        assert_openai_error(await stage.gateway.chat(key, ask("no/such")), 404, "model_not_found")
        error = assert_openai_error(await stage.gateway.chat(key, {"model": FREE}), 400, None)
        assert (error["type"], error["param"]) == ("invalid_request_error", "messages")
        spent = await stage.gateway.user(usageLimits={"dailyRequests": 0})
        response = await stage.gateway.chat(await stage.gateway.key(spent), ask(FREE))
        error = assert_openai_error(response, 429, "rate_limit_exceeded")
        assert error["type"] == "rate_limit_error"
        assert response.headers["x-should-retry"] == "false"
        assert not stage.openrouter.books


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_error_renders_on_both_surfaces(kind: type[GatewayError]) -> None:
    """Every class of error has a status, and the fields of both bodies."""
    error = kind("It is so.", details={"provider": "x"})
    assert 400 <= error.status < 600
    body = openai_body(error)["error"]
    assert body == {"message": "It is so.", "type": kind.type, "param": None, "code": kind.code}
    shown = envelope(error, now=datetime(2026, 11, 23, tzinfo=UTC))
    status = kind.api_status or kind.status
    assert shown == {
        "status": "fail" if status < 500 else "error",
        "message": "It is so.",
        "code": kind.api_code,
        "timestamp": "2026-11-23T00:00:00.000Z",
        "provider": "x",
    }
    assert kind.api_code


def test_headers_say_when_to_try_again() -> None:
    """Waits are whole seconds, rounded up and at least one; a 401 names its scheme."""
    assert RateLimited("x", retry_after=0.2).headers() == {"retry-after": "1"}
    assert RateLimited("x", retry_after=2.01, should_retry=False).headers() == {
        "retry-after": "3",
        "x-should-retry": "false",
    }
    assert RateLimited("x").headers() == {}
    assert Unauthenticated("x").headers() == {"www-authenticate": "Bearer"}
