"""What admins do to users, over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from beanie import PydanticObjectId

from admin_api.users import deletion
from proxy.clock import utc_now
from proxy.core.routing import Role
from tests.admin_api.playground import FREE, Person, playground

USERS = "/api/admin/users"


def ids(response: httpx.Response) -> list[str]:
    return [user["_id"] for user in response.json()["data"]["users"]]


def path(person: Person) -> str:
    return f"{USERS}/{person.user.id}"


async def test_users_are_searched_filtered_sorted_and_paged(mongodb_uri: str) -> None:
    """The list has every filter of the contract, and its search takes the text as it stands."""
    async with playground(mongodb_uri) as place:
        admin = await place.person(Role.ADMIN)
        first, second = await place.person(), await place.person(Role.PREMIUM)
        await first.user.update({"$set": {"name": "Zoë (a.b+c)*"}})
        await second.user.update({"$set": {"isActive": False, "name": "Adam"}})
        everybody = await admin.get(USERS)
        assert everybody.json()["pagination"] == {"page": 1, "limit": 20, "total": 3, "totalPages": 1}
        assert everybody.json()["results"] == 3
        assert "password" not in everybody.text
        cases: dict[str, list[Person]] = {
            "search=zoë (A.B%2Bc)*": [first],
            "search=.*": [],
            f"search={second.user.email.upper()}": [second],
            "role=premium": [second],
            "status=inactive": [second],
            "status=active&role=user": [first],
            "sortBy=name&sortOrder=asc&limit=1": [second],
            "sortBy=name&sortOrder=desc&limit=1": [first],
            "sortBy=name&sortOrder=asc&limit=1&page=3": [first],
            "page=9": [],
        }
        for query, expected in cases.items():
            found = await admin.get(f"{USERS}?{query}")
            assert ids(found) == [str(person.user.id) for person in expected], query


BAD_QUERIES = (
    "search=%00",  # which the database refuses in a pattern
    "limit=0",
    "limit=101",
    "limit=1e9",
    "page=-1",
    "page=99999999",
    "role=root",
    "status=maybe",
    "sortBy=password",
    "sortBy=$where",
    "sortOrder=up",
    f"search={'a' * 101}",
    "search=a&search=b",
)


async def test_a_query_that_makes_no_sense_is_refused(mongodb_uri: str) -> None:
    """Every parameter is checked, and the answer names the one that is wrong."""
    async with playground(mongodb_uri) as place:
        admin = await place.person(Role.ADMIN)
        for query in BAD_QUERIES:
            response = await admin.get(f"{USERS}?{query}")
            assert response.status_code == 400, query
            assert response.json()["code"] == "VALIDATION_ERROR"
            assert query.partition("=")[0] in response.json()["message"]


async def test_the_search_is_bounded_in_time(mongodb_uri: str) -> None:
    """A pattern that would backtrack for ever is only text, and the database is told how long it may look."""
    async with playground(mongodb_uri) as place:
        admin, namesake = await place.person(Role.ADMIN), await place.person()
        await admin.user.update({"$set": {"name": "a" * 50}})
        await namesake.user.update({"$set": {"name": "called (a+)+$ by all"}})
        database = place.gateway.parts.database
        await database.command("profile", 2)
        try:
            response = await admin.get(f"{USERS}?search=(a%2B)%2B%24")
            assert response.status_code == 200
            assert ids(response) == [str(namesake.user.id)]
        finally:
            await database.command("profile", 0)
        profiled = await database["system.profile"].find({"ns": f"{database.name}.users"}).to_list()
        searches = [entry["command"] for entry in profiled if "$or" in str(entry["command"])]
        assert searches
        assert all(0 < command["maxTimeMS"] <= 3_000 for command in searches)


async def test_a_user_is_shown_with_his_activity(mongodb_uri: str) -> None:
    """Details name the user's chats and messages, but not what he wrote."""
    async with playground(mongodb_uri) as place:
        admin, person = await place.person(Role.ADMIN), await place.person()
        assert (await person.say("a very private question", FREE)).status_code == 200
        response = await admin.get(path(person))
        data = response.json()["data"]
        assert data["user"]["email"] == person.user.email
        assert data["activity"]["totalSessions"] == 1
        assert data["activity"]["totalMessages"] == 2
        assert {message["role"] for message in data["activity"]["recentMessages"]} == {"user", "assistant"}
        assert all("content" not in message for message in data["activity"]["recentMessages"])
        for missing in ("0" * 24, "abc", "%24where", "a" * 300):
            assert (await admin.get(f"{USERS}/{missing}")).status_code == 404


