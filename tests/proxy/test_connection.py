"""Tests of proxy/connection.py on real sockets: however an answer comes, it is read as what it is, or fails."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import struct
from functools import partial

import httpx
import pytest

from proxy.connection import Body, Connection, CutOff, Disconnected
from proxy.transport import Network
from tests.proxy.bare_provider import BareProvider, body, keep, request, saying, talking, whole

pytestmark = pytest.mark.both_loops
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
SIZED = OK + b"Content-Length: 5\r\n\r\nhello"

KEPT: dict[str, tuple[bytes, int, bytes]] = {
    "sized": (SIZED, 200, b"hello"),
    "empty": (OK + b"content-length:0\r\n\r\n", 200, b""),
    "chunked": (CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", 200, b"hello"),
    "chunked, with extensions": (CHUNKED + b'5;a="b";c\r\nhello\r\n0;z\r\n\r\n', 200, b"hello"),
    "chunked, with trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n", 200, b"hello"),
    "chunked, of what looks like an answer": (
        CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(SIZED), SIZED),
        200,
        SIZED,
    ),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b""),
    "after 100": (b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED, 200, b"hello"),
    "after 103": (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + SIZED, 200, b"hello"),
    "without a reason": (b"HTTP/1.1 503\r\nContent-Length: 2\r\n\r\nno", 503, b"no"),
    "kept alive by name": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        200,
        b"ok",
    ),
}
CLOSED: dict[str, tuple[bytes, int, bytes]] = {
    "until the end": (OK + b"\r\nhello", 200, b"hello"),
    "until the end, encoded": (OK + b"Transfer-Encoding: gzip\r\n\r\nhello", 200, b"hello"),
    "sized": (OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
    "chunked": (
        OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        200,
        b"hello",
    ),
}


def cuts(answer: bytes) -> list[list[bytes]]:
    """Cut an answer at every place in two, and into single bytes."""
    return [
        *([answer[:at], answer[at:]] for at in range(1, len(answer))),
        [bytes([byte]) for byte in answer],
    ]


@pytest.mark.parametrize("name", KEPT)
async def test_an_answer_is_the_same_however_it_is_cut(name: str) -> None:
    """Whole, in any two pieces or byte by byte, an answer has its status and body, and leaves the connection whole."""
    answer, status, content = KEPT[name]
    async with talking(saying(answer)) as (provider, network):
        assert await whole(network, provider) == (status, content)
        for pieces in cuts(answer):
            provider.answer = saying(*pieces)
            assert await whole(network, provider) == (status, content), pieces
        assert provider.connections == 1


@pytest.mark.parametrize("name", CLOSED)
async def test_an_answer_may_end_its_connection(name: str) -> None:
    """An answer after which the connection ends is the same however it is cut, and the connection is not used again."""
    answer, status, content = CLOSED[name]
    async with talking(saying(answer, then_close=True)) as (provider, network):
        assert await whole(network, provider) == (status, content)
        for pieces in cuts(answer):
            provider.answer = saying(*pieces, then_close=True)
            assert await whole(network, provider) == (status, content), pieces
        assert provider.connections == len(provider.requests)
        await provider.left(0)


async def test_random_answers_in_random_pieces() -> None:
    """A thousand answers of random size and framing, in random pieces, are read byte for byte on a few connections."""
    dice = random.Random(3)
    async with talking(saying()) as (provider, network):
        for _ in range(1_000):
            content = dice.randbytes(dice.choice((0, 1, 100, 70_000)))
            if dice.random() < 0.5:
                answer = OK + b"Content-Length: %d\r\n\r\n%b" % (len(content), content)
            else:
                parts = split(content, dice)
                answer = (
                    CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
                )
            provider.answer = saying(*split(answer, dice))
            assert await whole(network, provider) == (200, content)
        assert provider.connections == 1


def split(content: bytes, dice: random.Random) -> list[bytes]:
    """Cut bytes at up to five places; no piece is empty."""
    ends = sorted({dice.randrange(len(content) + 1) for _ in range(5)} | {0, len(content)})
    return [content[begin:end] for begin, end in itertools.pairwise(ends)]


@pytest.mark.parametrize("name", ["sized", "chunked", "chunked, with trailers", "after 100"])
async def test_an_answer_that_is_cut_off_never_ends_well(name: str) -> None:
    """Wherever the provider closes before the end, that is an exception which says whether an answer had begun."""
    answer = KEPT[name][0]
    head = answer.index(b"\r\n\r\n", answer.index(b"200 OK")) + 4
    async with talking(saying()) as (provider, network):
        for at in range(len(answer)):
            provider.answer = saying(answer[:at], then_close=True)
            with pytest.raises(Disconnected if at < head else CutOff):
                await whole(network, provider)
        await provider.left(0)


@pytest.mark.parametrize(
    ("begin", "kind"), [(b"", httpx.ReadError), (OK + b"\r\nhel", CutOff), (CHUNKED, CutOff)]
)
async def test_a_reset_is_a_failure(begin: bytes, kind: type[Exception]) -> None:
    """A connection that is reset before an answer or inside one is a failure, also where its end would be its end."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await saying(begin)(_, writer)
        await asyncio.sleep(0.05)
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with talking(answer) as (provider, network):
        with pytest.raises(kind):
            await whole(network, provider)


