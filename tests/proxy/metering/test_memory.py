"""Tests of proxy/metering/memory.py: the event of a request whose process died."""

from __future__ import annotations

from decimal import Decimal

import pytest

from proxy.core.rules import Demand
from proxy.metering.contract import Progress
from proxy.metering.memory import recall, remember, unknown
from tests.proxy.metering.meters import PRICE, RATE, want


@pytest.mark.parametrize(("seen", "completion"), [(0, 0), (80, 20), (10**7, 150)])
def test_no_estimate_is_above_what_was_held(seen: int, completion: int) -> None:
    """What was noted of the answer is estimated, but not above the tokens that were held: it may have been pictures."""
    asked = want(demand=Demand(100, PRICE))
    held = {"Rd_20261126": 1, "Tm_202611": 150}
    found = unknown(
        recall(asked.request_id, remember(asked), held),
        Progress("openrouter", "some/model", deltas=0, output_bytes=seen),
        RATE,
    )
    assert (found.bill.tokens.prompt, found.bill.tokens.completion) == (40, completion)
    assert found.bill.charge.cost == 40 * Decimal("0.000001") + completion * Decimal("0.000002")
    assert found.bill.charge.estimated