async def test_limits_are_changed_one_by_one(mongodb_uri: str) -> None:
    """An admin's limit replaces the role's, `null` brings it back, and what is left out stays."""
    async with playground(mongodb_uri) as place:
        admin, person = await place.person(Role.ADMIN), await place.person()
        changed = await admin.patch(path(person), {"usageLimits": {"dailyRequests": 7, "monthlyTokens": 0}})
        assert changed.json()["message"] == "User updated successfully"
        assert changed.json()["data"]["user"]["usageLimits"] == {
            "dailyRequests": 7,
            "monthlyRequests": 1_000,
            "monthlyTokens": 0,
        }
        changed = await admin.patch(path(person), {"usageLimits": {"monthlyTokens": None}})
        assert changed.json()["data"]["user"]["usageLimits"] == {
            "dailyRequests": 7,
            "monthlyRequests": 1_000,
            "monthlyTokens": 100_000,
        }
        assert (await person.get("/api/auth/me")).status_code == 200  # a new limit signs nobody out


BAD_CHANGES: tuple[Any, ...] = (
    {},
    {"role": "root"},
    {"role": None},
    {"isActive": "yes"},
    {"isActive": 0},
    {"isActive": None},
    {"usageLimits": None},
    {"usageLimits": {}},
    {"usageLimits": {"dailyRequests": -1}},
    {"usageLimits": {"dailyRequests": 1.5}},
    {"usageLimits": {"dailyRequests": "5"}},
    {"usageLimits": {"dailyRequests": True}},
    {"usageLimits": {"dailyRequests": {"$gt": 0}}},
    {"usageLimits": {"monthlyTokens": 10**15}},
    {"usageLimits": {"hourly": 1}},
    {"email": "new@example.com"},
    {"password": "another password"},
    {"$set": {"role": "admin"}},
    {"preferences.theme": "dark"},
    [],
    "role",
)


async def test_a_change_that_makes_no_sense_is_refused(mongodb_uri: str) -> None:
    """Nothing but role, activity and limits can be changed, each with its own strict type; nothing is changed."""
    async with playground(mongodb_uri) as place:
        admin, person = await place.person(Role.ADMIN), await place.person()
        before = await place.documents("users")
        for body in BAD_CHANGES:
            response = await admin.patch(path(person), body)
            assert response.status_code == 400, body
            assert response.json()["code"] == "VALIDATION_ERROR"
        assert await place.documents("users") == before


async def test_a_new_role_and_deactivation_end_every_sign_in(mongodb_uri: str) -> None:
    """Tokens die at once, API keys within a second, and a reactivated user signs in anew."""
    async with playground(mongodb_uri) as place:
        admin, person = await place.person(Role.ADMIN), await place.person()
        key = await place.gateway.key(person.user)
        body = {"model": FREE, "messages": [{"role": "user", "content": "hello"}]}
        assert (await place.gateway.chat(key, body)).status_code == 200
        promoted = await admin.patch(path(person), {"role": "premium"})
        assert promoted.json()["data"]["user"]["usageLimits"]["dailyRequests"] == 200
        assert (await person.get("/api/auth/me")).status_code == 401
        assert await place.documents("sessions", userId=person.user.id) == []
        assert (await admin.patch(path(person), {"isActive": False})).status_code == 200
        await asyncio.sleep(1.05)
        assert (await place.gateway.chat(key, body)).status_code == 401
        assert (await admin.patch(path(person), {"isActive": True})).status_code == 200
        await asyncio.sleep(1.05)
        assert (await place.gateway.chat(key, body)).status_code == 200


async def test_an_admin_cannot_act_on_himself(mongodb_uri: str) -> None:
    """Nobody takes his own rights away, be there other admins or not; his own limits he may change."""
    async with playground(mongodb_uri) as place:
        admin, _other = await place.person(Role.ADMIN), await place.person(Role.ADMIN)
        own = path(admin)
        refusals = [
            await admin.patch(own, {"role": "user"}),
            await admin.patch(own, {"isActive": False}),
            await admin.delete(own),
        ]
        assert [refusal.status_code for refusal in refusals] == [400, 400, 400]
        assert [refusal.json()["message"] for refusal in refusals] == [
            "Cannot change your own admin role",
            "Cannot deactivate your own account",
            "Cannot delete your own account",
        ]
        assert (await admin.patch(own, {"role": "admin", "isActive": True})).status_code == 200
        assert (await admin.patch(own, {"usageLimits": {"dailyRequests": 9}})).status_code == 200


@pytest.mark.parametrize("act", ["demote", "deactivate", "delete"])
async def test_two_admins_acting_on_each_other_leave_one(mongodb_uri: str, act: str) -> None:
    """However often two admins take each other's rights at the same moment, one of them stays."""
    async with playground(mongodb_uri) as place:

        async def on(actor: Person, target: Person) -> httpx.Response:
            if act == "delete":
                return await actor.delete(path(target))
            changes = {"role": "user"} if act == "demote" else {"isActive": False}
            return await actor.patch(path(target), changes)

        for _ in range(5):
            await place.gateway.parts.database["users"].delete_many({})
            one, two = await place.person(Role.ADMIN), await place.person(Role.ADMIN)
            answers = await asyncio.gather(on(one, two), on(two, one))
            left = await place.documents("users", role="admin", isActive=True)
            assert len(left) == 1
            first, second = sorted(answer.status_code for answer in answers)
            assert first == 200
            assert second in (401, 403, 404)


