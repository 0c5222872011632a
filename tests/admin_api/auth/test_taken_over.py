"""Users of a database that was taken over: they sign in as ever, by any form of their address, and nobody gets it."""

from __future__ import annotations

import pytest

from admin_api.auth.hashing import PasswordHasher
from admin_api.auth.service import ensure_admin, is_password_of
from proxy import security
from proxy.clock import utc_now
from proxy.documents import User
from tests.admin_api.accounts import NEW_PASSWORD, login, message_of, password_hash, user_with_password
from tests.admin_api.auth.test_endpoints import NEWCOMER
from tests.gateway import PASSWORD, running_gateway

BCRYPT_HASH = "$2b$04$8JIqZirjlq0QJXmkm0pxWexJTdYyThPdplrJgbNGX6MO.ZDIAAljG"  # of "secret-of-2025"


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
