"""Tests of admin_api/chat/deletion.py: a session goes with its messages, whoever deletes it and whatever dies."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from bson import ObjectId

from admin_api.chat.deletion import delete_orphans, mark_expired
from proxy.clock import utc_now
from proxy.settings import ChatSection
from tests.admin_api.playground import FREE, playground


async def test_unused_sessions_go_with_their_messages(mongodb_uri: str) -> None:
    """After as many days without use as configured a session goes with its messages; a used one stays."""
    now = utc_now()
    clock = {"now": now}
    async with playground(
        mongodb_uri, clock=lambda: clock["now"], chat=ChatSection(session_days=30), jwt_expires_in="90d"
    ) as play:
        person = await play.person()
        old = (await person.say("old", FREE)).json()["data"]["session"]["id"]
        used = (await person.say("used", FREE)).json()["data"]["session"]["id"]
        database = play.gateway.parts.database
        await database["chatsessions"].insert_one(
            {"_id": ObjectId(), "sessionId": "chat_1", "userId": person.user.id, "lastMessageAt": now}
        )
        clock["now"] = now + timedelta(days=20)
        await person.say("again", FREE, sessionId=used)
        shown = (await person.get(f"/api/chat/sessions/{used}")).json()["data"]["session"]
        expires = datetime.fromisoformat(shown["expiresAt"])
        assert timedelta(days=29, hours=23) < expires - clock["now"] <= timedelta(days=30, seconds=1)
        assert await mark_expired(clock["now"], 30) == 0
        assert await mark_expired(now + timedelta(days=31), 30) == 2
        assert await mark_expired(now + timedelta(days=31), 30) == 0
        assert await play.gateway.app.ctx.deletions.finish_all() == 2
        assert (await person.get(f"/api/chat/sessions/{old}")).status_code == 404
        assert {str(m["sessionId"]) for m in await play.documents("chatmessages")} == {used}
        assert [str(s["_id"]) for s in await play.documents("chatsessions")] == [used]


async def test_what_a_turn_that_died_has_left_goes(mongodb_uri: str) -> None:
    """A day later a gateway deletes messages without a session, of whoever is still there; all others stay."""
    now = utc_now()
    async with playground(mongodb_uri, clock=lambda: now) as play:
        person, gone = await play.person(), await play.person()
        kept = (await person.say("kept", FREE)).json()["data"]["session"]["id"]
        database = play.gateway.parts.database
        for each in (person, gone):
            lost = (await each.say("lost", FREE)).json()["data"]["session"]["id"]
            await database["chatsessions"].delete_one({"_id": ObjectId(lost)})
        await database["users"].delete_one({"_id": gone.user.id})
        original = {"sessionId": "chat_1", "userId": person.user.id, "role": "user", "createdAt": now}
        await database["chatmessages"].insert_one(original)
        assert await delete_orphans(now + timedelta(hours=23)) == 0
    async with playground(mongodb_uri, clock=lambda: now + timedelta(days=1, hours=1)) as play:
        async with asyncio.timeout(5):
            while len(await play.documents("chatmessages")) > 3:  # noqa: ASYNC110  it happens in the background
                await asyncio.sleep(0.02)
        left = {str(message["sessionId"]) for message in await play.documents("chatmessages")}
        assert left == {kept, "chat_1"}
        assert await delete_orphans(now + timedelta(days=1, hours=1)) == 0


async def test_the_gateway_deletes_by_itself(mongodb_uri: str) -> None:
    """A gateway with a bound deletes expired sessions when it starts; one without keeps all."""
    now = utc_now()
    async with playground(mongodb_uri, clock=lambda: now - timedelta(days=3)) as play:
        await (await play.person()).say("old", FREE)
        (session,) = await play.documents("chatsessions")
        assert session["expiresAt"] is None
    async with playground(mongodb_uri) as play:
        await asyncio.sleep(0.3)
        assert len(await play.documents("chatsessions")) == 1
    async with playground(mongodb_uri, chat=ChatSection(session_days=2)) as play:
        async with asyncio.timeout(60):
            while await play.documents("chatsessions"):  # noqa: ASYNC110  it happens in the background
                await asyncio.sleep(0.02)
        assert await play.documents("chatmessages") == []
