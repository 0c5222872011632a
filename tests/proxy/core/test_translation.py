"""Tests of proxy/core/translation.py: a plugin's chunks take the way of every chunk, and its stumbles fail the answer."""

from __future__ import annotations

import json
from collections.abc import Iterable

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.contract import Framing, Json, Usage
from proxy.core.answer import NO_CHOICES, NOT_JSON
from proxy.core.answer_stream import MALFORMED, OVERSIZED, TRUNCATED
from proxy.core.bill import Served
from proxy.core.chat import CHAT
from proxy.core.translation import TranslatedStream
from tests.proxy.core.streams import DONE, FakeProvider, Outcome, chunk, cut, cuts, play, read, text_of

LINES = b'{"say":"Hel"}\n{"say":"lo"}\n{"end":"stop","in":7,"out":3}\n'
EVENTS = b"".join(b"data: %b\n\n" % line for line in LINES.splitlines())


class Sayings:
    """Puts `say` and `end` into chunks."""

    def __init__(self, framing: Framing) -> None:
        self.framing = framing

    def answer(self, body: bytes) -> Json:
        """Read the whole that was said."""
        told = orjson.loads(body)
        return {"choices": [{"message": {"content": told["say"]}}], "usage": self._usage(told)}

    def chunks(self, piece: bytes) -> Iterable[Json]:
        """Make one chunk, or two at the end."""
        told = orjson.loads(piece)
        if "say" in told:
            yield chunk({"content": told["say"]})
        if "end" in told:
            yield chunk(finish=told["end"])
            yield chunk(choices=[], usage=self._usage(told))
        if "error" in told:
            yield {"error": told["error"]}

    def _usage(self, told: Json) -> Json:
        return {"prompt_tokens": told["in"], "completion_tokens": told["out"]}


def run(
    pieces: list[bytes], framing: Framing = Framing.LINES, *, choices: int = 1, limit: int = 1000
) -> Outcome:
    """Play a stream to its end."""
    stream = TranslatedStream(
        FakeProvider(), Sayings(framing), choices=choices, include_usage=True, max_event_bytes=limit
    )
    return play(stream, pieces)


@given(framing=st.sampled_from(Framing), draw=st.data())
@settings(deadline=None)
def test_every_split(framing: Framing, draw: st.DataObject) -> None:
    """However the bytes were cut, the client gets the same chunks, a usage chunk and [DONE]."""
    data = LINES if framing is Framing.LINES else EVENTS
    outcome = run(cut(data, draw.draw(cuts(data))), framing)
    assert outcome == run([data], framing)
    assert text_of(read(outcome.sent)) == "Hello"
    assert (outcome.usage, outcome.failure, outcome.counts) == (Usage(7, 3), None, (2, 5))
    assert outcome.closing.endswith(DONE)
    assert read(outcome.closing)[0]["usage"] == {"prompt_tokens": 7, "completion_tokens": 3}


def test_a_last_line_may_lack_its_end() -> None:
    """What is whole but for its line end counts; what is not is a truncated stream."""
    unfinished, whole = run([LINES[:-1]]), run([LINES])
    assert unfinished.sent + unfinished.closing == whole.sent + whole.closing
    assert unfinished[2:-1] == whole[2:-1]
    for place in range(len(LINES) - 1):
        outcome = run([LINES[:place]])
        assert outcome.failure == TRUNCATED, place
        assert outcome.closing == b""


def test_a_choice_that_never_came_was_cut_off() -> None:
    """A translated stream too ends well only after the finish_reason of every choice that was asked for."""
    outcome = run([LINES], choices=2)
    assert (outcome.failure, outcome.closing) == (TRUNCATED, b"")


@pytest.mark.parametrize(
    ("bad", "failure"),
    [
        (b"nonsense\n", MALFORMED),
        (b"7\n", MALFORMED),
        (b'{"end":"stop"}\n', MALFORMED),
        (b"x" * 2000, OVERSIZED),
        (b"x" * 2000 + b"\n", OVERSIZED),
    ],
)
def test_stumbles_fail_the_answer(bad: bytes, failure: object) -> None:
    """What the plugin cannot read ends the stream for good, after what came before it."""
    outcome = run([LINES[:14], bad, LINES])
    assert text_of(read(outcome.sent))[:3] == "Hel"
    assert (outcome.failure, outcome.closing) == (failure, b"")


