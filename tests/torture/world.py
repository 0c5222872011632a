"""A world to torture: mongods, gateways, a simulated OpenRouter that decides by dice, users and their keys."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from bson import ObjectId
from bson.decimal128 import Decimal128
from pymongo import AsyncMongoClient

from proxy import database, security
from proxy.database import Database
from tests.torture.processes import READY_SECONDS, Databases, Gateway, databases
from tests.torture.shots import Leave, Phase, Shot, fire, number_of, phase_of
from tests.upstreams import Behaviour, Entry, OpenRouter
from tests.upstreams.script import Script

MODEL = "openai/gpt-4o-mini"
JWT_SECRET = "0123456789abcdef0123456789abcdef-for-torture"
STOPPING, DRAINING = "DeepInfra", "Groq"
PLENTY = {"dailyRequests": 10**6, "monthlyRequests": 10**6, "monthlyTokens": 10**9}


class Dice(Script):
    """A provider that behaves differently every time, and always honestly."""

    def __init__(self, dice: random.Random) -> None:
        """Throw these."""
        super().__init__(lambda _behaviour: None)
        self._dice = dice
        self.is_slow = 1.0

    def take(self, models: frozenset[str], key: str | None, path: str, *, generates: bool) -> Behaviour:
        """Choose the behaviour of one request: what is queued, else at random."""
        queued = self.pending > 0
        if queued or not generates:
            return super().take(models, key, path, generates=generates)
        dice = self._dice
        pieces = dice.choice((2, 5, 10, 40))
        trouble: dict[str, Any] = {}
        kind = dice.random()
        if kind < 0.04:
            trouble = {"error": "502_documented"}
        elif kind < 0.08:
            trouble = {"cut": dice.choice(("fin", "rst")), "cut_after": dice.randint(1, pieces)}
        return Behaviour(
            delay_headers=dice.random() * 0.2 * self.is_slow,
            delay_first=dice.random() * 0.2 * self.is_slow,
            delay_between=dice.random() * 0.04 * self.is_slow,
            pieces=pieces,
            provider=dice.choice((STOPPING, DRAINING)),
            generation_delay=dice.random() * 0.3,
            **trouble,
        )


@dataclass(frozen=True)
class Key:
    """An API key of a user, and the most that may be spent with it."""

    secret: str
    id: str
    user_id: str
    budget: Decimal | None


@dataclass
class World:
    """Everything that takes part."""

    folder: Path
    dice: random.Random
    mongods: Databases
    store: Database
    upstream: OpenRouter
    gateways: list[Gateway] = field(default_factory=list)
    keys: dict[str, Key] = field(default_factory=dict)
    shots: list[Shot] = field(default_factory=list)
    _entries: dict[int, Entry] = field(default_factory=dict)
    _indexed: int = 0

    @property
    def script(self) -> Dice:
        """Return what the provider does."""
        script = self.upstream.script
        assert isinstance(script, Dice)
        return script

    def entry_of(self, shot: Shot) -> Entry | None:
        """Return what the provider's books say of a request, if it got there."""
        entries = self.upstream.books[self._indexed :]
        for at, entry in enumerate(entries, start=self._indexed):
            number = number_of(entry)
            if number is None:
                break
            self._entries[number] = entry
            self._indexed = at + 1
        return self._entries.get(shot.number)

    def phases(self, gateway: int, now: float) -> list[tuple[Shot, Phase]]:
        """Say where every request of a gateway is that is not long over."""
        recent = [shot for shot in self.shots[-2000:] if shot.gateway == gateway]
        found = [(shot, phase_of(shot, self.entry_of(shot), now)) for shot in recent]
        return [(shot, phase) for shot, phase in found if phase is not Phase.IDLE]

    async def add_key(self, name: str, *, user: Mapping[str, Any] | None = None, **limits: Any) -> Key:
        """Make a user with one key; money is given as Decimal."""
        now = datetime.now(UTC)
        owner = {
            "_id": ObjectId(),
            "name": name,
            "email": f"{name}@example.com",
            "role": "premium",
            "isActive": True,
            "usageLimits": dict(user or PLENTY),
            "createdAt": now,
            "updatedAt": now,
        }
        made = security.new_api_key()
        document = {
            "_id": ObjectId(),
            "userId": owner["_id"],
            "name": name,
            "digest": made.digest,
            "lastFour": made.last_four,
            "permissions": ["chat", "models"],
            "isActive": True,
            "createdAt": now,
            **{
                field: Decimal128(limit) if isinstance(limit, Decimal) else limit
                for field, limit in limits.items()
            },
        }
        await self.store["users"].insert_one(owner)
        await self.store["apikeys"].insert_one(document)
        key = Key(made.secret, str(document["_id"]), str(owner["_id"]), limits.get("totalBudget"))
        self.keys[name] = key
        return key

    def shot(self, key: str, **values: Any) -> Shot:
        """Plan a request at random."""
        dice = self.dice
        stream = dice.random() < 0.7
        leaves = (*[Leave.NEVER] * 6, Leave.AT_ONCE, Leave.AT_HEAD, Leave.IN_THE_MIDDLE, Leave.AT_DONE)
        planned = {
            "stream": stream,
            "max_tokens": dice.choice((16, 30, 60)),
            "leave": dice.choice(leaves),
            "gateway": dice.randrange(len(self.gateways)),
            "words": dice.choice((1, 5, 20)),
            **values,
        }
        shot = Shot(len(self.shots), key, **planned)
        self.shots.append(shot)
        return shot

    async def fire(self, shot: Shot) -> Shot:
        """Send a request, and wait for its end."""
        await fire(shot, self.keys[shot.key].secret, MODEL, self.gateways[shot.gateway].port)
        return shot

    async def start_gateways(self, count: int, *, patience: float = 60, **settings: str) -> None:
        """Start gateways, and wait until all of them serve; a provider has `patience` seconds for an answer."""
        is_shared = self.dice.random() < 0.5
        for number in range(count):
            home = self.folder / ("home" if is_shared else f"home-{number}")
            home.mkdir(exist_ok=True)
            variables = {
                "MONGODB_URI": self.mongods.uri,
                "DATA_DIR": str(home),
                "CONFIG_FILE": str(self._configuration(patience)),
                "JWT_SECRET": JWT_SECRET,
                "OPENROUTER_API_KEY": "sk-or-v1-torture",
                "METERING": "leased",
                "RECONCILE_SECONDS": "20",
                "DRAIN_SECONDS": "20",
                **settings,
            }
            gateway = Gateway(home, variables)
            self.gateways.append(gateway)
            gateway.start()
            if number == 0:
                await self._wait_for_catalogue(gateway)
        await asyncio.gather(*(gateway.wait_until_ready() for gateway in self.gateways))

    async def _wait_for_catalogue(self, gateway: Gateway) -> None:
        """Wait until the first gateway knows the models, which the others find in the database."""
        await gateway.wait_until_ready()
        async with asyncio.timeout(READY_SECONDS):
            while not await self.store["aimodels"].count_documents({"modelId": MODEL}):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)

    async def end_gateways(self) -> list[int | None]:
        """End every gateway in order; return their exit statuses."""
        return list(await asyncio.gather(*(gateway.end() for gateway in self.gateways)))

    def _configuration(self, patience: float) -> Path:
        """Write what no variable says: how long the provider may take, and so how long a hold without a journal lasts."""
        provider = {
            "plugin": "openrouter",
            "base_url": self.upstream.base_url,
            "api_key_env": "OPENROUTER_API_KEY",
            "timeouts": {"connect": 2, "first_byte": patience, "idle": patience, "total": patience},
        }
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump({"providers": {"openrouter": provider}}))
        return path


@asynccontextmanager
async def world(folder: Path, dice: random.Random, *, members: int = 1) -> AsyncIterator[World]:
    """Make a world with no gateway yet, and end everything in it afterwards."""
    with databases(folder, members) as mongods:
        client = AsyncMongoClient[dict[str, Any]](mongods.uri, tz_aware=True, timeoutMS=30_000)
        store = database.database_of(client, "torture")
        upstream = OpenRouter()
        upstream.script = Dice(dice)
        async with upstream:
            made = World(folder, dice, mongods, store, upstream)
            try:
                yield made
            finally:
                for gateway in made.gateways:
                    gateway.thaw()
                    gateway.kill()
                await client.close()
