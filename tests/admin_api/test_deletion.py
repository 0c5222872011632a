"""Tests of admin_api/deletion.py: what is being deleted goes to the last of it, whoever leaves and whatever fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import AutoReconnect

from admin_api.deletion import Deletions
from tests.admin_api.playground import FREE, Person, Playground, playground

MESSAGES = "chatmessages"


def deletions(play: Playground) -> Deletions:
    found: Deletions = play.gateway.app.ctx.deletions
    return found


async def conversation(person: Person) -> str:
    """Have a session with messages, and return its id."""
    return str((await person.say("a secret", FREE)).json()["data"]["session"]["id"])


async def test_what_fails_half_way_is_finished_later(
    mongodb_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session whose messages could not be deleted is there for nobody, no turn continues it, and the rest follows."""
    delete_many = AsyncCollection.delete_many

    async def fails_once(collection: AsyncCollection[Any], *args: Any, **options: Any) -> Any:
        if collection.name == MESSAGES:
            monkeypatch.setattr(AsyncCollection, "delete_many", delete_many)
            raise AutoReconnect("the database has gone")
        return await delete_many(collection, *args, **options)

    async with playground(mongodb_uri) as play:
        person = await play.person()
        session, kept = await conversation(person), await conversation(person)
        monkeypatch.setattr(AsyncCollection, "delete_many", fails_once)
        assert (await person.delete(f"/api/chat/sessions/{session}")).status_code == 204
        assert len(await play.documents("chatmessages")) == 4
        assert (await person.get(f"/api/chat/sessions/{session}")).status_code == 404
        assert (await person.patch(f"/api/chat/sessions/{session}", {"title": "x"})).status_code == 404
        assert (await person.delete(f"/api/chat/sessions/{session}")).status_code == 404
        assert (await person.say("more", FREE, sessionId=session)).status_code == 404
        listed = (await person.get("/api/chat/sessions")).json()
        assert [each["id"] for each in listed["data"]["sessions"]] == [kept]
        assert listed["pagination"]["total"] == 1
        assert [
            each["_id"] for each in (await person.get("/api/user/export")).json()["data"]["sessions"]
        ] == [kept]
        assert await deletions(play).finish_all() == 1
        assert {str(message["sessionId"]) for message in await play.documents("chatmessages")} == {kept}
        assert [str(each["_id"]) for each in await play.documents("chatsessions")] == [kept]
        overview = (await person.get("/api/chat/stats")).json()["data"]["overview"]
        assert (overview["totalSessions"], overview["totalMessages"]) == (1, 2)
        assert await deletions(play).finish_all() == 0


async def test_the_next_start_finishes_what_a_crash_has_left(mongodb_uri: str) -> None:
    """A session that is marked, by whichever name its messages know it, is gone soon after the next start."""
    async with playground(mongodb_uri) as play:
        person = await play.person()
        session = await conversation(person)
        store = play.gateway.parts.database
        await store["chatmessages"].update_one({"role": "user"}, {"$set": {"sessionId": "chat_1"}})
        (stored,) = await play.documents("chatsessions")
        await store["chatsessions"].replace_one(
            {}, {"_id": stored["_id"], "sessionId": "chat_1", "deletedOf": stored["userId"]}
        )
        assert (await person.get(f"/api/chat/sessions/{session}")).status_code == 404
    async with playground(mongodb_uri) as play, asyncio.timeout(10):
        while await play.documents("chatsessions"):  # noqa: ASYNC110  it happens in the background
            await asyncio.sleep(0.02)
        assert await play.documents("chatmessages") == []


async def test_a_client_that_leaves_ends_no_deletion(
    mongodb_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session whose client has left in the middle of its deletion goes with all its messages."""
    delete_many, began, left = AsyncCollection.delete_many, asyncio.Event(), asyncio.Event()

    async def waits(collection: AsyncCollection[Any], *args: Any, **options: Any) -> Any:
        if collection.name == MESSAGES:
            began.set()
            await left.wait()
        return await delete_many(collection, *args, **options)

    async with playground(mongodb_uri) as play:
        person = await play.person()
        session = await conversation(person)
        monkeypatch.setattr(AsyncCollection, "delete_many", waits)
        deleting = asyncio.create_task(person.delete(f"/api/chat/sessions/{session}"))
        await began.wait()
        deleting.cancel()
        await asyncio.sleep(0.2)  # until the gateway has noticed
        left.set()
        async with asyncio.timeout(10):
            while await play.documents("chatmessages"):  # noqa: ASYNC110  it happens in the background
                await asyncio.sleep(0.02)
            while await play.documents("chatsessions"):  # noqa: ASYNC110  likewise
                await asyncio.sleep(0.02)
