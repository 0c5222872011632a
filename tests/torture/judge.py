"""The judgement: what the provider's books, the clients and the database say has to be one story.

It shares no code with the meter: sums are made here, from the raw documents.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bson.decimal128 import Decimal128

from proxy.database import Database
from tests.torture.shots import Phase, Shot, number_of
from tests.torture.world import World
from tests.upstreams import Entry

_CLOCKS_SECONDS = 0.25
Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that has to hold, and what was found."""

    text: str
    finding: str
    holds: bool


@dataclass
class Ledger:
    """What the database says."""

    events: list[dict[str, Any]]
    accounts: list[dict[str, Any]]
    rollups: list[dict[str, Any]]

    @classmethod
    async def read(cls, store: Database) -> Ledger:
        """Read everything."""
        collections = ("usageevents", "accounts", "rollups")
        return cls(*[await store[name].find().to_list() for name in collections])

    @property
    def usage(self) -> list[dict[str, Any]]:
        """Return the events of requests, without those about workers, and corrections."""
        return [event for event in self.events if event["kind"] == "usage"]


@dataclass(frozen=True)
class Matches:
    """Which event belongs to which entry of the provider's books."""

    pairs: list[tuple[Entry, Shot, Document]]
    missing: list[Entry]
    doubled: list[str]
    unfounded: list[Document]


def judge(world: World, ledger: Ledger, *, has_journal: bool = True) -> list[Claim]:
    """Judge a world at rest; without a journal what a dead process had open can only be estimated."""
    matches = match(world, ledger)
    return [
        _one_event_each(world, matches),
        _none_unfounded(world, matches),
        _exact(matches, has_journal=has_journal),
        _heads_exact(matches, has_journal=has_journal),
        _budgets_kept(world),
        _counters_equal_events(ledger),
        _nothing_held(ledger),
        _rollups_equal_events(ledger),
        _refused_reached_nobody(world),
        _no_good_key_refused(world),
    ]


def match(world: World, ledger: Ledger) -> Matches:
    """Find the event of every entry: by the provider's id, and where that never arrived, by key and time."""
    by_generation: dict[str, list[Document]] = defaultdict(list)
    others: dict[str, list[Document]] = defaultdict(list)
    for event in ledger.usage:
        if event["generationId"]:
            by_generation[event["generationId"]].append(event)
        else:
            others[event["keyId"]].append(event)
    pairs, unmatched, doubled, placed = [], [], [], set()
    for shot in world.shots:
        entry = world.entry_of(shot)
        if entry is None:
            continue
        found = by_generation.pop(entry.generation_id, [])
        pairs += [(entry, shot, known) for known in found[:1]]
        doubled += [entry.generation_id for _ in found[1:]]
        if not found:
            unmatched.append((entry, shot))
    for key, events in others.items():
        waiting = [pair for pair in unmatched if world.keys[pair[1].key].id == key]
        fitting = [[at for at, pair in enumerate(waiting) if _may_be(known, *pair)] for known in events]
        for at, number in assigned(fitting).items():
            unmatched.remove(waiting[at])
            pairs.append((*waiting[at], events[number]))
            placed.add(events[number]["_id"])
    doubled += [generation for generation, events in by_generation.items() if len(events) > 1]
    missing = [entry for entry, _ in unmatched]
    strangers = [event for events in by_generation.values() for event in events]
    strangers += [event for events in others.values() for event in events if event["_id"] not in placed]
    return Matches(pairs, missing, doubled, strangers)


def assigned(fitting: Sequence[Sequence[int]]) -> dict[int, int]:
    """Give each seeker one of the places that fit him, and as many seekers a place as is possible.

    Returns which seeker has which place. Whoever finds his places taken asks those who have them to move on, in turn
    (an augmenting path): giving each the best place that is left would let an event that fits two entries take the only
    one that fits another.
    """
    holders: dict[int, int] = {}

    def find(seeker: int, asked: set[int]) -> bool:
        for place in fitting[seeker]:
            if place not in asked:
                asked.add(place)
                if place not in holders or find(holders[place], asked):
                    holders[place] = seeker
                    return True
        return False

    for seeker in range(len(fitting)):
        find(seeker, set())
    return holders


def planted(world: World, ledger: Ledger, judgement: Callable[[World, Ledger], list[Claim]]) -> Claim:
    """Show that the judgement sees an event that was dropped, a hold that was never returned, a double count."""
    caught = []
    for plant in (_drop_event, _keep_hold, _count_twice):
        spoiled = copy.deepcopy(ledger)
        plant(spoiled)
        if any(not claim.holds for claim in judgement(world, spoiled)):
            caught.append(plant.__name__.strip("_").replace("_", " "))
    return Claim(
        "the check sees planted defects", f"{len(caught)} of 3: {', '.join(caught)}", len(caught) == 3
    )


