"""Tests of admin_api/auth/hashing.py."""

from __future__ import annotations

import asyncio

import pytest

from admin_api.auth.hashing import MOST_WAITING, PasswordHasher
from proxy.errors import Unavailable
from tests.admin_api.playground import FREE, playground
from tests.gateway import PASSWORD
from tests.upstreams import Behaviour

pytestmark = pytest.mark.usefixtures("production_passwords")

PIECES = 40


async def test_fifty_sign_ins_do_not_stop_a_stream(mongodb_uri: str) -> None:
    """A stream that runs while fifty passwords are checked flows on: it ends before a quarter of them are done."""
    limits = {"auth": {"requests": 1000}, "account": {"requests": 1000}}
    async with playground(mongodb_uri, rate_limits=limits) as place:
        gateway = place.gateway
        key = await gateway.key()
        place.openrouter.script.enqueue(Behaviour(pieces=PIECES, delay_between=0.02))
        body = {"model": FREE, "messages": [{"role": "user", "content": "hello"}], "stream": True}
        done = 0

        async def sign_in() -> None:
            nonlocal done
            attempt = {"email": "nobody@example.com", "password": PASSWORD}
            response = await gateway.http.post("/api/auth/login", json=attempt)
            assert response.status_code == 401
            done += 1

        seen: list[int] = []
        headers = {"authorization": f"Bearer {key}"}
        sign_ins: list[asyncio.Task[None]] = []
        async with gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as stream:
            assert stream.status_code == 200
            async for line in stream.aiter_lines():
                if not sign_ins:
                    sign_ins = [asyncio.create_task(sign_in()) for _ in range(50)]
                if line.startswith("data:"):
                    seen.append(done)
        finished = done
        for task in sign_ins:
            task.cancel()
        await asyncio.gather(*sign_ins, return_exceptions=True)
        assert len(seen) >= PIECES
        assert finished < 50 / 4
        assert len(sign_ins) == 50


async def test_too_many_sign_ins_are_told_to_come_again() -> None:
    """The queue before the threads is bounded; who has come too late learns when to come again."""
    hasher = PasswordHasher()
    try:
        waiting = [asyncio.create_task(hasher.hash(PASSWORD)) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable) as raised:
            await hasher.verify(PASSWORD, None)
        assert raised.value.headers()["retry-after"] == "5"
        for task in waiting[2:]:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        matches, better = await hasher.verify(PASSWORD, await hasher.hash(PASSWORD))
        assert (matches, better) == (True, None)
    finally:
        hasher.close()
