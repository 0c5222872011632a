"""Tests of proxy/relay.py: whatever happens to an exchange, it ends as one exception or one answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx
import orjson
import pytest
from msgspec.structs import replace

from plugins import contract
from plugins.contract import FailureKind, ProviderOptions, UpstreamRequest
from plugins.openai_compatible import OpenAICompatible as Plugin
from proxy.relay import MAX_ANSWER_BYTES, Endpoint, Relay, RelayFailed, translated
from proxy.routes import Timeouts
from proxy.transport import transport_for
from tests.upstreams import Behaviour, Failure, OpenAICompatible

PATIENCE = Timeouts(connect=1, first_byte=1, idle=1, total=5)
BODY = orjson.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "stream": True})
ASK = UpstreamRequest("POST", "/chat/completions", {"Content-Type": "application/json"}, BODY)


@asynccontextmanager
async def relaying(
    upstream: OpenAICompatible,
    *,
    keys: tuple[str, ...] = (),
    base_url: str | None = None,
    timeouts: Timeouts = PATIENCE,
) -> AsyncIterator[Relay]:
    plugin = Plugin(ProviderOptions("plain"))
    transport = transport_for(plugin, lambda: datetime.now(UTC))
    relay = Relay({"plain": Endpoint(plugin, base_url or upstream.base_url, keys, timeouts, transport)})
    try:
        yield relay
    finally:
        await relay.aclose()


def _keep(pieces: list[bytes], piece: bytes) -> bool:
    """Keep a piece, and let that be enough for the moment."""
    pieces.append(piece)
    return True


async def test_keys_take_turns() -> None:
    """Several keys of one provider are used one after the other; without any there is none."""
    upstream = OpenAICompatible()
    async with upstream, relaying(upstream, keys=("a", "b", "c")) as relay:
        endpoint = relay.endpoints["plain"]
        assert [endpoint.next_key(0.0) for _ in range(5)] == ["a", "b", "c", "a", "b"]
    async with upstream, relaying(upstream) as relay:
        assert relay.endpoints["plain"].next_key(0.0) is None


async def test_secrets_are_taken_out() -> None:
    """Keys and addresses of an endpoint vanish from a text, whatever they look like."""
    upstream = OpenAICompatible()
    async with (
        upstream,
        relaying(upstream, keys=("k3y", "oth+er"), base_url="https://llm.internal:8443/v1") as relay,
    ):
        said = "k3y and oth+er at https://llm.internal:8443/v1/chat, llm.internal:8443, llm.internal"
        cleaned = relay.endpoints["plain"].without_secrets(said)
        assert not any(secret in cleaned for secret in ("k3y", "oth+er", "internal", "8443"))
        failure = contract.Failure(FailureKind.INVALID_REQUEST, said, code="bad-k3y", param="messages")
        assert relay.endpoints["plain"].cleaned(failure) == replace(failure, message=cleaned, code=None)


async def test_an_answer_is_read_piece_by_piece_or_whole() -> None:
    """Pieces come as they arrive and are counted; a whole answer is bounded."""
    upstream = OpenAICompatible()
    async with upstream, relaying(upstream) as relay:
        response = await relay.send("plain", ASK)
        pieces: list[bytes] = []
        while await response.pour(partial(_keep, pieces)):
            pass
        await response.aclose()
        await response.aclose()
        assert b"".join(pieces).endswith(b"data: [DONE]\n\n")
        assert response.headers["content-type"] == "text/event-stream"
        response = await relay.send("plain", ASK)
        with pytest.raises(RelayFailed, match="too large"):
            await response.read(100)
        await response.aclose()
        status, _, body = await relay.fetch("plain", UpstreamRequest("GET", "/models"))
        assert (status, len(body) < MAX_ANSWER_BYTES) == (200, True)


@pytest.mark.parametrize(
    ("behaviour", "kind", "reached"),
    [
        (Behaviour(delay_headers=5), FailureKind.TIMEOUT, True),
        (Behaviour(garbage="giant_header"), FailureKind.PROVIDER, True),
        (Behaviour(cut="rst", cut_after=0), FailureKind.PROVIDER, True),
        (Behaviour(cut="fin", cut_after=2), FailureKind.PROVIDER, True),
        (Behaviour(cut="rst", cut_after=2, cut_inside=True), FailureKind.PROVIDER, True),
    ],
)
async def test_every_way_to_fail_is_one_exception(
    behaviour: Behaviour, kind: FailureKind, *, reached: bool
) -> None:
    """Silence, a broken head and a broken body are `RelayFailed`, with what it was and whether it got there."""
    upstream = OpenAICompatible()
    async with upstream, relaying(upstream) as relay:
        upstream.script.enqueue(behaviour)
        with pytest.raises(RelayFailed) as caught:
            await relay.fetch("plain", ASK)
        assert (caught.value.failure.kind, caught.value.reached) == (kind, reached)


async def test_nobody_there_is_not_reached() -> None:
    """A refused connection, a name that does not exist and an address that is none never reached anybody."""
    upstream = OpenAICompatible()
    async with upstream:
        pass
    for base_url in (upstream.base_url, "http://no-such-host.invalid/v1"):
        async with relaying(upstream, base_url=base_url) as relay:
            with pytest.raises(RelayFailed) as caught:
                await relay.send("plain", ASK)
            assert (caught.value.failure.kind, caught.value.reached) == (FailureKind.UNREACHABLE, False)


async def test_a_redirect_is_not_followed() -> None:
    """A provider that redirects would get our key sent elsewhere: the answer stays a 302, which is a failure."""
    upstream = OpenAICompatible()
    async with upstream, relaying(upstream, keys=("secret",)) as relay:
        elsewhere = Failure(
            302, "", {"location": f"{upstream.root_url}/v1/models", "content-type": "text/plain"}
        )
        upstream.script.enqueue(Behaviour(error=elsewhere))
        response = await relay.send("plain", ASK)
        assert response.status == 302
        failure = await relay.read_failure("plain", response)
        await response.aclose()
        assert failure.kind is FailureKind.PROVIDER
        assert len(upstream.requests) == 1


async def test_cancelled_requests_leave_the_pool_whole() -> None:
    """After hundreds of requests that were cancelled at random moments, the connections serve as before."""
    upstream, dice = OpenAICompatible(), random.Random(7)
    at_leisure = Timeouts(connect=30, first_byte=30, idle=30, total=60)
    async with upstream, relaying(upstream, timeouts=at_leisure) as relay:
        upstream.script.always(Behaviour(pieces=5, delay_between=0.004))

        async def cancelled() -> None:
            task = asyncio.create_task(relay.fetch("plain", ASK))
            await asyncio.sleep(dice.random() * 0.04)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        for _ in range(10):
            await asyncio.gather(*(cancelled() for _ in range(40)))
        answers = await asyncio.gather(*(relay.fetch("plain", ASK) for _ in range(100)))
        assert all(body.endswith(b"[DONE]\n\n") for _, _, body in answers)
        await upstream.idle()


def failures() -> list[BaseException]:
    """Make one of every exception that a transport and our own patience raise about an exchange."""
    return [TimeoutError(), *(kind("x") for kind in _subclasses(httpx.TransportError))]


def _subclasses(kind: type[Any]) -> list[type[Any]]:
    return [kind, *(found for each in kind.__subclasses__() for found in _subclasses(each))]


@pytest.mark.parametrize("exception", failures(), ids=lambda exception: type(exception).__name__)
def test_the_table_is_complete(exception: BaseException) -> None:
    """Every exception of an exchange has its row; none that may have reached a provider is called unreached."""
    failed = translated(exception)
    assert failed.failure.message
    assert failed.reached is (failed.failure.kind is not FailureKind.UNREACHABLE)
