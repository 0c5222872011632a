"""The catalogue in memory: read from the providers in the background, kept in MongoDB, replaced as a whole.

A provider that is down costs its own freshness and nothing else: its last known models stay. Workers share
what one of them has fetched. What an admin has decided about a model stands beside the provider's record and
outlives it; a revision number tells every worker within a second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace
from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from plugins.contract import ModelInfo, Price
from proxy import background
from proxy.core import pricing
from proxy.core.routing import Catalogue, Entry, Member, Tier
from proxy.documents import REVISIONS, AIModel, PriceOverride
from proxy.metrics import Metrics
from proxy.relay import Relay, RelayFailed
from proxy.settings import ProviderSettings

FIRST_READ_SECONDS = 3.0
"""How long the start waits for providers of which nothing is stored yet."""

REVISION_POLL_SECONDS = 1.0
UNUSABLE_STATUS = "maintenance"
"""The one status of a model in which it takes no requests."""

_RETRY_SECONDS = 30.0
_REVISION = {"_id": "catalog"}
log = structlog.get_logger(__name__)


class CatalogError(Exception):
    """A provider's model list cannot be read; the message is one line."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a provider's list has changed since it was stored last."""

    added: int
    updated: int
    gone: int


@dataclass(frozen=True, slots=True)
class Decided:
    """What an admin has decided about a model."""

    is_available: bool = True
    status: str = "active"
    price: PriceOverride | None = None


_NOTHING_DECIDED = Decided()


class Catalog:
    """The models of all providers."""

    def __init__(
        self,
        relay: Relay,
        providers: Mapping[str, ProviderSettings],
        routes: Mapping[str, Sequence[Member]],
        metrics: Metrics,
        *,
        refresh_seconds: float,
        clock: Callable[[], datetime],
    ) -> None:
        """Begin empty; `start` fills it."""
        self._relay = relay
        self._settings = providers
        self._metrics = metrics
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._read_at: dict[str, datetime] = {}
        self._decided: dict[tuple[str, str], Decided] = {}
        self._revision = 0
        self._loading = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        plugins = {name: endpoint.provider for name, endpoint in relay.endpoints.items()}
        self._current = Catalogue(plugins, {name: {} for name in plugins}, dict(routes))

    @property
    def current(self) -> Catalogue:
        """Return the catalogue as it is now: one consistent value, whatever is being read meanwhile."""
        return self._current

    async def start(self) -> None:
        """Load what is stored and begin to refresh; wait a moment for providers of which nothing is stored."""
        first_reads = []
        self._revision = await self._read_revision()
        for name in self._relay.endpoints:
            await self._load(name)
            first_read = asyncio.Event()
            self._tasks.append(
                asyncio.create_task(self._keep_fresh(name, first_read), name=f"catalog-{name}")
            )
            if not self._current.entries[name]:
                first_reads.append(asyncio.create_task(first_read.wait()))
        self._tasks.append(asyncio.create_task(self._follow_revisions(), name="catalog-revisions"))
        if first_reads:
            _, waiting = await asyncio.wait(first_reads, timeout=FIRST_READ_SECONDS)
            for task in waiting:
                task.cancel()

    async def stop(self) -> None:
        """End the background work."""
        # The flag too: a cancellation can get lost in the database driver.
        self._stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def announce(self) -> None:
        """Take over what was changed in the database: here at once, in the other processes within a second."""
        revisions = AIModel.get_pymongo_collection().database[REVISIONS]
        await revisions.update_one(_REVISION, {"$inc": {"number": 1}}, upsert=True)
        await self._load_all()

    async def refresh(self, name: str) -> Refreshed:
        """Read one provider's models now; raise `CatalogError` and keep the old ones when that fails."""
        endpoint = self._relay.endpoints[name]
        request = endpoint.provider.models_request(endpoint.next_key(asyncio.get_running_loop().time()))
        try:
            status, headers, body = await self._relay.fetch(name, request)
        except RelayFailed as exc:
            raise CatalogError(exc.failure.message) from exc
        if not 200 <= status < 300:  # noqa: PLR2004  success, as HTTP defines it
            message = endpoint.provider.read_failure(status, headers, body).message
            raise CatalogError(endpoint.without_secrets(message))
        try:
            models = endpoint.provider.read_models(body)
        except ValueError as exc:
            raise CatalogError(str(exc)) from exc
        now = self._clock()
        try:
            refreshed = await self._store(name, models, now)
            await self._load(name)
        except PyMongoError as exc:
            log.warning("the catalogue could not be stored", provider=name, cause=str(exc)[:200])
            self._replace(name, (self._entry(name, info) for info in models), now)
            return Refreshed(0, 0, 0)
        return refreshed

    async def _keep_fresh(self, name: str, first_read: asyncio.Event) -> None:
        while not self._stopping.is_set():
            is_read = await background.survived("reading a provider's models", self._try_to_refresh(name))
            first_read.set()
            self._report_ages()
            await self._pause(
                self._refresh_seconds if is_read else min(self._refresh_seconds, _RETRY_SECONDS)
            )

    async def _try_to_refresh(self, name: str) -> bool:
        try:
            if not await self._loaded_from_sibling(name):
                await self.refresh(name)
        except (CatalogError, PyMongoError) as exc:
            log.warning("a provider's models cannot be read", provider=name, cause=str(exc)[:200])
            return False
        return True

    async def _follow_revisions(self) -> None:
        while not self._stopping.is_set():
            await self._pause(REVISION_POLL_SECONDS)
            await background.survived(
                "following the catalogue's revision",
                self._catch_up(),
                while_away="the catalogue's revision cannot be read",
            )

    async def _catch_up(self) -> None:
        if await self._read_revision() != self._revision:
            await self._load_all()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _read_revision(self) -> int:
        found = await AIModel.get_pymongo_collection().database[REVISIONS].find_one(_REVISION)
        return 0 if found is None else int(found["number"])

    async def _load_all(self) -> None:
        # The number first: what changes while we load has a higher one, and is loaded again.
        revision = await self._read_revision()
        for name in self._relay.endpoints:
            await self._load(name)
        self._revision = revision

    async def _loaded_from_sibling(self, name: str) -> bool:
        """Take over what another worker has fetched within this period, if one has."""
        newest = await AIModel.get_pymongo_collection().find_one(
            {"provider": name, "source": self._source(name), "isListed": True},
            {"fetchedAt": 1},
            sort=[("fetchedAt", -1)],
        )
        if newest is None or self._clock() - newest["fetchedAt"] > timedelta(
            seconds=self._refresh_seconds / 2
        ):
            return False
        await self._load(name)
        return True

    async def _store(self, name: str, models: Sequence[ModelInfo], now: datetime) -> Refreshed:
        """Write the provider's records; what an admin has decided stays, what is gone is marked."""
        collection = AIModel.get_pymongo_collection()
        listed = {"provider": name, "source": self._source(name), "isListed": True}
        before = {
            model["modelId"]: model["record"]
            async for model in collection.find(listed, {"modelId": 1, "record": 1})
        }
        records = {info.id: _stored(info) for info in models}
        writes = [
            UpdateOne(
                {"_id": f"{name}/{model}"},
                {
                    "$set": {"record": record, "source": self._source(name), "isListed": True},
                    # Never back: a sibling that read a moment later would take them all for gone.
                    "$max": {"fetchedAt": now},
                    "$setOnInsert": {"provider": name, "modelId": model, "isAvailable": True},
                },
                upsert=True,
            )
            for model, record in records.items()
        ]
        if writes:
            await collection.bulk_write(writes, ordered=False)
        gone = {"provider": name, "fetchedAt": {"$lt": now}, "isListed": True}
        await collection.update_many(gone, {"$set": {"isListed": False}})
        return Refreshed(
            added=len(records.keys() - before.keys()),
            updated=sum(records[model] != before[model] for model in records.keys() & before.keys()),
            gone=len(before.keys() - records.keys()),
        )

    async def _load(self, name: str) -> None:
        """Take the stored models of a provider into memory, one reader at a time: the last to begin is the last to end."""
        async with self._loading:
            await self._take_over(name)

    async def _take_over(self, name: str) -> None:
        entries, newest = [], None
        fields = {"record": 1, "isAvailable": 1, "status": 1, "priceOverride": 1, "fetchedAt": 1}
        listed = {"provider": name, "source": self._source(name), "isListed": True}
        async for model in AIModel.get_pymongo_collection().find(listed, fields):
            try:
                info = msgspec.convert(model["record"], ModelInfo)
            except msgspec.ValidationError:
                continue  # an older or newer release wrote it; the next reading of the provider mends it
            self._decided[name, info.id] = _decided(model)
            entries.append(self._entry(name, info))
            newest = model["fetchedAt"] if newest is None else max(newest, model["fetchedAt"])
        if newest is not None:
            self._replace(name, entries, newest)

    def _source(self, name: str) -> str:
        return self._relay.endpoints[name].base_url

    def _entry(self, name: str, info: ModelInfo) -> Entry:
        tier = self._settings[name].tier
        is_free = tier == "free" or (tier == "by_price" and info.is_free)
        decided = self._decided.get((name, info.id), _NOTHING_DECIDED)
        if decided.price is not None:
            info = _priced(info, decided.price)
        return Entry(
            provider=name,
            info=info,
            tier=Tier.FREE if is_free else Tier.PAID,
            price_version=pricing.version(info.price),
            is_available=decided.is_available and decided.status != UNUSABLE_STATUS,
            is_declared_free=tier == "free",
            status=decided.status,
        )

    def _replace(self, name: str, entries: Iterable[Entry], read_at: datetime) -> None:
        models: dict[str, Any] = {entry.info.id: entry for entry in entries}
        everything = {**self._current.entries, name: models}
        self._current = Catalogue(self._current.providers, everything, self._current.aliases)
        self._read_at[name] = read_at
        self._metrics.models.labels(name).set(len(models))
        self._report_ages()

    def _report_ages(self) -> None:
        now = self._clock()
        for name, moment in self._read_at.items():
            self._metrics.catalog_age.labels(name).set(max(0.0, (now - moment).total_seconds()))


def _stored(info: ModelInfo) -> dict[str, Any]:
    """Return a model as the database has it, whose amounts are texts."""
    record: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(info))
    return record


def _decided(stored: Mapping[str, Any]) -> Decided:
    price = stored.get("priceOverride")
    return Decided(
        is_available=bool(stored["isAvailable"]),
        status=stored.get("status") or "active",
        price=None if price is None else PriceOverride.model_validate(price),
    )


def _priced(info: ModelInfo, own: PriceOverride) -> ModelInfo:
    """Put an admin's price in the place of every price of the provider's for tokens, at whatever backing."""
    before = info.price or Price(own.prompt, own.completion)
    price = Price(own.prompt, own.completion, request=before.request, web_search=before.web_search)
    return replace(info, price=price, offerings=())
