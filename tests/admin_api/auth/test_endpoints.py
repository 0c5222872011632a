"""Tests of admin_api/auth/endpoints.py: each endpoint on its main path and on every refusal it has."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from admin_api.auth.hashing import PasswordHasher
from admin_api.auth.service import ensure_admin, is_password_of
from admin_api.auth.sessions import end_sessions
from proxy import security
from proxy.clock import utc_now
from proxy.core.routing import Role
from proxy.documents import User
from tests.admin_api.accounts import (
    NEW_PASSWORD,
    ORIGIN,
    Account,
    is_good,
    message_of,
    password_hash,
    signed_in,
    token_of,
    user_with_password,
)
from tests.gateway import PASSWORD, RunningGateway, running_gateway

NEWCOMER = {"name": "Asha R", "email": "Asha.R@Example.com", "password": PASSWORD}
BCRYPT_HASH = "$2b$04$8JIqZirjlq0QJXmkm0pxWexJTdYyThPdplrJgbNGX6MO.ZDIAAljG"  # of "secret-of-2025"
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


async def login(gateway: RunningGateway, email: str, password: str = PASSWORD) -> httpx.Response:
    return await gateway.http.post("/api/auth/login", json={"email": email, "password": password})


def cookie_of(response: httpx.Response) -> dict[str, str]:
    """Read the `jwt` cookie of an answer: its value under `jwt`, and its attributes in lower case."""
    parts = [part.strip().partition("=") for part in response.headers["set-cookie"].split(";")]
    return {name.lower() if name != "jwt" else name: value for name, _, value in parts}


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


async def test_users_of_a_taken_over_database_sign_in(mongodb_uri: str) -> None:
    """bcrypt hashes of any length count and become argon2id; a Gmail address is found as the original stored it."""
    async with running_gateway(mongodb_uri) as gateway:
        user = await gateway.user()
        hashed = BCRYPT_HASH
        await user.update({"$set": {"email": "ashar@gmail.com", "password": hashed}})
        for typed in ("Asha.R@Gmail.com", "ashar+news@googlemail.com"):
            assert (await login(gateway, typed, "secret-of-2025")).status_code == 200
        stored = await User.get(user.id)
        assert stored is not None
        assert stored.password is not None
        assert stored.password.startswith("$argon2id$")
        assert (await login(gateway, "ashar@gmail.com", "secret-of-2025")).status_code == 200


SPELLINGS = [
    ("asharao@gmail.com", "Asha.Rao@Gmail.com"),
    ("asharao@gmail.com", "asharao+tag@googlemail.com"),
    ("asha@outlook.com", "asha+tag@outlook.com"),
    ("asha@icloud.com", "asha+tag@icloud.com"),
    ("asha@yahoo.com", "asha-tag@yahoo.com"),
    ("asha@yandex.ru", "asha@ya.ru"),
]
"""What the original service has stored, and what its user types."""


@pytest.mark.parametrize(("stored", "typed"), SPELLINGS)
async def test_nobody_gets_the_address_of_a_taken_over_user(
    mongodb_uri: str, stored: str, typed: str
) -> None:
    """What somebody types for his account cannot be registered by another, neither by form nor by the operator."""
    async with running_gateway(mongodb_uri) as gateway:
        user = await user_with_password(gateway)
        await user.update({"$set": {"email": stored}})
        for email in (typed, typed.upper(), stored):
            refused = await gateway.http.post("/api/auth/register", json={**NEWCOMER, "email": email})
            assert message_of(refused, 400, "EMAIL_TAKEN") == "User with this email already exists"
            assert not await ensure_admin(email, NEW_PASSWORD, gateway.app.ctx.hasher, now=utc_now())
        found = await login(gateway, typed)
        assert found.json()["data"]["user"]["_id"] == str(user.id)


async def test_gateways_that_start_at_once_make_one_admin(mongodb_uri: str) -> None:
    """Of several that find no admin at the same moment one makes him, and the others start as well."""
    async with running_gateway(mongodb_uri) as gateway:
        hasher = gateway.app.ctx.hasher
        made = await asyncio.gather(
            *(ensure_admin("root@example.com", PASSWORD, hasher, now=utc_now()) for _ in range(3))
        )
        assert sorted(made) == [False, False, True]


@pytest.mark.parametrize(("stored", "typed"), SPELLINGS)
async def test_of_two_with_one_address_each_has_his_account(
    mongodb_uri: str, stored: str, typed: str
) -> None:
    """Where a stranger has got the form that a user types, the password says whose account is meant."""
    async with running_gateway(mongodb_uri) as gateway:
        user = await user_with_password(gateway)
        await user.update({"$set": {"email": stored}})
        stranger = await user_with_password(gateway)
        hashed = security.hash_password(NEW_PASSWORD)
        await stranger.update({"$set": {"email": typed.lower(), "password": hashed}})
        for password, owner in ((PASSWORD, user), (NEW_PASSWORD, stranger)):
            found = await login(gateway, typed, password)
            assert found.json()["data"]["user"]["_id"] == str(owner.id)
        assert message_of(await login(gateway, typed, "neither's"), 401, "INVALID_CREDENTIALS")


class CountingHasher(PasswordHasher):
    """Counts how often a password is checked."""

    checks = 0

    async def verify(self, password: str, digest: str | None) -> tuple[bool, str | None]:
        self.checks += 1
        return await super().verify(password, digest)


async def test_an_address_of_two_forms_is_as_hard_for_everybody(mongodb_uri: str) -> None:
    """A wrong password costs as many checks as the address has forms, whoever has them; a right one is found at once."""
    async with running_gateway(mongodb_uri) as gateway:
        for email in ("asha.r@gmail.com", "ravik@gmail.com", "mi.ra@gmail.com", "mira@gmail.com"):
            await (await user_with_password(gateway)).update({"$set": {"email": email}})
        gateway.app.ctx.hasher.close()
        gateway.app.ctx.hasher = hasher = CountingHasher()
        for email in ("asha.r@gmail.com", "ravi.k@gmail.com", "mi.ra@gmail.com", "no.body@gmail.com"):
            hasher.checks = 0
            assert (await login(gateway, email, "not it at all")).status_code == 401
            assert hasher.checks == 2
        for email in ("asha.r@gmail.com", "ravi.k@gmail.com", "mi.ra@gmail.com"):
            hasher.checks = 0
            assert (await login(gateway, email)).status_code == 200
            assert hasher.checks == 1


async def test_a_migrated_hash_never_undoes_a_password_change(mongodb_uri: str) -> None:
    """The better hash replaces the very hash that was checked and no other."""
    async with running_gateway(mongodb_uri) as gateway:
        user = await gateway.user()
        hashed = BCRYPT_HASH
        await user.update({"$set": {"password": hashed}})
        await User.get_pymongo_collection().update_one(
            {"_id": user.id}, {"$set": {"password": password_hash()}}
        )
        assert await is_password_of(user, "secret-of-2025", gateway.app.ctx.hasher)
        assert (await login(gateway, user.email, PASSWORD)).status_code == 200
        assert (await login(gateway, user.email, "secret-of-2025")).status_code == 401


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


async def test_password(mongodb_uri: str) -> None:
    """A change ends every session, the new token works, and only the new password signs in."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        other = await token_of(gateway, account.user)
        wish = {"currentPassword": PASSWORD, "newPassword": NEW_PASSWORD}
        response = await account.send("PATCH", "/api/auth/password", wish)
        assert response.status_code == 200, response.text
        assert response.json()["message"] == "Password updated successfully"
        assert cookie_of(response)["jwt"] == response.json()["token"]
        assert await is_good(gateway, response.json()["token"])
        assert not await is_good(gateway, account.token)
        assert not await is_good(gateway, other)
        ended = await account.send("GET", "/api/auth/me")
        assert message_of(ended, 401) == "User recently changed password! Please log in again."
        assert (await login(gateway, account.user.email)).status_code == 401
        assert (await login(gateway, account.user.email, NEW_PASSWORD)).status_code == 200


