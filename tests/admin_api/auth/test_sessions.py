"""Tests of admin_api/auth/sessions.py: how long a token is good, and what ends it, on every worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import httpx
import pytest
from beanie import PydanticObjectId
from pymongo.errors import AutoReconnect

from admin_api.auth.hashing import PasswordHasher
from admin_api.auth.service import set_password
from admin_api.auth.sessions import LONGEST_SIGN_IN, end_sessions, open_session, refresh_session
from admin_api.auth.whereabouts import Whereabouts
from admin_api.users import deletion
from proxy import security, tokens
from proxy.clock import utc_now
from proxy.core.routing import Role
from proxy.documents import Session, User
from proxy.errors import Unauthenticated
from tests.admin_api.accounts import (
    NEW_PASSWORD,
    Account,
    is_good,
    message_of,
    password_hash,
    signed_in,
    token_of,
    user_with_password,
)
from tests.gateway import PASSWORD, RunningGateway, running_gateway


class Clock:
    """A clock that a test puts forward."""

    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **amount: float) -> None:
        self.now += timedelta(**amount)


async def refresh(gateway: RunningGateway, token: str) -> httpx.Response:
    return await gateway.http.post("/api/auth/refresh", headers={"authorization": f"Bearer {token}"})


async def test_refresh_rotates(mongodb_uri: str) -> None:
    """The new token works and comes as a cookie too, the old one is refused at once, the user is described."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        response = await refresh(gateway, account.token)
        assert response.status_code == 200
        token = response.json()["token"]
        assert response.json()["message"] == "Token refreshed successfully"
        assert response.json()["data"]["user"]["_id"] == str(account.id)
        assert f"jwt={token}" in response.headers["set-cookie"]
        assert await is_good(gateway, token)
        assert not await is_good(gateway, account.token)
        assert message_of(await gateway.http.post("/api/auth/refresh"), 401)
        assert message_of(await refresh(gateway, "nonsense"), 401)


async def test_refreshes_at_the_same_moment_get_one_successor(mongodb_uri: str) -> None:
    """Ten parallel refreshes over two workers answer with the same new token, which works."""
    async with running_gateway(mongodb_uri) as one, running_gateway(mongodb_uri) as two:
        account = await signed_in(one)
        answers = await asyncio.gather(*(refresh(gateway, account.token) for gateway in (one, two) * 5))
        assert {answer.status_code for answer in answers} == {200}
        tokens = {answer.json()["token"] for answer in answers}
        assert len(tokens) == 1
        assert await is_good(two, tokens.pop())
        assert await Session.find(Session.userId == account.id).count() == 2


async def test_late_reuse_ends_the_whole_sign_in(mongodb_uri: str) -> None:
    """A token that is refreshed again after ten seconds was copied: its successors die, other sign-ins live."""
    clock = Clock()
    async with running_gateway(mongodb_uri, clock=clock) as gateway:
        account = await signed_in(gateway)
        elsewhere = await token_of(gateway, account.user)
        second = (await refresh(gateway, account.token)).json()["token"]
        clock.forward(seconds=5)
        assert (await refresh(gateway, account.token)).json()["token"] == second
        third = (await refresh(gateway, second)).json()["token"]
        clock.forward(seconds=6)
        assert await is_good(gateway, third)
        assert message_of(await refresh(gateway, account.token), 401) == "Invalid token. Please log in again!"
        assert not await is_good(gateway, third)
        assert message_of(await refresh(gateway, third), 401)
        assert await is_good(gateway, elsewhere)


async def test_a_replaced_token_is_only_refused_elsewhere(mongodb_uri: str) -> None:
    """Using an old token on other endpoints is 401 and ends nothing."""
    clock = Clock()
    async with running_gateway(mongodb_uri, clock=clock) as gateway:
        account = await signed_in(gateway)
        token = (await refresh(gateway, account.token)).json()["token"]
        clock.forward(minutes=1)
        assert not await is_good(gateway, account.token)
        assert await is_good(gateway, token)


async def test_a_token_expires_and_a_sign_in_too(mongodb_uri: str) -> None:
    """A token lasts JWT_EXPIRES_IN; refreshing prolongs a sign-in, but not beyond its own end."""
    clock = Clock()
    async with running_gateway(mongodb_uri, clock=clock, jwt_expires_in="1h") as gateway:
        account = await signed_in(gateway)
        clock.forward(minutes=61)
        expired = await account.send("GET", "/api/auth/me")
        assert message_of(expired, 401) == "Your token has expired! Please log in again."
        assert message_of(await refresh(gateway, account.token), 401)

        token, keys = await token_of(gateway, account.user), gateway.parts.settings.token_keys
        session = await Session.get(tokens.read(token, keys, now=clock()).session_id)
        assert session is not None
        ends = clock() + LONGEST_SIGN_IN
        assert session.signInEndsAt is not None
        assert abs(session.signInEndsAt - ends) < timedelta(seconds=1)
        late = ends - timedelta(minutes=10)
        last = await refresh_session(session, gateway.parts.settings, Whereabouts(), now=late)
        claims = tokens.read(last, keys, now=late + timedelta(minutes=9))
        assert claims.session_id != session.id
        with pytest.raises(tokens.ExpiredToken):
            tokens.read(last, keys, now=late + timedelta(minutes=11))


