"""Tests of proxy/handlers/errors.py: whatever is wrong with a request, the answer is one error body, and never a 500."""

from __future__ import annotations

import gzip
import json
from typing import Any

from tests.gateway import RunningGateway, running_gateway
from tests.proxy.stage import FREE, ask, staged
from tests.proxy.test_errors import assert_openai_error

CHAT = "/v1/chat/completions"
HELLO: list[Any] = [{"role": "user", "content": "hi"}]


def nested(depth: int) -> bytes:
    """Write a body with one field that is nested that deep."""
    return b'{"model":"demo/echo","messages":[{"role":"user","content":"hi"}],"x":%b1%b}' % (
        b"[" * depth,
        b"]" * depth,
    )


def bodies(**fields: Any) -> bytes:
    return json.dumps({"model": "demo/echo", "messages": HELLO, **fields}).encode()


NOT_JSON = {
    "empty": b"",
    "blank": b"   ",
    "cut": b'{"model": "demo/echo", "messages": [',
    "words": b"hello",
    "not a number": b'{"model":"demo/echo","messages":[],"temperature":NaN}',
    "infinity": b'{"model":"demo/echo","messages":[],"temperature":1e999}',
    "not utf-8": b'{"model":"\xff"}',
    "half a character": rb'{"model":"demo/echo","messages":[{"role":"user","content":"\ud83d"}]}',
    "twice": b"{}{}",
    "a comment": b'{"model":"demo/echo"} // why',
    "an array": b"[]",
    "a string": b'"demo/echo"',
    "null": b"null",
    "a hundred thousand levels": nested(100_000),
    "a thousand levels": nested(1_000),
    "too many parts": b'{"model":"demo/echo","messages":[{"role":"user","content":['
    + b"{}," * 100_000
    + b"{}]}]}",
    "three hundred levels": nested(300),
    "deep objects": b'{"model":"demo/echo","messages":[{"role":"user","content":"hi","x":'
    + b'{"a":' * 300
    + b"1"
    + b"}" * 301
    + b"]}",
}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": None}, "model"),
    "model is a number": ({"model": 5}, "model"),
    "model is empty": ({"model": ""}, "model"),
    "model is endless": ({"model": "x" * 257}, "model"),
    "model is a query": ({"model": {"$ne": None}}, "model"),
    "no messages": ({"messages": None}, "messages"),
    "messages is empty": ({"messages": []}, "messages"),
    "messages is text": ({"messages": "hi"}, "messages"),
    "a message is text": ({"messages": ["hi"]}, "messages[0]"),
    "a message has no role": ({"messages": [*HELLO, {"content": "hi"}]}, "messages[1]"),
    "a role is a number": ({"messages": [{"role": 1, "content": "hi"}]}, "messages[0]"),
    "content is a number": ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    "content is an object": ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content"),
    "stream is a word": ({"stream": "true"}, "stream"),
    "stream is a number": ({"stream": 1}, "stream"),
    "n is zero": ({"n": 0}, "n"),
    "n is negative": ({"n": -1}, "n"),
    "n is huge": ({"n": 10**9}, "n"),
    "n is beyond 64 bits": ({"n": 10**30}, "n"),
    "n is a fraction": ({"n": 1.5}, "n"),
    "n is true": ({"n": True}, "n"),
    "max_tokens is zero": ({"max_tokens": 0}, "max_tokens"),
    "max_tokens is negative": ({"max_tokens": -5}, "max_tokens"),
    "max_tokens is a word": ({"max_tokens": "many"}, "max_tokens"),
    "max_completion_tokens is huge": ({"max_completion_tokens": 10**10}, "max_completion_tokens"),
    "the caps disagree": ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    "models is a word": ({"models": "a"}, "models"),
    "models has a number": ({"models": [1]}, "models"),
    "models is endless": ({"models": ["demo/echo"] * 17}, "models"),
    "stream_options is a list": ({"stream": True, "stream_options": []}, "stream_options"),
    "stream_options without stream": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "include_usage is a word": (
        {"stream": True, "stream_options": {"include_usage": "yes"}},
        "include_usage",
    ),
}


async def test_a_bad_body_is_400_and_names_the_field(mongodb_uri: str) -> None:
    """Bad JSON, and missing or wrong-typed fields, are 400s that name the field; nothing is recorded or broken."""
    async with running_gateway(mongodb_uri) as gateway:
        key = await gateway.key()
        for name, raw in NOT_JSON.items():
            error = assert_openai_error(await gateway.chat(key, raw), 400, None)
            assert error["type"] == "invalid_request_error", name
        for name, (fields, param) in WRONG.items():
            error = assert_openai_error(await gateway.chat(key, bodies(**fields)), 400, None)
            assert error["param"] == param, name
            assert param in error["message"], name
        assert await gateway.events() == []
        assert (await gateway.chat(key, bodies(n=2))).status_code == 200


