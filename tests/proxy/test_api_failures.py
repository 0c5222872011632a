"""The APIs besides chat when something is wrong: refused before a provider is asked, and never ended as if all were well."""

from __future__ import annotations

import json
from typing import Any, Literal

import anthropic
import httpx
import openai
import pytest

from proxy.core.routing import Role
from tests.proxy.stage import FREE, MINI, OSS, PLAIN, Stage, assert_equals_books, staged
from tests.proxy.test_apis import claude
from tests.upstreams import Behaviour, Failure

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello there, general"}]
RIGHT: dict[str, dict[str, Any]] = {
    "embeddings": {"input": "hello there"},
    "responses": {"input": "hello there, general"},
    "messages": {"messages": HELLO, "max_tokens": 900},
}
STREAMING = ("responses", "messages")
LAST = {"responses": "response.completed", "messages": "message_stop"}

WRONG: dict[str, list[tuple[dict[str, Any], str]]] = {
    "embeddings": [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": {"text": "x"}}, "input"),
        ({"input": ["a", None]}, "input[1]"),
        ({"input": [[1, 2], [True]]}, "input[1]"),
        ({"input": ["a", []]}, "input[1]"),
        ({"input": ["x"] * 2049}, "input"),
        ({"stream": True}, "stream"),
        ({"models": "a"}, "models"),
    ],
    "responses": [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["hi"]}, "input[0]"),
        ({"input": [{"content": "hi"}]}, "input[0]"),
        ({"input": [{"type": 1}]}, "input[0]"),
        ({"input": [{"role": "user", "content": 1}]}, "input[0].content"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"instructions": 5}, "instructions"),
        ({"tools": {}}, "tools"),
        ({"stream": "true"}, "stream"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": "many"}, "max_output_tokens"),
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"models": [1]}, "models"),
    ],
    "messages": [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"system": 5}, "system"),
        ({"tools": "all"}, "tools"),
        ({"stream": 1}, "stream"),
        ({"models": [""]}, "models"),
    ],
}
ANYWHERE: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": 5}, "model"),
    ({"model": ""}, "model"),
]
EXTRAS: dict[str, list[dict[str, Any]]] = {
    "embeddings": [{"plugins": [{"id": "web"}]}, {"model": f"{FREE}:online"}],
    "responses": [
        {"tools": [{"type": "web_search"}]},
        {"plugins": [{"id": "web"}]},
        {"preset": "mine"},
        {"service_tier": "priority"},
    ],
    "messages": [
        {"tools": [{"type": "web_search_20260209", "name": "web_search"}]},
        {"mcp_servers": [{"url": "https://example.com"}]},
        {"plugins": [{"id": "web"}]},
        {"speed": "fast"},
    ],
}


async def post(stage: Stage, key: str, api: str, model: Any = MINI, /, **fields: Any) -> httpx.Response:
    """Ask an API for something that is right but for `fields`."""
    body = {"model": model, **RIGHT[api], **fields}
    return await stage.gateway.http.post(f"/v1/{api}", json=body, headers={"authorization": f"Bearer {key}"})


