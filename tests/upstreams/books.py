"""The books hold what the upstream bills, one entry for each request for a generation that reached it.

They are the judge of the money: an entry is closed before the last byte of its answer leaves.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, overload

PATIENCE = 60.0
"""Seconds to wait for what takes a fraction of one: a bound that only what never happens exceeds."""

State = Literal["running", "completed", "client_closed", "failed", "aborted"]


@dataclass(slots=True)
class Entry:
    """One request: running, then exactly one of the other states."""

    generation_id: str
    path: str
    key: str | None
    headers: dict[str, str]
    opened: float
    body: Any = None
    raw_body: bytes = b""
    model_asked: str = ""
    model_served: str = ""
    provider: str = ""
    stream: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost: Decimal | None = Decimal(0)
    upstream_cost: Decimal | None = Decimal(0)
    state: State = "running"
    status: int | None = None
    error: str | None = None
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    is_byok: bool = False
    pieces_sent: int = 0
    tokens_sent: int = 0
    generation_delay: float | None = None
    closed: float | None = None

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def as_json(self) -> dict[str, Any]:
        shown = {name: getattr(self, name) for name in self.__slots__ if name != "raw_body"}
        return {name: str(shown[name]) if isinstance(shown[name], Decimal) else shown[name] for name in shown}


@dataclass(slots=True)
class Books(Sequence[Entry]):
    """All entries in the order of arrival; safe to read from any thread."""

    _entries: list[Entry] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> list[Entry]: ...
    def __getitem__(self, at: int | slice) -> Entry | list[Entry]:
        return self._entries[at]

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries))

    def open(self, entry: Entry) -> None:
        with self._lock:
            self._entries.append(entry)

    def close(self, entry: Entry, state: State) -> None:
        """Close an entry once; a second close changes nothing."""
        with self._lock:
            if entry.state == "running":
                entry.state, entry.closed = state, time.time()

    def clear(self) -> None:
        with self._lock:
            self._entries = []

    def find(self, generation_id: str) -> Entry | None:
        return next((entry for entry in self if entry.generation_id == generation_id), None)

    def total_cost(self, key: str | None = None) -> Decimal:
        """The sum of all known costs, of one key if given."""
        costs = (entry.cost for entry in self if key is None or entry.key == key)
        return sum((cost for cost in costs if cost is not None), Decimal(0))

    @property
    def running(self) -> int:
        return sum(entry.state == "running" for entry in self)

    def wait_until(self, claim: Callable[["Books"], bool]) -> None:
        """Block this thread until the claim holds; TimeoutError if it never does."""
        deadline = time.monotonic() + PATIENCE
        while not claim(self):
            if time.monotonic() > deadline:
                msg = f"not within {PATIENCE} s; states: {[entry.state for entry in self]}"
                raise TimeoutError(msg)
            time.sleep(0.002)  # nobody says how many pieces have been sent

    async def until(self, claim: Callable[["Books"], bool]) -> None:
        """Wait on this loop until the claim holds; TimeoutError if it never does."""
        async with asyncio.timeout(PATIENCE):
            while not claim(self):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
