"""Builds the document from the application's own routes: each route has its row in a table, and each row its route.

What follows from a route or its access rule is not written down a second time: path parameters, who may call it,
and the errors that come with that, with a body or with a query.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from sanic import Sanic
from sanic_routing.route import Route

from admin_api.access import COOKIE, rule_of
from admin_api.openapi import admin, auth, chat, gateway, models, system, users
from admin_api.openapi.operations import JSON, Operation
from admin_api.openapi.shapes import ID, Components, Json, Named, Shape, maybe, named, one_of, raw

OPERATIONS: dict[tuple[str, str], Operation] = {
    (operation.method, operation.path): operation
    for table in (auth, users, models, chat, admin, gateway, system)
    for operation in table.OPERATIONS
}
_PATH_SCHEMAS: dict[str, Json] = {
    "user_id": ID.schema,
    "key_id": ID.schema,
    "sign_in_id": users.SIGN_IN_ID.schema,
    "category": models.CATEGORY.schema,
}
_PARAMETER = re.compile(r"<(\w+):\w+>")

ENVELOPE_ERROR = named(
    "Error",
    raw(
        {
            "type": "object",
            "properties": {
                "status": {"type": "string", "enum": ["fail", "error"]},
                "message": {"type": "string"},
                "code": {"type": ["string", "null"]},
                "timestamp": {"type": "string", "format": "date-time"},
                "requiredPlan": {"type": "string"},
                "provider": {"type": "string"},
                "retryAfter": {"type": "integer"},
            },
            "required": ["status", "message", "code", "timestamp"],
        }
    ),
)
OPENAI_ERROR = named(
    "OpenAIError",
    {"error": {"message": str, "type": str, "param": maybe(str), "code": maybe(str)}},
)
ANTHROPIC_ERROR = named(
    "AnthropicError",
    {"type": one_of("error"), "error": {"type": str, "message": str}, "request_id": maybe(str)},
)
_MESSAGES = "/v1/messages"
_MEANINGS = {
    200: "Done.",
    201: "Made.",
    204: "Done; nothing is left to say.",
    400: "The body, a parameter or an id is wrong.",
    401: "There is no good token or key.",
    402: "The budget is used up.",
    403: "The caller may not do this.",
    404: "There is no such thing, or it belongs to somebody else.",
    409: "Somebody else is changing the same; try again.",
    413: "The body is too large.",
    415: "The body has an encoding that is not read.",
    429: "A limit is reached; `Retry-After` says for how long.",
    500: "A defect of the service.",
    502: "The provider failed.",
    503: "The service, its database or the provider cannot answer now.",
    504: "The provider did not answer in time.",
}


def build(app: Sanic[Any, Any]) -> Json:
    """Return the document; raise `KeyError` for a route that no table has."""
    components = Components()
    paths: Json = {}
    for method, path, route in routes(app):
        operation = OPERATIONS[method, path]
        paths.setdefault(path, {})[method] = _describe(operation, route, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AI Pasta gateway",
            "version": app.ctx.version,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.schemas.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
                "apiKey": {"type": "http", "scheme": "bearer", "bearerFormat": "aipasta_..."},
                "anthropicKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "metricsToken": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def routes(app: Sanic[Any, Any]) -> Iterator[tuple[str, str, Route]]:
    """Yield method, path (in OpenAPI's spelling) and route of everything that the application serves."""
    for route in sorted(app.router.routes, key=lambda route: str(route.path)):
        path = "/" + _PARAMETER.sub(r"{\1}", route.path)
        for method in sorted(route.methods - {"OPTIONS", "HEAD"}):
            yield method.lower(), path, route


def _describe(operation: Operation, route: Route, components: Components) -> Json:
    rule = rule_of(route.handler)
    described: Json = {
        "operationId": f"{_tag(operation.path)}.{route.handler.__name__}",
        "summary": (inspect.getdoc(route.handler) or "").partition("\n")[0],
        "tags": [_tag(operation.path)],
        "security": _security(operation.path, rule),
        "parameters": [*_path_parameters(operation), *_query_parameters(operation, components)],
        "responses": {
            str(operation.status): _success(operation, components),
            **{str(status): _error(operation, status, components) for status in errors_of(operation, rule)},
        },
    }
    if operation.body is not None:
        content = {JSON: {"schema": components.schema(operation.body)}}
        described["requestBody"] = {"required": _is_needed(operation.body), "content": content}
    return described


def _is_needed(body: Shape) -> bool:
    """Say whether a body has to be sent: an empty one is read as `{}`, and some wishes are complete with that."""
    if not (isinstance(body, type) and issubclass(body, BaseModel)):
        return True
    try:
        body.model_validate({})
    except ValidationError:
        return True
    return False


def errors_of(operation: Operation, rule: str | None) -> list[int]:
    """Return the error statuses that an operation can answer with."""
    found = {500, 503, *operation.also}
    if operation.path.startswith("/api/"):
        found.add(429)
    if rule in ("user", "admin", "optional"):
        found.add(401)
    if rule == "admin" or (rule == "user" and operation.method != "get"):
        found.add(403)  # a cookie from a strange origin may change nothing
    if operation.body is not None:
        found |= {400, 413, 415}
    if operation.query:
        found.add(400)
    if "{" in operation.path:
        found.add(404)
    return sorted(found)


def _security(path: str, rule: str | None) -> list[Json]:
    if path.startswith("/v1/"):
        return [{"apiKey": []}, {"anthropicKey": []}] if path == _MESSAGES else [{"apiKey": []}]
    if path == "/metrics":
        return [{"metricsToken": []}, {}]
    signed_in: list[Json] = [{"token": []}, {"cookie": []}]
    return {"user": signed_in, "admin": signed_in, "optional": [*signed_in, {}]}.get(rule or "", [])


def _tag(path: str) -> str:
    first, second = [*path.split("/")[1:], "", ""][:2]
    return second if first == "api" else first if first == "v1" else "system"


def _path_parameters(operation: Operation) -> list[Json]:
    names = re.findall(r"{(\w+)}", operation.path)
    return [
        {"name": name, "in": "path", "required": True, "schema": _PATH_SCHEMAS.get(name, {"type": "string"})}
        for name in names
    ]


def _query_parameters(operation: Operation, components: Components) -> list[Json]:
    return [
        {"name": name, "in": "query", "required": False, "schema": components.schema(shape)}
        for name, shape in operation.query.items()
    ]


def _success(operation: Operation, components: Components) -> Json:
    described: Json = {"description": _MEANINGS[operation.status]}
    if operation.status == 204:  # noqa: PLR2004  the one status without a body
        return described
    bodies: Json = {media: {"schema": {"type": "string"}} for media in operation.media}
    if JSON in bodies:
        bodies[JSON] = {"schema": components.schema(_body(operation))}
    return described | {"content": bodies}


def _body(operation: Operation) -> Any:
    if not operation.path.startswith("/api/"):
        return operation.data
    body: Json = {"status": one_of("success")}
    if operation.has_message:
        body["message"] = str
    body |= operation.top
    return body if operation.data is None else body | {"data": operation.data}


def _error(operation: Operation, status: int, components: Components) -> Json:
    shape: Named = OPENAI_ERROR if operation.path.startswith("/v1/") else ENVELOPE_ERROR
    if operation.path == _MESSAGES:
        shape = ANTHROPIC_ERROR
    return {"description": _MEANINGS[status], "content": {JSON: {"schema": components.schema(shape)}}}
