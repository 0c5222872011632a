"""Tests of proxy/handlers/chat.py: OpenAI's own clients, through the gateway, at every kind of provider."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from proxy.core.routing import Role
from tests.gateway import running_gateway
from tests.proxy.stage import FREE, MINI, OSS, PLAIN, Stage, ask, assert_equals_books, staged
from tests.upstreams import Behaviour, SimulatedUpstream, echo

PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
        },
    }
]
MODELS = [("openrouter", MINI), ("huggingface", f"huggingface/{OSS}"), ("plain", PLAIN)]


def books_of(stage: Stage, provider: str) -> Any:
    upstream: SimulatedUpstream = getattr(stage, provider)
    return upstream.books


async def test_demo_answers(mongodb_uri: str) -> None:
    """Without a provider, demo/echo answers in OpenAI's shape and its tokens are recorded."""
    async with running_gateway(mongodb_uri) as gateway:
        key = await gateway.key()
        body = {"model": "demo/echo", "messages": [{"role": "user", "content": "hello there"}]}
        response = await gateway.chat(key, body)
        assert response.status_code == 200
        assert response.json()["choices"][0]["message"]["content"] == "hello there"
        (event,) = await gateway.events()
        assert event["tokens"]["prompt"] == response.json()["usage"]["prompt_tokens"]
        assert event["outcome"] == "completed"


@pytest.mark.parametrize(("provider", "model"), MODELS)
async def test_the_async_client_gets_its_answer(mongodb_uri: str, provider: str, model: str) -> None:
    """AsyncOpenAI gets text, tool calls, pictures and JSON, streamed or not, and each call has its own event."""
    async with staged(mongodb_uri) as stage:
        async with stage.sdk(await stage.gateway.key(role=Role.PREMIUM)) as client:
            create: Any = client.chat.completions.create
            whole = await create(**ask(model))
            assert whole.choices[0].message.content == echo("hello there")
            assert whole.usage.prompt_tokens == books_of(stage, provider)[-1].prompt_tokens
            text = ""
            usage: Any = None
            async for chunk in await create(
                **ask(model, stream=True, stream_options={"include_usage": True})
            ):
                text += chunk.choices[0].delta.content or "" if chunk.choices else ""
                usage = chunk.usage or usage
            assert text == echo("hello there")
            assert usage.completion_tokens == books_of(stage, provider)[-1].completion_tokens
            forced = {"type": "function", "function": {"name": "get_weather"}}
            called = await create(**ask(model, tools=TOOLS, tool_choice=forced))
            (call,) = called.choices[0].message.tool_calls
            assert (call.function.name, json.loads(call.function.arguments)) == (
                "get_weather",
                {"location": "Paris"},
            )
            streamed = ""
            async for chunk in await create(**ask(model, tools=TOOLS, tool_choice="required", stream=True)):
                assert chunk.usage is None
                for delta in chunk.choices[0].delta.tool_calls or ():
                    streamed += delta.function.arguments or ""
            assert json.loads(streamed) == {"location": "Paris"}
            parts = [
                {"type": "text", "text": "what is this"},
                {"type": "image_url", "image_url": {"url": PIXEL}},
            ]
            seen = await create(model=model, messages=[{"role": "user", "content": parts}])
            assert seen.choices[0].message.content == echo("what is this")
            shaped = await create(**ask(model, response_format={"type": "json_object"}))
            assert json.loads(shaped.choices[0].message.content) == {"answer": echo("hello there")}
        events = await stage.events(6)
        for event, entry in zip(events, books_of(stage, provider), strict=True):
            assert event["outcome"] == "completed"
            assert (event["provider"], event["tokens"]["prompt"], event["tokens"]["completion"]) == (
                provider,
                entry.prompt_tokens,
                entry.completion_tokens,
            )
            if provider != "plain":
                assert_equals_books(event, entry)


@pytest.mark.parametrize(("provider", "model"), MODELS)
async def test_the_blocking_client_gets_its_answer(mongodb_uri: str, provider: str, model: str) -> None:
    """OpenAI's blocking client gets its answers too, with the rarer parameters, streamed and not."""

    def talk(client: Any) -> None:
        with client:
            create = client.chat.completions.create
            whole = create(**ask(model, n=2, logprobs=True, seed=7, stop=["there"]))
            assert len(whole.choices) == 2
            assert whole.choices[0].message.content == "You said: hello "
            assert whole.choices[0].logprobs.content[0].logprob == -0.25
            by_choice = {0: "", 1: ""}
            for chunk in create(**ask(model, n=2, stream=True)):
                for choice in chunk.choices:
                    by_choice[choice.index] += choice.delta.content or ""
            assert by_choice == {0: echo("hello there"), 1: f"{echo('hello there')} (1)"}

    async with staged(mongodb_uri) as stage:
        await asyncio.to_thread(talk, stage.blocking_sdk(await stage.gateway.key(role=Role.PREMIUM)))
        events = await stage.events(2)
        entries = books_of(stage, provider)
        assert [event["tokens"]["completion"] for event in events] == [
            each.completion_tokens for each in entries
        ]


