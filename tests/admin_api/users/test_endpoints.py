"""Tests of admin_api/users/endpoints.py: profile and favourites on their main path and on every refusal; acts on record."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from proxy.core.routing import Role
from tests.admin_api.accounts import message_of, signed_in
from tests.admin_api.playground import playground
from tests.gateway import running_gateway

NOBODYS_ID = "0123456789abcdef01234567"


async def test_profile(mongodb_uri: str) -> None:
    """What is named changes, the rest stays, and the answer is the user as /me shows him."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        before = (await account.send("GET", "/api/user/profile")).json()["data"]["user"]
        assert before["preferences"]["theme"] == "auto"
        steps: list[tuple[dict[str, Any], dict[str, Any]]] = [
            ({"name": "  Åsa 山田 "}, {"name": "Åsa 山田"}),
            ({"bio": "x" * 500}, {"bio": "x" * 500}),
            ({"bio": ""}, {"bio": ""}),
            ({"preferences": {"theme": "dark"}}, {}),
            ({"preferences": {"language": "pt-BR"}}, {}),
            ({"preferences": {"notifications": {"push": True}}}, {}),
            ({"preferences": {"notifications": {"email": False, "marketing": True}}}, {}),
        ]
        for body, expected in steps:
            response = await account.send("PATCH", "/api/user/profile", body)
            assert response.status_code == 200, response.text
            assert response.json()["message"] == "Profile updated successfully"
            assert response.json()["data"]["user"].items() >= expected.items()
        after = (await account.send("GET", "/api/auth/me")).json()["data"]["user"]
        assert after["preferences"] == {
            "theme": "dark",
            "language": "pt-BR",
            "favoriteModels": [],
            "notifications": {"email": False, "push": True, "marketing": True},
        }
        assert after["updatedAt"] > before["updatedAt"]
        assert {**after, "name": 0, "bio": 0, "preferences": 0, "updatedAt": 0} == {
            **before,
            "name": 0,
            "bio": 0,
            "preferences": 0,
            "updatedAt": 0,
        }


NO_CHANGES: list[Any] = [
    {},
    [],
    {"name": "A"},
    {"name": None},
    {"name": 5},
    {"name": {"$set": "x"}},
    {"bio": "x" * 501},
    {"bio": ["x"]},
    {"preferences": {}},
    {"preferences": {"theme": "pink"}},
    {"preferences": {"theme": None}},
    {"preferences": {"language": "x"}},
    {"preferences": {"language": "english"}},
    {"preferences": {"language": "$x"}},
    {"preferences": {"notifications": {"push": "yes"}}},
    {"preferences": {"notifications": {"sms": True}}},
    {"preferences": {"notifications": []}},
    {"preferences": {"favoriteModels": ["x"]}},
    {"preferences.theme": "dark"},
    {"$set": {"role": "admin"}},
    *(
        {field: value}
        for field, value in {
            "role": "admin",
            "isActive": True,
            "email": "x@example.com",
            "password": "a long secret",
            "usageLimits": {"dailyRequests": 9},
            "stats": {"loginCount": 0},
            "apiKeys": [],
            "_id": NOBODYS_ID,
            "credits": 1000,
            "deletionRequestedAt": None,
            "passwordReset": {"digest": "x"},
        }.items()
    ),
]


async def test_a_profile_takes_nothing_else(mongodb_uri: str) -> None:
    """Wrong values, unknown fields and everything that is not a user's to change is a 400 and changes nothing."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        before = await account.stored()
        for body in NO_CHANGES:
            response = await account.send("PATCH", "/api/user/profile", body)
            assert message_of(response, 400, "VALIDATION_ERROR").startswith("Validation failed: "), body
        assert await account.stored() == before


async def test_favorites(mongodb_uri: str) -> None:
    """A model is toggled under any spelling of its id, listed in full, and kept to ten; unknown models are 404."""
    async with playground(mongodb_uri) as place:
        account = await signed_in(place.gateway)
        shown = (await account.send("GET", "/api/models")).json()["data"]["models"]
        ids = [
            model["id"]
            for model in shown
            if "/" in model["id"] and not model["id"].startswith("huggingface/")
        ]
        first, second = ids[0], ids[1]
        added = await account.send("POST", f"/api/user/favorites/{first.replace('/', '%2F')}")
        assert added.json() == {
            "status": "success",
            "message": "Model added to favorites",
            "data": {"favoriteModels": [first], "isFavorite": True},
        }
        await account.send("POST", f"/api/user/favorites/{second}")
        listed = (await account.send("GET", "/api/user/favorites")).json()["data"]["favoriteModels"]
        assert [model["modelId"] for model in listed] == [first, second]
        assert listed[0].keys() >= {
            "modelId",
            "name",
            "provider",
            "description",
            "category",
            "pricing",
            "capabilities",
        }
        assert listed[0]["isFavorite"] is True
        removed = await account.send("POST", f"/api/user/favorites/{first}")
        assert removed.json()["message"] == "Model removed from favorites"
        assert removed.json()["data"]["favoriteModels"] == [second]
        me = (await account.send("GET", "/api/auth/me")).json()["data"]["user"]
        assert me["preferences"]["favoriteModels"] == [second]

        for unknown in ("no/such-model", "%24ne", "x" * 1000, "%00", "..%2F.."):
            refused = await account.send("POST", f"/api/user/favorites/{unknown}")
            assert message_of(refused, 404, "NOT_FOUND")
        await account.user.update({"$push": {"preferences.favoriteModels": "gone/model"}})
        gone = await account.send("POST", "/api/user/favorites/gone/model")
        assert gone.json()["data"]["favoriteModels"] == [second]

        for _ in range(5):
            path = f"/api/user/favorites/{first}"
            clicks = await asyncio.gather(account.send("POST", path), account.send("POST", path))
            assert [click.status_code for click in clicks] == [200, 200]
            assert {click.json()["data"]["isFavorite"] for click in clicks} == {True, False}

        others = ids[2:22]
        answers = await asyncio.gather(
            *(account.send("POST", f"/api/user/favorites/{name}") for name in others)
        )
        assert Counter(answer.status_code for answer in answers) == {200: 9, 400: 11}
        refused = next(answer for answer in answers if answer.status_code == 400)
        assert message_of(refused, 400) == "Maximum 10 favorite models allowed"
        other = await signed_in(place.gateway)
        assert (await other.send("GET", "/api/user/favorites")).json()["data"]["favoriteModels"] == []


async def test_sensitive_acts_are_on_record(mongodb_uri: str) -> None:
    """Who made, revoked or deleted what, and who signed in, can be read in the audit log."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway, Role.USER)
        made = await account.send("POST", "/api/user/api-keys", {"name": "x"})
        key_id = made.json()["data"]["keyInfo"]["id"]
        await account.send("DELETE", f"/api/user/api-keys/{key_id}")
        wrong = {"email": account.user.email, "password": "wrong password"}
        await gateway.http.post("/api/auth/login", json=wrong)
        records = await gateway.parts.database["auditlog"].find().sort("_id").to_list()
        assert [record["action"] for record in records] == [
            "user.key_created",
            "user.key_revoked",
            "auth.login_failed",
        ]
        assert {record["target"] for record in records[:2]} == {key_id}
        assert "wrong password" not in str(records)
