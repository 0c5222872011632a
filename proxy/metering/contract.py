"""The interface of metering: reserve before the provider is called, then settle or refund, exactly once.

A reservation holds the worst case of a request, so that limits cannot be overrun however many requests run at
once. No function reaches a provider without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from msgspec import field

from plugins.contract import Price
from plugins.values import Value
from proxy.core.bill import Bill
from proxy.core.limits import FEWEST_TOKENS, UserLimits
from proxy.core.rules import Demand, KeyLimits, Rule
from proxy.documents import Outcome

_FAILED = (Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT)


class Want(Value, frozen=True):
    """What a request needs in order to be admitted.

    `demand` bounds the prompt; `output_tokens` is the wished cap of each of `choices` answers and may be
    lowered. `prompt_estimate` and the names are what is recorded should this process die in mid-request.
    """

    request_id: str
    user_id: str
    key_id: str | None
    session_id: str | None
    at: datetime
    limits: UserLimits
    key_limits: KeyLimits | None
    demand: Demand
    prompt_estimate: int
    output_tokens: int
    choices: int
    requested_model: str
    provider: str
    model: str
    stream: bool

    @property
    def least_output(self) -> int:
        """Return the output, over all choices, below which serving makes no sense."""
        return self.choices * min(FEWEST_TOKENS, self.output_tokens)

    @property
    def wished_output(self) -> int:
        """Return the output that is wished, over all choices."""
        return self.choices * self.output_tokens


class Reservation(Value, frozen=True):
    """An admitted request: the limits in force, what is held by counter, and the output cap (per choice) that it covers.

    What its `rules` hold is in `held`, and not to be asked of them. `remaining` is what is left of each counter beside the
    holds, as far as this process knows.
    """

    want: Want
    rules: tuple[Rule, ...]
    held: Mapping[str, int]
    output_tokens: int
    remaining: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_lowered(self) -> bool:
        """Say whether the cap is smaller than what was wished."""
        return self.output_tokens < self.want.output_tokens


class Progress(Value, frozen=True, array_like=True):
    """How far a request has come: enough to make its event should this process die now."""

    provider: str
    model: str
    generation_id: str | None = None
    backing: str | None = None
    deltas: int = 0
    output_bytes: int = 0


class AttemptRecord(Value, frozen=True, array_like=True):
    """One request to one provider, as the event keeps it."""

    provider: str
    model: str
    outcome: str
    started_at: datetime
    milliseconds: int
    status: int | None = None
    generation_id: str | None = None
    cost: Decimal | None = None


class Settlement(Value, frozen=True, array_like=True):
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
    price: Price | None = None
    first_token_ms: int | None = None

    @property
    def counts_as_request(self) -> bool:
        """Say whether it takes one from the request limits: a provider's failure without an answer does not."""
        return self.outcome not in _FAILED or self.bill.tokens.total > 0


class Standing(Value, frozen=True):
    """What a user has used: in the windows of a moment, and in all."""

    daily_requests: int
    monthly_requests: int
    monthly_tokens: int
    requests: int
    tokens: int
    cost_usd: Decimal
    cost_inr: Decimal
    counters: Mapping[str, tuple[int, int]]
    """Of every counter of the account: what is used, and what is held or leased."""


class Meter(Protocol):
    """What the data plane knows of metering.

    `settles_at_once` says that `settle` never waits for anything, so that nothing can keep it from coming to its end.
    """

    settles_at_once: bool

    async def start(self) -> None:
        """Begin the background work; called once, before the first request."""

    async def stop(self) -> None:
        """Finish what is recorded but not yet written, then end the background work."""

    def check(self) -> None:
        """Raise `Unavailable` if nobody could be admitted now, whoever asks."""

    async def reserve(self, want: Want) -> Reservation:
        """Admit a request; raise `RateLimited`, `InsufficientFunds`, or `Unavailable` when nobody can tell."""

    def note(self, reservation: Reservation, progress: Progress) -> None:
        """Take note of how far a request has come, if this meter can remember it."""

    async def settle(self, reservation: Reservation, settlement: Settlement) -> None:
        """Record the event and give back what was held beyond it; returns once the event is durable.

        A second settlement of the same reservation changes nothing.
        """

    async def refund(self, reservation: Reservation) -> None:
        """Give everything back: the request never reached a provider."""

    async def flush(self) -> None:
        """Bring what was settled here to the database now; raise `Unavailable`."""

    async def standing(self, user_id: str, at: datetime) -> Standing:
        """Return what a user has used; raise `Unavailable` when nobody can tell."""

    async def standings(self, user_ids: Sequence[str], at: datetime) -> dict[str, Standing]:
        """Return the same for many users, by their ids."""
