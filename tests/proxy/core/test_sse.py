"""The decoder against the standard's rules, against a second implementation of them, and at every cut."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.sse import Event, EventTooLarge, SseDecoder
from tests.proxy.core.streams import FIXTURES, cut, cuts

# Everything that the rules mention, in one document: comments, two lines of data, fields without a value or a
# space, two spaces, an event without data, a name, unknown fields, several empty lines and a character of 4 bytes.
DOCUMENT = (
    ": hello\n\n:\n\n\ndata: one\n\ndata:two\ndata:  three\n\nevent: error\nid: 7\nretry: 10\ndata: {}\nother: x\n\n"
    "event: nothing\n\ndata\n\ndata: \N{PILE OF POO}\n\n: between\ndata: [DONE]\n\n"
).encode()
EVENTS = [
    Event(b"one"),
    Event(b"two\n three"),
    Event(b"{}", b"error"),
    Event(b""),
    Event("\N{PILE OF POO}".encode()),
    Event(b"[DONE]"),
]

# Few bytes, so that random ones often mean something.
SOUP = st.lists(
    st.sampled_from(
        [
            b"\n",
            b"\r",
            b"\r\n",
            b"data",
            b"data: ",
            b"event: ",
            b"id:",
            b":",
            b" ",
            b"x",
            b"\xef\xbb\xbf",
            b"\xf0\x9f",
        ]
    ),
    max_size=30,
).map(b"".join)


def decode(pieces: list[bytes], limit: int = 1000) -> tuple[list[Event], Event | None, bool]:
    """Decode pieces: the events, what was cut off at the end, and whether one was too large."""
    decoder = SseDecoder(max_event_bytes=limit)
    events: list[Event] = []
    for piece in pieces:
        try:
            events += decoder.feed(piece)
        except EventTooLarge as error:
            return events + error.events, None, True
    return events, decoder.close(), False


def decode_by_the_book(data: bytes) -> list[Event]:
    """Follow the standard's text line by line, with the whole document at hand."""
    lines = re.split(rb"\r\n|\n|\r", data.removeprefix(b"\xef\xbb\xbf"))
    events, buffer, name = [], b"", b""
    for line in lines[:-1]:
        if not line:
            if buffer:
                events.append(Event(buffer[:-1], name))
            buffer, name = b"", b""
            continue
        field, colon, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if colon and not field:
            continue
        if field == b"data":
            buffer += value + b"\n"
        if field == b"event":
            name = value
    return events


def test_document() -> None:
    """Every rule of the standard gives the event that it describes."""
    assert decode([DOCUMENT]) == (EVENTS, None, False)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_every_single_cut(start: bytes, end: bytes) -> None:
    """One cut anywhere changes nothing, with any line end, with and without a byte order mark."""
    data = start + DOCUMENT.replace(b"\n", end)
    for place in range(len(data) + 1):
        assert decode(cut(data, [place])) == (EVENTS, None, False), place
    assert decode([data[i : i + 1] for i in range(len(data))]) == (EVENTS, None, False)


def test_empty_piece_inside_of_a_line_end() -> None:
    """No bytes between CR and LF leave them one line end."""
    assert decode([b"data: a\r", b"", b"\ndata: b\r\n\r\n"])[0] == [Event(b"a\nb")]


@given(SOUP, st.data())
@settings(max_examples=200, deadline=None)
def test_the_book(data: bytes, draw: st.DataObject) -> None:
    """For any bytes and any cuts the events are those of the standard's algorithm."""
    assert decode(cut(data, draw.draw(cuts(data))))[0] == decode_by_the_book(data)


@given(SOUP, st.integers(0, 30), st.data())
@settings(max_examples=200, deadline=None)
def test_limit_at_every_cut(data: bytes, limit: int, draw: st.DataObject) -> None:
    """What is too large, what came before it and what the end cut off do not depend on the cuts."""
    assert decode(cut(data, draw.draw(cuts(data))), limit) == decode([data], limit)


@given(st.binary(max_size=200), st.data())
@settings(max_examples=200, deadline=None)
def test_garbage(data: bytes, draw: st.DataObject) -> None:
    """Arbitrary bytes raise nothing."""
    assert decode(cut(data, draw.draw(cuts(data)))) == decode([data])


@pytest.mark.parametrize("name", FIXTURES)
def test_fixtures(name: str) -> None:
    """A recorded stream gives one event for each of its `data:` lines."""
    data = FIXTURES[name]
    expected = [Event(line[6:]) for line in data.splitlines() if line.startswith(b"data: ")]
    assert decode([data]) == (expected, None, False)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"", b"\n"])
def test_limit(end: bytes) -> None:
    """An event of exactly the limit passes, one byte more does not, finished or not; events before it survive."""
    before, data = b"data: a\n\n", b"data: 0123456789"
    assert decode([before + data + end], len(data))[2] is False
    assert decode([before + data + end], len(data) - 1) == ([Event(b"a")], None, True)


def test_limit_of_what_is_no_event() -> None:
    """A comment without end is bounded too, and a document of many small events is not."""
    assert decode([b":", b"x" * 1000]) == ([], None, True)
    assert decode([DOCUMENT * 100])[0] == EVENTS * 100


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", None),
        (b"data: a\n\n", None),
        (b"data: a\n\n: comm", None),
        (b"data: a\n\n: comment\n", None),
        (b"\xef\xbb", None),
        (b"\n", None),
        (b"data: a", Event(b"a")),
        (b"data: a\n", Event(b"a")),
        (b"data: a\r", Event(b"a")),
        (b": c\nevent: error\ndata: a\ndata: b", Event(b"a\nb", b"error")),
        (b"dat", Event(b"")),
        (b"event: error\n", Event(b"")),
    ],
)
def test_close(data: bytes, expected: Event | None) -> None:
    """The end of the stream shows an event that it cut off, but nothing when only a comment was."""
    assert decode([data])[1] == expected
