"""The API keys of a provider, used in turn; one that the provider refuses is set aside for a while.

When all are set aside, one that was only limited comes before one that was refused, and of those the one that failed
least recently: better a request that may fail than none.
Time is an argument, in seconds of any clock that does not step.
"""

from __future__ import annotations

from collections.abc import Sequence


class Keyring:
    """Keys in turn."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Begin with the first of `keys`, all of them good."""
        self.keys = tuple(keys)
        self._turn = 0
        self._aside: dict[str, tuple[bool, float, float]] = {}
        """Of every key that is set aside: whether it was refused, when that was, and until when it counts."""

    def take(self, now: float) -> str | None:
        """Return the next key that is not set aside, or `None` when there are none at all."""
        if not self.keys:
            return None
        if self._aside:
            self._forget(now)
        for _ in self.keys:
            key = self.keys[self._turn % len(self.keys)]
            self._turn += 1
            if key not in self._aside:
                return key
        return min(self._aside, key=lambda each: self._aside[each][:2])

    def set_aside(self, key: str, now: float, seconds: float, *, was_refused: bool) -> None:
        """Spare a key for some seconds, because it `was_refused`, or else limited."""
        if key in self.keys:
            self._aside[key] = (was_refused, now, now + seconds)

    def restore(self, key: str) -> None:
        """Take note that a key works."""
        self._aside.pop(key, None)

    def count_set_aside(self, now: float) -> int:
        """Return how many keys are set aside."""
        self._forget(now)
        return len(self._aside)

    def has_better(self, key: str, now: float) -> bool:
        """Say whether another key is in better standing than this one."""
        self._forget(now)
        return any(self._standing(each) < self._standing(key) for each in self.keys if each != key)

    def _standing(self, key: str) -> int:
        return 0 if key not in self._aside else 1 + self._aside[key][0]

    def _forget(self, now: float) -> None:
        over = [key for key, (_, _, until) in self._aside.items() if until <= now]
        for key in over:
            del self._aside[key]