async def test_a_deleted_user_is_gone_and_his_events_stay(mongodb_uri: str) -> None:
    """Deletion takes the account, its chats and its keys; what was used stays in the books without a name."""
    async with playground(mongodb_uri) as place:
        admin, person = await place.person(Role.ADMIN), await place.person()
        key = await place.gateway.key(person.user)
        assert (await person.say("hello", FREE)).status_code == 200
        deleted = await admin.delete(path(person))
        assert deleted.status_code == 200
        assert deleted.json() == {"status": "success", "message": "User deleted successfully"}
        assert (await person.get("/api/auth/me")).status_code == 401
        assert (await admin.get(path(person))).status_code == 404
        assert (await admin.delete(path(person))).status_code == 404
        for collection in ("chatsessions", "chatmessages", "sessions", "apikeys"):
            assert await place.documents(collection, userId=person.user.id) == []
        assert len(await place.gateway.events()) == 1
        await asyncio.sleep(1.05)
        assert (await place.gateway.chat(key, {"model": FREE, "messages": []})).status_code == 401


async def test_a_user_who_is_being_deleted_is_not_revived(mongodb_uri: str) -> None:
    """An admin's change meets nobody there: a key of an account that is on its way out does not work again."""
    async with playground(mongodb_uri) as place:
        admin, person = await place.person(Role.ADMIN), await place.person()
        key = await place.gateway.key(person.user)
        await deletion.mark(PydanticObjectId(person.user.id), now=utc_now())
        marked = await place.documents("users", _id=person.user.id)
        for changes in ({"isActive": True}, {"role": "premium"}, {"usageLimits": {"dailyRequests": 9}}):
            assert (await admin.patch(path(person), changes)).status_code == 404
        assert await place.documents("users", _id=person.user.id) == marked
        body = {"model": FREE, "messages": [{"role": "user", "content": "hello"}]}
        assert (await place.gateway.chat(key, body)).status_code == 401


async def test_every_admin_write_is_recorded(mongodb_uri: str) -> None:
    """The audit log names who changed what, when and from where, latest first, and admins can read it."""
    async with playground(mongodb_uri) as place:
        admin, person = await place.person(Role.ADMIN), await place.person()
        await admin.patch(path(person), {"role": "premium", "usageLimits": {"monthlyTokens": None}})
        await admin.patch(f"/api/admin/models/{FREE.replace('/', '%2F')}", {"isAvailable": False})
        await admin.delete(path(person))
        response = await admin.get("/api/admin/audit?limit=3")
        deleted, model, changed = response.json()["data"]["records"]
        assert response.json()["results"] == 3
        assert deleted["action"] == "admin.user_deleted"
        assert deleted["target"] == str(person.user.id)
        assert model["action"] == "admin.model_changed"
        assert model["target"] == FREE
        assert model["details"] == {"changes": {"isAvailable": False}}
        assert changed["action"] == "admin.user_changed"
        assert changed["actorId"] == str(admin.user.id)
        assert changed["details"]["changes"] == {"role": "premium", "usageLimits": {"monthlyTokens": None}}
        assert changed["details"]["role"] == "user"
        assert changed["address"] == "127.0.0.1"
        assert changed["requestId"].startswith("req_")
        by_action = await admin.get(f"/api/admin/audit?action=admin.user_changed&actor={admin.user.id}")
        assert [record["_id"] for record in by_action.json()["data"]["records"]] == [changed["_id"]]
        assert (await admin.get("/api/admin/audit?actor=nobody")).json()["data"]["records"] == []
        assert (await admin.get("/api/admin/audit?limit=1000")).status_code == 400


async def test_refused_acts_change_and_record_nothing(mongodb_uri: str) -> None:
    """A user who is no admin changes nobody, and what is refused before it is tried leaves no record."""
    async with playground(mongodb_uri) as place:
        admin, person = await place.person(Role.ADMIN), await place.person()
        for attempt in (
            await person.patch(path(person), {"role": "admin"}),
            await person.delete(path(admin)),
            await person.get(USERS),
            await person.get("/api/admin/audit"),
        ):
            assert attempt.status_code == 403
            assert attempt.json()["message"] == "Admin access required"
        assert (await admin.patch(f"{USERS}/{'0' * 24}", {"role": "user"})).status_code == 404
        assert await place.documents("auditlog", action="admin.user_changed") == []
