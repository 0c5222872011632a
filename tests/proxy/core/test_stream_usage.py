"""What a stream tells: its usage in OpenAI's form wherever the provider puts it, its text, who answered."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.contract import Json, Usage
from proxy.core.stream import ChatStream
from tests.proxy.core.streams import (
    DONE,
    EMPTY,
    FIXTURES,
    OPENING,
    STOP,
    USAGE,
    FakeProvider,
    chunk,
    cut,
    cuts,
    read,
    run,
    sse,
    text,
    text_of,
)


def place_usage(placement: str, frames: list[Json]) -> list[Json]:
    """Put the usage record where some provider puts it; the last of `frames` has the finish_reason."""
    *before, last = frames
    dated = {"service_tier": None}
    places: dict[str, list[Json]] = {
        "none": frames,
        "own chunk": [*frames, chunk(choices=[], usage=USAGE)],
        "own chunk, null before": [frame | {"usage": None} for frame in frames]
        + [chunk(choices=[], usage=USAGE)],
        "own chunk without choices": [*frames, {"id": "chatcmpl-1", "usage": USAGE}],
        "own chunk, choices null": [*frames, chunk(choices=None, usage=USAGE)],
        "finishing chunk": [*before, last | {"usage": USAGE}],
        "repeated finishing chunk": [*frames, EMPTY | STOP | dated | {"usage": USAGE}],
        "repeated chunk, finish_reason null": [*frames, EMPTY | {"usage": USAGE}],
        "every chunk": [
            *(frame | {"usage": USAGE | {"completion_tokens": 1}} for frame in before),
            last | {"usage": USAGE},
        ],
        "twice": [*before, last | {"usage": USAGE | {"prompt_tokens": 1}}, chunk(choices=[], usage=USAGE)],
        "first chunk": [frames[0] | {"usage": USAGE}, *frames[1:]],
        "then an unknown record": [*before, last | {"usage": USAGE}, chunk(choices=[], usage={"x": 1})],
    }
    return places[placement]


PLACEMENTS = [
    "none",
    "own chunk",
    "own chunk, null before",
    "own chunk without choices",
    "own chunk, choices null",
    "finishing chunk",
    "repeated finishing chunk",
    "repeated chunk, finish_reason null",
    "every chunk",
    "twice",
    "first chunk",
    "then an unknown record",
]


@pytest.mark.parametrize("placement", PLACEMENTS)
@given(
    contents=st.lists(st.text(min_size=1, max_size=8), max_size=5),
    is_joined=st.booleans(),
    include_usage=st.booleans(),
    draw=st.data(),
)
@settings(max_examples=30, deadline=None)
def test_usage_placements(
    placement: str, contents: list[str], *, is_joined: bool, include_usage: bool, draw: st.DataObject
) -> None:
    """Wherever the record is, the client gets the same text, one finish_reason, and OpenAI's form of the usage."""
    # Joined is Mistral's way: text, finish_reason and usage in one chunk.
    last = chunk({"content": "!"}, "stop") if is_joined else STOP
    data = sse(*place_usage(placement, [OPENING, *map(text, contents), last]), "[DONE]")
    outcome = run(cut(data, draw.draw(cuts(data))), include_usage=include_usage)
    written = "".join(contents) + "!" * is_joined

    *frames, end = read(outcome.sent + outcome.closing)
    assert (end, outcome.failure) == ("[DONE]", None)
    assert outcome.usage == (None if placement == "none" else Usage(7, 3))
    if include_usage and placement != "none":
        closing = frames.pop()
        assert (closing["id"], closing["choices"], closing["usage"]) == ("chatcmpl-1", [], USAGE)
    assert not any(frame.get("usage") for frame in frames)
    assert text_of(frames) == written
    assert frames[0]["choices"] == OPENING["choices"]
    assert all(frame["choices"] for frame in frames)
    assert [c["finish_reason"] for f in frames for c in f["choices"] if c["finish_reason"]] == ["stop"]
    assert outcome.counts == (len(contents) + is_joined, len(written.encode()))


