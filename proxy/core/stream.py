"""A streamed chat completion: chunks, which end with `[DONE]` or after the finish_reason of every choice asked for.

Providers put the usage record into a chunk of its own, into the finishing chunk, into a repeated finishing
chunk, into the only chunk or into every chunk. The client sees OpenAI's form of it, or none if it asked for
none. A chunk without a usage record passes byte for byte. The usage chunk that OpenAI promises and `[DONE]` are
the last bytes.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any, Final, NamedTuple

import orjson

from plugins.contract import Json, Provider
from proxy.core.answer import NO_CHOICES
from proxy.core.answer_stream import MOST_EVENT_BYTES, TEXT_KEYS, AnswerStream, parse, text_bytes
from proxy.core.sse import Event

_END: Final = b"\n\n"
_LF: Final = 0x0A  # as a number: Python makes an error, and drops it, before it looks for bytes in bytes
_CONTENT: Final = re.compile(rb'"content": ?"')
_MOST_MOULDS: Final = 8

_SOURCES: Final = "annotations"  # of a web search: no tokens of the model's, and often after the last of them

# In a JSON string, what stands for itself: neither a quote, nor an escape, nor a control character.
_PLAIN: Final = re.compile(rb"[ !#-\[\]-~\x80-\xff]+")


class _Mould(NamedTuple):
    """What stands around the text of a chunk, and around that in its stream."""

    before: bytes
    after: bytes
    head: bytes
    seam: bytes
    tail: bytes

    @classmethod
    def of(cls, before: bytes, after: bytes) -> _Mould:
        """Add what the stream puts around a chunk."""
        head, tail = b"data: " + before, after + _END
        return cls(before, after, head, tail + head, tail)


_NO_MOULD: Final = _Mould.of(b"\0", b"")  # what no JSON begins with


class ChatStream(AnswerStream):
    """One streamed completion; `deltas` counts those that bring a part of the answer."""

    def __init__(
        self,
        provider: Provider,
        *,
        choices: int,
        include_usage: bool,
        max_event_bytes: int = MOST_EVENT_BYTES,
    ) -> None:
        """Start before the first byte; the client asked for so many `choices`, and for the usage chunk or not."""
        super().__init__(provider, max_event_bytes=max_event_bytes)
        self._choices = choices
        self._include_usage = include_usage
        self._finish_reasons: dict[int, str | None] = {}
        self._usage_chunk = b""
        self._mould = _NO_MOULD
        self._moulds_left = _MOST_MOULDS
        self._most_unread = max_event_bytes

    @property
    def is_complete(self) -> bool:
        """Say whether the provider has said everything: `[DONE]`, or an end after every choice's finish_reason.

        Without `[DONE]`, choices that were asked for and never came may have been cut off.
        """
        if self.is_done:
            return True
        reasons = self._finish_reasons.values()
        return self._has_ended and self.failure is None and len(reasons) >= self._choices and all(reasons)

    def _last_bytes(self) -> bytes:
        return b"%bdata: [DONE]\n\n" % self._usage_chunk

    def _note_done(self) -> None:
        # The end of nothing is no answer: a whole one without choices is none either.
        if self._finish_reasons:
            self.is_done = True
        else:
            self._fail(NO_CHOICES)

    def feed(self, data: bytes) -> bytes:
        """Return what the client gets for these bytes: often they themselves, and then they are not taken apart."""
        if self._is_in_mould(data):
            return data
        # Of many chunks at once, the first two bring the role and the mould, and the last ones the end.
        begun = data.find(_END, data.find(_END) + 1) + len(_END)
        if begun < len(_END) or begun == len(data):
            return super().feed(data)
        sent = super().feed(data[:begun])
        run, tail, last = data[begun:].rpartition(self._mould.tail)
        run += tail
        if not self._is_in_mould(run):
            return sent + super().feed(data[begun:])
        return b"".join((sent, run, super().feed(last)))

    def _is_in_mould(self, data: bytes) -> bool:
        """Count whole chunks that bring but other texts in the mould of one before them; say whether that is all.

        Reading them takes six times as long, and a stream is made of such chunks.
        """
        _, _, head, seam, tail = self._mould
        if not data.startswith(head) or not data.endswith(tail) or not len(head) + len(tail) < len(data):
            return False
        if len(data) > self._most_unread or self.is_done or self.failure is not None or self._has_ended:
            return False
        # Not by the seam: looking for so long a text took 7 % of a stream's instructions.
        begin, end = len(head), len(_END) - len(tail)
        texts = [chunk[begin:end] for chunk in data[: -len(_END)].split(_END)]
        if seam.join(texts) != data[begin : -len(tail)]:
            return False
        text = texts[0] if len(texts) == 1 else b"".join(texts)
        if not self._decoder.is_between_events or not all(texts) or not _PLAIN.fullmatch(text):
            return False
        if not text.isascii() and not all(map(_is_utf8, texts)):
            return False
        self.deltas += len(texts)
        self.output_bytes += len(text)
        return True

    def _forward_event(self, event: Event) -> bytes:
        """Pass on unread likewise a chunk that came with others, or in pieces."""
        (data, name), (before, after, *_) = event, self._mould
        if data.startswith(before) and data.endswith(after) and not name:
            text = data[len(before) : len(data) - len(after)]
            if _PLAIN.fullmatch(text) and (text.isascii() or _is_utf8(text)):
                self.deltas += 1
                self.output_bytes += len(text)
                return b"data: %b\n\n" % data
        return super()._forward_event(event)

    def _cast(self, frame: Json, data: bytes) -> None:
        """Take the mould of a chunk: what stands around its text, if the text is all that is worth reading in it.

        Whether it is one, parsing it with another text in it shows. By JSON's grammar it holds for every text then.
        """
        match frame.get("choices"):
            case [{"delta": {"content": str(content)} as delta}] if content:
                pass
            case _:
                return
        if any(value for key, value in delta.items() if key not in ("role", "content")):
            return
        self._moulds_left -= 1
        if (found := _CONTENT.search(data)) is None:
            return
        start, end = found.end(), data.find(b'"', found.end())
        other = "x" * (len(content) + 1)
        delta["content"] = other
        with contextlib.suppress(RecursionError):  # orjson reads deeper nests than Python compares
            if parse(data[:start] + other.encode() + data[end:]) == frame:
                self._mould = _Mould.of(data[:start], data[end:])

    def _read_frame(self, frame: Json, event: Event) -> bytes:
        """Note what a chunk tells and return what the client gets for it."""
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
        data = event.data
        if _LF in data:
            data = data.replace(b"\n", b"\ndata: ")
        elif self._moulds_left and not event.name:
            self._cast(frame, data)
        return b"data: %b\n\n" % data

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
        """Say whether a delta has anything but a role; count it, and the bytes of its text, if it is of the answer."""
        is_new = is_output = False
        for key, value in delta.items():
            if not value or key == "role":
                continue
            is_new = True
            is_output = is_output or key != _SOURCES
            # Some servers send the same text under both names.
            if key in TEXT_KEYS or (key == "reasoning_content" and not delta.get("reasoning")):
                self.output_bytes += text_bytes(value)
        self.deltas += is_output
        return is_new


def _is_utf8(text: bytes) -> bool:
    """Say whether bytes are text."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _without_usage(frame: Json, choices: list[Any]) -> bytes:
    """Write a chunk anew with these choices and no usage record."""
    return b"data: %b\n\n" % orjson.dumps(
        {key: value for key, value in frame.items() if key != "usage"} | {"choices": choices}
    )
