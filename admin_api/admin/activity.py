"""What went on in chats, for admins to see: who, when and with which model, and never what was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from beanie import PydanticObjectId

from admin_api.chat.documents import ChatMessage, ChatSession
from proxy.database import Database
from proxy.documents import User

CHAT_SESSIONS = ChatSession.Settings.name
CHAT_MESSAGES = ChatMessage.Settings.name
_SESSION_FIELDS = ("title", "modelId", "messageCount", "lastActivity", "createdAt")
_MESSAGE_FIELDS = ("sessionId", "role", "modelId", "createdAt")
_RECENT_SESSIONS, _RECENT_MESSAGES, _RECENT = 5, 10, 20


async def of_user(database: Database, user_id: PydanticObjectId) -> dict[str, Any]:
    """Return how much a user has chatted, and the latest of it."""
    own = {"userId": user_id}
    sessions, messages = database[CHAT_SESSIONS], database[CHAT_MESSAGES]
    newest = sessions.find(own, _SESSION_FIELDS).sort("createdAt", -1).limit(_RECENT_SESSIONS)
    latest = messages.find(own, _MESSAGE_FIELDS).sort("createdAt", -1).limit(_RECENT_MESSAGES)
    return {
        "totalSessions": await sessions.count_documents(own),
        "totalMessages": await messages.count_documents(own),
        "recentSessions": [_view(session, _SESSION_FIELDS) async for session in newest],
        "recentMessages": [_view(message, _MESSAGE_FIELDS) async for message in latest],
    }


async def recent(database: Database) -> list[dict[str, Any]]:
    """Return the latest messages of everybody, with their authors."""
    fields = ("userId", *_MESSAGE_FIELDS)
    cursor = database[CHAT_MESSAGES].find({}, fields).sort("createdAt", -1).limit(_RECENT)
    messages = await cursor.to_list()
    authors = await names(database, [message["userId"] for message in messages])
    return [
        {**_view(message, _MESSAGE_FIELDS), "user": authors.get(str(message["userId"]))}
        for message in messages
    ]


async def names(database: Database, ids: Sequence[PydanticObjectId]) -> dict[str, dict[str, Any]]:
    """Return id, name, e-mail and role of those users that still exist, by their ids."""
    fields = ("name", "email", "role")
    users = database[User.Settings.name].find({"_id": {"$in": list(set(ids))}}, fields)
    return {str(user["_id"]): _view(user, fields) async for user in users}


def _view(document: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    shown = {name: document.get(name) for name in fields}
    if shown.get("sessionId") is not None:
        shown["sessionId"] = str(shown["sessionId"])
    return {"_id": str(document["_id"]), **shown}
