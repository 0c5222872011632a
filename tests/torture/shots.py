"""One request of a client, as the client sees it: what it sent, when it left, and how far it came."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from enum import StrEnum

from tests.upstreams import Entry

ANSWER_SECONDS = 90.0
SETTLING_SECONDS = 0.15
"""For so long after its end a request may be in the journal alone."""

_MARK = re.compile(rb"shot (\d+) ")


class Leave(StrEnum):
    """When a client closes its connection."""

    NEVER = "never"
    AT_ONCE = "at once"
    AT_HEAD = "at the head"
    IN_THE_MIDDLE = "in the middle"
    AT_DONE = "on [DONE]"


class Phase(StrEnum):
    """Where a request is, as its provider and its client see it."""

    IDLE = "idle"
    BEFORE_UPSTREAM = "before upstream"
    WAITING = "waiting for the first byte"
    STREAMING = "in mid-stream"
    SETTLING = "settling"


@dataclass(slots=True)
class Shot:
    """A request, and what became of it; times are those of the system's clock."""

    number: int
    key: str
    stream: bool
    max_tokens: int
    leave: Leave
    gateway: int = 0
    words: int = 3
    sent_at: float | None = None
    ended_at: float | None = None
    status: int | None = None
    has_bytes: bool = False
    is_done: bool = False
    is_broken: bool = False
    was_open_at_kill: bool = False

    @property
    def is_under_way(self) -> bool:
        """Say whether the client has sent it and not seen its end."""
        return self.sent_at is not None and self.ended_at is None

    @property
    def took(self) -> float:
        """Return how long the client waited for the end."""
        return (self.ended_at or 0.0) - (self.sent_at or 0.0)

    def body(self, model: str) -> bytes:
        """Write the request's body, which names the shot."""
        text = f"shot {self.number} " + "word " * self.words
        return json.dumps(
            {
                "model": model,
                "messages": [{"role": "user", "content": text}],
                "max_tokens": self.max_tokens,
                "stream": self.stream,
            }
        ).encode()


def number_of(entry: Entry) -> int | None:
    """Return which shot an entry of the provider's books is for; `None` before its body is read."""
    found = _MARK.search(entry.raw_body)
    return int(found[1]) if found else None


def phase_of(shot: Shot, entry: Entry | None, now: float) -> Phase:
    """Say where a request is at a moment."""
    if shot.sent_at is None or (shot.ended_at is not None and now - shot.ended_at > SETTLING_SECONDS):
        return Phase.IDLE
    if shot.ended_at is not None:
        return Phase.SETTLING if entry is not None else Phase.IDLE
    if entry is None:
        return Phase.BEFORE_UPSTREAM
    if entry.closed is not None:
        return Phase.SETTLING
    return Phase.STREAMING if entry.status == 200 and entry.pieces_sent else Phase.WAITING


async def fire(shot: Shot, secret: str, model: str, port: int) -> None:
    """Send a request to a gateway over a socket of its own, and leave when that was planned."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await _exchange(shot, secret, model, reader, writer)
            finally:
                writer.transport.abort()
    except (OSError, asyncio.IncompleteReadError, TimeoutError):
        shot.is_broken = True
    finally:
        shot.ended_at = time.time()


async def _exchange(
    shot: Shot, secret: str, model: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    content = shot.body(model)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    shot.sent_at = time.time()
    writer.write(head.encode() + content)
    if shot.leave is Leave.AT_ONCE:
        await writer.drain()
        await asyncio.sleep(0.02)
        return
    answer = await reader.readuntil(b"\r\n\r\n")
    shot.status = int(answer.split(b" ", 2)[1])
    if shot.leave is Leave.AT_HEAD:
        return
    seen = b""
    while piece := await reader.read(65_536):
        seen += piece
        shot.has_bytes = shot.has_bytes or (shot.stream and b'"content"' in seen)
        if shot.leave is Leave.IN_THE_MIDDLE and seen.count(b"data: ") > 2:
            return
        if shot.leave is Leave.AT_DONE and b"[DONE]" in seen:
            break
    shot.is_done = b"[DONE]" in seen if shot.stream else b'"usage"' in seen
    shot.is_broken = shot.status == 200 and not shot.is_done and b'"error"' not in seen
