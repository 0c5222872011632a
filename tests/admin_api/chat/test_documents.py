"""Tests of admin_api/chat/documents.py: chats of the original service, as they are, before any migration."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId

from tests.admin_api.playground import FREE, Person, playground

BORN = datetime(2025, 9, 1, 8, 30, tzinfo=UTC)
NAME = "chat_1757000000000_k3j5h2lqa"


def original_session(owner: Any, **fields: Any) -> dict[str, Any]:
    return {
        "_id": ObjectId(),
        "sessionId": NAME,
        "userId": owner,
        "title": "An old chat",
        "isActive": True,
        "messageCount": 2,
        "totalTokens": 3000,
        "totalCost": 0.0225,
        "models": [{"id": FREE, "name": "Llama", "provider": "OpenRouter", "usageCount": 1}],
        "metadata": {"userAgent": "Mozilla/5.0"},
        "lastMessageAt": BORN,
        "expiresAt": BORN + timedelta(days=30),
        "createdAt": BORN,
        "updatedAt": BORN,
        "__v": 0,
        **fields,
    }


def original_message(owner: Any, number: int, role: str, **fields: Any) -> dict[str, Any]:
    return {
        "_id": ObjectId(),
        "sessionId": NAME,
        "userId": owner,
        "messageId": f"msg_1757000000000_{number}",
        "role": role,
        "content": f"old {role}",
        "model": {"id": FREE, "name": "Llama", "provider": "OpenRouter"},
        "attachments": [],
        "usage": {"inputTokens": 1000, "outputTokens": 2000, "totalTokens": 3000},
        "cost": {"inputCost": 0, "outputCost": 0, "imageCost": 0, "totalCost": 0, "currency": "USD"},
        "responseTime": 0,
        "status": "completed",
        "createdAt": BORN + timedelta(seconds=number),
        "updatedAt": BORN,
        **fields,
    }


async def shown(person: Person, session: str) -> dict[str, Any]:
    answer = await person.get(f"/api/chat/sessions/{session}")
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


async def test_old_chats_are_read_and_continued(mongodb_uri: str) -> None:
    """A chat of the original is listed, opened by either id, continued, changed and deleted, with its totals kept."""
    async with playground(mongodb_uri) as play:
        person, database = await play.person(), play.gateway.parts.database
        owner = person.user.id
        session = original_session(owner)
        messages = [original_message(owner, 0, "user"), original_message(owner, 1, "assistant")]
        await database["chatsessions"].insert_one(session)
        await database["chatmessages"].insert_many(messages)
        await database["chatmessages"].create_index("messageId", unique=True)
        (listed,) = (await person.get("/api/chat/sessions")).json()["data"]["sessions"]
        assert (listed["_id"], listed["title"], listed["modelId"]) == (
            str(session["_id"]),
            "An old chat",
            FREE,
        )
        assert (listed["totalTokensUsed"], listed["totalCost"]["usd"]) == (3000, 0.0225)
        assert listed["lastMessageAt"] == "2025-09-01T08:30:00Z"
        for name in (NAME, str(session["_id"])):
            data = await shown(person, name)
            assert [message["content"] for message in data["messages"][:2]] == ["old user", "old assistant"]
            assert data["messages"][1]["usage"]["promptTokens"] == 1000
            assert data["messages"][1]["cost"]["usd"] == 0
            assert data["messages"][1]["model"]["name"] == "Llama"
            assert (await person.say("go on", FREE, sessionId=name)).status_code == 200
        assert [m["content"] for m in play.openrouter.books[0].body["messages"]] == [
            "old user",
            "old assistant",
            "go on",
        ]
        data = await shown(person, NAME)
        tokens = sum(entry.total_tokens for entry in play.openrouter.books)
        assert data["session"]["messageCount"] == len(data["messages"]) == 6
        assert data["session"]["totalTokensUsed"] == 3000 + tokens
        assert data["session"]["totalCost"]["usd"] == 0.0225
        changed = await person.patch(f"/api/chat/sessions/{NAME}", {"settings": {"topP": 1}})
        assert changed.json()["data"]["session"]["settings"]["topP"] == 1
        assert (await person.delete(f"/api/chat/messages/{messages[0]['_id']}")).status_code == 204
        assert (await person.delete(f"/api/chat/messages/{messages[1]['messageId']}")).status_code == 204
        assert (await shown(person, NAME))["session"]["messageCount"] == 4
        assert (await person.delete(f"/api/chat/sessions/{NAME}")).status_code == 204
        assert await play.documents("chatmessages") == []


async def test_what_is_missing_or_odd_does_not_fail(mongodb_uri: str) -> None:
    """A chat with little in it, or with nulls where something is expected, is shown all the same."""
    async with playground(mongodb_uri) as play:
        person, database = await play.person(), play.gateway.parts.database
        owner = person.user.id
        bare = {"_id": ObjectId(), "sessionId": NAME, "userId": owner}
        odd = original_session(
            owner, sessionId="chat_2", title=None, models=[], totalCost=None, metadata=None, messageCount=2.0
        )
        await database["chatsessions"].insert_many([bare, odd])
        await database["chatmessages"].insert_many(
            [
                {"_id": ObjectId(), "sessionId": NAME, "userId": owner, "role": "user", "content": "bare"},
                original_message(
                    owner,
                    1,
                    "assistant",
                    sessionId="chat_2",
                    usage=None,
                    cost=None,
                    model=None,
                    attachments=[{"type": "document", "originalName": "a.pdf", "size": 3, "url": "/a.pdf"}],
                ),
            ]
        )
        titles = [
            each["title"] for each in (await person.get("/api/chat/sessions")).json()["data"]["sessions"]
        ]
        assert titles == ["New Chat", "New Chat"]
        assert (await shown(person, NAME))["messages"][0]["content"] == "bare"
        (message,) = (await shown(person, "chat_2"))["messages"]
        assert message["attachments"][0]["name"] == "a.pdf"
        assert (message["usage"], message["cost"]) == (None, None)
        for name in (NAME, "chat_2"):
            assert (await person.say("on", FREE, sessionId=name)).status_code == 200
        assert (await shown(person, NAME))["session"]["messageCount"] == 2
