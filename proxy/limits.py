"""The section `limits` of config.yaml: what users may use, and the bounds that worst cases are computed with."""

from __future__ import annotations

from decimal import Decimal
from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field

from proxy.core.limits import MediaTokens, UserLimits
from proxy.core.routing import Role

# The database counts in 64 bits: what is here has to fit, and so has what is held of it for one request.
_MOST = 10**12
_MOST_TOKENS = 10**9


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LimitsOfRole(_Section):
    """What the users of one role may use, unless an admin sets limits of their own."""

    daily_requests: int = Field(ge=0, le=_MOST)
    monthly_requests: int = Field(ge=0, le=_MOST)
    monthly_tokens: int = Field(ge=0, le=_MOST)


class Limits(_Section):
    """Limits and the bounds that worst cases are computed with."""

    user: LimitsOfRole = LimitsOfRole(daily_requests=50, monthly_requests=1_000, monthly_tokens=100_000)
    premium: LimitsOfRole = LimitsOfRole(daily_requests=200, monthly_requests=5_000, monthly_tokens=500_000)
    admin: LimitsOfRole = LimitsOfRole(daily_requests=200, monthly_requests=5_000, monthly_tokens=500_000)
    default_output_tokens: int = Field(default=4_096, ge=16, le=_MOST_TOKENS)
    image_tokens: int = Field(default=6_000, ge=1, le=_MOST_TOKENS)
    audio_tokens: int = Field(default=20_000, ge=1, le=_MOST_TOKENS)
    file_tokens: int = Field(default=100_000, ge=1, le=_MOST_TOKENS)
    extras_usd: Decimal | None = Field(default=None, ge=0, le=10_000)
    api_keys_per_user: int = Field(default=5, ge=1)
    chat_body_bytes: int = Field(default=20 * 2**20, ge=1024)
    concurrent_requests: int = Field(default=1_000, ge=1)

    def of_role(self, role: Role) -> UserLimits:
        """Return the default limits of a role."""
        return UserLimits(**getattr(self, role).model_dump())

    @cached_property
    def media(self) -> MediaTokens:
        """Return the bounds for what is not text in a prompt."""
        return MediaTokens(self.image_tokens, self.audio_tokens, self.file_tokens)
