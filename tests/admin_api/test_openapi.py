"""The OpenAPI document is complete, and true."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from typing import Any

import pytest

from admin_api.openapi.document import OPERATIONS, build, routes
from admin_api.openapi.shapes import Components, named
from proxy.core.routing import Role
from proxy.server import create_app
from proxy.settings import ProviderSettings, Settings
from tests.admin_api.accounts import NEW_PASSWORD, Account, signed_in
from tests.admin_api.contract import Judge, jsonschema
from tests.admin_api.playground import FREE, Playground, playground
from tests.gateway import JWT_SECRET, PASSWORD, running_gateway

DEMO = {"demo": ProviderSettings(plugin="demo")}
UNAVAILABLE_ALWAYS = {"GET /health": {500}, "GET /health/ready": {500}}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    app = create_app(Settings(jwt_secret=JWT_SECRET, providers=DEMO), "mongodb://localhost", name="described")
    assert {(method, path) for method, path, _ in routes(app)} == set(OPERATIONS)
    return build(app)


def test_every_route_has_its_row_and_every_row_its_route(document: dict[str, Any]) -> None:
    """Nothing is served that is not described, and nothing is described that is not served."""
    described = {(method, path) for path, item in document["paths"].items() for method in item}
    assert described == set(OPERATIONS)


def test_the_document_is_sound(document: dict[str, Any]) -> None:
    """Schemas are JSON Schema, references lead somewhere, ids are unique, path parameters are declared."""
    for name, schema in document["components"]["schemas"].items():
        assert jsonschema.meta.is_valid(
            {**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"}
        ), name
    references = set(re.findall(r"'#/components/schemas/(\w+)'", str(document)))
    assert references <= document["components"]["schemas"].keys()
    operations = [
        (path, operation) for path, item in document["paths"].items() for operation in item.values()
    ]
    assert len({operation["operationId"] for _, operation in operations}) == len(operations)
    for path, operation in operations:
        assert operation["summary"].endswith("."), path
        in_path = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        assert in_path == re.findall(r"{(\w+)}", path)
        for scheme in (name for wanted in operation["security"] for name in wanted):
            assert scheme in document["components"]["securitySchemes"]


def test_bodies_are_as_strict_as_their_readers(document: dict[str, Any]) -> None:
    """Every body of /api refuses unknown fields, in the document as in the service."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if path.startswith("/api/") and "requestBody" in operation:
                reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                schema = document["components"]["schemas"][reference.rpartition("/")[2]]
                assert schema["additionalProperties"] is False, f"{method} {path}"


def test_one_name_has_one_shape() -> None:
    """Two shapes under one name are refused, so that a reference means one thing."""
    components = Components()
    components.schema(named("Thing", {"a": int}))
    components.schema(named("Thing", {"a": int}))
    with pytest.raises(ValueError, match="Thing"):
        components.schema(named("Thing", {"a": str}))


async def test_the_document_is_served_where_it_may_be(mongodb_uri: str) -> None:
    """It is there in development, gone in production, and DOCS_ENABLED overrules both; it points to no other host."""
    production = {"environment": "production"}
    for settings, status in (
        ({}, 200),
        ({"docs_enabled": False}, 404),
        (production, 404),
        ({**production, "docs_enabled": True}, 200),
    ):
        async with running_gateway(mongodb_uri, DEMO, **settings) as gateway:
            response = await gateway.http.get("/docs/openapi.json")
            assert response.status_code == status, settings
            if status == 200:
                assert response.json() == build(gateway.app)
                assert "http" not in re.sub(r'"type": ?"http"', "", response.text).replace(
                    "https://, http://", ""
                )
            page = await gateway.http.get("/docs")
            assert page.status_code == status
            assert page.headers["content-type"].startswith(
                "text/html" if status == 200 else "application/json"
            )


async def test_real_answers_are_as_described(mongodb_uri: str) -> None:
    """Every endpoint's main answer, and its refusals, are what the document promises."""
    async with playground(mongodb_uri) as place:
        judge = Judge.of(place.gateway.app)
        admin = await signed_in(place.gateway, Role.ADMIN)
        account = await signed_in(place.gateway)
        await _authenticate(place, judge)
        await _use(place, judge, account)
        await _administer(judge, admin, account)
        await _operate(place, judge, account)
        await _leave(judge, account)
        answered = {endpoint for endpoint, status in judge.seen if status < 300}
        assert answered == {f"{method.upper()} {path}" for method, path in OPERATIONS}


