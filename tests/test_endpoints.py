"""The table of endpoints: each is there, says who may call it, and refuses everybody and everything else.

What each endpoint does is proven beside its code; that its answers have the promised shape, in
tests/admin_api/test_openapi.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from admin_api.access import rule_of
from admin_api.openapi.document import OPERATIONS, routes
from admin_api.openapi.operations import Operation
from admin_api.validation import MAX_BODY_BYTES
from proxy.core.routing import Role
from proxy.limits import Limits
from proxy.server import create_app
from proxy.settings import ProviderSettings, Settings
from tests.admin_api.accounts import Account, message_of, signed_in, token_of
from tests.gateway import JWT_SECRET, RunningGateway, running_gateway

PROVIDERS = {"demo": ProviderSettings(plugin="demo")}

SPECIFIED = {
    # Authentication
    "POST /api/auth/register": "public",
    "POST /api/auth/login": "public",
    "POST /api/auth/logout": "public",
    "GET /api/auth/me": "user",
    "PATCH /api/auth/password": "user",
    "POST /api/auth/forgot-password": "public",
    "PATCH /api/auth/reset-password/{token}": "public",
    "GET /api/auth/verify": "user",
    "POST /api/auth/refresh": "user",
    # Models
    "GET /api/models": "optional",
    "GET /api/models/{model_id}": "optional",
    "GET /api/models/category/{category}": "optional",
    "GET /api/models/providers": "optional",
    "GET /api/models/categories": "optional",
    "POST /api/models/sync": "admin",
    # Chat
    "POST /api/chat": "user",
    "GET /api/chat/sessions": "user",
    "GET /api/chat/sessions/{session_id}": "user",
    "PATCH /api/chat/sessions/{session_id}": "user",
    "DELETE /api/chat/sessions/{session_id}": "user",
    "DELETE /api/chat/messages/{message_id}": "user",
    "GET /api/chat/stats": "user",
    # Users
    "GET /api/user/profile": "user",
    "PATCH /api/user/profile": "user",
    "GET /api/user/stats": "user",
    "POST /api/user/favorites/{model}": "user",
    "GET /api/user/favorites": "user",
    "POST /api/user/api-keys": "user",
    "GET /api/user/api-keys": "user",
    "DELETE /api/user/api-keys/{key_id}": "user",
    "GET /api/user/export": "user",
    "DELETE /api/user/account": "user",
    # Admins
    "GET /api/admin/stats": "admin",
    "GET /api/admin/users": "admin",
    "GET /api/admin/users/{user_id}": "admin",
    "PATCH /api/admin/users/{user_id}": "admin",
    "DELETE /api/admin/users/{user_id}": "admin",
    "GET /api/admin/system": "admin",
    "PATCH /api/admin/models/{model_id}": "admin",
    # System
    "GET /health": None,
    "GET /": None,
}
BESIDES = {
    "POST /api/chat/sessions": "user",  # the frontend calls it
    "PATCH /api/user/api-keys/{key_id}": "user",
    "GET /api/auth/sessions": "user",
    "DELETE /api/auth/sessions": "user",
    "DELETE /api/auth/sessions/{sign_in_id}": "user",
    "GET /api/admin/users/{user_id}/sessions": "admin",
    "DELETE /api/admin/users/{user_id}/sessions": "admin",
    "GET /api/admin/audit": "admin",
    "GET /api/admin/ledger/verify": "admin",
    "POST /v1/chat/completions": "key",
    "POST /v1/embeddings": "key",
    "POST /v1/responses": "key",
    "POST /v1/messages": "key",
    "GET /v1/models": "key",
    "GET /v1/models/{model}": "key",
    "GET /v1/key": "key",
    "GET /v1/requests/{request_id}": "key",
    "GET /health/ready": None,
    "GET /metrics": None,
    "GET /docs": None,
    "GET /docs/openapi.json": None,
}
ENDPOINTS: dict[str, str | None] = SPECIFIED | BESIDES
MAX_CHAT_BYTES = 100_000
ID = "0123456789abcdef01234567"
MALFORMED = ("x", "0" * 23, "%24where", "%7B%22%24ne%22%3A1%7D", "%00", "a" * 300, "..%2F..", "%F0%9F%8D%9D")
WRONG_BODIES: tuple[Any, ...] = ([], "text", 7, None, {"$where": "1"}, {"a.b": 1}, {"unheard": "of"})

BODIES: dict[str, Any] = {
    "PATCH /api/auth/reset-password/{token}": {"password": "a long enough secret"},
    "PATCH /api/chat/sessions/{session_id}": {"title": "new"},
    "PATCH /api/user/api-keys/{key_id}": {"name": "new"},
    "PATCH /api/admin/users/{user_id}": {"role": "premium"},
    "PATCH /api/admin/models/{model_id}": {"isAvailable": True},
}


@pytest.fixture
async def gateway(mongodb_uri: str) -> AsyncIterator[RunningGateway]:
    limits = Limits(chat_body_bytes=MAX_CHAT_BYTES)
    async with running_gateway(mongodb_uri, PROVIDERS, limits=limits) as running:
        yield running


def ruled(*rules: str) -> list[str]:
    return [endpoint for endpoint, rule in ENDPOINTS.items() if rule in rules]


def operation_of(endpoint: str) -> Operation:
    method, _, path = endpoint.partition(" ")
    return OPERATIONS[method.lower(), path]


def filled(endpoint: str, value: str = ID) -> tuple[str, str]:
    """Return method and path with a value for what varies."""
    method, _, path = endpoint.partition(" ")
    head, brace, tail = path.partition("{")
    return method, head + value + tail.partition("}")[2] if brace else path


async def call(gateway: RunningGateway, endpoint: str, token: str = "", **options: Any) -> httpx.Response:
    method, path = filled(endpoint)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return await gateway.http.request(method, path, headers=headers | options.pop("headers", {}), **options)


def test_the_specification_has_its_41_endpoints() -> None:
    """The table of what the specification asks for is whole."""
    assert len(SPECIFIED) == 41


def test_every_endpoint_is_served_under_its_rule() -> None:
    """What is served is what the table names; a route of /api without a declared rule fails."""
    app = create_app(
        Settings(jwt_secret=JWT_SECRET, providers=PROVIDERS), "mongodb://localhost", name="table"
    )
    served = {f"{method.upper()} {path}": rule_of(route.handler) for method, path, route in routes(app)}
    expected = {endpoint: None if rule == "key" else rule for endpoint, rule in ENDPOINTS.items()}
    assert served == expected
    for endpoint, rule in served.items():
        assert rule is not None or "/api/" not in endpoint


async def test_without_a_token_nothing_private_answers(gateway: RunningGateway) -> None:
    """No token, a made-up one and another scheme are 401 in the shape of the surface, whatever else is sent."""
    for endpoint in ruled("user", "admin"):
        for headers in ({}, {"authorization": "Bearer nonsense"}, {"authorization": "Basic eDp5"}):
            response = await call(gateway, endpoint, headers=headers)
            message_of(response, 401, "UNAUTHENTICATED")
            assert response.headers["www-authenticate"] == "Bearer"
    for endpoint in ruled("key"):
        for token in ("", "nonsense"):
            response = await call(gateway, endpoint, token)
            assert response.status_code == 401, endpoint
            assert response.json()["error"]["type"] == "authentication_error"
    for endpoint in ruled("optional"):
        assert (await call(gateway, endpoint)).status_code in (200, 400, 404), endpoint
        assert (await call(gateway, endpoint, "nonsense")).status_code == 401, endpoint


async def test_only_admins_do_what_admins_do(gateway: RunningGateway) -> None:
    """A user and a premium user are 403 on every admin's endpoint, and an API key is no token."""
    for role in (Role.USER, Role.PREMIUM):
        account = await signed_in(gateway, role)
        key = await gateway.key(account.user)
        for endpoint in ruled("admin"):
            response = await call(gateway, endpoint, account.token)
            assert message_of(response, 403, "FORBIDDEN") == "Admin access required"
            assert (await call(gateway, endpoint, key)).status_code == 401
    assert await gateway.parts.database["auditlog"].count_documents({"action": {"$regex": "^admin"}}) == 0


