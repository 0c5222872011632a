"""A large database: every collection as the gateway itself would have written it, roll-ups and accounts included.

Some thousand events are made by the functions that make them in the gateway, and what is derived from them (roll-ups,
accounts) by the gateway's own too. Every user's are copies of some of those, patched in their encoded form: to make
each anew would take an hour of CPU for two millions.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import bson
from bson import ObjectId
from bson.decimal128 import Decimal128
from bson.raw_bson import RawBSONDocument
from pymongo.asynchronous.collection import AsyncCollection

from bench.keys import BUDGET, PLENTY
from plugins.contract import Price
from proxy import security
from proxy.core.bill import Bill, Counted
from proxy.core.limits import UserLimits
from proxy.core.pricing import Charge, CostSource
from proxy.core.rules import Demand, has_ended, rules_of
from proxy.database import Database
from proxy.documents import ACCOUNTS, EVENTS, Outcome
from proxy.metering.contract import AttemptRecord, Reservation, Settlement, Want
from proxy.metering.event import Event, totals_of, usage_event
from proxy.metering.rollups import ROLLUPS, Sums, sums_of

PASSWORD = "a password of the benchmark"  # noqa: S105  it opens nothing but a temporary database
HEAVY_EMAIL = "heavy@example.com"
ADMIN_EMAIL = "admin@example.com"
DAYS = 90
_MODELS = [f"maker-{number}/model-{number}" for number in range(20)]
_PRICE = Price(Decimal("0.00000015"), Decimal("0.0000006"))
_RATE = Decimal(83)
_LIMITS = UserLimits(10**8, 10**9, 10**12)
_BATCH = 2_000
_TIME = struct.Struct("<q")
_ALL_KINDS = 4_000
_KINDS = 40
"""So many different events each user has, on as many days and with as many models; the others are like one of them."""

_USER, _KEY, _SESSION = "a" * 24, "b" * 24, "c" * 24
"""Whose the events are that all others are copied from."""

_HEAVY_SHARE = 20
"""The first user has so many times the events and messages of an ordinary one."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is of everything."""

    users: int
    events: int
    messages: int
    records: int = 20_000


@dataclass(slots=True)
class Owner:
    """One user: his documents' ids, and how much of everything he has."""

    number: int
    user_id: ObjectId
    key_id: ObjectId
    events: int
    sessions: list[ObjectId]
    messages: int


@dataclass(frozen=True, slots=True)
class Kind:
    """An event that others are copied from, and what comes of it."""

    encoded: bytes
    id_at: int
    time_at: int
    milliseconds: int
    used: dict[str, int]
    totals: dict[str, int]
    sums: Sums


class Sink:
    """Inserts into one collection, many documents at once, and meanwhile takes the next ones."""

    def __init__(self, database: Database, name: str) -> None:
        """Insert into this collection."""
        self._collection: AsyncCollection[dict[str, Any]] = database[name]
        self._waiting: list[dict[str, Any] | RawBSONDocument] = []
        self._inserting: asyncio.Task[None] | None = None

    async def add(self, *documents: dict[str, Any] | RawBSONDocument) -> None:
        """Insert these, now or a little later."""
        self._waiting += documents
        if len(self._waiting) >= _BATCH:
            await self._insert()

    async def flush(self) -> None:
        """Insert what is waiting, and wait for it."""
        await self._insert()
        await self._insert()

    async def _insert(self) -> None:
        if self._inserting is not None:
            await self._inserting
        batch, self._waiting = self._waiting, []
        self._inserting = asyncio.create_task(self._insert_all(batch)) if batch else None

    async def _insert_all(self, batch: list[dict[str, Any] | RawBSONDocument]) -> None:
        await self._collection.insert_many(batch, ordered=False)


async def fill(database: Database, size: Size, now: datetime, dice: random.Random) -> str:
    """Put everything into the database; return the API key of the heaviest user."""
    names = ("users", "apikeys", EVENTS, ROLLUPS, ACCOUNTS, "chatsessions", "chatmessages", "auditlog")
    sinks = {name: Sink(database, name) for name in names}
    digest = security.hash_password(PASSWORD)
    kinds = [_kind(now, dice) for _ in range(_ALL_KINDS)]
    secret = ""
    for owner in _owners(size):
        made = security.new_api_key()
        secret = secret or made.secret
        await sinks["users"].add(_user(owner, digest, now))
        await sinks["apikeys"].add(_key(owner, made, now))
        await _add_events(owner, dice.sample(kinds, _KINDS), sinks, dice)
        await _add_messages(owner, sinks, now, dice)
    for number in range(size.records):
        await sinks["auditlog"].add(_record(number, now))
    for sink in sinks.values():
        await sink.flush()
    return secret


