"""Server-sent events by the WHATWG rules: bytes in, whole events out, however the bytes were cut.

A line ends with LF, CRLF or CR; an empty line ends an event; a byte order mark at the start, comments and the
fields `id`, `retry` and unknown ones are ignored; an event without a `data` line does not exist. Text is never
decoded, so a cut inside of a UTF-8 character does no harm. What the end of the stream leaves unfinished is no
event, but `close` shows it.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"
_CR, _LF = 0x0D, 0x0A  # as numbers: Python makes an error, and drops it, before it looks for bytes in bytes


class Event(NamedTuple):
    """One event: its `data` lines joined by LF, and the value of its `event` field."""

    # A tuple, because a frozen dataclass takes three times as long to make.
    data: bytes
    name: bytes = b""


class EventTooLarge(Exception):
    """An event, finished or not, is longer than the decoder may hold; `events` came before it in the same bytes."""

    def __init__(self, events: list[Event]) -> None:
        """Keep the events that the failing `feed` had already found."""
        super().__init__("a server-sent event is too large")
        self.events = events


class SseDecoder:
    """Turns the bytes of one stream into events; useless after `close` and after `EventTooLarge`."""

    def __init__(self, *, max_event_bytes: int) -> None:
        """Start at the first byte of a stream; `max_event_bytes` counts an event's lines and the ends between them."""
        self._limit = max_event_bytes
        self._start: bytes | None = b""
        self._is_after_cr = False
        self._rest = bytearray()

    @property
    def is_between_events(self) -> bool:
        """Say whether the next byte is the first one of an event."""
        return not self._rest and self._start is None and not self._is_after_cr

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that `data` finishes; may raise `EventTooLarge`."""
        if self._start is not None:
            data = self._skip_bom(data)
        if self._is_after_cr or _CR in data:
            data = self._unify_line_ends(data)
        if self._rest or not data.endswith(b"\n\n"):
            data = self._take_finished(data)
        events: list[Event] = []
        for block in data.split(b"\n\n"):
            if len(block) > self._limit and self._is_too_large(block):
                raise EventTooLarge(events)
            if block.startswith(b"data: ") and _LF not in block:
                events.append(Event(block[6:]))
            elif block and (event := _read_block(block)) is not None:
                events.append(event)
        if len(self._rest) > self._limit and self._is_too_large(self._rest):
            raise EventTooLarge(events)
        return events

    def close(self) -> Event | None:
        """Return what the end of the stream cut off (with empty `data` if it had none), or `None` if only comments."""
        lines = [line for line in self._rest.split(b"\n") if line and not line.startswith(b":")]
        return (_read_block(bytes(self._rest)) or Event(b"")) if lines else None

    def _skip_bom(self, data: bytes) -> bytes:
        """Hold the first bytes back while they may be a byte order mark."""
        start = (self._start or b"") + data
        if _BOM.startswith(start):
            self._start = start
            return b""
        self._start = None
        return start.removeprefix(_BOM)

    def _unify_line_ends(self, data: bytes) -> bytes:
        """Make every line end an LF; the LF of a CRLF may come with the next bytes."""
        if not data:
            return data
        if self._is_after_cr:
            data = data.removeprefix(b"\n")
        self._is_after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _take_finished(self, data: bytes) -> bytes:
        """Add `data` to the rest and cut off what ends with an empty line; no byte is searched twice."""
        searched = max(0, len(self._rest) - 1)
        self._rest += data
        end = self._rest.rfind(b"\n\n", searched)
        if end < 0:
            return b""
        finished = bytes(self._rest[:end])
        del self._rest[: end + 2]
        return finished

    def _is_too_large(self, block: bytes | bytearray) -> bool:
        """Measure a block without the line ends around it, which depend on where the bytes were cut."""
        return len(block.strip(b"\n")) > self._limit


def _read_block(block: bytes) -> Event | None:
    """Read the lines of one event."""
    lines: list[bytes] = []
    name = b""
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return Event(b"\n".join(lines), name) if lines else None
