"""The APIs besides chat, through real SDKs and real sockets: passed through, and metered to the provider's books."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from anthropic import AsyncAnthropic

from proxy.core.routing import Role
from tests.proxy.stage import FREE, MINI, OSS, PLAIN, Stage, assert_equals_books, staged
from tests.upstreams import Behaviour

HELLO: Any = [{"role": "user", "content": "hello there, general"}]
FULL = Behaviour(reasoning="Let me think about it.", cached_tokens=3)


@asynccontextmanager
async def claude(stage: Stage, key: str, **options: Any) -> AsyncIterator[AsyncAnthropic]:
    """Return Anthropic's own client."""
    async with AsyncAnthropic(
        base_url=stage.gateway.base_url, api_key=key, **{"max_retries": 0, **options}
    ) as client:
        yield client


async def test_embeddings_by_openais_sdk(mongodb_uri: str) -> None:
    """Vectors of one text, of several and of tokens come through unchanged, and cost what the books say."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        async with stage.sdk(await stage.gateway.key(user)) as client:
            one = await client.embeddings.create(model=MINI, input="hello there")
            several = await client.embeddings.create(
                model=MINI, input=["a", "b" * 50], encoding_format="float"
            )
            plain = await client.embeddings.create(model=PLAIN, input="hello there")
        assert len(one.data[0].embedding) == 8
        assert [each.index for each in several.data] == [0, 1]
        assert plain.data[0].embedding == one.data[0].embedding
        first, second, third = await stage.events(3)
        assert_equals_books(first, stage.openrouter.books[0])
        assert_equals_books(second, stage.openrouter.books[1])
        assert first["tokens"]["completion"] == 0
        assert first["costSource"] == "provider"
        assert third["tokens"]["prompt"] == stage.plain.books[0].prompt_tokens
        await stage.assert_balanced(user)


@pytest.mark.parametrize("model", [MINI, f"huggingface/{OSS}:groq"])
async def test_responses_by_openais_sdk(mongodb_uri: str, model: str) -> None:
    """A response comes as a whole or as a stream, with usage that equals the books."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        async with stage.sdk(await stage.gateway.key(user)) as client:
            for upstream in (stage.openrouter, stage.huggingface):
                upstream.script.always(FULL)
            asked: dict[str, Any] = {
                "model": model,
                "input": "hello there, general",
                "instructions": "Be brief.",
            }
            whole = await client.responses.create(**asked)
            names, text = [], ""
            last: Any = None
            async for event in await client.responses.create(**asked, stream=True):
                names.append(event.type)
                if event.type == "response.output_text.delta":
                    text += event.delta
                last = event
        assert names[0] == "response.created"
        assert names[-1] == last.type == "response.completed"
        assert text == whole.output_text
        assert last.response.usage == whole.usage
        events = await stage.events(2)
        upstream = stage.openrouter if model == MINI else stage.huggingface
        for event, entry in zip(events, upstream.books, strict=True):
            assert_equals_books(event, entry)
            assert entry.body["store"] is False
            assert entry.reasoning_tokens > 0
            assert entry.cached_tokens == 3
        await stage.assert_balanced(user)