async def test_an_end_holds_on_every_worker(mongodb_uri: str) -> None:
    """Signing out, a new password and `end_sessions` on one worker end the tokens on the other at once."""
    async with running_gateway(mongodb_uri) as one, running_gateway(mongodb_uri) as two:
        account = await signed_in(one)
        assert await is_good(two, account.token)
        await account.send("POST", "/api/auth/logout")
        assert not await is_good(two, account.token)

        tokens = [await token_of(one, account.user) for _ in range(3)]
        await end_sessions(account.id)
        assert not any([await is_good(two, token) for token in tokens])

        account = Account(one, account.user, await token_of(one, account.user))
        await account.user.update({"$set": {"isActive": False}})
        assert not await is_good(two, account.token)


async def test_a_sign_in_that_is_overtaken_opens_no_session(mongodb_uri: str) -> None:
    """Whoever has shown the old password while it was being changed gets no token out of it."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        now = utc_now()
        assert await set_password({"_id": account.id}, password_hash(), now=now) is not None
        with pytest.raises(Unauthenticated):
            await open_session(account.user, gateway.parts.settings, Whereabouts(), now=now)
        assert await Session.find_all().count() == 0


class OvertakenHasher(PasswordHasher):
    """Lets something happen to the account while its password is being checked."""

    def __init__(self, meanwhile: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self._meanwhile = meanwhile

    async def verify(self, password: str, digest: str | None) -> tuple[bool, str | None]:
        checked = await super().verify(password, digest)
        await self._meanwhile()
        return checked


@pytest.mark.parametrize("meanwhile", ["marked", "deleted", "deactivated", "given another password"])
async def test_what_happens_while_a_password_is_checked_counts(mongodb_uri: str, meanwhile: str) -> None:
    """Who shows what was the right password is refused when the account has changed or gone by the end of the check."""
    async with running_gateway(mongodb_uri) as gateway:
        user = await user_with_password(gateway)
        user_id, now = PydanticObjectId(user.id), utc_now()

        async def change() -> None:
            if meanwhile == "deactivated":
                await user.update({"$set": {"isActive": False}})
            elif meanwhile == "given another password":
                await set_password({"_id": user_id}, security.hash_password(NEW_PASSWORD), now=now)
            else:
                await deletion.mark(user_id, now=now)
            if meanwhile == "deleted":
                await deletion.finish(user_id)

        gateway.app.ctx.hasher.close()
        gateway.app.ctx.hasher = OvertakenHasher(change)
        login = {"email": user.email, "password": PASSWORD}
        assert message_of(await gateway.http.post("/api/auth/login", json=login), 401)
        assert await Session.find_all().count() == 0
        assert await User.find_all().count() == (meanwhile != "deleted")


@pytest.mark.parametrize("fields", [{}, {"signOuts": ""}], ids=["new", "of before there was a number"])
async def test_a_change_that_is_cut_short_ends_every_token(
    mongodb_uri: str, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str]
) -> None:
    """A new password, role or deactivation that was stored ends the tokens, though their sessions could not be deleted."""

    async def fails(_user_id: object) -> None:
        raise AutoReconnect("the database has gone in between")

    async with running_gateway(mongodb_uri) as gateway:
        admin = await signed_in(gateway, Role.ADMIN)
        change = {"currentPassword": PASSWORD, "newPassword": NEW_PASSWORD}
        for path, body in (
            ("/api/auth/password", change),
            ("/api/admin/users/{}", {"role": "premium"}),
            ("/api/admin/users/{}", {"isActive": False}),
        ):
            account = await signed_in(gateway)
            replaced = await token_of(gateway, account.user)
            other = (await refresh(gateway, replaced)).json()["token"]
            for name in ("users", "sessions") if fields else ():
                await gateway.parts.database[name].update_many({}, {"$unset": fields})
            assert await is_good(gateway, other)
            with monkeypatch.context() as patch:
                patch.setattr("admin_api.auth.service.end_sessions", fails)
                patch.setattr("admin_api.admin.service.end_sessions", fails)
                actor = account if body is change else admin
                answer = await actor.send("PATCH", path.format(account.id), body)
                assert message_of(answer, 503)
            await account.user.update({"$set": {"isActive": True}})
            assert await Session.find(Session.userId == account.id).count() == 3
            for token in (account.token, other, replaced):
                assert not await is_good(gateway, token)
                assert (await refresh(gateway, token)).status_code == 401
            user = await User.get(account.id)
            assert user is not None
            assert await is_good(gateway, await token_of(gateway, user))


async def test_a_refresh_that_is_overtaken_opens_no_session(mongodb_uri: str) -> None:
    """A refresh that began before a user's sessions were ended does not bring one back."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        session = await Session.find_one(Session.userId == account.id)
        assert session is not None
        await end_sessions(account.id)
        with pytest.raises(Unauthenticated):
            await refresh_session(session, gateway.parts.settings, Whereabouts(), now=utc_now())
        assert await Session.find_all().count() == 0
