"""What is kept of an admitted request, so that somebody else can write its event should this process die."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

from plugins.contract import Price
from plugins.values import Value
from proxy.core.bill import Bill, Counted
from proxy.core.limits import UserLimits, completion_estimate
from proxy.core.pricing import Charge, CostSource, worst_case
from proxy.core.rules import Demand, Kind, kind_of
from proxy.documents import Outcome
from proxy.metering.contract import Progress, Reservation, Settlement, Want


class Memory(Value, frozen=True, array_like=True):
    """The parts of a request that its event needs; `price` is in USD per prompt token, per completion token, per request."""

    user: str
    key: str | None
    session: str | None
    at: datetime
    asked: str
    provider: str
    model: str
    stream: bool
    estimate: int
    price: tuple[Decimal, Decimal, Decimal] | None


def remember(want: Want) -> Memory:
    """Keep these parts."""
    price = want.demand.price
    return Memory(
        want.user_id,
        want.key_id,
        want.session_id,
        want.at,
        want.requested_model,
        want.provider,
        want.model,
        want.stream,
        want.prompt_estimate,
        None if price is None else (price.prompt, price.completion, price.request),
    )


def recall(request_id: str, memory: Memory, held: Mapping[str, int]) -> Reservation:
    """Make a reservation again from what was kept of it: enough to settle it, not to serve it."""
    price = None
    if memory.price is not None:
        prompt, completion, request = memory.price
        price = Price(prompt, completion, request=request)
    want = Want(
        request_id=request_id,
        user_id=memory.user,
        key_id=memory.key,
        session_id=memory.session,
        at=memory.at,
        limits=UserLimits(0, 0, 0),
        key_limits=None,
        demand=Demand(0, price),
        prompt_estimate=memory.estimate,
        output_tokens=0,
        choices=1,
        requested_model=memory.asked,
        provider=memory.provider,
        model=memory.model,
        stream=memory.stream,
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
