"""What is being deleted is gone for everybody at once, and goes to the last of it whatever dies meanwhile.

Each kind of deletion marks first and finishes then, in steps that can be done twice; whoever starts next, and every
process now and then, finishes what is marked.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import pymongo
import structlog
from beanie import PydanticObjectId
from pymongo.errors import PyMongoError

from admin_api.chat import deletion as sessions
from admin_api.chat.documents import ChatSession
from admin_api.users import deletion as accounts
from proxy import background
from proxy.gateway import Gateway

PAUSE_SECONDS = 600.0
_PATIENCE_SECONDS = 600  # a long life's conversations take longer than one request may
_ANSWER_SECONDS = 10  # nobody waits longer for what he cannot see any more
_RETRY_SECONDS = 5.0
_LAST_SECONDS = 5.0
log = structlog.get_logger(__name__)

T = TypeVar("T")
Step = Callable[[], Coroutine[Any, Any, None]]


class Deletions:
    """The accounts and chat sessions that are being deleted, over all processes."""

    def __init__(self, gateway: Gateway) -> None:
        """Use the database's marks; nothing is kept in the process."""
        self._gateway = gateway
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for what was left unfinished, and for what has expired."""
        self._worker = self._run(self._finish_for_ever())

    async def stop(self) -> None:
        """Leave off; the next start goes on."""
        # By a flag: a task that is cancelled within pymongo may go on as if nothing had been.
        self._stopping.set()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=_LAST_SECONDS)
            for task in late:
                task.cancel()

    async def delete_account(self, user_id: PydanticObjectId, *, now: datetime) -> None:
        """Delete an account with all that is in it; raise what `_delete` raises."""
        await self._delete(partial(accounts.mark, user_id, now=now), partial(accounts.finish, user_id))

    async def delete_session(self, session: ChatSession) -> None:
        """Delete a chat session with its messages; raise what `_delete` raises."""
        await self._delete(partial(sessions.mark, session), partial(sessions.finish, session))

    async def finish_all(self) -> int:
        """Finish every deletion that has begun; return how many there were."""
        return await self._finish_each(accounts.unfinished(), accounts.finish) + await self._finish_each(
            sessions.unfinished(), sessions.finish
        )

    async def _finish_each(
        self, marked: AsyncGenerator[T, None], finish: Callable[[T], Coroutine[Any, Any, None]]
    ) -> int:
        finished = 0
        async with aclosing(marked):
            async for each in marked:
                if self._stopping.is_set():
                    break
                with pymongo.timeout(_PATIENCE_SECONDS):
                    await finish(each)
                finished += 1
        return finished

    async def _delete(self, mark: Step, finish: Step) -> None:
        """Mark and finish; once this has begun, neither a client that leaves nor a lost database ends it.

        Raises `PyMongoError` only when it could not even be marked: then all is as it was.
        """
        await asyncio.shield(self._run(self._mark_and_finish(mark, finish)))

    async def _mark_and_finish(self, mark: Step, finish: Step) -> None:
        await mark()
        await asyncio.wait([self._run(self._finish_patiently(finish))], timeout=_ANSWER_SECONDS)

    async def _finish_patiently(self, finish: Step) -> None:
        try:
            with pymongo.timeout(_PATIENCE_SECONDS):
                await finish()
        except PyMongoError as exc:
            log.warning("a deletion goes on later", cause=str(exc)[:200])

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # In a context of its own, since a deadline of the caller's is none of the deletion's.
        task = asyncio.create_task(work, name="deletion", context=contextvars.Context())
        self._running.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a deletion has failed", cause=str(error)[:200])  # whoever asked may be gone

    async def _finish_for_ever(self) -> None:
        while not self._stopping.is_set():
            finished = await background.survived(
                "finishing deletions",
                self._finish_what_is_due(),
                while_away="unfinished deletions wait for the database",
            )
            pause = _RETRY_SECONDS if finished is None else PAUSE_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _finish_what_is_due(self) -> int:
        await self._mark_expired()
        finished = await self.finish_all()
        await self._delete_orphans()
        if finished:
            log.info("finished deletions", accounts_and_sessions=finished)
        return finished

    async def _delete_orphans(self) -> None:
        with pymongo.timeout(_PATIENCE_SECONDS):
            orphaned = await sessions.delete_orphans(self._gateway.clock())
        if orphaned:
            log.info("deleted messages without a session", sessions=orphaned)

    async def _mark_expired(self) -> None:
        days = self._gateway.settings.chat.session_days
        if days is None:
            return
        with pymongo.timeout(_PATIENCE_SECONDS):
            expired = await sessions.mark_expired(self._gateway.clock(), days)
        if expired:
            log.info("chat sessions have expired", sessions=expired)
