"""Takes over a database that the original AI Pasta backend wrote: nothing is lost, and a second run changes nothing.

Every step asks the database what is still to do and works in batches, so that it may be interrupted anywhere: the
next run goes on. The indexes by which the database deletes chats go first; the unique ones go last, so that no
gateway starts on what is only half taken over. Fields that are not ours stay in their documents.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pymongo
from beanie import Document
from bson import ObjectId
from bson.decimal128 import Decimal128
from pymongo import ReplaceOne, UpdateMany, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection

from admin_api.chat.documents import DEFAULT_TITLE
from proxy import indexes
from proxy.database import Database, DatabaseError

BATCH = 500
MODELS_BEFORE = "aimodels_original"
_BATCH_SECONDS = 120.0
_TITLE_LENGTH = 50
_MOST_NAMED = 5
_USERS, _SESSIONS, _MESSAGES, _MODELS = "users", "chatsessions", "chatmessages", "aimodels"

Json = dict[str, Any]
Collection = AsyncCollection[Json]
Owner = tuple[ObjectId, str]
"""Whose chat it is, and the name that the original gave it."""


async def migrate(
    database: Database, documents: Sequence[type[Document]], *, usd_inr_rate: Decimal
) -> AsyncIterator[str]:
    """Make the database ours, and yield in lines what was done.

    Raises `DatabaseError` before anything is done when two users have one e-mail address.
    """
    await _refuse_shared_emails(database[_USERS])
    steps = (
        _drop_indexes(database, documents, deleting_only=True),
        _complete_users(database[_USERS]),
        _convert_sessions(database[_SESSIONS], usd_inr_rate),
        _convert_messages(database, usd_inr_rate),
        _put_models_aside(database),
        _drop_indexes(database, documents, deleting_only=False),
    )
    for step in steps:
        async for line in step:
            yield line


async def _refuse_shared_emails(users: Collection) -> None:
    group = {"$group": {"_id": {"$toLower": "$email"}, "users": {"$sum": 1}}}
    shared: list[Json] = [group, {"$match": {"users": {"$gt": 1}}}, {"$limit": _MOST_NAMED}]
    with pymongo.timeout(_BATCH_SECONDS):
        found = await (await users.aggregate(shared, allowDiskUse=True)).to_list()
    if found:
        emails = ", ".join(str(row["_id"]) for row in found)
        raise DatabaseError(f"several users have the same e-mail address: {emails}; change all but one first")


async def _drop_indexes(
    database: Database, documents: Sequence[type[Document]], *, deleting_only: bool
) -> AsyncIterator[str]:
    for index in indexes.foreign(await indexes.existing(database, documents), documents):
        if index.deletes or not deleting_only:
            await database[index.collection].drop_index(index.name)
            reason = "the database deleted documents by it" if index.deletes else "ours takes its place"
            yield f"dropped the index {index}: {reason}"


async def _complete_users(users: Collection) -> AsyncIterator[str]:
    missing = {"$or": [{"bio": None}, {"usageLimits": None}, {"preferences.favoriteModels": None}]}
    changed = 0
    async for batch in _batches(users, missing):
        changed += await _update(users, batch, _USER)
    if changed:
        yield f"users: completed {changed} with limits, preferences and what else was missing"
        yield "users: everybody signs in again, with the same password; the original's tokens are not good here"
        for count, remark in (
            (
                await users.count_documents({"password": None}),
                "signed in with Google and have to set a password by `forgot password`",
            ),
            (
                await users.count_documents({"tokens.paidTokens": {"$gt": 0}, "role": "user"}),
                "have bought tokens; an admin may give them the role premium",
            ),
        ):
            if count:
                yield f"users: {count} {remark}"


async def _convert_sessions(sessions: Collection, rate: Decimal) -> AsyncIterator[str]:
    # What is left of a chat that is being deleted is not to become one again.
    old = {"$or": [{"lastActivity": None}, {"totalCost": {"$type": "number"}}], "deletedOf": None}
    changed = 0
    async for batch in _batches(sessions, old):
        changed += await _update(sessions, batch, _session(rate))
    if changed:
        yield f"chats: converted {changed}; none of them expires any more"


async def _convert_messages(database: Database, rate: Decimal) -> AsyncIterator[str]:
    """Give every message its chat by id; messages whose chat has expired get it back."""
    messages = database[_MESSAGES]
    old = {"sessionId": {"$type": "string"}, "userId": {"$type": "objectId"}}
    changed = rebuilt = 0
    while batch := await _next_batch(messages, old, ("userId", "sessionId")):
        owners = {(message["userId"], message["sessionId"]) for message in batch}
        known = await _chats_of(database, owners)
        if lost := owners - known.keys():
            rebuilt += await _rebuild(database, lost)
            known |= await _chats_of(database, lost)
        writes = [
            UpdateMany({"userId": user, "sessionId": name}, [{"$set": _message(known[user, name], rate)}])
            for user, name in owners
        ]
        with pymongo.timeout(_BATCH_SECONDS):
            changed += (await messages.bulk_write(writes, ordered=False)).modified_count
    if rebuilt:
        yield f"chats: rebuilt {rebuilt} that had expired and left their messages behind"
    if changed:
        yield f"messages: converted {changed}"


async def _chats_of(database: Database, owners: Iterable[Owner]) -> dict[Owner, ObjectId]:
    """Find chats by the names that the original gave them, or by their ids written as text."""
    names = {name for _, name in owners}
    ids = [ObjectId(name) for name in names if ObjectId.is_valid(name)]
    query = {"$or": [{"sessionId": {"$in": [*names]}}, {"_id": {"$in": ids}}], "deletedOf": None}
    with pymongo.timeout(_BATCH_SECONDS):
        found = await database[_SESSIONS].find(query, ("userId", "sessionId")).sort("_id", -1).to_list()
    # Sorted so that the oldest of two chats with one name, should there be any, comes last and wins.
    by_id = {(chat["userId"], str(chat["_id"])): chat["_id"] for chat in found}
    return by_id | {(chat["userId"], chat["sessionId"]): chat["_id"] for chat in found if "sessionId" in chat}


async def _rebuild(database: Database, owners: set[Owner]) -> int:
    stages: list[Json] = [
        {"$match": {"sessionId": {"$in": [name for _, name in owners]}}},
        {"$sort": {"createdAt": 1}},
        {
            "$group": {
                "_id": {"userId": "$userId", "sessionId": "$sessionId"},
                "title": {"$first": {"$substrCP": [_first("$content", ""), 0, _TITLE_LENGTH]}},
                "modelId": {"$last": "$model.id"},
                "createdAt": {"$first": "$createdAt"},
                "lastActivity": {"$last": "$createdAt"},
                "messageCount": {"$sum": 1},
            }
        },
    ]
    with pymongo.timeout(_BATCH_SECONDS):
        chats = await (await database[_MESSAGES].aggregate(stages, allowDiskUse=True)).to_list()
        writes = [
            UpdateOne(chat["_id"], {"$setOnInsert": _rebuilt(chat)}, upsert=True)
            for chat in chats
            if (chat["_id"]["userId"], chat["_id"]["sessionId"]) in owners
        ]
        return (await database[_SESSIONS].bulk_write(writes, ordered=False)).upserted_count


def _rebuilt(chat: Mapping[str, Any]) -> Json:
    zero = Decimal128("0")
    return {
        "title": chat["title"] or DEFAULT_TITLE,
        "modelId": chat["modelId"],
        "messageCount": chat["messageCount"],
        "totalTokensUsed": 0,
        "totalCost": {"usd": zero, "inr": zero},
        "settings": {},
        "metadata": {},
        "createdAt": chat["createdAt"],
        "updatedAt": chat["lastActivity"],
        "lastActivity": chat["lastActivity"],
    }


async def _put_models_aside(database: Database) -> AsyncIterator[str]:
    """Move the original's model records out of our collection: the providers' lists are read anew."""
    models, moved = database[_MODELS], 0
    while batch := await _next_batch(models, {"record": {"$exists": False}}):
        copies = [ReplaceOne({"_id": model["_id"]}, model, upsert=True) for model in batch]
        with pymongo.timeout(_BATCH_SECONDS):
            await database[MODELS_BEFORE].bulk_write(copies, ordered=False)
            await models.delete_many({"_id": {"$in": [model["_id"] for model in batch]}})
        moved += len(batch)
    if moved:
        yield f"models: put {moved} aside in {MODELS_BEFORE}; the providers' lists take their place"


async def _batches(collection: Collection, query: Json) -> AsyncIterator[list[ObjectId]]:
    """Yield the ids of what matches, each once, whether or not it still matches afterwards."""
    after: Json = {}
    while batch := await _next_batch(collection, {"$and": [query, after]}, ("_id",)):
        ids = [document["_id"] for document in batch]
        yield ids
        after = {"_id": {"$gt": ids[-1]}}


async def _next_batch(collection: Collection, query: Json, fields: Sequence[str] = ()) -> list[Json]:
    with pymongo.timeout(_BATCH_SECONDS):
        return await collection.find(query, fields or None).sort("_id", 1).limit(BATCH).to_list()


async def _update(collection: Collection, ids: Sequence[ObjectId], values: Json) -> int:
    with pymongo.timeout(_BATCH_SECONDS):
        result = await collection.update_many({"_id": {"$in": [*ids]}}, [{"$set": values}])
    return result.modified_count


def _first(*values: Any) -> Any:
    """Return the expression for the first of several values that is there."""
    *rest, last = values
    for value in reversed(rest):
        last = {"$ifNull": [value, last]}
    return last


def _whole(*values: Any) -> Json:
    return {"$toLong": _first(*values, 0)}


def _unless_default(field: str, default: int) -> Json:
    """Return the expression for a limit that somebody has set, and null for the original's default."""
    is_set = {"$and": [{"$isNumber": field}, {"$ne": [field, default]}]}
    return {"$cond": [is_set, {"$max": [0, _whole(field)]}, None]}