@pytest.mark.parametrize("model", [MINI, f"huggingface/{OSS}:groq"])
async def test_messages_by_anthropics_sdk(mongodb_uri: str, model: str) -> None:
    """A message comes as a whole or as a stream, with usage that equals the books; the key is in Anthropic's header."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        async with claude(stage, await stage.gateway.key(user)) as client:
            for upstream in (stage.openrouter, stage.huggingface):
                upstream.script.always(Behaviour(cached_tokens=3, cache_write_tokens=2))
            asked: dict[str, Any] = {
                "model": model,
                "max_tokens": 900,
                "messages": HELLO,
                "system": "Be brief.",
            }
            whole = await client.messages.create(**asked)
            async with client.messages.stream(**asked) as stream:
                text = "".join([piece async for piece in stream.text_stream])
                final = await stream.get_final_message()
        assert whole._request_id is not None
        assert whole._request_id.startswith("req_")
        assert text == whole.content[-1].text
        assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", whole.usage.output_tokens)
        upstream = stage.openrouter if model == MINI else stage.huggingface
        for event, entry in zip(await stage.events(2), upstream.books, strict=True):
            assert_equals_books(event, entry)
            assert (entry.cached_tokens, entry.cache_write_tokens) == (3, 2)
            assert entry.headers["anthropic-version"] == "2023-06-01"
            assert "x-api-key" not in entry.headers
        await stage.assert_balanced(user)


PDF = "data:application/pdf;base64,JVBERi0xLjQK"
TOLD = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file", "file_data": PDF}]}
WITH_A_FILE: list[tuple[str, dict[str, Any]]] = [
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": PDF}}]}]},
    ),
    (
        "responses",
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_data": PDF}]}]},
    ),
    ("responses", {"input": [TOLD]}),
    ("responses", {"input": [{"role": "user", **TOLD}]}),
    (
        "messages",
        {
            "max_tokens": 50,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "document", "source": {"type": "url", "url": "https://a.example/b.pdf"}}
                    ],
                }
            ],
        },
    ),
]


@pytest.mark.parametrize(("path", "body"), WITH_A_FILE)
async def test_nobody_pays_for_the_reading_of_a_file(
    mongodb_uri: str, path: str, body: dict[str, Any]
) -> None:
    """OpenRouter's engine that costs money reads no file unless it is named; a model that takes files gets them as they are."""
    free = [{"id": "file-parser", "pdf": {"engine": "cloudflare-ai"}}]
    dear = [{"id": "file-parser", "pdf": {"engine": "mistral-ocr"}}]
    cases: list[tuple[Role, dict[str, Any], Any]] = [
        (Role.USER, {"model": FREE}, free),
        (Role.USER, {"model": FREE, "plugins": []}, free),
        (Role.PREMIUM, {"model": FREE, "plugins": dear}, dear),
        (Role.PREMIUM, {"model": MINI}, None),
        # OpenRouter turns to the second by itself.
        (Role.PREMIUM, {"model": MINI, "models": [FREE]}, free),
    ]
    async with staged(mongodb_uri) as stage:
        keys = {role: await stage.gateway.key(role=role) for role in (Role.USER, Role.PREMIUM)}
        for role, fields, plugins in cases:
            headers = {"authorization": f"Bearer {keys[role]}"}
            answer = await stage.gateway.http.post(f"/v1/{path}", json={**body, **fields}, headers=headers)
            assert answer.status_code == 200, answer.text
            sent = stage.openrouter.books[-1].body
            assert sent.get("plugins") == plugins, fields
            assert {name: sent[name] for name in body} == body


async def test_tools_in_every_api(mongodb_uri: str) -> None:
    """A tool that the caller offers is called in a response and in a message, streamed or not."""
    parameters = {"type": "object", "properties": {"location": {"type": "string"}}}
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        async with stage.sdk(key) as client:
            asked: dict[str, Any] = {
                "model": MINI,
                "input": "call tool",
                "tools": [{"type": "function", "name": "weather", "parameters": parameters}],
            }
            response = await client.responses.create(**asked)
            assert response.output[-1].type == "function_call"
            streamed = [event async for event in await client.responses.create(**asked, stream=True)]
            last: Any = streamed[-1]
            assert last.response.output[-1].name == "weather"
        async with claude(stage, key) as anthropics:
            message: dict[str, Any] = {
                "model": MINI,
                "max_tokens": 500,
                "messages": [{"role": "user", "content": "call tool"}],
                "tools": [{"name": "weather", "input_schema": parameters}],
            }
            assert (await anthropics.messages.create(**message)).stop_reason == "tool_use"
            async with anthropics.messages.stream(**message) as stream:
                assert (await stream.get_final_message()).content[-1].input == {"location": "Paris"}  # type: ignore[union-attr]  # a tool's
        for event, entry in zip(await stage.events(4), stage.openrouter.books, strict=True):
            assert_equals_books(event, entry)
