"""Lines as events, for streams that have one JSON document a line: bytes in, whole lines out, however they were cut.

A line ends with LF or CRLF; empty ones do not exist. What the end of the stream leaves unfinished is no line, but
`close` shows it.
"""

from __future__ import annotations

from proxy.core.sse import Event, EventTooLarge


class LineDecoder:
    """Turns the bytes of one stream into lines; useless after `close` and after `EventTooLarge`."""

    def __init__(self, *, max_line_bytes: int) -> None:
        """Start at the first byte of a stream."""
        self._limit = max_line_bytes
        self._rest = bytearray()

    @property
    def is_between_events(self) -> bool:
        """Say whether the next byte is the first one of a line."""
        return not self._rest

    def feed(self, data: bytes) -> list[Event]:
        """Return the lines that `data` finishes; may raise `EventTooLarge`."""
        finished, end, rest = data.rpartition(b"\n")
        lines: list[bytes] = []
        if end:
            lines = bytes(self._rest + finished).split(b"\n")
            self._rest = bytearray(rest)
        else:
            self._rest += data
        events: list[Event] = []
        for line in (each.rstrip(b"\r") for each in lines):
            if len(line) > self._limit:
                raise EventTooLarge(events)
            if line:
                events.append(Event(line))
        if len(self._rest.rstrip(b"\r")) > self._limit:
            raise EventTooLarge(events)
        return events

    def close(self) -> Event | None:
        """Return what the end of the stream cut off."""
        rest = bytes(self._rest).rstrip(b"\r")
        return Event(rest) if rest else None
