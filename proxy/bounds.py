"""What one connection may take of a worker, and how many of them it has at once."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Bounds(BaseModel):
    """The section `connections` of config.yaml; times are in seconds, and absolute: no byte sent prolongs them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    most: int = Field(default=2_000, ge=1)
    body_bytes: int = Field(default=64 * 2**10, ge=1024)
    arriving_bytes: int = Field(default=256 * 2**20, ge=1024)
    head_seconds: float = Field(default=10, gt=0)
    body_seconds: float = Field(default=120, gt=0)
    reader_seconds: float = Field(default=30, gt=0)
    idle_seconds: float = Field(default=75, gt=0)
