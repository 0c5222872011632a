"""Sessions and messages of a user: made, found, listed, changed and deleted, always with the owner in the query.

A session is found by its `_id` or by the `sessionId` that the original service gave it; its messages carry either.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from beanie import PydanticObjectId
from bson import ObjectId

from admin_api.chat.documents import DEFAULT_TITLE, ChatMessage, ChatSession
from admin_api.chat.message_days import forget_days
from admin_api.chat.schemas import NewSession, SessionChange
from admin_api.pagination import Page
from admin_api.users.deletion import is_staying
from proxy.errors import InvalidRequest, NotFound, Unauthenticated
from proxy.settings import ChatSection

OLDEST_FIRST = [("createdAt", 1), ("_id", 1)]
NEWEST_FIRST = [("createdAt", -1), ("_id", -1)]
_LAST_ACTIVITY = {
    "$ifNull": ["$lastActivity", {"$ifNull": ["$lastMessageAt", {"$ifNull": ["$updatedAt", "$createdAt"]}]}]
}


def session_named(user_id: PydanticObjectId, session_id: str) -> dict[str, Any]:
    """Make the query for one of a user's sessions, by either of its ids."""
    names: list[dict[str, Any]] = [{"sessionId": session_id}]
    if ObjectId.is_valid(session_id):
        names.append({"_id": ObjectId(session_id)})
    return {"userId": user_id, "$or": names}


def messages_of(session: ChatSession) -> dict[str, Any]:
    """Make the query for the messages of a session."""
    names: list[Any] = [session.id, str(session.id)]
    if session.sessionId is not None and session.sessionId != str(session.id):
        names.append(session.sessionId)
    return {"sessionId": {"$in": names}, "userId": session.userId}


def expiry(chat: ChatSection, last_activity: datetime) -> datetime | None:
    """Return when a session that was used last at that moment will be deleted, if ever."""
    return None if chat.session_days is None else last_activity + timedelta(days=chat.session_days)


def check_tokens(value: int | None, name: str, chat: ChatSection) -> None:
    """Raise `InvalidRequest` when more output is asked for than the operator allows."""
    if value is not None and value > chat.max_output_tokens:
        raise InvalidRequest(f"Validation failed: {name}: must be at most {chat.max_output_tokens}")


async def find_session(user_id: PydanticObjectId, session_id: str) -> ChatSession:
    """Return a user's session; raise `NotFound`, the same for another's as for one that does not exist."""
    session = await ChatSession.find_one(session_named(user_id, session_id))
    if session is None:
        raise NotFound("Chat session not found")
    return session


async def create_session(
    user_id: PydanticObjectId, wish: NewSession, chat: ChatSection, *, now: datetime
) -> ChatSession:
    """Begin an empty session; raise `Unauthenticated` when its owner's account has been deleted meanwhile."""
    session = ChatSession(
        id=PydanticObjectId(),
        userId=user_id,
        modelId=wish.modelId,
        title=wish.title or DEFAULT_TITLE,
        lastActivity=now,
        expiresAt=expiry(chat, now),
        createdAt=now,
        updatedAt=now,
    )
    session.sessionId = str(session.id)
    await session.insert()
    if not await is_staying(user_id):
        await session.delete()
        raise Unauthenticated("This account has been deleted.")
    return session


async def list_sessions(user_id: PydanticObjectId, page: Page) -> tuple[list[ChatSession], int]:
    """Return a page of a user's sessions, the one used last first, and how many there are."""
    sessions = ChatSession.get_pymongo_collection()
    stages: list[dict[str, Any]] = [
        {"$match": {"userId": user_id}},
        {"$set": {"lastActivity": _LAST_ACTIVITY}},
        {"$sort": {"lastActivity": -1, "_id": -1}},
        {"$skip": page.skip},
        {"$limit": page.limit},
    ]
    cursor = await sessions.aggregate(stages)
    found = [ChatSession.model_validate(document) async for document in cursor]
    return found, await sessions.count_documents({"userId": user_id})


async def list_messages(session: ChatSession, page: Page) -> tuple[list[ChatMessage], int]:
    """Return a page of a session's messages, the oldest first, and how many there are."""
    messages, query = ChatMessage.get_pymongo_collection(), messages_of(session)
    cursor = messages.find(query, {"attachments.data": 0}).sort(OLDEST_FIRST)
    found = [
        ChatMessage.model_validate(document) async for document in cursor.skip(page.skip).limit(page.limit)
    ]
    return found, await messages.count_documents(query)


async def change_session(
    user_id: PydanticObjectId, session_id: str, change: SessionChange, chat: ChatSection, *, now: datetime
) -> ChatSession:
    """Change title and settings, as far as they are named; raise `NotFound` or `InvalidRequest`."""
    updates: dict[str, Any] = {"updatedAt": now}
    if change.title is not None:
        updates["title"] = change.title
    if change.settings is not None:
        check_tokens(change.settings.maxTokens, "settings.maxTokens", chat)
        named = change.settings.model_dump(exclude_unset=True)
        updates |= {f"settings.{name}": value for name, value in named.items()}
    await ChatSession.get_pymongo_collection().update_one(
        session_named(user_id, session_id), {"$set": updates}
    )
    return await find_session(user_id, session_id)


async def delete_message(user_id: PydanticObjectId, message_id: str, *, now: datetime) -> None:
    """Delete one message and count it out of its session; raise `NotFound`."""
    names: list[dict[str, Any]] = [{"messageId": message_id}]
    if ObjectId.is_valid(message_id):
        names.append({"_id": ObjectId(message_id)})
    deleted = await ChatMessage.get_pymongo_collection().find_one_and_delete(
        {"userId": user_id, "$or": names}, {"sessionId": 1, "createdAt": 1}
    )
    if deleted is None:
        raise NotFound("Message not found")
    if written := deleted.get("createdAt"):  # the original's need not have one
        await forget_days([f"{written:%Y-%m-%d}"])
    # Never below zero: the original's counters are not always right.
    fewer = {"$max": [0, {"$subtract": [{"$ifNull": ["$messageCount", 0]}, 1]}]}
    await ChatSession.get_pymongo_collection().update_one(
        session_named(user_id, str(deleted["sessionId"])),
        [{"$set": {"messageCount": fewer, "updatedAt": now}}],
    )


async def count(user_id: PydanticObjectId) -> tuple[int, int]:
    """Return how many sessions and messages a user has."""
    owned = {"userId": user_id}
    return (
        await ChatSession.get_pymongo_collection().count_documents(owned),
        await ChatMessage.get_pymongo_collection().count_documents(owned),
    )
