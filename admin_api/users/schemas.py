"""The bodies of /api/user."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from admin_api.validation import Schema

Permission = Literal["chat", "models"]
PERMISSIONS: tuple[Permission, ...] = ("chat", "models")
Lifetime = Literal["30d", "90d", "1y", "never"]


class NewApiKey(Schema):
    """An API key to make."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    permissions: Annotated[list[Permission], Field(min_length=1, max_length=2)] = Field(
        default_factory=lambda: list(PERMISSIONS)
    )
    expiresIn: Lifetime = "30d"
    allowedModels: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=100)] | None = None
    onDisconnect: Literal["auto", "cancel", "drain"] = "auto"
