"""What comes in through /api: strict types, no unknown fields, and one message that names everything that is wrong.

Nothing but typed scalars and declared objects gets past here, so no operator of the database can.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import orjson
from beanie import PydanticObjectId
from bson import ObjectId
from pydantic import ValidationError
from sanic import Request

from admin_api.schema import Schema
from proxy.core.fields import count_openings
from proxy.errors import InvalidRequest, NotFound, PayloadTooLarge, UnsupportedMedia

MAX_BODY_BYTES = 64 * 2**10
_INTEGER = re.compile(r"[0-9]{1,9}", re.ASCII)


Body = TypeVar("Body", bound=Schema)


def read_body(request: Request, schema: type[Body], *, limit: int = MAX_BODY_BYTES) -> Body:
    """Read a JSON body; raise `InvalidRequest`, `PayloadTooLarge` or `UnsupportedMedia`."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMedia("Send the body without a content encoding.")
    if len(request.body) > limit:
        raise PayloadTooLarge(f"The body must not be larger than {limit} bytes.")
    count_openings(request.body)
    try:
        values = orjson.loads(request.body or b"{}")
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest("Validation failed: the body is not valid JSON") from exc
    try:
        return schema.model_validate(values)
    except ValidationError as exc:
        raise InvalidRequest(f"Validation failed: {', '.join(_reasons(exc))}") from exc


def read_text(request: Request, name: str, *, most: int = 200) -> str | None:
    """Read a query parameter; raise `InvalidRequest` when it comes twice or is no text of `most` characters."""
    values = request.get_args(keep_blank_values=True).getlist(name, [])
    if not values:
        return None
    if len(values) > 1:
        raise InvalidRequest(f"Validation failed: {name}: must be given once")
    value = str(values[0])
    if len(value) > most:
        raise InvalidRequest(f"Validation failed: {name}: must have at most {most} characters")
    if "\x00" in value:
        raise InvalidRequest(f"Validation failed: {name}: must not contain NUL")
    return value


def read_choice(request: Request, name: str, choices: Sequence[str], *, default: str) -> str:
    """Read a query parameter that is one of `choices`; raise `InvalidRequest` when it is another."""
    value = read_text(request, name)
    if value is None:
        return default
    if value not in choices:
        raise InvalidRequest(f"Validation failed: {name}: must be one of {', '.join(choices)}")
    return value


def read_integer(request: Request, name: str, *, default: int, least: int, most: int) -> int:
    """Read a query parameter that is a number from `least` to `most`; raise `InvalidRequest` when it is not."""
    value = read_text(request, name)
    if value is None:
        return default
    if _INTEGER.fullmatch(value) is None or not least <= int(value) <= most:
        raise InvalidRequest(f"Validation failed: {name}: must be a whole number from {least} to {most}")
    return int(value)


def read_id(value: str, *, missing: str) -> PydanticObjectId:
    """Read an id of a URL; raise `NotFound` with the message `missing` when it can be nobody's."""
    if not ObjectId.is_valid(value):
        raise NotFound(missing)
    return PydanticObjectId(value)


def _reasons(error: ValidationError) -> list[str]:
    reasons = []
    for item in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in item["loc"]) or "the body"
        reasons.append(f"{name}: {item['msg'].removeprefix('Value error, ')}")
    return reasons
