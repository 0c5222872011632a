"""The security headers that every answer carries, errors and streams included: what Helmet sets, in its strict form.

Nothing here is a page, so a browser may run, frame and load nothing of it, and keep no copy; an answer that is a
page, or that may be kept, says so itself.
"""

from __future__ import annotations

from sanic.response import BaseHTTPResponse

ALWAYS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "origin-agent-cluster": "?1",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-dns-prefetch-control": "off",
    "x-download-options": "noopen",
    "x-frame-options": "DENY",
    "x-permitted-cross-domain-policies": "none",
    "x-xss-protection": "0",
}
IN_PRODUCTION = {"strict-transport-security": "max-age=31536000; includeSubDomains"}
_WITH_TLS = ALWAYS | IN_PRODUCTION


def add_headers(response: BaseHTTPResponse, *, is_production: bool) -> None:
    """Set what the handler has not set itself."""
    headers = response.headers
    for name, value in (_WITH_TLS if is_production else ALWAYS).items():
        if name not in headers:
            headers[name] = value
