"""The judge of the torture: which event belongs to which entry of the provider's books."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from tests.torture.judge import Ledger, match
from tests.torture.shots import Leave, Shot
from tests.upstreams.books import Entry

NOON = 1_800_000_000.0


def shot(number: int, sent: float) -> Shot:
    return Shot(number, "k", stream=True, max_tokens=16, leave=Leave.NEVER, sent_at=NOON + sent)


def entry(generation: str, opened: float) -> Entry:
    return Entry(generation, "/chat/completions", None, {}, NOON + opened, state="client_closed")


def event(at: float, **values: Any) -> dict[str, Any]:
    moment = datetime.fromtimestamp(NOON + at, UTC)
    return {
        "kind": "usage",
        "keyId": "key",
        "generationId": None,
        "outcome": "unknown",
        "at": moment,
        **values,
    }


def matched(
    entries: list[Entry], shots: list[Shot], events: list[dict[str, Any]]
) -> tuple[list[str], list[str]]:
    """Return which entries have an event, and which have none."""
    world: Any = SimpleNamespace(
        shots=shots, keys={"k": SimpleNamespace(id="key")}, entry_of=lambda shot: entries[shot.number]
    )
    found = match(world, Ledger(events, [], []))
    return [pair[0].generation_id for pair in found.pairs], [each.generation_id for each in found.missing]


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
