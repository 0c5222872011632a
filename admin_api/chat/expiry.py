"""Sessions that nobody has used for as many days as the operator allows: deleted, with their messages.

The database does not do it by itself: it would leave the messages behind.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timedelta

import structlog
from pymongo.errors import PyMongoError

from admin_api.chat.documents import ChatSession
from admin_api.chat.service import delete_sessions
from proxy import background
from proxy.gateway import Gateway

SWEEP_SECONDS = 600.0
_BATCH = 100
log = structlog.get_logger(__name__)


async def delete_expired(now: datetime, days: int) -> int:
    """Delete every session that was used last more than `days` days before `now`; return how many."""
    old = {"$lt": now - timedelta(days=days)}
    # The original's sessions know no lastActivity.
    query = {"$or": [{"lastActivity": old}, {"lastActivity": None, "lastMessageAt": old}]}
    sessions, deleted = ChatSession.get_pymongo_collection(), 0
    while found := await sessions.find(query).limit(_BATCH).to_list():
        await delete_sessions([ChatSession.model_validate(document) for document in found])
        deleted += len(found)
    return deleted


async def sweep(gateway: Gateway, days: int, stopping: asyncio.Event) -> None:
    """Delete what has expired, now and every ten minutes, until `stopping` is set."""
    while not stopping.is_set():
        await background.survived("deleting what has expired", _try_to_delete(gateway.clock(), days))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), SWEEP_SECONDS)


async def _try_to_delete(now: datetime, days: int) -> None:
    try:
        deleted = await delete_expired(now, days)
    except PyMongoError as exc:
        log.warning("expired chat sessions cannot be deleted", cause=str(exc)[:200])
    else:
        if deleted:
            log.info("deleted chat sessions that had expired", sessions=deleted)
