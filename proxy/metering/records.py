"""What a journal keeps of a request: how it began, how far it came, how it ended.

Together they make its usage event, which is built where many are written at once: that takes half as long as it
would between two requests, and nobody waits for it.

These structs, and every `array_like` one that they hold, are written as rows without names. A field may be added at the
end, with a default; any other change is another format, and needs another magic number.
"""

from __future__ import annotations

from collections.abc import Mapping

from plugins.values import Value
from proxy.metering.contract import Progress, Settlement
from proxy.metering.memory import Memory


class Opened(Value, frozen=True, array_like=True, tag="open"):
    """A request was admitted, and this is what it holds by counter."""

    id: str
    memory: Memory
    held: Mapping[str, int]


class Noted(Value, frozen=True, array_like=True, tag="note"):
    """It has come so far."""

    id: str
    progress: Progress


class Ended(Value, frozen=True, array_like=True, tag="end"):
    """It has ended like this; without a settlement it never reached a provider.

    It says all of its beginning again: an event needs no other record, however long ago that was written.
    """

    opened: Opened
    settlement: Settlement | None

    @property
    def id(self) -> str:
        """Return the request's id."""
        return self.opened.id


Record = Opened | Noted | Ended
