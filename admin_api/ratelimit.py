"""Rate limits that are right across workers: a counter in MongoDB for each rule and subject.

A window begins with its first request. Without the database a limit that protects comfort refuses nobody, for what
protects money has its own answer to an outage; and no password is checked that could not be counted.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Literal

import pymongo
import structlog
from pymongo import WriteConcern
from pymongo.errors import PyMongoError
from sanic import HTTPResponse, Request
from sanic.response import BaseHTTPResponse

from admin_api import counters
from admin_api.access import Handler, SignedIn, UserHandler
from proxy.database import Database
from proxy.errors import RateLimited, Unavailable
from proxy.gateway import gateway_of
from proxy.settings import Settings

COLLECTION = "ratelimits"
LONGEST_BACK_OFF = 60
"""Seconds between tries at most: the owner, too, may have mistyped."""

MOST_REMEMBERED = 10_000
"""Windows that are known to be over, some 3 MB; one that is forgotten is looked for in the database."""

_SHARED_PREFIX = 64  # one customer of an IPv6 provider has at least so many addresses
log = structlog.get_logger(__name__)

Rule = Literal["api", "auth", "chat", "account", "attack", "mail"]
_COMFORT: frozenset[Rule] = frozenset({"api", "chat"})


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
    """The limits, as one process keeps them."""

    def __init__(self, database: Database, settings: Settings) -> None:
        """Use a collection that may lose its last moments in a failover; counting is not bookkeeping."""
        self._collection = database.get_collection(COLLECTION, write_concern=WriteConcern(1))
        self._counters = counters.Counters(self._collection)
        self._limit = functools.partial(settings.rate_limits.named, is_production=settings.is_production)
        self._over: dict[str, datetime] = {}

    async def start(self) -> None:
        """Let the database forget windows that have passed."""
        await self._collection.create_index("until", expireAfterSeconds=0, name="expiry")

    async def take(self, rule: Rule, subject: str, now: datetime) -> Window | None:
        """Count a request, unless its window is known to be over.

        When it cannot be counted, returns `None` under a rule of comfort, and raises `Unavailable` under any other.
        """
        ends = self._over.get(f"{rule}:{subject}")
        if ends is not None and now < ends:
            limit = self._limit(rule)
            return Window(limit.requests, limit.seconds, limit.requests + 1, (ends - now).total_seconds())
        try:
            window = await self._count(rule, subject, now)
        except Unavailable:
            if rule in _COMFORT:
                return None
            raise
        if window.is_over:
            self._remember(f"{rule}:{subject}", now + timedelta(seconds=window.resets_in))
        return window

    async def begin_attempt(self, account: str, address: str, now: datetime) -> None:
        """Admit one try of a password; raise `RateLimited` when its address has to wait.

        The wait is for one address and one account: others cannot make the owner wait, and however many attack
        his account, a new address has a first try at once. Undo with `attempt_succeeded`. Raises `Unavailable` when
        the try cannot be counted.
        """
        subject = _hashed(account)
        attack = await self._count("attack", subject, now)  # never known to be over: a success takes one back
        limit = self._limit("account")
        free = 1 if attack.is_over else limit.requests
        counted = await self._counters.count(
            f"account:{subject}:{address}", lambda tries: _attempts(tries, now, free, limit.seconds)
        )
        if counted.place > counted.state["admitted"]:
            wait = (counted.state["next"] - now).total_seconds()
            message = "Too many attempts on this account. Wait before you try again."
            raise RateLimited(message, retry_after=wait, details={"retryAfter": max(1, round(wait + 0.499))})

    async def attempt_succeeded(self, account: str, address: str) -> None:
        """Forget an address' tries on an account: the last one was right."""
        subject = _hashed(account)
        try:
            with pymongo.timeout(counters.PATIENCE):
                await self._collection.delete_one({"_id": f"account:{subject}:{address}"})
                await self._collection.update_one(
                    {"_id": f"attack:{subject}", "n": {"$gt": 0}}, {"$inc": {"n": -1}}
                )
        except PyMongoError as exc:
            log.warning("a counter of tries could not be cleared", cause=str(exc)[:200])

    async def _count(self, rule: Rule, subject: str, now: datetime) -> Window:
        limit = self._limit(rule)
        is_new = {"$lte": [{"$ifNull": ["$until", now]}, now]}
        ends = now + timedelta(seconds=limit.seconds)
        counted = await self._counters.count(
            f"{rule}:{subject}",
            lambda requests: {
                "n": {"$cond": [is_new, requests, {"$add": ["$n", requests]}]},
                "until": {"$cond": [is_new, ends, "$until"]},
            },
        )
        behind = counted.together - counted.place
        resets_in = (counted.state["until"] - now).total_seconds()
        return Window(limit.requests, limit.seconds, counted.state["n"] - behind, resets_in)

    def _remember(self, counter: str, ends: datetime) -> None:
        """Remember that a window is over, in the place of the oldest such knowledge when there is too much."""
        self._over.pop(counter, None)
        if len(self._over) >= MOST_REMEMBERED:
            del self._over[next(iter(self._over))]
        self._over[counter] = ends


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
    """Count a request to /api by its client's address."""
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


def _attempts(tries: int, now: datetime, free: int, seconds: int) -> dict[str, Any]:
    """Describe tries at once: `free` are admitted, and past them one after `next`, which doubles its distance."""
    is_new = {"$lte": [{"$ifNull": ["$until", now]}, now]}
    tried = {"$cond": [is_new, 0, {"$ifNull": ["$n", 0]}]}
    is_admitted = {"$or": [is_new, {"$lte": [{"$ifNull": ["$next", now]}, now]}]}
    admitted = {"$min": [tries, {"$max": [1, {"$subtract": [free, tried]}]}]}
    count = {"$add": [tried, admitted]}
    past = {"$min": [{"$subtract": [count, free]}, 20]}
    wait = {"$min": [{"$multiply": [1000, {"$pow": [2, past]}]}, LONGEST_BACK_OFF * 1000]}
    following = {"$cond": [{"$gte": [count, free]}, {"$add": [now, wait]}, now]}
    return {
        "admitted": {"$cond": [is_admitted, admitted, 0]},
        "n": {"$cond": [is_admitted, count, tried]},
        "next": {"$cond": [is_admitted, following, "$next"]},
        "until": {
            "$cond": [is_admitted, now + timedelta(seconds=seconds + LONGEST_BACK_OFF), "$until"],
        },
    }


def _hashed(account: str) -> str:
    # Whose account is tried is nobody's business who reads this collection.
    return hashlib.sha256(account.encode()).hexdigest()[:32]
