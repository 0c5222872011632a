"""The sending half of a connection: what is written in one turn of the loop leaves together at its end."""

from __future__ import annotations

from typing import Any

from sanic.exceptions import RequestCancelled
from sanic.server import HttpProtocol

from proxy.door import Door

_MOST_UNSENT = 2**16


class Outgoing(HttpProtocol):
    """A connection as far as it sends."""

    __slots__ = ("_is_shut", "_unsent", "door")
    transport: Any

    def __init__(self, *, app: Any, **options: Any) -> None:
        """Begin; `app.ctx.door` is the door that it came through."""
        self.door: Door = app.ctx.door
        self._unsent = b""
        self._is_shut = False
        super().__init__(app=app, **options)

    async def send(self, data: bytes) -> None:
        """Send bytes once there is room for more; raise `RequestCancelled` when nobody is there any more."""
        if not self._can_write.is_set():
            await self._can_write.wait()
        self.write(data)

    @property
    def has_room(self) -> bool:
        """Say whether the client takes more at once."""
        return bool(self._can_write.is_set())

    def write(self, data: bytes) -> None:
        """Send bytes, whether there is room for them or not; raise `RequestCancelled` when nobody is there any more.

        They leave at the end of the loop's turn, with those of other connections, unless they are many.
        """
        # Sanic's own would miss the first.
        if self.transport is None or self.transport.is_closing() or self._is_shut:
            raise RequestCancelled
        if not self._unsent:
            self.door.senders.add(self)
        self._unsent += data
        if len(self._unsent) >= _MOST_UNSENT:
            self.flush()

    def flush(self) -> None:
        """Send now what was written, if anybody is still there."""
        data, self._unsent = self._unsent, b""
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def shut(self) -> None:
        """Send what was written, and say that there will be no more."""
        self.flush()
        self._is_shut = True
        self.transport.write_eof()

    def close(self, timeout: float | None = None) -> None:
        """Close the connection when all that was written is sent."""
        self.flush()
        super().close(timeout)

    def abort(self) -> None:
        """Close the connection at once, whether what was written has been read or not."""
        self.flush()
        super().abort()  # type: ignore[no-untyped-call]  # Sanic has no annotation here
