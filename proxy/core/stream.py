"""The life of one streamed chat completion, from a provider's bytes to the client's: a cut is never a clean end.

    running --[DONE]--> done --finish--> ended cleanly
    running --an error, nonsense, too large an event--> failed
    running --finish, every choice has its finish_reason--> ended cleanly
    running --finish--> failed (TRUNCATED)

`feed` returns what the client gets now. The last bytes of a clean end, the usage chunk that OpenAI promises
and `[DONE]`, come from `finish` alone: whoever relays the stream calls it, settles the bill, and sends them
only then.

Providers put the usage record into a chunk of its own, into the finishing chunk, into a repeated finishing
chunk, into the only chunk or into every chunk. The client sees OpenAI's form of it, or none if it asked for
none. A chunk without a usage record passes byte for byte.
"""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

from plugins.contract import Failure, FailureKind, Json, Provider, Usage
from proxy.core.sse import Event, EventTooLarge, SseDecoder

TRUNCATED: Final = Failure(FailureKind.PROVIDER, "The provider's stream ended before its answer did.")
MALFORMED: Final = Failure(FailureKind.PROVIDER, "The provider's stream holds something that is not a chunk.")
OVERSIZED: Final = Failure(FailureKind.PROVIDER, "The provider's stream holds an event that is too large.")
UNEXPLAINED: Final = Failure(FailureKind.PROVIDER, "The provider's stream ended with an error event.", 502)

_DONE: Final = b"[DONE]"

