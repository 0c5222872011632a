"""Performs what plugins describe: the only module that talks to providers.

Foreign exceptions become `RelayFailed` here and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast
from urllib.parse import urlsplit

import httpx
from msgspec.structs import replace

from plugins.contract import Failure, FailureKind, Provider, UpstreamRequest
from proxy.connection import Body, CutOff, Disconnected
from proxy.core.keyring import Keyring
from proxy.routes import Timeouts
from proxy.transport import Network, header_lines

MAX_ANSWER_BYTES = 64 * 2**20
_MAX_ERROR_BYTES = 64 * 2**10
_PLAIN = ("identity", "")

ENCODED = Failure(
    FailureKind.PROVIDER, "The provider's answer has a content encoding that was not asked for."
)

_FAILURES: tuple[tuple[type[BaseException], FailureKind, str], ...] = (
    (httpx.LocalProtocolError, FailureKind.UNREACHABLE, "the request could not be written"),
    (httpx.ConnectTimeout, FailureKind.UNREACHABLE, "no connection in time"),
    (httpx.PoolTimeout, FailureKind.UNREACHABLE, "no connection in time"),
    (httpx.ConnectError, FailureKind.UNREACHABLE, "no connection"),
    (httpx.TimeoutException, FailureKind.TIMEOUT, "no answer in time"),
    (TimeoutError, FailureKind.TIMEOUT, "no answer in time"),
    (Disconnected, FailureKind.PROVIDER, "the connection was closed"),
    (CutOff, FailureKind.PROVIDER, "the answer was cut off"),
    (httpx.NetworkError, FailureKind.PROVIDER, "the connection was reset"),
    (httpx.RemoteProtocolError, FailureKind.PROVIDER, "the answer was not HTTP"),
    (httpx.HTTPError, FailureKind.PROVIDER, "the exchange failed"),
)
"""Every exception that an exchange can end with, the most special first."""


class RelayFailed(Exception):
    """The exchange failed below HTTP; `reached` says whether the provider may have seen the request."""

    def __init__(self, failure: Failure, *, reached: bool) -> None:
        """Keep what failed."""
        super().__init__(failure.message)
        self.failure = failure
        self.reached = reached


@dataclass(slots=True)
class Endpoint:
    """A configured provider: its plugin, where it is, its keys and its patience."""

    provider: Provider
    base_url: str
    api_keys: tuple[str, ...]
    timeouts: Timeouts
    transport: httpx.AsyncBaseTransport
    keyring: Keyring = field(init=False)

    def __post_init__(self) -> None:
        """Begin with the first key."""
        self.keyring = Keyring(self.api_keys)

    def next_key(self, now: float) -> str | None:
        """Return the API key whose turn it is at this moment of the loop's clock, or `None` when the provider needs none."""
        return self.keyring.take(now)

    def without_secrets(self, text: str) -> str:
        """Take out of a provider's text what only the operator may know: its keys and where it is."""
        place = urlsplit(self.base_url)
        for secret in (*self.api_keys, self.base_url, place.netloc, place.hostname):
            if secret:
                text = text.replace(secret, "[removed]")
        return text

    def cleaned(self, failure: Failure) -> Failure:
        """Do so with all that a refusal says."""
        words = (failure.code, failure.param)
        code, param = (None if word and any(key in word for key in self.api_keys) else word for word in words)
        return replace(failure, message=self.without_secrets(failure.message), code=code, param=param)