async def test_a_token_opens_no_door_of_the_data_plane(gateway: RunningGateway) -> None:
    """/v1 takes API keys alone, and /api tokens alone."""
    admin = await signed_in(gateway, Role.ADMIN)
    for endpoint in ruled("key"):
        assert (await call(gateway, endpoint, admin.token)).status_code == 401


async def test_ids_that_nobody_has_are_refused(gateway: RunningGateway) -> None:
    """Malformed ids are 400 or 404 and unknown ones 404, never 500 and never somebody's."""
    admin = await signed_in(gateway, Role.ADMIN)
    for endpoint in (endpoint for endpoint in ENDPOINTS if "/api/" in endpoint and "{" in endpoint):
        for value in (ID, *MALFORMED):
            method, path = filled(endpoint, value)
            response = await admin.send(method, path, BODIES.get(endpoint))
            assert response.status_code in (400, 404), f"{method} {path}: {response.text}"
            if "_id}" in endpoint and value == ID:
                assert response.status_code == 404, endpoint


async def test_bodies_are_strict_everywhere(gateway: RunningGateway) -> None:
    """Every body that is not the declared one is one 400 in the envelope; encoded and huge ones are 415 and 413."""
    admin = await signed_in(gateway, Role.ADMIN)
    ids = await _own(admin)
    headers = {"authorization": f"Bearer {admin.token}"}
    for endpoint in (endpoint for endpoint in ENDPOINTS if "/api/" in endpoint):
        if operation_of(endpoint).body is None:
            continue
        method, _, path = endpoint.partition(" ")
        for name, value in ids.items():
            path = path.replace(name, value)
        for wrong in (*(orjson.dumps(body) for body in WRONG_BODIES), b"{", b'{"a":' * 5_000):
            response = await gateway.http.request(method, path, headers=headers, content=wrong)
            message = message_of(response, 400, "VALIDATION_ERROR")
            assert message.startswith("Validation failed: "), endpoint
        size = MAX_CHAT_BYTES if path == "/api/chat" else MAX_BODY_BYTES
        response = await gateway.http.request(method, path, headers=headers, content=b" " * (size + 1))
        message_of(response, 413, "PAYLOAD_TOO_LARGE")
        encoded = {**headers, "content-encoding": "gzip"}
        response = await gateway.http.request(method, path, headers=encoded, content=b"{}")
        message_of(response, 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_what_belongs_to_others_is_missing(gateway: RunningGateway) -> None:
    """Another's session, message and key answer exactly as missing ones, to users and to admins, and stay."""
    owner, user = await signed_in(gateway), await signed_in(gateway)
    admin = await signed_in(gateway, Role.ADMIN)
    ids = await _own(owner)
    owned = [endpoint for endpoint in ruled("user") if any(name in endpoint for name in ids)]
    assert len(owned) == 7
    for endpoint in owned:
        method, _, template = endpoint.partition(" ")
        for other in (user, admin):
            answers = []
            for values in (ids, dict.fromkeys(ids, ID)):
                path = template
                for name, value in values.items():
                    path = path.replace(name, value)
                body = BODIES.get(endpoint)
                answers.append(message_of(await other.send(method, path, body), 404, "NOT_FOUND"))
            assert answers[0] == answers[1], endpoint
    for collection in ("chatsessions", "chatmessages", "apikeys", "sessions"):
        assert await gateway.parts.database[collection].count_documents({"userId": owner.id}) > 0
    assert await gateway.parts.database["chatsessions"].count_documents({"title": "new"}) == 0


async def _own(account: Account) -> dict[str, str]:
    """Make one of everything that has an id; return the ids by their names in paths."""
    wish = {"message": "hello", "modelId": "demo/echo"}
    exchange = (await account.send("POST", "/api/chat", wish)).json()["data"]
    await account.send("POST", "/api/user/api-keys", {"name": "k"})
    keys = (await account.send("GET", "/api/user/api-keys")).json()["data"]["apiKeys"]
    await token_of(account.gateway, account.user)
    sign_ins = (await account.send("GET", "/api/auth/sessions")).json()["data"]["sessions"]
    return {
        "{session_id}": exchange["session"]["_id"],
        "{message_id}": exchange["userMessage"]["_id"],
        "{key_id}": keys[0]["id"],
        "{sign_in_id}": next(each["id"] for each in sign_ins if not each["isCurrent"]),
        "{user_id}": str(account.id),
        "{model_id}": "demo/echo",
        "{token}": "t",
    }
