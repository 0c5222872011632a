"""Tests of admin_api/auth/endpoints.py: each endpoint on its main path and on every refusal it has."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from admin_api.auth.service import ensure_admin
from admin_api.auth.sessions import end_sessions
from proxy.clock import utc_now
from proxy.core.routing import Role
from proxy.documents import User
from tests.admin_api.accounts import (
    ORIGIN,
    Account,
    cookie_of,
    is_good,
    login,
    message_of,
    signed_in,
    token_of,
    user_with_password,
)
from tests.gateway import PASSWORD, running_gateway

NEWCOMER = {"name": "Asha R", "email": "Asha.R@Example.com", "password": PASSWORD}
USER_FIELDS = {
    "_id",
    "name",
    "email",
    "role",
    "isActive",
    "bio",
    "preferences",
    "usageLimits",
    "stats",
    "apiKeys",
    "createdAt",
    "updatedAt",
    "credits",
    "tokens",
}


async def test_register(mongodb_uri: str) -> None:
    """A new account has every field of a user, positive credits, a token that works and a cookie; once."""
    async with running_gateway(mongodb_uri) as gateway:
        response = await gateway.http.post("/api/auth/register", json=NEWCOMER)
        assert response.status_code == 201
        body = response.json()
        assert (body["status"], body["message"]) == ("success", "User registered successfully")
        user = body["data"]["user"]
        assert user.keys() >= USER_FIELDS
        assert user["email"] == "asha.r@example.com"
        assert user["role"] == "user"
        assert user["credits"] == 50
        assert user["tokens"]["balance"] == 100_000
        assert user["preferences"].keys() == {"theme", "language", "favoriteModels", "notifications"}
        assert user["stats"].keys() >= {
            "messagesGenerated",
            "tokensUsed",
            "totalCost",
            "lastActive",
            "loginCount",
        }
        assert "password" not in response.text.lower()
        assert await is_good(gateway, body["token"])
        cookie = cookie_of(response)
        assert cookie["jwt"] == body["token"]
        assert (cookie["path"], cookie["samesite"], cookie["max-age"]) == ("/", "Strict", "604800")
        assert "httponly" in cookie
        assert "secure" not in cookie

        for email in ("asha.r@example.com", "ASHA.R@EXAMPLE.COM"):
            again = await gateway.http.post("/api/auth/register", json={**NEWCOMER, "email": email})
            assert message_of(again, 400, "EMAIL_TAKEN") == "User with this email already exists"
        dotless = {**NEWCOMER, "email": "ashar@example.com"}
        assert (await gateway.http.post("/api/auth/register", json=dotless)).status_code == 201


@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("/api/auth/register", NEWCOMER),
        ("/api/auth/login", {"email": "asha@example.com", "password": PASSWORD}),
        ("/api/auth/forgot-password", {"email": "asha@example.com"}),
        ("/api/auth/reset-password/token", {"password": PASSWORD}),
    ],
)
async def test_bodies_of_everybody_are_strict(mongodb_uri: str, path: str, good: dict[str, Any]) -> None:
    """A missing, unknown, mistyped or operator-laden field is a 400 that names it; nothing reaches the database."""
    method = "PATCH" if "reset" in path else "POST"
    async with running_gateway(mongodb_uri) as gateway:
        for field in good:
            for wrong in ({"$ne": None}, {"$gt": ""}, ["x"], 7, True, None, ""):
                response = await gateway.http.request(method, path, json={**good, field: wrong})
                assert f"{field}: " in message_of(response, 400, "VALIDATION_ERROR")
            missing = {name: value for name, value in good.items() if name != field}
            response = await gateway.http.request(method, path, json=missing)
            assert message_of(response, 400) == f"Validation failed: {field}: Field required"
        for extra in ("role", "isActive", "usageLimits", "$where", "a.b"):
            response = await gateway.http.request(method, path, json={**good, extra: "admin"})
            assert f"{extra}: " in message_of(response, 400, "VALIDATION_ERROR")
        for body in (
            b"",
            b"[]",
            b"null",
            b"{",
            b'{"email": "\\ud800", "password": "\\ud800"}',
            b'"text"',
            b"\xff",
        ):
            response = await gateway.http.request(method, path, content=body)
            assert message_of(response, 400, "VALIDATION_ERROR").startswith("Validation failed: ")
        assert message_of(await gateway.http.request(method, path, content=b" " * 70_000), 413)
        compressed = {"content-encoding": "gzip"}
        assert message_of(await gateway.http.request(method, path, content=b"x", headers=compressed), 415)
        assert await User.count() == 0


async def test_login(mongodb_uri: str) -> None:
    """The address may be typed in any case; the sign-in is counted, and the token works."""
    async with running_gateway(mongodb_uri) as gateway:
        user = await user_with_password(gateway)
        response = await login(gateway, f"  {user.email.upper()} ")
        assert response.status_code == 200
        assert response.json()["message"] == "Login successful"
        described = response.json()["data"]["user"]
        assert described["stats"]["loginCount"] == 1
        assert described["stats"]["lastActive"] is not None
        assert await is_good(gateway, response.json()["token"])


async def test_login_says_nothing_about_who_exists(mongodb_uri: str) -> None:
    """Unknown user, wrong password, no password and impossible passwords get byte for byte the same answer."""
    now = "2026-11-23T10:00:00+00:00"
    async with running_gateway(mongodb_uri) as gateway:
        user = await user_with_password(gateway)
        inactive = await user_with_password(gateway, isActive=False)
        without = await gateway.user()
        await without.update({"$set": {"password": None}})
        nobody = "nobody@example.com"
        tries = [
            (nobody, PASSWORD),
            (user.email, "wrong password"),
            (inactive.email, "wrong password"),
            (without.email, PASSWORD),
            ("not an address", PASSWORD),
            *(
                (address, secret)
                for address in (nobody, user.email)
                for secret in ("x" * 73, "x\x00y", "😀" * 300)
            ),
        ]
        answers = [await login(gateway, *attempt) for attempt in tries]
        bodies = {tuple(sorted({**answer.json(), "timestamp": now}.items())) for answer in answers}
        assert len(bodies) == 1
        assert message_of(answers[0], 401, "INVALID_CREDENTIALS") == "Incorrect email or password"
        assert len({len(answer.content) for answer in answers}) == 1
        refused = await login(gateway, inactive.email)
        assert message_of(refused, 401) == "Your account has been deactivated. Please contact support."


@pytest.mark.long
@pytest.mark.usefixtures("production_passwords")
async def test_login_works_as_hard_for_everybody(mongodb_uri: str) -> None:
    """Unknown, disabled and known accounts cost the same: the hash, and as many looks at the database."""
    async with running_gateway(mongodb_uri) as gateway:
        user = await user_with_password(gateway)
        inactive = await user_with_password(gateway, isActive=False)
        emails = {"unknown": "nobody@example.com", "disabled": inactive.email, "known": user.email}
        work: dict[str, list[float]] = {name: [] for name in emails}
        for name, email in list(emails.items()) * 4:
            began = time.process_time()
            assert (await login(gateway, email, f"wrong {len(work[name])}")).status_code == 401
            work[name].append(time.process_time() - began)
        least = {name: min(times) for name, times in work.items()}
        # The hash is nearly all of it; without it an answer would take a tenth.
        assert max(least.values()) < 1.6 * min(least.values()), least


async def test_gateways_that_start_at_once_make_one_admin(mongodb_uri: str) -> None:
    """Of several that find no admin at the same moment one makes him, and the others start as well."""
    async with running_gateway(mongodb_uri) as gateway:
        hasher = gateway.app.ctx.hasher
        made = await asyncio.gather(
            *(ensure_admin("root@example.com", PASSWORD, hasher, now=utc_now()) for _ in range(3))
        )
        assert sorted(made) == [False, False, True]


async def test_logout(mongodb_uri: str) -> None:
    """Signing out ends the token at once and clears the cookie; without a token it only clears the cookie."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        other = await token_of(gateway, account.user)
        response = await account.send("POST", "/api/auth/logout")
        assert response.json() == {"status": "success", "message": "Logged out successfully"}
        assert (cookie_of(response)["jwt"].strip('"'), cookie_of(response)["max-age"]) == ("", "0")
        assert not await is_good(gateway, account.token)
        assert await is_good(gateway, other)
        for headers in (
            {},
            {"authorization": "Bearer nonsense"},
            {"authorization": f"Bearer {account.token}"},
        ):
            response = await gateway.http.post("/api/auth/logout", headers=headers)
            assert response.status_code == 200

        cookie = {"cookie": f"jwt={other}"}
        await gateway.http.post("/api/auth/logout", headers={**cookie, "origin": "https://evil.example"})
        assert await is_good(gateway, other)
        await gateway.http.post("/api/auth/logout", headers={**cookie, "origin": ORIGIN})
        assert not await is_good(gateway, other)


