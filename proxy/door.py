"""What all connections of a server have in common: whether it still takes new work, and how much of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from sanic import Request

from proxy.bounds import Bounds
from proxy.together import Together


class Room(Protocol):
    """What only so many can have at once."""

    @property
    def is_full(self) -> bool:
        """Say whether that many have it."""
        ...


class Sender(Protocol):
    """A connection that has something to send."""

    def flush(self) -> None:
        """Send it."""


class Door:
    """The way into a server.

    `arriving_bytes` are those that have come of bodies of which there is more to come.
    """

    def __init__(self, bounds: Bounds, *, chat_body_bytes: int, answer_seconds: float) -> None:
        """Open the door; `answer_seconds` is what the most patient answer may take."""
        self.bounds = bounds
        self.chat_body_bytes = chat_body_bytes
        self.least_body_bytes = min(chat_body_bytes, bounds.body_bytes)
        self.most_arriving_bytes = max(chat_body_bytes, bounds.arriving_bytes)
        self.arriving_bytes = 0
        self.answer_seconds = answer_seconds
        self.is_draining = False
        self.senders: Together[Sender] = Together(_flush_all)
        self._calls: frozenset[str] = frozenset()
        self._room: Room | None = None

    def guard(self, calls: frozenset[str], room: Room) -> None:
        """Refuse what is posted to these paths for as long as there is no room for it."""
        self._calls = calls
        self._room = room

    def is_full_for(self, request: Request) -> bool:
        """Say whether a request has no chance, by its head alone."""
        room = self._room
        return room is not None and room.is_full and request.path in self._calls and request.method == "POST"


def _flush_all(senders: Iterable[Sender]) -> None:
    for sender in senders:
        sender.flush()
