"""Tests of admin_api/admin/last_admin.py: the lease under which admins lose their rights."""

from __future__ import annotations

from datetime import timedelta

import pytest

from admin_api.admin.last_admin import LOCKS
from proxy.core.routing import Role
from tests.admin_api.accounts import message_of, signed_in
from tests.gateway import running_gateway


@pytest.mark.long
async def test_a_lease_ends_by_itself_and_not_before(mongodb_uri: str) -> None:
    """What a dead process holds is free again in time; until then others get 409 and nothing is changed."""
    async with running_gateway(mongodb_uri) as gateway:
        admin, other = await signed_in(gateway, Role.ADMIN), await signed_in(gateway, Role.ADMIN)
        locks, now = gateway.parts.database[LOCKS], gateway.parts.clock()
        path = f"/api/admin/users/{other.id}"
        dead = {"_id": "admins", "holder": "dead", "until": now + timedelta(minutes=1)}
        await locks.insert_one(dead)
        refused = await admin.send("PATCH", path, {"role": "user"})
        message_of(refused, 409, "CONFLICT")
        assert refused.headers["retry-after"] == "1"
        assert await locks.find_one() is not None
        stored = await other.stored()
        assert stored is not None
        assert stored["role"] == "admin"
        assert (await admin.send("PATCH", path, {"usageLimits": {"dailyRequests": 1}})).status_code == 200
        await locks.update_one({}, {"$set": {"until": now - timedelta(minutes=1)}})
        assert (await admin.send("PATCH", path, {"role": "user"})).status_code == 200
        assert await locks.find_one() is None


async def test_who_has_just_lost_his_rights_takes_no_others(mongodb_uri: str) -> None:
    """An admin whose request was let in a moment before his own demotion is refused when his turn comes."""
    async with running_gateway(mongodb_uri) as gateway:
        admin, other = await signed_in(gateway, Role.ADMIN), await signed_in(gateway, Role.ADMIN)
        assert (await other.send("PATCH", f"/api/admin/users/{admin.id}", {"isActive": False})).is_success
        refused = await admin.send("DELETE", f"/api/admin/users/{other.id}")
        message_of(refused, 401)
        assert await other.stored() is not None
