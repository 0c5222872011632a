"""Tests of proxy/metering/records.py: what is read from a journal makes the event that its writer would have made."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from plugins.contract import Price, PriceOverride
from proxy.core.bill import Bill, Counted
from proxy.core.pricing import Charge, CostSource
from proxy.core.rules import Demand
from proxy.documents import Outcome
from proxy.metering.contract import AttemptRecord, Reservation
from proxy.metering.event import usage_event
from proxy.metering.journal import FoundJournal, Journal
from proxy.metering.memory import recall, remember
from proxy.metering.records import Ended, Opened
from tests.proxy.metering.meters import settlement, want

AT = datetime(2026, 11, 23, 23, 59, 59, 999_999, tzinfo=UTC)
HELD = {"Rd_20261123": 1, "Tm_202611": 150, "Cw_2026W48_key": 10**18}
PRICE = Price(
    Decimal("0.00000015"),
    Decimal("6E-7"),
    cache_read=Decimal("0E-10"),
    audio=Decimal("0.000001"),
    discount=Decimal("0.1"),
    overrides=(PriceOverride(50, prompt=Decimal("0.0000003")),),
)
AMOUNTS = st.decimals(0, 10**6, allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 10**10)


def kept(ended: Ended) -> Ended:
    """Write an end into a journal, and return what whoever finds that reads."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), segment_bytes=2**14)
        journal.open(ended.opened)
        journal.close(ended)
        journal.end_here(delete=False)
        found = FoundJournal.take(journal.path)
        assert found is not None
        *_, entry = found.entries()
        found.end_here(delete=True)
    assert isinstance(entry.record, Ended)
    return entry.record


@given(AMOUNTS | st.none(), st.builds(Counted, COUNTS, COUNTS, audio=COUNTS), st.sampled_from(Outcome))
def test_an_event_is_the_same_by_whomever_it_is_built(
    cost: Decimal | None, tokens: Counted, outcome: Outcome
) -> None:
    """Nothing that an event says is lost in the journal, nor a digit of its money."""
    asked = want(at=AT, demand=Demand(100, PRICE))
    attempts = tuple(
        AttemptRecord("openrouter", "some/model", end, AT, 5, 200, "gen-1", cost)
        for end in ("overloaded", "completed")
    )
    settled = settlement(
        bill=Bill(tokens, Charge(cost, CostSource.PROVIDER, estimated=cost is None)),
        outcome=outcome,
        usd_inr_rate=Decimal("83.10"),
        attempts=attempts,
        backing="DeepInfra",
        generation_id="gen-1",
        price_version="0123456789ab",
        price=PRICE,
        first_token_ms=3,
    )
    ended = Ended(Opened(asked.request_id, remember(asked), HELD), settled)
    found = kept(ended)
    again = recall(found.id, found.opened.memory, found.opened.held)
    assert found.settlement is not None
    assert usage_event(again, found.settlement) == usage_event(Reservation(asked, (), HELD, 50), settled)
