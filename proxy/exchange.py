"""The life of one call, from its reservation to its usage event.

It runs in a task of its own. Three things can end it early, and each is recorded as what it was: the client
leaves (`client_left`), the process ends (`abort`), the provider fails or stalls. Whatever happens, what was held
is settled or refunded exactly once, and a stream's last bytes are sent only after that.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

from msgspec.structs import replace

from plugins.contract import Failure, FailureKind
from proxy.attempt import Attempt
from proxy.audience import Audience
from proxy.call import Answer, Client, Plan, Services, observe
from proxy.core.bill import NOTHING, Bill
from proxy.core.failures import error_for
from proxy.core.headers import rate_limit_headers
from proxy.core.retries import Itinerary, Step
from proxy.core.routing import Target
from proxy.documents import Outcome
from proxy.errors import GatewayError, Unavailable
from proxy.health import Admission, Spared
from proxy.metering.contract import AttemptRecord, Reservation, Settlement
from proxy.together import next_turn

SETTLE_SECONDS = 2.0
"""How long an answer's last bytes wait for its settlement; it goes on by itself after that."""

# Asked for by the class, a member takes ten times as long as by a name.
_COMPLETED = Outcome.COMPLETED


class Exchange:
    """One call."""

    def __init__(self, plan: Plan, client: Client, services: Services) -> None:
        """Prepare; `start` does everything."""
        self._plan = plan
        self._audience = Audience(client, services.loop)
        self._services = services
        self._loop = services.loop
        self._task: asyncio.Task[Answer] | None = None
        self._began = self._loop.time()
        self.settlement: Settlement | None = None
        self._reservation: Reservation | None = None
        self._ending: Outcome | None = None
        self._is_over = False
        self._target = self._to_blame = plan.targets[0]
        self._attempt: Attempt | None = None
        self._attempts: list[Attempt] = []

    def client_left(self) -> None:
        """Take note that nobody listens any more: close the upstream where that stops the bill, else read on."""
        self._audience.is_gone = True
        # A provider that answers as a whole computes and bills to the end, whoever listens.
        if self._plan.asked.stream and self._attempt is not None and self._attempt.should_cancel():
            self._end(Outcome.CLIENT_GONE)

    def abort(self, outcome: Outcome) -> None:
        """End the exchange now; what was used so far is settled."""
        self._end(outcome)

    async def keep_alive(self, silence: float) -> None:
        """Send a comment if the stream has been silent for that many seconds."""
        if self._attempt is not None and self._attempt.is_streaming:
            await self._audience.keep_alive(silence)

    def start(self) -> asyncio.Task[Answer]:
        """Serve the call in a task, which raises the `GatewayError` that refuses it, unless a stream has begun."""
        self._task = self._loop.create_task(self._run())
        return self._task

    async def _run(self) -> Answer:
        reservation = await self._services.meter.reserve(self._plan.want)
        self._reservation = reservation
        failure = None
        try:
            # Who was admitted in one turn of the loop is served in the next: see `proxy.together`.
            await next_turn()
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
        settlement, attempt = await self._conclude(reservation, failure), self._attempt
        if (
            settlement is None
            or settlement.outcome is not _COMPLETED
            or attempt is None
            or self._plan.asked.stream
        ):
            return await self._close(failure, settlement)
        return Answer(attempt.body, self._audience.headers, settlement)

    async def _serve(self, reservation: Reservation) -> Failure | None:
        """Try the targets until one serves; return the failure of the last one tried."""
        health, targets = self._services.health, self._plan.targets
        itinerary, failure = Itinerary(len(targets), health.retries), None
        wish = self._plan.asked.body.get("provider")
        while (step := itinerary.next()) is not None and (self._attempt is None or self._is_time_for(step)):
            wait = step.not_before - self._loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            if self._audience.is_gone:
                self._ending = self._ending or Outcome.CLIENT_GONE
            if self._ending is not None:
                break
            if targets[step.position] is not self._target:
                self._go_to(targets[step.position])
            admission = health.admit(self._target, wish, is_retry=step.is_retry)
            if isinstance(admission, Spared):
                failure = failure or self._spared(admission)
                continue
            attempt = self._attempt = self._new_attempt(admission, reservation)
            failure, self._to_blame = await attempt.run(self._began), self._target
            if failure is None or self._audience.has_started:
                return failure
            itinerary.failed(
                step,
                failure,
                was_reached=attempt.was_reached,
                has_other_key=admission.may_use_another_key(failure),
                moment=(self._loop.time(), random.random()),  # noqa: S311  jitter, not a secret
            )
        return failure

    def _spared(self, spared: Spared) -> Failure:
        self._to_blame = self._target
        return Failure(FailureKind.UNREACHABLE, "It is spared.", retry_after=max(1.0, spared.seconds))

    def _is_time_for(self, step: Step) -> bool:
        """Say whether a step comes before its target's time is over."""
        target = self._plan.targets[step.position]
        timeouts = self._services.relay.endpoints[target.entry.provider].timeouts.changed(target.timeouts)
        return max(step.not_before, self._loop.time()) < self._began + timeouts.total

    def _go_to(self, target: Target) -> None:
        """Leave the present target for another one, and count that."""
        left = self._target.entry
        self._services.metrics.fallbacks.labels(left.provider, left.info.id).inc()
        self._target = target

    def _new_attempt(self, admission: Admission, reservation: Reservation) -> Attempt:
        self._audience.headers = self._headers(self._target.entry.provider, reservation)
        attempt = Attempt(admission, self._plan, reservation, self._audience, self._services)
        self._attempts.append(attempt)
        return attempt

    def _headers(self, provider: str, reservation: Reservation) -> dict[str, str]:
        headers = {"x-aipasta-provider": provider}
        headers |= rate_limit_headers(reservation.rules, reservation.remaining, reservation.want.at)
        if self._plan.asked.max_tokens is None or reservation.is_lowered:
            headers["x-aipasta-max-tokens"] = str(reservation.output_tokens)
        return headers

    async def _conclude(self, reservation: Reservation, failure: Failure | None) -> Settlement | None:
        """Settle, or refund what never reached a provider."""
        self._is_over = True
        if self._attempt is not None and self._attempt.is_abandoned:
            self._ending = self._ending or Outcome.CLIENT_GONE
        # The last one that was reached: those before it reported failure, and whatever they cost is theirs alone.
        reached = self._last_reached()
        if reached is None:
            await self._services.meter.refund(reservation)
            return None
        settlement = self.settlement = self._settlement(reached, failure)
        if self._record_is_wanted(reached, settlement):
            _ = self._in_background(self._settle_by_record(reached, reservation, settlement))
            return settlement
        self._observe(reached, settlement)
        settling = self._services.meter.settle(reservation, settlement)
        if self._services.meter.settles_at_once:
            await settling  # nobody else runs before its end: a task for it took 2 % of a chat's CPU
        else:
            await asyncio.wait({self._in_background(settling)}, timeout=SETTLE_SECONDS)
        return settlement

    def _last_reached(self) -> Attempt | None:
        for attempt in reversed(self._attempts):
            if attempt.was_reached:
                return attempt
        return None

    def _observe(self, attempt: Attempt, settlement: Settlement) -> None:
        api, model = self._plan.asked.form.api, attempt.target.entry.info.id
        observe(self._services.metrics, api, model, settlement)

    def _settlement(self, attempt: Attempt, failure: Failure | None) -> Settlement:
        """Say what the call has cost: what the attempt has that served it, or was the last to reach a provider."""
        entry, first, bill = attempt.target.entry, attempt.first_token_at, attempt.bill()
        return Settlement(
            outcome=self._outcome(failure),
            bill=bill,
            usd_inr_rate=self._services.usd_inr_rate,
            provider=entry.provider,
            model=attempt.target.model,
            total_ms=round((self._loop.time() - self._began) * 1000),
            attempts=self._records(attempt, bill),
            served_model=attempt.served_model,
            backing=attempt.served.backing,
            generation_id=attempt.generation_id,
            price_version=entry.price_version,
            price=entry.price,
            first_token_ms=None if first is None else round((first - self._began) * 1000),
        )

    def _records(self, settled: Attempt, bill: Bill) -> tuple[AttemptRecord, ...]:
        records = []
        for attempt in self._attempts:
            own = bill if attempt is settled else attempt.bill()
            records.append(attempt.record(own.charge.cost, self._ending))
        return tuple(records)

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
            bill = attempt.bill(usage)
            settlement = replace(settlement, bill=bill, attempts=self._records(attempt, bill))
        self._observe(attempt, settlement)
        await self._services.meter.settle(reservation, settlement)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=self._plan.want.request_id)
        self._services.settlements.add(task)
        task.add_done_callback(self._services.settlements.discard)
        return task

    async def _close(self, failure: Failure | None, settlement: Settlement | None) -> Answer:
        """Give the client its last bytes, or the error."""
        outcome = settlement.outcome if settlement else self._outcome(failure)
        if outcome is _COMPLETED and self._attempt is not None:
            await self._audience.finish(self._attempt.body)
        elif outcome is not Outcome.CLIENT_GONE:
            error = self._error(failure)
            if not self._audience.has_started:
                raise error
            number = self._attempt.events if self._attempt else 0
            form, request_id = self._plan.asked.form, self._plan.want.request_id
            await self._audience.finish(form.error_event(error, request_id, number=number))
        return Answer(b"", {}, settlement)

    def _error(self, failure: Failure | None) -> GatewayError:
        if failure is None:
            message = "This gateway is shutting down; try again."
            return Unavailable(message, retry_after=1)
        name = self._to_blame.entry.provider
        return error_for(self._services.relay.endpoints[name].cleaned(failure), name)

    def _outcome(self, failure: Failure | None) -> Outcome:
        if self._ending is not None:
            return self._ending
        if failure is not None:
            return Outcome.TIMEOUT if failure.kind is FailureKind.TIMEOUT else Outcome.UPSTREAM_ERROR
        return Outcome.CLIENT_GONE if self._audience.is_gone else _COMPLETED

    def _end(self, outcome: Outcome) -> None:
        if self._ending is not None or self._is_over:
            return
        self._ending = outcome
        # Before the reservation there is nothing to interrupt, and half a reservation would be lost.
        if self._task is not None and self._reservation is not None:
            self._task.cancel()
