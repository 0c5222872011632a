"""The load: connections that ask one thing after another over a bare socket, and check every answer.

Small on purpose, for it shares the machine with what it measures: an answer's bytes are joined, and read once, when it has ended.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from asyncio import AbstractEventLoop, Transport
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from bench.upstream import ANSWER, CHUNKS

_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.2


class WrongAnswer(Exception):
    """An answer is not what the provider has sent."""


class Refused(Exception):
    """A gateway says that it cannot serve this now (503)."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask: a gateway's port, and the headers of each caller in turn."""

    port: int
    headers: Sequence[Mapping[str, str]]
    path: str = "/v1/chat/completions"
    model: str = "openai/gpt-4o-mini"

    def requests(self, *, stream: bool, prompt_bytes: int) -> list[bytes]:
        """Return the bytes of one request per caller."""
        body = orjson.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": "Say pasta. "[:10] * (prompt_bytes // 10)}],
                "max_tokens": 1_000,
                **({"stream": True, "stream_options": {"include_usage": True}} if stream else {}),
            }
        )
        return [self._request(headers, body) for headers in self.headers]

    def _request(self, headers: Mapping[str, str], body: bytes) -> bytes:
        lines = {
            "host": f"127.0.0.1:{self.port}",
            "content-type": "application/json",
            "content-length": str(len(body)),
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"POST {self.path} HTTP/1.1\r\n{head}\r\n".encode() + body


@dataclass(slots=True)
class Times:
    """What was measured, in seconds: whole answers, and the first byte of each body; and how many were refused."""

    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    refused: int = 0


class Connection(asyncio.Protocol):
    """One connection to a gateway, which has one request under way at most."""

    def __init__(self, loop: AbstractEventLoop, *, stream: bool) -> None:
        """Ask nothing yet."""
        self._loop = loop
        self._is_stream = stream
        self._transport: Transport | None = None
        self._pieces: list[bytes] = []
        self._missing = -1
        self._head_ends = 0
        self._first_at = 0.0
        self._is_closed = False
        self._done: asyncio.Future[tuple[float, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way there."""
        self._transport = cast("Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is under way."""
        self._is_closed = True
        if self._done is not None and not self._done.done():
            self._done.set_exception(WrongAnswer(f"the connection was closed: {exc}"))

    async def ask(self, request: bytes) -> tuple[float, bytes]:
        """Send a request; return when the first byte of the body came, and the whole answer."""
        if self._transport is None or self._is_closed:
            raise WrongAnswer("the connection is closed")
        self._pieces, self._missing, self._head_ends, self._first_at = [], -1, 0, 0.0
        self._done = self._loop.create_future()
        self._transport.write(request)
        return await self._done

    def data_received(self, data: bytes) -> None:
        """Collect, and finish when the answer has ended."""
        self._pieces.append(data)
        if not self._head_ends:
            self._read_head()
            if not self._head_ends:
                return
        elif not self._first_at:
            self._first_at = time.perf_counter()
        if self._missing >= 0:
            if sum(map(len, self._pieces)) - self._head_ends < self._missing:
                return
        elif not self._has_ended():
            return
        if self._done is not None and not self._done.done():
            self._done.set_result((self._first_at or time.perf_counter(), b"".join(self._pieces)))

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    def _has_ended(self) -> bool:
        tail = self._pieces[-1]
        if len(tail) < 5 and len(self._pieces) > 1:  # noqa: PLR2004  the last chunk's five bytes may come in two pieces
            tail = self._pieces[-2] + tail
        return tail.endswith(b"0\r\n\r\n")

    def _read_head(self) -> None:
        data = b"".join(self._pieces)
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return
        self._head_ends = end + 4
        self._pieces = [data]
        head = data[:end].lower()
        at = head.find(b"content-length:")
        if at >= 0:
            self._missing = int(head[at + 15 : at + 30].split(b"\r\n")[0])
        if len(data) > self._head_ends:
            self._first_at = time.perf_counter()


def check(answer: bytes, *, stream: bool) -> None:
    """Raise `WrongAnswer` unless the answer says all that the provider has said, or `Refused`."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 503"):
        raise Refused
    if not head.startswith(b"HTTP/1.1 200"):
        raise WrongAnswer(answer[:500].decode(errors="replace"))
    if b"chunked" in head.lower():
        body = _joined(body)
    if not stream:
        content = orjson.loads(body)["choices"][0]["message"]["content"]
        if content != ANSWER:
            raise WrongAnswer(f"the content is {content!r}")
        return
    texts, usage = read_stream(body)
    if "".join(texts) != ANSWER or len(texts) != CHUNKS:
        raise WrongAnswer(f"the stream has the texts {texts!r}")
    if usage is None or usage["completion_tokens"] != CHUNKS:
        raise WrongAnswer(f"the stream has the usage {usage!r}")


def read_stream(body: bytes) -> tuple[list[str], dict[str, Any] | None]:
    """Return the texts of a stream's chunks and its usage record; raise `WrongAnswer` if it has no clean end."""
    texts: list[str] = []
    usage = None
    if not body.rstrip().endswith(b"data: [DONE]"):
        raise WrongAnswer(f"the stream has no end: {body[-300:]!r}")
    for line in body.split(b"\n"):
        if not line.startswith(b"data: {"):
            continue
        frame = orjson.loads(line[6:])
        usage = frame.get("usage") or usage
        texts += [text for choice in frame["choices"] if (text := choice["delta"].get("content"))]
    return texts, usage


def _joined(body: bytes) -> bytes:
    """Take the lengths out of a body in chunks."""
    pieces: list[bytes] = []
    position = 0
    while True:
        end = body.index(b"\r\n", position)
        size = int(body[position:end].split(b";")[0], 16)
        if size == 0:
            return b"".join(pieces)
        pieces.append(body[end + 2 : end + 2 + size])
        position = end + 4 + size


async def load(
    target: Target,
    *,
    stream: bool,
    connections: int,
    seconds: float,
    prompt_bytes: int = 100,
    most: int = 10**9,
) -> Times:
    """Ask for so many seconds (or `most` answers) over so many connections; every answer is checked."""
    loop = asyncio.get_running_loop()
    times = Times()
    turns = itertools.cycle(target.requests(stream=stream, prompt_bytes=prompt_bytes))
    until = loop.time() + seconds

    async def ask_again_and_again() -> None:
        _, connection = await loop.create_connection(
            lambda: Connection(loop, stream=stream), "127.0.0.1", target.port
        )
        try:
            while loop.time() < until and len(times.whole) < most:
                began = time.perf_counter()
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    first, answer = await connection.ask(next(turns))
                took = time.perf_counter() - began
                try:
                    check(answer, stream=stream)
                except Refused:
                    times.refused += 1
                    await asyncio.sleep(_PAUSE_SECONDS)
                    continue
                times.whole.append(took)
                times.first.append(first - began)
        finally:
            connection.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(ask_again_and_again())
    return times
