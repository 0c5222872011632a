"""Taking over a database that the original AI Pasta backend wrote."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from admin_api import migration
from admin_api.chat.documents import ChatMessage, ChatSession
from admin_api.documents import DOCUMENTS
from proxy import database
from proxy.database import Database, DatabaseError
from proxy.documents import User
from tests.admin_api.original import (
    ASHA,
    BORN,
    CHAT,
    CHAT_NAME,
    GOOGLER,
    LOST_NAME,
    PASSWORD,
    QUIET,
    ROOT,
    write_original,
)
from tests.admin_api.playground import FREE, playground
from tests.server_process import free_port

SOON = timedelta(days=1)


@asynccontextmanager
async def store(uri: str) -> AsyncIterator[Database]:
    client = database.connect(uri)
    try:
        yield database.database_of(client, "aipasta")
    finally:
        await client.close()


async def migrated(store: Database) -> list[str]:
    return [line async for line in migration.migrate(store, DOCUMENTS, usd_inr_rate=Decimal(83))]


async def everything(store: Database) -> dict[str, Any]:
    """Read every document and every index."""
    found: dict[str, Any] = {}
    for name in sorted(await store.list_collection_names()):
        found[name] = (
            await store[name].find().sort("_id").to_list(),
            await store[name].index_information(),
        )
    return found


def command(project: Path, uri: str, data_dir: Path, name: str) -> Any:
    return asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "proxy",
        name,
        cwd=project,
        env={
            "PATH": os.environ["PATH"],
            "MONGODB_URI": uri,
            "DATA_DIR": str(data_dir),
            "CONFIG_FILE": "/dev/null",
            "PORT": str(free_port()),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_users_chats_and_messages_become_ours(mongodb_uri: str) -> None:
    """Every document reads as ours, keeps its id and loses nothing that it had."""
    async with store(mongodb_uri) as before_store:
        await write_original(before_store, "openai/gpt-4o", far=datetime.now(UTC) + SOON)
        before = {user["_id"]: user async for user in before_store["users"].find()}
        await migrated(before_store)
        await database.prepare(before_store, DOCUMENTS)
        asha, root, googler = [await User.get(user) for user in (ASHA, ROOT, GOOGLER)]
        assert asha is not None
        assert root is not None
        assert googler is not None
        assert asha.preferences.theme == "dark"
        assert asha.preferences.notifications.email is True
        assert asha.usageLimits.model_dump() == {
            "dailyRequests": None,
            "monthlyRequests": None,
            "monthlyTokens": None,
        }
        assert root.usageLimits.dailyRequests == 120  # set by hand, so it stays
        assert (googler.password, googler.preferences.theme, googler.stats.loginCount) == (None, "auto", 0)
        async for user in before_store["users"].find():
            known = before[user["_id"]]
            for kept in ("tokens", "credits", "subscription", "planHistory", "createdAt"):
                assert user[kept] == known[kept]

        chats = {chat.id: chat for chat in await ChatSession.find(ChatSession.userId == ASHA).to_list()}
        assert len(chats) == 3
        chat = chats[CHAT]  # type: ignore[index]  # a plain ObjectId is as good a key
        assert (chat.sessionId, chat.modelId, chat.messageCount) == (CHAT_NAME, "openai/gpt-4o", 4)
        assert (chat.totalTokensUsed, chat.totalCost.usd) == (6_000, Decimal("0.01"))
        assert chat.totalCost.inr == Decimal("0.83")
        assert chat.lastActivity == BORN + timedelta(seconds=4)
        assert chat.expiresAt is None
        assert chats[QUIET].modelId is None  # type: ignore[index]  # the same
        (rebuilt,) = [chat for chat in chats.values() if chat.sessionId == LOST_NAME]
        assert rebuilt.title.startswith("user 0 $in chat_")
        assert rebuilt.messageCount == 2

        messages = await ChatMessage.find(ChatMessage.sessionId == CHAT).sort("createdAt").to_list()
        assert [message.messageId for message in messages] == ["msg_0", "msg_1", "msg_2", "msg_3"]
        assert messages[1].modelId == "openai/gpt-4o"
        assert messages[1].usage is None  # the original wrote 0 because it did not know
        assert messages[1].cost is None
        assert await ChatMessage.find(ChatMessage.sessionId == rebuilt.id).count() == 2


async def test_a_chat_that_is_being_deleted_becomes_none_again(mongodb_uri: str) -> None:
    """What is left of it stays what it is, for the next start to finish."""
    async with store(mongodb_uri) as ours:
        await write_original(ours, "openai/gpt-4o", far=datetime.now(UTC) + SOON)
        left = {"_id": ObjectId(), "sessionId": "chat_9", "deletedOf": ASHA}
        await ours["chatsessions"].insert_one(left)
        await migrated(ours)
        assert await ours["chatsessions"].find_one({"_id": left["_id"]}) == left


async def test_nothing_deletes_or_refuses_any_more(mongodb_uri: str) -> None:
    """The indexes that delete, and the unique ones that contradict ours, are gone; what is not ours is untouched."""
    async with store(mongodb_uri) as ours:
        await write_original(ours, "openai/gpt-4o", far=datetime.now(UTC) + SOON)
        lines = await migrated(ours)
        await database.prepare(ours, DOCUMENTS)
        indexes = {name: (await everything(ours))[name][1] for name in ("users", "chatsessions", "aimodels")}
        for name, index in ((name, index) for found in indexes.values() for name, index in found.items()):
            assert "expireAfterSeconds" not in index, name
        assert "modelId_1" not in indexes["aimodels"]
        assert [name for name, index in indexes["users"].items() if index.get("unique")] == ["email"]
        assert "messageId_1" not in await ours["chatmessages"].index_information()
        assert "name_1" in await ours["plans"].index_information()
        assert await ours["aimodels"].count_documents({}) == 0
        assert await ours["aimodels_original"].count_documents({"modelId": "openai/gpt-4o"}) == 1
        text = "\n".join(lines)
        for said in ("chatsessions.expiresAt_1", "aimodels.cacheExpiry_1", "rebuilt 1", "bought tokens"):
            assert said in text


async def test_a_second_run_changes_nothing(mongodb_uri: str) -> None:
    """What is done is not done again, and the second run says so."""
    async with store(mongodb_uri) as ours:
        await write_original(ours, "openai/gpt-4o", far=datetime.now(UTC) + SOON)
        assert await migrated(ours)
        await database.prepare(ours, DOCUMENTS)
        before = await everything(ours)
        assert await migrated(ours) == []
        assert await everything(ours) == before


async def test_it_can_be_interrupted_anywhere(mongodb_uri: str) -> None:
    """Stopped after any number of steps and run again, it ends where an uninterrupted run does; none starts between."""
    async with store(mongodb_uri) as ours:
        for steps in (1, 4, 7):
            await ours.client.drop_database(ours.name)
            await write_original(ours, "openai/gpt-4o", far=datetime.now(UTC) + SOON)
            run = migration.migrate(ours, DOCUMENTS, usd_inr_rate=Decimal(83))
            for _ in range(steps):
                await anext(run)
            await run.aclose()  # type: ignore[attr-defined]  # it is a generator
            with pytest.raises(DatabaseError, match="python -m proxy migrate"):
                await database.prepare(ours, DOCUMENTS)
            await migrated(ours)
            await database.prepare(ours, DOCUMENTS)
            assert await ours["chatmessages"].count_documents({"sessionId": {"$type": "objectId"}}) == 6
            assert await ours["chatsessions"].count_documents({"lastActivity": {"$type": "date"}}) == 3
            assert await ours["users"].count_documents({"usageLimits": {"$type": "object"}}) == 3


async def test_more_than_one_batch(mongodb_uri: str) -> None:
    """A database of several batches is converted whole, orphans and nameless chats included."""
    async with store(mongodb_uri) as ours:
        turns = migration.BATCH
        await write_original(ours, "openai/gpt-4o", far=datetime.now(UTC) + SOON, turns=turns)
        stray = [
            {
                "_id": ObjectId(),
                "sessionId": f"chat_{number}",
                "userId": ASHA,
                "messageId": f"stray_{number}",
                "role": "user",
                "content": f"stray {number}",
                "createdAt": BORN,
            }
            for number in range(migration.BATCH + 1)
        ]
        nobody = {"sessionId": "chat_x", "messageId": "nobody", "role": "user", "content": "x"}
        by_id = {**nobody, "_id": ObjectId(), "sessionId": str(QUIET), "userId": ASHA, "messageId": "by id"}
        await ours["chatmessages"].insert_many([*stray, nobody, by_id])
        await migrated(ours)
        assert await ours["chatmessages"].count_documents({"sessionId": CHAT}) == 2 * turns
        assert await ours["chatmessages"].count_documents({"sessionId": QUIET}) == 1
        assert await ours["chatmessages"].count_documents({"sessionId": {"$type": "string"}}) == 1
        assert await ours["chatsessions"].count_documents({"title": {"$regex": "^stray"}}) == len(stray)
        assert await migrated(ours) == []


async def test_two_users_with_one_address_stop_it(mongodb_uri: str) -> None:
    """Before anything is changed, an e-mail that two users have is named."""
    async with store(mongodb_uri) as ours:
        await ours["users"].insert_many([{"email": "a@example.com"}, {"email": "A@Example.com"}])
        before = await everything(ours)
        with pytest.raises(DatabaseError, match=r"a@example\.com"):
            await migrated(ours)
        assert await everything(ours) == before


@pytest.mark.long
async def test_the_command_says_what_it_did(mongodb_uri: str, project: Path, tmp_path: Path) -> None:
    """`serve` refuses an original database in one line; `migrate`, even after kill -9, makes it ours, once."""
    async with store(mongodb_uri) as ours:
        await write_original(ours, "openai/gpt-4o", far=datetime.now(UTC) + SOON, turns=2_000)
        before = await everything(ours)
        serve = await command(project, mongodb_uri, tmp_path, "serve")
        output, errors = await asyncio.wait_for(serve.communicate(), 30)
        assert serve.returncode == 1
        assert "python -m proxy migrate" in errors.decode()
        assert "Traceback" not in errors.decode()
        assert await everything(ours) == before

        killed = await command(project, mongodb_uri, tmp_path, "migrate")
        assert killed.stdout is not None
        await asyncio.wait_for(killed.stdout.readline(), 30)
        killed.send_signal(signal.SIGKILL)
        await killed.communicate()

        migrate = await command(project, mongodb_uri, tmp_path, "migrate")
        output, errors = await asyncio.wait_for(migrate.communicate(), 60)
        assert (migrate.returncode, errors) == (0, b"")
        assert output.decode().splitlines()[-1] == "the database is ours"
        assert await ours["chatmessages"].count_documents({"sessionId": {"$type": "objectId"}}) == 4_002
        again = await command(project, mongodb_uri, tmp_path, "migrate")
        output, _ = await asyncio.wait_for(again.communicate(), 60)
        assert output.decode() == "nothing to do: the database is ours already\n"


async def test_its_users_go_on_as_before(mongodb_uri: str) -> None:
    """After it, users sign in with their passwords; their chats are listed, opened and continued."""
    async with store(mongodb_uri) as ours:
        await write_original(ours, FREE, far=datetime.now(UTC) + SOON)
        await migrated(ours)
    async with playground(mongodb_uri) as place:
        http = place.gateway.http
        credentials = {"email": "Asha@Example.com", "password": PASSWORD}
        signed_in = await http.post("/api/auth/login", json=credentials)
        assert signed_in.status_code == 200
        assert signed_in.json()["data"]["user"]["usageLimits"]["dailyRequests"] == 50
        headers = {"authorization": f"Bearer {signed_in.json()['token']}"}
        (stored,) = await place.documents("users", _id=ASHA)
        assert stored["password"].startswith("$argon2id$")
        wrong = await http.post("/api/auth/login", json={**credentials, "password": "Wrong1horse!"})
        google = await http.post("/api/auth/login", json={"email": "gopal@example.com", "password": "x"})
        assert (wrong.status_code, google.status_code) == (401, 401)

        listed = (await http.get("/api/chat/sessions", headers=headers)).json()["data"]["sessions"]
        assert {session["_id"] for session in listed} >= {str(CHAT), str(QUIET)}
        assert len(listed) == 3
        for name in (str(CHAT), CHAT_NAME):
            opened = await http.get(f"/api/chat/sessions/{name}", headers=headers)
            assert [message["role"] for message in opened.json()["data"]["messages"]] == [
                "user",
                "assistant",
            ] * 2
        body = {"message": "and now?", "modelId": FREE, "sessionId": str(CHAT)}
        answer = await http.post("/api/chat", headers=headers, json=body)
        assert answer.status_code == 200
        assert "assistant 3" in str(place.openrouter.books[-1])
        opened = await http.get(f"/api/chat/sessions/{CHAT}", headers=headers)
        assert len(opened.json()["data"]["messages"]) == 6
        deleted = await http.delete(f"/api/chat/sessions/{QUIET}", headers=headers)
        assert deleted.status_code == 204
