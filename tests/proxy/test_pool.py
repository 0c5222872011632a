"""Tests of proxy/pool.py on real sockets: who gets which connection, and that none is ever lost."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest

from proxy.pool import Origin, Pool
from proxy.transport import Network
from tests.proxy.bare_provider import BareProvider, body, body_of, request, saying, talking, whole

pytestmark = pytest.mark.both_loops
CERTIFICATE = Path(__file__).parent / "localhost.pem"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def pool_of(network: Network) -> Pool:
    (pool,) = network._pools.values()
    return pool


def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make the provider's side and the client's, which trusts it."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(CERTIFICATE)
    server.set_alpn_protocols(["h2", "http/1.1"])
    client = ssl.create_default_context(cafile=CERTIFICATE)
    client.set_alpn_protocols(["http/1.1"])
    return server, client


@asynccontextmanager
async def held(network: Network, provider: BareProvider, number: int) -> AsyncIterator[list[httpx.Response]]:
    """Keep so many exchanges open."""
    responses = [await network.handle_async_request(request(provider)) for _ in range(number)]
    try:
        yield responses
    finally:
        for response in responses:
            await response.aclose()


async def test_a_connection_is_used_again() -> None:
    """Requests one after the other need one connection; as many at once as there may be need one each."""
    async with talking(saying(SIZED), connections=5) as (provider, network):
        for _ in range(20):
            await whole(network, provider)
        assert provider.connections == 1
        await asyncio.gather(*(whole(network, provider) for _ in range(50)))
        assert provider.connections <= 5


async def test_the_last_one_used_is_the_next_one() -> None:
    """The connection that was given back last is used first, so that those that are not needed grow old."""
    async with talking(saying(CHUNKED), connections=3) as (provider, network):
        async with held(network, provider, 3):
            provider.answer = saying(b"0\r\n\r\n")
        await provider.left(0)
        provider.answer = saying(SIZED)
        await asyncio.gather(*(whole(network, provider) for _ in range(3)))
        last = pool_of(network)._idle[-1]
        await whole(network, provider)
        assert pool_of(network)._idle[-1] is last


async def test_who_finds_every_connection_in_use_waits() -> None:
    """Beyond the bound a request waits until an exchange ends, or until its patience does; no more are opened."""
    async with talking(saying(CHUNKED), connections=2) as (provider, network):
        async with held(network, provider, 2) as responses:
            impatient = httpx.Request(
                "GET",
                f"{provider.address}/x",
                stream=httpx.ByteStream(b""),
                extensions={"timeout": {"connect": 5, "pool": 0.05}},
            )
            with pytest.raises(httpx.PoolTimeout):
                await network.handle_async_request(impatient)
            given_up, waiting = (asyncio.create_task(whole(network, provider)) for _ in range(2))
            await asyncio.sleep(0.05)
            given_up.cancel()
            assert provider.connections == 2
            provider.answer = saying(SIZED)
            await responses[0].aclose()
            assert await waiting == (200, b"hello")
        assert provider.connections == 3
        await asyncio.gather(*(whole(network, provider) for _ in range(4)))


async def test_a_connection_that_its_provider_closes_is_forgotten_at_once() -> None:
    """What the provider has closed meanwhile is not in the pool any more, and the next request does not meet it."""
    async with talking(saying(SIZED), connections=3) as (provider, network):
        for _ in range(5):
            await whole(network, provider)
            _, writer = provider.latest
            writer.close()
            await provider.left(0)
            await until(lambda: not pool_of(network)._idle)
            assert not pool_of(network)._open
        assert provider.connections == 5


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0)


async def test_a_provider_may_close_after_every_few_answers() -> None:
    """A provider that closes after each third answer, and says so with it, fails nobody."""
    count = 0

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        if count % 3:
            writer.write(SIZED)
        else:
            writer.write(SIZED.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))
            writer.close()

    async with talking(answer) as (provider, network):
        for _ in range(30):
            assert await whole(network, provider) == (200, b"hello")
        assert provider.connections == 10


async def test_idle_connections_grow_old() -> None:
    """What has not been used for 20 seconds is closed; what was used since stays."""
    async with talking(saying(CHUNKED), connections=3) as (provider, network):
        async with held(network, provider, 3):
            for connection in tuple(pool_of(network)._open):
                connection.data_received(b"0\r\n\r\n")
        pool = pool_of(network)
        assert len(pool._idle) == 3
        for connection in list(pool._idle)[:2]:
            connection.idle_since -= 20
        pool._sweep()
        await provider.left(1)
        await until(lambda: len(pool._open) == 1)
        assert len(pool._idle) == 1
        assert pool._sweeping is not None


async def test_nobody_there_is_no_connection() -> None:
    """A refused connection, an unknown name and what cannot be a name are the same to the caller."""
    async with talking(saying(SIZED)) as (provider, network):
        pass
    with closing_pool(Origin("127.0.0.1", provider.port, is_secure=False)) as pool:
        await fails(pool, httpx.ConnectError)
    for name in ("no-such-host.invalid", "x" * 70 + ".example", "a..b"):
        with closing_pool(Origin(name, 80, is_secure=False)) as pool:
            await fails(pool, httpx.ConnectError)
    assert network._pools == {}


@contextmanager
def closing_pool(origin: Origin) -> Iterator[Pool]:
    """Use a pool of one connection, which has nothing open in the end."""
    pool = Pool(origin, 1)
    yield pool
    assert not pool._open
    assert pool._in_use == 0


async def fails(pool: Pool, kind: type[Exception], *, patience: float = 5) -> None:
    with pytest.raises(kind):
        await pool.connection(connect=patience, pool=patience)


async def test_a_connection_that_takes_too_long_is_given_up() -> None:
    """An address that does not answer, and one that accepts but never speaks TLS, end with the patience."""
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    port = full.getsockname()[1]
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.settimeout(0)
        filler.connect_ex(("127.0.0.1", port))
    try:
        for is_secure in (False, True):
            with closing_pool(Origin("127.0.0.1", port, is_secure=is_secure)) as pool:
                await fails(pool, httpx.ConnectTimeout, patience=0.2)
    finally:
        for each in (full, *fillers):
            each.close()
    silent = socket.create_server(("127.0.0.1", 0))
    with closing_pool(Origin("127.0.0.1", silent.getsockname()[1], is_secure=True)) as pool:
        await fails(pool, httpx.ConnectTimeout, patience=0.2)
    silent.close()


async def test_another_address_is_tried() -> None:
    """A provider with several addresses is reached by the one that works."""
    async with talking(saying(SIZED)) as (provider, network):
        await whole(network, provider)
        pool = pool_of(network)
        (good,) = pool._addresses
        nobody = socket.create_server(("127.0.0.1", 0))
        bad = (*good[:4], nobody.getsockname())
        nobody.close()
        with closing_pool(Origin("provider.example", 80, is_secure=False)) as other:
            other._addresses, other._addresses_until = [bad, good], float("inf")
            connection = await other.connection(connect=5, pool=5)
            answer = await connection.send([b"GET / HTTP/1.1\r\n\r\n"])
            assert [piece async for piece in answer] == [b"hello"]
            await other.aclose()


async def test_a_name_is_looked_up_once_a_minute() -> None:
    """Connections that are opened at the same time share one look-up, which serves until it is old or has failed."""
    async with talking(saying(SIZED)) as (provider, _):
        with closing_pool(Origin("localhost", provider.port, is_secure=False)) as pool:
            first, *others = await asyncio.gather(*(pool._look_up() for _ in range(8)))
            assert all(other is first for other in others)
        with closing_pool(Origin("no-such-host.invalid", provider.port, is_secure=False)) as pool:
            pool._addresses = first
            pool._addresses_until = asyncio.get_running_loop().time() + 60
            connection = await pool.connection(connect=5, pool=5)
            await connection.send([b"GET / HTTP/1.1\r\n\r\n"])
            pool._addresses_until -= 60
            assert await pool.connection(connect=5, pool=5) is connection
            await connection.send([b"GET / HTTP/1.1\r\n\r\n"])
            connection.close()
            await fails(pool, httpx.ConnectError)
    async with talking(saying(SIZED)) as (provider, network):
        await whole(network, provider)
        pool = pool_of(network)
        assert pool._addresses_until > 0
    await fails(pool, httpx.ConnectError)
    assert pool._addresses_until == 0


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 2_000_000])
async def test_tls(size: int) -> None:
    """Over TLS, requests and answers of all sizes arrive as they were, on one connection."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        content = await body_of(reader, provider.requests[-1])
        await saying(CHUNKED, b"%x\r\n%b\r\n" % (len(content), content) * bool(content), b"0\r\n\r\n")(
            reader, writer
        )

    content = random.Random(size).randbytes(size)
    async with talking(echo, tls=tls()) as (provider, network):
        for _ in range(3):
            response = await network.handle_async_request(request(provider, "POST", content))
            assert b"".join([piece async for piece in body(response)]) == content
        assert provider.connections == 1
        _, writer = provider.latest
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"


