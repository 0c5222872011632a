"""Rate limits that are right across workers: a counter in MongoDB for each rule and subject, one atomic update each.

A window begins with its first request. Without the database nobody is refused here: a rate limit protects comfort,
and what protects money and passwords has its own answer to an outage.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Literal

import pymongo
import structlog
from pymongo import ReturnDocument, WriteConcern
from pymongo.errors import DuplicateKeyError, PyMongoError
from sanic import HTTPResponse, Request
from sanic.response import BaseHTTPResponse

from admin_api.access import Handler, SignedIn, UserHandler
from proxy.database import Database
from proxy.errors import RateLimited
from proxy.gateway import gateway_of
from proxy.settings import Settings

COLLECTION = "ratelimits"
LONGEST_BACK_OFF = 60
"""Seconds between tries at most: the owner, too, may have mistyped."""

_PATIENCE = 0.4  # with the endpoint's own wait, an outage is answered within two seconds
_PAUSE = 1.0
_ATTEMPTS = 2
_SHARED_PREFIX = 64  # one customer of an IPv6 provider has at least so many addresses
log = structlog.get_logger(__name__)

Rule = Literal["api", "auth", "chat", "account", "attack", "mail"]


@dataclass(frozen=True, slots=True)
class Window:
    """Where a subject stands under a rule, its latest request included."""

    limit: int
    seconds: int
    count: int
    resets_in: float

    @property
    def is_over(self) -> bool:
        """Say whether the latest request was one too many."""
        return self.count > self.limit

    @property
    def remaining(self) -> int:
        """Return how many requests are left."""
        return max(0, self.limit - self.count)

    def headers(self) -> dict[str, str]:
        """Render draft 6 of the RateLimit header fields, as the original's middleware did."""
        return {
            "ratelimit-limit": str(self.limit),
            "ratelimit-remaining": str(self.remaining),
            "ratelimit-reset": str(max(1, round(self.resets_in + 0.499))),
            "ratelimit-policy": f"{self.limit};w={self.seconds}",
        }


