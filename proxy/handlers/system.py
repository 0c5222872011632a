"""`/`, `/health`, `/health/ready` and `/metrics`: for operators, load balancers and Prometheus."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from sanic import HTTPResponse, Request

from proxy.blueprint import Blueprint
from proxy.errors import PermissionDenied, Unauthenticated, Unavailable
from proxy.gateway import gateway_of

VERSION = "0.1.0"
blueprint = Blueprint("system")


@blueprint.get("/")
async def describe_service(request: Request) -> HTTPResponse:
    """Say what this is and where its parts are."""
    endpoints = {
        "chat": "/v1/chat/completions",
        "models": "/v1/models",
        "auth": "/api/auth",
        "user": "/api/user",
        "health": "/health",
        "metrics": "/metrics",
    }
    if gateway_of(request).settings.serves_docs:
        endpoints["docs"] = "/docs"
    description = "OpenAI-compatible gateway and account service"
    return _json(
        {"name": "AI Pasta Gateway", "version": VERSION, "description": description, "endpoints": endpoints}
    )


@blueprint.get("/health")
async def check_health(request: Request) -> HTTPResponse:
    """Say whether the database answers."""
    gateway = gateway_of(request)
    body: dict[str, Any] = {
        "status": "OK",
        "timestamp": gateway.clock().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "environment": gateway.settings.environment,
        "version": VERSION,
    }
    try:
        await gateway.pulse.check()
    except Unavailable as exc:
        return _json({**body, "status": "UNAVAILABLE", "reason": exc.message}, status=503)
    return _json(body)


@blueprint.get("/health/ready")
async def check_readiness(request: Request) -> HTTPResponse:
    """Say whether this process takes new requests: for load balancers."""
    gateway = gateway_of(request)
    if gateway.completions.is_draining:
        return _json({"status": "DRAINING"}, status=503)
    try:
        await gateway.pulse.check()
        gateway.meter.check()
    except Unavailable as exc:
        return _json({"status": "UNAVAILABLE", "reason": exc.message}, status=503)
    return _json({"status": "READY"})


@blueprint.get("/metrics")
async def render_metrics(request: Request) -> HTTPResponse:
    """Expose the metrics to whoever holds the token, or without one, to private addresses."""
    gateway = gateway_of(request)
    token = gateway.settings.metrics_token
    if token is not None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), token.encode()):
            raise Unauthenticated("/metrics needs the token that METRICS_TOKEN names.")
    elif not _is_private(request.ctx.client):
        raise PermissionDenied(
            "/metrics is open to private addresses only; set METRICS_TOKEN to open it to others."
        )
    # Thousands of series take long enough to write that streams would stutter.
    gateway.metrics.flush()
    exposition = await asyncio.to_thread(gateway.metrics.render)
    return HTTPResponse(exposition, content_type=CONTENT_TYPE_LATEST)


def _is_private(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_loopback or parsed.is_private


def _json(body: dict[str, Any], status: int = 200) -> HTTPResponse:
    return HTTPResponse(orjson.dumps(body), status=status, content_type="application/json")
