"""Bodies of /api: strict types, no unknown fields, and one message that names everything that is wrong."""

from __future__ import annotations

from typing import TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from sanic import Request

from proxy.errors import InvalidRequest, PayloadTooLarge, UnsupportedMedia

MAX_BODY_BYTES = 64 * 2**10


class Schema(BaseModel):
    """The base of every body: what is not declared is refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, str_strip_whitespace=True)


Body = TypeVar("Body", bound=Schema)


def read_body(request: Request, schema: type[Body], *, limit: int = MAX_BODY_BYTES) -> Body:
    """Read a JSON body; raise `InvalidRequest`, `PayloadTooLarge` or `UnsupportedMedia`."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMedia("Send the body without a content encoding.")
    if len(request.body) > limit:
        raise PayloadTooLarge(f"The body must not be larger than {limit} bytes.")
    try:
        values = orjson.loads(request.body or b"{}")
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest("Validation failed: the body is not valid JSON") from exc
    try:
        return schema.model_validate(values)
    except ValidationError as exc:
        raise InvalidRequest(f"Validation failed: {', '.join(_reasons(exc))}") from exc


def _reasons(error: ValidationError) -> list[str]:
    reasons = []
    for item in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in item["loc"]) or "the body"
        reasons.append(f"{name}: {item['msg'].removeprefix('Value error, ')}")
    return reasons
