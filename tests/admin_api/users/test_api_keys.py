"""Tests of the API keys in admin_api/users/endpoints.py: made, listed, changed and revoked, and never one too many."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from proxy.clock import utc_now
from proxy.core.routing import Role
from proxy.documents import ApiKeyDocument
from tests.admin_api.accounts import Account, message_of, signed_in
from tests.admin_api.playground import FREE, playground
from tests.admin_api.users.test_endpoints import NOBODYS_ID
from tests.gateway import running_gateway


async def test_api_keys(mongodb_uri: str) -> None:
    """A key is shown once, works at /v1, is listed without its secret, and is refused soon after it is revoked."""
    async with playground(mongodb_uri) as place:
        gateway = place.gateway
        account = await signed_in(gateway)
        wish = {"name": " laptop ", "permissions": ["models"], "expiresIn": "90d", "allowedModels": [FREE]}
        made = await account.send("POST", "/api/user/api-keys", wish)
        assert made.status_code == 201
        assert made.json()["message"] == "API key generated successfully"
        secret, info = made.json()["data"]["apiKey"], made.json()["data"]["keyInfo"]
        assert secret.startswith("aipasta_")
        assert info["name"] == "laptop"
        assert info["permissions"] == ["models"]
        expires = datetime.fromisoformat(info["expiresAt"])
        assert abs(expires - utc_now() - timedelta(days=90)) < timedelta(minutes=1)
        usable = {"authorization": f"Bearer {secret}"}
        assert (await gateway.http.get("/v1/models", headers=usable)).status_code == 200

        listed = await account.send("GET", "/api/user/api-keys")
        (key,) = listed.json()["data"]["apiKeys"]
        assert listed.json()["results"] == 1
        assert key.keys() >= {"id", "name", "permissions", "expiresAt", "lastUsed", "isActive", "createdAt"}
        assert key["lastFour"] == secret[-4:]
        stored = await gateway.parts.database["apikeys"].find_one({})
        for text in (listed.text, str(stored)):
            assert secret not in text
            assert secret[8:-4] not in text
        assert "digest" not in listed.text

        other = await signed_in(gateway)
        for stranger, key_id in (
            (other, key["id"]),
            (account, NOBODYS_ID),
            (account, "x"),
            (account, "%24ne"),
        ):
            refused = await stranger.send("DELETE", f"/api/user/api-keys/{key_id}")
            assert message_of(refused, 404, "NOT_FOUND") == "API key not found"
        assert (await other.send("GET", "/api/user/api-keys")).json()["data"]["apiKeys"] == []
        revoked = await account.send("DELETE", f"/api/user/api-keys/{key['id']}")
        assert revoked.json() == {"status": "success", "message": "API key revoked successfully"}
        await asyncio.sleep(1.1)
        assert (await gateway.http.get("/v1/models", headers=usable)).status_code == 401
        (key,) = (await account.send("GET", "/api/user/api-keys")).json()["data"]["apiKeys"]
        assert key["isActive"] is False


async def test_no_number_of_old_keys_hides_one_that_works(mongodb_uri: str) -> None:
    """Keys that work are listed first, however many newer ones were revoked or expired, and another user's likewise."""
    async with running_gateway(mongodb_uri) as gateway:
        admin, busy, other = [await signed_in(gateway, role) for role in (Role.ADMIN, Role.USER, Role.USER)]
        for name in ("first", "second"):
            await busy.send("POST", "/api/user/api-keys", {"name": name, "dailyBudget": 2.5})
        await other.send("POST", "/api/user/api-keys", {"name": "other's"})
        keys, later = gateway.parts.database["apikeys"], utc_now() + timedelta(hours=1)
        past = {"userId": busy.id, "lastFour": "1234", "createdAt": later, "expiresAt": utc_now()}
        await keys.insert_many(
            {**past, "name": f"past {number}", "digest": f"{number}", "isActive": number % 2 == 0}
            for number in range(400)
        )
        listed = (await busy.send("GET", "/api/user/api-keys")).json()
        assert listed["results"] == 100
        assert [key["name"] for key in listed["data"]["apiKeys"]][:2] == ["second", "first"]
        assert listed["data"]["apiKeys"][0]["dailyBudget"] == 2.5
        me = (await busy.send("GET", "/api/auth/me")).json()["data"]["user"]
        assert me["apiKeys"] == listed["data"]["apiKeys"]
        users = (await admin.send("GET", "/api/admin/users")).json()["data"]["users"]
        shown = {user["id"]: [key["name"] for key in user["apiKeys"]] for user in users}
        assert shown[str(busy.id)][:2] == ["second", "first"]
        assert shown[str(other.id)] == ["other's"]
        assert shown[str(admin.id)] == []


