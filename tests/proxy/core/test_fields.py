"""Tests of proxy/core/fields.py: what a body may be made of, before anything of it is read."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.fields import MOST_CONTAINERS, MOST_VALUES, decode
from proxy.errors import InvalidRequest

MANY_BRACKETS = "[{," * MOST_VALUES
texts = st.text(st.sampled_from('[{,"\\/}n]:x'), max_size=8)
trees = st.recursive(
    st.none() | st.integers(0, 9) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def is_taken(raw: bytes) -> bool:
    """Say whether a body is read, and not refused for having too many values."""
    try:
        decode(raw)
    except InvalidRequest as exc:
        return "100,000 objects and lists" not in exc.message
    return True


def count(tree: Any) -> tuple[int, int]:
    """Return how many objects and lists a tree has, and how many commas stand between its values."""
    if not isinstance(tree, dict | list):
        return 0, 0
    counts = [count(child) for child in (tree.values() if isinstance(tree, dict) else tree)]
    openings, commas = (sum(each) for each in zip(*counts, (0, 0), strict=True))
    return openings + 1, commas + max(0, len(counts) - 1)


def test_bounds_are_exact() -> None:
    """So many objects, lists and values are taken, and one more is not."""
    for more in (0, 1):
        assert is_taken(b'{"x":[' + b"{}," * (MOST_CONTAINERS - 3 + more) + b"{}]}") == (not more)
        assert is_taken(b'{"x":[' + b"[]," * (MOST_CONTAINERS - 3 + more) + b"[]]}") == (not more)
        assert is_taken(b'{"x":[' + b"0," * (MOST_VALUES - 2 + more) + b"0]}") == (not more)
        assert is_taken(b'{"x":[' + b'"",' * (MOST_VALUES - 2 + more) + b'""]}') == (not more)


@given(tree=trees)
@settings(max_examples=8, deadline=None)
def test_text_counts_for_nothing(tree: Any) -> None:
    """Brackets, commas and escapes within strings change nothing of how many values there may be."""
    openings, commas = count(tree)
    most = (MOST_VALUES - 2) // (
        openings + commas + 1
    )  # the body has an object, a list and a comma of its own
    if openings:
        most = min(most, (MOST_CONTAINERS - 2) // openings)
    for copies in (most, most + 1):
        body = {"text": MANY_BRACKETS, "x": [tree] * copies}
        assert is_taken(orjson.dumps(body)) == (copies == most)


@pytest.mark.parametrize("part", [b"{}", b"[]", b"0", b'""', b'{"type":"text","text":""}'])
def test_too_much_is_refused_at_once(part: bytes) -> None:
    """20 MB of next to nothing take a fraction of a second to refuse, where reading them takes many."""
    raw = (
        b'{"messages":[{"role":"user","content":['
        + (part + b",") * (20_000_000 // (len(part) + 1))
        + b"0]}]}"
    )
    began = time.process_time()
    assert not is_taken(raw)
    assert time.process_time() - began < 3
