"""Tests of admin_api/chat/message_days.py: what is deleted is no longer counted, on whatever day it was written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from admin_api.chat.deletion import mark_expired
from admin_api.chat.message_days import MESSAGE_DAYS
from proxy.core.routing import Role
from tests.admin_api.accounts import Account, signed_in
from tests.admin_api.playground import FREE, Playground, playground
from tests.gateway import PASSWORD

NOW = datetime.now(UTC)


async def chats(place: Playground, account: Account) -> dict[str, Any]:
    """Have a chat of one turn that is ten days old, and return its answer."""
    answer = await account.send("POST", "/api/chat", {"message": "hi", "modelId": FREE})
    old = {"createdAt": NOW - timedelta(days=10), "lastActivity": NOW - timedelta(days=10)}
    database = place.gateway.parts.database
    for name in ("chatmessages", "chatsessions"):
        await database[name].update_many({"userId": account.id}, {"$set": old})
    data: dict[str, Any] = answer.json()["data"]
    return data


async def deletes_session(_place: Playground, account: Account, chat: dict[str, Any]) -> None:
    await account.send("DELETE", f"/api/chat/sessions/{chat['session']['id']}")


async def deletes_message(_place: Playground, account: Account, chat: dict[str, Any]) -> None:
    for name in ("userMessage", "aiMessage"):
        await account.send("DELETE", f"/api/chat/messages/{chat[name]['id']}")


async def deletes_account(_place: Playground, account: Account, _chat: dict[str, Any]) -> None:
    await account.send("DELETE", "/api/user/account", {"password": PASSWORD})


async def expires(place: Playground, _account: Account, _chat: dict[str, Any]) -> None:
    await mark_expired(NOW, 5)
    await place.gateway.app.ctx.deletions.finish_all()


@pytest.mark.parametrize("delete", [deletes_session, deletes_message, deletes_account, expires])
async def test_what_is_deleted_is_no_longer_counted(
    mongodb_uri: str, delete: Callable[[Playground, Account, dict[str, Any]], Awaitable[None]]
) -> None:
    """The admins' statistics say at once that messages are gone whose day was kept, and other days stay kept."""
    async with playground(mongodb_uri) as place:
        admin, account, other = [
            await signed_in(place.gateway, role) for role in (Role.ADMIN, Role.USER, Role.USER)
        ]
        chat = await chats(place, account)
        kept = place.gateway.parts.database[MESSAGE_DAYS]
        await other.send("POST", "/api/chat", {"message": "hi", "modelId": FREE})

        async def counted() -> int:
            answer = await admin.send("GET", "/api/admin/stats")
            total: int = answer.json()["data"]["stats"]["messages"]["total"]
            return total

        assert await counted() == 4
        before = await kept.find().sort("_id").to_list()
        await delete(place, account, chat)
        assert await kept.find().sort("_id").to_list() == before[1:]
        assert await counted() == 2