def _cost(usd: Any, rate: Decimal) -> Json:
    exact = {"$toDecimal": usd}
    return {"usd": exact, "inr": {"$multiply": [exact, Decimal128(rate)]}}


_NOTIFICATIONS = {"email": True, "push": False, "marketing": False}
_BORN = {"$toDate": "$_id"}
_IS_ACTIVE = {"$ne": ["$isActive", False]}
_USER: Json = {
    "role": _first("$role", "user"),
    "isActive": _IS_ACTIVE,
    "bio": _first("$bio", ""),
    "preferences.theme": _first("$preferences.theme", "auto"),
    "preferences.language": _first("$preferences.language", "en"),
    "preferences.favoriteModels": _first("$preferences.favoriteModels", []),
    "preferences.notifications": {
        "$cond": [
            {"$eq": [{"$type": "$preferences.notifications"}, "object"]},
            "$preferences.notifications",
            _NOTIFICATIONS,
        ]
    },
    "usageLimits": _first(
        "$usageLimits",
        {
            "dailyRequests": _unless_default("$subscription.limits.requestsPerDay", 50),
            "monthlyRequests": None,
            "monthlyTokens": _unless_default("$subscription.limits.tokensPerMonth", 10_000),
        },
    ),
    "stats.lastActive": _first("$stats.lastActive", "$lastLoginAt", None),
    "stats.loginCount": _whole("$stats.loginCount"),
    "createdAt": _first("$createdAt", _BORN),
    "updatedAt": _first("$updatedAt", "$createdAt", _BORN),
}


