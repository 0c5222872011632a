"""A user's API keys."""

from __future__ import annotations

from datetime import datetime, timedelta

from beanie import PydanticObjectId

from admin_api.users.schemas import Lifetime, NewApiKey
from proxy import security
from proxy.documents import ApiKeyDocument
from proxy.errors import InvalidRequest

_LIFETIMES: dict[Lifetime, timedelta | None] = {
    "30d": timedelta(days=30),
    "90d": timedelta(days=90),
    "1y": timedelta(days=365),
    "never": None,
}


async def create_api_key(
    user_id: PydanticObjectId, wish: NewApiKey, *, most: int, now: datetime
) -> tuple[str, ApiKeyDocument]:
    """Make a key and return its secret, which is not stored, beside it; raise `InvalidRequest` at `most` keys."""
    keys = ApiKeyDocument.find(ApiKeyDocument.userId == user_id, ApiKeyDocument.isActive == True)  # noqa: E712
    if await keys.count() >= most:
        raise InvalidRequest(f"Maximum {most} active API keys allowed")
    key = security.new_api_key()
    lifetime = _LIFETIMES[wish.expiresIn]
    document = ApiKeyDocument(
        userId=user_id,
        name=wish.name,
        digest=key.digest,
        lastFour=key.last_four,
        permissions=list(wish.permissions),
        allowedModels=wish.allowedModels,
        onDisconnect=wish.onDisconnect,
        expiresAt=None if lifetime is None else now + lifetime,
        createdAt=now,
    )
    await document.insert()
    return key.secret, document
