"""Who a request is: its id, its client's address, its line in the log; and that its URL holds no secret.

The id is ours, so that nobody else can choose the id of a usage event. A client's own `x-request-id` is given back
and logged beside it, if it is one that cannot harm whoever reads it.
"""

from __future__ import annotations

import functools
import re
from urllib.parse import unquote_plus

from sanic import Request
from sanic.response import BaseHTTPResponse

from proxy.addresses import Network
from proxy.errors import InvalidRequest
from proxy.handlers.client import client_address
from proxy.logs import looks_secret
from proxy.request_log import RequestLine, RequestLog, new_request_id
from proxy.security import shown_of_key

HEADER = "x-request-id"
ANTHROPIC_HEADER = "request-id"
"""What Anthropic's SDKs read in the place of the other one."""

OUR_HEADER = "x-aipasta-request-id"
"""Carries our id where the other one carries the client's."""

NO_ROUTE = "(none)"
"""The route of a request for what there is not; its path may be anything, a secret too."""

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
_PARAMETER = re.compile(r"<(\w+):\w+>")
_SECRETS = frozenset(
    {
        "accesskey",
        "accesstoken",
        "apikey",
        "apitoken",
        "authorization",
        "jwt",
        "key",
        "password",
        "secret",
        "token",
        "xapikey",
    }
)
"""Names of query parameters that would put a secret where proxies, browsers and logs keep it."""


def begin(request: Request, log: RequestLog, trusted: tuple[Network, ...]) -> None:
    """Identify a request; raise `InvalidRequest` when its URL carries a secret."""
    context, given_headers = request.ctx, request.headers
    context.id = new_request_id()
    forwarded = given_headers.getall("x-forwarded-for", []) if trusted else []
    context.client = client_address(request.ip, forwarded, trusted)
    given = given_headers.get(HEADER)
    context.given_id = given if given is not None and _is_sane(given) else None
    route = NO_ROUTE if request.route is None else _template(request.route.path)
    method = request.method if request.method.isalpha() else NO_ROUTE
    line = context.line = log.begin(context.id, method, route, context.client)
    if line is not None:
        if context.given_id is not None:
            line.fields["client_request"] = context.given_id
        key = shown_of_key(given_headers.get("authorization") or given_headers.get("x-api-key"))
        if key is not None:
            line.fields["key"] = key
    if request.query_string:
        _refuse_secrets(request.query_string)


def end(request: Request, response: BaseHTTPResponse) -> None:
    """Name a request in its answer, and note the answer in its line."""
    context = request.ctx
    ours: str | None = getattr(context, "id", None)
    if ours is None:  # Sanic answers some broken connections without having begun a request
        return
    given: str | None = getattr(context, "given_id", None)  # who is refused at the door was not looked at
    for name in (HEADER, ANTHROPIC_HEADER):
        response.headers.setdefault(name, given or ours)
    if given is not None:
        response.headers[OUR_HEADER] = ours
    line: RequestLine | None = getattr(context, "line", None)
    if line is not None:
        line.answered(response.status, getattr(context, "user_id", None))


def _is_sane(given: str) -> bool:
    return _SANE_ID.fullmatch(given) is not None and not looks_secret(given)


def _refuse_secrets(query: str) -> None:
    for pair in query.split("&"):
        name = unquote_plus(pair.partition("=")[0])
        if re.sub(r"[\W_]", "", name).lower() in _SECRETS:
            raise InvalidRequest(
                "A URL must not carry a secret: it is kept by browsers, proxies and logs. "
                "Send it as `Authorization: Bearer <key>`.",
                code="secret_in_url",
            )


@functools.lru_cache(maxsize=256)
def _template(path: str) -> str:
    return "/" + _PARAMETER.sub(r"{\1}", path)
