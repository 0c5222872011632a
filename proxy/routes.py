"""The way to the providers, as config.yaml describes it: patience, fallbacks, retries, breakers, keys set aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from proxy.core.breaker import BreakerPolicy
from proxy.core.retries import RetryPolicy
from proxy.core.routing import Member

Seconds = Annotated[float, Field(gt=0)]
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Section(BaseModel):
    model_config = _STRICT


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that an exchange with a provider may take, phase by phase."""

    # No model of pydantic's, whose attributes take five times as long to read, and a call reads five.
    __pydantic_config__: ClassVar = _STRICT

    connect: Seconds = 10
    first_byte: Seconds = 120
    idle: Seconds = 60
    total: Seconds = 600

    def changed(self, own: Mapping[str, float]) -> Timeouts:
        """Return these with some of their own in the place of some."""
        return replace(self, **own) if own else self


class OwnTimeouts(_Section):
    """Those of a target that are not its provider's."""

    connect: float | None = Field(default=None, gt=0)
    first_byte: float | None = Field(default=None, gt=0)
    idle: float | None = Field(default=None, gt=0)
    total: float | None = Field(default=None, gt=0)


class Fallback(_Section):
    """One target of a name: a model's id, with timeouts of its own or without."""

    model: str
    timeouts: OwnTimeouts = OwnTimeouts()

    @model_validator(mode="before")
    @classmethod
    def _plain_id(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @property
    def member(self) -> Member:
        """Return it as the catalogue takes it."""
        return Member(self.model, self.timeouts.model_dump(exclude_none=True))


class Retries(_Section):
    """How often a request is sent again, before its first byte, and how many of all requests may be retries."""

    attempts: int = Field(default=6, ge=1, le=50)
    rounds: int = Field(default=3, ge=1, le=10)
    first_wait: float = Field(default=0.25, ge=0)
    longest_wait: float = Field(default=5, ge=0, le=60)
    budget: float = Field(default=0.2, ge=0, le=10)
    burst: int = Field(default=20, ge=0)

    @property
    def policy(self) -> RetryPolicy:
        """Return the rules for one call."""
        return RetryPolicy(self.attempts, self.rounds, self.first_wait, self.longest_wait)


class Breaker(_Section):
    """When a target is spared, and for how many seconds."""

    failure_rate: float = Field(default=0.5, gt=0, le=1)
    least_requests: int = Field(default=10, ge=1)
    window: float = Field(default=30, gt=0)
    pause: float = Field(default=5, gt=0)
    longest_pause: float = Field(default=60, gt=0)

    @property
    def policy(self) -> BreakerPolicy:
        """Return the rules for one target."""
        return BreakerPolicy(**self.model_dump())


class SetAside(_Section):
    """For how many seconds an API key is not used after its provider has refused it, or limited it."""

    refused: float = Field(default=300, gt=0)
    limited: float = Field(default=15, gt=0)
    longest: float = Field(default=3_600, gt=0)


class Resilience(_Section):
    """What happens when a provider has a bad day."""

    retries: Retries = Retries()
    breaker: Breaker = Breaker()
    set_aside: SetAside = SetAside()


def routes_of(
    aliases: Mapping[str, Sequence[str]], fallbacks: Mapping[str, Sequence[Fallback]]
) -> dict[str, tuple[Member, ...]]:
    """Return the names that the operator has made for models, each with its targets in order."""
    plain = {name: tuple(map(Member, models)) for name, models in aliases.items()}
    return plain | {name: tuple(each.member for each in targets) for name, targets in fallbacks.items()}
