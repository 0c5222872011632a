"""How often each model was asked for in the last month: read from the usage events once a minute at most."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta

import structlog
from pymongo.errors import PyMongoError

from proxy.gateway import Gateway
from proxy.metering import statistics

FRESH_SECONDS = 60.0
PERIOD = timedelta(days=30)
log = structlog.get_logger(__name__)

Counts = Mapping[tuple[str, str], int]


class Popularity:
    """The counts of one process, by provider and the provider's model id."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._counts: Counts = {}
        self._fresh_until = 0.0
        self._reading = asyncio.Lock()

    async def counts(self, gateway: Gateway) -> Counts:
        """Return the counts; those of before while the database does not answer: they only order a list."""
        loop = asyncio.get_running_loop()
        async with self._reading:
            if loop.time() >= self._fresh_until:
                self._fresh_until = loop.time() + FRESH_SECONDS
                try:
                    self._counts = await _read(gateway)
                except PyMongoError as exc:
                    log.warning("the models' popularity cannot be read", cause=str(exc)[:200])
        return self._counts


async def _read(gateway: Gateway) -> Counts:
    catalogue = gateway.catalog.current
    counts: Counter[tuple[str, str]] = Counter()
    everybody = await statistics.everybody(gateway.database, gateway.clock() - PERIOD)
    for model, provider, used in everybody.by_model():
        known = catalogue.entries.get(provider, {})
        plugin = catalogue.providers.get(provider)
        base = model if model in known or plugin is None else plugin.base_id(model)
        counts[provider, base or model] += used.requests
    return counts
