"""The deadlines of many tasks, looked at together.

`asyncio.timeout` makes a timer of the loop for every wait, and another one each time that it is moved; a deadline here
is a number that one timer compares with the time: when the next one is due, and four times a second, for they move.
That takes a few per cent off the CPU of a chat, and of a stream, whose deadline moves on.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Self

_LONGEST_SECONDS = 0.25
NEVER = math.inf


class Deadline:
    """A moment at which what is done in its block is ended with `TimeoutError`; it means what `asyncio.Timeout` means.

    One that is moved to an earlier moment may be noticed a quarter of a second late.
    """

    __slots__ = ("_cancelling", "_deadlines", "_is_late", "_task", "at")

    def __init__(self, deadlines: Deadlines, at: float) -> None:
        """Be due at that moment of the loop's clock, or `NEVER`; `at` may be set again."""
        self.at = at
        self._deadlines = deadlines
        self._is_late = False
        self._cancelling = 0
        self._task: asyncio.Task[object]

    def __enter__(self) -> Self:
        """Bind the present task, and no other."""
        task = asyncio.current_task(self._deadlines.loop)
        if task is None:
            raise RuntimeError("A deadline binds a task.")
        self._task = task
        self._cancelling = task.cancelling()
        deadlines = self._deadlines
        deadlines.open.add(self)
        if self.at < deadlines.looks_at:
            deadlines.look_at(self.at)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Let the task go; raise `TimeoutError` if it was this deadline that has ended it, and nobody else too."""
        self._deadlines.open.discard(self)
        if self._is_late and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from exc

    def expire(self) -> None:
        """End what the task waits for."""
        self._is_late = True
        _ = self._task.cancel()


class Deadlines:
    """Those of one loop: `open` are those that somebody is bound by, `looks_at` the moment when they are looked at."""

    def __init__(self) -> None:
        """Begin with none."""
        self.loop = asyncio.get_running_loop()
        self.open: set[Deadline] = set()
        self.looks_at = NEVER
        self._timer: asyncio.TimerHandle | None = None

    def at(self, moment: float) -> Deadline:
        """Return a deadline, to be used in a `with` statement."""
        return Deadline(self, moment)

    def look_at(self, moment: float) -> None:
        """Look at them all at that moment, or before."""
        if self._timer is not None:
            self._timer.cancel()
        self.looks_at = min(moment, self.loop.time() + _LONGEST_SECONDS)
        self._timer = self.loop.call_at(self.looks_at, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        self._timer, self.looks_at = None, NEVER
        for late in [each for each in self.open if each.at <= now]:
            self.open.discard(late)
            late.expire()
        if self.open:
            self.look_at(min(each.at for each in self.open))