NO_KEYS: list[Any] = [
    {},
    {"name": ""},
    {"name": "x" * 101},
    {"name": 1},
    {"name": {"$gt": ""}},
    {"name": "x", "permissions": []},
    {"name": "x", "permissions": ["admin"]},
    {"name": "x", "permissions": "chat"},
    {"name": "x", "expiresIn": "2d"},
    {"name": "x", "expiresIn": 30},
    {"name": "x", "expiresIn": None},
    {"name": "x", "allowedModels": "a/b"},
    {"name": "x", "allowedModels": [{"$ne": 1}]},
    {"name": "x", "allowedIps": []},
    {"name": "x", "allowedIps": "203.0.113.7"},
    {"name": "x", "allowedIps": [""]},
    {"name": "x", "allowedIps": [7]},
    {"name": "x", "allowedIps": [{"$ne": 1}]},
    {"name": "x", "allowedIps": ["203.0.113.7", "example.com"]},
    {"name": "x", "allowedIps": ["203.0.113.7/24"]},
    {"name": "x", "allowedIps": [f"203.0.113.{number}" for number in range(51)]},
    {"name": "x", "onDisconnect": "never"},
    {"name": "x", "digest": "x"},
    {"name": "x", "userId": NOBODYS_ID},
    {"name": "x", "slot": 0},
]


