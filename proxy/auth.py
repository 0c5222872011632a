"""From a Bearer key to a `Caller`: kept in memory while it is in use, refused only when we know that it is wrong.

All keys in use are read again together, twice a second, so that a request needs no look at the database, and a
revoked key, a deactivated user or a changed limit takes effect on every worker within `FRESH_SECONDS`, whoever
changed it. While the database is away, who was known stays known for `STALE_SECONDS`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import bson
from bson import ObjectId
from pymongo.errors import PyMongoError

from plugins.values import Value
from proxy import background, security
from proxy.core.limits import UserLimits
from proxy.core.networks import Network, is_within, read_network
from proxy.core.routing import Role
from proxy.core.rules import KeyLimits
from proxy.database import is_outage, lost
from proxy.documents import ApiKeyDocument, User
from proxy.errors import GatewayError, InternalError, PermissionDenied, Unauthenticated, Unavailable
from proxy.limits import Limits

FRESH_SECONDS = 1.0
STALE_SECONDS = 30.0
_REFRESH_SECONDS = 0.4
_ANSWER_SECONDS = 0.4
"""Who is known does not wait longer for a database that may be away: a refusal has two seconds in all."""

_IN_USE_SECONDS = 2.0
_BATCH = 1_000
_MOST_ENTRIES = 10_000
_LAST_USED_STEP = timedelta(minutes=1)
_OWNER = {"from": "users", "localField": "userId", "foreignField": "_id", "as": "user"}
_BULKY = (
    "name",
    "email",
    "password",
    "passwordReset",
    "preferences",
    "bio",
    "stats",
    "createdAt",
    "updatedAt",
)
_LEFT_OUT = {"name": 0, "lastFour": 0, "createdAt": 0, **{f"user.{name}": 0 for name in _BULKY}}


class Caller(Value, frozen=True):
    """Who is asking, and what he may do."""

    user_id: str
    role: Role
    limits: UserLimits
    key_id: str | None = None
    key_limits: KeyLimits | None = None
    allowed_models: frozenset[str] | None = None
    permissions: frozenset[str] = frozenset({"chat", "models"})
    on_disconnect: str = "auto"
    expires_at: datetime | None = None
    allowed_networks: tuple[Network, ...] = ()
    """Where the key may be used; nothing here means everywhere."""


@dataclass(slots=True)
class _Known:
    """What was found under a key's hash, when, and when somebody last asked.

    `stored` is the key as the database has said it last: nothing, where there is none.
    """

    digest: str
    read_at: float
    used_at: float
    stored: bytes = b""
    caller: Caller | None = None
    key_id: ObjectId | None = None
    last_used: datetime | None = None


class Authenticator:
    """The callers of the last seconds, by the hash of their keys."""

    def __init__(self, limits: Limits, *, clock: Callable[[], datetime]) -> None:
        """Use the role's default limits and this clock."""
        self._limits = limits
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._stored: dict[bytes, _Known] = {}
        self._asked: dict[str, asyncio.Future[Caller | None]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._notes: set[asyncio.Task[None]] = set()
        self._refresher: asyncio.Task[None] | None = None
        self._is_cut_off = False

    async def start(self) -> None:
        """Begin to read the keys in use again and again."""
        self._refresher = asyncio.create_task(self._refresh_for_ever(), name="auth-refresh")

    async def stop(self) -> None:
        """End that."""
        tasks = [task for task in (self._refresher, self._reader) if task is not None]
        await background.end(tasks)

    async def caller(
        self, authorization: str | None, address: str, *, permission: str | None = None
    ) -> Caller:
        """Return who holds the key that is used from an address, for what takes a permission.

        Raises `Unauthenticated`, `PermissionDenied` where the key may not be used from there or for that, and
        `Unavailable` when the database cannot be asked.
        """
        scheme, _, secret = (authorization or "").partition(" ")
        secret = secret.strip()
        if not secret or scheme.lower() != "bearer":
            raise Unauthenticated(
                "You did not provide an API key. Send it as `Authorization: Bearer <key>`.",
                code="missing_api_key",
            )
        if not secret.isascii():
            raise _wrong_key()
        digest, now = security.key_digest(secret), self._loop.time()
        known = self._known.get(digest)
        if known is None:
            # What is known was well-formed when it came first: that takes 4 us, a tenth of all that this does.
            if not security.is_well_formed_key(secret):
                raise _wrong_key()
            caller = await self._look_up(digest)
        else:
            known.used_at = now
            self._known.move_to_end(digest)
            is_fresh = now - known.read_at < FRESH_SECONDS
            caller = known.caller if is_fresh else await self._look_again(digest, known, now)
        if caller is None or (caller.expires_at is not None and caller.expires_at <= self._clock()):
            raise _wrong_key()
        if caller.allowed_networks and not is_within(address, caller.allowed_networks):
            raise PermissionDenied(
                f"This API key must not be used from the address {address}.", code="ip_not_allowed"
            )
        if permission is not None and permission not in caller.permissions:
            raise PermissionDenied(f"This API key does not have the permission `{permission}`.")
        return caller

    async def _look_again(self, digest: str, known: _Known, now: float) -> Caller | None:
        """Ask the database for what it said a while ago; should it not answer, that holds a little longer."""
        may_be_stale = known.caller is not None and now - known.read_at < STALE_SECONDS
        if may_be_stale and self._is_cut_off:
            return known.caller
        try:
            async with asyncio.timeout(_ANSWER_SECONDS if may_be_stale else None):
                return await self._look_up(digest)
        except (Unavailable, TimeoutError):
            if may_be_stale:
                return known.caller
            raise

    def limits_of(self, user: User) -> UserLimits:
        """Return a user's limits: an admin's overrides over the role's defaults."""
        return _limits(user.usageLimits.model_dump(), self._limits.of_role(user.role))

    async def _look_up(self, digest: str) -> Caller | None:
        """Ask the database, once for all that wait for the same key, and together with the other keys that wait."""
        answer = self._asked.get(digest)
        if answer is None:
            answer = self._asked[digest] = asyncio.get_running_loop().create_future()
            if self._reader is None or self._reader.done():
                self._reader = asyncio.create_task(self._read_asked())
        return await asyncio.shield(answer)

    async def _read_asked(self) -> None:
        """Read the keys that somebody waits for; those that come meanwhile are the next batch.

        One at a time each took 600 us, which a thousand keys in turn made more than all the rest of a request.
        """
        while self._asked:
            batch = dict(itertools.islice(self._asked.items(), _BATCH))
            try:
                known = await self._read_again(list(batch))
            except PyMongoError as exc:
                self._is_cut_off = is_outage(exc)
                self._fail_all(lost(exc))
            except BaseException:
                # A defect of ours must not leave anybody waiting.
                self._fail_all(InternalError("The gateway failed to check this API key."))
                raise
            else:
                for digest in batch:
                    self._asked.pop(digest).set_result(known[digest].caller)

    def _fail_all(self, error: GatewayError) -> None:
        """Answer everybody who waits, for whoever came last would wait as long: two seconds are all there is."""
        for answer in self._asked.values():
            answer.set_exception(error)
            answer.exception()  # clients that left must not leave a warning behind
        self._asked.clear()

    async def _refresh_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            await background.survived("reading the keys in use", self._refresh())

    async def _refresh(self) -> None:
        """Read every key in use again, a thousand in one query."""
        began = asyncio.get_running_loop().time()
        in_use = [digest for digest, known in self._known.items() if began - known.used_at < _IN_USE_SECONDS]
        try:
            for start in range(0, len(in_use), _BATCH):
                _ = await self._read_again(in_use[start : start + _BATCH])
            self._is_cut_off = False
        except PyMongoError as exc:
            self._is_cut_off = is_outage(exc)

    async def _read_again(self, digests: Sequence[str]) -> dict[str, _Known]:
        """Read these keys, and return what is known of them now."""
        began = asyncio.get_running_loop().time()
        keys = ApiKeyDocument.get_pymongo_collection()
        stages: list[Mapping[str, Any]] = [
            {"$match": {"digest": {"$in": digests}}},
            {"$lookup": _OWNER},
            {"$project": _LEFT_OUT},
        ]
        cursor = await keys.aggregate_raw_batches(stages, batchSize=_BATCH)
        found: dict[str, _Known] = {}
        async for batch in cursor:
            for document in _documents_in(batch):
                # Most keys are as they were, which their bytes tell in a tenth of the time that reading them takes.
                known, key = self._stored.get(document), None
                if known is None:
                    key = bson.decode(document, keys.codec_options)
                    known = self._entry(key["digest"], began)
                found[known.digest] = self._remember(known, document, key, began)
        for digest in digests:
            if digest not in found:
                found[digest] = self._remember(self._entry(digest, began), b"", None, began)
        return found

    def _entry(self, digest: str, now: float) -> _Known:
        known = self._known.get(digest)
        if known is None:
            known = self._known[digest] = _Known(digest, now, now)
            if len(self._known) > _MOST_ENTRIES:
                _, oldest = self._known.popitem(last=False)
                self._stored.pop(oldest.stored, None)
        return known

    def _remember(self, known: _Known, stored: bytes, key: Mapping[str, Any] | None, now: float) -> _Known:
        if known.read_at > now:
            return known  # somebody asked later and was answered before
        if stored != known.stored:
            caller = None if key is None else self._read(key)
            self._stored.pop(known.stored, None)
            known.stored, known.caller = stored, caller
            if key is not None:
                self._stored[stored] = known
                known.key_id, known.last_used = key["_id"], key.get("lastUsed")
        known.read_at = now
        if known.caller is not None:
            self._note_use(known)
        return known

    def _read(self, key: Mapping[str, Any]) -> Caller | None:
        user = key["user"][0] if key["user"] else None
        if user is None or not key["isActive"] or not user.get("isActive", True):
            return None
        role = Role(user["role"])
        allowed = key.get("allowedModels")
        return Caller(
            user_id=str(user["_id"]),
            role=role,
            limits=_limits(user.get("usageLimits") or {}, self._limits.of_role(role)),
            key_id=str(key["_id"]),
            key_limits=_key_limits(key),
            allowed_models=None if allowed is None else frozenset(allowed),
            permissions=frozenset(key["permissions"]),
            on_disconnect=key.get("onDisconnect", "auto"),
            expires_at=key.get("expiresAt"),
            allowed_networks=tuple(map(read_network, key.get("allowedIps") or ())),
        )

    def _note_use(self, known: _Known) -> None:
        now, last = self._clock(), known.last_used
        if last is not None and now - last < _LAST_USED_STEP:
            return
        task = asyncio.create_task(_write_last_use(known.key_id, now))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)


