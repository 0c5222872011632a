"""Tests of proxy/handlers/cors.py, on a real gateway."""

from __future__ import annotations

from proxy.handlers.cors import REQUEST_HEADERS
from tests.gateway import running_gateway

ORIGIN = "http://localhost:3000"
ALLOW_ORIGIN = "access-control-allow-origin"
CREDENTIALS = "access-control-allow-credentials"
PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-client-info",
}
FRONTEND_NEEDS = {
    "content-type",
    "authorization",
    "x-requested-with",
    "x-fingerprint-id",
    "x-rtb-fingerprint-id",
    "x-client-info",
    "accept",
    "origin",
    "cache-control",
    "pragma",
}


SDK_NEEDS = {"x-api-key", "x-request-id", "idempotency-key", "user-agent"}
BROWSER_SDKS = {
    "/v1/messages": "anthropic-beta, anthropic-dangerous-direct-browser-access, anthropic-version, content-type,"
    " x-api-key, x-stainless-arch, x-stainless-helper-method, x-stainless-retry-count, x-stainless-timeout",
    "/v1/chat/completions": "authorization, content-type, idempotency-key, openai-beta, openai-organization,"
    " openai-project, user-agent, x-stainless-lang, x-stainless-os, x-stainless-package-version, x-stainless-runtime",
}
"""What the SDKs of Anthropic and OpenAI ask for in a preflight."""