class UpstreamResponse:
    """An open answer: `pour` its body as it arrives, or `read` it, and close it."""

    def __init__(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], stream: httpx.AsyncByteStream
    ) -> None:
        """Wrap an answer whose head has arrived."""
        self._stream = stream
        self._body = stream if isinstance(stream, Body) else None
        self._pieces: AsyncIterator[bytes] | None = None
        self.status = status
        # httpx guesses an encoding for each look at the headers; HTTP knows one.
        self.headers: Mapping[str, str] = {_name(name): value.decode("latin-1") for name, value in headers}
        # It was asked for as it is; what unpacks has no bound that a sender of few bytes has to keep.
        encoding = self.headers.get("content-encoding")
        self._is_encoded = encoding is not None and encoding.strip().lower() not in _PLAIN
        self.received = 0
        self._closed = False

    @property
    def has_arrived(self) -> bool:
        """Say whether all of the body is here, so that nothing has to be waited for any more."""
        return self._body is not None and self._body.has_arrived

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """Give the body to `take` as it arrives, until that is enough or the body ends; say whether it was enough.

        What is left can be poured again. Raises `RelayFailed` when the body breaks off, or is encoded.
        """
        if self._is_encoded:
            raise RelayFailed(ENCODED, reached=True)
        try:
            if self._body is not None:
                return await self._body.pour(take)
            self._pieces = self._pieces or aiter(self._stream)
            async for piece in self._pieces:
                if take(piece):
                    return True
        except httpx.HTTPError as exc:
            raise translated(exc) from exc
        return False

    @property
    def is_success(self) -> bool:
        """Say whether the status is 2xx."""
        return 200 <= self.status < 300  # noqa: PLR2004  success, as HTTP defines it

    def at_once(self) -> bytes | None:
        """Return the whole body if it is all here, of which there is never more than what may wait to be read."""
        if self._body is None or not self._body.has_arrived or self._is_encoded:
            return None
        return self._body.rest()

    async def read(self, limit: int) -> bytes:
        """Read the whole body; raise `RelayFailed` when it is longer than `limit` bytes, breaks off, or is encoded."""
        pieces: list[bytes] = []

        def take(piece: bytes) -> bool:
            pieces.append(piece)
            self.received += len(piece)
            return self.received > limit

        await self.pour(take)
        if self.received > limit:
            raise RelayFailed(Failure(FailureKind.PROVIDER, "the answer is too large"), reached=True)
        return b"".join(pieces)

    def leave(self) -> None:
        """Let a stream whose last event was read end by itself, so that its connection can be used again."""
        if self._body is not None:
            self._closed = True
            self._body.leave()

    async def aclose(self) -> None:
        """Close the exchange; an unfinished one closes its connection, which stops the provider."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._stream.aclose()
        except httpx.HTTPError as exc:
            raise translated(exc) from exc


class Relay:
    """The gateway's connections to all its providers."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Use these endpoints, by the providers' configured names."""
        self.endpoints = dict(endpoints)

    async def send(
        self, name: str, request: UpstreamRequest, *, timeouts: Timeouts | None = None
    ) -> UpstreamResponse:
        """Send a request and wait for the response headers; raise `RelayFailed` when there will be none.

        The caller bounds the waiting, as he bounds the reading; connecting has a bound in `timeouts`, which are the
        endpoint's unless others are given.
        """
        endpoint = self.endpoints[name]
        transport, patience = endpoint.transport, (timeouts or endpoint.timeouts).connect
        try:
            if not isinstance(transport, Network):
                return await _ask_by_httpx(transport, endpoint.base_url + request.path, request)
            body = await transport.exchange(
                request.method,
                endpoint.base_url + request.path,
                header_lines(tuple(request.headers.items())),
                request.body,
                connect=patience,
                pool=patience,
            )
            return UpstreamResponse(body.status, body.headers, body)
        except httpx.HTTPError as exc:
            raise translated(exc) from exc

    async def fetch(self, name: str, request: UpstreamRequest) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request and read its whole answer: status, headers, body; raise `RelayFailed` when it is late."""
        try:
            async with asyncio.timeout(self.endpoints[name].timeouts.first_byte):
                response = await self.send(name, request)
                try:
                    return response.status, response.headers, await response.read(MAX_ANSWER_BYTES)
                finally:
                    await response.aclose()
        except TimeoutError as exc:
            raise translated(exc) from exc

    async def read_failure(self, name: str, response: UpstreamResponse) -> Failure:
        """Read an answer whose status is not 2xx, and let the plugin say what it means."""
        endpoint = self.endpoints[name]
        try:
            async with asyncio.timeout(endpoint.timeouts.idle):
                body = await response.read(_MAX_ERROR_BYTES)
        except (RelayFailed, TimeoutError):
            body = b""
        return endpoint.provider.read_failure(response.status, response.headers, body)

    async def aclose(self) -> None:
        """Close every connection."""
        for endpoint in self.endpoints.values():
            await endpoint.transport.aclose()


async def _ask_by_httpx(
    transport: httpx.AsyncBaseTransport, address: str, request: UpstreamRequest
) -> UpstreamResponse:
    """Send a request by a transport that knows httpx's objects alone: a provider in this process, for one."""
    outgoing = httpx.Request(request.method, address, headers=dict(request.headers), content=request.body)
    response = await transport.handle_async_request(outgoing)
    stream = cast("httpx.AsyncByteStream", response.stream)
    return UpstreamResponse(response.status_code, response.headers.raw, stream)


@lru_cache(maxsize=1_024)
def _name(raw: bytes) -> str:
    """Read a header's name, of which every answer of a provider has the same two dozen."""
    return raw.decode("latin-1").lower()


def translated(exc: BaseException) -> RelayFailed:
    """Make the one exception of this module from any that an exchange can end with."""
    for kind_of_exception, kind, message in _FAILURES:
        if isinstance(exc, kind_of_exception):
            return RelayFailed(Failure(kind, message), reached=kind is not FailureKind.UNREACHABLE)
    raise AssertionError(exc)  # the callers catch only what the table holds
