"""Tests of plugins/lenient.py: half a character is read and written, and what is no JSON stays none."""

from __future__ import annotations

import pytest

from plugins.lenient import dumps, loads


def test_half_a_character() -> None:
    """A text that JavaScript has cut in the middle of an emoji spoils nothing else; what is no JSON stays none."""
    assert loads(rb'{"a": "Cheap \ud83d...", "b": 1e-7}') == {"a": "Cheap ?...", "b": 1e-7}
    for bad in (
        b"{",
        rb'{"a": "\ud83d"',
        rb'["\u0041", NaN]',
        rb'"\ud83d"' + b"[" * 100_000,
        b"[" * 100_000 + rb'"\ud83d"',
    ):
        with pytest.raises(ValueError, match=r"."):
            loads(bad)


def test_half_a_character_is_written() -> None:
    """What was written is read again, with a question mark for what was half."""
    assert dumps({"a": "whole"}) == b'{"a":"whole"}'
    assert loads(dumps({"a": "Cheap \ud83d..."})) == {"a": "Cheap ?..."}
