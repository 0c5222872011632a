"""One call: admit, route, relay, settle. The only way to a provider, for /v1 and for the playground alike.

A call lives in a task of its own that the client's leaving does not cancel, so that what was used is recorded
whatever becomes of the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from decimal import Decimal
from functools import partial

from plugins.values import Value
from proxy import background
from proxy.auth import Caller
from proxy.call import Answer, Client, Plan, Services
from proxy.catalog import Catalog
from proxy.core import limits
from proxy.core.api import ApiRequest
from proxy.core.pricing import ZERO
from proxy.core.routing import Way, Ways, unbounded, unpriced
from proxy.core.rules import Demand
from proxy.documents import Outcome
from proxy.errors import Unavailable
from proxy.exchange import Exchange
from proxy.limits import Limits
from proxy.metering.contract import Want
from proxy.request_log import RequestLine

_ABORT_SECONDS = 5.0
_RECORD_SECONDS = 2.0
_TICK_SECONDS = 1.0
_PING_SECONDS = 0.2


class Call(Value, frozen=True):
    """One request of any API, from whoever asks."""

    request_id: str
    caller: Caller
    asked: ApiRequest
    at: datetime
    session_id: str | None = None
    line: RequestLine | None = None
    """Its line in the log of requests, if there is one."""


class Completions:
    """The calls of this process."""

    def __init__(
        self, services: Services, catalog: Catalog, bounds: Limits, *, keep_alive_seconds: float
    ) -> None:
        """Serve with these."""
        self._services = services
        self._catalog = catalog
        self._ways = Ways(catalog.current)
        # One by one, for a model of pydantic's takes long to be asked, and each call would ask it five times.
        self._most_calls = bounds.concurrent_requests
        self._media = bounds.media
        self._default_output_tokens = bounds.default_output_tokens
        self._extras_usd = bounds.extras_usd
        self._keep_alive_seconds = keep_alive_seconds
        self._running: dict[asyncio.Task[Answer], Exchange] = {}
        self._ticker: asyncio.Task[None] | None = None
        self._is_draining = False

    @property
    def is_draining(self) -> bool:
        """Say whether new calls are refused because the process is about to end."""
        return self._is_draining

    @property
    def is_full(self) -> bool:
        """Say whether there are as many calls as there may be."""
        return len(self._running) >= self._most_calls

    async def start(self) -> None:
        """Begin to keep silent streams alive, and the metrics of what changes with time."""
        self._ticker = asyncio.create_task(self._keep_alive(), name="keep-alive")

    async def create(self, call: Call, client: Client) -> Answer:
        """Serve one call; a stream goes to `client`, everything else is the answer's body.

        Raises the `GatewayError` that refused it. When the awaiting task is cancelled, the client has left: the
        call goes on by itself to its end.
        """
        if self._is_draining:
            raise Unavailable("This gateway is shutting down; try again.", retry_after=1)
        if self.is_full:
            raise Unavailable(
                "This gateway is at its limit of concurrent requests; try again.", retry_after=1
            )
        exchange = Exchange(self._plan(call), client, self._services)
        task = exchange.start()
        self._running[task] = exchange
        self._services.metrics.running.amount += 1
        if call.line is not None:
            call.line.call_begun()
        # Waiting for the task itself would cancel it with us, and `asyncio.shield` takes three times the calls.
        has_ended: asyncio.Future[None] = self._services.loop.create_future()
        task.add_done_callback(partial(self._forget, call, has_ended))
        try:
            await has_ended
        except asyncio.CancelledError:
            exchange.client_left()
            raise
        return task.result()

    async def settled(self, request_id: str | None = None) -> None:
        """Wait until every call that has ended is settled, or one of them."""
        while pending := {
            task for task in self._services.settlements if request_id in (None, task.get_name())
        }:
            await asyncio.wait(pending)

    async def ended(self) -> None:
        """Wait until every call that runs now has ended, and all that have are settled."""
        if self._running:
            await asyncio.wait(list(self._running))
        await self.settled()

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, let the running ones end, and after `seconds` end those that still run."""
        self._is_draining = True
        if self._running:
            await asyncio.wait(list(self._running), timeout=seconds)
        for exchange in self._running.values():
            exchange.abort(Outcome.SHUTDOWN)
        if self._running:
            await asyncio.wait(list(self._running), timeout=_ABORT_SECONDS)
        if self._services.settlements:
            # A provider writes its record a moment after a stream was cut; who hurries can but estimate.
            await asyncio.wait(self._services.settlements, timeout=_RECORD_SECONDS)
        self._services.reconciler.hurry()
        if self._services.settlements:
            await asyncio.wait(self._services.settlements, timeout=_ABORT_SECONDS)
        if self._ticker is not None:
            self._ticker.cancel()

    def _forget(self, call: Call, has_ended: asyncio.Future[None], task: asyncio.Task[Answer]) -> None:
        if not has_ended.done():
            has_ended.set_result(None)
        exchange = self._running.pop(task)
        self._services.metrics.running.amount -= 1
        if call.line is not None:
            call.line.call_ended(call.caller.user_id, exchange.settlement)
        if not task.cancelled():
            task.exception()  # whoever still waits has it; a client that left must not leave a warning behind

    async def _keep_alive(self) -> None:
        tick = min(_TICK_SECONDS, self._keep_alive_seconds)
        while True:
            await asyncio.sleep(tick)
            await background.survived("keeping streams alive", self._tick())

    async def _tick(self) -> None:
        self._services.health.report_keys()
        self._services.metrics.flush()
        for exchange in list(self._running.values()):
            with contextlib.suppress(TimeoutError):
                # A reader that is too slow even for a comment must not keep the others waiting.
                async with asyncio.timeout(_PING_SECONDS):
                    await exchange.keep_alive(self._keep_alive_seconds)

    def _plan(self, call: Call) -> Plan:
        """Decide all that needs no waiting: where the call may go, and what has to be held for it."""
        caller, ways = call.caller, self._ways
        if ways.catalogue is not self._catalog.current:
            ways = self._ways = Ways(self._catalog.current)
        way = ways.find(call.asked, caller.role, caller.allowed_models)
        has_budget = caller.key_limits is not None and caller.key_limits.has_budget
        extras = self._extras(call.asked, way) if has_budget else ZERO
        max_price = way.price if has_budget else None
        return Plan(call.asked, way.targets, self._want(call, way, extras), caller.on_disconnect, max_price)

    def _want(self, call: Call, way: Way, extras: Decimal) -> Want:
        asked, media, context, first = call.asked, self._media, way.context_length, way.targets[0]
        return Want(
            request_id=call.request_id,
            user_id=call.caller.user_id,
            key_id=call.caller.key_id,
            session_id=call.session_id,
            at=call.at,
            limits=call.caller.limits,
            key_limits=call.caller.key_limits,
            demand=Demand(limits.prompt_bound(asked, context, media), way.price, extras),
            prompt_estimate=limits.prompt_estimate(asked, context, media),
            output_tokens=limits.output_wish(
                asked, way.max_output_tokens, self._default_output_tokens, context
            ),
            choices=asked.choices,
            requested_model=asked.model,
            provider=first.entry.provider,
            model=first.model,
            stream=asked.stream,
        )

    def _extras(self, asked: ApiRequest, way: Way) -> Decimal:
        """Bound what a request may cost beside its tokens, for a key whose money is limited; refuse what has no bound."""
        if way.price is None:
            raise unpriced(asked.model)
        extras = ZERO
        if way.paid_extras:
            if self._extras_usd is None:
                raise unbounded(way.paid_extras)
            extras = self._extras_usd
        return extras + limits.surcharges(asked, way.price, self._media)
