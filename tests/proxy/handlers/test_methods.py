"""Tests of proxy/handlers/methods.py: HEAD wherever there is GET, OPTIONS wherever there is anything."""

from __future__ import annotations

from tests.gateway import running_gateway


async def test_every_path_has_its_methods(mongodb_uri: str) -> None:
    """OPTIONS of every path lists what its routes allow, HEAD where there is GET, and nothing else is answered."""
    async with running_gateway(mongodb_uri) as gateway:
        for group in gateway.app.router.groups.values():
            path = "/" + "/".join("x" if part.startswith("<") else part for part in group.parts)
            allowed = {method for route in group for method in route.methods}
            assert "OPTIONS" in allowed
            assert ("HEAD" in allowed) == ("GET" in allowed)
            answer = await gateway.http.options(path)
            assert answer.status_code == 204, path
            assert set(answer.headers["allow"].split(", ")) == allowed, path
            assert answer.content == b""


async def test_head_is_get_without_its_body(mongodb_uri: str) -> None:
    """HEAD has the status and the headers that GET has, its length included, and no body, on errors too."""
    varying = {
        "x-request-id",
        "request-id",
        "date",
        "ratelimit-remaining",
        "ratelimit-reset",
        "content-length",
    }
    async with running_gateway(mongodb_uri) as gateway:
        headers = {"authorization": f"Bearer {await gateway.key()}"}
        for path in (
            "/",
            "/health",
            "/v1/models",
            "/v1/models/demo/echo",
            "/v1/models/nobody",
            "/api/auth/me",
        ):
            get = await gateway.http.get(path, headers=headers)
            head = await gateway.http.head(path, headers=headers)
            assert head.status_code == get.status_code, path
            assert set(head.headers) == set(get.headers), path
            fixed = {name: value for name, value in get.headers.items() if name not in varying}
            assert fixed.items() <= dict(head.headers).items(), path
            assert int(head.headers["content-length"]) == len(get.content), path
            assert head.content == b""


async def test_what_is_not_allowed_says_what_is(mongodb_uri: str) -> None:
    """A method that a path does not have is 405 in the shape of its surface, with the methods that it has."""
    async with running_gateway(mongodb_uri) as gateway:
        for method, path, allow in (
            ("DELETE", "/v1/chat/completions", {"POST", "OPTIONS"}),
            ("GET", "/v1/chat/completions", {"POST", "OPTIONS"}),
            ("PUT", "/health", {"GET", "HEAD", "OPTIONS"}),
            ("GET", "/api/auth/login", {"POST", "OPTIONS"}),
        ):
            answer = await gateway.http.request(method, path)
            assert answer.status_code == 405, path
            assert set(answer.headers["allow"].split(", ")) == allow, path
            body = answer.json()
            code = body["error"]["code"] if path.startswith("/v1") else body["code"].lower()
            assert code == "method_not_allowed"
