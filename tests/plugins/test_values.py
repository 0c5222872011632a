"""Tests of plugins/values.py: a value is what it holds."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from plugins.values import Value


class Point(Value, frozen=True):
    """A value."""

    x: int
    y: int = 0


def test_a_value_is_what_it_holds() -> None:
    """Two values with the same content are one to dictionaries and sets, and a changed copy is another one."""
    assert {Point(1), Point(1, 0)} == {Point(1)}
    assert replace(Point(1), y=2) == Point(1, 2) != Point(1)


def test_a_value_stays_as_it_is() -> None:
    """Nobody can set a field, and there is no room for anything that is not one."""
    with pytest.raises(AttributeError):
        Point(1).x = 3  # type: ignore[misc]  # that is the point
    with pytest.raises(AttributeError):
        Point(1).z = 3  # type: ignore[attr-defined]  # likewise
