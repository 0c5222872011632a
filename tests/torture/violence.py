"""What is done to a world: load, kills that are aimed at a phase of a request, and a watch over every limit."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from proxy import background
from tests.torture.judge import Claim
from tests.torture.shots import Phase, Shot
from tests.torture.world import World

_AIM_SECONDS = 1.0
_AIMS = (
    Phase.BEFORE_UPSTREAM,
    Phase.WAITING,
    Phase.WAITING,
    Phase.STREAMING,
    Phase.STREAMING,
    Phase.SETTLING,
    Phase.SETTLING,
    Phase.IDLE,
)


class Load:
    """Clients that ask again and again, of gateways and with keys chosen at random."""

    def __init__(self, world: World, keys: Sequence[str], clients: int, *, pause: float = 0.0) -> None:
        """Ask with these keys, and rest for a while between two requests."""
        self._pause = pause
        self._world = world
        self._keys = keys
        self._clients = clients
        self._is_over = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask until the block ends, and then wait for the answers."""
        tasks = [asyncio.create_task(self._ask_for_ever()) for _ in range(self._clients)]
        try:
            yield
        finally:
            self._is_over = True
            await asyncio.gather(*tasks)

    async def _ask_for_ever(self) -> None:
        dice = self._world.dice
        while not self._is_over:
            shot = await self._world.fire(self._world.shot(dice.choice(self._keys)))
            if self._pause:
                await asyncio.sleep(2 * self._pause * dice.random())
            elif shot.status != 200:
                await asyncio.sleep(0.2 + 0.2 * dice.random())


class Killer:
    """Kills gateways and starts them again at once; remembers where each kill has landed."""

    def __init__(self, world: World) -> None:
        """Kill in this world."""
        self._world = world
        self._reviving: dict[int, asyncio.Task[None]] = {}
        self.phases: Counter[Phase] = Counter()
        self.caught = 0

    async def kill_gateway(self) -> None:
        """Aim at a phase, wait until a request is there, and kill its gateway."""
        aim = self._world.dice.choice(_AIMS)
        victim = await self._find(aim)
        landed = self._world.phases(victim, time.time())
        self._world.gateways[victim].kill()
        found = {phase for _, phase in landed}
        self.phases[aim if aim in found else next(iter(found), Phase.IDLE)] += 1
        self.caught += len(landed)
        for shot, _ in landed:
            shot.was_open_at_kill = True
        self._world.gateways[victim].start()
        self._reviving[victim] = asyncio.create_task(self._world.gateways[victim].wait_until_ready())

    async def kill_mongod(self) -> None:
        """Kill the database's primary, and start it again at once."""
        primary = await asyncio.to_thread(self._world.mongods.primary)
        if primary is not None:
            await asyncio.to_thread(primary.kill)
            primary.start()

    async def settle_down(self) -> None:
        """Wait until every gateway serves again."""
        await asyncio.gather(*self._reviving.values())
        self._reviving.clear()

    async def _find(self, aim: Phase) -> int:
        """Return a gateway that serves and has a request in this phase; after a second, any that serves."""
        deadline = time.time() + _AIM_SECONDS
        while True:
            ready = [
                number
                for number in range(len(self._world.gateways))
                if number not in self._reviving or self._reviving[number].done()
            ]
            for number in self._world.dice.sample(ready, len(ready)):
                phases = {phase for _, phase in self._world.phases(number, time.time())}
                if aim in phases or (aim is Phase.IDLE and not phases):
                    return number
            if ready and time.time() > deadline:
                return self._world.dice.choice(ready)
            await asyncio.sleep(0.001)


@asynccontextmanager
async def watched(world: World, claims: list[Claim], counter: str, limit: int) -> AsyncIterator[None]:
    """Look at a limit all the time: what is used and leased never exceeds it, and the leases are somebody's."""
    worst, looks, torn = 0, 0, 0

    async def watch() -> None:
        nonlocal worst, looks, torn
        while True:
            async for account in world.store["accounts"].find({f"c.{counter}": {"$exists": True}}):
                found = account["c"][counter]
                holders = [
                    entry.get("s", {}) for entry in account.get("j", {}).values() if not entry.get("lost")
                ]
                holders += [hold["s"] for hold in account.get("h", ())]
                worst, looks = max(worst, found["u"] + found["l"]), looks + 1
                torn += found["l"] != sum(holder.get(counter, 0) for holder in holders) or found["l"] < 0
            await asyncio.sleep(0.02)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        await background.end([task])
    finding = f"at most {worst} of {limit} in {looks} looks"
    holds = worst <= limit and torn == 0 and looks > 0
    claims.append(Claim("used + leased <= limit at every moment", finding, holds))


def open_now(world: World, gateway: int | None = None) -> list[Shot]:
    """Return the requests that clients wait for."""
    return [
        shot for shot in world.shots if shot.is_under_way and (gateway is None or shot.gateway == gateway)
    ]
