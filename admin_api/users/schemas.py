"""The bodies of /api/user."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from admin_api.auth.schemas import Name, TypedPassword
from admin_api.validation import Schema

Permission = Literal["chat", "models"]
PERMISSIONS: tuple[Permission, ...] = ("chat", "models")
Lifetime = Literal["30d", "90d", "1y", "never"]
Period = Literal["7d", "30d", "90d", "1y"]
PERIODS: dict[str, int] = {"7d": 7, "30d": 30, "90d": 90, "1y": 365}
"""How many days each period of the statistics has."""


class NewApiKey(Schema):
    """An API key to make."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    permissions: Annotated[list[Permission], Field(min_length=1, max_length=2)] = Field(
        default_factory=lambda: list(PERMISSIONS)
    )
    expiresIn: Lifetime = "30d"
    allowedModels: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=100)] | None = None
    onDisconnect: Literal["auto", "cancel", "drain"] = "auto"


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
