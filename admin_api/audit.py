"""The audit log: one record for every act that somebody may have to answer for; append-only, and without secrets.

What admins do is recorded before it is done, so that a process that dies in between leaves a record too many
and never one too few.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sanic import Request

from admin_api.admin.documents import AuditRecord
from proxy.gateway import gateway_of

LONGEST_TEXT = 256
MOST_ITEMS = 50
HIDDEN = "[hidden]"

_SECRETS = ("password", "token", "secret", "apikey", "digest", "authorization", "cookie")
_COUNTS = ("monthlytokens",)  # a number of tokens of text, and no key to anything


async def record(
    request: Request,
    action: str,
    *,
    actor_id: str | None,
    target: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write one record; `action` is a constant such as `auth.login`, `target` the id of what was acted on.

    Raises `PyMongoError` when it cannot be written: then the act must not be done either.
    """
    entry = AuditRecord(
        at=gateway_of(request).clock(),
        action=action,
        actorId=actor_id,
        target=None if target is None else _one_line(target),
        details={name: _detail(name, value) for name, value in (details or {}).items()},
        address=_one_line(request.ctx.client),
        requestId=request.ctx.id,
    )
    await entry.insert()


def _detail(name: str, value: Any) -> Any:
    lowered = name.lower()
    if any(word in lowered for word in _SECRETS) and lowered not in _COUNTS:
        return HIDDEN
    return _plain(value)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | datetime):
        return value
    if isinstance(value, Mapping):
        pairs = list(value.items())[:MOST_ITEMS]
        return {_one_line(str(name)): _detail(str(name), item) for name, item in pairs}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in list(value)[:MOST_ITEMS]]
    return _one_line(str(value))


def _one_line(text: str) -> str:
    """Escape whatever could begin a new line, or colour it, where the log is printed."""
    cut = text[:LONGEST_TEXT]
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in cut)
