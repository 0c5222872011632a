"""Tests of proxy/transport.py: what httpx describes is what a provider gets, byte for byte."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import httpx
import orjson
import pytest

from plugins.contract import ProviderOptions
from plugins.demo import MODEL, Demo
from plugins.openai_compatible import OpenAICompatible
from proxy.transport import InProcess, Network, transport_for
from tests.proxy.bare_provider import PATIENCE, body, body_of, talking

pytestmark = pytest.mark.both_loops
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 0\r\n\r\n"


def described(
    method: str, url: str, headers: dict[str, str] | None = None, content: bytes = b""
) -> httpx.Request:
    return httpx.Request(
        method, url, headers=headers, stream=httpx.ByteStream(content), extensions={"timeout": PATIENCE}
    )


async def received(request: httpx.Request) -> bytes:
    """Send a request, and return all that its provider got of it."""
    bodies: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append(await body_of(reader, provider.requests[-1]))
        writer.write(OK)

    async with talking(answer) as (provider, network):
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=provider.port)
        response = await network.handle_async_request(request)
        await response.aclose()
        whole: bytes = provider.requests[0] + bodies[0]
        return whole.replace(b":%d" % provider.port, b":port")


async def test_a_request_is_written_as_described() -> None:
    """Method, path, query and headers go out in their order and spelling, with the length of the body; no more."""
    headers = {
        "Content-Type": "application/json",
        "authorization": "Bearer k",
        "host": "x",
        "Content-Length": "9",
    }
    assert await received(described("POST", "http://x/v1/chat%2Fa?b=c%20d", headers, b"{}")) == (
        b"POST /v1/chat%2Fa?b=c%20d HTTP/1.1\r\nHost: 127.0.0.1:port\r\nContent-Type: application/json\r\n"
        b"authorization: Bearer k\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert await received(described("GET", "http://x/v1/models")) == (
        b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:port\r\n\r\n"
    )
    assert (await received(described("POST", "http://x/"))).endswith(b"\r\nContent-Length: 0\r\n\r\n")


async def test_a_request_of_httpx_itself_is_written_too() -> None:
    """A request whose content and headers httpx has made is the same on the wire."""
    made = httpx.Request("POST", "http://x/a", json={"b": 1}, extensions={"timeout": PATIENCE})
    sent = await received(made)
    assert sent.count(b"Host") == sent.count(b"Content-Length: 7\r\n") == 1
    assert sent.endswith(b'\r\n\r\n{"b":1}')


async def test_credentials_of_an_address_are_sent() -> None:
    """A name and a password in a provider's address are sent as HTTP knows them, and not as a part of its host."""
    sent = await received(described("GET", "http://me:a%20b@x/v1"))
    assert sent == (b"GET /v1 HTTP/1.1\r\nHost: 127.0.0.1:port\r\nAuthorization: Basic bWU6YSBi\r\n\r\n")


@pytest.mark.parametrize("size", [1_000, 100_000, 5_000_000])
async def test_a_body_of_any_size_arrives(size: int) -> None:
    """What a socket does not take at once follows as the provider reads."""
    content = b"0123456789" * (size // 10)
    assert (await received(described("POST", "http://x/", content=content))).endswith(b"\r\n\r\n" + content)


@pytest.mark.parametrize(
    "header", [("a", "b\r\nc: d"), ("a", "b\nc"), ("a", "b\0"), ("a b", "c"), ("a\r\nb", "c")]
)
async def test_a_header_is_one_header(header: tuple[str, str]) -> None:
    """A name or a value that would be something else on the wire is refused before a connection is made."""
    network = Network(1)
    with pytest.raises(httpx.LocalProtocolError):
        await network.handle_async_request(described("GET", "http://127.0.0.1:1/", dict([header])))
    await network.aclose()


async def test_the_head_of_an_answer_is_kept_as_it_came() -> None:
    """Status and headers are the provider's, in order, with those that stand there twice."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)

    async with talking(answer) as (provider, network):
        response = await network.handle_async_request(described("GET", provider.address))
        assert response.status_code == 200
        assert response.headers.raw == [
            (b"Content-Type", b"text/plain"),
            (b"X-A", b"1"),
            (b"x-a", b"2"),
            (b"Content-Length", b"0"),
        ]
        assert [piece async for piece in body(response)] == []


async def test_each_origin_has_connections_of_its_own() -> None:
    """A request to another address does not get a connection to the first one."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)

    async with talking(answer) as (first, network), talking(answer) as (second, _):
        for provider in (first, second, first):
            response = await network.handle_async_request(described("GET", provider.address))
            await response.aclose()
        assert (first.connections, len(first.requests)) == (1, 2)
        assert (second.connections, len(second.requests)) == (1, 1)
        await network.aclose()


async def test_a_provider_that_answers_by_itself_takes_the_same_way() -> None:
    """Such a provider gets the request that another would get, and no network is used."""
    demo = transport_for(Demo(ProviderOptions("demo")), lambda: datetime.now(UTC))
    assert isinstance(demo, InProcess)
    asked = orjson.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hello"}]})
    response = await demo.handle_async_request(described("POST", "http://demo/chat/completions", {}, asked))
    assert isinstance(response.stream, httpx.AsyncByteStream)
    answer = orjson.loads(b"".join([piece async for piece in response.stream]))
    assert answer["choices"][0]["message"]["content"] == "hello"
    await demo.aclose()
    plain = transport_for(OpenAICompatible(ProviderOptions("plain")), lambda: datetime.now(UTC))
    assert isinstance(plain, Network)
    await plain.aclose()
