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
from proxy.metering.contract import AttemptRecord, Progress, Reservation
from proxy.metering.event import usage_event
from proxy.metering.journal import FoundJournal, Journal
from proxy.metering.memory import recall, remember
from proxy.metering.records import Ended, Noted, Opened
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
LEFT = (
    "414950324f1683ee9300000094a46f70656ea57265715f319ab836623033663734303437363566663635633834643637"
    "3063b8366230336637343034373635666636356338346436373064a973657373696f6e2d31d7ffee6b18606b04d37faa"
    "736f6d652f6d6f64656caa6f70656e726f75746572aa736f6d652f6d6f64656cc22893a6312e35452d37a436452d37a1"
    "3081ab52645f3230323631313233014149503264ab462d2c00000093a46e6f7465a57265715f3196aa6f70656e726f75"
    "746572aa736f6d652f6d6f64656ca567656e2d31c003094149503268c9b6972602000093a3656e6494a46f70656ea572"
    "65715f319ab8366230336637343034373635666636356338346436373063b83662303366373430343736356666363563"
    "38346436373064a973657373696f6e2d31d7ffee6b18606b04d37faa736f6d652f6d6f64656caa6f70656e726f757465"
    "72aa736f6d652f6d6f64656cc22893a6312e35452d37a436452d37a13081ab52645f3230323631313233019da9636f6d"
    "706c6574656492993c140000000000000093a8302e303030313030a870726f7669646572c2a23833aa6f70656e726f75"
    "746572aa736f6d652f6d6f64656c059198aa6f70656e726f75746572aa736f6d652f6d6f64656ca9636f6d706c657465"
    "64d7ffee6b18606b04d37f05ccc8a567656e2d31a8302e303030313030c0c0a567656e2d31c08da670726f6d7074a631"
    "2e35452d37aa636f6d706c6574696f6ea436452d37aa63616368655f72656164a530452d3130ab63616368655f777269"
    "7465c0ae63616368655f77726974655f3168c0a772657175657374a130a5696d616765c0a5617564696fa8302e303030"
    "303031ac696d6167655f6f7574707574c0ac617564696f5f6f7574707574c0aa7765625f736561726368c0a864697363"
    "6f756e74a3302e31a96f76657272696465739186b16d696e5f70726f6d70745f746f6b656e7332a670726f6d7074a433"
    "452d37aa636f6d706c6574696f6ec0aa63616368655f72656164c0ab63616368655f7772697465c0ae63616368655f77"
    "726974655f3168c003"
)
"""The beginning, a note and the end of a request, as the format AIP2 has them."""

AMOUNTS = st.decimals(0, 10**6, allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 10**10)


def kept(ended: Ended) -> Ended:
    """Write an end into a journal, and return what whoever finds that reads."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), segment_bytes=2**14)
        journal.open(ended.opened)
        journal.close(ended.id, ended.settlement)
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


def test_what_an_older_gateway_has_left_is_read(tmp_path: Path) -> None:
    """Its successor finishes it: a record of another shape than these bytes needs another magic number."""
    journal = Journal(tmp_path, segment_bytes=2**14)
    journal.end_here(delete=False)
    next(journal.path.glob("*.seg")).write_bytes(bytes.fromhex(LEFT))
    found = FoundJournal.take(journal.path)
    assert found is not None
    records = [entry.record for entry in found.entries()]
    found.end_here(delete=True)
    asked = want(request_id="req_1", at=AT, session_id="session-1", demand=Demand(100, PRICE))
    opened = Opened("req_1", remember(asked), {"Rd_20261123": 1})
    attempt = AttemptRecord("openrouter", "some/model", "completed", AT, 5, 200, "gen-1", Decimal("0.000100"))
    settled = settlement(attempts=(attempt,), price=PRICE, generation_id="gen-1", first_token_ms=3)
    noted = Noted("req_1", Progress("openrouter", "some/model", "gen-1", None, deltas=3, output_bytes=9))
    assert records == [opened, noted, Ended(opened, settled)]
