"""The judge of the torture: which event belongs to which entry of the provider's books."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from tests.torture.judge import Ledger, Matches, match
from tests.torture.shots import Leave, Shot
from tests.upstreams.books import Entry, State

NOON = 1_800_000_000.0


def shot(number: int, sent: float) -> Shot:
    return Shot(number, "k", stream=True, max_tokens=16, leave=Leave.NEVER, sent_at=NOON + sent)


def entry(generation: str, opened: float, state: State = "client_closed") -> Entry:
    return Entry(generation, "/chat/completions", None, {}, NOON + opened, state=state)


def event(at: float, **values: Any) -> dict[str, Any]:
    moment = datetime.fromtimestamp(NOON + at, UTC)
    return {
        "_id": f"req-{at}",
        "kind": "usage",
        "keyId": "key",
        "generationId": None,
        "outcome": "unknown",
        "at": moment,
        **values,
    }


def compared(entries: list[Entry], shots: list[Shot], events: list[dict[str, Any]]) -> Matches:
    world: Any = SimpleNamespace(
        shots=shots, keys={"k": SimpleNamespace(id="key")}, entry_of=lambda shot: entries[shot.number]
    )
    return match(world, Ledger(events, [], []))


def matched(
    entries: list[Entry], shots: list[Shot], events: list[dict[str, Any]]
) -> tuple[list[str], list[str]]:
    """Return which entries have an event, and which have none."""
    found = compared(entries, shots, events)
    having = sorted(pair[0].generation_id for pair in found.pairs)
    return having, [each.generation_id for each in found.missing]


def test_events_are_given_so_that_nobody_goes_without() -> None:
    """Of two that were killed at once, the one with the wider window does not take the other one's event."""
    entries, shots = [entry("a", 0.95), entry("b", 1.02)], [shot(0, 0.73), shot(1, 1.0)]
    events = [event(1.0), event(0.74)]
    for order in (events, events[::-1]):
        assert matched(entries, shots, order) == (["a", "b"], [])


def test_one_without_an_event_is_missing() -> None:
    """One event is not enough for two, nor is one that is of another time, or has ended otherwise."""
    entries, shots = [entry("a", 0.95), entry("b", 1.02)], [shot(0, 0.73), shot(1, 1.0)]
    assert matched(entries, shots, [event(0.9)]) == (["a"], ["b"])
    assert matched(entries, shots, [event(0.9), event(5)]) == (["a"], ["b"])
    assert matched(entries, shots, [event(0.9), event(1.0, outcome="completed")]) == (["a"], ["b"])


def test_the_event_of_a_failure_keeps_its_place() -> None:
    """A provider that fails says no id either: the event of one that was killed just then goes to the other entry."""
    entries = [entry("failed", 0.1, "failed"), entry("killed", 0.4)]
    shots = [shot(0, 0.0), shot(1, 0.0)]
    events = [event(0.05), event(0.06, outcome="upstream_error")]
    for order in (events, events[::-1]):
        assert matched(entries, shots, order) == (["failed", "killed"], [])
        assert compared(entries, shots, order).unfounded == []


def test_a_second_event_of_one_generation_is_seen() -> None:
    """An id of a request of its own does not make it another generation."""
    once, twice = event(1.0, generationId="a"), event(1.5, generationId="a")
    found = compared([entry("a", 0.95)], [shot(0, 0.73)], [once, twice])
    assert found.doubled == ["a"]
    assert [pair[2] for pair in found.pairs] == [once]
    assert compared([entry("b", 0.95)], [shot(0, 0.73)], [once, twice]).doubled == ["a"]
