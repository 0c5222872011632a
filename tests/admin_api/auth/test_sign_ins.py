"""The list of one's sign-ins, and ending them: one, all others, and by an admin all of a user's."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import httpx

from proxy.core.routing import Role
from proxy.documents import Session
from tests.admin_api.accounts import Account, is_good, message_of, signed_in, token_of
from tests.admin_api.auth.test_sessions import Clock, refresh
from tests.gateway import PASSWORD, RunningGateway, running_gateway

SESSIONS = "/api/auth/sessions"
PHONE = "Mozilla/5.0 (Android 16; Mobile) Firefox/145.0"


async def sign_in(gateway: RunningGateway, account: Account, **headers: str) -> Account:
    """Sign a user in once more, from elsewhere."""
    credentials = {"email": account.user.email, "password": PASSWORD}
    lines = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await gateway.http.post("/api/auth/login", json=credentials, headers=lines)
    gateway.http.cookies.clear()
    return Account(gateway, account.user, answer.json()["token"])


async def sessions_of(account: Account) -> list[dict[str, Any]]:
    answer = await account.send("GET", SESSIONS)
    assert answer.status_code == 200
    shown: list[dict[str, Any]] = answer.json()["data"]["sessions"]
    assert answer.json()["results"] == len(shown)
    return shown


async def test_a_user_sees_where_he_is_signed_in(mongodb_uri: str) -> None:
    """Each sign-in is there once, however often refreshed, with its times, its network and its browser; none of others."""
    clock = Clock()
    async with running_gateway(mongodb_uri, clock=clock, trusted_proxies=("127.0.0.1",)) as gateway:
        account = await signed_in(gateway)
        await signed_in(gateway)
        began = clock.now
        clock.forward(minutes=5)
        phone = await sign_in(gateway, account, user_agent=PHONE, x_forwarded_for="2001:db8:1:2::3")
        clock.forward(minutes=5)
        for _ in range(3):
            account = Account(gateway, account.user, (await refresh(gateway, account.token)).json()["token"])
        mine, other = await sessions_of(account)
        assert mine["isCurrent"] is True
        assert _seconds(mine["createdAt"], began) == 0
        assert _seconds(mine["lastUsed"], clock.now) == 0
        assert mine["network"] == "127.0.0.0/24"
        assert (other["isCurrent"], other["userAgent"], other["network"]) == (False, PHONE, "2001:db8:1::/48")
        assert _seconds(other["lastUsed"], began) == _seconds(other["createdAt"], began) == 300
        assert _seconds(other["expiresAt"], began) == 300 + gateway.parts.settings.token_lifetime
        clock.forward(minutes=5)
        assert [(each["id"], each["isCurrent"]) for each in await sessions_of(phone)] == [
            (other["id"], True),
            (mine["id"], False),
        ]
        stored = str(await gateway.parts.database["sessions"].find().to_list())
        assert "2001:db8:1:2" not in stored
        assert "127.0.0.1" not in stored


async def test_a_use_is_noted_once_a_minute(mongodb_uri: str) -> None:
    """The note says from where and with what a token was used last, and costs one write a minute."""
    clock = Clock()
    async with running_gateway(mongodb_uri, clock=clock, trusted_proxies=("127.0.0.1",)) as gateway:
        account = await signed_in(gateway)
        before = await Session.find_all().to_list()
        for seconds, from_where, network in (
            (30, "203.0.113.7", ""),
            (31, "203.0.113.8", "203.0.113.0/24"),
            (59, "198.51.100.9", "203.0.113.0/24"),
            (1, "198.51.100.9", "198.51.100.0/24"),
        ):
            clock.forward(seconds=seconds)
            headers = {"x-forwarded-for": from_where, "user-agent": PHONE}
            assert (await account.send("GET", "/api/auth/me", headers=headers)).status_code == 200
            (session,) = await Session.find_all().to_list()
            assert session.network == network
        (stored,) = await Session.find_all().to_list()
        assert stored.userAgent == PHONE
        assert stored.lastUsed is not None
        assert abs((stored.lastUsed - clock.now).total_seconds()) < 0.001
        assert stored.createdAt == before[0].createdAt


async def test_one_sign_in_is_ended_on_every_worker(mongodb_uri: str) -> None:
    """Its tokens die at once everywhere, also those to come of a refresh; the others live; ended twice is 404."""
    async with running_gateway(mongodb_uri) as one, running_gateway(mongodb_uri) as two:
        account = await signed_in(one)
        lost, kept = await sign_in(one, account), await sign_in(two, account)
        refreshed = (await refresh(two, lost.token)).json()["token"]
        listed = await sessions_of(Account(two, account.user, refreshed))
        target = next(each["id"] for each in listed if each["isCurrent"])
        assert await is_good(two, refreshed)
        answer = await account.send("DELETE", f"{SESSIONS}/{target}")
        assert answer.json() == {"status": "success", "message": "Session revoked successfully"}
        assert "set-cookie" not in answer.headers
        for gateway in (one, two):
            assert not await is_good(gateway, refreshed)
            assert await is_good(gateway, account.token)
            assert await is_good(gateway, kept.token)
        for token in (lost.token, refreshed):
            assert (await refresh(two, token)).status_code == 401
        assert target not in [each["id"] for each in await sessions_of(kept)]
        missing = await account.send("DELETE", f"{SESSIONS}/{target}")
        assert message_of(missing, 404, "NOT_FOUND") == "Session not found"


async def test_nobody_ends_anothers_sign_in(mongodb_uri: str) -> None:
    """Another's session is as missing as one that never was, to users and to admins, and lives on."""
    async with running_gateway(mongodb_uri) as gateway:
        account, stranger = await signed_in(gateway), await signed_in(gateway)
        admin = await signed_in(gateway, Role.ADMIN)
        (session,) = await sessions_of(account)
        for person in (stranger, admin):
            for sign_in_id in (
                session["id"],
                "0" * 32,
                "x",
                "%00",
                "%24ne",
                session["id"].upper(),
                "a" * 300,
            ):
                refused = await person.send("DELETE", f"{SESSIONS}/{sign_in_id}")
                assert message_of(refused, 404, "NOT_FOUND") == "Session not found"
            assert (await person.send("DELETE", SESSIONS)).status_code == 200
        assert await is_good(gateway, account.token)


