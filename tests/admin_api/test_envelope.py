"""Tests of admin_api/envelope.py."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
from bson import ObjectId

from admin_api.envelope import success


def test_the_envelope() -> None:
    """The status comes first, a message and what stands beside the data only where there is one."""
    assert orjson.loads(success().body or b"") == {"status": "success"}
    response = success({"user": {}}, message="Done", status=201, token="t", results=0)
    assert response.status == 201
    body = {"status": "success", "message": "Done", "token": "t", "results": 0, "data": {"user": {}}}
    assert orjson.loads(response.body or b"") == body
    assert next(iter(orjson.loads(response.body or b""))) == "status"


def test_an_answer_is_kept_by_nobody() -> None:
    """What belongs to one user must not be in a cache that others share."""
    assert success().headers["cache-control"] == "no-store"
    assert success().content_type == "application/json"


def test_ids_and_times_are_text() -> None:
    """Times are UTC with a Z, ids as they are written."""
    moment = datetime(2026, 11, 23, 8, 30, tzinfo=UTC)
    body = orjson.loads(success({"at": moment, "id": ObjectId("0123456789abcdef01234567")}).body or b"")
    assert body["data"] == {"at": "2026-11-23T08:30:00Z", "id": "0123456789abcdef01234567"}
