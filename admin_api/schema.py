"""What every body that comes in through /api has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Schema(BaseModel):
    """The base of every body: what is not declared is refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, str_strip_whitespace=True)
