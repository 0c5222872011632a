"""Ending background tasks: asked again until they end, because one request to do so can get lost.

pymongo's asynchronous driver swallows a cancellation that arrives while a command's answer does: the command
returns as if nothing had happened, and a task that loops goes on for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

ASK_AGAIN_SECONDS = 0.1


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