NOT_HTTP: dict[str, bytes] = {
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a length and chunks": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length that is none": OK + b"Content-Length: 5x\r\n\r\nhello",
    "a negative length": OK + b"Content-Length: -5\r\n\r\nhello",
    "a folded header": OK + b"X: y\r\n z\r\nContent-Length: 0\r\n\r\n",
    "a space before the colon": OK + b"Content-Length : 0\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "a NUL": OK + b"X: \x00\r\nContent-Length: 0\r\n\r\n",
    "a status that is none": b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
    "a chunk size that is none": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk that is longer than it says": CHUNKED + b"2\r\nhello\r\n0\r\n\r\n",
    "another protocol from now on": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nab"
    ),
}


@pytest.mark.parametrize("name", NOT_HTTP)
async def test_what_is_not_http_is_refused(name: str) -> None:
    """What two readers could understand differently, and what is no HTTP at all, fails and closes the connection."""
    async with talking(saying(NOT_HTTP[name])) as (provider, network):
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await whole(network, provider)
        assert type(caught.value) is httpx.RemoteProtocolError
        await provider.left(0)
        provider.answer = saying(SIZED)
        assert await whole(network, provider) == (200, b"hello")


TOO_MUCH: dict[str, bytes] = {
    "a long header": OK + b"X: " + b"x" * 40_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "a long name": OK + b"x" * 40_000 + b": y\r\nContent-Length: 0\r\n\r\n",
    "many headers": OK + b"X: y\r\n" * 7_000 + b"Content-Length: 0\r\n\r\n",
    "a long reason": b"HTTP/1.1 200 " + b"O" * 40_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "many interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000 + SIZED,
    "a head with a body behind it": OK
    + b"X: y\r\n" * 7_000
    + b"Content-Length: 50000\r\n\r\n"
    + b"x" * 50_000,
}


@pytest.mark.parametrize("piece", [1_000, 1_000_000])
@pytest.mark.parametrize("name", TOO_MUCH)
async def test_a_head_has_a_bound(name: str, piece: int) -> None:
    """A head of more than 32 KB is refused, whether it comes bit by bit or at once."""
    answer = TOO_MUCH[name]
    pieces = [answer[at : at + piece] for at in range(0, len(answer), piece)]
    async with talking(saying(*pieces)) as (provider, network):
        with pytest.raises(httpx.RemoteProtocolError, match="too much"):
            await whole(network, provider)


async def test_a_head_within_the_bound_may_come_with_much_behind_it() -> None:
    """A head of 30 KB is read, also when the same piece holds a large body."""
    content = b"x" * 200_000
    answer = OK + b"X: " + b"x" * 30_000 + b"\r\nContent-Length: %d\r\n\r\n" % len(content) + content
    async with talking(saying(answer)) as (provider, network):
        assert await whole(network, provider) == (200, content)


