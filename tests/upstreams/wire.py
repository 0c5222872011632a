"""The wire puts bytes on the socket as the behaviour wants them: whole, in slices, cut off, or as nonsense."""

import asyncio
import json
import socket
import struct
import zlib
from collections.abc import Mapping

from aiohttp import web

from tests.upstreams.behaviour import Behaviour
from tests.upstreams.generation import Event

HTML = b"<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>502</body></html>"
GZIP_WINDOW = 16 + zlib.MAX_WBITS
GIANT_HEADER_BYTES = 256 * 1024
LINE = b"x" * 1024


class CutOffError(Exception):
    """The answer was ended by this simulator, on purpose."""

    def __init__(self, response: web.StreamResponse) -> None:
        super().__init__()
        self.response = response


class Wire:
    """One answer on one connection."""

    def __init__(self, request: web.Request, behaviour: Behaviour) -> None:
        self._request = request
        self._behaviour = behaviour
        self._response: web.StreamResponse | None = None
        self._pending = b""
        self._first = True
        self._gzip = zlib.compressobj(wbits=GZIP_WINDOW) if behaviour.garbage == "gzip" else None

    async def open(self, status: int, headers: Mapping[str, str], length: int | None = None) -> None:
        """Send the head of the answer; without a length the body is chunked."""
        response = web.StreamResponse(status=status, headers={"server": "cloudflare", **headers})
        response.headers.update(self._behaviour.headers)
        if self._gzip:
            response.headers["content-encoding"] = "gzip"
        if self._behaviour.garbage == "giant_header":
            response.headers["x-giant"] = "g" * min(self._behaviour.giant_bytes, GIANT_HEADER_BYTES)
        if length is None or self._gzip:
            response.enable_chunked_encoding()
        else:
            response.content_length = length
        self._response = response
        await response.prepare(self._request)

    @property
    def response(self) -> web.StreamResponse:
        if self._response is None:
            msg = "the head was not sent yet"
            raise RuntimeError(msg)
        return self._response

    async def write(self, sent: bytes) -> None:
        """Write bytes, in slices of `split_bytes` that run across events."""
        if self._gzip:
            sent = self._gzip.compress(sent) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        size = self._behaviour.split_bytes
        if size is None:
            await self._put(sent)
            return
        self._pending += sent
        while len(self._pending) >= size:
            slice_, self._pending = self._pending[:size], self._pending[size:]
            await self._put(slice_)

    async def _put(self, sent: bytes) -> None:
        if sent:
            await self.response.write(sent)
            await asyncio.sleep(0)

    async def pause(self, seconds: float) -> None:
        """Wait with nothing held back."""
        if seconds > 0:
            await self._flush()
            await asyncio.sleep(seconds)

    async def _flush(self) -> None:
        pending, self._pending = self._pending, b""
        await self._put(pending)

    async def end(self) -> web.StreamResponse:
        if self._gzip:
            self._pending += self._gzip.flush(zlib.Z_FINISH)
        await self._flush()
        await self.response.write_eof()
        return self.response

    # Events

    def framed(self, event: Event) -> bytes:
        """Print an event with the line ends of the behaviour."""
        text = event.payload if isinstance(event.payload, str) else dumped(event.payload)
        named = f"event: {event.name}\n" if event.name else ""
        return self._lines(f"{named}data: {text}\n\n")

    def _lines(self, text: str) -> bytes:
        mark = "\ufeff" if self._first and self._behaviour.bom else ""
        self._first = False
        return (mark + text.replace("\n", self._behaviour.line_end)).encode(errors="backslashreplace")

    async def event(self, event: Event) -> None:
        await self.write(self.framed(event))

    async def comment(self) -> None:
        await self.write(self._lines(f":{self._behaviour.comment}\n\n"))

    async def garbage(self) -> None:
        """Write the nonsense of the behaviour in the place of an event."""
        kind, size = self._behaviour.garbage, self._behaviour.giant_bytes
        if kind == "bad_json":
            await self.write(self._lines('data: {"id":"gen-1","choices":[{"delta":\n\n'))
        elif kind == "not_utf8":
            await self.write(b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe\xc3\x28"}}]}\n\n')
        elif kind == "giant_line":
            await self.write(b'data: {"choices":[{"index":0,"delta":{"content":"')
            await self._repeat(LINE, size)
            await self.write(b'"}}]}\n\n')
        elif kind == "giant_event":
            await self._repeat(b"data: " + LINE + b"\n", size)
            await self.write(b"\n")

    async def _repeat(self, block: bytes, size: int) -> None:
        for _ in range(size // len(block) + 1):
            await self.write(block)

    # Endings

    async def cut(self, rest: bytes) -> None:
        """Close the connection in the way of the behaviour, `rest` being what should have come."""
        await self._flush()
        if self._behaviour.cut == "eof" and self.response.chunked:
            await self.end()
            raise CutOffError(self.response)
        transport = self._request.transport
        if transport is None:
            raise CutOffError(self.response)
        if self._behaviour.cut_inside and rest:
            chunked = f"{len(rest):x}\r\n".encode() if self.response.chunked else b""
            transport.write(chunked + rest[: max(1, len(rest) // 2)])
            await asyncio.sleep(0.01)
        if self._behaviour.cut == "rst":
            await asyncio.sleep(0.01)  # a reset may overtake what was sent just before
            reset(transport)
        transport.close()
        raise CutOffError(self.response)


def reset(transport: asyncio.Transport) -> None:
    """Close a connection so that the peer sees a reset."""
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def dumped(payload: object) -> str:
    """Print JSON as JavaScript does: compact, and not escaped but for half a surrogate pair, when it is encoded."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