async def test_a_key_is_only_what_can_be_asked_for(mongodb_uri: str) -> None:
    """Every other wish is a 400 and makes no key."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        for body in NO_KEYS:
            refused = await account.send("POST", "/api/user/api-keys", body)
            assert message_of(refused, 400, "VALIDATION_ERROR"), body
        assert await ApiKeyDocument.count() == 0


async def test_a_budget_is_whole_pico_dollars(mongodb_uri: str) -> None:
    """What the books cannot count, or nobody spends, is a 400 that says why; what they can is kept to the last digit."""
    budgets = ("dailyBudget", "weeklyBudget", "monthlyBudget", "totalBudget")
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        for budget in budgets:
            for amount, reason in (
                ("1e-7000", "no more than 12 decimal places"),
                ("1e-44", "no more than 12 decimal places"),
                (1e-13, "no more than 12 decimal places"),
                (f"0.{'1' * 35}", "no more than 12 decimal places"),
                (f"100000.{'0' * 40}1", "no more than 12 decimal places"),
                (0, "greater than 0"),
                ("-1e-12", "greater than 0"),
                ("1000000.000000000001", "less than or equal to 1000000"),
                ("9" * 400, "less than or equal to 1000000"),
                ("NaN", "finite number"),
                ("much", "must be a number of US dollars"),
                (True, "must be a number of US dollars"),
            ):
                refused = await account.send("POST", "/api/user/api-keys", {"name": "x", budget: amount})
                assert message_of(refused, 400, "VALIDATION_ERROR").startswith(
                    f"Validation failed: {budget}: "
                )
                assert reason in message_of(refused, 400)
        assert await ApiKeyDocument.count() == 0
        amounts = ("1e-12", "999999.999999999999", f"0.1{'0' * 60}", 0.1)
        wish = {"name": "x", **dict(zip(budgets, amounts, strict=True))}
        assert (await account.send("POST", "/api/user/api-keys", wish)).status_code == 201
        (stored,) = await gateway.parts.database["apikeys"].find().to_list()
        for budget, wanted in zip(budgets, amounts, strict=True):
            assert stored[budget].to_decimal() == Decimal(str(wanted))


NO_KEY_CHANGES: list[Any] = [
    {},
    {"name": None},
    {"name": ""},
    {"allowedIps": []},
    {"allowedIps": ["here"]},
    {"permissions": ["chat"]},
    {"dailyBudget": 5},
    {"isActive": True},
    {"expiresAt": None},
]


async def test_a_key_is_changed(mongodb_uri: str) -> None:
    """Its name and its addresses, in their shortest form and each once; what is left out stays, and all is on record."""
    async with running_gateway(mongodb_uri) as gateway:
        account, other = await signed_in(gateway), await signed_in(gateway)
        wish = {"name": "k", "allowedIps": ["::ffff:203.0.113.7", "203.0.113.7", "2001:DB8::/32"]}
        await account.send("POST", "/api/user/api-keys", wish)
        (info,) = (await account.send("GET", "/api/user/api-keys")).json()["data"]["apiKeys"]
        assert info["allowedIps"] == ["203.0.113.7", "2001:db8::/32"]
        path = f"/api/user/api-keys/{info['id']}"
        steps: list[tuple[dict[str, Any], dict[str, Any]]] = [
            ({"name": " laptop "}, {"name": "laptop"}),
            ({"allowedIps": ["192.0.2.0/24"]}, {"allowedIps": ["192.0.2.0/24"]}),
            ({"name": "phone", "allowedIps": None}, {"name": "phone", "allowedIps": None}),
        ]
        for body, expected in steps:
            changed = await account.send("PATCH", path, body)
            assert changed.status_code == 200, changed.text
            assert changed.json()["message"] == "API key updated successfully"
            info |= expected
            assert changed.json()["data"]["keyInfo"] == info
            assert (await account.send("GET", "/api/user/api-keys")).json()["data"]["apiKeys"] == [info]
        for no_change in NO_KEY_CHANGES:
            refused = await account.send("PATCH", path, no_change)
            assert message_of(refused, 400, "VALIDATION_ERROR"), no_change
        assert message_of(await other.send("PATCH", path, {"name": "mine"}), 404) == "API key not found"
        await account.send("DELETE", path)
        assert message_of(await account.send("PATCH", path, {"name": "late"}), 404) == "API key not found"
        records = (
            await gateway.parts.database["auditlog"]
            .find({"action": "user.key_changed"})
            .sort("_id")
            .to_list()
        )
        assert [record["details"]["changes"] for record in records] == [
            {"name": "laptop"},
            {"allowedIps": ["192.0.2.0/24"]},
            {"name": "phone", "allowedIps": None},
        ]
        assert {record["target"] for record in records} == {info["id"]}


async def test_never_one_key_too_many(mongodb_uri: str) -> None:
    """Twenty at once over two workers give exactly the five allowed; revoked and expired keys make room."""
    now = utc_now()

    def clock() -> datetime:
        return now

    async with (
        running_gateway(mongodb_uri, clock=clock) as one,
        running_gateway(mongodb_uri, clock=clock) as two,
    ):
        account = await signed_in(one)
        elsewhere = Account(two, account.user, account.token)
        wish = {"name": "x", "expiresIn": "30d"}
        answers = await asyncio.gather(
            *(person.send("POST", "/api/user/api-keys", wish) for person in (account, elsewhere) * 10)
        )
        assert Counter(answer.status_code for answer in answers) == {201: 5, 400: 15}
        refused = next(answer for answer in answers if answer.status_code == 400)
        assert message_of(refused, 400) == "Maximum 5 active API keys allowed"
        assert await ApiKeyDocument.count() == 5
        keys = [answer.json()["data"]["keyInfo"]["id"] for answer in answers if answer.status_code == 201]
        for _ in range(2):
            assert (await account.send("DELETE", f"/api/user/api-keys/{keys[2]}")).status_code == 200
        again = await asyncio.gather(*(account.send("POST", "/api/user/api-keys", wish) for _ in range(3)))
        assert sorted(answer.status_code for answer in again) == [201, 400, 400]
        other = await signed_in(one)
        assert (await other.send("POST", "/api/user/api-keys", wish)).status_code == 201
        now += timedelta(days=31)
        account = await signed_in(one)
        late = Account(one, other.user, account.token)
        assert (await late.send("POST", "/api/user/api-keys", wish)).status_code == 201