async def test_what_we_do_not_understand_passes_untouched(mongodb_uri: str) -> None:
    """Fields known to OpenAI, to OpenRouter or to nobody reach the provider as they were sent."""
    fields = {
        "temperature": 0.1,
        "top_p": 1,
        "seed": 2**53,
        "stop": ["a", "b"],
        "logit_bias": {"50256": -100},
        "frequency_penalty": -0.5,
        "user": "u",
        "metadata": {"a": "b"},
        "provider": {"order": ["openai"], "sort": "price", "data_collection": "deny"},
        "reasoning": {"effort": "low"},
        "top_k": 3,
        "min_p": 0.05,
        "transforms": [],
        "session_id": "s",
        "parallel_tool_calls": False,
        "x_unknown": {"deep": [1, 2.5, None, True, "ü\u2028"]},
        "models": [MINI, "openai/gpt-4o"],
    }
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        response = await stage.gateway.chat(key, ask(MINI, max_tokens=77, **fields))
        assert response.status_code == 200, response.text
        body = stage.openrouter.books[-1].body
        assert {name: body[name] for name in fields} == fields
        assert body["messages"] == ask(MINI)["messages"]
        assert (body["max_tokens"], body["model"], body["stream"]) == (77, MINI, False)
        headers = stage.openrouter.books[-1].headers
        assert headers["authorization"] == "Bearer sk-or-v1-canary"
        assert not [value for value in headers.values() if key in value]


async def test_headers_of_the_client_stay_here(mongodb_uri: str) -> None:
    """Nothing but the body goes on: no cookie, no forwarded address, no billing header of the client's."""
    sent = {
        "cookie": "a=b",
        "x-forwarded-for": "1.2.3.4",
        "x-hf-bill-to": "someone-else",
        "x-openrouter-cache": "true",
        "user-agent": "spy",
        "referer": "https://client.example",
        "te": "trailers",
    }
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        assert (await stage.gateway.chat(key, ask(MINI), headers=sent)).status_code == 200
        assert (await stage.gateway.chat(key, ask(f"huggingface/{OSS}"), headers=sent)).status_code == 200
        for upstream in (stage.openrouter, stage.huggingface):
            assert not set(upstream.books[-1].headers) & set(sent)


async def test_an_answer_says_who_gave_it(mongodb_uri: str) -> None:
    """Both kinds of answer carry our request id, the provider and the output cap that was set for the caller."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key()
        for stream in (False, True):
            response = await stage.gateway.chat(key, ask(FREE, stream=stream))
            assert response.headers["x-aipasta-provider"] == "openrouter"
            assert response.headers["x-aipasta-max-tokens"] == "4096"
            assert response.headers["x-request-id"].startswith("req_")
            assert stage.openrouter.books[-1].body["max_tokens"] == 4096
        response = await stage.gateway.chat(key, ask(FREE, stream=True))
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache, no-transform"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.text.endswith("data: [DONE]\n\n")
        capped = await stage.gateway.chat(key, ask(FREE, max_tokens=20))
        assert "x-aipasta-max-tokens" not in capped.headers
        (event, *_) = await stage.events(4)
        assert event["_id"].startswith("req_")


async def test_the_cap_travels_in_the_field_that_the_provider_knows(mongodb_uri: str) -> None:
    """`max_completion_tokens` stays what it is at OpenRouter and becomes `max_tokens` at Hugging Face."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        assert (await stage.gateway.chat(key, ask(MINI, max_completion_tokens=33))).status_code == 200
        body = stage.openrouter.books[-1].body
        assert body["max_completion_tokens"] == 33
        assert "max_tokens" not in body
        asked = ask(f"huggingface/{OSS}", max_completion_tokens=33)
        assert (await stage.gateway.chat(key, asked)).status_code == 200
        body = stage.huggingface.books[-1].body
        assert body["max_tokens"] == 33
        assert "max_completion_tokens" not in body


async def test_usage_is_shown_to_whoever_asked(mongodb_uri: str) -> None:
    """Upstream is always asked for usage; the client sees one usage chunk if it asked, in either spelling, else none."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key()
        for wish, shown in (
            ({}, 0),
            ({"stream_options": {"include_usage": False}}, 0),
            ({"stream_options": {"include_usage": True}}, 1),
            ({"usage": {"include": True}}, 1),
        ):
            stage.openrouter.script.enqueue(Behaviour(text="abc"))
            response = await stage.gateway.chat(key, ask(FREE, stream=True, **wish))
            chunks = [
                json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")
            ]
            with_usage = [chunk for chunk in chunks if chunk.get("usage")]
            assert len(with_usage) == shown
            assert all(chunk["choices"] == [] for chunk in with_usage)
            assert stage.openrouter.books[-1].body["stream_options"]["include_usage"] is True
