"""Chunks that differ from those before them in nothing but their text, which are passed on unread."""

from __future__ import annotations

import json
import re

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.answer_stream import MALFORMED
from tests.proxy.core.streams import DONE, STOP, USAGE, FakeProvider, Outcome, chunk, run, sse, text

NO_WORDS = st.sampled_from(['"', "\\", '\\"', "\n", "\x1f", "\x7f", "é", "\u2028", "😀", '"content":"'])
TEXTS = st.lists(st.text(max_size=4) | st.just("word") | NO_WORDS, min_size=1, max_size=8)


def _stream(*chunks: bytes) -> bytes:
    return b"".join(b"data: %b\n\n" % each for each in chunks) + sse(STOP) + DONE


def _chunk(raw: bytes) -> bytes:
    """Write a chunk with these bytes in the place of the text."""
    return orjson.dumps(text("@")).replace(b"@", raw)


def _unread(data: bytes) -> Outcome:
    """Play a stream in which every chunk is read: an `event` field is worth a look."""
    outcome = run([re.sub(rb"(?:\A|(?<=\n\n))data: ", b"event: chunk\ndata: ", data)])
    return outcome._replace(closing=outcome.closing.replace(b"event: chunk\n", b""))


@given(TEXTS, st.booleans(), st.booleans())
@settings(deadline=None)
def test_texts(texts: list[str], is_ascii: bool, is_airy: bool) -> None:  # noqa: FBT001  hypothesis calls it
    """Any texts arrive as they were sent, and every byte of them is counted."""
    separators = (", ", ": ") if is_airy else (",", ":")
    frames = [json.dumps(text(each), ensure_ascii=is_ascii, separators=separators) for each in texts]
    data = _stream(*map(str.encode, frames))
    outcome = run([data])
    assert outcome.sent + outcome.closing == data
    assert outcome.counts == (sum(map(bool, texts)), sum(len(each.encode()) for each in texts))


@given(st.lists(st.binary(max_size=6).filter(lambda raw: b"\n" not in raw and b"\r" not in raw), max_size=5))
@settings(deadline=None)
def test_bytes(pieces: list[bytes]) -> None:
    """What is no JSON fails a stream, however well it fits between what was there before."""
    data = _stream(_chunk(b"word"), *map(_chunk, pieces))
    outcome = run([data])
    assert outcome == _unread(data)
    is_json = all(_is_json(_chunk(piece)) for piece in pieces)
    assert outcome.failure == (None if is_json else MALFORMED)


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data.decode())
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "raw",
    [
        b'"},"finish_reason":"stop"}],"x":[{"y":{"z":"',
        b'"},"z":{"content":"',
        b'","tool_calls":[{"function":{"arguments":"{}"}}],"x":"',
        b'word"},"finish_reason":null}],"x_usage":{"prompt_tokens":7},"x":[{"delta":{"content":"',
        b'word"},"finish_reason":null}],"error":"late","x":[{"delta":{"content":"',
    ],
)
def test_keys_in_the_place_of_text(raw: bytes) -> None:
    """A chunk that has more than a text between what was there before is read."""
    data = _stream(_chunk(b"word"), _chunk(raw), _chunk(b"word"))
    assert run([data]) == _unread(data)
    assert run([data]) != run([_stream(_chunk(b"word"), _chunk(b"word"))])


