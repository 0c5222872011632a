"""Tests of proxy/handlers/chat.py."""

from __future__ import annotations

from tests.gateway import running_gateway


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