async def test_password_refusals(mongodb_uri: str) -> None:
    """Without a token 401, with the wrong current password 401, with a bad body 400; nothing changes."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        wish = {"currentPassword": PASSWORD, "newPassword": NEW_PASSWORD}
        assert message_of(await gateway.http.patch("/api/auth/password", json=wish), 401)
        wrong = await account.send("PATCH", "/api/auth/password", {**wish, "currentPassword": "not it"})
        assert message_of(wrong, 401, "INVALID_CREDENTIALS") == "Your current password is incorrect."
        bad: list[dict[str, Any]] = [
            {"newPassword": NEW_PASSWORD},
            {"currentPassword": PASSWORD},
            {**wish, "newPassword": "short"},
            {**wish, "newPassword": "password123"},
            {**wish, "newPassword": "x" * 1025},
            {**wish, "newPassword": {"$set": "x"}},
            {**wish, "currentPassword": {"$ne": ""}},
            {**wish, "userId": "x"},
        ]
        for body in bad:
            response = await account.send("PATCH", "/api/auth/password", body)
            assert message_of(response, 400, "VALIDATION_ERROR").startswith("Validation failed: ")
        assert await is_good(gateway, account.token)
        stored = await account.stored()
        assert stored is not None
        assert stored["password"] == account.user.password


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