# Where a delta holds text that a model has written. `reasoning_details` repeats `reasoning`.
_TEXT_KEYS: Final = frozenset(
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


class ChatStream:
    """One streamed answer; no bytes of a provider make it raise.

    `started` says that an event other than `[DONE]` has come, be it an error; `is_done` that `[DONE]` has.
    `deltas` counts those that bring anything but a role, `output_bytes` the UTF-8 bytes of the text in them.
    `usage` is the last record seen, also where the stream failed afterwards or in the same event.
    """

    def __init__(
        self, provider: Provider, *, include_usage: bool, max_event_bytes: int = 4 * 1024 * 1024
    ) -> None:
        """Start before the first byte; `include_usage` says whether the client asked for the usage chunk."""
        self._provider = provider
        self._include_usage = include_usage
        self._decoder = SseDecoder(max_event_bytes=max_event_bytes)
        self._has_ended = False
        self._finish_reasons: dict[int, str | None] = {}
        self._usage_chunk = b""
        self.usage: Usage | None = None
        self.backing: str | None = None
        self.served_model: str | None = None
        self.upstream_id: str | None = None
        self.failure: Failure | None = None
        self.is_done = False
        self.started = False
        self.deltas = 0
        self.output_bytes = 0

    @property
    def is_complete(self) -> bool:
        """Say whether the provider has said everything: `[DONE]`, or an end after every choice's finish_reason."""
        if self.is_done:
            return True
        reasons = self._finish_reasons.values()
        return self._has_ended and self.failure is None and bool(reasons) and all(reasons)

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
        return b"%b%bdata: [DONE]\n\n" % (sent, self._usage_chunk)

    def _fail(self, failure: Failure) -> None:
        """Remember what went wrong first, unless the provider had already said everything."""
        if not self.is_done and self.failure is None:
            self.failure = failure

    def _forward_unterminated(self, event: Event) -> bytes:
        """Forward a last event that lacks its empty line, if nothing else of it can be missing."""
        if event.data.startswith(_DONE) or isinstance(_parse(event.data), dict):
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
        if data.startswith(_DONE):
            self.is_done = True
            return b""
        if not data:  # a heartbeat of servers that know no comments
            return b""
        self.started = True
        frame = _parse(data)
        try:
            if name == b"error":
                self.failure = self._read_error_event(frame, data)
                return b""
            if isinstance(frame, dict):
                return self._forward_frame(frame, data)
        except orjson.JSONEncodeError:
            pass  # orjson reads deeper nests than it writes
        self._fail(MALFORMED)
        return b""

    def _forward_frame(self, frame: Json, data: bytes) -> bytes:
        """Note what a chunk tells and return what the client gets for it."""
        # Every chunk is parsed: parsing and counting take 1.4 us of the 4.4 that a chunk of 270 bytes costs
        # (plus the plugin), and searching the bytes for the keys and the text instead takes 1.4 us too.
        self._note_names(frame)
        self._note_usage(frame)
        self.failure = self._provider.read_error(frame)
        if self.failure is not None:
            return b""
        choices = frame.get("choices")
        news: list[Any] = []
        if isinstance(choices, list):
            news = [choice for choice in choices if self._note_choice(choice)]
        if frame.get("usage") is not None:
            return _without_usage(frame, news) if news else b""
        if b"\n" in data:
            data = data.replace(b"\n", b"\ndata: ")
        return b"data: %b\n\n" % data

    def _note_names(self, frame: Json) -> None:
        """Remember who answers, from the first chunk that says so (Azure's first chunk has empty strings)."""
        if self.upstream_id is None:
            self.upstream_id = _name(frame.get("id"))
        if self.served_model is None:
            self.served_model = _name(frame.get("model"))
        if self.backing is None:
            self.backing = self._provider.read_backing(frame)

    def _note_usage(self, frame: Json) -> None:
        """Remember the usage record, the last one winning, and the chunk that will show it to the client."""
        usage = self._provider.read_usage(frame)
        if usage is None:
            return
        self.usage = usage
        if self._include_usage:
            record = frame.get("usage") or {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
                "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
                "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            }
            self._usage_chunk = b"data: %b\n\n" % orjson.dumps(frame | {"choices": [], "usage": record})

    def _note_choice(self, choice: Any) -> bool:
        """Count what a choice brings, and say whether the client learns anything from it."""
        if not isinstance(choice, dict):
            return True
        index, reason, delta = choice.get("index"), choice.get("finish_reason"), choice.get("delta")
        if not isinstance(index, int):
            index = 0
        if not isinstance(delta, dict):
            delta = {}
        is_new = self._count_delta(delta) or bool(choice.get("logprobs"))
        if index not in self._finish_reasons:
            self._finish_reasons[index] = None
            is_new = is_new or "role" in delta
        if reason and reason != self._finish_reasons[index]:
            is_new = True
            if isinstance(reason, str):
                self._finish_reasons[index] = reason
        return is_new

    def _count_delta(self, delta: Json) -> bool:
        """Count a delta and the bytes of its text, if it has anything but a role, and say so."""
        is_new = False
        for key, value in delta.items():
            if not value or key == "role":
                continue
            is_new = True
            # Some servers send the same text under both names.
            if key in _TEXT_KEYS or (key == "reasoning_content" and not delta.get("reasoning")):
                self.output_bytes += text_bytes(value)
        self.deltas += is_new
        return is_new

    def _read_error_event(self, frame: Any, data: bytes) -> Failure:
        """Read an event that is named `error`, whose data may be the error itself, in an object or as bare text."""
        if isinstance(frame, dict):
            self._note_names(frame)
            self._note_usage(frame)
        if not isinstance(frame, dict) or "error" not in frame:
            frame = {"error": data.decode(errors="replace") if frame is None else frame}
        return self._provider.read_error(frame) or UNEXPLAINED


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _parse(data: bytes) -> Any:
    """Parse JSON; `None` if it is none."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _parse_half_character(data) if b"\\u" in data else None


def _parse_half_character(data: bytes) -> Any:
    """Parse JSON with half a surrogate pair in it: JavaScript servers cut emoji in two, and the SDKs accept it."""
    try:
        tree = json.loads(data.decode())
        return orjson.loads(json.dumps(tree, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError):
        return None


def _without_usage(frame: Json, choices: list[Any]) -> bytes:
    """Write a chunk anew with these choices and no usage record."""
    return b"data: %b\n\n" % orjson.dumps(
        {key: value for key, value in frame.items() if key != "usage"} | {"choices": choices}
    )


def text_bytes(value: Any) -> int:
    """Count the UTF-8 bytes of text that a model has written in a delta, a message, or a part of one."""
    if isinstance(value, str):
        return len(value.encode())
    total = 0
    stack = [value]  # no recursion: an upstream chooses how deep it nests
    while stack:
        part = stack.pop()
        if isinstance(part, str):
            total += len(part.encode())
        elif isinstance(part, list):
            stack.extend(part)
        elif isinstance(part, dict):
            stack.extend(child for key, child in part.items() if key in _TEXT_KEYS)
    return total
