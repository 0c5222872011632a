"""A chat session is deleted in an order that a crash at any point leaves resumable, and nobody finds it meanwhile.

First a mark takes the place of all that the session was, in one step: no list, no turn and no count sees it any more.
Then its messages go, and the mark last: as long as that exists, whoever looks next goes on. Messages that a turn stores
after that it takes back; those of a turn that dies before it can are orphans, and go a day later.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId

from admin_api.chat.documents import ChatMessage, ChatSession
from admin_api.chat.message_days import delete_messages
from admin_api.chat.service import messages_of

MARKED = {"deletedOf": {"$exists": True}}
_MARK: list[dict[str, Any]] = [
    {"$replaceWith": {"_id": "$_id", "sessionId": "$sessionId", "deletedOf": "$userId"}}
]
_BATCH = 100
_ORPHANED_AFTER = timedelta(days=1)
"""No turn takes so long to store its session after its messages, whatever the database does meanwhile."""

_LOOK_BACK = timedelta(hours=6)


async def mark(session: ChatSession) -> None:
    """Say that a session is being deleted: from now on it is not there."""
    own = {"_id": session.id, "userId": session.userId}
    await ChatSession.get_pymongo_collection().update_one(own, _MARK)


async def mark_expired(now: datetime, days: int) -> int:
    """Mark every session that was used last more than `days` days before `now`; return how many.

    The database does not do it by itself: it would leave the messages behind.
    """
    old = {"$lt": now - timedelta(days=days)}
    # The original's sessions know no lastActivity.
    query = {"$or": [{"lastActivity": old}, {"lastActivity": None, "lastMessageAt": old}]}
    return (await ChatSession.get_pymongo_collection().update_many(query, _MARK)).modified_count


async def delete_orphans(now: datetime) -> int:
    """Delete messages whose session is not there, among those that have just become a day old; return of how many sessions.

    They are looked at again and again for six hours, so that an hour without a gateway leaves none behind.
    """
    until = now - _ORPHANED_AFTER
    stages: list[dict[str, Any]] = [
        {"$match": {"createdAt": {"$gte": until - _LOOK_BACK, "$lt": until}}},
        {"$group": {"_id": "$sessionId"}},
    ]
    found = await ChatMessage.get_pymongo_collection().aggregate(stages)
    # Those of the original know their sessions by strings. Asked to tell, the database might take another index.
    named = {row["_id"] async for row in found if isinstance(row["_id"], ObjectId)}
    sessions = ChatSession.get_pymongo_collection().find({"_id": {"$in": list(named)}}, {"_id": 1})
    orphaned = named - {session["_id"] async for session in sessions}
    if orphaned:
        await delete_messages({"sessionId": {"$in": list(orphaned)}, "createdAt": {"$lt": until}})
    return len(orphaned)


async def unfinished() -> AsyncGenerator[ChatSession, None]:
    """Yield every session that is marked, with no more than its names and its owner."""
    async with ChatSession.get_pymongo_collection().find(MARKED).batch_size(_BATCH) as marked:
        async for document in marked:
            yield ChatSession.model_validate({**document, "userId": document["deletedOf"]})


async def finish(session: ChatSession) -> None:
    """Delete the messages of a marked session, then the mark; what is gone already is no trouble."""
    await delete_messages(messages_of(session))
    await ChatSession.get_pymongo_collection().delete_one({"_id": session.id, **MARKED})