@pytest.mark.parametrize(
    "begin", [CHUNKED + b"5;", CHUNKED + b"0\r\nX: ", CHUNKED + b"5\r\nhello\r\n0\r\nX: "]
)
async def test_what_is_no_body_has_a_bound(begin: bytes) -> None:
    """Extensions of chunks and trailers without end are refused, and not kept."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        while True:
            writer.write(b"x" * 10_000)
            await writer.drain()
            await asyncio.sleep(0)

    async with talking(answer) as (provider, network):
        with pytest.raises(httpx.RemoteProtocolError, match="too much"):
            await whole(network, provider)


@pytest.mark.parametrize("surplus", [b"x", SIZED, b"HTTP/1.1 100 Continue\r\n\r\n", b"0\r\n\r\n"])
@pytest.mark.parametrize("is_later", [False, True])
async def test_nobody_gets_what_comes_after_the_end(surplus: bytes, *, is_later: bool) -> None:
    """Bytes after an answer, with its end or later, close the connection; the next request gets its own answer."""
    for name in ("sized", "chunked", "no content"):
        first, status, content = KEPT[name]
        async with talking(saying(first, surplus) if is_later else saying(first + surplus)) as (
            provider,
            network,
        ):
            assert await whole(network, provider) == (status, content)
            await provider.left(0)
            provider.answer = saying(OK + b"Content-Length: 4\r\n\r\nnext")
            assert await whole(network, provider) == (200, b"next")
            assert provider.connections == 2


async def test_the_answer_to_head_has_no_body() -> None:
    """The length of what HEAD does not send is not waited for."""
    async with talking(saying(OK + b"Content-Length: 5\r\n\r\n")) as (provider, network):
        assert await whole(network, provider, "HEAD") == (200, b"")
        assert provider.requests[0].startswith(b"HEAD /x HTTP/1.1\r\n")


async def test_an_early_answer_is_read() -> None:
    """An answer that comes before its request was sent is read, and the connection is not used again."""
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"
    async with talking(saying(refusal)) as (provider, network):
        async with asyncio.timeout(10):
            response = await network.handle_async_request(request(provider, "POST", b"x" * 2**25))
            assert response.status_code == 413
            assert [piece async for piece in body(response)] == [b"big"]
        await response.aclose()
        # What the provider takes for the next requests is the rest of that body: it would read it as one.
        await provider.left(0)
        assert len(provider.requests) == 1


async def test_pieces_that_arrive_together_are_one() -> None:
    """Chunks that one packet brought are read as one piece, and nobody waits for those of the next."""
    first, second = b"2\r\nab\r\n2\r\ncd\r\n", b"2\r\nef\r\n0\r\n\r\n"
    async with talking(saying(CHUNKED + first)) as (provider, network):
        response = await network.handle_async_request(request(provider))
        pieces = aiter(body(response))
        assert await anext(pieces) == b"abcd"
        await saying(second)(*provider.latest)
        assert await anext(pieces) == b"ef"
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)


async def test_pouring_goes_on_where_it_stopped() -> None:
    """Pieces are handed out until one is enough; what arrives after that waits for the next time."""
    first, second, last = b"2\r\nab\r\n", b"2\r\ncd\r\n", b"2\r\nef\r\n0\r\n\r\n"
    taken: list[bytes] = []
    has_more = asyncio.Event()

    def take(piece: bytes) -> bool:
        taken.append(piece)
        has_more.set()
        return piece == b"ab"

    async with talking(saying(CHUNKED + first)) as (provider, network):
        poured = body(await network.handle_async_request(request(provider)))
        assert await poured.pour(take)
        has_more.clear()
        pouring = asyncio.create_task(poured.pour(take))
        await saying(second)(*provider.latest)
        await has_more.wait()
        assert not pouring.done()
        await saying(last)(*provider.latest)
        assert not await pouring
        assert taken == [b"ab", b"cd", b"ef"]


async def test_nothing_is_poured_for_who_has_left() -> None:
    """What arrives between a cancellation and its arrival is kept, and not handed out."""
    taken: list[bytes] = []
    async with talking(saying(CHUNKED)) as (provider, network):
        poured = body(await network.handle_async_request(request(provider)))
        pouring = asyncio.create_task(poured.pour(partial(keep, taken)))
        await asyncio.sleep(0)
        poured.add([b"ab"])
        poured.wake()
        pouring.cancel()
        poured.add([b"cd"])
        poured.wake()
        with pytest.raises(asyncio.CancelledError):
            await pouring
        assert taken == [b"ab"]
        assert await anext(aiter(poured)) == b"cd"
        await poured.aclose()


async def test_what_is_not_read_is_not_received() -> None:
    """A provider can send no more than the bounds hold while nobody reads; then all of it arrives."""
    size, sent = 2**25, 0

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"x" * 2**16)
            await writer.drain()
            sent += 2**16

    async with talking(answer) as (provider, network):
        response = await network.handle_async_request(request(provider))
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < size / 2
        assert sum([len(piece) async for piece in body(response)]) == size
        assert await whole_again(network, provider, sent) == size
        assert provider.connections == 1


async def whole_again(network: httpx.AsyncBaseTransport, provider: BareProvider, size: int) -> int:
    """Ask once more, for an answer of the same size that is there at once."""
    provider.answer = saying(OK + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
    response = await network.handle_async_request(request(provider))
    return sum([len(piece) async for piece in body(response)])


async def test_closing_before_the_end_stops_the_provider() -> None:
    """A body that is closed before its end closes the connection; to read on then fails."""
    async with talking(saying(CHUNKED + b"2\r\nab\r\n")) as (provider, network):
        response = await network.handle_async_request(request(provider))
        await response.aclose()
        await provider.left(0)
        pieces = aiter(body(response))
        assert await anext(pieces) == b"ab"
        with pytest.raises(CutOff):
            await anext(pieces)


async def test_a_stream_that_is_left_gives_its_connection_back() -> None:
    """The last chunk of a stream that nobody waits for any more ends it; the next request uses its connection."""
    async with talking(saying(CHUNKED + b"2\r\nab\r\n")) as (provider, network):
        response = await network.handle_async_request(request(provider))
        assert await anext(aiter(body(response))) == b"ab"
        left(response)
        await saying(b"3\r\ncde\r\n0\r\n\r\n")(*provider.latest)
        provider.answer = saying(SIZED)
        assert await whole(network, provider) == (200, b"hello")
        assert provider.connections == 1
        assert [piece async for piece in body(response)] == []


async def test_a_stream_that_is_left_and_goes_on_is_closed() -> None:
    """A provider that goes on sending after the last event is stopped within a second or so, and fills no memory."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        while True:
            writer.write(b"10000\r\n%b\r\n" % (b"x" * 2**16))
            await writer.drain()
            await asyncio.sleep(0.001)

    async with talking(answer) as (provider, network):
        response = await network.handle_async_request(request(provider))
        await anext(aiter(body(response)))
        left(response)
        await provider.left(0)
        assert isinstance(response.stream, Body)
        assert response.stream._pieces == []


