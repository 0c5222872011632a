"""Tests of proxy/core/keyring.py: whose turn it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.keyring import Keyring


def test_keys_take_turns() -> None:
    """Keys come in turn, and without any there is none."""
    ring = Keyring(["a", "b", "c"])
    assert [ring.take(0) for _ in range(5)] == ["a", "b", "c", "a", "b"]
    assert Keyring([]).take(0) is None


def test_a_key_is_set_aside_for_a_while() -> None:
    """A key that is set aside is passed over until its time is over, or until it is known to work."""
    ring = Keyring(["a", "b", "c"])
    ring.set_aside("b", 0, 10, was_refused=True)
    assert [ring.take(1) for _ in range(4)] == ["a", "c", "a", "c"]
    assert ring.count_set_aside(1) == 1
    assert "b" in [ring.take(10) for _ in range(3)]
    ring.set_aside("a", 10, 10, was_refused=True)
    ring.restore("a")
    assert ring.count_set_aside(11) == 0


def test_when_all_are_set_aside_the_least_recently_failed_is_tried() -> None:
    """No key is good, so the one whose failure is oldest is tried, and only that one while nothing changes."""
    ring = Keyring(["a", "b", "c"])
    for now, key in enumerate("bca"):
        ring.set_aside(key, now, 100, was_refused=True)
    assert not any(ring.has_better(key, 5) for key in "abc")
    assert [ring.take(5), ring.take(5)] == ["b", "b"]
    ring.set_aside("b", 6, 100, was_refused=True)
    assert ring.take(7) == "c"


def test_a_limited_key_is_better_than_a_refused_one() -> None:
    """A key that was only limited comes before one that was refused, and behind one that is good."""
    ring = Keyring(["a", "b"])
    ring.set_aside("b", 0, 100, was_refused=False)
    assert ring.has_better("b", 1)
    ring.set_aside("a", 1, 100, was_refused=True)
    assert ring.has_better("a", 2)
    assert not ring.has_better("b", 2)
    assert [ring.take(2), ring.take(2)] == ["b", "b"]


def test_an_unknown_key_is_nobodys() -> None:
    """Setting aside a key that is not on the ring changes nothing."""
    ring = Keyring(["a"])
    ring.set_aside("x", 0, 100, was_refused=True)
    assert ring.take(1) == "a"
    assert not ring.has_better("a", 1)


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans(), st.floats(0, 20))), st.integers(1, 5))
def test_in_any_order(events: list[tuple[float, bool, float]], size: int) -> None:
    """A key always comes; a set-aside one only when all are; good ones come equally often."""
    ring, now = Keyring([str(number) for number in range(size)]), 0.0
    until: dict[str, float] = {}
    for passed, fails, seconds in events:
        now += passed
        key = ring.take(now)
        assert key is not None
        aside = {each for each, end in until.items() if end > now}
        assert key not in aside or len(aside) == size
        if fails:
            ring.set_aside(key, now, seconds, was_refused=now % 2 < 1)
            until[key] = now + seconds
        else:
            ring.restore(key)
            until.pop(key, None)
