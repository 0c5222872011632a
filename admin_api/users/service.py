"""What a user may change: his profile, his favourite models, his API keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from beanie import PydanticObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from admin_api.users.deletion import is_staying, staying
from admin_api.users.schemas import ApiKeyChanges, Lifetime, NewApiKey, ProfileChanges
from proxy import security
from proxy.documents import ApiKeyDocument, User
from proxy.errors import InvalidRequest, NotFound, Unauthenticated

MOST_FAVORITES = 10
MOST_KEYS_LISTED = 100
_LIFETIMES: dict[Lifetime, timedelta | None] = {
    "30d": timedelta(days=30),
    "90d": timedelta(days=90),
    "1y": timedelta(days=365),
    "never": None,
}


async def change_profile(user_id: PydanticObjectId, changes: ProfileChanges, *, now: datetime) -> User:
    """Change what is named and leave the rest as it is; raise `Unauthenticated` for an account that is being deleted."""
    fields = _paths(changes.model_dump(exclude_unset=True))
    changed = await User.get_pymongo_collection().find_one_and_update(
        staying(user_id), {"$set": {**fields, "updatedAt": now}}, return_document=ReturnDocument.AFTER
    )
    if changed is None:
        raise _deleted()
    user: User = User.model_validate(changed)
    return user


async def toggle_favorite(
    user_id: PydanticObjectId, model_id: str, *, is_known: bool
) -> tuple[bool, list[str]]:
    """Make a model a favourite, or no longer one; return whether it is one now, and all of them.

    Raises `NotFound` for a model that is neither known nor a favourite, `InvalidRequest` at the most allowed, and
    `Unauthenticated` for an account that is being deleted.
    """
    field = "preferences.favoriteModels"
    possible: list[dict[str, Any]] = [{field: model_id}]
    if is_known:
        possible.append({f"{field}.{MOST_FAVORITES - 1}": {"$exists": False}})
    favorites, named = f"${field}", {"$literal": model_id}  # a model may be called anything
    others = {"$filter": {"input": favorites, "cond": {"$ne": ["$$this", named]}}}
    with_it = {"$concatArrays": [favorites, [named]]}
    # In one step, so that two clicks at once are one after the other.
    toggled = await User.get_pymongo_collection().find_one_and_update(
        {**staying(user_id), "$or": possible},
        [{"$set": {field: {"$cond": [{"$in": [named, favorites]}, others, with_it]}}}],
        projection={field: 1},
        return_document=ReturnDocument.AFTER,
    )
    if toggled is None and not await is_staying(user_id):
        raise _deleted()
    if toggled is None and not is_known:
        raise NotFound("Model not found")
    if toggled is None:
        raise InvalidRequest(f"Maximum {MOST_FAVORITES} favorite models allowed")
    chosen = toggled["preferences"]["favoriteModels"]
    return model_id in chosen, chosen


async def create_api_key(
    user_id: PydanticObjectId, wish: NewApiKey, *, most: int, now: datetime
) -> tuple[str, ApiKeyDocument]:
    """Make a key and return its secret, which is not stored, beside it.

    Raises `InvalidRequest` when the user has `most` active keys, however many are made at once, and
    `Unauthenticated` when his account has been deleted meanwhile.
    """
    key = security.new_api_key()
    lifetime = _LIFETIMES[wish.expiresIn]
    document = ApiKeyDocument(
        userId=user_id,
        name=wish.name,
        digest=key.digest,
        lastFour=key.last_four,
        permissions=list(dict.fromkeys(wish.permissions)),
        **wish.model_dump(exclude={"name", "permissions", "expiresIn"}),
        expiresAt=None if lifetime is None else now + lifetime,
        createdAt=now,
    )
    await _free_expired(user_id, now)
    while (slot := await _free_slot(user_id, most)) is not None:
        document.slot = slot
        try:
            await document.insert()
        except DuplicateKeyError:
            continue  # another request has just taken this place; there are only `most` of them
        if not await is_staying(user_id):
            await document.delete()
            raise _deleted()
        return key.secret, document
    raise InvalidRequest(f"Maximum {most} active API keys allowed")


async def list_api_keys(owners: Sequence[PydanticObjectId]) -> dict[PydanticObjectId, list[ApiKeyDocument]]:
    """Return the keys of each of these users that exists: those that have a place first, each part the newest first.

    So no number of keys that are revoked or expired hides one that works.
    """
    # For each owner by the index, so that a thousand keys of one are neither read nor missing of another's.
    first = [{"$sort": {"slot": -1, "createdAt": -1}}, {"$limit": MOST_KEYS_LISTED}]
    join = {
        "from": ApiKeyDocument.Settings.name,
        "localField": "_id",
        "foreignField": "userId",
        "pipeline": first,
        "as": "keys",
    }
    stages: list[dict[str, Any]] = [
        {"$match": {"_id": {"$in": list(owners)}}},
        {"$project": {"_id": 1}},
        {"$lookup": join},
    ]
    found = await User.get_pymongo_collection().aggregate(stages)
    return {
        owner["_id"]: sorted(
            map(ApiKeyDocument.model_validate, owner["keys"]),
            key=lambda key: (key.slot is not None, key.createdAt),
            reverse=True,
        )
        async for owner in found
    }


async def change_api_key(
    user_id: PydanticObjectId, key_id: PydanticObjectId, changes: ApiKeyChanges
) -> ApiKeyDocument:
    """Change what is named about a key that is not revoked; raise `NotFound` when the user has no such key."""
    keys = ApiKeyDocument.get_pymongo_collection()
    changed = await keys.update_one(
        {"_id": key_id, "userId": user_id, "isActive": True},
        {"$set": changes.model_dump(exclude_unset=True)},
    )
    key = await ApiKeyDocument.get(key_id) if changed.matched_count else None
    if key is None:
        raise NotFound("API key not found")
    return key


async def revoke_api_key(user_id: PydanticObjectId, key_id: PydanticObjectId) -> None:
    """End a key; raise `NotFound` when the user has no such key."""
    keys = ApiKeyDocument.get_pymongo_collection()
    revoked = await keys.update_one(
        {"_id": key_id, "userId": user_id}, {"$set": {"isActive": False}, "$unset": {"slot": ""}}
    )
    if not revoked.matched_count:
        raise NotFound("API key not found")


async def _free_expired(user_id: PydanticObjectId, now: datetime) -> None:
    expired = {"userId": user_id, "slot": {"$type": "number"}, "expiresAt": {"$lte": now}}
    await ApiKeyDocument.get_pymongo_collection().update_many(expired, {"$unset": {"slot": ""}})


async def _free_slot(user_id: PydanticObjectId, most: int) -> int | None:
    """Return the lowest free place of a user's keys; `None` when as many as allowed are taken."""
    occupied = {"userId": user_id, "slot": {"$type": "number"}}
    cursor = ApiKeyDocument.get_pymongo_collection().find(occupied, {"slot": 1})
    taken = {key["slot"] async for key in cursor}
    if len(taken) >= most:
        return None
    return next(slot for slot in range(most) if slot not in taken)


def _paths(changes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested changes into the paths of single fields, so that their neighbours stay."""
    paths: dict[str, Any] = {}
    for name, value in changes.items():
        if isinstance(value, Mapping):
            paths |= _paths(value, f"{prefix}{name}.")
        else:
            paths[f"{prefix}{name}"] = value
    return paths


def _deleted() -> Unauthenticated:
    return Unauthenticated("This account has been deleted.")
