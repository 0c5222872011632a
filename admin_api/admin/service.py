"""What admins do to users: find them, change them, delete them; every act is recorded before it is done."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pymongo
from beanie import PydanticObjectId, SortDirection
from sanic import Request

from admin_api import audit
from admin_api.access import SignedIn
from admin_api.admin.last_admin import acting_alone
from admin_api.admin.schemas import UserChanges
from admin_api.auth.sessions import SIGN_OUT, end_sessions
from admin_api.pagination import Page, count
from admin_api.users.deletion import mark, staying
from proxy.core.routing import Role
from proxy.documents import User
from proxy.errors import InvalidRequest, NotFound
from proxy.gateway import gateway_of

SEARCH_SECONDS = 3.0
LONGEST_SEARCH = 100
SORT_FIELDS = {
    "createdAt": "createdAt",
    "updatedAt": "updatedAt",
    "name": "name",
    "email": "email",
    "role": "role",
    "lastActive": "stats.lastActive",
    "loginCount": "stats.loginCount",
}


@dataclass(frozen=True, slots=True)
class UserSearch:
    """Which users to list, in which order; `None` stands for all."""

    text: str | None
    role: str | None
    is_active: bool | None
    sort_by: str
    descending: bool

    def filter(self) -> dict[str, Any]:
        """Return the query; the text is looked for as it is, in names and e-mails, in any case."""
        query: dict[str, Any] = {}
        if self.text:
            pattern = {"$regex": re.escape(self.text), "$options": "i"}
            query["$or"] = [{"name": pattern}, {"email": pattern}]
        if self.role is not None:
            query["role"] = self.role
        if self.is_active is not None:
            query["isActive"] = self.is_active
        return query


async def find_users(search: UserSearch, page: Page) -> tuple[list[User], int]:
    """Return one page of users, and how many there are in all."""
    direction = SortDirection.DESCENDING if search.descending else SortDirection.ASCENDING
    order = [(SORT_FIELDS[search.sort_by], direction)]
    if search.sort_by != "email":  # of which there are no two, and whose index has no id
        order.append(("_id", direction))
    query = search.filter()
    with pymongo.timeout(SEARCH_SECONDS):  # sent to the server as maxTimeMS
        users = await User.find(query).sort(order).skip(page.skip).limit(page.limit).to_list()
        return users, await count(User, query)


async def get_user(user_id: PydanticObjectId) -> User:
    """Return a user; raise `NotFound`."""
    user = await User.get(user_id)
    if user is None:
        raise NotFound("User not found")
    return user


async def change_user(
    request: Request, caller: SignedIn, user_id: PydanticObjectId, changes: UserChanges
) -> User:
    """Change a user's role, activity or limits; raise `NotFound`, or `InvalidRequest` for what nobody may do."""
    if user_id == caller.user_id:
        _refuse_self_harm(changes)
    takes_rights = changes.role not in (None, Role.ADMIN) or changes.isActive is False
    async with _guard(request, caller) if takes_rights else nullcontext():
        user = await get_user(user_id)
        given = changes.model_dump(exclude_unset=True)
        await audit.record(
            request,
            "admin.user_changed",
            actor_id=str(caller.user_id),
            target=str(user_id),
            details={"changes": given, "role": user.role, "isActive": user.isActive},
        )
        limits = given.pop("usageLimits", {})
        values = given | {f"usageLimits.{name}": limit for name, limit in limits.items()}
        values["updatedAt"] = gateway_of(request).clock()
        signs_out = changes.role not in (None, user.role) or changes.isActive is False
        update = {"$set": values} | ({"$inc": SIGN_OUT} if signs_out else {})
        updated = await User.get_pymongo_collection().update_one(staying(user_id), update)
        if updated.matched_count == 0:
            raise NotFound("User not found")
    if signs_out:
        await end_sessions(user_id)
    return await get_user(user_id)


async def delete_user(request: Request, caller: SignedIn, user_id: PydanticObjectId) -> None:
    """Delete a user with all that is his but the usage events; raise `NotFound`, or `InvalidRequest` for oneself."""
    if user_id == caller.user_id:
        raise InvalidRequest("Cannot delete your own account")
    now = gateway_of(request).clock()
    async with _guard(request, caller):
        user = await get_user(user_id)
        await audit.record(
            request,
            "admin.user_deleted",
            actor_id=str(caller.user_id),
            target=str(user_id),
            details={"role": user.role, "isActive": user.isActive},
        )
        await mark(user_id, now=now)
    # The rights are gone with the mark; the rest may take longer than anybody may be kept waiting for the guard.
    await request.app.ctx.deletions.delete_account(user_id, now=now)


def _refuse_self_harm(changes: UserChanges) -> None:
    if changes.role not in (None, Role.ADMIN):
        raise InvalidRequest("Cannot change your own admin role")
    if changes.isActive is False:
        raise InvalidRequest("Cannot deactivate your own account")


def _guard(request: Request, caller: SignedIn) -> AbstractAsyncContextManager[None]:
    return acting_alone(gateway_of(request).database, caller)
