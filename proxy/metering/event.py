"""The usage event as it is stored: built once from a reservation and its settlement, never changed after."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from operator import gt
from typing import Any

from bson.decimal128 import Decimal128, create_decimal128_context

from plugins.contract import Price
from plugins.values import Value
from proxy.core import pricing
from proxy.core.bill import Counted
from proxy.core.rules import Kind, kind_of, used_of
from proxy.documents import Outcome
from proxy.metering.contract import AttemptRecord, Reservation, Settlement

Event = dict[str, Any]
_NOTHING_RARE: Mapping[str, int] = {}
_UNKNOWN = Outcome.UNKNOWN  # asked for by the class, a member takes ten times as long
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLAIN_EPOCH = _EPOCH.replace(tzinfo=None)
_BIAS = 6176
_MOST_COEFFICIENT = 10**34
_DECIMAL128 = create_decimal128_context()
_PRECISION = 28
"""Digits that the decimal context keeps: hardly an amount has more."""

AT_THE_END = 2**62
"""The place in a journal of what is counted when its entry goes, and not before."""


class Uses(Value, frozen=True):
    """What a request has used: of each counter that it held, and in pico-USD; `requests` is 1 if it counts as one.

    It `is_over_hold` where a provider has counted more than was held.
    """

    counters: Mapping[str, int]
    requests: int
    cost_pico: int
    is_over_hold: bool


def uses_of(reservation: Reservation, settlement: Settlement) -> Uses:
    """Say what a request has used."""
    charge, held = settlement.bill.charge, reservation.held
    requests = int(settlement.counts_as_request)
    cost_pico = 0 if charge.cost is None else pricing.to_pico(charge.cost)
    used = used_of(held, requests=requests, tokens=settlement.bill.tokens.total, cost_pico=cost_pico)
    if settlement.outcome is _UNKNOWN and charge.estimated:
        used = _at_worst(used, held)
    return Uses(used, requests, cost_pico, any(map(gt, used.values(), held.values())))


def usage_event(reservation: Reservation, settlement: Settlement, uses: Uses | None = None) -> Event:
    """Build the event document of a request that reached a provider; `uses` are its `uses_of` where they are known."""
    want, tokens, charge = reservation.want, settlement.bill.tokens, settlement.bill.charge
    uses = uses or uses_of(reservation, settlement)
    cost, rare = charge.cost, _rare(tokens)
    stored_cost = _decimal128(cost)
    inr = None if cost is None else cost * settlement.usd_inr_rate
    return {
        "_id": want.request_id,
        "kind": "usage",
        "refersTo": None,
        "at": _milliseconds(want.at),
        "userId": want.user_id,
        "keyId": want.key_id,
        "sessionId": want.session_id,
        "provider": settlement.provider,
        "requestedModel": want.requested_model,
        "model": settlement.model,
        "servedModel": settlement.served_model,
        "backing": settlement.backing,
        "generationId": settlement.generation_id,
        "stream": want.stream,
        "outcome": str(settlement.outcome),
        "tokens": {
            "prompt": tokens.prompt,
            "completion": tokens.completion,
            "cached": tokens.cached,
            "cacheWrite": tokens.cache_write,
            "reasoning": tokens.reasoning,
            **rare,
        },
        "costUsd": stored_cost,
        "costPico": uses.cost_pico,
        "costInr": _decimal128(inr),
        "costInrPico": 0 if inr is None else pricing.to_pico(inr),
        "usdInrRate": _rate(str(settlement.usd_inr_rate)),
        "priceVersion": settlement.price_version,
        "price": _price(settlement, rare),
        "costSource": str(charge.source),
        "estimated": charge.estimated,
        "requests": uses.requests,
        "overHold": uses.is_over_hold,
        "firstTokenMs": settlement.first_token_ms,
        "totalMs": settlement.total_ms,
        "attempts": [
            _attempt(attempt, stored_cost if attempt.cost is cost else _decimal128(attempt.cost))
            for attempt in settlement.attempts
        ],
        "windows": uses.counters,
    }


def placed(event: Event, journal: str, start: int) -> Event:
    """Say in an event where the end of its request begins in which journal, for whoever checks what was counted."""
    event["journal"], event["offset"] = journal, start
    return event


def plain(moment: datetime) -> datetime:
    """Return a moment as BSON has it, in UTC and without saying so: that is encoded in an eighth of the time."""
    return _PLAIN_EPOCH + (moment - _EPOCH)


def _at_worst(used: Mapping[str, int], held: Mapping[str, int]) -> dict[str, int]:
    """Count the whole hold against budgets: nobody knows what the provider bills, and a budget is kept all the same."""
    return {
        counter: max(amount, held[counter]) if kind_of(counter) is Kind.COST else amount
        for counter, amount in used.items()
    }


def correction(stored: Mapping[str, Any], true: Event) -> Event:
    """Build the event that turns what was recorded for a request into what turned out to be true.

    Amounts are differences, so that the sum over all events of a request is right.
    """
    tokens = _differences(true["tokens"], stored["tokens"])
    usd, inr = (_difference(true[name], stored[name]) for name in ("costUsd", "costInr"))
    return {
        **true,
        "_id": correction_id(true["_id"]),
        "kind": "correction",
        "refersTo": true["_id"],
        "tokens": tokens,
        "requests": true["requests"] - stored["requests"],
        "costUsd": usd,
        "costInr": inr,
        "costPico": true["costPico"] - stored["costPico"],
        "costInrPico": true["costInrPico"] - stored["costInrPico"],
        "windows": _differences(true["windows"], stored["windows"]),
    }


def lost_id(user_id: str, journal: str) -> str:
    """Name the event that books what a lost worker had leased of an account."""
    return f"lost_{journal}_{user_id}"


def lost_event(user_id: str, journal: str, leased: Mapping[str, int], usd_inr_rate: Decimal) -> Event:
    """Build that event from the account's entry alone, so that whoever builds it builds the same."""
    return {
        "_id": lost_id(user_id, journal),
        "kind": "lost",
        "refersTo": None,
        "at": _EPOCH,
        "userId": user_id,
        "keyId": None,
        "sessionId": None,
        "provider": "",
        "requestedModel": "",
        "model": "",
        "servedModel": None,
        "backing": None,
        "generationId": None,
        "stream": False,
        "outcome": str(Outcome.UNKNOWN),
        "tokens": dict.fromkeys(("prompt", "completion", "cached", "cacheWrite", "reasoning"), 0),
        "costUsd": None,
        "costPico": 0,
        "costInr": None,
        "costInrPico": 0,
        "usdInrRate": Decimal128(usd_inr_rate),
        "priceVersion": None,
        "price": None,
        "costSource": "unknown",
        "estimated": True,
        "requests": 0,
        "overHold": False,
        "firstTokenMs": None,
        "totalMs": 0,
        "attempts": [],
        "windows": {counter: amount for counter, amount in leased.items() if amount},
        "journal": journal,
        "offset": AT_THE_END,
    }