async def test_all_others_are_ended_at_once(mongodb_uri: str) -> None:
    """Whoever asks stays signed in, also after refreshing; all his other sign-ins are gone on every worker."""
    async with running_gateway(mongodb_uri) as one, running_gateway(mongodb_uri) as two:
        account = await signed_in(one)
        others = [await token_of(two, account.user) for _ in range(3)]
        others.append((await refresh(two, others[0])).json()["token"])
        token = (await refresh(one, account.token)).json()["token"]
        account = Account(one, account.user, token)
        answer = await account.send("DELETE", SESSIONS)
        assert answer.json()["message"] == "All other sessions revoked successfully"
        assert not any([await is_good(gateway, each) for each in others for gateway in (one, two)])
        assert await is_good(two, account.token)
        (mine,) = await sessions_of(account)
        assert mine["isCurrent"] is True
        assert (await refresh(two, account.token)).status_code == 200


async def test_ending_the_current_one_is_signing_out(mongodb_uri: str) -> None:
    """The token dies and the browser forgets its cookie."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        (mine,) = await sessions_of(account)
        answer = await account.send("DELETE", f"{SESSIONS}/{mine['id']}")
        assert answer.status_code == 200
        assert "max-age=0" in answer.headers["set-cookie"].lower()
        assert not await is_good(gateway, account.token)


async def test_an_admin_sees_and_ends_a_users_sign_ins(mongodb_uri: str) -> None:
    """All of them end at once on every worker, the user may sign in again, his keys stay, and it is on record."""
    async with running_gateway(mongodb_uri) as one, running_gateway(mongodb_uri) as two:
        admin, account = await signed_in(one, Role.ADMIN), await signed_in(two)
        key = await one.key(account.user)
        phone = await sign_in(two, account, user_agent=PHONE)
        path = f"/api/admin/users/{account.id}/sessions"
        shown = (await admin.send("GET", path)).json()
        assert shown["results"] == 2
        assert {each["userAgent"] for each in shown["data"]["sessions"]} >= {PHONE}
        assert not any(each["isCurrent"] for each in shown["data"]["sessions"])
        ended = await admin.send("DELETE", path)
        assert ended.json() == {"status": "success", "message": "All sessions revoked successfully"}
        for token in (account.token, phone.token):
            assert not any([await is_good(gateway, token) for gateway in (one, two)])
        assert (await admin.send("GET", path)).json()["data"]["sessions"] == []
        assert await is_good(one, admin.token)
        assert await is_good(two, (await sign_in(two, account)).token)
        assert (await _models(one, key)).status_code == 200
        for missing in ("0" * 24, "x", "%24ne"):
            for method in ("GET", "DELETE"):
                refused = await admin.send(method, f"/api/admin/users/{missing}/sessions")
                assert message_of(refused, 404) == "User not found"
        records = await one.parts.database["auditlog"].find({"target": str(account.id)}).sort("_id").to_list()
        assert [(record["action"], record["actorId"]) for record in records] == [
            ("admin.sessions_viewed", str(admin.id)),
            ("admin.sessions_revoked", str(admin.id)),
            ("admin.sessions_viewed", str(admin.id)),
        ]


async def test_what_a_user_ends_is_on_record(mongodb_uri: str) -> None:
    """One and all others leave a record each, with the sign-in that was ended and without any token."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        await token_of(gateway, account.user)
        other = next(each for each in await sessions_of(account) if not each["isCurrent"])
        await account.send("DELETE", f"{SESSIONS}/{other['id']}")
        await account.send("DELETE", SESSIONS)
        records = await gateway.parts.database["auditlog"].find().sort("_id").to_list()
        assert [(record["action"], record["target"]) for record in records] == [
            ("auth.session_revoked", other["id"]),
            ("auth.other_sessions_revoked", None),
        ]
        assert account.token not in str(records)


async def test_sign_ins_of_before_are_listed_and_ended(mongodb_uri: str) -> None:
    """A session that was stored without time of use, network and browser is shown by what there is."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        absent = dict.fromkeys(("signedInAt", "lastUsed", "network", "userAgent"), "")
        await token_of(gateway, account.user)
        sessions = gateway.parts.database["sessions"]
        newest = await sessions.find_one({}, sort=[("createdAt", -1)])
        assert newest is not None
        await sessions.update_one({"_id": newest["_id"]}, {"$unset": absent})
        old = next(each for each in await sessions_of(account) if not each["isCurrent"])
        assert old["createdAt"] == old["lastUsed"]
        assert (old["network"], old["userAgent"]) == ("", "")
        assert (await account.send("DELETE", f"{SESSIONS}/{old['id']}")).status_code == 200


def _seconds(time: str, since: datetime) -> int:
    return round((datetime.fromisoformat(time) - since).total_seconds())


async def _models(gateway: RunningGateway, key: str) -> httpx.Response:
    return await gateway.http.get("/v1/models", headers={"authorization": f"Bearer {key}"})
