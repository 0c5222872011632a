"""Users of the account service in tests: with a password, and signed in without a form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
from beanie import PydanticObjectId

from admin_api.auth.sessions import open_session
from admin_api.auth.whereabouts import Whereabouts
from proxy import security
from proxy.core.routing import Role
from proxy.documents import User
from tests.gateway import PASSWORD, RunningGateway

ORIGIN = "http://localhost:3000"
NEW_PASSWORD = "another long secret"


def password_hash() -> str:
    """Return an argon2id hash of `PASSWORD`."""
    return security.hash_password(PASSWORD)


async def user_with_password(gateway: RunningGateway, role: Role = Role.USER, **fields: Any) -> User:
    """Put a user into the database who can sign in with `PASSWORD`."""
    user = await gateway.user(role, **fields)
    await user.update({"$set": {"password": password_hash()}})
    return user


@dataclass(frozen=True)
class Account:
    """A user who is signed in, and what he sends."""

    gateway: RunningGateway
    user: User
    token: str

    @property
    def id(self) -> PydanticObjectId:
        """Return the user's id."""
        assert self.user.id is not None
        return PydanticObjectId(self.user.id)

    async def send(self, method: str, path: str, body: object = None, **options: Any) -> httpx.Response:
        """Send a request with the user's token as a bearer token."""
        headers = {"authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        content: dict[str, Any] = {} if body is None else {"json": body}
        return await self.gateway.http.request(method, path, headers=headers, **content, **options)

    async def stored(self) -> dict[str, Any] | None:
        """Return the user's document as it is in the database."""
        return await self.gateway.parts.database["users"].find_one({"_id": self.id})


async def signed_in(gateway: RunningGateway, role: Role = Role.USER, **fields: Any) -> Account:
    """Return a new user who is signed in."""
    user = await user_with_password(gateway, role, **fields)
    return Account(gateway, user, await token_of(gateway, user))


async def token_of(gateway: RunningGateway, user: User) -> str:
    """Open a session for a user and return its token."""
    return await open_session(user, gateway.parts.settings, Whereabouts(), now=gateway.parts.clock())


async def login(gateway: RunningGateway, email: str, password: str = PASSWORD) -> httpx.Response:
    """Try to sign in with an e-mail and a password."""
    return await gateway.http.post("/api/auth/login", json={"email": email, "password": password})


def cookie_of(response: httpx.Response) -> dict[str, str]:
    """Read the `jwt` cookie of an answer: its value under `jwt`, and its attributes in lower case."""
    parts = [part.strip().partition("=") for part in response.headers["set-cookie"].split(";")]
    return {name.lower() if name != "jwt" else name: value for name, _, value in parts}


async def is_good(gateway: RunningGateway, token: str) -> bool:
    """Say whether a token signs its holder in."""
    response = await gateway.http.get("/api/auth/me", headers={"authorization": f"Bearer {token}"})
    assert response.status_code in (200, 401)
    return response.status_code == 200


def message_of(response: httpx.Response, status: int, code: str | None = None) -> str:
    """Check that an answer is the one error envelope, and return its message."""
    body = response.json()
    assert response.status_code == status, body
    assert body["status"] == ("fail" if status < 500 else "error")
    assert body["timestamp"].endswith("Z")
    if code is not None:
        assert body["code"] == code
    return str(body["message"])
