"""There is always an active admin: whoever takes an admin's rights away must be one himself while he does.

Nobody may take his own rights, so two admins could end up without any only by acting on each other at the same
moment. A lease in the database makes such acts one after the other, over all workers. It is on the database's
clock and ends by itself should its holder die; the holder gives up long before it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pymongo
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from admin_api.access import SignedIn
from proxy.core.routing import Role
from proxy.database import Database
from proxy.documents import User
from proxy.errors import Conflict, PermissionDenied

LOCKS = "locks"
_NAME = "admins"
_LEASE_MS = 20_000
_HOLD_SECONDS = 5.0
_WAIT_SECONDS = 3.0
_STEP_SECONDS = 0.02


@asynccontextmanager
async def acting_alone(database: Database, caller: SignedIn) -> AsyncIterator[None]:
    """Hold the lease while an admin loses his rights.

    Raises `PermissionDenied` when the caller has just lost his own, `Conflict` when others hold the lease for
    too long.
    """
    holder = secrets.token_hex(8)
    await _take(database, holder)
    try:
        with pymongo.timeout(_HOLD_SECONDS):
            actor = await User.find_one({"_id": caller.user_id, "role": Role.ADMIN, "isActive": True})
            if actor is None:
                raise PermissionDenied("Admin access required")
            yield
    finally:
        with contextlib.suppress(PyMongoError):  # what is not given back ends by itself
            await database[LOCKS].delete_one({"_id": _NAME, "holder": holder})


async def _take(database: Database, holder: str) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _WAIT_SECONDS
    while not await _is_taken(database, holder):
        if loop.time() > deadline:
            raise Conflict("Another admin's account is being changed; try again.", retry_after=1)
        await asyncio.sleep(_STEP_SECONDS)


async def _is_taken(database: Database, holder: str) -> bool:
    """Take the lease if nobody has it, and say whether it is ours now."""
    is_free = {"$lte": [{"$ifNull": ["$until", "$$NOW"]}, "$$NOW"]}
    lease = {
        "holder": {"$cond": [is_free, holder, "$holder"]},
        "until": {"$cond": [is_free, {"$add": ["$$NOW", _LEASE_MS]}, "$until"]},
    }
    try:
        found = await database[LOCKS].find_one_and_update(
            {"_id": _NAME}, [{"$set": lease}], upsert=True, return_document=ReturnDocument.AFTER
        )
    except DuplicateKeyError:  # two have made the first one at once
        return False
    return found is not None and bool(found["holder"] == holder)
