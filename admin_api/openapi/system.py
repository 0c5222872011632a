"""The operations for operators: what the service is, whether it is well, its metrics, this document."""

from __future__ import annotations

from admin_api.openapi.operations import Operation
from admin_api.openapi.shapes import OBJECT, TIME, by_name, one_of

_HEALTH = {"status": one_of("OK"), "timestamp": TIME, "environment": str, "version": str}
_SERVICE = {
    "name": str,
    "version": str,
    "description": str,
    "endpoints": by_name(str),
}

OPERATIONS = (
    Operation("GET /", _SERVICE),
    Operation("GET /health", _HEALTH),
    Operation("GET /health/ready", {"status": one_of("READY")}),
    Operation("GET /metrics", media=("text/plain",), also=(401, 403)),
    Operation("GET /docs", media=("text/html",), also=(404,)),
    Operation("GET /docs/openapi.json", OBJECT, also=(404,)),
)