def test_done_is_not_translated() -> None:
    """The event of `[DONE]` that many APIs have taken over from OpenAI ends a stream; before any answer it is none."""
    plain, done = run([EVENTS], Framing.EVENTS), run([EVENTS + DONE], Framing.EVENTS)
    assert (done.sent, done.closing, done.failure) == (plain.sent, plain.closing, None)
    unfinished = run([EVENTS[:21], DONE], Framing.EVENTS)
    assert (text_of(read(unfinished.sent)), unfinished.failure) == ("Hel", None)
    assert run([DONE], Framing.EVENTS).failure == NO_CHOICES
    assert run([LINES[:14], b"[DONE]\n"]).failure == MALFORMED


class Pythonic(Sayings):
    """Reads with Python's own parser."""

    def chunks(self, piece: bytes) -> Iterable[Json]:
        """Make one chunk."""
        told = json.loads(piece)
        return [chunk({"content": told["say"]}, told.get("end"))]

    def answer(self, body: bytes) -> Json:
        """Read the whole that was said."""
        return {"choices": [{"message": {"content": json.loads(body)["say"]}}]}


def pythonic(data: bytes) -> Outcome:
    """Play a stream to its end."""
    return play(
        TranslatedStream(FakeProvider(), Pythonic(Framing.LINES), choices=1, include_usage=True), [data]
    )


def test_half_a_character() -> None:
    """Half a surrogate pair, which Python's own parser reads, passes through a translator as well."""
    raw = rb'{"say":"hi \ud83d","end":"stop"}'
    outcome = pythonic(raw + b"\n")
    assert (outcome.failure, outcome.claims[2]) == (None, True)
    assert rb"hi \ud83d" in outcome.sent
    whole = CHAT.read_answer(FakeProvider(), raw, Pythonic(Framing.LINES))
    assert (whole.failure, rb"hi \ud83d" in whole.body) == (None, True)


def test_deep_nests() -> None:
    """What is nested too deep for Python's own parser is a stumble like any other."""
    raw = b'{"say":%b}' % (b"[" * 100_000)
    assert pythonic(raw + b"\n").failure == MALFORMED
    assert CHAT.read_answer(FakeProvider(), raw, Pythonic(Framing.LINES)).failure == NOT_JSON


def test_an_error_of_the_provider_is_one() -> None:
    """An error that the plugin puts into a chunk is the provider's."""
    outcome = run([LINES[:14] + b'{"error":"tired"}\n' + LINES])
    assert outcome.failure is not None
    assert outcome.failure.message == "tired"
    assert text_of(read(outcome.sent)) == "Hel"


@given(
    st.lists(
        st.binary(max_size=20) | st.sampled_from([b"\n", b'{"say":"x"}\n', b'{"end":"e","in":1,"out":2}\n'])
    )
)
@settings(deadline=None)
def test_garbage(pieces: list[bytes]) -> None:
    """No bytes raise, and only a clean end closes."""
    outcome = run(pieces)
    assert outcome.closing.endswith(DONE) == (outcome.failure is None) == outcome.claims[2]


@given(st.binary() | st.just(b'{"say":"Hello","in":7,"out":3}'))
@settings(deadline=None)
def test_a_whole_answer(body: bytes) -> None:
    """A whole answer is what the plugin makes of it, or none."""
    answer = CHAT.read_answer(FakeProvider(), body, Sayings(Framing.LINES))
    if body.startswith(b'{"say":"Hello"'):
        assert (answer.failure, answer.usage) == (None, Usage(7, 3))
        assert Served(output=answer.output).measured() == (1, 5)
        assert orjson.loads(answer.body)["choices"][0]["message"]["content"] == "Hello"
    else:
        assert answer.failure is not None
