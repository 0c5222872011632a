"""The security headers that every answer carries, errors and streams included: what Helmet sets, in its strict form.

Nothing here is a page, so a browser may run, frame and load nothing of it, and keep no copy; an answer that is a
page, or that may be kept, says so itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from sanic import HTTPResponse
from sanic.response import BaseHTTPResponse

ALWAYS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "origin-agent-cluster": "?1",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-dns-prefetch-control": "off",
    "x-download-options": "noopen",
    "x-frame-options": "DENY",
    "x-permitted-cross-domain-policies": "none",
    "x-xss-protection": "0",
}
IN_PRODUCTION = {"strict-transport-security": "max-age=31536000; includeSubDomains"}
_WITH_TLS = ALWAYS | IN_PRODUCTION
_NAMES = frozenset(_WITH_TLS)
_HARMFUL = str.maketrans("", "", "\r\n\0")


class HotResponse(HTTPResponse):
    """An answer of /v1 that writes its head itself; of the headers of every answer, one that it sets itself wins.

    Names are in lower case, and in a plain dictionary. Sanic sets, copies, cleans and encodes each header one by one:
    57 us for an answer.
    """

    __slots__ = ("_is_with_tls",)
    headers: Any

    def __init__(self, body: bytes, headers: dict[str, str], content_type: str) -> None:
        """Answer 200."""
        # What Sanic's own would set, but for two sets of headers that it makes to be thrown away.
        self.asgi, self.stream, self._cookies = False, None, None
        self.status, self.body, self.content_type = 200, body, content_type
        self.headers = headers
        headers["content-type"] = content_type
        self._is_with_tls = False

    def ask_for_tls(self) -> None:
        """Add what production says."""
        self._is_with_tls = True

    def head(self, size: int | None, *, keep_alive: bool) -> bytes:
        """Write the head of an answer of HTTP/1.1, whose body has this size or comes in chunks."""
        headers = self.headers
        kept = _kept(self._is_with_tls, _NAMES.intersection(headers))
        if not "".join(headers.values()).isprintable():
            headers = {name: _clean(value) for name, value in headers.items()}
        own = "\r\n".join(map(": ".join, headers.items()))
        # Not kept in `headers`: what could not be sent may be written again, with another framing.
        framing = "transfer-encoding: chunked" if size is None else f"content-length: {size}"
        connection = "keep-alive" if keep_alive else "close"
        head = f"HTTP/1.1 200 OK\r\n{kept}{own}\r\nconnection: {connection}\r\n{framing}\r\n\r\n"
        return head.encode(errors="surrogateescape")

    @property
    def processed_headers(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the headers, for servers that write them themselves."""
        every = (_WITH_TLS if self._is_with_tls else ALWAYS) | self.headers
        for name, value in every.items():
            # Sanic adds a length, which is a number.
            yield name.encode("ascii"), _clean(str(value)).encode(errors="surrogateescape")


@lru_cache(maxsize=64)
def _kept(is_with_tls: bool, without: frozenset[str]) -> str:  # noqa: FBT001  it is a part of the cache's key
    """Write the headers of every answer, except those that one sets itself."""
    lines = (_WITH_TLS if is_with_tls else ALWAYS).items()
    return "".join(f"{name}: {value}\r\n" for name, value in lines if name not in without)


def _clean(value: str) -> str:
    # What could end the header early is printable nowhere.
    return value if value.isprintable() else value.translate(_HARMFUL)


def add_headers(response: BaseHTTPResponse, *, is_production: bool) -> None:
    """Set what the handler has not set itself."""
    if isinstance(response, HotResponse):
        if is_production:
            response.ask_for_tls()
        return
    headers = response.headers
    for name, value in (_WITH_TLS if is_production else ALWAYS).items():
        if name not in headers:
            headers[name] = value