async def test_tls_trusts_nobody_else() -> None:
    """A certificate that nobody vouches for, and one for another name, are no connection."""
    async with talking(saying(SIZED), tls=tls()) as (provider, _):
        with closing_pool(Origin("localhost", provider.port, is_secure=True)) as pool:
            await fails(pool, httpx.ConnectError)
        pool = Pool(Origin("127.0.0.1", provider.port, is_secure=True), 1, tls()[1])
        await fails(pool, httpx.ConnectError)
        assert provider.requests == []


@pytest.mark.parametrize("is_secure", [False, True])
async def test_a_cancel_at_any_moment_loses_nothing(*, is_secure: bool) -> None:
    """Cancelled after any number of turns of the loop, an exchange leaves its slot free and nothing half used."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await saying(CHUNKED[:20], CHUNKED[20:], b"2\r\nab\r\n", b"3\r\ncde\r\n0\r\n\r\n")(_, writer)

    async with talking(answer, connections=1, tls=tls() if is_secure else None) as (provider, network):
        for turns in [*range(80), *range(80, 400, 5)]:
            task = asyncio.create_task(whole(network, provider))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            if turns % 3 == 0:
                # Every third time from nothing, with a connection to be made; else with whatever there is.
                await network.aclose()
                network._pools.clear()
            else:
                assert await whole(network, provider) == (200, b"abcde")
                assert pool_of(network)._in_use == 0


async def test_a_cancelled_wait_for_a_slot_gives_it_on() -> None:
    """Of those who wait for the only connection, some are cancelled at random moments; the others all get it."""
    dice = random.Random(5)
    async with talking(saying(CHUNKED, b"0\r\n\r\n"), connections=1) as (provider, network):
        tasks = [asyncio.create_task(whole(network, provider)) for _ in range(200)]
        cancelled = dice.sample(tasks, 100)
        for task in cancelled:
            await asyncio.sleep(0)
            task.cancel()
        async with asyncio.timeout(20):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result == (200, b"") or isinstance(result, asyncio.CancelledError) for result in results)
        assert sum(result == (200, b"") for result in results) >= 100
        assert await whole(network, provider) == (200, b"")


async def rest(response: httpx.Response) -> bytes:
    return b"".join([piece async for piece in body(response)])


async def test_closing_closes_everything() -> None:
    """Idle connections, those in use and those that are being made are closed; who waits gets to know."""
    async with talking(saying(CHUNKED)) as (provider, network):
        async with held(network, provider, 3) as responses:
            reader = asyncio.create_task(rest(responses[0]))
            late = asyncio.create_task(whole(network, provider))
            for _ in range(2):
                await asyncio.sleep(0)
            await network.aclose()
            with pytest.raises(httpx.TransportError):
                await reader
            with pytest.raises(httpx.TransportError):
                await late
            await until(lambda: not pool_of(network)._open)
            await network.aclose()
        await provider.left(0)
