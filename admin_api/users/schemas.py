"""The bodies of /api/user."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from admin_api.auth.schemas import Name, TypedPassword
from admin_api.schema import Schema
from proxy.core.networks import read_network, write_network

Permission = Literal["chat", "models"]
PERMISSIONS: tuple[Permission, ...] = ("chat", "models")
Lifetime = Literal["30d", "90d", "1y", "never"]
Period = Literal["7d", "30d", "90d", "1y"]
PERIODS: dict[str, int] = {"7d": 7, "30d": 30, "90d": 90, "1y": 365}
"""How many days each period of the statistics has."""


def _exact(value: object) -> Decimal:
    """Read dollars from a JSON number or a decimal string; a double's shortest digits are what was written."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a number of US dollars")  # noqa: TRY004  pydantic wants a ValueError
    try:
        return Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation as exc:
        raise ValueError("must be a number of US dollars") from exc


Budget = Annotated[
    Decimal, BeforeValidator(_exact), Field(gt=0, le=1_000_000, decimal_places=12, allow_inf_nan=False)
]
"""Dollars, to the pico-dollar that everything is counted in."""

PerMinute = Annotated[int, Field(ge=1, le=10**9)]
KeyName = Annotated[str, Field(min_length=1, max_length=100)]


def _as_stored(networks: list[str]) -> list[str]:
    """Write every network in its one form, and each once."""
    return list(dict.fromkeys(write_network(read_network(text)) for text in networks))


AllowedIps = Annotated[
    list[Annotated[str, Field(max_length=64)]],
    Field(min_length=1, max_length=50),  # none would leave open whether nobody or everybody is meant
    AfterValidator(_as_stored),
]
"""Addresses and networks; `null` is everywhere."""


class NewApiKey(Schema):
    """An API key to make."""

    name: KeyName
    permissions: Annotated[list[Permission], Field(min_length=1, max_length=2)] = Field(
        default_factory=lambda: list(PERMISSIONS)
    )
    expiresIn: Lifetime = "30d"
    allowedModels: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=100)] | None = None
    allowedIps: AllowedIps | None = None
    onDisconnect: Literal["auto", "cancel", "drain"] = "auto"
    dailyBudget: Budget | None = None
    weeklyBudget: Budget | None = None
    monthlyBudget: Budget | None = None
    totalBudget: Budget | None = None
    requestsPerMinute: PerMinute | None = None
    tokensPerMinute: PerMinute | None = None
    concurrentRequests: PerMinute | None = None


class ApiKeyChanges(Schema):
    """What the owner of a key may change about it; what is left out stays."""

    name: KeyName | None = None
    allowedIps: AllowedIps | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> ApiKeyChanges:
        if not self.model_fields_set:
            raise ValueError("name at least one field to change")
        if "name" in self.model_fields_set and self.name is None:
            raise ValueError("name must not be null")
        return self


class _Changes(Schema):
    """A partial update: what is named changes, and null is no value."""

    @model_validator(mode="after")
    def _names_something(self) -> _Changes:
        if not self.model_fields_set:
            raise ValueError("name at least one field to change")
        empty = [name for name in self.model_fields_set if getattr(self, name) is None]
        if empty:
            raise ValueError(f"{', '.join(sorted(empty))} must not be null")
        return self


class NotificationChanges(_Changes):
    """Which messages a user wants."""

    email: bool | None = None
    push: bool | None = None
    marketing: bool | None = None


class PreferenceChanges(_Changes):
    """How a user wants the playground to be."""

    theme: Literal["light", "dark", "auto"] | None = None
    language: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,3}([_-][A-Za-z]{2})?$", max_length=5)] | None
    ) = None
    notifications: NotificationChanges | None = None


class ProfileChanges(_Changes):
    """What a user may change about himself."""

    name: Name | None = None
    bio: Annotated[str, Field(max_length=500)] | None = None
    preferences: PreferenceChanges | None = None


class AccountDeletion(Schema):
    """The proof that it is the owner who wants his account gone."""

    password: TypedPassword
