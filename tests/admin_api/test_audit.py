"""Tests of admin_api/audit.py."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from sanic import Request
from sanic.compat import Header

from admin_api import audit
from admin_api.auth.service import ensure_admin
from admin_api.openapi.document import OPERATIONS
from admin_api.operator import OPERATOR
from tests.admin_api.accounts import NEW_PASSWORD, Account, signed_in
from tests.admin_api.auth.test_sessions import Clock
from tests.gateway import PASSWORD, RunningGateway, running_gateway

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def request_of(gateway: RunningGateway) -> Request:
    request = Request(b"/", Header({}), "1.1", "POST", None, gateway.app)  # type: ignore[arg-type]  # no socket
    request.ctx.id, request.ctx.client = "req_1", "203.0.113.9"
    return request


async def recorded(gateway: RunningGateway, **values: Any) -> dict[str, Any]:
    await audit.record(request_of(gateway), "test.done", actor_id="someone", **values)
    (document,) = await gateway.parts.database["auditlog"].find().sort("_id", -1).limit(1).to_list()
    return document


async def test_a_record_says_who_did_what_and_when(mongodb_uri: str) -> None:
    """A record holds the moment, the act, the actor, its target, its details and the request's id."""
    async with running_gateway(mongodb_uri, clock=lambda: NOON) as gateway:
        document = await recorded(gateway, target="t", details={"role": "premium", "n": 3, "all": [1, None]})
        document.pop("_id")
        assert document == {
            "at": NOON,
            "action": "test.done",
            "actorId": "someone",
            "target": "t",
            "details": {"role": "premium", "n": 3, "all": [1, None]},
            "address": "203.0.113.9",
            "requestId": "req_1",
        }


async def test_a_record_is_one_line_bounded_and_without_secrets(mongodb_uri: str) -> None:
    """No text of a caller begins a line, colours a terminal or grows without end, and no secret is kept."""
    async with running_gateway(mongodb_uri) as gateway:
        details = {
            "email": "a@b.c\r\n2026 admin.user_deleted \x1b[31m\u2028x\u202e",
            "password": "hunter22",
            "changes": {"resetToken": "abc", "monthlyTokens": 7, "a.b\n": "$x"},
            "long": "y" * 10_000,
            "many": list(range(1_000)),
        }
        document = await recorded(gateway, target="line\nline", details=details)
        text = orjson.dumps(document["details"]).decode() + document["target"]
        assert not any(secret in text for secret in ("hunter22", "abc"))
        assert document["target"] == "line\\nline"
        assert document["details"]["email"] == ("a@b.c\\r\\n2026 admin.user_deleted \\x1b[31m\\u2028x\\u202e")
        assert document["details"]["changes"] == {
            "resetToken": audit.HIDDEN,
            "monthlyTokens": 7,
            "a.b\\n": "$x",
        }
        assert len(document["details"]["long"]) == audit.LONGEST_TEXT
        assert len(document["details"]["many"]) == audit.MOST_ITEMS


async def test_every_change_of_an_account_is_recorded(mongodb_uri: str) -> None:
    """Sign-ups, sign-ins, failures, resets, keys, and a stolen token leave a record each, with nobody's secret in it."""
    clock = Clock()
    async with running_gateway(mongodb_uri, clock=clock) as gateway:
        account = await signed_in(gateway)
        wrong = {"email": account.user.email, "password": "not the password"}
        await gateway.http.post("/api/auth/login", json=wrong)
        await gateway.http.post("/api/auth/login", json={**wrong, "password": PASSWORD})
        await gateway.http.post("/api/auth/forgot-password", json={"email": account.user.email})
        change = {"currentPassword": "not the password", "newPassword": NEW_PASSWORD}
        await account.send("PATCH", "/api/auth/password", change)
        made = await account.send("POST", "/api/user/api-keys", {"name": "k"})
        await account.send("DELETE", f"/api/user/api-keys/{made.json()['data']['keyInfo']['id']}")
        refreshed = (await account.send("POST", "/api/auth/refresh")).json()["token"]
        clock.forward(seconds=11)
        assert (await account.send("POST", "/api/auth/refresh")).status_code == 401
        other = await signed_in(gateway)
        changed = await other.send("PATCH", "/api/auth/password", {**change, "currentPassword": PASSWORD})
        again = Account(gateway, other.user, changed.json()["token"])
        await again.send("POST", "/api/auth/logout")
        records = await gateway.parts.database["auditlog"].find().sort("_id").to_list()
        assert [record["action"] for record in records] == [
            "auth.login_failed",
            "auth.login",
            "auth.reset_asked",
            "auth.password_change_failed",
            "user.key_created",
            "user.key_revoked",
            "auth.token_reused",
            "auth.password_changed",
            "auth.logout",
        ]
        assert records[6]["actorId"] == str(account.id)
        for secret in (PASSWORD, NEW_PASSWORD, "not the password", account.token, refreshed):
            assert secret not in str(records)
        assert made.json()["data"]["apiKey"] not in str(records)


async def test_what_the_operator_does_is_recorded(mongodb_uri: str) -> None:
    """An admin that was made at the machine itself is in the log too."""
    async with running_gateway(mongodb_uri) as gateway:
        assert await ensure_admin("root@example.com", PASSWORD, gateway.app.ctx.hasher, now=NOON)
        (record,) = await gateway.parts.database["auditlog"].find().to_list()
        assert (record["action"], record["address"]) == ("operator.admin_made", OPERATOR)


def test_the_log_is_only_added_to() -> None:
    """No line of the product changes or deletes a record, and no route offers to."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "admin_api").rglob("*.py"))
    uses = set(re.findall(r"AuditRecord(?:\.(\w+)|\()", sources))
    assert uses == {"", "find"}  # made, and read
    assert '"auditlog"' in sources
    assert sources.count('"auditlog"') == 1
    assert {method for method, path in OPERATIONS if "audit" in path} == {"get"}
