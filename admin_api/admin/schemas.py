"""The bodies of /api/admin."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from admin_api.schema import Schema

MOST_OF_A_LIMIT = 10**12
RoleName = Literal["user", "premium", "admin"]
Limit = Annotated[int, Field(ge=0, le=MOST_OF_A_LIMIT)]
Value = TypeVar("Value")


class LimitChanges(Schema):
    """Limits of one user's own; `null` goes back to his role's, and what is left out stays."""

    dailyRequests: Limit | None = None
    monthlyRequests: Limit | None = None
    monthlyTokens: Limit | None = None


class UserChanges(Schema):
    """What an admin may change about a user; what is left out stays."""

    role: RoleName | None = None
    isActive: bool | None = None
    usageLimits: LimitChanges | None = None

    @field_validator("role", "isActive", "usageLimits", mode="before")
    @classmethod
    def _is_given(cls, value: Value) -> Value:
        if value is None:
            raise ValueError("must not be null; leave it out instead")
        return value

    @model_validator(mode="after")
    def _changes_something(self) -> UserChanges:
        limits = self.usageLimits
        if not self.model_fields_set or (limits is not None and not limits.model_fields_set):
            raise ValueError("name at least one thing to change")
        return self