@pytest.mark.parametrize("what_comes", [SIZED, None])
async def test_who_has_not_written_has_not_asked(what_comes: bytes | None) -> None:
    """Until its request is written a connection may end, or talk out of turn: then the provider was not reached."""
    async with talking(saying(SIZED)) as (provider, network):
        await whole(network, provider)
        connection = idle(network)
        asking = asyncio.create_task(network.handle_async_request(request(provider)))
        await asyncio.sleep(0)
        if what_comes is None:
            connection.eof_received()
        else:
            connection.data_received(what_comes)
        with pytest.raises(httpx.ConnectError):
            await asking
        await provider.left(0)
        assert len(provider.requests) == 1
        assert await whole(network, provider) == (200, b"hello")
        assert provider.connections == 2


async def test_who_is_cancelled_has_asked_all_the_same() -> None:
    """A caller that is cancelled before the turn ends, in which requests are written, leaves no doubt: it is written."""
    async with talking(saying(SIZED)) as (provider, network):
        await whole(network, provider)
        asking = asyncio.create_task(network.handle_async_request(request(provider)))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await provider.left(0)
        assert len(provider.requests) == 2
        assert await whole(network, provider) == (200, b"hello")


def idle(network: Network) -> Connection:
    (pool,) = network._pools.values()
    (connection,) = pool._idle
    return connection


def left(response: httpx.Response) -> None:
    assert isinstance(response.stream, Body)
    response.stream.leave()