def _owners(size: Size) -> Iterator[Owner]:
    shares = size.users + _HEAVY_SHARE - 1
    for number in range(size.users):
        share = _HEAVY_SHARE if number == 0 else 1
        messages = size.messages * share // shares
        sessions = [ObjectId() for _ in range(max(1, messages // 10))]
        yield Owner(number, ObjectId(), ObjectId(), size.events * share // shares, sessions, messages)


async def _add_events(
    owner: Owner, kinds: Sequence[Kind], sinks: dict[str, Sink], dice: random.Random
) -> None:
    used: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    rollups: dict[str, dict[str, Any]] = {}
    for number, kind in enumerate(kinds):
        copies = owner.events // _KINDS + (number < owner.events % _KINDS)
        if not copies:
            continue
        theirs = {
            _USER: str(owner.user_id),
            _KEY: str(owner.key_id),
            _SESSION: str(dice.choice(owner.sessions)),
        }
        await sinks[EVENTS].add(*_copies(kind, copies, theirs, dice))
        used.update({counter: copies * amount for counter, amount in kind.used.items()})
        totals.update({name: copies * amount for name, amount in kind.totals.items()})
        for key, place in kind.sums.items():
            names = {name: theirs.get(value, value) for name, value in place["names"].items()}
            rollup = rollups.setdefault(_renamed(key, theirs), names)
            for name, amount in place["amounts"].items():
                rollup[name] = rollup.get(name, 0) + copies * amount
    await sinks[ROLLUPS].add(*({"_id": key, **rollup, "thru": {}} for key, rollup in rollups.items()))
    counters = {counter: {"u": amount, "l": 0} for counter, amount in used.items()}
    await sinks[ACCOUNTS].add(
        {"_id": str(owner.user_id), "c": counters, "t": dict(totals), "j": {}, "js": []}
    )


def _renamed(text: str, theirs: Mapping[str, str]) -> str:
    for placeholder, name in theirs.items():
        text = text.replace(placeholder, name)
    return text


def _copies(
    kind: Kind, copies: int, theirs: Mapping[str, str], dice: random.Random
) -> Iterator[RawBSONDocument]:
    """Repeat an event for somebody, under other ids and second by second."""
    encoded = kind.encoded
    for placeholder, name in theirs.items():
        encoded = encoded.replace(placeholder.encode(), name.encode())
    patched = bytearray(encoded)
    for number in range(copies):
        request = _request_id(dice).encode()
        patched[kind.id_at : kind.id_at + len(request)] = request
        _TIME.pack_into(patched, kind.time_at, kind.milliseconds + 1000 * number)
        yield RawBSONDocument(bytes(patched))


def _kind(now: datetime, dice: random.Random) -> Kind:
    event = _event(now, dice)
    encoded = bson.encode(event)
    time_at = encoded.index(b"\x09at\x00") + 4
    (milliseconds,) = _TIME.unpack_from(encoded, time_at)
    return Kind(
        encoded=encoded,
        id_at=encoded.index(event["_id"].encode()),
        time_at=time_at,
        milliseconds=milliseconds,
        used={counter: amount for counter, amount in event["windows"].items() if not has_ended(counter, now)},
        totals=totals_of(event),
        sums=sums_of([event]),
    )


def _request_id(dice: random.Random) -> str:
    return f"req_{dice.getrandbits(96):024x}"


def _event(now: datetime, dice: random.Random) -> Event:
    day = (now - timedelta(days=dice.randrange(DAYS))).replace(hour=0, minute=0, second=0, microsecond=0)
    at = min(now, day + timedelta(seconds=dice.randrange(80_000)))
    model = _MODELS[min(len(_MODELS) - 1, int(dice.expovariate(0.3)))]
    session = _SESSION if dice.random() < 0.1 else None  # noqa: PLR2004  every tenth is a chat
    tokens = Counted(dice.randrange(10, 4_000), dice.randrange(1, 1_000))
    cost = tokens.prompt * _PRICE.prompt + tokens.completion * _PRICE.completion
    want = Want(
        request_id=_request_id(dice),
        user_id=_USER,
        key_id=None if session else _KEY,
        session_id=session,
        at=at,
        limits=_LIMITS,
        key_limits=None,
        demand=Demand(tokens.prompt, _PRICE),
        prompt_estimate=tokens.prompt,
        output_tokens=1_000,
        choices=1,
        requested_model=model,
        provider="openrouter",
        model=model,
        stream=True,
    )
    rules = rules_of(_LIMITS, None, None, want.demand, at)
    attempt = AttemptRecord("openrouter", model, "completed", at, 900, 200, "gen-1", cost)
    settlement = Settlement(
        outcome=Outcome.COMPLETED,
        bill=Bill(tokens, Charge(cost, CostSource.PROVIDER, estimated=False)),
        usd_inr_rate=_RATE,
        provider="openrouter",
        model=model,
        total_ms=900,
        attempts=(attempt,),
        served_model=model,
        price=_PRICE,
        first_token_ms=300,
    )
    held = {rule.counter: rule.need(1_000) for rule in rules}
    return usage_event(Reservation(want, rules, held, 1_000), settlement)


async def _add_messages(owner: Owner, sinks: dict[str, Sink], now: datetime, dice: random.Random) -> None:
    each = max(1, owner.messages // len(owner.sessions))
    for session in owner.sessions:
        began = now - timedelta(seconds=dice.randrange(DAYS * 86_400))
        await sinks["chatsessions"].add(_session(owner, session, began, each))
        for number in range(each):
            await sinks["chatmessages"].add(_message(owner, session, began, number))


def _user(owner: Owner, digest: str, now: datetime) -> dict[str, Any]:
    is_heavy = owner.number == 0
    made_at = now - timedelta(days=owner.number % 400)
    return {
        "_id": owner.user_id,
        "name": f"Person {owner.number}",
        "email": HEAVY_EMAIL if is_heavy else f"person{owner.number}@example.com",
        "password": digest if is_heavy else None,
        "role": "premium" if owner.number % 10 == 0 else "user",
        "isActive": owner.number % 50 != 7,  # noqa: PLR2004  some are not
        "bio": "",
        "preferences": {"theme": "auto", "language": "en", "favoriteModels": [], "notifications": {}},
        "usageLimits": PLENTY,
        "stats": {"lastActive": now - timedelta(hours=owner.number), "loginCount": owner.number % 37},
        "createdAt": made_at,
        "updatedAt": made_at,
    }


def _key(owner: Owner, made: security.ApiKey, now: datetime) -> dict[str, Any]:
    return {
        "_id": owner.key_id,
        "userId": owner.user_id,
        "name": "bench",
        "digest": made.digest,
        "lastFour": made.last_four,
        "permissions": ["chat", "models"],
        "monthlyBudget": BUDGET,
        "onDisconnect": "auto",
        "isActive": True,
        "slot": 0,
        "createdAt": now - timedelta(days=DAYS),
    }


def _session(owner: Owner, session: ObjectId, began: datetime, messages: int) -> dict[str, Any]:
    return {
        "_id": session,
        "sessionId": str(session),
        "userId": owner.user_id,
        "modelId": _MODELS[0],
        "title": "About pasta",
        "messageCount": messages,
        "lastActivity": began + timedelta(minutes=messages),
        "totalTokensUsed": 100 * messages,
        "totalCost": {"usd": Decimal128("0.01"), "inr": Decimal128("0.83")},
        "settings": {},
        "metadata": {},
        "createdAt": began,
        "updatedAt": began,
    }


def _message(owner: Owner, session: ObjectId, began: datetime, number: int) -> dict[str, Any]:
    message = ObjectId()
    return {
        "_id": message,
        "messageId": str(message),
        "sessionId": session,
        "userId": owner.user_id,
        "role": "assistant" if number % 2 else "user",
        "content": "How long does fresh pasta have to cook? " * 5,
        "modelId": _MODELS[0],
        "attachments": [],
        "usage": {"promptTokens": 50, "completionTokens": 50, "totalTokens": 100},
        "metadata": {},
        "createdAt": began + timedelta(minutes=number),
    }


def _record(number: int, now: datetime) -> dict[str, Any]:
    return {
        "_id": ObjectId(),
        "at": now - timedelta(minutes=number),
        "action": "auth.login" if number % 3 else "admin.user_viewed",
        "actorId": f"{number % 500:024x}",
        "target": None,
        "details": {},
        "address": "127.0.0.1",
        "requestId": f"req_{number:024x}",
    }