async def _authenticate(place: Playground, judge: Judge) -> None:
    http = place.gateway.http
    registration = {"name": "Asha", "email": "asha@example.com", "password": PASSWORD}
    first = judge.check(await http.post("/api/auth/register", json=registration))
    judge.check(await http.post("/api/auth/register", json=registration))
    judge.check(await http.post("/api/auth/register", json={"name": 1}))
    credentials = {"email": "asha@example.com", "password": PASSWORD}
    judge.check(await http.post("/api/auth/login", json={**credentials, "password": "wrong"}))
    judge.check(await http.post("/api/auth/login", json=credentials))
    headers = {"authorization": f"Bearer {first.json()['token']}"}
    judge.check(await http.get("/api/auth/me", headers=headers))
    judge.check(await http.get("/api/auth/me"))
    judge.check(await http.get("/api/auth/verify", headers=headers))
    second = judge.check(await http.post("/api/auth/refresh", headers=headers))
    headers = {"authorization": f"Bearer {second.json()['token']}"}
    judge.check(await http.delete("/api/auth/sessions", headers=headers))
    listed = judge.check(await http.get("/api/auth/sessions", headers=headers)).json()["data"]["sessions"]
    judge.check(await http.delete("/api/auth/sessions/nonsense", headers=headers))
    judge.check(await http.delete(f"/api/auth/sessions/{listed[0]['id']}", headers=headers))
    again = judge.check(await http.post("/api/auth/login", json=credentials))
    headers = {"authorization": f"Bearer {again.json()['token']}"}
    change = {"currentPassword": PASSWORD, "newPassword": NEW_PASSWORD}
    judge.check(await http.patch("/api/auth/password", headers=headers, json=change))
    judge.check(await http.post("/api/auth/logout", headers=headers))
    judge.check(await http.post("/api/auth/forgot-password", json={"email": "asha@example.com"}))
    await place.gateway.parts.database["users"].update_one(
        {"email": "asha@example.com"},
        {
            "$set": {
                "passwordReset": {
                    "digest": hashlib.sha256(b"mailed").hexdigest(),
                    "expiresAt": place.gateway.parts.clock() + timedelta(minutes=1),
                }
            }
        },
    )
    for _ in range(2):
        judge.check(await http.patch("/api/auth/reset-password/mailed", json={"password": PASSWORD}))


async def _use(place: Playground, judge: Judge, account: Account) -> None:
    async def send(method: str, path: str, body: object = None, **options: Any) -> Any:
        return judge.check(await account.send(method, path, body, **options)).content

    for path in ("", "?limit=2&page=2", "/providers", "/categories", "/category/text-only", f"/{FREE}"):
        await send("GET", f"/api/models{path}")
    for path in ("?sort=worst", "?capabilities=flying", "/category/no", "/no/such"):
        await send("GET", f"/api/models{path}")
    await send("GET", "/api/user/profile")
    await send("PATCH", "/api/user/profile", {"bio": "writes", "preferences": {"theme": "dark"}})
    await send("PATCH", "/api/user/profile", {"role": "admin"})
    await send("POST", f"/api/user/favorites/{FREE.replace('/', '%2F')}")
    await send("POST", "/api/user/favorites/no%2Fsuch")
    await send("GET", "/api/user/favorites")
    await send("POST", "/api/user/api-keys", {"name": "k", "expiresIn": "30d"})
    await send("POST", "/api/user/api-keys", {"name": "k", "expiresIn": "soon"})
    await send("GET", "/api/user/api-keys")
    key = (await place.documents("apikeys", userId=account.id))[0]["_id"]
    await send("PATCH", f"/api/user/api-keys/{key}", {"allowedIps": ["203.0.113.0/24", "2001:db8::7"]})
    await send("PATCH", f"/api/user/api-keys/{key}", {"allowedIps": ["here"]})
    await send("DELETE", f"/api/user/api-keys/{key}")
    await send("DELETE", "/api/user/api-keys/nonsense")
    await _chat(place, judge, account)
    for path in ("/api/user/stats?period=7d", "/api/user/stats?period=8d", "/api/user/export"):
        await send("GET", path)


async def _chat(place: Playground, judge: Judge, account: Account) -> None:
    made = judge.check(await account.send("POST", "/api/chat/sessions", {"title": "t", "modelId": FREE}))
    session = made.json()["data"]["session"]["_id"]
    wish = {"message": "hello", "modelId": FREE, "sessionId": session}
    answer = judge.check(await account.send("POST", "/api/chat", wish))
    question = answer.json()["data"]["userMessage"]["_id"]
    for body in (
        {**wish, "stream": True},
        {**wish, "modelId": "no/such"},
        {**wish, "modelId": "openai/gpt-4o"},
        {**wish, "sessionId": "0" * 24},
        {**wish, "options": {"temperature": 9}},
    ):
        judge.check(await account.send("POST", "/api/chat", body))
    steps: tuple[tuple[str, str, object], ...] = (
        ("GET", "/api/chat/sessions", None),
        ("GET", "/api/chat/sessions?limit=0", None),
        ("GET", f"/api/chat/sessions/{session}", None),
        ("PATCH", f"/api/chat/sessions/{session}", {"settings": {"temperature": 0}}),
        ("PATCH", f"/api/chat/sessions/{session}", {}),
        ("GET", "/api/chat/stats", None),
        ("DELETE", f"/api/chat/messages/{question}", None),
        ("DELETE", f"/api/chat/messages/{question}", None),
        ("DELETE", f"/api/chat/sessions/{session}", None),
        ("DELETE", f"/api/chat/sessions/{session}", None),
    )
    for method, path, step in steps:
        judge.check(await account.send(method, path, step))
    judge.check(await account.send("POST", "/api/chat", {"message": "once more", "modelId": FREE}))