@pytest.mark.parametrize(
    ("name", "usage", "names", "deltas", "output"),
    [
        (
            "hf_stream_groq_include_usage",
            Usage(72, 18),
            ("chatcmpl-5f0b2f5e-sim", "openai/gpt-oss-20b", None),
            3,
            "User says hi.Hi!",
        ),
        ("hf_stream_no_usage", None, ("chatcmpl-sim", "Qwen/Qwen2.5-7B-Instruct", None), 1, "Hello"),
        (
            "hf_stream_usage_on_finish_chunk",
            Usage(33, 8),
            ("chatcmpl-sim", "Qwen/Qwen2.5-7B-Instruct", None),
            1,
            "Hello",
        ),
        (
            "openai_stream_include_usage",
            Usage(9, 1),
            ("chatcmpl-AbC", "gpt-4o-mini-2024-07-18", None),
            1,
            "Hi",
        ),
        (
            "openrouter_stream_ok",
            Usage(15, 6),
            ("gen-1783514921-TROS1tEcjn0rUb5bt99Q", "openai/gpt-4o-mini", "OpenAI"),
            6,
            "Hello, how are you?",
        ),
    ],
)
def test_recorded_streams(
    name: str, usage: Usage | None, names: tuple[str, str, str | None], deltas: int, output: str
) -> None:
    """A recorded stream tells who answered and what it used, and reaches the client with all of its text."""
    outcome = run([FIXTURES[name]])
    assert (outcome.usage, outcome.names, outcome.failure) == (usage, names, None)
    assert outcome.counts == (deltas, len(output))
    assert output.endswith(text_of(read(outcome.sent)))
    assert outcome.closing.endswith(DONE)
    assert len(read(outcome.closing)) == 1 + (usage is not None)


def test_untouched_chunks() -> None:
    """A chunk without a usage record reaches the client byte for byte, comments do not."""
    *chunks, usage, done = [
        event for event in FIXTURES["openrouter_stream_ok"].split(b"\n\n") if event[:1] == b"d"
    ]
    outcome = run([FIXTURES["openrouter_stream_ok"]], include_usage=False)
    assert outcome.sent == b"".join(event + b"\n\n" for event in chunks)
    assert outcome.closing == done + b"\n\n" == DONE
    assert b'"usage"' in usage
    strange = b'data: { "x" : 1e3,\ndata:  "choices": [7] }\n\n'
    assert run([strange]).sent == strange


def test_usage_chunk_keeps_its_other_keys() -> None:
    """The closing chunk is the upstream's own, with no choices."""
    outcome = run([FIXTURES["openrouter_stream_ok"]])
    upstream = read(FIXTURES["openrouter_stream_ok"])[-2]
    assert read(outcome.closing) == [upstream | {"choices": []}, "[DONE]"]


