"""Tests of proxy/core/lines.py: lines are what they are, however their bytes were cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.lines import LineDecoder
from proxy.core.sse import Event, EventTooLarge
from tests.proxy.core.streams import cut, cuts


def lines_of(pieces: list[bytes], limit: int = 1000) -> tuple[list[Event], Event | None]:
    """Decode a stream to its end."""
    decoder = LineDecoder(max_line_bytes=limit)
    return [event for piece in pieces for event in decoder.feed(piece)], decoder.close()


@given(st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b"\r", b"{}"])).map(b"".join), st.data())
@settings(deadline=None)
def test_no_cut_matters(data: bytes, draw: st.DataObject) -> None:
    """Whole lines come out as they are, without their ends and without empty ones; the rest is shown at the end."""
    *whole, rest = data.split(b"\n")
    found, left = lines_of(cut(data, draw.draw(cuts(data))))
    assert found == [Event(line.rstrip(b"\r")) for line in whole if line.rstrip(b"\r")]
    assert left == (Event(rest.rstrip(b"\r")) if rest.rstrip(b"\r") else None)


@pytest.mark.parametrize("data", [b"ab\n" + b"x" * 11 + b"\n", b"ab\n" + b"x" * 11])
def test_a_line_has_a_longest(data: bytes) -> None:
    """A line over the limit, finished or not, is refused, and what came before it is known."""
    with pytest.raises(EventTooLarge) as caught:
        lines_of([data], limit=10)
    assert caught.value.events == [Event(b"ab")]
    assert lines_of([b"x" * 10 + b"\r\n"], limit=10)[0] == [Event(b"x" * 10)]