def _drop_event(ledger: Ledger) -> None:
    ledger.events.remove(next(event for event in ledger.usage if event["generationId"]))


def _keep_hold(ledger: Ledger) -> None:
    account = next(account for account in ledger.accounts if account.get("c"))
    next(iter(account["c"].values()))["l"] += 1


def _count_twice(ledger: Ledger) -> None:
    event = next(event for event in ledger.usage if any(event["windows"].values()))
    account = next(account for account in ledger.accounts if account["_id"] == event["userId"])
    for counter, amount in event["windows"].items():
        account["c"][counter]["u"] += amount


def _near(entry: Entry, events: Sequence[Document]) -> str:
    seen = sorted((event["at"].timestamp() - entry.opened, event["outcome"]) for event in events)
    return ", ".join(f"{time:+.2f} s {outcome}" for time, outcome in seen)


def _may_be(event: Document, entry: Entry, shot: Shot) -> bool:
    if event["outcome"] != "unknown" and entry.state != "failed":
        return False
    at: float = event["at"].timestamp()
    return (shot.sent_at or 0) - _CLOCKS_SECONDS <= at <= entry.opened + _CLOCKS_SECONDS


def _one_event_each(world: World, matches: Matches) -> Claim:
    reached = len(matches.pairs) + len(matches.missing)
    text = "every request that reached the provider has one event"
    finding = f"{len(matches.pairs)} of {reached}"
    if matches.doubled:
        finding += f", {len(matches.doubled)} twice"
    if matches.missing:
        finding += f" (first missing: {_seen(matches.missing[0])}; unfounded {_near(matches.missing[0], matches.unfounded)})"
    return Claim(text, finding, not matches.missing and not matches.doubled and reached > 0)


def _none_unfounded(world: World, matches: Matches) -> Claim:
    """An event without an entry is one of a request that was open when its gateway was killed, and says so."""
    wrong = [event for event in matches.unfounded if event["outcome"] != "unknown"]
    killed = sum(shot.was_open_at_kill for shot in world.shots)
    finding = f"{len(matches.unfounded)} events of requests killed on their way"
    if wrong:
        finding += f", {len(wrong)} of nothing"
    return Claim("no event without a request", finding, not wrong and len(matches.unfounded) <= killed)


def _exact(matches: Matches, *, has_journal: bool) -> Claim:
    wrong, exact, estimated = [], 0, 0
    for entry, _, event in matches.pairs:
        if event["estimated"]:
            estimated += 1
            # Who knows the provider's id has asked for its record; direct metering forgets it in mid-request.
            if event["generationId"]:
                wrong.append((event, entry))
        elif _equals(event, entry):
            exact += 1
        else:
            wrong.append((event, entry))
    finding = f"{exact} exact, {estimated} estimated, {len(wrong)} wrong"
    if wrong:
        finding += f" (first {_both(*wrong[0])})"
    return Claim("events equal the provider's books to the last digit", finding, not wrong and exact > 0)


def _heads_exact(matches: Matches, *, has_journal: bool) -> Claim:
    """Of an open request whose answer had begun, the journal knows the provider's id, and so what it has cost."""
    text = "open requests of the killed whose head had arrived are exact"
    if not has_journal:
        return Claim(text, "not asked of direct metering", holds=True)
    heads = [
        (event, entry)
        for entry, shot, event in matches.pairs
        if shot.was_open_at_kill and (shot.has_bytes or (event["generationId"] and not shot.is_done))
    ]
    exact = sum(not event["estimated"] and _equals(event, entry) for event, entry in heads)
    return Claim(text, f"{exact} of {len(heads)}", exact == len(heads))


def _both(event: Document, entry: Entry) -> str:
    cost = event["costUsd"] and event["costUsd"].to_decimal()
    said = f"{event['_id']} {event['outcome']}, {event['tokens']['prompt']} + {event['tokens']['completion']}, {cost}"
    return f"{said}, {event['costSource']}, estimated {event['estimated']}; provider: {_seen(entry)}"


def _seen(entry: Entry) -> str:
    tokens = f"{entry.prompt_tokens} + {entry.completion_tokens}"
    return f"shot {number_of(entry)}, {entry.generation_id}, {entry.state} {entry.status}, {tokens}, {entry.cost}"


def _equals(event: Document, entry: Entry) -> bool:
    cost: Decimal128 | None = event["costUsd"]
    if cost is None or cost.to_decimal() != entry.cost:
        return False
    if entry.state == "failed":
        return True  # the provider bills nothing, and counts what it likes
    tokens = event["tokens"]
    return bool(tokens["prompt"] == entry.prompt_tokens and tokens["completion"] == entry.completion_tokens)


