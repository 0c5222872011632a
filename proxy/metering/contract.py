"""The interface of metering: reserve before the provider is called, then settle or refund, exactly once.

A reservation holds the worst case of a request, so that limits cannot be overrun however many requests run at
once. No function reaches a provider without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from proxy.core.bill import Bill
from proxy.core.limits import UserLimits
from proxy.documents import Outcome


@dataclass(frozen=True, slots=True)
class Want:
    """What a request needs in order to be admitted.

    `prompt_tokens` bounds the prompt; `output_tokens` is the wished cap of each of `choices` answers and may
    be lowered. `prompt_estimate` and the names are what is recorded should this process die in mid-request.
    """

    request_id: str
    user_id: str
    key_id: str | None
    session_id: str | None
    at: datetime
    limits: UserLimits
    prompt_tokens: int
    prompt_estimate: int
    output_tokens: int
    choices: int
    requested_model: str
    provider: str
    model: str
    stream: bool


@dataclass(frozen=True, slots=True)
class Reservation:
    """An admitted request: what is held for it by window, and the output cap (per choice) that it covers."""

    want: Want
    held: dict[str, int]
    output_tokens: int

    @property
    def is_lowered(self) -> bool:
        """Say whether the cap is smaller than what was wished."""
        return self.output_tokens < self.want.output_tokens


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One request to one provider, as the event keeps it."""

    provider: str
    model: str
    outcome: str
    started_at: datetime
    milliseconds: int
    status: int | None = None
    generation_id: str | None = None
    cost: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a request ended and what it used: all that its usage event says beyond the reservation."""

    outcome: Outcome
    bill: Bill
    usd_inr_rate: Decimal
    provider: str
    model: str
    total_ms: int
    attempts: tuple[AttemptRecord, ...]
    served_model: str | None = None
    backing: str | None = None
    generation_id: str | None = None
    price_version: str | None = None
    first_token_ms: int | None = None

    @property
    def counts_as_request(self) -> bool:
        """Say whether it takes one from the request limits: a provider's failure without an answer does not."""
        return self.bill.tokens.total > 0 or self.outcome not in (Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a user has used: in the windows of a moment, and in all."""

    daily_requests: int
    monthly_requests: int
    monthly_tokens: int
    requests: int
    tokens: int
    cost_usd: Decimal
    cost_inr: Decimal


class Meter(Protocol):
    """What the data plane knows of metering."""

    async def start(self) -> None:
        """Begin the background work; called once, before the first request."""

    async def stop(self) -> None:
        """Finish what is recorded but not yet written, then end the background work."""

    async def reserve(self, want: Want) -> Reservation:
        """Admit a request; raise `RateLimited`, `InsufficientFunds`, or `Unavailable` when nobody can tell."""

    async def settle(self, reservation: Reservation, settlement: Settlement) -> None:
        """Record the event and give back what was held beyond it; returns once the event is durable.

        A second settlement of the same reservation changes nothing.
        """

    async def refund(self, reservation: Reservation) -> None:
        """Give everything back: the request never reached a provider."""

    async def standing(self, user_id: str, at: datetime) -> Standing:
        """Return what a user has used; raise `Unavailable` when nobody can tell."""
