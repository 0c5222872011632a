"""Counters in MongoDB that a crowd may count in at once: a process has one command under way for each, and few in all.

Who comes meanwhile is counted with all who wait for the same counter, by its next command: a crowd must neither wait
for itself in the database, nor take that for the database's silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import pymongo
import structlog
from pymongo import ReturnDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import AutoReconnect, DuplicateKeyError, PyMongoError

from proxy.errors import Unavailable

PATIENCE = 0.4
"""Seconds for one command: with the endpoint's own wait, an outage is answered within two seconds."""

_PATIENCE_IN_LINE = 3  # times as much: for the command before ours, and ours, and those of other counters
_PAUSE = 1.0
_ATTEMPTS = 2
_AT_ONCE = 16  # more commands would wait for each other in the driver, within their own patience
log = structlog.get_logger(__name__)

Fields = Callable[[int], Mapping[str, Any]]
"""What a pipeline stage sets in a counter to count so many at once."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A counter as a command has left it, and which of those whom it counted together somebody is, from 1."""

    state: Mapping[str, Any]
    place: int
    together: int


@dataclass(slots=True)
class _Batch:
    """Those whom one command counts."""

    fields: Fields
    size: int = 0
    state: asyncio.Task[Mapping[str, Any]] = field(init=False)


class Counters:
    """The counters of a collection, as one process counts in them."""

    def __init__(self, collection: AsyncCollection[dict[str, Any]]) -> None:
        """Keep nothing but who waits."""
        self._collection = collection
        self._gathering: dict[str, _Batch] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._paused_until = 0.0

    async def count(self, counter: str, fields: Fields) -> Counted:
        """Count once more in a counter; raise `Unavailable` when that cannot be done in time.

        Of those who are counted together the last one says with what `fields`.
        """
        batch = self._gathering.get(counter)
        if batch is None:
            batch = self._gathering[counter] = _Batch(fields)
            batch.state = asyncio.create_task(self._ask(counter, batch))
        batch.fields = fields
        batch.size = place = batch.size + 1
        try:
            async with asyncio.timeout(_PATIENCE_IN_LINE * PATIENCE):
                state = await asyncio.shield(batch.state)
        except TimeoutError as exc:
            raise _uncounted() from exc
        return Counted(state, place, batch.size)

    async def _ask(self, counter: str, batch: _Batch) -> Mapping[str, Any]:
        async with self._locks.setdefault(counter, asyncio.Lock()), self._places:
            del self._gathering[counter]  # whoever comes from now on is counted by the next command
            return await self._update(counter, batch.fields(batch.size))

    async def _update(self, counter: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Apply one pipeline stage to a counter and return it."""
        clock = asyncio.get_running_loop().time
        if clock() < self._paused_until:
            raise _uncounted()
        for attempt in range(_ATTEMPTS):
            try:
                with pymongo.timeout(PATIENCE):
                    state = await self._collection.find_one_and_update(
                        {"_id": counter},
                        [{"$set": fields}],
                        upsert=True,
                        return_document=ReturnDocument.AFTER,
                    )
            except DuplicateKeyError:
                # Two first requests at once: the other one has made the counter.
                log.debug("a counter was made twice", attempt=attempt)
            except PyMongoError as exc:
                log.warning("requests are not counted", cause=str(exc)[:200])
                if isinstance(exc, AutoReconnect):
                    # Not once more for each rule of this request: the endpoint itself has to answer within seconds.
                    # A database that is busy, or a driver that is, leaves the other counters alone.
                    self._paused_until = clock() + _PAUSE
                raise _uncounted() from exc
            else:
                return state or {}
        raise _uncounted()


def _uncounted() -> Unavailable:
    return Unavailable("Requests cannot be counted at the moment; try again.", retry_after=1)