async def test_strange_bodies_that_are_right(mongodb_uri: str) -> None:
    """Duplicate keys count as the last one, and odd values of fields that we do not read are no business of ours."""
    async with running_gateway(mongodb_uri) as gateway:
        key = await gateway.key()
        twice = b'{"model":"nobody/knows","model":"demo/echo","messages":[{"role":"user","content":"hi"}]}'
        assert (await gateway.chat(key, twice)).json()["model"] == "demo/echo"
        harmless: tuple[dict[str, Any], ...] = (
            {"x": None},
            {"temperature": "hot"},
            {"service_tier": ["auto"]},
            {"plugins": []},
            {"models": []},
            {"stream_options": None, "max_tokens": None, "n": None, "stream": None},
            {"messages": [{"role": "user", "content": [1, None, {"type": ["a"]}, {"type": {}}, {}, "text"]}]},
            {"messages": [{"role": "assistant", "content": None, "tool_calls": 7}, *HELLO]},
        )
        for fields in harmless:
            assert (await gateway.chat(key, bodies(**fields))).status_code == 200, fields
        assert (await gateway.chat(key, nested(100))).status_code == 200
        doubtful: tuple[dict[str, Any], ...] = (
            {"tools": "none"},
            {"tools": [1, None]},
            {"n": 128},
            {"response_format": 5},
        )
        for fields in doubtful:
            assert (await gateway.chat(key, bodies(**fields))).status_code in (200, 400), fields


async def test_an_encoded_body_is_415(mongodb_uri: str) -> None:
    """A body in an encoding that we do not read is 415, not 400, on both surfaces; `identity` is none."""
    async with running_gateway(mongodb_uri) as gateway:
        key = await gateway.key()
        for encoding in ("gzip", "deflate", "br", "zstd", "gzip, identity", "x"):
            headers = {"content-encoding": encoding}
            response = await gateway.chat(key, gzip.compress(bodies()), headers=headers)
            assert_openai_error(response, 415, "unsupported_media_type")
            response = await gateway.http.post("/api/auth/login", content=b"x", headers=headers)
            assert (response.status_code, response.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
        plain = await gateway.chat(key, bodies(), headers={"content-encoding": "Identity"})
        assert plain.status_code == 200


async def test_urls_and_methods(mongodb_uri: str) -> None:
    """An unknown URL is 404 and a wrong method 405, in the shape of the surface that it lies under."""
    async with running_gateway(mongodb_uri) as gateway:
        for path in ("/v1", "/v1/", "/v1/nothing", "/v1/chat", "/v1/completions", "/v1/chat/completions/x"):
            assert_openai_error(await gateway.http.get(path), 404, "unknown_url")
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            response = await gateway.http.request(method, CHAT)
            assert_openai_error(response, 405, "method_not_allowed")
            assert "POST" in response.headers["allow"]
        for path in ("/v1/models/a/b", "/api/user/api-keys/0", "/api/models/x", "/health"):
            response = await gateway.http.request("TRACE", path)
            allowed = response.headers["allow"].split(", ")
            assert (response.status_code, "TRACE" in allowed, "OPTIONS" in allowed) == (405, False, True)
            assert ("GET" in allowed) == ("api-keys" not in path)
        for path in ("/api", "/api/nothing", "/nothing", "/.env", "/v2/chat/completions"):
            response = await gateway.http.get(path)
            assert response.status_code == 404
            assert {name: response.json()[name] for name in ("status", "code")} == {
                "status": "fail",
                "code": "NOT_FOUND",
            }


async def test_a_body_that_is_too_large_is_413(mongodb_uri: str) -> None:
    """A body over the limit is refused, whether it says its length or comes in chunks."""
    async with running_gateway(mongodb_uri, limits={"chat_body_bytes": 100_000}) as gateway:
        key = await gateway.key()
        raw = bodies(x="x" * 200_000)
        assert_too_large(await gateway.chat(key, raw))

        async def pieces() -> Any:
            for at in range(0, len(raw), 10_000):
                yield raw[at : at + 10_000]

        headers = {"authorization": f"Bearer {key}"}
        assert_too_large(await gateway.http.post(CHAT, content=pieces(), headers=headers))
        assert (await gateway.chat(key, bodies(x="x" * 90_000))).status_code == 200


def assert_too_large(response: Any) -> None:
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


async def test_a_defect_of_ours_shows_nothing_and_holds_nothing(mongodb_uri: str) -> None:
    """An unforeseen exception is 500 with the request's id and no more, and gives back what was held."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user()
        key = await stage.gateway.key(user)
        endpoint = stage.gateway.parts.relay.endpoints.pop("openrouter")
        response = await stage.gateway.chat(key, ask(FREE))
        error = assert_openai_error(response, 500, "internal_error")
        assert response.headers["x-request-id"] in error["message"]
        assert not {"Traceback", "KeyError", "openrouter", ".py"} & set(error["message"].split())
        stage.gateway.parts.relay.endpoints["openrouter"] = endpoint
        assert (await stage.gateway.chat(key, ask(FREE))).status_code == 200
        await stage.event()
        await assert_nothing_is_held(stage.gateway, str(user.id))


async def assert_nothing_is_held(gateway: RunningGateway, user_id: str) -> None:
    account = await gateway.parts.database["accounts"].find_one({"_id": user_id}) or {}
    assert account.get("h", []) == []
