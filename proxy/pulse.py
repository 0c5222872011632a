"""Whether the database answers, asked twice a second, so that nobody who asks /health waits for it.

A worker under load takes its turns slowly, and a question to the database takes several of them: /health with a ping
of its own answered after 0.6 s where a refusal took 0.1 s.
"""

from __future__ import annotations

import asyncio

from proxy import background, database
from proxy.database import Database
from proxy.errors import Unavailable

PULSE_SECONDS = 0.5
FRESH_SECONDS = 5.0
"""What was heard longer ago is not believed: the process has slept, as functions do between two requests."""


class Pulse:
    """What the database said last."""

    def __init__(self, store: Database) -> None:
        """Ask this one, which has just been prepared."""
        self._store = store
        self._complaint: str | None = None
        self._heard_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to ask."""
        self._heard_at = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._ask_for_ever(), name="pulse")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            await background.end([self._task])

    async def check(self) -> None:
        """Raise `Unavailable` when the database did not answer the last time."""
        if asyncio.get_running_loop().time() - self._heard_at > FRESH_SECONDS:
            await self._ask()
        if self._complaint is not None:
            raise Unavailable(self._complaint, retry_after=2)

    async def _ask_for_ever(self) -> None:
        while True:
            await asyncio.sleep(PULSE_SECONDS)
            await background.survived("asking the database", self._ask())

    async def _ask(self) -> None:
        try:
            await database.ping(self._store)
        except Unavailable as exc:
            self._complaint = exc.message
        else:
            self._complaint = None
        self._heard_at = asyncio.get_running_loop().time()
