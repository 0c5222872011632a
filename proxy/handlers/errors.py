"""The outermost error handler: whatever ends a request is rendered in the shape that its client understands."""

from __future__ import annotations

import orjson
import structlog
from pymongo.errors import PyMongoError
from sanic import HTTPResponse, Request
from sanic.constants import HTTP_METHODS
from sanic.exceptions import MethodNotAllowed, NotFound, SanicException

from proxy import errors
from proxy.database import is_outage, lost
from proxy.errors import GatewayError
from proxy.request_log import CLIENT_LEFT

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
    if surface != "v1":
        body = errors.envelope(error, now=request.app.ctx.clock())
    elif _is_under(request, "v1/messages"):
        body = errors.anthropic_body(error, request_id)
    else:
        body = errors.openai_body(error)
    code = error.error_code or error.type
    gateway = getattr(request.app.ctx, "gateway", None)
    if gateway is not None:
        gateway.metrics.errors.labels(surface, status, code).inc()
    line = getattr(request.ctx, "line", None)
    if line is not None:
        line.fields["error"] = code
    headers = error.headers()
    return HTTPResponse(orjson.dumps(body), status=status, headers=headers, content_type="application/json")


def answer_nobody(_request: Request, _exception: BaseException) -> HTTPResponse:
    """Answer a client that has left: its status goes into the log, and the answer nowhere."""
    return HTTPResponse(status=CLIENT_LEFT)


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
    if kind is errors.MethodNotAllowed:
        # For a path with something that varies, Sanic does not say which methods it has.
        error.extra_headers["allow"] = ", ".join(
            method for method in HTTP_METHODS if _is_served(request, method)
        )
    return error


def _is_served(request: Request, method: str) -> bool:
    try:
        request.app.router.get(request.path, method, request.headers.get("host"))
    except (NotFound, MethodNotAllowed):
        return False
    return True


def _surface(request: Request) -> str:
    return next((surface for surface in ("v1", "api") if _is_under(request, surface)), "system")


def _is_under(request: Request, place: str) -> bool:
    return f"{request.path}/".startswith(f"/{place}/")
