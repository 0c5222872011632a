"""Tests of admin_api/users/export.py."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal

import pymongo

from proxy.clock import utc_now
from proxy.core.routing import Role
from tests.admin_api.accounts import signed_in
from tests.admin_api.playground import playground
from tests.admin_api.users.test_statistics import PAID, settled


async def test_an_export_is_complete_and_ones_own(mongodb_uri: str) -> None:
    """It has the user, every conversation, message, key and usage event of his, nobody else's, and no secret."""
    async with playground(mongodb_uri) as place:
        account = await signed_in(place.gateway, Role.PREMIUM)
        other = await signed_in(place.gateway, Role.PREMIUM)
        for person, word in ((account, "mine"), (other, "theirs")):
            for number in range(3):
                body = {"message": f"{word} {number}", "modelId": PAID}
                assert (await person.send("POST", "/api/chat", body)).status_code == 200
            await person.send("POST", "/api/user/api-keys", {"name": f"{word} key"})
        made = (await account.send("POST", "/api/user/api-keys", {"name": "laptop"})).json()["data"]["apiKey"]
        await settled(place, 6)

        response = await account.send("GET", "/api/user/export")
        assert response.status_code == 200
        assert response.headers["content-disposition"] == 'attachment; filename="aipasta-export.json"'
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["transfer-encoding"] == "chunked"
        body = response.json()
        assert body["status"] == "success"
        exported = body["data"]
        assert datetime.fromisoformat(exported["exportedAt"]) <= utc_now()
        assert exported["user"]["email"] == account.user.email
        assert len(exported["sessions"]) == 3
        contents = [message["content"] for message in exported["messages"]]
        assert [content for content in contents if content.startswith("mine")] == [
            "mine 0",
            "mine 1",
            "mine 2",
        ]
        assert len(contents) == 6
        assert {key["name"] for key in exported["apiKeys"]} == {"mine key", "laptop"}
        stored = [event for event in await place.gateway.events() if event["userId"] == str(account.id)]
        assert [event["_id"] for event in exported["usageEvents"]] == [event["_id"] for event in stored]
        costs = [Decimal(event["costUsd"]) for event in exported["usageEvents"]]
        assert costs == [event["costUsd"].to_decimal() for event in stored]

        assert len(exported["signIns"]) == 1

        user = await account.stored()
        sessions = await place.gateway.parts.database["sessions"].find().to_list()
        keys = await place.gateway.parts.database["apikeys"].find().to_list()
        assert user is not None
        secrets = [made, account.token, user["password"], *(key["digest"] for key in keys)]
        secrets += [session["_id"] for session in sessions]
        for secret in (*secrets, "theirs", other.user.email, "passwordReset", "digest"):
            assert secret not in response.text


async def test_a_large_export_is_streamed(mongodb_uri: str) -> None:
    """Thousands of messages arrive in many pieces, in their order, without one missing."""
    async with playground(mongodb_uri) as place:
        account = await signed_in(place.gateway)
        messages = [
            {"userId": account.id, "sessionId": "s", "role": "user", "content": f"{number} " + "x" * 500}
            for number in range(3000)
        ]
        with pymongo.timeout(30):  # a request's own time is not meant for so much
            await place.gateway.parts.database["chatmessages"].insert_many(messages)
        headers = {"authorization": f"Bearer {account.token}"}
        async with place.gateway.http.stream("GET", "/api/user/export", headers=headers) as response:
            pieces = [piece async for piece in response.aiter_raw()]
        exported = json.loads(b"".join(pieces))["data"]["messages"]
        assert [message["content"].split()[0] for message in exported] == [
            str(number) for number in range(3000)
        ]
        assert len(pieces) > 10


async def test_an_empty_export(mongodb_uri: str) -> None:
    """A new user exports himself, his sign-in and four empty lists."""
    async with playground(mongodb_uri) as place:
        account = await signed_in(place.gateway)
        exported = (await account.send("GET", "/api/user/export")).json()["data"]
        names = ("sessions", "messages", "apiKeys", "usageEvents")
        assert [exported[name] for name in names] == [[], [], [], []]
        assert len(exported["signIns"]) == 1