def _documents_in(batch: bytes) -> Iterator[bytes]:
    """Cut documents apart, each of which begins with its length (bsonspec.org)."""
    start = 0
    while start < len(batch):
        end = start + int.from_bytes(batch[start : start + 4], "little")
        yield batch[start:end]
        start = end


def _limits(overrides: Mapping[str, Any], defaults: UserLimits) -> UserLimits:
    chosen = (
        (overrides.get("dailyRequests"), defaults.daily_requests),
        (overrides.get("monthlyRequests"), defaults.monthly_requests),
        (overrides.get("monthlyTokens"), defaults.monthly_tokens),
    )
    return UserLimits(*(default if own is None else own for own, default in chosen))


def _key_limits(key: Mapping[str, Any]) -> KeyLimits | None:
    """Read a key's own limits; `None` when it has none, so that it costs no more than a key without."""

    def budget(name: str) -> Decimal | None:
        amount = key.get(name)
        return None if amount is None else amount.to_decimal()

    limits = KeyLimits(
        daily_budget=budget("dailyBudget"),
        weekly_budget=budget("weeklyBudget"),
        monthly_budget=budget("monthlyBudget"),
        total_budget=budget("totalBudget"),
        requests_per_minute=key.get("requestsPerMinute"),
        tokens_per_minute=key.get("tokensPerMinute"),
        concurrent_requests=key.get("concurrentRequests"),
    )
    return None if limits == KeyLimits() else limits


async def _write_last_use(key_id: object, now: datetime) -> None:
    keys = ApiKeyDocument.get_pymongo_collection()
    try:
        await keys.update_one({"_id": key_id}, {"$max": {"lastUsed": now}})
    except PyMongoError:
        return  # a remark, not money: the next use writes it


def _wrong_key() -> Unauthenticated:
    return Unauthenticated("Incorrect API key provided.")
