"""A streamed answer on its way to a browser, as server-sent events of our own.

`delta` brings a piece of the answer (`content`, or `reasoning` where the model shows it), `done` the same body that
a request without `stream` gets, `error` the same body that its refusal would have. Pieces wait in a queue: a browser
that is slow, or gone, does not keep the answer from being finished and stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from proxy.core.answer_stream import parse
from proxy.core.sse import SseDecoder

MAX_EVENT_BYTES = 8 * 2**20
_COMMENT = b":"


def event(name: str, body: Mapping[str, Any]) -> bytes:
    """Write one event."""
    return b"event: %b\ndata: %b\n\n" % (
        name.encode(),
        orjson.dumps(body, default=str, option=orjson.OPT_UTC_Z),
    )


class Browser:
    """The client of a call on behalf of a browser: it takes OpenAI's chunks, and hands out events."""

    def __init__(self) -> None:
        """Begin before the first byte."""
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.error: str | None = None
        self._text: list[str] = []
        self._decoder = SseDecoder(max_event_bytes=MAX_EVENT_BYTES)

    @property
    def text(self) -> str:
        """Return the answer so far."""
        return "".join(self._text)

    @property
    def has_room(self) -> bool:
        """Say that pieces wait in a queue, which takes all."""
        return True

    async def start(self, headers: Mapping[str, str]) -> None:
        """Take note that an answer begins; the browser hears of it with the first piece."""

    def send_now(self, data: bytes) -> bool:
        """Take whole events as the gateway sends them to clients of /v1."""
        if data.startswith(_COMMENT):
            self.pieces.put_nowait(data)
            return True
        for found in self._decoder.feed(data):
            if not found.data.startswith(b"[DONE]"):
                self._read(parse(found.data))
        return True

    async def send(self, data: bytes) -> None:
        """Take events likewise."""
        self.send_now(data)

    async def finish(self, data: bytes) -> None:
        """Take the last events likewise; what follows them is ours."""
        self.send_now(data)

    def end(self) -> None:
        """Say that no piece follows."""
        self.pieces.put_nowait(None)

    def _read(self, frame: Mapping[str, Any]) -> None:
        if frame.get("error"):
            self.error = str(frame["error"]["message"])
            return
        choices = frame.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            delta = choice.get("delta") if isinstance(choice, dict) else None
            for name in ("content", "reasoning"):
                piece = delta.get(name) if isinstance(delta, dict) else None
                if isinstance(piece, str) and piece:
                    self.pieces.put_nowait(event("delta", {name: piece}))
                    if name == "content":
                        self._text.append(piece)
