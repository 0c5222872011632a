"""Tests of what happens when a client closes its connection: at any byte, with any size of body, many at once."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from typing import Any

import pytest

from proxy.core.routing import Role
from tests.gateway import RunningGateway
from tests.proxy.stage import MINI, PLAIN, ask, assert_equals_books, staged
from tests.upstreams import Behaviour, Entry, SimulatedUpstream

SIZES = (1024, 16_384, 60_000, 65_536, 66_000, 100_000, 120_000, 140_000, 300_000, 1_048_576)
"""Sanic stops reading at 64 KiB; what is buffered then decides whether it ever notices that a client has left."""

DRAINING = "Groq"
"""A backing that bills to the end, whoever listens: the stream is read on for its usage record."""


async def leave(
    gateway: RunningGateway, key: str, body: dict[str, Any], mark: bytes | SimulatedUpstream
) -> None:
    """Send a request over a bare socket, and close it once `mark` has come, or once the upstream has the request."""
    host, port = gateway.base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    known = 0 if isinstance(mark, bytes) else len(mark.books)
    writer.write(head.encode() + content)
    await writer.drain()
    seen = b""
    while isinstance(mark, bytes) and mark not in seen:
        piece = await asyncio.wait_for(reader.read(65_536), 10)
        assert piece, seen
        seen += piece
    if not isinstance(mark, bytes):
        await mark.books.until(lambda books: len(books) > known and bool(books[-1].model_served))
    writer.close()


def padded(model: str, size: int, **fields: Any) -> dict[str, Any]:
    """Write a body of about `size` bytes."""
    return ask(model, "x" * max(1, size - 150), **fields)


async def closed_within(entry: Entry, since: float) -> float:
    """Wait for the books to close an entry, and return how long after `since` that was."""
    async with asyncio.timeout(10):
        while entry.closed is None:  # noqa: ASYNC110  the books are kept by another server
            await asyncio.sleep(0.005)
    return entry.closed - since


@pytest.mark.parametrize("sizes", [SIZES[:5], SIZES[5:]], ids=["small", "large"])
async def test_leaving_is_noticed_whatever_the_size(mongodb_uri: str, sizes: tuple[int, ...]) -> None:
    """Before the first byte and in the middle, the upstream of a client that left is closed within a second."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM, usageLimits={"monthlyTokens": 10**9})
        key = await stage.gateway.key(user)
        long = Behaviour(pieces=400, delay_between=0.02)
        cases: tuple[tuple[SimulatedUpstream, str, Behaviour, bytes | SimulatedUpstream], ...] = (
            (stage.plain, PLAIN, Behaviour(delay_headers=8), stage.plain),
            (stage.plain, PLAIN, Behaviour(delay_first=8), stage.plain),
            (stage.plain, PLAIN, long, b"data: "),
            (stage.openrouter, MINI, long, b"data: "),
        )
        for size, (upstream, model, behaviour, mark) in itertools.product(sizes, cases):
            upstream.script.enqueue(behaviour)
            await leave(stage.gateway, key, padded(model, size, stream=True), mark)
            left = time.time()
            assert await closed_within(upstream.books[-1], left) < 1.0, size
            assert upstream.books[-1].state == "client_closed"
        for event in await stage.events(len(sizes) * len(cases)):
            assert (event["outcome"], event["requests"]) == ("client_gone", 1)
            assert event["tokens"]["prompt"] > 0
        await stage.assert_balanced(user)


