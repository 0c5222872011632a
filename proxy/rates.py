"""How often somebody may ask: the section `rate_limits` of config.yaml."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

_YEAR = 366 * 86_400


class RateLimit(BaseModel):
    """So many requests in so many seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    requests: int = Field(ge=1)
    seconds: int = Field(default=900, ge=1, le=_YEAR)


class RateLimits(BaseModel):
    """Every rate limit of the account service.

    `api` covers all of /api and `auth` the endpoints that take credentials, per client address; `chat` covers
    POST /api/chat, per user. `account` is how many passwords an address may try on one account before it has to
    wait between tries, `attack` how many all addresses together may try before each has but one; `mail` is how
    many mails one account gets. In development every number is `development_factor` times wider.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    api: RateLimit = RateLimit(requests=100)
    auth: RateLimit = RateLimit(requests=10)
    chat: RateLimit = RateLimit(requests=50)
    account: RateLimit = RateLimit(requests=5)
    attack: RateLimit = RateLimit(requests=50)
    mail: RateLimit = RateLimit(requests=3)
    development_factor: int = Field(default=10, ge=1)

    def named(self, name: str, *, is_production: bool) -> RateLimit:
        """Return one limit as it is in this environment."""
        limit: RateLimit = getattr(self, name)
        factor = 1 if is_production else self.development_factor
        return RateLimit(requests=limit.requests * factor, seconds=limit.seconds)
