"""Tests of admin_api/audit.py."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
from sanic import Request
from sanic.compat import Header

from admin_api import audit
from tests.gateway import RunningGateway, running_gateway

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
