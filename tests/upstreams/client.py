"""A client sends a body and returns what came, broken or not; it starts the upstream and waits for its books."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.upstreams import (
    Behaviour,
    Entry,
    HuggingFace,
    OpenAICompatible,
    OpenRouter,
    SimulatedUpstream,
)
from tests.upstreams.books import PATIENCE

MINI = "openai/gpt-4o-mini"
FREE = "liquid/lfm-2.5-2.6b:free"
LLAMA = "meta-llama/llama-3.3-70b-instruct"
OSS = "openai/gpt-oss-120b"
KEYS: Mapping[type, str] = {OpenRouter: "sk-or-v1-test", HuggingFace: "hf_test", OpenAICompatible: "none"}
UPSTREAMS: list[tuple[Callable[[], SimulatedUpstream], str]] = [
    (OpenRouter, MINI),
    (HuggingFace, OSS),
    (OpenAICompatible, "gpt-4o-mini"),
]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client saw; `broken` means that the body ended before its end."""

    status: int
    headers: Mapping[str, str]
    raw: bytes
    broken: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def lines(self) -> list[str]:
        return [line for line in self.raw.decode().splitlines() if line]

    @property
    def chunks(self) -> list[Any]:
        lines = (line.removeprefix("data: ") for line in self.lines if line.startswith("data: "))
        return [json.loads(line) for line in lines if line != "[DONE]"]

    @property
    def is_done(self) -> bool:
        return bool(self.lines) and self.lines[-1] == "data: [DONE]"

    @property
    def text(self) -> str:
        deltas = (choice["delta"] for chunk in self.chunks for choice in chunk.get("choices", ()))
        return "".join(delta.get("content") or "" for delta in deltas)


def chat(model: str = MINI, text: str = "Good morning", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


async def post(
    client: aiohttp.ClientSession,
    upstream: SimulatedUpstream,
    body: Any,
    *,
    path: str = "/chat/completions",
    key: str | None = "",
) -> Reply:
    token = KEYS[type(upstream)] if key == "" else key
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    raw = b""
    async with client.post(upstream.base_url + path, json=body, headers=headers) as answer:
        try:
            async for part in answer.content.iter_any():
                raw += part
        except aiohttp.ClientError:
            return Reply(answer.status, answer.headers, raw, broken=True)
        return Reply(answer.status, answer.headers, raw)


def run(coroutine: Any) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(PATIENCE):
            return await coroutine

    return asyncio.run(bounded())


def ask(
    upstream: SimulatedUpstream, *bodies: Any, behaviour: Behaviour | None = None, **options: Any
) -> list[Reply]:
    """Start the upstream, send every body, wait until its books are closed."""

    async def talk() -> list[Reply]:
        if behaviour:
            upstream.script.always(behaviour)
        session = aiohttp.ClientSession(auto_decompress=False, max_line_size=1 << 20, max_field_size=1 << 20)
        async with upstream, session as client:
            replies = [await post(client, upstream, body, **options) for body in bodies]
            await upstream.idle()
            return replies

    replies: list[Reply] = run(talk())
    return replies


def get(upstream: SimulatedUpstream, *paths: str, key: str | None = None) -> list[Reply]:
    async def talk() -> list[Reply]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with upstream, aiohttp.ClientSession() as client:
            replies = []
            for path in paths:
                async with client.get(upstream.base_url + path, headers=headers) as answer:
                    replies.append(Reply(answer.status, answer.headers, await answer.read()))
            return replies

    replies: list[Reply] = run(talk())
    return replies


def leave(
    upstream: SimulatedUpstream, body: dict[str, Any], behaviour: Behaviour, when: Callable[[Entry], bool]
) -> Entry:
    """Hang up as soon as the claim about the entry holds, and return what the books say then."""

    async def talk() -> Entry:
        upstream.script.always(behaviour)
        async with upstream, aiohttp.ClientSession() as client:
            waiting = asyncio.ensure_future(post(client, upstream, body))
            await upstream.books.until(lambda books: any(map(when, books)))
            waiting.cancel()
            await asyncio.wait([waiting])
            await upstream.idle()
            return upstream.books[0]

    entry: Entry = run(talk())
    return entry
