"""Meters for tests, and requests for them: the rules without a web server."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from plugins.contract import Price, Usage
from proxy import database
from proxy.clock import utc_now
from proxy.core.bill import Bill, Counted
from proxy.core.limits import UserLimits
from proxy.core.pricing import Charge, CostSource
from proxy.core.rules import Demand, KeyLimits
from proxy.database import Database
from proxy.documents import ACCOUNTS, EVENTS, Outcome
from proxy.metering.contract import Meter, Reservation, Settlement, Want
from proxy.metering.direct import DirectMeter
from proxy.metering.heartbeat import Heartbeat
from proxy.metering.leased import LeasedMeter
from proxy.metering.worker import Worker
from proxy.metrics import Metrics

PLENTY = UserLimits(10**6, 10**7, 10**12)
PRICE = Price(Decimal("0.000001"), Decimal("0.000002"))
RATE = Decimal(83)
USER = "6b03f7404765ff65c84d670c"
KEY = "6b03f7404765ff65c84d670d"
_numbers = itertools.count()


def want(**values: Any) -> Want:
    """Make a request: 100 prompt tokens, 50 output tokens, for a user with plenty."""
    number = next(_numbers)
    defaults: dict[str, Any] = {
        "request_id": f"req_{number:08d}_{id(want):x}",
        "user_id": USER,
        "key_id": KEY,
        "session_id": None,
        "at": datetime.now(UTC),
        "limits": PLENTY,
        "key_limits": None,
        "demand": Demand(100, PRICE),
        "prompt_estimate": 40,
        "output_tokens": 50,
        "choices": 1,
        "requested_model": "some/model",
        "provider": "openrouter",
        "model": "some/model",
        "stream": False,
    }
    return Want(**{**defaults, **values})


def budget(usd: str) -> KeyLimits:
    """Limit a key to so many dollars in all."""
    return KeyLimits(total_budget=Decimal(usd))


def settlement(prompt: int = 60, completion: int = 20, cost: str | None = None, **values: Any) -> Settlement:
    """Settle a request: by default for what it cost at the price that it was held at."""
    usd = prompt * PRICE.prompt + completion * PRICE.completion if cost is None else Decimal(cost)
    defaults: dict[str, Any] = {
        "outcome": Outcome.COMPLETED,
        "bill": Bill(Counted(prompt, completion), Charge(usd, CostSource.PROVIDER, estimated=False)),
        "usd_inr_rate": RATE,
        "provider": "openrouter",
        "model": "some/model",
        "total_ms": 5,
        "attempts": (),
    }
    return Settlement(**{**defaults, **values})


async def reserved(worker: Worker, wanted: Want) -> Reservation:
    """Admit a request, as the meter does."""
    return worker.admit(wanted) or await worker.lease(wanted)


async def nobody_can_tell(_provider: str, _generation_id: str) -> Usage | None:
    """Answer as a provider that keeps no records."""
    return None


@dataclass(frozen=True)
class Books:
    """What the database says, to be compared."""

    database: Database

    async def events(self) -> Sequence[Mapping[str, Any]]:
        """Return every event."""
        return await self.database[EVENTS].find().to_list()

    async def account(self, user: str = USER) -> Mapping[str, Any]:
        """Return an account."""
        return await self.database[ACCOUNTS].find_one({"_id": user}) or {}

    async def assert_exact(self, user: str = USER) -> None:
        """Check that every counter is the sum of its events, and that nothing is held."""
        account = await self.account(user)
        sums: dict[str, int] = {}
        for event in await self.events():
            if event["userId"] == user:
                for counter, amount in event["windows"].items():
                    sums[counter] = sums.get(counter, 0) + amount
        used = {counter: found["u"] for counter, found in account.get("c", {}).items() if found["u"]}
        assert used == {counter: amount for counter, amount in sums.items() if amount}
        assert {counter: found["l"] for counter, found in account.get("c", {}).items() if found["l"]} == {}
        assert not account.get("h")


@asynccontextmanager
async def connected(uri: str) -> AsyncIterator[Books]:
    """Connect for a while."""
    client = database.connect(uri)
    try:
        yield Books(database.database_of(client, "unused"))
    finally:
        await client.close()


@asynccontextmanager
async def leased(
    uri: str, folder: Path, resolve: Any = nobody_can_tell, clock: Callable[[], datetime] = utc_now
) -> AsyncIterator[LeasedMeter]:
    """Run a leased meter for a while."""
    client, beats = database.connect(uri), database.connect(uri, pool_size=1)
    meter = LeasedMeter(
        database.database_of(client, "unused"),
        Heartbeat(database.database_of(beats, "unused"), clock=clock),
        folder,
        resolve,
        Metrics(),
        usd_inr_rate=RATE,
    )
    await meter.start()
    try:
        yield meter
    finally:
        await meter.stop()
        await client.close()
        await beats.close()


@asynccontextmanager
async def direct(uri: str, _folder: Path) -> AsyncIterator[DirectMeter]:
    """Run a direct meter for a while."""
    client = database.connect(uri)
    meter = DirectMeter(database.database_of(client, "unused"), Metrics(), hold_seconds=60, usd_inr_rate=RATE)
    await meter.start()
    try:
        yield meter
    finally:
        await meter.stop()
        await client.close()


METERS = (leased, direct)
AnyMeter = Meter
