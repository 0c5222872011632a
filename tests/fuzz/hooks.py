"""What schemathesis does before each request: it sends the credential of the caller that it plays.

It is loaded into schemathesis' own process, which knows the caller from the environment variable `FUZZ`. Some of the
requests end the sign-in, so the session is put back before each; and each comes from an address of its own, since
the limits on an address are not what is tried here.
"""

from __future__ import annotations

import itertools
import os
from ipaddress import IPv4Address
from typing import Any

import orjson
import schemathesis
from bson import json_util
from pymongo import MongoClient

_WISH: dict[str, Any] = orjson.loads(os.environ["FUZZ"])
_SESSION: dict[str, Any] | None = json_util.loads(_WISH["session"])
_sessions: Any = MongoClient(_WISH["uri"]).get_default_database()["sessions"]
_numbers = itertools.count(int(IPv4Address("198.18.0.1")))


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Sign the caller in, and send the key where keys are asked for."""
    case.headers["X-Forwarded-For"] = str(IPv4Address(next(_numbers)))
    if _SESSION is None:
        return
    _sessions.replace_one({"_id": _SESSION["_id"]}, _SESSION, upsert=True)
    path = case.operation.path
    secret = _WISH["key"] if path.startswith("/v1/") else _WISH["token"] if path.startswith("/api/") else None
    if secret is not None:
        case.headers["Authorization"] = f"Bearer {secret}"
