"""Tests of bench/client.py and bench/upstream.py: a wrong answer never counts as a fast one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.client import Refused, Target, WrongAnswer, check, load
from bench.compare import provider
from bench.upstream import CHAT, CHUNKS, STREAM, STREAM_END, STREAM_HEAD

WHOLE_STREAM = STREAM_HEAD + b"".join(STREAM) + STREAM_END


@pytest.mark.parametrize(("stream", "answer"), [(False, CHAT), (True, WHOLE_STREAM)])
async def test_every_answer_is_checked(tmp_path: Path, *, stream: bool, answer: bytes) -> None:
    """The provider's own answers are right, over as many connections as one likes."""
    check(answer, stream=stream)
    with provider(tmp_path) as port:
        times = await load(Target(port, [{}]), stream=stream, connections=4, seconds=10, most=40)
    assert len(times.whole) == len(times.first) >= 40
    assert all(0 < first <= whole for first, whole in zip(times.first, times.whole, strict=True))
    assert times.refused == 0


@pytest.mark.parametrize(
    ("stream", "answer"),
    [
        (False, CHAT.replace(b"pasta pasta", b"pasta", 1).replace(b"content-length", b"x-length")),
        (False, b"HTTP/1.1 502 Bad Gateway\r\n\r\n{}"),
        (True, STREAM_HEAD + b"".join(STREAM[: CHUNKS - 1]) + STREAM_END),
        (True, STREAM_HEAD + b"".join(STREAM) + b"0\r\n\r\n"),
    ],
)
def test_what_is_lost_is_noticed(*, stream: bool, answer: bytes) -> None:
    """Text that is missing, a missing end and an error status are wrong answers."""
    with pytest.raises(WrongAnswer):
        check(answer, stream=stream)


def test_a_refusal_is_no_answer() -> None:
    """503 is told apart: whoever is overloaded may say so."""
    with pytest.raises(Refused):
        check(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", stream=False)
