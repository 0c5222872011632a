"""A stream of events that have names, as the Responses API and Anthropic's Messages API write them.

An event passes with its data byte for byte. The one that ends the answer is the last bytes.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from plugins.contract import Json, Provider
from proxy.core.answer_stream import MALFORMED, MOST_EVENT_BYTES, TRUNCATED, AnswerStream
from proxy.core.sse import Event


class NamedStream(AnswerStream):
    """One stream of named events; `LAST` are the names of those that end it in good order."""

    LAST: ClassVar[frozenset[str]]

    def __init__(self, provider: Provider, *, max_event_bytes: int = MOST_EVENT_BYTES) -> None:
        """Start before the first byte."""
        super().__init__(provider, max_event_bytes=max_event_bytes)
        self._last_event = b""

    @abstractmethod
    def _note(self, kind: str, frame: Json) -> None:
        """Note what an event of that name tells; sets `failure` where it tells of one."""

    def _last_bytes(self) -> bytes:
        return self._last_event

    def _note_done(self) -> None:
        # OpenRouter writes it after the last event; before that one it ends nothing.
        self._fail(TRUNCATED)

    def _read_frame(self, frame: Json, event: Event) -> bytes:
        kind = frame.get("type")
        if kind == "error" or "error" in frame:
            self.failure = self._read_error_event(frame, event.data)
            return b""
        if not isinstance(kind, str) or not kind.isprintable():
            self._fail(MALFORMED)
            return b""
        self._note(kind, frame)
        if self.failure is not None:
            return b""
        self.events += 1
        data = event.data.replace(b"\n", b"\ndata: ")
        # The SDKs go by the name, and some servers send none.
        sent = b"event: %b\ndata: %b\n\n" % (kind.encode(), data)
        if kind in self.LAST:
            self.is_done = True
            self._last_event = sent
            return b""
        return sent

    def _note_text(self, text: object) -> None:
        """Count a delta."""
        if isinstance(text, str) and text:
            self.deltas += 1
            self.output_bytes += len(text.encode())
