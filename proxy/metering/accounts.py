"""Reading account documents: what is used and held of each counter, and in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pymongo.asynchronous.collection import AsyncCollection

from proxy.core.pricing import from_pico
from proxy.core.rules import Kind, Period, counter_name, kind_of
from proxy.metering.contract import Standing
from proxy.metering.event import whole


def taken(counter: str) -> dict[str, Any]:
    """Return the expression for what is used and held of a counter."""
    return {"$add": [{"$ifNull": [f"$c.{counter}.u", 0]}, {"$ifNull": [f"$c.{counter}.l", 0]}]}


def used_and_held(account: Mapping[str, Any], counter: str) -> tuple[int, int]:
    """Return what is used and what is held of a counter."""
    found = account.get("c", {}).get(counter, {})
    return int(found.get("u", 0)), int(found.get("l", 0))


def booked_of(entry: Mapping[str, Any]) -> dict[str, int]:
    """Return what of a lost worker's entry counts as used: everything but the places of requests that are long over."""
    leased = entry.get("s", {}).items()
    return {counter: int(amount) for counter, amount in leased if kind_of(counter) is not Kind.CONCURRENCY}


async def standings_of(
    accounts: AsyncCollection[dict[str, Any]], user_ids: Sequence[str], at: datetime
) -> dict[str, Standing]:
    """Read what users have used, by their ids; nothing where there is no account yet. Raises `PyMongoError`."""
    found = accounts.find({"_id": {"$in": list(user_ids)}}, {"c": 1, "t": 1})
    by_id = {str(account["_id"]): account async for account in found}
    return {user_id: standing_of(by_id.get(user_id, {}), at) for user_id in user_ids}


def standing_of(account: Mapping[str, Any], at: datetime) -> Standing:
    """Read a user's standing from his account document."""
    totals = account.get("t", {})

    def used(kind: Kind, period: Period) -> int:
        return used_and_held(account, counter_name(kind, period, at))[0]

    return Standing(
        daily_requests=used(Kind.REQUESTS, Period.DAY),
        monthly_requests=used(Kind.REQUESTS, Period.MONTH),
        monthly_tokens=used(Kind.TOKENS, Period.MONTH),
        requests=totals.get("requests", 0),
        tokens=totals.get("tokens", 0),
        cost_usd=from_pico(totals.get("usdPico", 0)),
        cost_inr=from_pico(whole(totals.get("inrPico", 0))),
        counters={counter: used_and_held(account, counter) for counter in account.get("c", {})},
    )
