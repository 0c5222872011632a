"""Addresses that callers give are data: they reach the provider as they are, and nobody here fetches them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from proxy.core.routing import Role
from tests.admin_api.playground import playground
from tests.proxy.stage import MINI, staged


@asynccontextmanager
async def trap() -> AsyncIterator[tuple[str, list[object]]]:
    """Listen on a socket for a while, and remember who connects."""
    visitors: list[object] = []

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visitors.append(writer.get_extra_info("peername"))
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/secret.png", visitors


def bodies(url: str) -> dict[str, dict[str, Any]]:
    """Write a request of each API with an address wherever one may stand."""
    text = {"type": "text", "text": "What is this?"}
    image = {"type": "image_url", "image_url": {"url": url}}
    return {
        "chat/completions": {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        text,
                        image,
                        {"type": "file", "file": {"filename": "a.pdf", "file_data": url}},
                        {"type": "video_url", "video_url": {"url": url}},
                    ],
                }
            ]
        },
        "embeddings": {"input": [{"content": [text, image]}]},
        "responses": {
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_image", "image_url": url},
                        {"type": "input_file", "file_url": url},
                    ],
                }
            ]
        },
        "messages": {
            "max_tokens": 50,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "source": {"type": "url", "url": url}},
                        {"type": "document", "source": {"type": "url", "url": url}},
                    ],
                }
            ],
        },
    }


@pytest.mark.parametrize("api", bodies(""))
async def test_no_address_is_fetched(mongodb_uri: str, api: str) -> None:
    """Pictures, files, videos and documents: each address is in the provider's request, and nobody has knocked at it."""
    async with staged(mongodb_uri) as stage, trap() as (url, visitors):
        headers = {"authorization": f"Bearer {await stage.gateway.key(role=Role.PREMIUM)}"}
        body = bodies(url)[api]
        asked = {"model": MINI, **body}
        response = await stage.gateway.http.post(f"/v1/{api}", headers=headers, json=asked)
        assert response.status_code == 200, response.text
        await stage.event()
        sent = stage.openrouter.books[0].body
        assert {name: sent[name] for name in body} == body
        assert orjson.dumps(sent).count(url.encode()) == orjson.dumps(body).count(url.encode()) > 0
        assert visitors == []


async def test_no_address_of_an_attachment_is_fetched(mongodb_uri: str) -> None:
    """A picture's address in the playground goes to the provider, and is neither fetched when sent nor when shown."""
    async with playground(mongodb_uri) as place, trap() as (url, visitors):
        person = await place.person(Role.PREMIUM)
        attachments = [{"type": "image", "url": url}]
        response = await person.say("What is this?", MINI, attachments=attachments)
        assert response.status_code == 200, response.text
        session = response.json()["data"]["session"]["_id"]
        assert (await person.get(f"/api/chat/sessions/{session}")).status_code == 200
        assert url in place.openrouter.books[-1].raw_body.decode()
        assert visitors == []