async def test_a_backing_that_bills_on_is_read_to_its_end(mongodb_uri: str) -> None:
    """Where closing does not stop the bill, the stream is read on, and the event equals the books."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        marks: tuple[bytes | SimulatedUpstream, ...] = (stage.openrouter, b"data: ")
        for mark, delay in zip(marks, (0.3, 0.0), strict=True):
            stage.openrouter.script.enqueue(
                Behaviour(provider=DRAINING, pieces=20, delay_between=0.02, delay_first=delay)
            )
            await leave(stage.gateway, key, ask(MINI, stream=True), mark)
            await stage.until(lambda: stage._has_events(len(stage.openrouter.books)))
        await stage.openrouter.idle(entries=2)
        for event, entry in zip(await stage.events(2), stage.openrouter.books, strict=True):
            assert entry.state == "completed"
            assert event["outcome"] == "client_gone"
            assert_equals_books(event, entry)
        await stage.assert_balanced(user)


async def test_a_backing_that_is_known_late_is_closed_then(mongodb_uri: str) -> None:
    """A client that leaves before anybody knows who serves is no reason to read on once that is known."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.enqueue(Behaviour(delay_first=0.4, pieces=300, delay_between=0.02))
        await leave(stage.gateway, key, ask(MINI, stream=True), stage.openrouter)
        event = await stage.event()
        assert event["outcome"] == "client_gone"
        assert stage.openrouter.books[0].state == "client_closed"
        assert stage.openrouter.books[0].pieces_sent < 20


@pytest.mark.parametrize("policy", ["cancel", "drain"])
async def test_the_key_may_decide(mongodb_uri: str, policy: str) -> None:
    """`onDisconnect` of a key wins over what is known of the backing."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM, onDisconnect=policy)
        provider = DRAINING if policy == "cancel" else None
        stage.openrouter.script.enqueue(Behaviour(provider=provider, pieces=20, delay_between=0.03))
        await leave(stage.gateway, key, ask(MINI, stream=True), b"data: ")
        event = await stage.event()
        assert event["outcome"] == "client_gone"
        assert event["estimated"] is (policy == "cancel")
        assert stage.openrouter.books[0].state == ("client_closed" if policy == "cancel" else "completed")


async def test_a_whole_answer_is_recorded_without_its_reader(mongodb_uri: str) -> None:
    """A client that does not wait for a whole answer pays for it: it is computed and billed to the end."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        for behaviour in (Behaviour(delay_headers=0.3), Behaviour(delay_first=0.3)):
            stage.openrouter.script.enqueue(behaviour)
            await leave(stage.gateway, key, ask(MINI), stage.openrouter)
            await stage.until(lambda: stage._has_events(len(stage.openrouter.books)))
        for event, entry in zip(await stage.events(2), stage.openrouter.books, strict=True):
            assert (event["outcome"], entry.state) == ("client_gone", "completed")
            assert_equals_books(event, entry)
        await stage.assert_balanced(user)


@pytest.mark.parametrize("mark", [b"[DONE]", b"0\r\n\r\n", b"data: "])
async def test_a_hundred_leave_at_once(mongodb_uri: str, mark: bytes) -> None:
    """A hundred clients that close on the first piece, on [DONE] or on the last chunk leave a hundred right events."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM, usageLimits={"monthlyTokens": 10**9})
        key = await stage.gateway.key(user)
        stage.openrouter.script.always(Behaviour(provider=DRAINING, pieces=3))
        sizes = itertools.islice(itertools.cycle(SIZES[:9]), 100)
        bodies = [padded(MINI, size, stream=True) for size in sizes]
        await asyncio.gather(*(leave(stage.gateway, key, body, mark) for body in bodies))
        events = await stage.events(100)
        by_generation = {event["generationId"]: event for event in events}
        assert len(by_generation) == 100
        await stage.openrouter.idle(entries=100)
        for entry in stage.openrouter.books:
            assert_equals_books(by_generation[entry.generation_id], entry)
        assert {event["requests"] for event in events} == {1}
        await stage.assert_balanced(user)


async def test_whoever_leaves_before_the_provider_is_asked_pays_nothing(mongodb_uri: str) -> None:
    """A client that leaves while nothing was sent to a provider leaves no event, and nothing held."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        refused = [ask("nobody/knows-this"), {"model": MINI}, ask(MINI, n=0)]
        for body in refused:
            await leave(stage.gateway, key, body, b"HTTP/1.1 4")
        assert await stage.gateway.events() == []
        assert not stage.openrouter.books
        await stage.assert_balanced(user)
