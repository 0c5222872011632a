"""An account is deleted in an order that a crash at any point leaves resumable, and that nobody can sign in during.

First the user is marked, then his sessions and keys go, then his conversations, and his own document last: as long
as that exists, whoever starts next finds the mark and goes on. Usage events stay; without the user they name nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Coroutine
from datetime import datetime
from typing import Any

import pymongo
import structlog
from beanie import PydanticObjectId
from pymongo.errors import PyMongoError

from admin_api.auth.sessions import end_sessions
from admin_api.chat.documents import ChatMessage, ChatSession
from proxy.database import Database
from proxy.documents import ApiKeyDocument, User

PAUSE_SECONDS = 600.0
_PATIENCE_SECONDS = 600
_ANSWER_SECONDS = 10  # nobody waits longer for what he cannot see any more
_RETRY_SECONDS = 5.0
_LAST_SECONDS = 5.0
_BATCH = 100
log = structlog.get_logger(__name__)


class Deletions:
    """The accounts that are being deleted, over all processes."""

    def __init__(self, database: Database) -> None:
        """Use the database's marks; nothing is kept in the process."""
        self._database = database
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for what was left unfinished."""
        self._worker = self._run(self._finish_for_ever())

    async def stop(self) -> None:
        """Leave off; the next start goes on."""
        # By a flag: a task that is cancelled within pymongo may go on as if nothing had been.
        self._stopping.set()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=_LAST_SECONDS)
            for task in late:
                task.cancel()

    async def delete(self, user_id: PydanticObjectId, *, now: datetime) -> None:
        """Delete an account; once this has begun, neither a client that leaves nor a lost database ends it.

        Raises `PyMongoError` only when the account could not even be marked: then it is as it was.
        """
        await mark(user_id, now=now)
        task = self._run(self._finish_patiently(user_id))
        await asyncio.wait([task], timeout=_ANSWER_SECONDS)

    async def finish_all(self) -> int:
        """Finish every deletion that has begun; return how many there were."""
        finished = 0
        cursor = User.get_pymongo_collection().find({"deletionRequestedAt": {"$type": "date"}}, {"_id": 1})
        async for user in cursor.batch_size(_BATCH):
            if self._stopping.is_set():
                break
            await finish(PydanticObjectId(user["_id"]))
            finished += 1
        return finished

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # In a context of its own, since a deadline of the caller's is none of the deletion's.
        task = asyncio.create_task(work, name="deletion", context=contextvars.Context())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _finish_patiently(self, user_id: PydanticObjectId) -> None:
        try:
            await finish(user_id)
        except PyMongoError as exc:
            log.warning("a deletion goes on later", user=str(user_id), cause=str(exc)[:200])

    async def _finish_for_ever(self) -> None:
        while not self._stopping.is_set():
            pause = PAUSE_SECONDS
            try:
                finished = await self.finish_all()
            except PyMongoError as exc:
                log.warning("unfinished deletions wait for the database", cause=str(exc)[:200])
                pause = _RETRY_SECONDS
            else:
                if finished:
                    log.info("finished the deletion of accounts", accounts=finished)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)


async def mark(user_id: PydanticObjectId, *, now: datetime) -> None:
    """Say that an account is being deleted: from now on nobody can sign in to it or use its keys."""
    await User.get_pymongo_collection().update_one(
        {"_id": user_id},
        {"$set": {"isActive": False, "deletionRequestedAt": now}, "$unset": {"passwordReset": ""}},
    )


async def finish(user_id: PydanticObjectId) -> None:
    """Delete everything of a marked account; what is gone already is no trouble."""
    await end_sessions(user_id)
    await ApiKeyDocument.find(ApiKeyDocument.userId == user_id).delete()
    with pymongo.timeout(_PATIENCE_SECONDS):  # a long life's conversations take longer than one request may
        await ChatMessage.get_pymongo_collection().delete_many({"userId": user_id})
        await ChatSession.get_pymongo_collection().delete_many({"userId": user_id})
    marked = {"_id": user_id, "deletionRequestedAt": {"$type": "date"}}
    await User.get_pymongo_collection().delete_one(marked)