def _budgets_kept(world: World) -> Claim:
    spent: dict[str, Decimal] = defaultdict(Decimal)
    for shot in world.shots:
        entry = world.entry_of(shot)
        if entry is not None:
            spent[shot.key] += entry.cost or 0
    limited = {name: key.budget for name, key in world.keys.items() if key.budget is not None}
    finding = ", ".join(f"{spent[name]:f} of {budget:f} USD" for name, budget in limited.items())
    holds = all(spent[name] <= budget for name, budget in limited.items())
    return Claim("the provider's books never exceed a budget", finding or "no budget", holds)


def _counters_equal_events(ledger: Ledger) -> Claim:
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for event in ledger.events:
        for counter, amount in event["windows"].items():
            sums[event["userId"], counter] += amount
        totals = event["tokens"]["prompt"] + event["tokens"]["completion"]
        sums[event["userId"], "requests"] += event["requests"]
        sums[event["userId"], "tokens"] += totals
        sums[event["userId"], "usdPico"] += event["costPico"]
    counted: dict[tuple[str, str], int] = defaultdict(int)
    for account in ledger.accounts:
        for counter, found in account.get("c", {}).items():
            counted[account["_id"], counter] = int(found["u"])
        for total in ("requests", "tokens", "usdPico"):
            counted[account["_id"], total] = int(account.get("t", {}).get(total, 0))
    wrong = [name for name in {*sums, *counted} if sums[name] != counted[name]]
    finding = f"{len({*sums, *counted}) - len(wrong)} counters, drift {len(wrong)}"
    if wrong:
        finding += f" (first {wrong[0][1]}: {counted[wrong[0]]}, should be {sums[wrong[0]]})"
    return Claim("counters equal events", finding, not wrong)


def _nothing_held(ledger: Ledger) -> Claim:
    held = Counter[str]()
    for account in ledger.accounts:
        held["leased"] += sum(found["l"] != 0 for found in account.get("c", {}).values())
        held["holds"] += len(account.get("h", ()))
        held["entries"] += sum(not entry.get("lost") for entry in account.get("j", {}).values())
    return Claim("at rest nothing is held", f"{held.total()} held", held.total() == 0)


def _rollups_equal_events(ledger: Ledger) -> Claim:
    expected, found = Counter[str](), Counter[str]()
    for event in ledger.events:
        for place in (f"key {event['keyId']}" if event["keyId"] else None, f"user {event['userId']}"):
            if place is not None:
                expected[f"{place} requests"] += event["requests"]
                expected[f"{place} completion"] += event["tokens"]["completion"]
                expected[f"{place} usdPico"] += event["costPico"]
    for rollup in ledger.rollups:
        place = f"key {rollup['keyId']}" if "keyId" in rollup else f"user {rollup['userId']}"
        if "keyId" in rollup or "day" in rollup:
            for name in ("requests", "completion", "usdPico"):
                found[f"{place} {name}"] += rollup.get(name, 0)
    wrong = [name for name in {*expected, *found} if expected[name] != found[name]]
    finding = f"{len(found)} sums, drift {len(wrong)}"
    if wrong:
        finding += f" (first {wrong[0]}: {found[wrong[0]]}, should be {expected[wrong[0]]})"
    return Claim("roll-ups equal events", finding, not wrong)


def _refused_reached_nobody(world: World) -> Claim:
    refused = [shot for shot in world.shots if shot.status in (401, 402, 403, 429, 503)]
    reached = [shot for shot in refused if world.entry_of(shot) is not None and not shot.was_open_at_kill]
    return Claim("who is refused has not reached the provider", f"{len(refused)} refused", not reached)


def _no_good_key_refused(world: World) -> Claim:
    statuses = Counter(shot.status for shot in world.shots)
    broken = {status: count for status, count in statuses.items() if status in (401, 403, 500)}
    shown = ", ".join(f"{count} x {status or 'none'}" for status, count in _sorted(statuses.items()))
    return Claim("no good key is answered 401, nobody 500", shown, not broken)


def _sorted(items: Iterable[tuple[int | None, int]]) -> Sequence[tuple[int | None, int]]:
    return sorted(items, key=lambda item: item[0] or 0)


def phases_claim(phases: Mapping[Phase, int], caught: int) -> Claim:
    """Say in which phase each kill has landed; at least half have to hit a request in its middle."""
    total = sum(phases.values())
    middle = sum(phases.get(phase, 0) for phase in Phase if phase is not Phase.IDLE)
    shown = ", ".join(f"{phases.get(phase, 0)} {phase}" for phase in Phase)
    return Claim(
        "at least half of the kills land in the middle of a request",
        f"{shown}; {caught} requests caught",
        2 * middle >= total,
    )