@pytest.mark.parametrize(
    "frame",
    [
        text("word"),
        chunk({"role": "assistant", "content": "word"}),
        chunk({"content": "word", "tool_calls": [{"function": {"arguments": "word"}}]}),
        chunk({"content": "word", "reasoning": "word", "reasoning_content": "word"}),
        chunk({"content": "word", "refusal": None, "tool_calls": []}),
        chunk({"content": "word", "parts": [{"content": "other"}]}),
        chunk({"parts": [{"content": "other"}], "content": "word"}),
        chunk({"content": "word"}, logprobs={"content": [{"token": "word"}]}),
        chunk({"content": "word"}, "stop"),
        chunk({"content": "word"}, usage=USAGE),
        chunk({"content": "word"}, x_usage=USAGE),
        chunk({"content": [{"type": "text", "text": "word"}]}),
        {"choices": [{"index": 0, "delta": {"content": "word"}}, {"index": 1, "delta": {"content": "word"}}]},
        {"choices": [{"index": 1, "delta": {"content": "word"}}]},
        {"content": "word", "choices": [{"delta": {"content": "word"}}]},
        {"choices": [{"delta": {"content": "word"}}, "word"]},
    ],
)
@pytest.mark.parametrize("include_usage", [True, False])
def test_forms(frame: dict[str, object], *, include_usage: bool) -> None:
    """Chunks of any form mean the same the first time and the fourth."""
    raw = orjson.dumps(frame)
    alone = run([_stream(raw)], include_usage=include_usage)
    again = run([_stream(raw, raw, raw.replace(b"word", b"four"), raw)], include_usage=include_usage)
    assert again.counts == (4 * alone.counts[0], 4 * alone.counts[1])
    assert (again.usage, again.failure, again.names) == (alone.usage, alone.failure, alone.names)
    assert again.closing == alone.closing


def test_keys_twice() -> None:
    """Of a key that stands twice in a chunk, the last one is counted."""
    raw = b'{"choices":[{"delta":{"content":"word","content":"sword"}}]}'
    assert run([_stream(raw, raw, raw.replace(b"sword", b"broadsword"))]).counts == (3, 5 + 5 + 10)


@pytest.mark.parametrize("levels", [100, 990, 1_010, 10_000])
def test_deep_nests(levels: int) -> None:
    """A chunk of many levels passes or fails the stream, and never raises."""
    raw = b'{"choices":[{"delta":{"content":"word"}}],"x":%b%b}' % (b"[" * levels, b"]" * levels)
    data = _stream(raw, raw)
    outcome = run([data])
    assert outcome == _unread(data)
    assert outcome.failure == (None if levels < 1_020 else MALFORMED)


def test_words_cost_no_parsing() -> None:
    """Of many chunks that differ in their text alone, one is read."""
    seen: list[object] = []

    class Watched(FakeProvider):
        def read_usage(self, frame: dict[str, object]) -> None:
            seen.append(frame)

    words = [_chunk(b"word%d" % number) for number in range(50)]
    for style in (words, [json.dumps(orjson.loads(word)).encode() for word in words]):
        seen.clear()
        assert run([_stream(*style)], provider=Watched()).counts[0] == len(words)
        assert len(seen) == 2  # the first one, and the finish reason


@given(TEXTS, st.booleans())
@settings(deadline=None)
def test_chunks_that_come_by_themselves(texts: list[str], is_ascii: bool) -> None:  # noqa: FBT001  likewise
    """Cut between its chunks or within them, a stream means the same."""
    frames = [
        json.dumps(text(each), ensure_ascii=is_ascii).encode() for each in ("word", *texts, "word", *texts)
    ]
    data = _stream(orjson.dumps(chunk({"role": "assistant", "content": ""})), *frames)
    whole, chunks = run([data]), [each + b"\n\n" for each in data.split(b"\n\n")[:-1]]
    assert run(chunks) == whole
    for cut in range(1, len(chunks)):
        assert run([b"".join(chunks[:cut]), b"".join(chunks[cut:])]) == whole
    assert run([chunks[0], *(part for each in chunks[1:] for part in (each[:-1], each[-1:]))]) == whole


def test_a_chunk_in_the_middle_of_an_event_is_none() -> None:
    """What has the mould's form but continues what came before is not taken for a chunk."""
    word, more = (b"data: %b\n\n" % _chunk(raw) for raw in (b"word", b"more"))
    assert run([word, b"data: ", more, sse(STOP), DONE]) == run([word + b"data: " + more + sse(STOP) + DONE])
    assert run([word, b": comment\n", more, sse(STOP), DONE]) == run(
        [word + b": comment\n" + more + sse(STOP) + DONE]
    )


def test_nothing_passes_after_the_end() -> None:
    """A chunk in the mould that comes after `[DONE]` is nobody's."""
    word = b"data: %b\n\n" % _chunk(b"word")
    assert run([word, sse(STOP), DONE, word]) == run([word, sse(STOP), DONE])
