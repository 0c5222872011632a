"""Tests of proxy/metering/event.py: an event says everything once, to the last digit, and a correction only the difference."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

from bson.decimal128 import Decimal128
from hypothesis import given
from hypothesis import strategies as st

from proxy import database
from proxy.core.bill import Bill, Counted
from proxy.core.pricing import Charge, CostSource
from proxy.documents import EVENTS, Outcome, UsageEvent
from proxy.metering.contract import AttemptRecord, Reservation
from proxy.metering.event import (
    correction,
    correction_id,
    decimal128,
    is_unknown,
    totals_of,
    usage_event,
)
from tests.proxy.metering.meters import PRICE, connected, settlement, want

HELD = {"Rd_20261123": 1, "Rm_202611": 1, "Tm_202611": 150}
NOW = datetime(2026, 11, 23, 12, 0, 0, 123_456, tzinfo=UTC)


def reservation() -> Reservation:
    return Reservation(want(at=NOW), (), HELD, 50)


async def test_an_event_is_the_document_that_others_read(mongodb_uri: str) -> None:
    """The event validates as the document of the account service, with its money unrounded and its time in milliseconds."""
    attempt = AttemptRecord("openrouter", "m", "completed", NOW, 12, 200, "gen-1", Decimal("0.0000057915"))
    event = usage_event(reservation(), settlement(60, 20, "0.0000057915", attempts=(attempt,)))
    async with connected(mongodb_uri) as books:
        await database.prepare(books.database, [UsageEvent])
        await books.database[EVENTS].insert_one(event)
        document = await UsageEvent.get(event["_id"])
    assert document is not None
    assert (document.costUsd, document.costPico) == (Decimal("0.0000057915"), 5_791_500)
    assert document.costInr == Decimal("0.0000057915") * 83
    assert document.at == NOW.replace(microsecond=123_000)
    assert (document.requests, document.windows, document.overHold) == (1, {**HELD, "Tm_202611": 80}, False)
    assert document.attempts[0].costUsd == Decimal("0.0000057915")
    assert document.id.startswith("req_")


def test_a_time_in_another_zone_is_the_same_moment() -> None:
    """Times are stored in UTC."""
    kolkata = timezone(timedelta(hours=5, minutes=30))
    moved = Reservation(want(at=NOW.astimezone(kolkata)), (), HELD, 50)
    assert usage_event(moved, settlement())["at"].tzinfo is UTC


def test_an_unknown_cost_is_not_zero() -> None:
    """Where nobody can tell the cost it is absent, in dollars and in rupees; the counters get nothing."""
    bill = Bill(Counted(5, 5), Charge(None, CostSource.UNKNOWN, estimated=True))
    event = usage_event(reservation(), settlement(bill=bill))
    assert (event["costUsd"], event["costInr"], event["costPico"], event["costSource"]) == (
        None,
        None,
        0,
        "unknown",
    )


def test_more_than_was_held_is_flagged() -> None:
    """A provider that counts above the hold is booked in full and flagged."""
    event = usage_event(reservation(), settlement(200, 20))
    assert (event["windows"]["Tm_202611"], event["overHold"]) == (220, True)


def test_a_failure_without_an_answer_is_no_request() -> None:
    """A provider's failure takes nothing from the request limits, unless it had begun to answer."""
    for outcome, tokens, requests in (
        (Outcome.UPSTREAM_ERROR, 0, 0),
        (Outcome.TIMEOUT, 0, 0),
        (Outcome.UPSTREAM_ERROR, 3, 1),
        (Outcome.CLIENT_GONE, 0, 1),
        (Outcome.SHUTDOWN, 0, 1),
        (Outcome.COMPLETED, 0, 1),
    ):
        event = usage_event(reservation(), settlement(tokens, 0, outcome=outcome))
        assert event["requests"] == event["windows"]["Rd_20261123"] == requests


counts = st.integers(0, 10**9)
amounts = st.decimals(0, 10**4, places=12)


@given(first=st.tuples(counts, counts, amounts), second=st.tuples(counts, counts, amounts))
def test_an_event_and_its_correction_are_the_truth(
    first: tuple[int, int, Decimal], second: tuple[int, int, Decimal]
) -> None:
    """Whatever was recorded, adding the correction gives what is true, in every counter and every total."""
    held = reservation()
    stored = usage_event(held, settlement(first[0], first[1], str(first[2]), outcome=Outcome.UNKNOWN))
    true = usage_event(held, settlement(second[0], second[1], str(second[2])))
    assert is_unknown(stored)
    assert not is_unknown(true)
    fixed = correction(stored, true)
    assert (fixed["_id"], fixed["refersTo"]) == (correction_id(stored["_id"]), stored["_id"])
    for name in true["windows"]:
        assert stored["windows"][name] + fixed["windows"][name] == true["windows"][name]
    for name, total in totals_of(true).items():
        assert totals_of(stored)[name] + totals_of(fixed)[name] == total
    assert isinstance(fixed["costUsd"], Decimal128)
    assert stored["costUsd"].to_decimal() + fixed["costUsd"].to_decimal() == true["costUsd"].to_decimal()


def test_what_hardly_any_request_has_is_stored_where_it_is() -> None:
    """An ordinary event is no larger for it, and a correction takes back what turned out not to be there."""
    usual = {"prompt": 60, "completion": 20, "cached": 0, "cacheWrite": 0, "reasoning": 0}
    plain = usage_event(reservation(), settlement(price=PRICE))
    assert plain["tokens"] == usual
    charge = Charge(Decimal(0), CostSource.PROVIDER, estimated=True)
    rare = settlement(bill=Bill(Counted(60, 20, audio=5, image_output=3), charge), price=PRICE)
    event = usage_event(reservation(), rare)
    assert event["tokens"] == {**usual, "audio": 5, "imageOutput": 3}
    assert event["price"] == {**plain["price"], "audio": "0", "imageOutput": "0"}
    unchanged = dict.fromkeys(usual, 0)
    assert correction(event, plain)["tokens"] == {**unchanged, "audio": -5, "imageOutput": -3}
    assert correction(plain, event)["tokens"] == {**unchanged, "audio": 5, "imageOutput": 3}


def test_the_price_of_the_fixture_is_exact() -> None:
    """The amounts that these tests use are exact in pico-dollars, so that nothing above is rounded away."""
    assert (PRICE.prompt * 10**12) % 1 == 0


def fits(amount: Decimal) -> bool:
    """Say whether the database can hold a number at all: it has 34 digits."""
    return len(amount.as_tuple().digits) <= 34


@given(st.decimals(allow_nan=True, allow_infinity=True).filter(fits) | st.decimals("0", "10000", places=18))
def test_an_amount_is_stored_with_all_its_digits(amount: Decimal) -> None:
    """The quick conversion and the database's own make the same of every number."""
    assert decimal128(amount).bid == Decimal128(amount).bid


@given(st.decimals(0, 10_000, allow_nan=False))
def test_an_amount_with_too_many_digits_is_stored_all_the_same(amount: Decimal) -> None:
    """It loses what the database has no place for, and keeps nobody's event from it."""
    assert abs(decimal128(amount).to_decimal() - amount) <= amount.scaleb(-33)


def test_forty_digits_are_cut_to_what_the_database_holds() -> None:
    """Such an amount is rounded, and not refused."""
    assert str(decimal128(Decimal(f"0.{'1' * 39}7"))) == f"0.{'1' * 34}"
