"""Metering without a disk: one conditional update before the provider is called, one event and one update after.

The account document of a user holds his counters by window (`c.<window>.u` used, `.l` held) and his open holds
(`h`), so that every rule is decided inside one document. The event is inserted first, under the request's own
id; the hold in the account is the guard that lets it be counted only once. A hold whose process died runs out
and is closed by whoever sweeps first; should its process come back, a correction event makes it right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import structlog
from msgspec import convert, to_builtins
from pymongo import ReturnDocument
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError

from proxy import background
from proxy.core.refusals import held_elsewhere, refusal
from proxy.core.rules import Rule, rules_of
from proxy.database import Database, lost
from proxy.documents import ACCOUNTS, EVENTS
from proxy.errors import GatewayError, RateLimited
from proxy.metering.accounts import standings_of, taken, used_and_held
from proxy.metering.contract import Progress, Reservation, Settlement, Standing, Want
from proxy.metering.event import Event, correction, endless, is_unknown, totals_of, usage_event
from proxy.metering.janitor import Janitor
from proxy.metering.memory import Memory, recall, remember, unknown
from proxy.metering.rollups import INDEXES, ROLLUPS, single_updates
from proxy.metrics import Metrics

SWEEP_SECONDS = 15.0
_SWEEP_BATCH = 100
_DUPLICATE = 11000
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.0
log = structlog.get_logger(__name__)


class DirectMeter:
    """The meter that keeps nothing in the process between two requests."""

    settles_at_once = False

    def __init__(
        self, database: Database, metrics: Metrics, *, hold_seconds: float, usd_inr_rate: Decimal
    ) -> None:
        """Use the database's accounts and events; holds run out after `hold_seconds`."""
        self._accounts = database[ACCOUNTS]
        self._events = database[EVENTS]
        self._rollups = database[ROLLUPS]
        self._metrics = metrics
        self._hold_seconds = hold_seconds
        self._usd_inr_rate = usd_inr_rate
        self._janitor = Janitor(database)
        self._sweeper: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Index the holds, and begin to sweep."""
        await self._accounts.create_index("h.exp", name="holds")
        await self._rollups.create_indexes(list(INDEXES))
        self._sweeper = asyncio.create_task(self._sweep_for_ever(), name="meter-sweeper")

    async def stop(self) -> None:
        """End the background work; every settlement is awaited by whoever asked for it."""
        await background.end([*self._background, *([self._sweeper] if self._sweeper else [])])

    def check(self) -> None:
        """Have no reason to refuse everybody but a database that is away, which others watch."""

    async def reserve(self, want: Want) -> Reservation:
        """Admit a request with one conditional update of its user's account."""
        rules = rules_of(want.limits, want.key_id, want.key_limits, want.demand, want.at)
        try:
            account = await self._hold(want, rules)
            if account is None:
                await self._open_account(want.user_id)
                account = await self._hold(want, rules)
            if account is None:
                raise await self._refusal(want, rules)
        except PyMongoError as exc:
            # The hold may or may not have been written; nobody will ever settle it.
            self._in_background(self._insist(lambda: self._call_off(want), want.request_id))
            raise lost(exc) from exc
        held = next(hold["s"] for hold in account["h"] if hold["_id"] == want.request_id)
        # Every rule with a slope tells the cap that was granted; one without says nothing about it.
        caps = [(held[rule.counter] - rule.fixed) // rule.slope for rule in rules if rule.slope]
        cap = min(want.output_tokens, min(caps, default=want.wished_output) // want.choices)
        remaining = {rule.counter: rule.limit - sum(used_and_held(account, rule.counter)) for rule in rules}
        return Reservation(want, rules, held, cap, remaining)

    def note(self, reservation: Reservation, progress: Progress) -> None:
        """Forget it: this meter keeps nothing between its two updates."""

    async def settle(self, reservation: Reservation, settlement: Settlement) -> None:
        """Write the event and then count it, however often the database has to be asked."""
        event = usage_event(reservation, settlement)
        if event["overHold"]:
            self._metrics.over_hold.labels(event["provider"]).inc()
        await self._insist(lambda: self._record(event), event["_id"])

    async def refund(self, reservation: Reservation) -> None:
        """Give the whole hold back, however often the database has to be asked."""
        want = reservation.want
        await self._insist(lambda: self._count(want.user_id, want.request_id, None), want.request_id)

    async def flush(self) -> None:
        """Have nothing to do: what is settled is in the database."""

    async def standing(self, user_id: str, at: datetime) -> Standing:
        """Read a user's account."""
        return (await self.standings([user_id], at))[user_id]

    async def standings(self, user_ids: Sequence[str], at: datetime) -> dict[str, Standing]:
        """Read users' accounts."""
        try:
            return await standings_of(self._accounts, user_ids, at)
        except PyMongoError as exc:
            raise lost(exc) from exc

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

    async def _call_off(self, want: Want) -> None:
        """Give a hold back that may have been written, or keep it from being written later.

        Under its id there can be one only. So a hold of nothing takes its place, until it runs out and nothing can be under
        way any more. Once the database has answered that there is one already, everybody sees it.
        """
        nothing = {"_id": want.request_id, "exp": self._expiry(want), "s": {}}
        try:
            await self._accounts.update_one(
                {"_id": want.user_id, "h._id": {"$ne": want.request_id}},
                {"$push": {"h": nothing}, "$setOnInsert": {"c": {}}},
                upsert=True,
            )
        except DuplicateKeyError:
            written = {"$elemMatch": {"_id": want.request_id, "s": {"$ne": {}}}}
            if await self._accounts.find_one({"_id": want.user_id, "h": written}, {"_id": 1}) is not None:
                await self._count(want.user_id, want.request_id, None)

    def _expiry(self, want: Want) -> datetime:
        return want.at + timedelta(seconds=self._hold_seconds)

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

    async def _hold(self, want: Want, rules: Sequence[Rule]) -> dict[str, Any] | None:
        left = {rule.counter: {"$subtract": [rule.limit, taken(rule.counter)]} for rule in rules}
        conditions = [{"$gte": [left[rule.counter], rule.need(want.least_output)]} for rule in rules]
        caps = [_division(left[rule.counter], rule) for rule in rules if rule.slope]
        amounts = {rule.counter: _need(rule, "$_cap") for rule in rules}
        hold = {
            "_id": want.request_id,
            "exp": self._expiry(want),
            "s": amounts,
            "w": {"$literal": to_builtins(remember(want), builtin_types=(datetime,))},
        }
        return await self._accounts.find_one_and_update(
            {"_id": want.user_id, "h._id": {"$ne": want.request_id}, "$expr": {"$and": conditions}},
            [
                # A stage sees what the one before has made of the document: first the cap, while all is old.
                {"$set": {"_cap": {"$toLong": {"$min": [want.wished_output, *caps]}}}},
                {"$set": {"h": {"$concatArrays": [{"$ifNull": ["$h", []]}, [hold]]}}},
                {
                    "$set": {
                        f"c.{counter}": {
                            "u": {"$ifNull": [f"$c.{counter}.u", 0]},
                            "l": {"$add": [{"$ifNull": [f"$c.{counter}.l", 0]}, amount]},
                        }
                        for counter, amount in amounts.items()
                    }
                },
                {"$unset": "_cap"},
            ],
            projection={"h": 1, **{f"c.{rule.counter}": 1 for rule in rules}},
            return_document=ReturnDocument.AFTER,
        )

    async def _open_account(self, user_id: str) -> None:
        await self._accounts.update_one({"_id": user_id}, {"$setOnInsert": {"c": {}, "h": []}}, upsert=True)

    async def _refusal(self, want: Want, rules: Sequence[Rule]) -> GatewayError:
        """Explain a refusal: which limit, and whether waiting for other requests to end can help."""
        account = await self._accounts.find_one({"_id": want.user_id}, {"c": 1}) or {}
        for rule in rules:
            used, _ = used_and_held(account, rule.counter)
            if used + rule.need(want.least_output) > rule.limit:
                return refusal(rule, used, want.least_output, want.at)
        for rule in rules:
            if sum(used_and_held(account, rule.counter)) + rule.need(want.least_output) > rule.limit:
                return held_elsewhere(rule)
        return RateLimited("Other requests hold what is left; try again in a moment.", retry_after=1)

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
            await self._roll_up(event)
            changes |= {f"c.{name}.u": amount for name, amount in event["windows"].items()}
            changes |= {f"t.{name}": total for name, total in endless(totals_of(event)).items()}
        await self._accounts.update_one(
            {"_id": user_id, "h._id": hold_id}, {"$inc": changes, "$pull": {"h": {"_id": hold_id}}}
        )

    async def _roll_up(self, event: Mapping[str, Any]) -> None:
        try:
            await self._rollups.bulk_write(single_updates(event), ordered=False)
        except BulkWriteError as exc:
            if any(error["code"] != _DUPLICATE for error in exc.details["writeErrors"]):
                raise

    async def _close(self, user_id: str, hold: Mapping[str, Any]) -> None:
        """Close one hold that ran out: by the event that exists, else by one that says `unknown`."""
        memory = hold.get("w")
        if memory is None:
            stored = await self._events.find_one({"_id": hold["_id"]})
            await self._count(user_id, str(hold["_id"]), stored)
            return
        log.warning("closing the hold of a lost request", request=hold["_id"])
        reservation = recall(str(hold["_id"]), convert(memory, Memory), hold["s"])
        await self._record(usage_event(reservation, unknown(reservation, None, self._usd_inr_rate)))

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            step = self._sweep_and_tidy(datetime.now(UTC))
            await background.survived("sweeping", step, while_away="sweeping waits for the database")

    async def _sweep_and_tidy(self, now: datetime) -> None:
        await self.sweep(now)
        if await self._janitor.take_turn(now):
            await self._janitor.drop_ended(now)


def _division(left: object, rule: Rule) -> dict[str, Any]:
    """Return the expression for the output that what is left of a limit pays for, without going through doubles."""
    return {"$floor": {"$divide": [{"$toDecimal": {"$subtract": [left, rule.fixed]}}, rule.slope]}}


def _need(rule: Rule, cap: str) -> dict[str, Any]:
    return {"$add": [rule.fixed, {"$multiply": [rule.slope, cap]}]}
