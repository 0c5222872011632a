"""What is kept of an admitted request, so that somebody else can write its event should this process die."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from plugins.contract import Price
from proxy.core.bill import Bill, Counted
from proxy.core.limits import UserLimits, completion_estimate
from proxy.core.pricing import Charge, CostSource, worst_case
from proxy.core.rules import Demand, Kind, kind_of
from proxy.documents import Outcome
from proxy.metering.contract import Progress, Reservation, Settlement, Want
from proxy.metering.event import plain

Memory = Mapping[str, Any]


def remember(want: Want) -> dict[str, Any]:
    """Keep the parts of a request that its event needs."""
    price = want.demand.price
    return {
        "user": want.user_id,
        "key": want.key_id,
        "session": want.session_id,
        "at": plain(want.at),
        "asked": want.requested_model,
        "provider": want.provider,
        "model": want.model,
        "stream": want.stream,
        "estimate": want.prompt_estimate,
        "price": None if price is None else [str(price.prompt), str(price.completion), str(price.request)],
    }


def recall(request_id: str, memory: Memory, held: Mapping[str, int]) -> Reservation:
    """Make a reservation again from what was kept of it: enough to settle it, not to serve it."""
    price = memory["price"]
    want = Want(
        request_id=request_id,
        user_id=memory["user"],
        key_id=memory["key"],
        session_id=memory["session"],
        at=memory["at"],
        limits=UserLimits(0, 0, 0),
        key_limits=None,
        demand=Demand(0, None if price is None else _price(*price)),
        prompt_estimate=memory["estimate"],
        output_tokens=0,
        choices=1,
        requested_model=memory["asked"],
        provider=memory["provider"],
        model=memory["model"],
        stream=memory["stream"],
    )
    return Reservation(want, (), dict(held), 0)


def unknown(reservation: Reservation, progress: Progress | None, usd_inr_rate: Decimal) -> Settlement:
    """Settle a request whose process died: from its last note if there is one, marked as an estimate."""
    want = reservation.want
    seen = progress or Progress(want.provider, want.model)
    completion = completion_estimate(seen.deltas, seen.output_bytes)
    held = [amount for counter, amount in reservation.held.items() if kind_of(counter) is Kind.TOKENS]
    tokens = Counted(want.prompt_estimate, min([completion, *held]))
    price = want.demand.price
    if price is None:
        charge = Charge(None, CostSource.UNKNOWN, estimated=True)
    else:
        cost = worst_case(price, tokens.prompt, tokens.completion)
        charge = Charge(cost, CostSource.PRICE_TABLE, estimated=True)
    return Settlement(
        outcome=Outcome.UNKNOWN,
        bill=Bill(tokens, charge),
        usd_inr_rate=usd_inr_rate,
        provider=seen.provider,
        model=seen.model,
        backing=seen.backing,
        generation_id=seen.generation_id,
        total_ms=0,
        attempts=(),
    )


def _price(prompt: str, completion: str, request: str) -> Price:
    return Price(Decimal(prompt), Decimal(completion), request=Decimal(request))
