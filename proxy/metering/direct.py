"""Metering without a disk: one conditional update before the provider is called, one event and one update after.

The account document of a user holds his counters by window (`c.<window>.u` used, `.l` held) and his open holds
(`h`), so that every rule is decided inside one document. The event is inserted first, under the request's own
id; the hold in the account is the guard that lets it be counted only once. A hold whose process died runs out
and is closed by whoever sweeps first; should its process come back, a correction event makes it right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import structlog
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from proxy.core import limits
from proxy.core.bill import Bill, Counted
from proxy.core.limits import FEWEST_TOKENS
from proxy.core.pricing import Charge, CostSource, from_pico
from proxy.database import Database, lost
from proxy.documents import ACCOUNTS, EVENTS, Outcome
from proxy.errors import GatewayError, RateLimited
from proxy.metering.contract import Reservation, Settlement, Standing, Want
from proxy.metering.event import Event, correction, is_unknown, totals_of, usage_event

SWEEP_SECONDS = 15.0
_SWEEP_BATCH = 100
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.0
log = structlog.get_logger(__name__)


class DirectMeter:
    """The meter that keeps nothing in the process between two requests."""

    def __init__(self, database: Database, *, hold_seconds: float, usd_inr_rate: Decimal) -> None:
        """Use the database's accounts and events; holds run out after `hold_seconds`."""
        self._accounts = database[ACCOUNTS]
        self._events = database[EVENTS]
        self._hold_seconds = hold_seconds
        self._usd_inr_rate = usd_inr_rate
        self._sweeper: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Index the holds, and begin to sweep."""
        await self._accounts.create_index("h.exp", name="holds")
        self._sweeper = asyncio.create_task(self._sweep_for_ever(), name="meter-sweeper")

    async def stop(self) -> None:
        """End the background work; every settlement is awaited by whoever asked for it."""
        tasks = [*self._background, *([self._sweeper] if self._sweeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def reserve(self, want: Want) -> Reservation:
        """Admit a request with one conditional update of its user's account."""
        try:
            account = await self._hold(want)
            if account is None:
                await self._open_account(want.user_id)
                account = await self._hold(want)
            if account is None:
                raise await self._refusal(want)
        except PyMongoError as exc:
            # The hold may or may not have been written; nobody will ever settle it.
            self._in_background(self._give_back(want))
            raise lost(exc) from exc
        held = next(hold["s"] for hold in account["h"] if hold["_id"] == want.request_id)
        tokens = held[limits.windows(want.at).monthly_tokens]
        cap = min(want.output_tokens, (tokens - want.prompt_tokens) // want.choices)
        return Reservation(want, held, cap)

    async def settle(self, reservation: Reservation, settlement: Settlement) -> None:
        """Write the event and then count it, however often the database has to be asked."""
        event = usage_event(reservation, settlement)
        await self._insist(lambda: self._record(event), event["_id"])

    async def refund(self, reservation: Reservation) -> None:
        """Give the whole hold back, however often the database has to be asked."""
        await self._give_back(reservation.want)

    async def standing(self, user_id: str, at: datetime) -> Standing:
        """Read a user's account."""
        try:
            account = await self._accounts.find_one({"_id": user_id}, {"c": 1, "t": 1}) or {}
        except PyMongoError as exc:
            raise lost(exc) from exc
        names, counters, totals = limits.windows(at), account.get("c", {}), account.get("t", {})
        used = {name: counters.get(name, {}).get("u", 0) for name in (*names,)}
        return Standing(
            daily_requests=used[names.daily_requests],
            monthly_requests=used[names.monthly_requests],
            monthly_tokens=used[names.monthly_tokens],
            requests=totals.get("requests", 0),
            tokens=totals.get("tokens", 0),
            cost_usd=from_pico(totals.get("usdPico", 0)),
            cost_inr=from_pico(totals.get("inrPico", 0)),
        )

    async def sweep(self, now: datetime) -> int:
        """Close the holds that ran out before `now`; return how many there were."""
        closed = 0
        cursor = self._accounts.find({"h.exp": {"$lt": now}}, {"h": 1}).limit(_SWEEP_BATCH)
        async for account in cursor:
            for hold in account["h"]:
                if hold["exp"] < now:
                    await self._close(str(account["_id"]), hold)
                    closed += 1
        return closed

    async def _give_back(self, want: Want) -> None:
        await self._insist(lambda: self._count(want.user_id, want.request_id, None), want.request_id)

    async def _insist(self, step: Callable[[], Awaitable[None]], request_id: str) -> None:
        """Repeat a guarded step until the database has answered it."""
        delay = _FIRST_DELAY
        while True:
            try:
                await step()
            except PyMongoError as exc:
                log.warning("settling waits for the database", request=request_id, cause=str(exc)[:200])
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY)
            else:
                return

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _hold(self, want: Want) -> dict[str, Any] | None:
        names = limits.windows(want.at)
        most = {
            names.daily_requests: want.limits.daily_requests,
            names.monthly_requests: want.limits.monthly_requests,
        }
        tokens_left = {"$subtract": [want.limits.monthly_tokens, _taken(names.monthly_tokens)]}
        granted = {"$min": [want.prompt_tokens + want.choices * want.output_tokens, tokens_left]}
        conditions: list[Any] = [{"$lt": [_taken(name), limit]} for name, limit in most.items()]
        conditions.append({"$gte": [tokens_left, _fewest(want)]})
        amounts: dict[str, Any] = {**dict.fromkeys(most, 1), names.monthly_tokens: granted}
        hold = {
            "_id": want.request_id,
            "exp": want.at + timedelta(seconds=self._hold_seconds),
            "s": amounts,
            "w": {"$literal": _remember(want)},
        }
        return await self._accounts.find_one_and_update(
            {"_id": want.user_id, "h._id": {"$ne": want.request_id}, "$expr": {"$and": conditions}},
            [
                # Stages see each other's result: the hold is written first, while the counters are still old.
                {"$set": {"h": {"$concatArrays": [{"$ifNull": ["$h", []]}, [hold]]}}},
                {"$set": {"_last": {"$last": "$h"}}},
                {
                    "$set": {
                        f"c.{name}": {
                            "u": {"$ifNull": [f"$c.{name}.u", 0]},
                            "l": {"$add": [{"$ifNull": [f"$c.{name}.l", 0]}, f"$_last.s.{name}"]},
                        }
                        for name in amounts
                    }
                },
                {"$unset": "_last"},
            ],
            projection={"h": 1},
            return_document=ReturnDocument.AFTER,
        )

    async def _open_account(self, user_id: str) -> None:
        await self._accounts.update_one({"_id": user_id}, {"$setOnInsert": {"c": {}, "h": []}}, upsert=True)

    async def _refusal(self, want: Want) -> GatewayError:
        """Explain a refusal: which limit, and whether waiting for other requests to end can help."""
        account = await self._accounts.find_one({"_id": want.user_id}, {"c": 1}) or {}
        names = limits.windows(want.at)
        rules = (
            (names.daily_requests, want.limits.daily_requests, 1, "Daily request limit", limits.day_ends),
            (
                names.monthly_requests,
                want.limits.monthly_requests,
                1,
                "Monthly request limit",
                limits.month_ends,
            ),
            (
                names.monthly_tokens,
                want.limits.monthly_tokens,
                _fewest(want),
                "Monthly token limit",
                limits.month_ends,
            ),
        )
        for name, limit, need, title, ends in rules:
            counter = account.get("c", {}).get(name, {})
            if counter.get("u", 0) + need > limit:
                wait = (ends(want.at) - want.at).total_seconds()
                message = f"{title} exceeded: {counter.get('u', 0)} of {limit} used, {need} needed."
                return RateLimited(message, retry_after=wait, should_retry=False)
        message = "Other requests of this account hold what is left of its limits; try again in a moment."
        return RateLimited(message, retry_after=1)

    async def _record(self, event: Event) -> None:
        """Insert the event and count what is stored under its id; a correction follows if that is not ours."""
        try:
            await self._events.insert_one(event)
        except DuplicateKeyError:
            stored = await self._events.find_one({"_id": event["_id"]})
            if stored is None:
                raise
            await self._count(event["userId"], event["_id"], stored)
            if is_unknown(stored) and not is_unknown(event):
                await self._correct(correction(stored, event))
            return
        await self._count(event["userId"], event["_id"], event)

    async def _correct(self, event: Event) -> None:
        """Count a correction under a hold of nothing, which guards it as every hold does."""
        hold = {
            "_id": event["_id"],
            "exp": datetime.now(UTC) + timedelta(seconds=self._hold_seconds),
            "s": dict.fromkeys(event["windows"], 0),
        }
        if await self._events.find_one({"_id": event["_id"]}, {"_id": 1}) is None:
            await self._accounts.update_one(
                {"_id": event["userId"], "h._id": {"$ne": event["_id"]}}, {"$push": {"h": hold}}
            )
            try:
                await self._events.insert_one(event)
            except DuplicateKeyError:
                log.info("a correction was already recorded", request=event["_id"])
        await self._count(event["userId"], event["_id"], event)

    async def _count(self, user_id: str, hold_id: str, event: Mapping[str, Any] | None) -> None:
        """Move a hold into the used counters; without the hold it has been done before."""
        account = await self._accounts.find_one({"_id": user_id, "h._id": hold_id}, {"h.$": 1})
        if account is None:
            return
        held = account["h"][0]["s"]
        changes = {f"c.{name}.l": -amount for name, amount in held.items()}
        if event is not None:
            changes |= {f"c.{name}.u": amount for name, amount in event["windows"].items()}
            changes |= {f"t.{name}": amount for name, amount in totals_of(event).items()}
        await self._accounts.update_one(
            {"_id": user_id, "h._id": hold_id}, {"$inc": changes, "$pull": {"h": {"_id": hold_id}}}
        )

    async def _close(self, user_id: str, hold: Mapping[str, Any]) -> None:
        """Close one hold that ran out: by the event that exists, else by one that says `unknown`."""
        memory = hold.get("w")
        if memory is None:
            stored = await self._events.find_one({"_id": hold["_id"]})
            await self._count(user_id, str(hold["_id"]), stored)
            return
        log.warning("closing the hold of a lost request", request=hold["_id"])
        reservation = Reservation(_recall(str(hold["_id"]), user_id, memory), dict(hold["s"]), 0)
        await self._record(usage_event(reservation, self._unknown(reservation, memory["estimate"])))

    def _unknown(self, reservation: Reservation, prompt_estimate: int) -> Settlement:
        return Settlement(
            outcome=Outcome.UNKNOWN,
            bill=Bill(Counted(prompt=prompt_estimate), Charge(None, CostSource.UNKNOWN, estimated=True)),
            usd_inr_rate=self._usd_inr_rate,
            provider=reservation.want.provider,
            model=reservation.want.model,
            total_ms=round(self._hold_seconds * 1000),
            attempts=(),
        )

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.sweep(datetime.now(UTC))
            except PyMongoError as exc:
                log.warning("sweeping waits for the database", cause=str(exc)[:200])


