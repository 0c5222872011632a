"""An account is deleted in an order that a crash at any point leaves resumable, and that nobody can sign in during.

First the user is marked, then his sessions and keys go, then his conversations, and his own document last: as long
as that exists, whoever starts next finds the mark and goes on. Usage events stay; without the user they name nobody.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any

from beanie import PydanticObjectId

from admin_api.auth.sessions import end_sessions
from admin_api.chat.documents import ChatSession
from admin_api.chat.message_days import delete_messages
from proxy.documents import ApiKeyDocument, User

_MARKED: dict[str, Any] = {"deletionRequestedAt": {"$type": "date"}}
_BATCH = 100


async def mark(user_id: PydanticObjectId, *, now: datetime) -> None:
    """Say that an account is being deleted: from now on nobody can sign in to it or use its keys."""
    await User.get_pymongo_collection().update_one(
        {"_id": user_id},
        {"$set": {"isActive": False, "deletionRequestedAt": now}, "$unset": {"passwordReset": ""}},
    )


def staying(user_id: PydanticObjectId) -> dict[str, Any]:
    """Make the query for an account that is there and that nobody is deleting."""
    return {"_id": user_id, "deletionRequestedAt": None}


async def is_staying(user_id: PydanticObjectId) -> bool:
    """Say whether an account is there and nobody is deleting it.

    Whoever stores something of a user's asks afterwards, and takes it back where he is going: what is stored before
    the mark is found by the deletion, and what is stored after it by the question.
    """
    return await User.get_pymongo_collection().find_one(staying(user_id), {"_id": 1}) is not None


async def unfinished() -> AsyncGenerator[PydanticObjectId, None]:
    """Yield the id of every account that is marked."""
    async with User.get_pymongo_collection().find(_MARKED, {"_id": 1}).batch_size(_BATCH) as marked:
        async for user in marked:
            yield PydanticObjectId(user["_id"])


async def finish(user_id: PydanticObjectId) -> None:
    """Delete everything of a marked account; what is gone already is no trouble."""
    await end_sessions(user_id)
    await ApiKeyDocument.find(ApiKeyDocument.userId == user_id).delete()
    await delete_messages({"userId": user_id})
    for owner in ("userId", "deletedOf"):
        await ChatSession.get_pymongo_collection().delete_many({owner: user_id})
    await User.get_pymongo_collection().delete_one({"_id": user_id, **_MARKED})
