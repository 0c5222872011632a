"""The life of one call, from its reservation to its usage event.

It runs in a task of its own. Three things can end it early, and each is recorded as what it was: the client
leaves (`client_left`), the process ends (`abort`), the provider fails or stalls. Whatever happens, what was held
is settled or refunded exactly once, and a stream's last bytes are sent only after that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from plugins.contract import Failure, FailureKind
from proxy.attempt import Attempt
from proxy.audience import Audience
from proxy.call import Answer, Client, Plan, Services, observe
from proxy.core.bill import NOTHING, bill
from proxy.core.failures import error_for, may_work_elsewhere
from proxy.core.headers import rate_limit_headers
from proxy.core.routing import Target
from proxy.documents import Outcome
from proxy.errors import GatewayError, Unavailable
from proxy.metering.contract import AttemptRecord, Reservation, Settlement

SETTLE_SECONDS = 2.0
"""How long an answer's last bytes wait for its settlement; it goes on by itself after that."""


class Exchange:
    """One call."""

    def __init__(self, plan: Plan, client: Client, services: Services) -> None:
        """Prepare; `run` does everything."""
        self._plan = plan
        self._audience = Audience(client)
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Answer] | None = None
        self._began = self._loop.time()
        self._reservation: Reservation | None = None
        self._ending: Outcome | None = None
        self._is_over = False
        self._attempt: Attempt | None = None
        self._attempts: list[AttemptRecord] = []

    def client_left(self) -> None:
        """Take note that nobody listens any more: close the upstream where that stops the bill, else read on."""
        self._audience.is_gone = True
        # A provider that answers as a whole computes and bills to the end, whoever listens.
        if self._plan.chat.stream and self._attempt is not None and self._attempt.should_cancel():
            self._end(Outcome.CLIENT_GONE)

    def abort(self, outcome: Outcome) -> None:
        """End the exchange now; what was used so far is settled."""
        self._end(outcome)

    async def keep_alive(self, silence: float) -> None:
        """Send a comment if the stream has been silent for that many seconds."""
        if self._attempt is not None and self._attempt.is_streaming:
            await self._audience.keep_alive(silence)

    async def run(self) -> Answer:
        """Serve the call; raise the `GatewayError` that refuses it, unless a stream has begun."""
        self._task = asyncio.current_task()
        reservation = await self._services.meter.reserve(self._plan.want)
        self._reservation = reservation
        failure = None
        try:
            failure = await self._serve(reservation)
        except asyncio.CancelledError:
            if self._ending is None or self._task is None:
                raise
            self._task.uncancel()
        except BaseException:
            # A defect of ours: what is held must not stay held for it.
            self._ending = Outcome.UNKNOWN
            await self._conclude(reservation, None)
            raise
        return await self._close(failure, await self._conclude(reservation, failure))

    async def _serve(self, reservation: Reservation) -> Failure | None:
        """Try the targets in order until one serves; return the failure of the last one tried."""
        failure = None
        for target in self._plan.targets:
            if self._audience.is_gone or self._ending is not None:
                self._ending = self._ending or Outcome.CLIENT_GONE
                return failure
            failure = await self._try(target, reservation)
            if failure is None or self._audience.has_started or not may_work_elsewhere(failure):
                return failure
        return failure

    async def _try(self, target: Target, reservation: Reservation) -> Failure | None:
        """Make one attempt, and keep the record of it."""
        name = target.entry.provider
        self._audience.headers = self._headers(name, reservation)
        attempt = self._attempt = Attempt(target, self._plan, reservation, self._audience, self._services)
        try:
            failure = await attempt.run(self._began + self._services.relay.endpoints[name].timeouts.total)
            if attempt.is_abandoned:
                self._ending = self._ending or Outcome.CLIENT_GONE
        finally:
            kind = attempt.failure.kind if attempt.failure else "served"
            self._services.metrics.attempts.labels(name, kind).inc()
            if attempt.was_reached:
                self._attempts.append(attempt.record(self._ending))
        return failure

    def _headers(self, provider: str, reservation: Reservation) -> dict[str, str]:
        headers = {"x-aipasta-provider": provider}
        headers |= rate_limit_headers(reservation.rules, reservation.remaining, reservation.want.at)
        if self._plan.chat.max_tokens is None or reservation.is_lowered:
            headers["x-aipasta-max-tokens"] = str(reservation.output_tokens)
        return headers

    async def _conclude(self, reservation: Reservation, failure: Failure | None) -> Settlement | None:
        """Settle, or refund what never reached a provider."""
        self._is_over = True
        if not self._attempts or self._attempt is None:
            await self._services.meter.refund(reservation)
            return None
        settlement = self._settlement(self._attempt, reservation, failure)
        if self._record_is_wanted(self._attempt, settlement):
            _ = self._in_background(self._settle_by_record(self._attempt, reservation, settlement))
            return settlement
        observe(self._services.metrics, self._attempt.target.entry.info.id, reservation, settlement)
        task = self._in_background(self._services.meter.settle(reservation, settlement))
        await asyncio.wait({task}, timeout=SETTLE_SECONDS)
        return settlement

    def _settlement(self, attempt: Attempt, reservation: Reservation, failure: Failure | None) -> Settlement:
        entry, now = attempt.target.entry, self._loop.time()
        # Where it was we who lost patience, nobody has said that nothing will be billed.
        has_failed = failure is not None and (
            failure.kind is not FailureKind.TIMEOUT or failure.status is not None
        )
        made = bill(
            entry, attempt.served, prompt_estimate=reservation.want.prompt_estimate, has_failed=has_failed
        )
        first = attempt.first_token_at
        return Settlement(
            outcome=self._outcome(failure),
            bill=made,
            usd_inr_rate=self._services.usd_inr_rate,
            provider=entry.provider,
            model=attempt.target.model,
            total_ms=round((now - self._began) * 1000),
            attempts=(*self._attempts[:-1], replace(self._attempts[-1], cost=made.charge.cost)),
            served_model=attempt.served_model,
            backing=attempt.served.backing,
            generation_id=attempt.generation_id,
            price_version=entry.price_version,
            price=entry.price,
            first_token_ms=None if first is None else round((first - self._began) * 1000),
        )

    def _record_is_wanted(self, attempt: Attempt, settlement: Settlement) -> bool:
        """Say whether the provider may know better than our estimate what a cut stream has cost."""
        is_estimate = attempt.served.usage is None and settlement.bill is not NOTHING
        return (
            is_estimate
            and attempt.generation_id is not None
            and self._services.reconciler.can_tell(settlement.provider)
        )

    async def _settle_by_record(
        self, attempt: Attempt, reservation: Reservation, settlement: Settlement
    ) -> None:
        """Hold what is held until the provider has said what it was, or for as long as it may take to."""
        usage = await self._services.reconciler.resolve(settlement.provider, attempt.generation_id or "")
        if usage is not None:
            made = bill(
                attempt.target.entry,
                replace(attempt.served, usage=usage),
                prompt_estimate=reservation.want.prompt_estimate,
                has_failed=False,
            )
            settlement = replace(settlement, bill=made)
        observe(self._services.metrics, attempt.target.entry.info.id, reservation, settlement)
        await self._services.meter.settle(reservation, settlement)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._services.settlements.add(task)
        task.add_done_callback(self._services.settlements.discard)
        return task

    async def _close(self, failure: Failure | None, settlement: Settlement | None) -> Answer:
        """Give the client its last bytes, or the error."""
        outcome = settlement.outcome if settlement else self._outcome(failure)
        if outcome is Outcome.COMPLETED and self._attempt is not None:
            if not self._plan.chat.stream:
                return Answer(self._attempt.body, self._audience.headers, settlement)
            await self._audience.send(self._attempt.body)
        elif outcome is not Outcome.CLIENT_GONE:
            error = self._error(failure)
            if not self._audience.has_started:
                raise error
            number = self._attempt.events if self._attempt else 0
            form, request_id = self._plan.chat.form, self._plan.want.request_id
            await self._audience.send(form.error_event(error, request_id, number=number))
        return Answer(b"", {}, settlement)

    def _error(self, failure: Failure | None) -> GatewayError:
        if failure is None or self._attempt is None:
            message = "This gateway is shutting down; try again."
            return Unavailable(message, retry_after=1)
        name = self._attempt.target.entry.provider
        message = self._services.relay.endpoints[name].without_secrets(failure.message)
        return error_for(replace(failure, message=message), name)

    def _outcome(self, failure: Failure | None) -> Outcome:
        if self._ending is not None:
            return self._ending
        if failure is not None:
            return Outcome.TIMEOUT if failure.kind is FailureKind.TIMEOUT else Outcome.UPSTREAM_ERROR
        return Outcome.CLIENT_GONE if self._audience.is_gone else Outcome.COMPLETED

    def _end(self, outcome: Outcome) -> None:
        if self._ending is not None or self._is_over:
            return
        self._ending = outcome
        # Before the reservation there is nothing to interrupt, and half a reservation would be lost.
        if self._task is not None and self._reservation is not None:
            self._task.cancel()