def undone(event: Event) -> Event:
    """Build the event that takes a lost worker's booking back."""
    return {
        **event,
        "_id": correction_id(event["_id"]),
        "kind": "correction",
        "refersTo": event["_id"],
        "windows": {counter: -amount for counter, amount in event["windows"].items()},
    }


def correction_id(request_id: str) -> str:
    """Name the correction of a request's event: one at most, so that applying it twice is a no-op."""
    return f"{request_id}:correction"


def totals_of(*events: Mapping[str, Any]) -> dict[str, int]:
    """Say what events add to their user's totals, which no window ends."""
    requests = tokens = usd = inr = 0
    for event in events:
        requests += event["requests"]
        tokens += event["tokens"]["prompt"] + event["tokens"]["completion"]
        usd += event["costPico"]
        inr += event["costInrPico"]
    return {"requests": requests, "tokens": tokens, "usdPico": usd, "inrPico": inr}


def endless(sums: Mapping[str, int]) -> dict[str, int | Decimal128]:
    """Return what to add to sums that no window ends: nine million rupees in pico-rupees outgrow 64 bits."""
    return {name: _whole128(more) if name == "inrPico" else more for name, more in sums.items()}


def whole(stored: int | Decimal128) -> int:
    """Read such a sum, which was an integer until it was added to."""
    return int(stored.to_decimal()) if isinstance(stored, Decimal128) else stored


def is_unknown(event: Mapping[str, Any]) -> bool:
    """Say whether an event was written for a process that died in mid-request."""
    return bool(event["outcome"] == Outcome.UNKNOWN)


def _attempt(attempt: AttemptRecord, cost: Decimal128 | None) -> dict[str, Any]:
    return {
        "provider": attempt.provider,
        "model": attempt.model,
        "outcome": attempt.outcome,
        "status": attempt.status,
        "generationId": attempt.generation_id,
        "startedAt": plain(attempt.started_at),
        "milliseconds": attempt.milliseconds,
        "costUsd": cost,
    }