async def _administer(judge: Judge, admin: Account, account: Account) -> None:
    steps: tuple[tuple[str, str, object], ...] = (
        ("GET", "/api/admin/stats", None),
        ("GET", "/api/admin/stats?period=x", None),
        ("GET", "/api/admin/users?search=a&role=user", None),
        ("GET", f"/api/admin/users/{account.id}", None),
        ("GET", "/api/admin/users/nonsense", None),
        ("PATCH", f"/api/admin/users/{account.id}", {"usageLimits": {"dailyRequests": 60}}),
        ("PATCH", f"/api/admin/users/{account.id}", {"role": "root"}),
        ("DELETE", f"/api/admin/users/{admin.id}", None),
        ("GET", "/api/admin/system", None),
        ("PATCH", f"/api/admin/models/{FREE}", {"status": "beta"}),
        ("PATCH", f"/api/admin/models/{FREE}", {"pricing": {"input": -1}}),
        ("GET", "/api/admin/audit", None),
        ("GET", "/api/admin/ledger/verify", None),
        ("POST", "/api/models/sync", None),
    )
    for method, path, body in steps:
        judge.check(await admin.send(method, path, body))
        judge.check(await account.send(method, path, body))
    other = await signed_in(admin.gateway)
    for method in ("GET", "DELETE"):
        for user_id in (other.id, "nonsense"):
            judge.check(await admin.send(method, f"/api/admin/users/{user_id}/sessions"))
    judge.check(await admin.send("DELETE", f"/api/admin/users/{other.id}"))


async def _operate(place: Playground, judge: Judge, account: Account) -> None:
    http = place.gateway.http
    key = {"authorization": f"Bearer {await place.gateway.key(account.user)}"}
    body = {"model": FREE, "messages": [{"role": "user", "content": "hello"}]}
    for headers in (key, {}):
        completion = judge.check(await http.post("/v1/chat/completions", headers=headers, json=body))
        request_id = completion.headers["x-request-id"]
        judge.check(await http.get(f"/v1/requests/{request_id}", headers=headers))
        judge.check(await http.get("/v1/key", headers=headers))
        judge.check(await http.get("/v1/models", headers=headers))
        judge.check(await http.get(f"/v1/models/{FREE}", headers=headers))
    judge.check(await http.post("/v1/chat/completions", headers=key, json={**body, "stream": True}))
    judge.check(await http.post("/v1/chat/completions", headers=key, json={**body, "model": "no/such"}))
    judge.check(await http.post("/v1/chat/completions", headers=key, json={"model": FREE}))
    judge.check(await http.get("/v1/models/no/such", headers=key))
    from_elsewhere = {
        "authorization": f"Bearer {await place.gateway.key(account.user, allowedIps=['192.0.2.1'])}"
    }
    for path in ("key", "models", f"models/{FREE}", "requests/req_0"):
        judge.check(await http.get(f"/v1/{path}", headers=from_elsewhere))
    for api, asked in (
        ("embeddings", {"input": "hello"}),
        ("responses", {"input": "hello"}),
        ("messages", {"messages": body["messages"], "max_tokens": 50}),
    ):
        for headers in (key, {}):
            for wish in ({"model": FREE}, {"model": FREE, "stream": True}, {"model": "no/such"}, {}):
                judge.check(await http.post(f"/v1/{api}", headers=headers, json={**asked, **wish}))
    judge.check(await http.get("/v1/requests/req_0", headers=key))
    for path in ("/", "/health", "/health/ready", "/metrics", "/docs", "/docs/openapi.json"):
        judge.check(await http.get(path))


async def _leave(judge: Judge, account: Account) -> None:
    judge.check(await account.send("DELETE", "/api/user/account", {"password": "wrong"}))
    judge.check(await account.send("DELETE", "/api/user/account", {"password": PASSWORD}))
    judge.check(await account.send("DELETE", "/api/user/account", {"password": PASSWORD}))