class RateLimiter:
    """The counters."""

    def __init__(self, database: Database, settings: Settings) -> None:
        """Use a collection that may lose its last moments in a failover; counting is not bookkeeping."""
        self._counters = database.get_collection(COLLECTION, write_concern=WriteConcern(1))
        self._settings = settings
        self._paused_until = 0.0

    async def start(self) -> None:
        """Let the database forget windows that have passed."""
        await self._counters.create_index("until", expireAfterSeconds=0, name="expiry")

    async def take(self, rule: Rule, subject: str, now: datetime) -> Window | None:
        """Count a request; `None` when the database cannot be asked."""
        limit = self._settings.rate_limits.named(rule, is_production=self._settings.is_production)
        is_new = {"$lte": [{"$ifNull": ["$until", now]}, now]}
        ends = now + timedelta(seconds=limit.seconds)
        counted = await self._update(
            f"{rule}:{subject}",
            {
                "n": {"$cond": [is_new, 1, {"$add": ["$n", 1]}]},
                "until": {"$cond": [is_new, ends, "$until"]},
            },
        )
        if counted is None:
            return None
        resets_in = (counted["until"] - now).total_seconds()
        return Window(limit.requests, limit.seconds, counted["n"], resets_in)

    async def begin_attempt(self, account: str, address: str, now: datetime) -> None:
        """Admit one try of a password; raise `RateLimited` when its address has to wait.

        The wait is for one address and one account: others cannot make the owner wait, and however many attack
        his account, a new address has a first try at once. Undo with `attempt_succeeded`.
        """
        subject = _hashed(account)
        attack = await self.take("attack", subject, now)
        limit = self._settings.rate_limits.named("account", is_production=self._settings.is_production)
        free = 1 if attack is not None and attack.is_over else limit.requests
        state = await self._update(f"account:{subject}:{address}", _attempt(now, free, limit.seconds))
        if state is not None and not state["admitted"]:
            wait = (state["next"] - now).total_seconds()
            message = "Too many attempts on this account. Wait before you try again."
            raise RateLimited(message, retry_after=wait, details={"retryAfter": max(1, round(wait + 0.499))})

    async def attempt_succeeded(self, account: str, address: str) -> None:
        """Forget an address' tries on an account: the last one was right."""
        subject = _hashed(account)
        try:
            with pymongo.timeout(_PATIENCE):
                await self._counters.delete_one({"_id": f"account:{subject}:{address}"})
                await self._counters.update_one(
                    {"_id": f"attack:{subject}", "n": {"$gt": 0}}, {"$inc": {"n": -1}}
                )
        except PyMongoError as exc:
            log.warning("a counter of tries could not be cleared", cause=str(exc)[:200])

    async def _update(self, counter: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """Apply one pipeline stage to a counter and return it; `None` when the database cannot be asked."""
        clock = asyncio.get_running_loop().time
        if clock() < self._paused_until:
            return None
        for attempt in range(_ATTEMPTS):
            try:
                with pymongo.timeout(_PATIENCE):
                    return await self._counters.find_one_and_update(
                        {"_id": counter},
                        [{"$set": fields}],
                        upsert=True,
                        return_document=ReturnDocument.AFTER,
                    )
            except DuplicateKeyError:
                # Two first requests at once: the other one has made the counter.
                log.debug("a counter was made twice", attempt=attempt)
            except PyMongoError as exc:
                # Not once more for each rule of this request: the endpoint itself has to answer within seconds.
                self._paused_until = clock() + _PAUSE
                log.warning("rate limits are open, the database does not answer", cause=str(exc)[:200])
                return None
        return None


def subject_of(address: str) -> str:
    """Return what an address is counted as: itself, or for IPv6 the network that one customer has."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, _SHARED_PREFIX), strict=False))
    return str(parsed)


def limiter_of(request: Request) -> RateLimiter:
    """Return the limiter of the gateway that serves a request."""
    limiter: RateLimiter = request.app.ctx.limiter
    return limiter


async def limit(request: Request, rule: Rule, subject: str) -> None:
    """Count a request under a rule; raise `RateLimited` when it is one too many."""
    window = await limiter_of(request).take(rule, subject, gateway_of(request).clock())
    if window is None:
        return
    tightest: Window | None = getattr(request.ctx, "window", None)
    if tightest is None or window.remaining <= tightest.remaining:
        request.ctx.window = window
    if window.is_over:
        wait = max(1, round(window.resets_in + 0.499))
        raise RateLimited(
            f"Too many requests. Try again in {wait} seconds.",
            retry_after=window.resets_in,
            details={"retryAfter": wait},
        )


async def begin_attempt(request: Request, account: str) -> None:
    """Admit one try of a password by a request's client; raise `RateLimited` when he has to wait."""
    address, now = subject_of(request.ctx.client), gateway_of(request).clock()
    await limiter_of(request).begin_attempt(account, address, now)


async def attempt_succeeded(request: Request, account: str) -> None:
    """Forget the tries of a request's client on an account: the last one was right."""
    await limiter_of(request).attempt_succeeded(account, subject_of(request.ctx.client))


async def may_mail(request: Request, account: str) -> bool:
    """Count a mail to an account, and say whether it may be sent."""
    window = await limiter_of(request).take("mail", _hashed(account), gateway_of(request).clock())
    return window is None or not window.is_over


async def limit_api(request: Request) -> None:
    """Count every request to /api by its client's address: a request middleware."""
    if request.path.startswith("/api/"):
        await limit(request, "api", subject_of(request.ctx.client))


def add_headers(request: Request, response: BaseHTTPResponse) -> None:
    """Say on an answer how much is left of the tightest limit that was counted."""
    window: Window | None = getattr(request.ctx, "window", None)
    if window is not None:
        response.headers.update(window.headers())


def by_address(rule: Rule) -> Callable[[Handler], Handler]:
    """Limit an endpoint by client address; stands below the access rule."""

    def decorate(handler: Handler) -> Handler:
        @functools.wraps(handler)
        async def limited(request: Request, *args: Any, **kwargs: Any) -> HTTPResponse | None:
            await limit(request, rule, subject_of(request.ctx.client))
            return await handler(request, *args, **kwargs)

        return limited

    return decorate


def by_user(rule: Rule) -> Callable[[UserHandler], UserHandler]:
    """Limit an endpoint by signed-in user; stands below `access.user`."""

    def decorate(handler: UserHandler) -> UserHandler:
        @functools.wraps(handler)
        async def limited(
            request: Request, caller: SignedIn, *args: Any, **kwargs: Any
        ) -> HTTPResponse | None:
            await limit(request, rule, str(caller.user_id))
            return await handler(request, caller, *args, **kwargs)

        return limited

    return decorate


def _attempt(now: datetime, free: int, seconds: int) -> dict[str, Any]:
    """Describe one try: admitted unless it comes before `next`, which doubles its distance past `free` tries."""
    is_new = {"$lte": [{"$ifNull": ["$until", now]}, now]}
    tried = {"$cond": [is_new, 0, {"$ifNull": ["$n", 0]}]}
    is_admitted = {"$or": [is_new, {"$lte": [{"$ifNull": ["$next", now]}, now]}]}
    count = {"$add": [tried, 1]}
    past = {"$min": [{"$subtract": [count, free]}, 20]}
    wait = {"$min": [{"$multiply": [1000, {"$pow": [2, past]}]}, LONGEST_BACK_OFF * 1000]}
    following = {"$cond": [{"$gte": [count, free]}, {"$add": [now, wait]}, now]}
    return {
        "admitted": is_admitted,
        "n": {"$cond": [is_admitted, count, tried]},
        "next": {"$cond": [is_admitted, following, "$next"]},
        "until": {
            "$cond": [is_admitted, now + timedelta(seconds=seconds + LONGEST_BACK_OFF), "$until"],
        },
    }


def _hashed(account: str) -> str:
    # Whose account is tried is nobody's business who reads this collection.
    return hashlib.sha256(account.encode()).hexdigest()[:32]
