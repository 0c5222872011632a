"""Tests of admin_api/users/deletion.py."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from admin_api.chat.schemas import NewSession
from admin_api.chat.service import create_session
from admin_api.users import deletion
from admin_api.users.schemas import NewApiKey, ProfileChanges
from admin_api.users.service import change_profile, create_api_key, toggle_favorite
from proxy.clock import utc_now
from proxy.core.routing import Role
from proxy.documents import User
from proxy.errors import Unauthenticated
from tests.admin_api.accounts import Account, is_good, message_of, signed_in, token_of
from tests.admin_api.playground import FREE, Playground, playground
from tests.admin_api.users.test_statistics import settled
from tests.gateway import PASSWORD, running_gateway

PATH = "/api/user/account"


async def with_a_past(place: Playground) -> tuple[Account, str]:
    """Return a user who has talked, and his API key."""
    account = await signed_in(place.gateway)
    assert (await account.send("POST", "/api/chat", {"message": "hi", "modelId": FREE})).status_code == 200
    return account, await place.gateway.key(account.user)


async def left_of(place: Playground, account: Account) -> dict[str, int]:
    """Count what is stored of a user, by collection."""
    store = place.gateway.parts.database
    owned = {"$or": [{"userId": account.id}, {"userId": str(account.id)}, {"_id": account.id}]}
    names = ("users", "sessions", "apikeys", "chatsessions", "chatmessages", "usageevents")
    return {name: await store[name].count_documents(owned) for name in names}


async def test_an_account_is_deleted(mongodb_uri: str) -> None:
    """Tokens and keys die at once, everything of the user goes but the usage events, and others keep theirs."""
    async with playground(mongodb_uri) as place:
        account, key = await with_a_past(place)
        other, _ = await with_a_past(place)
        elsewhere = await token_of(place.gateway, account.user)
        await settled(place, 2)
        response = await account.send("DELETE", PATH, {"password": PASSWORD})
        assert response.json() == {"status": "success", "message": "Account deleted successfully"}
        assert "Max-Age=0" in response.headers["set-cookie"]
        for token in (account.token, elsewhere):
            assert not await is_good(place.gateway, token)
        gone = {"users": 0, "sessions": 0, "apikeys": 0, "chatsessions": 0, "chatmessages": 0}
        assert await left_of(place, account) == {**gone, "usageevents": 1}
        assert (await left_of(place, other))["chatmessages"] == 2
        assert await is_good(place.gateway, other.token)
        body = {"model": FREE, "messages": [{"role": "user", "content": "x"}]}
        assert (await place.gateway.chat(key, body)).status_code == 401
        login = {"email": account.user.email, "password": PASSWORD}
        assert (await place.gateway.http.post("/api/auth/login", json=login)).status_code == 401
        again = {"name": "Asha", **login}
        assert (await place.gateway.http.post("/api/auth/register", json=again)).status_code == 201


async def test_only_the_owner_deletes(mongodb_uri: str) -> None:
    """A wrong, missing or mistyped password deletes nothing."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        before = await account.stored()
        wrong = await account.send("DELETE", PATH, {"password": "wrong password"})
        assert message_of(wrong, 401, "INVALID_CREDENTIALS") == "Incorrect password"
        for body in (
            None,
            {},
            {"password": ""},
            {"password": {"$ne": ""}},
            {"password": PASSWORD, "userId": "x"},
        ):
            assert message_of(await account.send("DELETE", PATH, body), 400, "VALIDATION_ERROR")
        for strange in ("x" * 2000, "x\x00y", "😀" * 80):
            assert message_of(await account.send("DELETE", PATH, {"password": strange}), 401)
        assert await account.stored() == before
        assert await is_good(gateway, account.token)


async def test_what_a_crash_left_is_finished_at_the_next_start(mongodb_uri: str) -> None:
    """A marked account cannot be used, and whoever starts next deletes the rest, from whatever step."""
    async with playground(mongodb_uri) as place:
        marked, key = await with_a_past(place)
        half, _ = await with_a_past(place)
        alive, _ = await with_a_past(place)
        await settled(place, 3)
        for account in (marked, half):
            await deletion.mark(account.id, now=utc_now())
            assert not await is_good(place.gateway, account.token)
        body = {"model": FREE, "messages": [{"role": "user", "content": "x"}]}
        assert (await place.gateway.chat(key, body)).status_code == 401
        await place.gateway.parts.database["chatmessages"].delete_many({"userId": half.id})
    async with playground(mongodb_uri) as place:
        for _ in range(100):
            if await User.find(User.deletionRequestedAt != None).count() == 0:  # noqa: E711  Beanie's query
                break
            await asyncio.sleep(0.05)
        for account in (marked, half):
            left = await left_of(place, account)
            assert left.pop("usageevents") == 1
            assert set(left.values()) == {0}
        assert min((await left_of(place, alive)).values()) == 1


async def test_what_is_made_meanwhile_goes_too(mongodb_uri: str) -> None:
    """An API key or a chat that is stored when its owner's account is going, or gone, does not outlive it."""
    async with playground(mongodb_uri) as place:
        account = await signed_in(place.gateway)
        now = utc_now()
        for step in (partial(deletion.mark, now=now), deletion.finish):
            await step(account.id)
            with pytest.raises(Unauthenticated):
                await create_api_key(account.id, NewApiKey(name="late"), most=5, now=now)
            with pytest.raises(Unauthenticated):
                await create_session(account.id, NewSession(), place.gateway.parts.settings.chat, now=now)
            left = await left_of(place, account)
            assert (left["apikeys"], left["chatsessions"]) == (0, 0)


async def test_what_is_changed_meanwhile_brings_nobody_back(mongodb_uri: str) -> None:
    """A change of an account that is going, or gone, is refused as its token is, and makes no document of a user."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        now = utc_now()
        await deletion.mark(account.id, now=now)
        marked = await account.stored()
        for left in (marked, None):
            with pytest.raises(Unauthenticated):
                await change_profile(account.id, ProfileChanges(name="Late"), now=now)
            for is_known in (True, False):
                with pytest.raises(Unauthenticated):
                    await toggle_favorite(account.id, FREE, is_known=is_known)
            assert await account.stored() == left
            await deletion.finish(account.id)


async def test_the_last_admin_stays(mongodb_uri: str) -> None:
    """An admin may leave while another one stays; of two who leave at the same moment one stays."""
    async with running_gateway(mongodb_uri) as gateway:
        one, two = await signed_in(gateway, Role.ADMIN), await signed_in(gateway, Role.ADMIN)
        wish = {"password": PASSWORD}
        answers = await asyncio.gather(one.send("DELETE", PATH, wish), two.send("DELETE", PATH, wish))
        assert sorted(answer.status_code for answer in answers) == [200, 400]
        refused = next(answer for answer in answers if answer.status_code == 400)
        assert "last admin" in message_of(refused, 400)
        assert await User.find(User.role == Role.ADMIN).count() == 1
