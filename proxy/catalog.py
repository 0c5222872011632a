"""The catalogue in memory: read from the providers in the background, kept in MongoDB, replaced as a whole.

A provider that is down costs its own freshness and nothing else: its last known models stay. Workers share
what one of them has fetched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from pydantic import TypeAdapter, ValidationError
from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from plugins.contract import ModelInfo
from proxy.core import pricing
from proxy.core.routing import Catalogue, Entry, Tier
from proxy.documents import AIModel
from proxy.metrics import Metrics
from proxy.relay import Relay, RelayFailed
from proxy.settings import ProviderSettings

FIRST_READ_SECONDS = 3.0
"""How long the start waits for providers of which nothing is stored yet."""

_RETRY_SECONDS = 30.0
_record = TypeAdapter(ModelInfo)
log = structlog.get_logger(__name__)


class CatalogError(Exception):
    """A provider's model list cannot be read; the message is one line."""


class Catalog:
    """The models of all providers."""

    def __init__(
        self,
        relay: Relay,
        providers: Mapping[str, ProviderSettings],
        aliases: Mapping[str, Sequence[str]],
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
        self._tasks: list[asyncio.Task[None]] = []
        plugins = {name: endpoint.provider for name, endpoint in relay.endpoints.items()}
        self._current = Catalogue(plugins, {name: {} for name in plugins}, dict(aliases))

    @property
    def current(self) -> Catalogue:
        """Return the catalogue as it is now: one consistent value, whatever is being read meanwhile."""
        return self._current

    async def start(self) -> None:
        """Load what is stored and begin to refresh; wait a moment for providers of which nothing is stored."""
        first_reads = []
        for name in self._relay.endpoints:
            await self._load(name)
            first_read = asyncio.Event()
            self._tasks.append(
                asyncio.create_task(self._keep_fresh(name, first_read), name=f"catalog-{name}")
            )
            if not self._current.entries[name]:
                first_reads.append(asyncio.create_task(first_read.wait()))
        if first_reads:
            _, waiting = await asyncio.wait(first_reads, timeout=FIRST_READ_SECONDS)
            for task in waiting:
                task.cancel()

    async def stop(self) -> None:
        """End the background work."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def refresh(self, name: str) -> None:
        """Read one provider's models now; raise `CatalogError` and keep the old ones when that fails."""
        endpoint = self._relay.endpoints[name]
        request = endpoint.provider.models_request(endpoint.next_key())
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
            await self._store(name, models, now)
            await self._load(name)
        except PyMongoError as exc:
            log.warning("the catalogue could not be stored", provider=name, cause=str(exc)[:200])
            self._replace(name, (self._entry(name, info) for info in models), now)

    async def _keep_fresh(self, name: str, first_read: asyncio.Event) -> None:
        while True:
            delay = self._refresh_seconds
            try:
                if not await self._loaded_from_sibling(name):
                    await self.refresh(name)
            except (CatalogError, PyMongoError) as exc:
                log.warning("a provider's models cannot be read", provider=name, cause=str(exc)[:200])
                delay = min(delay, _RETRY_SECONDS)
            first_read.set()
            self._report_ages()
            await asyncio.sleep(delay)

    async def _loaded_from_sibling(self, name: str) -> bool:
        """Take over what another worker has fetched within this period, if one has."""
        newest = await AIModel.get_pymongo_collection().find_one(
            {"provider": name, "source": self._source(name)}, {"fetchedAt": 1}, sort=[("fetchedAt", -1)]
        )
        if newest is None or self._clock() - newest["fetchedAt"] > timedelta(
            seconds=self._refresh_seconds / 2
        ):
            return False
        await self._load(name)
        return True

    async def _store(self, name: str, models: Sequence[ModelInfo], now: datetime) -> None:
        """Write the provider's records; what an admin has decided stays, what is gone is marked."""
        collection = AIModel.get_pymongo_collection()
        writes = [
            UpdateOne(
                {"_id": f"{name}/{info.id}"},
                {
                    "$set": {
                        "record": _record.dump_python(info, mode="json"),
                        "source": self._source(name),
                        "fetchedAt": now,
                        "isListed": True,
                    },
                    "$setOnInsert": {"provider": name, "modelId": info.id, "isAvailable": True},
                },
                upsert=True,
            )
            for info in models
        ]
        if writes:
            await collection.bulk_write(writes, ordered=False)
        gone = {"provider": name, "fetchedAt": {"$lt": now}, "isListed": True}
        await collection.update_many(gone, {"$set": {"isListed": False}})

    async def _load(self, name: str) -> None:
        """Take the stored models of a provider into memory."""
        entries, newest = [], None
        fields = {"record": 1, "isAvailable": 1, "fetchedAt": 1}
        listed = {"provider": name, "source": self._source(name), "isListed": True}
        async for model in AIModel.get_pymongo_collection().find(listed, fields):
            try:
                info = _record.validate_python(model["record"])
            except ValidationError:
                continue  # an older or newer release wrote it; the next reading of the provider mends it
            entries.append(self._entry(name, info, is_available=bool(model["isAvailable"])))
            newest = model["fetchedAt"] if newest is None else max(newest, model["fetchedAt"])
        if newest is not None:
            self._replace(name, entries, newest)

    def _source(self, name: str) -> str:
        return self._relay.endpoints[name].base_url

    def _entry(self, name: str, info: ModelInfo, *, is_available: bool = True) -> Entry:
        tier = self._settings[name].tier
        is_free = tier == "free" or (tier == "by_price" and info.is_free)
        return Entry(
            provider=name,
            info=info,
            tier=Tier.FREE if is_free else Tier.PAID,
            price_version=pricing.version(info.price),
            is_available=is_available,
            is_declared_free=tier == "free",
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
