"""The API keys of a provider, used in turn; one that the provider refuses is set aside for a while.

When all are set aside, the one that failed least recently is used: better a request that may fail than none.
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
        self._aside: dict[str, tuple[float, float]] = {}
        """Of every key that is set aside: when it failed, and until when it is."""

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
        return min(self._aside, key=lambda each: self._aside[each][0])

    def set_aside(self, key: str, now: float, seconds: float) -> None:
        """Spare a key for some seconds."""
        if key in self.keys:
            self._aside[key] = (now, now + seconds)

    def restore(self, key: str) -> None:
        """Take note that a key works."""
        self._aside.pop(key, None)

    def count_set_aside(self, now: float) -> int:
        """Return how many keys are set aside."""
        self._forget(now)
        return len(self._aside)

    def has_other(self, key: str | None, now: float) -> bool:
        """Say whether another key than this one is left that is not set aside."""
        self._forget(now)
        return any(each != key and each not in self._aside for each in self.keys)

    def _forget(self, now: float) -> None:
        over = [key for key, (_, until) in self._aside.items() if until <= now]
        for key in over:
            del self._aside[key]
