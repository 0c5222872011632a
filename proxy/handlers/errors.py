"""The outermost error handler: whatever ends a request is rendered in the shape that its client understands."""

from __future__ import annotations

import orjson
import structlog
from pymongo.errors import PyMongoError
from sanic import HTTPResponse, Request
from sanic.exceptions import SanicException

from proxy import errors
from proxy.database import is_outage, lost
from proxy.errors import GatewayError

log = structlog.get_logger(__name__)

_OF_STATUS: dict[int, type[GatewayError]] = {
    400: errors.InvalidRequest,
    401: errors.Unauthenticated,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    408: errors.RequestTimeout,
    413: errors.PayloadTooLarge,
    417: errors.InvalidRequest,
    431: errors.HeadTooLarge,
    503: errors.Unavailable,
}


def render_error(request: Request, exception: Exception) -> HTTPResponse:
    """Answer with an error body; an unforeseen exception is logged whole and answered with its id alone."""
    error = _known(request, exception)
    request_id = getattr(request.ctx, "id", None)
    if error is None:
        log.error("unhandled exception", request=request_id, exc_info=exception)
        error = errors.InternalError(f"Internal error. Ask the operator about request {request_id}.")
    surface = _surface(request)
    status = (error.api_status if surface == "api" else None) or error.status
    body = (
        errors.openai_body(error) if surface == "v1" else errors.envelope(error, now=request.app.ctx.clock())
    )
    gateway = getattr(request.app.ctx, "gateway", None)
    if gateway is not None:
        gateway.metrics.errors.labels(surface, status, error.error_code or error.type).inc()
    headers = error.headers()
    if request_id is not None:
        headers["x-request-id"] = request_id
    return HTTPResponse(orjson.dumps(body), status=status, headers=headers, content_type="application/json")


def _known(request: Request, exception: Exception) -> GatewayError | None:
    if isinstance(exception, GatewayError):
        return exception
    if isinstance(exception, PyMongoError) and is_outage(exception):
        return lost(exception)
    if not isinstance(exception, SanicException):
        return None
    kind = _OF_STATUS.get(exception.status_code)
    if kind is None:
        return None
    if kind is errors.NotFound:
        return errors.NotFound(f"There is no {request.method} {request.path}.", code="unknown_url")
    error = kind(str(exception) or kind.__doc__ or "")
    error.extra_headers.update({name.lower(): str(value) for name, value in exception.headers.items()})
    return error


def _surface(request: Request) -> str:
    for surface in ("v1", "api"):
        if f"{request.path}/".startswith(f"/{surface}/"):
            return surface
    return "system"
