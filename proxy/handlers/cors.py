"""What pages of other origins may do: the origins of `ALLOWED_ORIGINS`, exactly, on every route and every answer.

A preflight is answered before anything else looks at the request: it carries no credentials, so it can be neither
refused for lack of them nor counted. `*` (in development) opens reading to everybody, but never with credentials.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sanic import HTTPResponse, Request
from sanic.response import BaseHTTPResponse

from proxy.core.headers import RATE_LIMIT_HEADERS

METHODS = "GET, POST, PUT, DELETE, PATCH, OPTIONS"
REQUEST_HEADERS = (
    "Content-Type",
    "Authorization",
    "X-Requested-With",
    "x-fingerprint-id",
    "x-rtb-fingerprint-id",
    "x-client-info",
    "Accept",
    "Origin",
    "Cache-Control",
    "Pragma",
)
SDK_HEADERS = ("x-api-key", "x-request-id", "idempotency-key", "user-agent")
"""What the SDKs of OpenAI and Anthropic may send from a browser besides; not every browser keeps `user-agent` its own."""

EXPOSED_HEADERS = (
    "x-request-id",
    "request-id",
    "x-aipasta-request-id",
    "x-aipasta-provider",
    "x-aipasta-max-tokens",
    *RATE_LIMIT_HEADERS,
    "retry-after",
    "x-should-retry",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "ratelimit-policy",
)
# Both SDKs send a dozen of the first; the others are Anthropic's version and betas, OpenAI's organization and project.
_SDK_PREFIXES = ("x-stainless-", "anthropic-", "openai-")
_KEPT_SECONDS = 600


def answer_preflight(request: Request) -> HTTPResponse | None:
    """Answer a preflight on whatever path; `None` for every other request."""
    if request.method != "OPTIONS" or "access-control-request-method" not in request.headers:
        return None
    return HTTPResponse(status=204)


def add_headers(request: Request, response: BaseHTTPResponse, origins: Collection[str]) -> None:
    """Say on an answer who may read it."""
    headers = response.headers
    headers["vary"] = f"{headers['vary']}, Origin" if "vary" in headers else "Origin"
    origin = request.headers.get("origin")
    if origin is None:  # SDKs and curl
        return
    allowed = origin_headers(origin, origins)
    if not allowed:
        return
    headers.update(allowed)
    if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
        asked = request.headers.get("access-control-request-headers", "").lower().split(",")
        of_sdk = (name.strip() for name in asked if name.strip().startswith(_SDK_PREFIXES))
        headers["access-control-allow-methods"] = METHODS
        headers["access-control-allow-headers"] = ", ".join((*REQUEST_HEADERS, *SDK_HEADERS, *of_sdk))
        headers["access-control-max-age"] = str(_KEPT_SECONDS)
        return
    headers["access-control-expose-headers"] = ", ".join(EXPOSED_HEADERS)


def origin_headers(origin: str, origins: Collection[str]) -> Mapping[str, str]:
    """Return the headers that let a page of an origin read an answer; none if it may not."""
    if origin == "null":
        return {}
    if origin in origins and origin != "*":
        return {"access-control-allow-origin": origin, "access-control-allow-credentials": "true"}
    return {"access-control-allow-origin": "*"} if "*" in origins else {}
