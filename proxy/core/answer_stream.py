"""The life of one streamed answer, from a provider's bytes to the client's: a cut is never a clean end.

    running --the API's last event--> done --finish--> ended cleanly
    running --an error, nonsense, too large an event--> failed
    running --finish, all is said without a last event--> ended cleanly
    running --finish--> failed (TRUNCATED)

`feed` returns what the client gets now. The last bytes of a clean end come from `finish` alone: whoever relays the
stream calls it, settles the bill, and sends them only then. What an API's events mean, its subclass knows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

import orjson

from plugins import lenient
from plugins.contract import Failure, FailureKind, Json, Provider, Usage
from proxy.core.lines import LineDecoder
from proxy.core.sse import Event, EventTooLarge, SseDecoder

TRUNCATED: Final = Failure(FailureKind.PROVIDER, "The provider's stream ended before its answer did.")
MALFORMED: Final = Failure(FailureKind.PROVIDER, "The provider's stream holds something that is not a chunk.")
OVERSIZED: Final = Failure(FailureKind.PROVIDER, "The provider's stream holds an event that is too large.")
UNEXPLAINED: Final = Failure(FailureKind.PROVIDER, "The provider's stream ended with an error event.", 502)
MOST_EVENT_BYTES: Final = 4 * 1024 * 1024

DONE: Final = b"[DONE]"
_LONGEST_NAME: Final = 256

# Where a delta holds text that a model has written. `reasoning_details` repeats `reasoning`.
TEXT_KEYS: Final = frozenset(
    (
        "arguments",
        "audio",
        "content",
        "custom",
        "function",
        "function_call",
        "input",
        "name",
        "reasoning",
        "refusal",
        "text",
        "thinking",
        "tool_calls",
        "transcript",
    )
)


class AnswerStream(ABC):
    """One streamed answer; no bytes of a provider make it raise.

    `started` says that an event other than `[DONE]` has come, be it an error; `is_done` that the last one has.
    `deltas` counts those that bring something of the answer, `output_bytes` the UTF-8 bytes of the text in them,
    `events` those that the client got. `usage` is the last record seen, also where the stream failed afterwards.
    """

    def __init__(self, provider: Provider, *, max_event_bytes: int = MOST_EVENT_BYTES) -> None:
        """Start before the first byte."""
        self._provider = provider
        self._decoder: SseDecoder | LineDecoder = SseDecoder(max_event_bytes=max_event_bytes)
        self._has_ended = False
        self.usage: Usage | None = None
        self.backing: str | None = None
        self.served_model: str | None = None
        self.upstream_id: str | None = None
        self.failure: Failure | None = None
        self.is_done = False
        self.started = False
        self.events = 0
        self.deltas = 0
        self.output_bytes = 0

    @property
    def is_complete(self) -> bool:
        """Say whether the provider has said everything."""
        return self.is_done

    def feed(self, data: bytes) -> bytes:
        """Return what the client gets for these bytes; nothing once the stream is done, failed or finished."""
        if self.is_done or self._has_ended or self.failure is not None:
            return b""
        try:
            return self._forward(self._decoder.feed(data))
        except EventTooLarge as error:
            sent = self._forward(error.events)
            self._fail(OVERSIZED)
            return sent

    def finish(self) -> bytes:
        """Return the last bytes of a clean end, once; of any other, set `failure` and return nothing.

        Called when the provider has ended its stream in good order, or after `is_done`.
        """
        if self._has_ended or self.failure is not None:
            return b""
        self._has_ended = True
        sent = b""
        if not self.is_done and (event := self._decoder.close()) is not None:
            sent = self._forward_unterminated(event)
        if not self.is_complete:
            self._fail(TRUNCATED)
            return b""
        return sent + self._last_bytes()

    @abstractmethod
    def _read_frame(self, frame: Json, event: Event) -> bytes:
        """Note what an event tells and return what the client gets for it; may raise `orjson.JSONEncodeError`."""

    @abstractmethod
    def _last_bytes(self) -> bytes:
        """Return what the client gets when all is settled."""

    @abstractmethod
    def _note_done(self) -> None:
        """Take note of `[DONE]`, which not every API ends with."""

    def _fail(self, failure: Failure) -> None:
        """Remember what went wrong first, unless the provider had already said everything."""
        if not self.is_done and self.failure is None:
            self.failure = failure

    def _forward_unterminated(self, event: Event) -> bytes:
        """Forward a last event that lacks its empty line, if nothing else of it can be missing."""
        if event.data.startswith(DONE) or isinstance(parse(event.data), dict):
            return self._forward([event])
        self._fail(TRUNCATED)
        return b""

    def _forward(self, events: list[Event]) -> bytes:
        """Return what the client gets for these events, up to the one that ends the stream."""
        sent = []
        for event in events:
            sent.append(self._forward_event(event))
            if self.is_done or self.failure is not None:
                break
        return b"".join(sent)

    def _forward_event(self, event: Event) -> bytes:
        """Read one event and return what the client gets for it."""
        data, name = event
        if data.startswith(DONE):
            self._note_done()
            return b""
        if not data:  # a heartbeat of servers that know no comments
            return b""
        self.started = True
        frame = parse(data)
        try:
            if name == b"error":
                self.failure = self._read_error_event(frame, data)
                return b""
            if isinstance(frame, dict):
                return self._read_frame(frame, event)
        except orjson.JSONEncodeError:
            pass  # orjson reads deeper nests than it writes
        self._fail(MALFORMED)
        return b""

    def _read_error_event(self, frame: Any, data: bytes) -> Failure:
        """Read an event that is an error, whose data may be the error itself, in an object or as bare text."""
        if isinstance(frame, dict):
            self._note_names(frame)
            self._note_usage(frame)
        if not isinstance(frame, dict) or "error" not in frame:
            frame = {"error": data.decode(errors="replace") if frame is None else frame}
        return self._provider.read_error(frame) or UNEXPLAINED

    def _note_names(self, frame: Json) -> None:
        """Remember who answers, from the first chunk that says so (Azure's first chunk has empty strings)."""
        if self.upstream_id is None:
            self.upstream_id = name_in(frame.get("id"))
        if self.served_model is None:
            self.served_model = name_in(frame.get("model"))
        if self.backing is None:
            self.backing = name_in(self._provider.read_backing(frame))

    def _note_usage(self, frame: Json) -> None:
        """Remember the usage record in a chunk, the last one winning."""
        self.usage = self._provider.read_usage(frame) or self.usage


def name_in(value: Any) -> str | None:
    """Return a text that is not empty, as far as it can be a name: what is kept of a request must fit its event."""
    return value[:_LONGEST_NAME] if isinstance(value, str) and value else None


def parse(data: bytes) -> Any:
    """Parse JSON, also with half a character in it; `None` if it is none."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return lenient.loads(data)
    except ValueError:
        return None


def text_bytes(value: Any) -> int:
    """Count the UTF-8 bytes of text that a model has written in a delta, a message, or a part of one."""
    total = 0
    stack = [value]  # no recursion: an upstream chooses how deep it nests
    while stack:
        part = stack.pop()
        if isinstance(part, str):
            total += len(part) if part.isascii() else len(part.encode())
        elif isinstance(part, list):
            stack += part
        elif isinstance(part, dict):
            for key, child in part.items():
                if child and key in TEXT_KEYS:
                    stack.append(child)
    return total
