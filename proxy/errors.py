"""Every refusal that a client can see, by whose fault it is.

    GatewayError
    |- CallerError              the request is at fault
    |  |- InvalidRequest        400
    |  |- Unauthenticated       401
    |  |- PermissionDenied      403
    |  |  `- PaidModel          403, the caller's role may not use the model
    |  |- NotFound              404
    |  |- MethodNotAllowed      405
    |  |- RequestTimeout        408, the request itself came too slowly
    |  |- Conflict              409
    |  |- PayloadTooLarge       413
    |  |- UnsupportedMedia      415
    |  |- HeadTooLarge          431, the request's headers
    |  `- ContentPolicy         403, the provider's moderation refused
    |- LimitReached             the caller is right, but has used up what he may
    |  |- RateLimited           429
    |  `- InsufficientFunds     402
    |- UpstreamError            the provider is at fault, or our account there
    |  |- ProviderFailed        502
    |  |- ProviderTimeout       504
    |  `- ProviderRateLimited   429
    `- ServiceError             we are
       |- Unavailable           503
       `- InternalError         500

A class carries its HTTP status, OpenAI's `type` and `code` for /v1, and the envelope's `code` for /api; Anthropic's
types go by the status.
`openai_body`, `anthropic_body` and `envelope` are the only three renderings.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, ClassVar

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class GatewayError(Exception):
    """Anything that ends a request with an error answer."""

    status: ClassVar[int] = 500
    api_status: ClassVar[int | None] = None
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    api_code: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        """Describe one refusal.

        `retry_after` is in seconds; `should_retry=False` tells OpenAI's SDKs that waiting seconds will not
        help; `details` are extra top-level fields of the envelope (`requiredPlan`, `provider`).
        """
        super().__init__(message)
        self.message = message
        self.error_code = code or self.code
        # May be a provider's instead. Ours goes into metrics, for there is no end of the others.
        self.shown_code = self.error_code
        self.param = param
        self.retry_after = retry_after
        self.should_retry = should_retry
        self.details = details or {}
        self.extra_headers: dict[str, str] = {}

    def headers(self) -> dict[str, str]:
        """Return the headers that the answer needs besides its body."""
        headers = dict(self.extra_headers)
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        return headers


class CallerError(GatewayError):
    """The request is at fault; sending it again unchanged will fail again."""

    type = "invalid_request_error"


class InvalidRequest(CallerError):
    """The body or a parameter is wrong."""

    status = 400
    api_code = "VALIDATION_ERROR"


class Unauthenticated(CallerError):
    """There is no key or token, or we know that it is wrong."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    api_code = "UNAUTHENTICATED"

    def headers(self) -> dict[str, str]:
        """Name the scheme, as RFC 9110 section 11.6.1 asks of a 401."""
        return {**super().headers(), "www-authenticate": "Bearer"}


class PermissionDenied(CallerError):
    """The caller is known, and may not do this."""

    status = 403
    type = "permission_error"
    code = "permission_denied"
    api_code = "FORBIDDEN"


class PaidModel(PermissionDenied):
    """The caller's role may not use a model, or an extra, that costs money."""

    code = "model_not_allowed"
    api_code = "PAYWALL"


class ContentPolicy(CallerError):
    """The provider's moderation refused the content."""

    status = 403
    code = "content_policy_violation"
    api_code = "CONTENT_POLICY"


class NotFound(CallerError):
    """There is no such thing, or the caller may not know of it."""

    status = 404
    code = "not_found"
    api_code = "NOT_FOUND"


class MethodNotAllowed(CallerError):
    """The URL exists, but not for this method."""

    status = 405
    code = "method_not_allowed"
    api_code = "METHOD_NOT_ALLOWED"


class RequestTimeout(CallerError):
    """The request did not arrive in time."""

    status = 408
    code = "request_timeout"
    api_code = "REQUEST_TIMEOUT"


class Conflict(CallerError):
    """The state of the thing does not allow this now."""

    status = 409
    code = "conflict"
    api_code = "CONFLICT"


class PayloadTooLarge(CallerError):
    """The body is larger than the route takes."""

    status = 413
    code = "request_too_large"
    api_code = "PAYLOAD_TOO_LARGE"


class UnsupportedMedia(CallerError):
    """The body has an encoding or a media type that we do not read."""

    status = 415
    code = "unsupported_media_type"
    api_code = "UNSUPPORTED_MEDIA_TYPE"


class HeadTooLarge(CallerError):
    """The request line and the headers are larger than anybody needs."""

    status = 431
    code = "headers_too_large"
    api_code = "HEADERS_TOO_LARGE"


class LimitReached(GatewayError):
    """The caller has used up what he may."""


class RateLimited(LimitReached):
    """A limit on requests or tokens in a window."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    api_code = "RATE_LIMITED"


class InsufficientFunds(LimitReached):
    """A limit on money."""

    status = 402
    type = "insufficient_quota"
    code = "insufficient_quota"
    api_code = "INSUFFICIENT_TOKENS"


class UpstreamError(GatewayError):
    """The provider, or our account with it, is at fault."""

    type = "upstream_error"
    api_code = "PROVIDER_ERROR"


class ProviderFailed(UpstreamError):
    """The provider answered nonsense, an error, or refused our account."""

    status = 502
    code = "provider_error"


class ProviderTimeout(UpstreamError):
    """The provider did not answer in time."""

    status = 504
    api_status = 503
    code = "provider_timeout"


class ProviderRateLimited(UpstreamError):
    """The provider limits our account."""

    status = 429
    api_status = 503
    type = "rate_limit_error"
    code = "provider_rate_limited"


class ServiceError(GatewayError):
    """We are at fault."""


class Unavailable(ServiceError):
    """We cannot serve this now: the database or the provider is out of reach, we are draining, or overloaded."""

    status = 503
    type = "service_unavailable_error"
    code = "service_unavailable"
    api_code = "SERVICE_UNAVAILABLE"


class InternalError(ServiceError):
    """A defect of ours."""

    status = 500
    code = "internal_error"
    api_code = "INTERNAL_ERROR"


def openai_body(error: GatewayError) -> dict[str, Any]:
    """Render an error as OpenAI's SDKs expect it (`code` is a string or null, never a number)."""
    body = {"message": error.message, "type": error.type, "param": error.param, "code": error.shown_code}
    return {"error": body}


def anthropic_body(error: GatewayError, request_id: str | None) -> dict[str, Any]:
    """Render an error as Anthropic's SDKs expect it."""
    said = {"type": _ANTHROPIC_TYPES.get(error.status, "api_error"), "message": error.message}
    return {"type": "error", "error": said, "request_id": request_id}


def envelope(error: GatewayError, *, now: datetime) -> dict[str, Any]:
    """Render an error as the account API's clients expect it."""
    status = error.api_status or error.status
    return {
        "status": "fail" if status < 500 else "error",  # noqa: PLR2004  the line between 4xx and 5xx
        "message": error.message,
        "code": error.api_code,
        "timestamp": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        **error.details,
    }
