"""The trials: each makes a world, does something terrible to it, and claims that nobody was wronged."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from tests.torture.judge import Claim, Ledger, judge, phases_claim, planted
from tests.torture.shots import Leave, Shot
from tests.torture.violence import Killer, Load, watched
from tests.torture.world import DRAINING, World, world
from tests.upstreams import Behaviour

REST_SECONDS = 60.0
PICO = 10**12
_JOURNALS = "home*/journal/*/[0-9a-f]*"


@dataclass(frozen=True)
class Trial:
    """What was done, and what has to hold after it."""

    name: str
    claims: Sequence[Claim]

    @property
    def holds(self) -> bool:
        """Say whether all of it holds."""
        return all(claim.holds for claim in self.claims)


async def spend(folder: Path, dice: random.Random, *, parallel: int = 500, gateways: int = 3) -> Trial:
    """Hundreds at once on a key whose budget is for about a hundred."""
    claims: list[Claim] = []
    async with world(folder, dice) as made:
        # An answer costs 0.00001 USD or so; a hold is several times that.
        key = await made.add_key("spender", totalBudget=Decimal("0.001"))
        await made.start_gateways(gateways)
        async with watched(made, claims, f"Ce_0_{key.id}", PICO // 1000):
            for _ in range(3):
                shots = [made.shot("spender") for _ in range(parallel)]
                await asyncio.gather(*(made.fire(shot) for shot in shots))
        claims += await _rest(made)
    return Trial(f"{parallel} at once, three times, a budget for about 100, {gateways} gateways", claims)


async def kill(  # noqa: PLR0913  the sizes of a trial
    folder: Path,
    dice: random.Random,
    *,
    kills: int = 100,
    mongod_kills: int = 10,
    gateways: int = 3,
    metering: str = "leased",
    clients: int = 14,
) -> Trial:
    """`kill -9` of gateways and of mongod at random moments, under load."""
    claims: list[Claim] = []
    is_leased = metering == "leased"
    judged = functools.partial(judge, has_journal=is_leased)
    async with world(folder, dice) as made:
        budget = Decimal("0.0001") * (kills + 10)
        spender = await made.add_key("spender", totalBudget=budget)
        await made.add_key("plenty")
        await made.add_key(
            "fifty", user={"dailyRequests": 50, "monthlyRequests": 1000, "monthlyTokens": 10**6}
        )
        # Without a journal a hold runs out when its request must be over for long: twice this.
        await made.start_gateways(gateways, patience=60 if is_leased else 6, METERING=metering)
        killer = Killer(made)
        limit = int(budget * PICO)
        async with watched(made, claims, f"Ce_0_{spender.id}", limit):
            async with Load(made, ("spender", "plenty", "plenty", "fifty"), clients).running():
                await _kill_at_random(killer, dice, kills, mongod_kills)
            await killer.settle_down()
        claims.append(phases_claim(killer.phases, killer.caught))
        ledger, rest = await _rest_and_judge(made, judged)
        claims += rest
        claims.append(planted(made, ledger, judged))
    name = f"kill -9 of gateways x {kills}, of mongod x {mongod_kills}, {gateways} gateways, {metering}"
    return Trial(name, claims)


async def freeze_mongod(folder: Path, dice: random.Random, *, seconds: float = 20.0) -> Trial:
    """SIGSTOP of mongod under load: running streams go on, new requests live on leases, then get 503."""
    async with world(folder, dice) as made:
        await made.add_key("plenty")
        slow = [f"slow{number}" for number in range(8)]
        for name in slow:
            await made.add_key(name)
        await made.start_gateways(2)
        pieces = int((seconds + 8) / 0.2)
        long = Behaviour(pieces=pieces, delay_between=0.2, provider=DRAINING)
        made.upstream.script.enqueue(long, times=6)
        streams = [
            made.shot("plenty", stream=True, max_tokens=pieces, leave=Leave.NEVER, gateway=at % 2)
            for at in range(6)
        ]
        running = [asyncio.create_task(made.fire(shot)) for shot in streams]
        await made.upstream.books.until(lambda books: len(books) >= 6)
        async with Load(made, ("plenty",), 4).running(), Load(made, slow, 4, pause=1.0).running():
            await asyncio.sleep(4)
            frozen_at = time.time()
            made.mongods.members[0].freeze()
            await asyncio.sleep(seconds)
            made.mongods.members[0].thaw()
            thawed_at = time.time()
            await asyncio.sleep(5)
        await asyncio.gather(*running)
        claims = [*_outage_claims(made.shots, frozen_at, thawed_at), _streams_claim(streams)]
        claims += await _rest(made)
    return Trial(f"SIGSTOP of mongod for {seconds:.0f} s, 2 gateways", claims)


async def freeze_gateway(folder: Path, dice: random.Random, *, seconds: float = 45.0) -> Trial:
    """SIGSTOP of a gateway until the others give it up; it wakes up to find itself lost, and corrects."""
    async with world(folder, dice) as made:
        await made.add_key("plenty")
        await made.add_key("spender", totalBudget=Decimal("0.05"))
        await made.start_gateways(2)
        async with Load(made, ("plenty", "spender"), 6).running():
            await asyncio.sleep(3)
            made.gateways[0].freeze()
            await asyncio.sleep(seconds)
            lost = await made.store["usageevents"].count_documents({"kind": "lost"})
            made.gateways[0].thaw()
            await asyncio.sleep(4)
        claims = [Claim("what a silent worker had leased is booked", f"{lost} bookings", lost > 0)]
        ledger, rest = await _rest_and_judge(made, judge)
        corrected = sum(event["kind"] == "correction" for event in ledger.events)
        claims.append(
            Claim("when it wakes up, every booking is corrected", f"{corrected} of {lost}", corrected == lost)
        )
        claims += rest
    return Trial(f"SIGSTOP of a gateway for {seconds:.0f} s, 2 gateways", claims)


async def fail_over(folder: Path, dice: random.Random, *, times: int = 3) -> Trial:
    """`kill -9` of the primary of three members under load: another takes over, nothing is lost."""
    claims: list[Claim] = []
    async with world(folder, dice, members=3) as made:
        spender = await made.add_key("spender", totalBudget=Decimal("0.01"))
        await made.add_key("plenty")
        await made.start_gateways(2)
        killer, primaries = Killer(made), []
        async with (
            watched(made, claims, f"Ce_0_{spender.id}", PICO // 100),
            Load(made, ("plenty", "spender"), 8).running(),
        ):
            for _ in range(times):
                await asyncio.sleep(2 + 2 * dice.random())
                primary = await asyncio.to_thread(made.mongods.primary)
                primaries.append(primary)
                await killer.kill_mongod()
                await asyncio.sleep(5)
        fallen = sum(primary is not None for primary in primaries)
        claims.append(Claim("a primary was killed each time", f"{fallen} of {times}", fallen == times))
        claims += await _rest(made)
    return Trial(f"fail-over in a set of three, kill -9 of the primary x {times}, 2 gateways", claims)


async def cheat(folder: Path, dice: random.Random) -> Trial:
    """A provider that ignores caps and prices: what it charges is booked, flagged, and stops the key."""
    async with world(folder, dice) as made:
        key = await made.add_key("spender", totalBudget=Decimal("0.0004"))
        await made.start_gateways(1)
        cheating = Behaviour(
            pieces=400, honour_max_tokens=False, honour_max_price=False, cost=Decimal("0.0003")
        )
        made.upstream.script.enqueue(cheating, times=50)
        for _ in range(10):
            await made.fire(made.shot("spender", stream=False, leave=Leave.NEVER, max_tokens=30))
        claims = await _rest(made, has_budget=False)
        ledger = await Ledger.read(made.store)
    spent = sum((entry.cost or Decimal(0) for entry in made.upstream.books), Decimal(0))
    budget = key.budget or Decimal(0)
    flagged = sum(event["overHold"] for event in ledger.usage)
    refused = sum(shot.status == 402 for shot in made.shots)
    claims += [
        Claim("the overshoot is reported", f"{spent - budget:f} USD above {budget:f}", spent > budget),
        Claim("and flagged", f"{flagged} of {len(ledger.usage)} events", flagged == len(ledger.usage) > 0),
        Claim("and ends the key's budget", f"{refused} refused with 402", refused == 10 - len(ledger.usage)),
    ]
    return Trial("a provider that ignores caps and max_price", claims)


async def _kill_at_random(killer: Killer, dice: random.Random, kills: int, mongod_kills: int) -> None:
    """Mix the kills; a killed gateway comes back while others are killed."""
    order = [True] * mongod_kills + [False] * kills
    dice.shuffle(order)
    await asyncio.sleep(1)
    for is_mongod in order:
        await asyncio.sleep(0.3 * dice.random())
        await (killer.kill_mongod() if is_mongod else killer.kill_gateway())


async def _rest(made: World, *, has_budget: bool = True) -> list[Claim]:
    _, claims = await _rest_and_judge(made, judge)
    return [claim for claim in claims if has_budget or "budget" not in claim.text]


async def _rest_and_judge(
    made: World, judged: functools.partial[list[Claim]] | object
) -> tuple[Ledger, list[Claim]]:
    """Bring a world to rest, and judge it."""
    assert callable(judged)
    await made.upstream.idle()
    await _at_rest(made)
    statuses = await made.end_gateways()
    ledger = await Ledger.read(made.store)
    journals = list(made.folder.glob(_JOURNALS))
    claims: list[Claim] = judged(made, ledger)
    claims.append(Claim("every gateway ends in order", f"exit statuses {statuses}", not any(statuses)))
    claims.append(Claim("no journal is left", f"{len(journals)} left", not journals))
    return ledger, claims


async def _at_rest(made: World) -> None:
    """Wait until what the dead have left is finished: their journals, or their holds."""
    deadline = time.time() + REST_SECONDS
    while time.time() < deadline:
        journals = len(list(made.folder.glob(_JOURNALS)))
        holds = await made.store["accounts"].count_documents({"h.0": {"$exists": True}})
        if journals <= len(made.gateways) and not holds:
            return
        await asyncio.sleep(0.2)


def _outage_claims(shots: Sequence[Shot], frozen_at: float, thawed_at: float) -> list[Claim]:
    during = [shot for shot in shots if shot.sent_at is not None and frozen_at < shot.sent_at < thawed_at - 2]
    served = [shot.sent_at - frozen_at for shot in during if shot.status == 200 and shot.sent_at]
    refused = [shot for shot in during if shot.status == 503]
    slowest = max((shot.took for shot in refused), default=0.0)
    others = {shot.status for shot in during} - {
        200,
        502,
        503,
        None,
    }  # the provider's own failures are not ours
    last = [shot for shot in shots if shot.sent_at is not None and shot.sent_at > thawed_at + 2.5]
    back = [shot for shot in last if shot.status != 503]
    expected = min(10.0, (thawed_at - frozen_at) / 3)
    return [
        Claim(
            "while leases last, new requests are served",
            f"{len(served)} served, the last {max(served, default=0):.1f} s into the outage",
            max(served, default=0) > expected,
        ),
        Claim(
            "then 503 within 2 s, and nothing else",
            f"{len(refused)} refused, the slowest in {slowest:.2f} s"
            + (f", also {others}" if others else ""),
            slowest < 2.0 and not others,
        ),
        Claim(
            "it recovers by itself", f"{len(back)} of {len(last)} served after", len(back) == len(last) > 0
        ),
    ]


def _streams_claim(streams: Sequence[Shot]) -> Claim:
    done = sum(shot.is_done for shot in streams)
    return Claim("running streams go on to their end", f"{done} of {len(streams)}", done == len(streams))
