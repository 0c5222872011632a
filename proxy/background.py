"""What goes on in the background: it survives its own defects, and ends when it is asked to.

It is asked again until it ends, because one request to do so can get lost: pymongo's asynchronous driver swallows a
cancellation that arrives while a command's answer does. The command returns as if nothing had happened, and a task that
loops goes on for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar

import structlog
from pymongo.errors import PyMongoError

ASK_AGAIN_SECONDS = 0.1
T = TypeVar("T")
log = structlog.get_logger(__name__)


async def survived(
    what: str, step: Awaitable[T], *, while_away: str = "waiting for the database"
) -> T | None:
    """Return what one step of work returns that is repeated for ever; if it fails, that is logged, and not the work's end.

    A database that is away is no defect: the one line that tells of it says `while_away`.
    """
    try:
        return await step
    except PyMongoError as exc:
        log.warning(while_away, step=what, cause=str(exc)[:200])
    except Exception as defect:  # the outermost one of a background task: nobody else would hear of it
        log.critical("a step of the background work has failed", step=what, exc_info=defect)
    return None


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until every one of them has ended; what they raise is nobody's any more."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=ASK_AGAIN_SECONDS)
        for task in done:
            if not task.cancelled():
                task.exception()