def assert_error(response: httpx.Response, api: str, status: int) -> dict[str, Any]:
    """Check that an answer is an error in its API's shape, and return the error object."""
    assert response.status_code == status, response.text
    body = response.json()
    error: dict[str, Any] = body["error"]
    if api == "messages":
        assert body == {"type": "error", "error": error, "request_id": response.headers["request-id"]}
        assert error.keys() == {"type", "message"}
    else:
        assert body == {"error": error}
        assert error.keys() == {"message", "type", "param", "code"}
    return error


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """Parse a stream whose events have names, and check that each name is its data's."""
    assert response.status_code == 200, response.text
    blocks = [block.split("\n") for block in response.text.strip().split("\n\n") if not block.startswith(":")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    assert [name for name, _ in blocks] == [f"event: {event['type']}" for event in events]
    return events


@pytest.mark.parametrize("api", RIGHT)
async def test_a_bad_body_names_the_field(mongodb_uri: str, api: str) -> None:
    """Missing and wrong-typed fields, and what cannot be routed or billed, are 400s; no provider hears of them."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        for fields, param in (*ANYWHERE, *WRONG[api]):
            error = assert_error(await post(stage, key, api, **fields), api, 400)
            assert error["type"] == "invalid_request_error"
            assert f"`{param}" in error["message"], fields
            assert error.get("param", param) == param
        for raw in (b"", b"[]", b"{", b'{"model":"\xff"}', b"null"):
            response = await stage.gateway.http.post(
                f"/v1/{api}", content=raw, headers={"authorization": f"Bearer {key}"}
            )
            assert_error(response, api, 400)
        assert len(stage.openrouter.books) == 0
        assert await stage.gateway.events() == []
        assert (await post(stage, key, api)).status_code == 200


@pytest.mark.parametrize("api", RIGHT)
async def test_whoever_may_not_is_refused(mongodb_uri: str, api: str) -> None:
    """No key, a wrong one, a paid model or extra, another model than allowed, and a model that nobody has."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key()
        assert_error(await stage.gateway.http.post(f"/v1/{api}", json={}), api, 401)
        error = assert_error(await post(stage, "sk-nonsense", api), api, 401)
        assert error["type"] == "authentication_error"
        assert assert_error(await post(stage, key, api), api, 403)["type"] == "permission_error"
        assert_error(await post(stage, key, api, "nobody/knows"), api, 404)
        for fields in EXTRAS[api]:
            error = assert_error(await post(stage, key, api, FREE, **fields), api, 403)
            assert "premium" in error["message"]
        narrow = await stage.gateway.key(role=Role.PREMIUM, allowedModels=[FREE])
        assert_error(await post(stage, narrow, api), api, 403)
        # A model that may serve instead passes the same checks.
        assert_error(await post(stage, key, api, FREE, models=[MINI]), api, 403)
        assert len(stage.openrouter.books) == 0
        assert (await post(stage, key, api, FREE)).status_code == 200


async def test_a_provider_without_the_api(mongodb_uri: str) -> None:
    """Where no provider of a model has an API, the answer is a clear 400, in that API's shape."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        for api, model in (("embeddings", f"huggingface/{OSS}"), ("responses", PLAIN), ("messages", PLAIN)):
            error = assert_error(await post(stage, key, api, model), api, 400)
            assert api in error["message"]
            assert model in error["message"]
        # Where several have the model, those that have the API serve.
        response = await post(stage, key, "embeddings", OSS)
        assert response.headers["x-aipasta-provider"] == "openrouter"


@pytest.mark.parametrize("api", RIGHT)
async def test_a_budget_is_held_for_every_api(mongodb_uri: str, api: str) -> None:
    """What a key cannot afford reaches no provider; a cap is lowered to what it can, and the answer says so."""
    async with staged(mongodb_uri) as stage:
        poor = await stage.gateway.key(role=Role.PREMIUM, totalBudget="0.000001")
        error = assert_error(await post(stage, poor, api), api, 402)
        assert error["type"] == ("billing_error" if api == "messages" else "insufficient_quota")
        assert len(stage.openrouter.books) == 0
        key = await stage.gateway.key(role=Role.PREMIUM, totalBudget="0.0001")
        response = await post(stage, key, api)
        assert response.status_code == 200
        (entry,) = stage.openrouter.books
        assert entry.body["provider"]["max_price"]["prompt"] == "0.15"
        if api == "embeddings":
            assert "x-aipasta-max-tokens" not in response.headers
            assert not {"max_tokens", "max_output_tokens", "stream"} & entry.body.keys()
        else:
            lowered = int(response.headers["x-aipasta-max-tokens"])
            assert 16 <= lowered < 900
            assert entry.body["max_output_tokens" if api == "responses" else "max_tokens"] == lowered


async def test_embeddings_hold_their_prompt_alone(mongodb_uri: str) -> None:
    """A key with tokens for the texts but for no output gets its vectors, and is refused a longer text."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM, tokensPerMinute=60)
        assert (await post(stage, key, "embeddings", input="x" * 40)).status_code == 200
        assert_error(await post(stage, key, "embeddings", input="x" * 100), "embeddings", 429)
        tokens = [[1] * 5, [2] * 5]
        other = await stage.gateway.key(role=Role.PREMIUM, tokensPerMinute=60)
        assert (await post(stage, other, "embeddings", input=tokens)).status_code == 200


async def test_the_classes_of_anthropics_sdk(mongodb_uri: str) -> None:
    """Each refusal raises the class that Anthropic's own would, with its type, message and request id."""
    recorded: list[tuple[str, type[anthropic.APIStatusError], str]] = [
        ("400_missing_messages", anthropic.BadRequestError, "invalid_request_error"),
        ("404_data_policy", anthropic.NotFoundError, "not_found_error"),
        ("429_upstream_retry_after", anthropic.RateLimitError, "rate_limit_error"),
        ("402_credits_documented", anthropic.InternalServerError, "api_error"),
        ("502_documented", anthropic.InternalServerError, "api_error"),
        ("524_documented", anthropic.InternalServerError, "timeout_error"),
    ]
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        async with claude(stage, key) as client:
            for name, kind, wanted in recorded:
                stage.openrouter.script.always(Behaviour(error=name))
                for stream in (False, True):
                    with pytest.raises(kind) as caught:
                        await client.messages.create(
                            model=MINI,
                            max_tokens=100,
                            messages=HELLO,  # type: ignore[arg-type]  # plain dictionaries
                            stream=stream,
                        )
                    assert caught.value.type == wanted, name
                    assert caught.value.request_id == caught.value.body["request_id"]  # type: ignore[index]  # a dictionary
        async with claude(stage, "sk-wrong") as client:
            with pytest.raises(anthropic.AuthenticationError):
                await client.messages.create(model=MINI, max_tokens=1, messages=HELLO)  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize("api", STREAMING)
async def test_an_error_in_mid_stream_is_an_event_of_the_api(mongodb_uri: str, api: str) -> None:
    """After the first piece an error is one event in the API's own form, the last one, and the SDK raises it."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        failing = Behaviour(error="502_documented", error_after=2)
        stage.openrouter.script.always(failing)
        events = events_of(await post(stage, key, api, stream=True))
        assert LAST[api] not in {event["type"] for event in events}
        error = events[-1]
        assert error["type"] == "error"
        if api == "messages":
            assert error["error"]["type"] == "api_error"
            assert error["request_id"].startswith("req_")
            async with claude(stage, key) as client:
                with pytest.raises(anthropic.APIStatusError, match="api_error"):
                    async with client.messages.stream(model=MINI, max_tokens=900, messages=HELLO) as stream:  # type: ignore[arg-type]  # plain dictionaries
                        await stream.until_done()
        else:
            assert (error["code"], error["sequence_number"]) == ("provider_error", len(events) - 1)
            async with stage.sdk(key) as openais:
                with pytest.raises(openai.APIError) as caught:
                    async for _ in await openais.responses.create(model=MINI, input="hi you", stream=True):
                        pass
                assert caught.value.code == "provider_error"
        for event in await stage.events(2):
            assert (event["outcome"], event["estimated"], event["requests"]) == ("upstream_error", True, 1)
            assert event["tokens"]["completion"] >= 2


@pytest.mark.parametrize("api", STREAMING)
@pytest.mark.parametrize("cut", ["fin", "rst", "eof"])
async def test_a_cut_stream_is_never_a_clean_end(
    mongodb_uri: str, api: str, cut: Literal["fin", "rst", "eof"]
) -> None:
    """Wherever the provider breaks off, the client gets an error event and not the API's last one."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        for after in (2, "pieces", "finish"):
            for inside in (False, True):
                stage.openrouter.script.enqueue(Behaviour(cut=cut, cut_after=after, cut_inside=inside))
                events = events_of(await post(stage, key, api, stream=True))
                assert events[-1]["type"] == "error"
                assert LAST[api] not in {event["type"] for event in events}
        if api == "messages":
            stage.openrouter.script.enqueue(Behaviour(done=False))
            assert events_of(await post(stage, key, api, stream=True))[-1]["type"] == "error"
        stage.openrouter.script.enqueue(Behaviour())
        assert events_of(await post(stage, key, api, stream=True))[-1]["type"] == LAST[api]
        events = await stage.events(len(stage.openrouter.books))
        assert {event["outcome"] for event in events[:-1]} == {"upstream_error"}
        assert all(event["tokens"]["prompt"] > 0 for event in events)
        assert_equals_books(events[-1], stage.openrouter.books[-1])
        await stage.assert_balanced(user)


@pytest.mark.parametrize("api", RIGHT)
async def test_nonsense_is_an_error(mongodb_uri: str, api: str) -> None:
    """Whatever a provider sends in place of an answer, the client gets an error in the API's shape."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        for garbage in ("html", "empty", "bad_json", "not_utf8"):
            stage.openrouter.script.enqueue(Behaviour(garbage=garbage))
            assert_error(await post(stage, key, api), api, 502)
        for garbage in ("html", "empty", "bad_json", "json_for_stream") if api in STREAMING else ():
            stage.openrouter.script.enqueue(Behaviour(garbage=garbage))  # type: ignore[arg-type]  # a literal
            assert_error(await post(stage, key, api, stream=True), api, 502)
        stage.openrouter.script.enqueue(Behaviour(error="200_error_body"))
        assert_error(await post(stage, key, api), api, 502)


@pytest.mark.parametrize("api", RIGHT)
async def test_a_fault_of_the_callers_keeps_its_code(mongodb_uri: str, api: str) -> None:
    """Where an API's errors have a code, it is the provider's own word."""
    error = {"code": 400, "message": "Too long.", "metadata": {"error_type": "context_length_exceeded"}}
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.enqueue(Behaviour(error=Failure(400, {"error": error})))
        shown = assert_error(await post(stage, key, api), api, 400)
        assert shown["message"] == "Too long."
        assert shown.get("code") == (None if api == "messages" else "context_length_exceeded")


async def test_a_failed_response_with_status_200(mongodb_uri: str) -> None:
    """Hugging Face refuses our token with a failed response and status 200: our account's trouble, hence 502."""
    async with staged(mongodb_uri, provider_keys={"huggingface": ("wrong",)}) as stage:
        key = await stage.gateway.key()
        for stream in (False, True):
            error = assert_error(
                await post(stage, key, "responses", f"huggingface/{OSS}", stream=stream), "responses", 502
            )
            assert "account" in error["message"]
            assert "Invalid username" not in error["message"]
        assert {event["requests"] for event in await stage.events(2)} == {0}


@pytest.mark.parametrize("api", STREAMING)
async def test_a_client_that_leaves_is_metered(mongodb_uri: str, api: str) -> None:
    """A stream is read on where leaving stops no bill, and closed where its key wants that; both are recorded."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        for policy in ("auto", "cancel"):
            key = await stage.gateway.key(user, onDisconnect=policy)
            stage.openrouter.script.enqueue(Behaviour(pieces=60, delay_between=0.01))
            body = {"model": MINI, **RIGHT[api], "stream": True}
            async with stage.gateway.http.stream(
                "POST", f"/v1/{api}", json=body, headers={"authorization": f"Bearer {key}"}
            ) as response:
                async for line in response.aiter_lines():
                    if "delta" in line:
                        break
        drained, cancelled = await stage.events(2)
        assert drained["outcome"] == cancelled["outcome"] == "client_gone"
        assert_equals_books(drained, stage.openrouter.books[0])
        assert stage.openrouter.books[1].state == "client_closed"
        assert 0 < cancelled["tokens"]["completion"] < 60
        await stage.assert_balanced(user)


async def test_usage_that_is_missing_is_estimated(mongodb_uri: str) -> None:
    """Where a provider does not say what it used, the event says what was seen, and that it is an estimate."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.always(Behaviour(usage="missing", pieces=30))
        for api, stream in (
            ("embeddings", False),
            ("responses", False),
            ("responses", True),
            ("messages", True),
        ):
            assert (await post(stage, key, api, stream=stream)).status_code == 200
        events = await stage.events(4)
        for event in events:
            assert (event["outcome"], event["estimated"]) == ("completed", True)
            assert event["costUsd"].to_decimal() > 0
        assert [event["tokens"]["completion"] > 0 for event in events] == [False, True, True, True]


async def test_a_provider_past_its_cap_is_cut_off(mongodb_uri: str) -> None:
    """A provider that ignores the cap of a stream is cut off soon after it, in every API that streams."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.always(Behaviour(pieces=300, honour_max_tokens=False))
        for api, cap in (("responses", "max_output_tokens"), ("messages", "max_tokens")):
            events = events_of(await post(stage, key, api, stream=True, **{cap: 20}))
            assert events[-1]["type"] == "error"
            assert sum("delta" in event["type"] for event in events) < 30


async def test_no_route_reaches_a_provider_without_a_reservation(mongodb_uri: str) -> None:
    """Every POST of /v1 is refused to a user who has used up his requests, before any provider hears of it."""
    async with staged(mongodb_uri) as stage:
        paths = {
            f"/{route.path}"
            for route in stage.gateway.app.router.routes
            if "POST" in route.methods and str(route.path).startswith("v1/")
        }
        chat = {"messages": HELLO}
        asked = {f"/v1/{api}": body for api, body in RIGHT.items()} | {"/v1/chat/completions": chat}
        assert paths == asked.keys()
        user = await stage.gateway.user(Role.PREMIUM, usageLimits={"dailyRequests": len(paths)})
        key = await stage.gateway.key(user)
        for status in (200, 429):
            for path in sorted(paths):
                response = await stage.gateway.http.post(
                    path,
                    json={"model": MINI, **asked[path]},
                    headers={"authorization": f"Bearer {key}"},
                )
                assert response.status_code == status, path
        assert len(stage.openrouter.books) == len(paths)
        assert len(await stage.events(len(paths))) == len(paths)
        await stage.assert_balanced(user)


async def test_whatever_lies_under_messages_speaks_anthropics_errors(mongodb_uri: str) -> None:
    """Wrong methods, unknown places, encoded and huge bodies are errors in the shape that the SDK there reads."""
    async with staged(mongodb_uri, limits={"chat_body_bytes": 10_000}) as stage:
        http, headers = stage.gateway.http, {"x-api-key": await stage.gateway.key(role=Role.PREMIUM)}
        assert_error(await http.get("/v1/messages"), "messages", 405)
        assert_error(await http.post("/v1/messages/count_tokens", headers=headers), "messages", 404)
        encoded = {**headers, "content-encoding": "gzip"}
        assert_error(await http.post("/v1/messages", content=b"x", headers=encoded), "messages", 415)
        huge = await http.post("/v1/messages", content=b"x" * 20_000, headers=headers)
        assert assert_error(huge, "messages", 413)["type"] == "request_too_large"
        # Either header carries a key, and the usual one is believed first.
        body = {"model": MINI, **RIGHT["messages"]}
        assert (await http.post("/v1/messages", json=body, headers=headers)).status_code == 200
        wrong = {**headers, "authorization": "Bearer nonsense"}
        assert_error(await http.post("/v1/messages", json=body, headers=wrong), "messages", 401)
        assert_error(await http.post("/v1/embeddings", json=body, headers=headers), "embeddings", 401)
