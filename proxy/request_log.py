"""One line for each request: who asked for what, what became of it, how long it took, and what it has cost.

A request for a completion has two ends: that of its HTTP answer, and that of the call, which outlives a client that
leaves. Its line is written when both are over. Lines name the route and not the path, the last four characters of
a key and not the key, so that there is nothing in them to hide.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import msgspec

from proxy.logs import RequestLogger, one_line
from proxy.metering.contract import Settlement

QUIET = frozenset({"/health", "/health/ready", "/metrics"})
"""Probes ask for these every few seconds; as long as they succeed, that is worth a line at the level debug alone."""

CLIENT_LEFT = 499
"""The status of a request whose client left before it had an answer, as proxies write it."""


def new_request_id() -> str:
    """Return an id for a request, as its answer names it."""
    return f"req_{os.urandom(12).hex()}"


class RequestLine(msgspec.Struct):
    """What is known so far about a request: the `fields` of its line, which is written after the last of its ends."""

    logger: RequestLogger
    fields: dict[str, Any]
    connection: asyncio.Task[Any] | None
    began: float = msgspec.field(default_factory=time.perf_counter)
    open_ends: int = 1

    def answered(self, status: int, user: str | None = None) -> None:
        """Note the answer, and who got it; of two, the first is the one that was sent."""
        fields = self.fields
        if fields["status"] is not None:
            return
        fields["status"] = status
        # Tenths of a millisecond, for which `round` takes five times as long.
        fields["ms"] = int((time.perf_counter() - self.began) * 10_000) / 10
        if user is not None:
            fields["user"] = user
        if self.connection is not None:
            self.connection.remove_done_callback(self.connection_ended)
        self._end()

    def connection_ended(self, _task: asyncio.Task[Any]) -> None:
        """Note that there is nobody left to answer."""
        self.answered(CLIENT_LEFT)

    def call_begun(self) -> None:
        """Take note that the request has become a call to a provider, unless the line was written before."""
        if self.open_ends:
            self.open_ends += 1

    def call_ended(self, user: str, settlement: Settlement | None) -> None:
        """Note what became of the call; `None` when no provider was asked."""
        if not self.open_ends:
            return
        self.fields["user"] = user
        if settlement is not None:
            _add_outcome(self.fields, settlement)
        self._end()

    def _end(self) -> None:
        """Take note that one end of the request is over; write the line after the last."""
        self.open_ends -= 1
        if self.open_ends == 0:
            is_quiet = self.fields["route"] in QUIET and self.fields["status"] in (200, None)
            self.logger.write(self.fields, is_quiet=is_quiet)


class RequestLog:
    """The lines of the requests that one event loop serves."""

    def __init__(self, logger: RequestLogger | None) -> None:
        """Write to this logger; without one, nothing is written."""
        self._logger = logger
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, request: str, method: str, route: str, address: str) -> RequestLine | None:
        """Open the line of a request that the present task answers, and that its client's leaving ends."""
        if self._logger is None:
            return None
        if self._loop is None:  # not asked for each time, which makes a system call
            self._loop = asyncio.get_running_loop()
        connection = asyncio.current_task(self._loop)
        fields = {"request": request, "method": method, "route": route, "status": None, "address": address}
        line = RequestLine(self._logger, fields, connection)
        if connection is not None:
            connection.add_done_callback(line.connection_ended)
        return line


def _add_outcome(fields: dict[str, Any], settlement: Settlement) -> None:
    tokens, charge = settlement.bill.tokens, settlement.bill.charge
    fields["model"] = one_line(settlement.model)
    fields["provider"] = settlement.provider
    fields["outcome"] = str(settlement.outcome)
    fields["prompt_tokens"] = tokens.prompt
    fields["completion_tokens"] = tokens.completion
    fields["cost_usd"] = None if charge.cost is None else f"{charge.cost:f}"
    fields["total_ms"] = settlement.total_ms
    if settlement.first_token_ms is not None:
        fields["first_token_ms"] = settlement.first_token_ms
    if charge.estimated:
        fields["estimated"] = True
