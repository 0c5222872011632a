"""Passwords are hashed on threads of their own: a quarter of a second of CPU must not stall every stream.

The queue before the threads is bounded; whoever comes after that is told to come again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from proxy import security
from proxy.errors import Unavailable

THREADS = 2
MOST_WAITING = 64

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class PasswordHasher:
    """The threads that hash, and the queue before them."""

    def __init__(self) -> None:
        """Start no thread before the first password."""
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """Hash a new password; raise `Unavailable` when too many wait."""
        return await self._run(security.hash_password, password)

    async def verify(self, password: str, digest: str | None) -> tuple[bool, str | None]:
        """Check a password; the second value is a better hash to store, if the stored one is of an old kind."""
        return await self._run(security.verify_password, password, digest)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    async def _run(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        if self._waiting >= MOST_WAITING:
            raise Unavailable("Too many sign-ins at once; try again.", retry_after=5)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **kwargs))
        finally:
            self._waiting -= 1
