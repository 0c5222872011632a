"""Everything that is stored of a user, as one JSON document in pieces; nothing with which somebody could act as him."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from decimal import Decimal
from typing import Any

import orjson
from beanie import PydanticObjectId
from bson import Decimal128, ObjectId

from admin_api.auth.sessions import list_sign_ins
from admin_api.auth.view import view_sign_in
from admin_api.chat.documents import ChatMessage, ChatSession
from admin_api.users.view import view_api_key
from proxy.database import Database
from proxy.documents import EVENTS, ApiKeyDocument
from proxy.gateway import Gateway

_BATCH = 100
_EVENT_FIELDS = (
    "at",
    "kind",
    "refersTo",
    "keyId",
    "sessionId",
    "provider",
    "requestedModel",
    "model",
    "stream",
    "outcome",
    "tokens",
    "costUsd",
    "costInr",
    "usdInrRate",
    "costSource",
    "estimated",
    "requests",
)


async def export_user(
    user: Mapping[str, Any], user_id: PydanticObjectId, gateway: Gateway
) -> AsyncGenerator[bytes, None]:
    """Yield the envelope with the user as he is rendered, his keys, sign-ins, conversations and usage events."""
    exported_at = _json(gateway.clock())
    yield b'{"status":"success","data":{"exportedAt":' + exported_at + b',"user":' + _json(user)
    lists = {
        "sessions": _documents(ChatSession.get_pymongo_collection(), user_id),
        "messages": _documents(ChatMessage.get_pymongo_collection(), user_id),
        "apiKeys": _keys(user_id),
        "signIns": _sign_ins(user_id, gateway),
        "usageEvents": _events(gateway.database, user_id),
    }
    for name, items in lists.items():
        yield b',"' + name.encode() + b'":['
        separator = b""
        async for item in items:
            yield separator + _json(item)
            separator = b","
        yield b"]"
    yield b"}}"


async def _documents(collection: Any, user_id: PydanticObjectId) -> AsyncIterator[dict[str, Any]]:
    async with collection.find({"userId": user_id}, {"userId": 0}).sort("_id", 1).batch_size(_BATCH) as found:
        async for document in found:
            yield document


async def _keys(user_id: PydanticObjectId) -> AsyncIterator[dict[str, Any]]:
    async for key in ApiKeyDocument.find(ApiKeyDocument.userId == user_id):
        yield view_api_key(key)


async def _sign_ins(user_id: PydanticObjectId, gateway: Gateway) -> AsyncIterator[dict[str, Any]]:
    for session in await list_sign_ins(user_id, now=gateway.clock()):
        yield view_sign_in(session, current=None)


async def _events(database: Database, user_id: PydanticObjectId) -> AsyncIterator[dict[str, Any]]:
    query, fields = {"userId": str(user_id)}, dict.fromkeys(_EVENT_FIELDS, 1)
    async with database[EVENTS].find(query, fields).sort("at", 1).batch_size(_BATCH) as found:
        async for event in found:
            yield event


def _json(value: object) -> bytes:
    return orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)


def _plain(value: object) -> object:
    """Render what JSON has no word for; money as a decimal string, so that not a digit is lost."""
    if isinstance(value, ObjectId | PydanticObjectId):
        return str(value)
    if isinstance(value, Decimal128):
        return format(value.to_decimal(), "f")
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
