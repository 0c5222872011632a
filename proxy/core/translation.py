"""Answers in a form that is not OpenAI's: the provider's plugin translates each piece, and then they are chunks.

What a plugin makes of a piece takes the way of every chunk, so nothing that holds for a stream depends on who
wrote the plugin. One that stumbles over what a provider sent fails the answer, and nothing else.
"""

from __future__ import annotations

from plugins import lenient
from plugins.contract import Framing, Provider, Translator
from proxy.core.answer_stream import DONE, MALFORMED, MOST_EVENT_BYTES
from proxy.core.lines import LineDecoder
from proxy.core.sse import Event
from proxy.core.stream import ChatStream

# The contract allows ValueError alone; the others are what code says that expected another shape.
_STUMBLES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def translate(translator: Translator, body: bytes) -> bytes:
    """Translate a whole answer; nothing where that is impossible, which is no answer."""
    try:
        return lenient.dumps(translator.answer(body))
    except _STUMBLES:
        return b""


class TranslatedStream(ChatStream):
    """One streamed completion that comes in another form."""

    def __init__(
        self,
        provider: Provider,
        translator: Translator,
        *,
        choices: int,
        include_usage: bool,
        max_event_bytes: int = MOST_EVENT_BYTES,
    ) -> None:
        """Start before the first byte."""
        super().__init__(
            provider, choices=choices, include_usage=include_usage, max_event_bytes=max_event_bytes
        )
        self._translator = translator
        if translator.framing is Framing.LINES:
            self._decoder = LineDecoder(max_line_bytes=max_event_bytes)

    def _is_in_mould(self, data: bytes) -> bool:  # noqa: ARG002  what comes is never what goes out
        return False

    def _forward(self, events: list[Event]) -> bytes:
        sent = b""
        for event in events:
            if event.data.startswith(DONE) and self._translator.framing is Framing.EVENTS:
                sent += super()._forward([event])
            elif event.data:
                self.started = True
                sent += super()._forward(self._chunks(event.data))
            if self.is_done or self.failure is not None:
                break
        return sent

    def _chunks(self, piece: bytes) -> list[Event]:
        try:
            return [Event(lenient.dumps(chunk)) for chunk in self._translator.chunks(piece)]
        except _STUMBLES:
            self._fail(MALFORMED)
            return []