def _session(rate: Decimal) -> Json:
    created, total = _first("$createdAt", _BORN), _first("$totalCost", 0)
    return {
        "title": _first("$title", DEFAULT_TITLE),
        "modelId": _first("$modelId", {"$first": "$models.id"}, None),
        "messageCount": _whole("$messageCount"),
        "lastActivity": _first("$lastActivity", "$lastMessageAt", "$updatedAt", created),
        "totalTokensUsed": _whole("$totalTokensUsed", "$totalTokens"),
        "totalCost": {"$cond": [{"$isNumber": total}, _cost(total, rate), total]},
        "settings": _first("$settings", {}),
        "metadata": _first("$metadata", {}),
        "createdAt": created,
        "updatedAt": _first("$updatedAt", created),
        "expiresAt": "$$REMOVE",
    }


def _message(chat: ObjectId, rate: Decimal) -> Json:
    """Return the changes to a message; the original stored 0 where it did not know tokens or cost."""
    counts = {
        "promptTokens": _whole("$usage.inputTokens"),
        "completionTokens": _whole("$usage.outputTokens"),
        "totalTokens": _whole("$usage.totalTokens"),
    }
    return {
        "sessionId": chat,
        "modelId": _first("$modelId", "$model.id", None),
        "usage": {"$cond": [{"$gt": [_whole("$usage.totalTokens"), 0]}, counts, None]},
        "cost": {"$cond": [{"$gt": [_first("$cost.totalCost", 0), 0]}, _cost("$cost.totalCost", rate), None]},
        "attachments": _first("$attachments", []),
        "metadata": _first("$metadata", {}),
        "createdAt": _first("$createdAt", _BORN),
    }