def _rare(tokens: Counted) -> Mapping[str, int]:
    """Count what hardly any request has, where it has it: every event would be the larger for it."""
    if not (tokens.cache_write_1h or tokens.audio or tokens.audio_output or tokens.image_output):
        return _NOTHING_RARE
    counts = {
        "cacheWrite1h": tokens.cache_write_1h,
        "audio": tokens.audio,
        "audioOutput": tokens.audio_output,
        "imageOutput": tokens.image_output,
    }
    return {name: count for name, count in counts.items() if count}


def _price(settlement: Settlement, rare: Mapping[str, int]) -> dict[str, str] | None:
    """Keep the prices per token that the cost can be explained by, as they are in effect for this prompt."""
    if settlement.price is None:
        return None
    price = pricing.effective(settlement.price, settlement.bill.tokens.prompt)
    if not rare:
        return _usual_prices(price, settlement.price_version)
    write = price.prompt if price.cache_write is None else price.cache_write
    others = {
        "cacheWrite1h": write if price.cache_write_1h is None else price.cache_write_1h,
        # These come on top of what the same tokens cost as text.
        "audio": pricing.surcharge(price.prompt, price.audio),
        "audioOutput": pricing.surcharge(price.completion, price.audio_output),
        "imageOutput": pricing.surcharge(price.completion, price.image_output),
    }
    return _usual_prices(price, settlement.price_version) | {name: str(others[name]) for name in rare}


@lru_cache(maxsize=1_024)
def _usual_prices(price: Price, _version: str | None) -> dict[str, str]:
    """Write down the prices that every request has, which are the same for all of a version: equal ones may differ in digits."""
    write = price.prompt if price.cache_write is None else price.cache_write
    return {
        "prompt": str(price.prompt),
        "cached": str(price.prompt if price.cache_read is None else price.cache_read),
        "cacheWrite": str(write),
        "completion": str(price.completion),
        "request": str(price.request),
    }


@lru_cache(maxsize=16)
def _rate(digits: str) -> Decimal128:
    # Each Decimal128 takes 4 us to make. By its digits, for 83 and 83.0 are equal but not the same.
    return _Amount(Decimal128(digits).bid)


def _decimal128(value: Decimal | None) -> Decimal128 | None:
    return None if value is None else decimal128(value)


class _Amount(Decimal128):
    """An amount of which the bytes are known, which is all that is stored; its digits are worked out when they are asked."""

    __slots__ = ("bid",)

    def __init__(self, bid: bytes) -> None:
        """Take the sixteen bytes of an amount, the low ones first."""
        # Without what the class above keeps: it would split the bytes, and put them together again to encode them.
        self.bid = bid  # type: ignore[misc]  # a property of the class above

    def to_decimal(self) -> Decimal:
        """Return the amount."""
        return Decimal128.from_bid(self.bid).to_decimal()


def decimal128(value: Decimal) -> Decimal128:
    """Convert an amount with all its digits, of which the database keeps 34, for nothing may keep an event from it.

    Amounts as they occur are converted by their bits, which takes half of the time.
    """
    text = format(value, "f")
    whole, point, part = text.partition(".")
    if not point or whole[0] == "-" or len(text) > _PRECISION:  # without a point, the text hides the exponent
        return Decimal128(_DECIMAL128.create_decimal(value))
    coefficient = int(whole + part)
    return _Amount((coefficient | (_BIAS - len(part)) << 113).to_bytes(16, "little"))


def _whole128(value: int) -> Decimal128:
    """Convert a whole number likewise: `Decimal128` takes a thousand of Python's instructions for one."""
    if value < 0 or value >= _MOST_COEFFICIENT:
        return Decimal128(str(value))
    return _Amount((value | _BIAS << 113).to_bytes(16, "little"))


def _differences(true: Mapping[str, int], stored: Mapping[str, int]) -> dict[str, int]:
    return {name: true.get(name, 0) - stored.get(name, 0) for name in {**true, **stored}}


def _difference(true: Decimal128 | None, stored: Decimal128 | None) -> Decimal128 | None:
    if true is None:
        return None
    return Decimal128(true.to_decimal() - (stored.to_decimal() if stored is not None else Decimal(0)))


def _milliseconds(moment: datetime) -> datetime:
    # MongoDB keeps milliseconds; cutting here makes the event in memory equal to the stored one. `replace` takes five
    # times as long as a subtraction.
    in_utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return in_utc - _MICROSECOND * (moment.microsecond % 1000)