def test_usage_elsewhere() -> None:
    """A record that only the plugin finds is shown in OpenAI's form, and its chunk passes."""
    frame = chunk(finish="stop", x_usage={"prompt_tokens": 7, "completion_tokens": 3})
    outcome = run([sse(frame, "[DONE]")])
    assert read(outcome.sent) == [frame]
    details = {
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert read(outcome.closing)[0] == frame | {"choices": [], "usage": USAGE | details}


@pytest.mark.parametrize(
    ("choice", "is_kept"),
    [
        (
            {
                "index": 0,
                "delta": {"content": "", "role": "assistant", "tool_calls": []},
                "finish_reason": None,
            },
            False,
        ),
        ({"index": 0, "delta": None, "finish_reason": ""}, False),
        ({"delta": {}, "finish_reason": "stop"}, False),
        ({"index": 0, "delta": {}, "finish_reason": "length"}, True),
        ({"index": 0, "delta": {}, "finish_reason": ["odd"]}, True),
        ({"index": 0, "delta": {}, "logprobs": {"content": []}}, True),
        ({"index": 0, "delta": {"reasoning_details": [{"type": "x"}]}}, True),
        ({"index": 1, "delta": {"role": "assistant"}}, True),
        ({"index": 1, "delta": {"content": ""}}, False),
        ({"index": 1, "delta": {}, "finish_reason": "stop"}, True),
        ("odd", True),
    ],
)
def test_choices_beside_usage(choice: Any, *, is_kept: bool) -> None:
    """Beside a usage record only a choice that tells the client something new is kept."""
    stream = ChatStream(FakeProvider(), choices=1, include_usage=False)
    stream.feed(sse(OPENING, STOP))
    sent = read(stream.feed(sse(chunk(choices=[choice], usage=USAGE))))
    assert [frame["choices"] for frame in sent] == ([[choice]] if is_kept else [])


def test_news_beside_no_news() -> None:
    """Of two choices beside a usage record only the new one is kept, and its other keys stay."""
    old, new = ({"index": i, "delta": {"content": "a" * i}, "finish_reason": None} for i in range(2))
    stream = ChatStream(FakeProvider(), choices=1, include_usage=False)
    frame = chunk(choices=[old, new], x=1)
    assert read(stream.feed(sse(frame | {"usage": USAGE}))) == [frame | {"choices": [new]}]


def test_unreadable_usage_is_hidden() -> None:
    """A usage key that the plugin makes nothing of does not reach the client either."""
    outcome = run([sse(text("a") | {"usage": {}}, "[DONE]")])
    assert (read(outcome.sent), outcome.closing, outcome.usage) == ([text("a")], DONE, None)


@pytest.mark.parametrize(
    ("delta", "size"),
    [
        ({"role": "assistant"}, None),
        ({"role": "assistant", "content": "", "refusal": None, "tool_calls": []}, None),
        (None, None),
        (7, None),
        ({"content": "h\u00e9 \N{PILE OF POO}"}, 8),
        ({"refusal": "no"}, 2),
        (
            {
                "content": "",
                "reasoning": "abc",
                "reasoning_details": [{"type": "reasoning.text", "text": "abc"}],
            },
            3,
        ),
        ({"reasoning_content": "abcd"}, 4),
        ({"reasoning": "abc", "reasoning_content": "abc"}, 3),
        ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "xx"}]}, 0),
        (
            {
                "tool_calls": [
                    {
                        "index": 0,
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "f", "arguments": ""},
                    }
                ]
            },
            1,
        ),
        (
            {
                "tool_calls": [
                    {"index": 0, "function": {"arguments": '{"a":'}},
                    {"index": 1, "custom": {"input": "xy"}},
                ]
            },
            7,
        ),
        ({"function_call": {"name": "f", "arguments": "{}"}}, 3),
        ({"audio": {"id": "a", "data": "QUJD", "transcript": "abc"}}, 3),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, 7]}, 2),
    ],
)
def test_counts(delta: Any, size: int | None) -> None:
    """A delta with anything but a role counts once, and its text in UTF-8 bytes, each text once."""
    assert run([sse(chunk(delta))]).counts == ((0, 0) if size is None else (1, size))


def test_counts_of_two_choices() -> None:
    """Two choices of one chunk are two deltas."""
    choices = [{"index": i, "delta": {"content": "ab"}, "finish_reason": None} for i in range(2)]
    assert run([sse(chunk(choices=choices))]).counts == (2, 4)


def test_names_come_from_the_first_chunk_that_has_them() -> None:
    """Empty and odd names are passed over, later ones do not replace the first."""
    frames = [
        chunk(id="", model=3, choices=[]),
        chunk(provider="A"),
        chunk(id="2", model="other", provider="B"),
    ]
    assert run([sse(*frames)]).names == ("chatcmpl-1", "m", "A")
