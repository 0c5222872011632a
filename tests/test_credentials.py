"""Every credential against every route: the matrix is made from the router, so that a new route is in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from admin_api.access import rule_of
from admin_api.openapi.document import routes
from proxy.core.routing import Role
from proxy.settings import ProviderSettings
from tests.admin_api.accounts import signed_in, token_of
from tests.gateway import RunningGateway, running_gateway

PROVIDERS = {"demo": ProviderSettings(plugin="demo")}
PUBLIC_PATHS = {"/", "/health", "/health/ready", "/metrics", "/docs", "/docs/openapi.json"}
ID = "0123456789abcdef01234567"
ADMITTED = 0
"""Neither 401 nor 403: what the route answers then is not this test's subject."""

PEOPLE = ("a user", "a premium user", "an admin")
ALL = ("nothing", "nonsense", "a key", "a key for models", *PEOPLE)

Credential = Callable[[], Awaitable[str]]


@pytest.fixture
async def gateway(mongodb_uri: str) -> AsyncIterator[RunningGateway]:
    async with running_gateway(mongodb_uri, PROVIDERS, rate_limits={"development_factor": 10_000}) as running:
        yield running


async def credentials(gateway: RunningGateway) -> dict[str, Credential]:
    """Return how to get each credential; a token is a new one each time, since some routes end it."""

    def token(role: Role) -> Credential:
        async def issue() -> str:
            return await token_of(gateway, user)

        user = users[role]
        return issue

    def constant(value: str) -> Credential:
        async def give() -> str:
            return value

        return give

    users = {role: (await signed_in(gateway, role)).user for role in Role}
    admins_key = await gateway.key(users[Role.ADMIN])
    return {
        "nothing": constant(""),
        "nonsense": constant("nonsense"),
        "a key": constant(admins_key),
        "a key for models": constant(await gateway.key(users[Role.ADMIN], permissions=["models"])),
        "a user": token(Role.USER),
        "a premium user": token(Role.PREMIUM),
        "an admin": token(Role.ADMIN),
    }


def expected(method: str, path: str, rule: str | None, who: str) -> int:
    """Return the status with which a credential is refused by a route, or `ADMITTED`; every route has a rule."""
    if rule is None and not path.startswith("/v1/"):
        assert path in PUBLIC_PATHS, f"{method} {path} is under no rule"
        return ADMITTED
    if path.startswith("/v1/"):
        has_scope = who == "a key" or (who == "a key for models" and method == "get")
        return ADMITTED if has_scope else 403 if who.startswith("a key") else 401
    admitted = {
        "public": set(ALL),
        "optional": {*PEOPLE, "nothing"},
        "user": set(PEOPLE),
        "admin": {"an admin"},
    }
    if who in admitted[rule or ""]:
        return ADMITTED
    return 403 if who in PEOPLE else 401


async def test_every_credential_on_every_route(gateway: RunningGateway) -> None:
    """A route lets in whom its rule names and nobody else: a key never reaches /api, a token never /v1, a user no admin's."""
    everybody = await credentials(gateway)
    tried = 0
    for method, path, route in routes(gateway.app):
        for who, credential in everybody.items():
            secret = await credential()
            gateway.http.cookies.clear()  # that of an earlier refresh
            headers = {"authorization": f"Bearer {secret}"} if secret else {}
            answer = await gateway.http.request(method, _filled(path), headers=headers)
            wanted = expected(method, path, rule_of(route.handler), who)
            refusal = answer.status_code if answer.status_code in (401, 403) else ADMITTED
            assert refusal == wanted, f"{who} at {method} {path}: {answer.status_code} {answer.text[:200]}"
            assert answer.status_code < 500, f"{who} at {method} {path}"
            tried += 1
    assert tried >= 7 * 50


async def test_a_key_makes_no_key_and_changes_no_account(gateway: RunningGateway) -> None:
    """With an admin's key nothing of the account service can be read or changed, in whatever header it is sent."""
    admin = await signed_in(gateway, Role.ADMIN)
    key = await gateway.key(admin.user)
    before = await _everything(gateway)
    for headers in (
        {"authorization": f"Bearer {key}"},
        {"authorization": f"Basic {key}"},
        {"x-api-key": key},
        {"cookie": f"jwt={key}", "origin": gateway.base_url},
    ):
        for method, path, body in (
            ("POST", "/api/user/api-keys", {"name": "another"}),
            ("PATCH", "/api/user/profile", {"bio": "x"}),
            ("PATCH", f"/api/admin/users/{admin.id}", {"role": "user"}),
            ("GET", "/api/admin/users", None),
        ):
            answer = await gateway.http.request(method, path, headers=headers, json=body)
            assert answer.status_code == 401, (headers, path)
    assert await _everything(gateway) == before


async def _everything(gateway: RunningGateway) -> list[Any]:
    database = gateway.parts.database
    without_use = {"lastUsed": 0}
    return [await database[name].find({}, without_use).to_list() for name in ("apikeys", "users")]


def _filled(path: str) -> str:
    head, brace, tail = path.partition("{")
    return head + ID + tail.partition("}")[2] if brace else path