def _taken(name: str) -> dict[str, Any]:
    return {"$add": [{"$ifNull": [f"$c.{name}.u", 0]}, {"$ifNull": [f"$c.{name}.l", 0]}]}


def _fewest(want: Want) -> int:
    """Return the tokens below which serving the request makes no sense."""
    return want.prompt_tokens + want.choices * min(FEWEST_TOKENS, want.output_tokens)


def _remember(want: Want) -> dict[str, Any]:
    """Keep what an event needs, should this process not live to write it."""
    return {
        "at": want.at,
        "key": want.key_id,
        "session": want.session_id,
        "asked": want.requested_model,
        "provider": want.provider,
        "model": want.model,
        "stream": want.stream,
        "estimate": want.prompt_estimate,
    }


def _recall(request_id: str, user_id: str, memory: Mapping[str, Any]) -> Want:
    return Want(
        request_id=request_id,
        user_id=user_id,
        key_id=memory["key"],
        session_id=memory["session"],
        at=memory["at"],
        limits=limits.UserLimits(0, 0, 0),
        prompt_tokens=0,
        prompt_estimate=memory["estimate"],
        output_tokens=0,
        choices=1,
        requested_model=memory["asked"],
        provider=memory["provider"],
        model=memory["model"],
        stream=memory["stream"],
    )