async def test_me_and_verify(mongodb_uri: str) -> None:
    """Both describe who is signed in; without a good token both are 401 and name the scheme."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway, Role.PREMIUM)
        me = await account.send("GET", "/api/auth/me")
        verified = await account.send("GET", "/api/auth/verify")
        assert verified.json()["message"] == "Token is valid"
        assert me.json()["data"] == verified.json()["data"]
        assert me.json()["data"]["user"]["email"] == account.user.email
        assert me.json()["data"]["user"]["credits"] == 200
        assert me.headers["cache-control"] == "no-store"
        for path in ("/api/auth/me", "/api/auth/verify"):
            refused = await gateway.http.get(path)
            expected = "You are not logged in! Please log in to get access."
            assert message_of(refused, 401, "UNAUTHENTICATED") == expected
            assert refused.headers["www-authenticate"] == "Bearer"


async def test_every_reason_of_a_401_has_its_message(mongodb_uri: str) -> None:
    """Deactivated, deleted, ended and forged tokens are told apart as the original told them apart."""
    async with running_gateway(mongodb_uri) as gateway:

        async def refusal(account: Account) -> str:
            return message_of(await account.send("GET", "/api/auth/me"), 401, "UNAUTHENTICATED")

        account = await signed_in(gateway)
        await end_sessions(account.id)
        assert await refusal(account) == "Invalid token. Please log in again!"
        account = await signed_in(gateway)
        await account.user.update({"$set": {"isActive": False}})
        assert await refusal(account) == "Your account has been deactivated. Please contact support."
        account = await signed_in(gateway)
        await account.user.delete()
        assert await refusal(account) == "The user belonging to this token does no longer exist."
        forged = await gateway.http.get("/api/auth/me", headers={"authorization": f"Bearer {account.token}x"})
        assert message_of(forged, 401) == "Invalid token. Please log in again!"
