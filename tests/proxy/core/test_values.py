"""Tests of proxy/core/values.py: a value is what it holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.core.values import frozen


@frozen
class Point:
    """A value."""

    x: int
    y: int = 0


def test_a_value_is_what_it_holds() -> None:
    """Two values with the same content are one to dictionaries and sets, and a changed copy is another one."""
    assert {Point(1), Point(1, 0)} == {Point(1)}
    assert replace(Point(1), y=2) == Point(1, 2) != Point(1)


def test_a_value_has_its_fields_alone() -> None:
    """There is no room for anything that is not a field."""
    with pytest.raises(AttributeError):
        Point(1).z = 3  # type: ignore[attr-defined]  # that is the point