async def test_preflights_are_answered_everywhere(mongodb_uri: str) -> None:
    """204 with everything that the frontend asks for, on every route, known or not, without a token or a count."""
    limits = {"development_factor": 1, "api": {"requests": 2}}
    paths = (
        "/health",
        "/",
        "/metrics",
        "/api/auth/login",
        "/api/auth/me",
        "/api/user/export",
        "/api/models/openai%2Fgpt-4o",
        "/api/nowhere",
        "/nowhere",
        "/v1/chat/completions",
        "/v1/models",
    )
    async with running_gateway(mongodb_uri, rate_limits=limits) as gateway:
        for path in paths:
            answer = await gateway.http.options(path, headers=PREFLIGHT)
            assert (answer.status_code, answer.content) == (204, b""), path
            assert answer.headers[ALLOW_ORIGIN] == ORIGIN
            assert answer.headers[CREDENTIALS] == "true"
            assert answer.headers["vary"] == "Origin"
            methods = set(answer.headers["access-control-allow-methods"].split(", "))
            assert methods == {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"}
            allowed = {name.lower() for name in answer.headers["access-control-allow-headers"].split(", ")}
            assert allowed == FRONTEND_NEEDS | SDK_NEEDS
            assert "ratelimit-limit" not in answer.headers
        assert await gateway.parts.database["ratelimits"].count_documents({}) == 0

        sdk = {**PREFLIGHT, "access-control-request-headers": "authorization, X-Stainless-OS, x-evil"}
        answer = await gateway.http.options("/v1/chat/completions", headers=sdk)
        allowed = {name.lower() for name in answer.headers["access-control-allow-headers"].split(", ")}
        assert allowed == FRONTEND_NEEDS | SDK_NEEDS | {"x-stainless-os"}


async def test_sdks_work_in_browsers(mongodb_uri: str) -> None:
    """A page of ours may send all that the SDKs add, and read the limits, the cap and the id; no other page may."""
    async with running_gateway(mongodb_uri) as gateway:
        for path, needed in BROWSER_SDKS.items():
            asked = {**PREFLIGHT, "access-control-request-headers": needed}
            answer = await gateway.http.options(path, headers=asked)
            allowed = {name.lower() for name in answer.headers["access-control-allow-headers"].split(", ")}
            assert allowed >= set(needed.split(", "))
            stranger = await gateway.http.options(path, headers={**asked, "origin": "https://evil.example"})
            assert not [name for name in stranger.headers if name.startswith("access-control-")]
        key, body = (
            await gateway.key(),
            {"model": "demo/echo", "messages": [{"role": "user", "content": "hi"}]},
        )
        answer = await gateway.chat(key, body, headers={"origin": ORIGIN})
        told = {
            name for name in answer.headers if name.startswith(("x-ratelimit-", "x-aipasta-", "request-id"))
        }
        assert {"x-aipasta-max-tokens", "request-id", "x-ratelimit-remaining-requests"} <= told
        assert told <= set(answer.headers["access-control-expose-headers"].split(", "))


async def test_other_origins_get_nothing(mongodb_uri: str) -> None:
    """An origin that is not exactly one of ours may read no answer, and is told nothing in a preflight."""
    async with running_gateway(mongodb_uri) as gateway:
        for origin in (
            "null",
            "",
            "*",
            "https://evil.example",
            "http://localhost:3000.evil.example",
            "http://evil.example/http://localhost:3000",
            "http://localhost:3002",
            "http://localhost",
            "https://localhost:3000",
            "HTTP://LOCALHOST:3000",
            "http://localhost:3000/",
            "http://user@localhost:3000",
            " http://localhost:3000 x",
        ):
            answers = [
                await gateway.http.get("/health", headers={"origin": origin}),
                await gateway.http.get("/api/auth/me", headers={"origin": origin}),
                await gateway.http.options("/api/auth/me", headers={**PREFLIGHT, "origin": origin}),
            ]
            for answer in answers:
                assert not [name for name in answer.headers if name.startswith("access-control-")], origin
                assert answer.headers["vary"] == "Origin"
            assert [answer.status_code for answer in answers] == [200, 401, 204]


async def test_every_answer_may_be_read_by_our_pages(mongodb_uri: str) -> None:
    """Successes, errors of every kind and streams carry the headers, with what scripts may read of the others."""
    limits = {"development_factor": 1, "api": {"requests": 3}}
    async with running_gateway(mongodb_uri, rate_limits=limits) as gateway:
        key = await gateway.key()
        origin = {"origin": ORIGIN}
        body = {"model": "demo/echo", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        answers = [
            await gateway.http.get("/health", headers=origin),
            await gateway.http.get("/nowhere", headers=origin),
            await gateway.http.put("/health", headers=origin),
            await gateway.http.get("/api/auth/me", headers=origin),
            await gateway.http.post("/api/auth/login", headers=origin, content=b"{"),
            await gateway.http.get("/api/nowhere", headers=origin),
            await gateway.http.get("/api/auth/me", headers=origin),
            await gateway.chat(key, body, headers=origin),
            await gateway.chat("wrong", body, headers=origin),
        ]
        assert [answer.status_code for answer in answers] == [200, 404, 405, 401, 400, 404, 429, 200, 401]
        for answer in answers:
            assert answer.headers[ALLOW_ORIGIN] == ORIGIN
            assert answer.headers[CREDENTIALS] == "true"
            assert answer.headers["vary"] == "Origin"
            exposed = set(answer.headers["access-control-expose-headers"].split(", "))
            assert exposed >= {"x-request-id", "retry-after", "ratelimit-remaining", "ratelimit-reset"}
            assert "access-control-allow-methods" not in answer.headers
        assert answers[7].text.endswith("data: [DONE]\n\n")


async def test_a_star_never_comes_with_credentials(mongodb_uri: str) -> None:
    """`*` opens reading to every page but `null`, and named origins beside it keep their credentials."""
    async with running_gateway(mongodb_uri, allowed_origins="*,https://app.example.com") as gateway:
        anybody = await gateway.http.get("/health", headers={"origin": "https://anybody.example"})
        assert anybody.headers[ALLOW_ORIGIN] == "*"
        assert CREDENTIALS not in anybody.headers
        named = await gateway.http.get("/health", headers={"origin": "https://app.example.com"})
        assert named.headers[ALLOW_ORIGIN] == "https://app.example.com"
        assert named.headers[CREDENTIALS] == "true"
        for origin in ("null", "*"):
            nobody = await gateway.http.get("/health", headers={"origin": origin})
            assert CREDENTIALS not in nobody.headers
        cookie = {"cookie": "jwt=x", "origin": "https://anybody.example"}
        assert (await gateway.http.patch("/api/user/profile", headers=cookie, json={})).status_code == 403


def test_the_list_of_headers_is_the_frontends() -> None:
    """The names are those that the frontend's contract lists."""
    assert {name.lower() for name in REQUEST_HEADERS} == FRONTEND_NEEDS
