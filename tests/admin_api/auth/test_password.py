"""Tests of a changed password in admin_api/auth/endpoints.py: what it ends, and who may not change it."""

from __future__ import annotations

from typing import Any

from tests.admin_api.accounts import (
    NEW_PASSWORD,
    cookie_of,
    is_good,
    login,
    message_of,
    signed_in,
    token_of,
)
from tests.gateway import PASSWORD, running_gateway


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
