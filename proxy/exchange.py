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

import orjson

from plugins.contract import ChatCall, Failure, FailureKind
from proxy.call import Answer, Client, ClientGone, Plan, Services, observe
from proxy.core.answer import read_answer
from proxy.core.bill import NOTHING, Served, bill
from proxy.core.failures import error_for, may_work_elsewhere
from proxy.core.headers import rate_limit_headers
from proxy.core.routing import Target, with_native_models
from proxy.core.stream import ChatStream
from proxy.documents import Outcome
from proxy.errors import GatewayError, Unavailable, openai_body
from proxy.metering.contract import AttemptRecord, Progress, Reservation, Settlement
from proxy.relay import MAX_ANSWER_BYTES, RelayFailed, UpstreamResponse

SETTLE_SECONDS = 2.0
"""How long an answer's last bytes wait for its settlement; it goes on by itself after that."""

NOTE_SECONDS = 2.0
"""How often a long stream is noted, so that a process that dies leaves a fair estimate behind."""

KEEP_ALIVE = b": keep-alive\n\n"
NOT_A_STREAM = Failure(FailureKind.PROVIDER, "The provider answered a stream as a whole.")


PAST_THE_CAP = Failure(FailureKind.PROVIDER, "The provider went past the output limit of this request.")


class Exchange:
    """One call."""

    def __init__(self, plan: Plan, client: Client, services: Services) -> None:
        """Prepare; `run` does everything."""
        self._plan = plan
        self._client = client
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Answer] | None = None
        self._began = self._loop.time()
        self._reservation: Reservation | None = None
        self._ending: Outcome | None = None
        self._client_is_gone = False
        self._has_started = False
        self._is_over = False
        self._writing = asyncio.Lock()
        self._last_sent = self._began
        self._attempts: list[AttemptRecord] = []
        self._target = plan.targets[0]
        self._generation_id: str | None = None
        self._stream: ChatStream | None = None
        self._served = Served()
        self._served_model: str | None = None
        self._first_token_at: float | None = None
        self._body = b""
        self._noted_at = self._began

    def client_left(self) -> None:
        """Take note that nobody listens any more: close the upstream where that stops the bill, else read on."""
        self._client_is_gone = True
        # A provider that answers as a whole computes and bills to the end, whoever listens.
        if self._plan.chat.stream and self._should_cancel():
            self._end(Outcome.CLIENT_GONE)

    def abort(self, outcome: Outcome) -> None:
        """End the exchange now; what was used so far is settled."""
        self._end(outcome)

    async def keep_alive(self, silence: float) -> None:
        """Send a comment if the stream has been silent for that many seconds, so that no proxy cuts it."""
        waits = self._stream is not None and self._loop.time() - self._last_sent >= silence
        if waits and not self._client_is_gone and not self._writing.locked():
            await self._send(KEEP_ALIVE)

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

    async def _conclude(self, reservation: Reservation, failure: Failure | None) -> Settlement | None:
        """Settle, or refund what never reached a provider."""
        self._is_over = True
        if not self._attempts:
            await self._services.meter.refund(reservation)
            return None
        settlement = self._settlement(reservation, failure)
        if self._record_is_wanted(settlement):
            _ = self._in_background(self._settle_by_record(reservation, settlement))
            return settlement
        observe(self._services.metrics, self._target.entry.info.id, reservation, settlement)
        task = self._in_background(self._services.meter.settle(reservation, settlement))
        await asyncio.wait({task}, timeout=SETTLE_SECONDS)
        return settlement

    async def _serve(self, reservation: Reservation) -> Failure | None:
        """Try the targets in order until one serves; return the failure of the last one tried."""
        failure = None
        for target in self._plan.targets:
            if self._client_is_gone or self._ending is not None:
                self._ending = self._ending or Outcome.CLIENT_GONE
                return failure
            self._target = target
            failure = await self._attempt(target, reservation)
            if failure is None or self._has_started or not may_work_elsewhere(failure):
                return failure
        return failure

    async def _attempt(self, target: Target, reservation: Reservation) -> Failure | None:
        """Send the request to one target, and read its answer to the end."""
        relay, name = self._services.relay, target.entry.provider
        endpoint = relay.endpoints[name]
        request = endpoint.provider.chat_request(self._chat_call(target, reservation), endpoint.next_key())
        started_at, began = self._services.clock(), self._loop.time()
        self._stream, self._served, self._generation_id, self._served_model = None, Served(), None, None
        status: int | None = None
        failure: Failure | None = None
        reached = True
        try:
            # Many providers send the head of a whole answer when they have computed it.
            patience = None if self._plan.chat.stream else endpoint.timeouts.total
            response = await relay.send(name, request, patience=patience)
            try:
                status = response.status
                head = endpoint.provider.read_head(response.headers)
                self._generation_id = head.generation_id
                self._served = Served(backing=head.backing)
                self._note()
                failure = await self._read(response, target)
            finally:
                await response.aclose()
        except RelayFailed as exc:
            failure, reached = exc.failure, exc.reached
        finally:
            self._services.metrics.attempts.labels(name, failure.kind if failure else "served").inc()
            if reached:
                milliseconds = round((self._loop.time() - began) * 1000)
                outcome = str(failure.kind if failure else self._ending or Outcome.COMPLETED)
                self._attempts.append(
                    AttemptRecord(
                        name, target.model, outcome, started_at, milliseconds, status, self._generation_id
                    )
                )
        return failure

    async def _read(self, response: UpstreamResponse, target: Target) -> Failure | None:
        relay, name = self._services.relay, target.entry.provider
        if not 200 <= response.status < 300:  # noqa: PLR2004  success, as HTTP defines it
            return await relay.read_failure(name, response)
        is_whole = "json" in response.headers.get("content-type", "").lower()
        if self._plan.chat.stream and not is_whole:
            return await self._pump(response, target)
        return await self._collect(response, target)

    async def _collect(self, response: UpstreamResponse, target: Target) -> Failure | None:
        """Read a whole answer."""
        endpoint = self._services.relay.endpoints[target.entry.provider]
        try:
            async with asyncio.timeout(endpoint.timeouts.total):
                self._body = await response.read(MAX_ANSWER_BYTES)
        except TimeoutError:
            return Failure(FailureKind.TIMEOUT, "The provider did not finish its answer in time.")
        except RelayFailed:
            # It was computed and billed as a whole, however little of it has arrived.
            self._served = replace(self._served, deltas=1, output_bytes=response.received)
            raise
        answer = read_answer(endpoint.provider, self._body)
        backing = answer.backing or self._served.backing
        # A whole answer that failed delivers nothing, so nothing of it is estimated.
        size = 0 if answer.failure else answer.output_bytes
        self._served = Served(answer.usage, backing, int(size > 0), size)
        self._served_model = answer.served_model
        self._generation_id = self._generation_id or answer.upstream_id
        return answer.failure or (NOT_A_STREAM if self._plan.chat.stream else None)

    async def _pump(self, response: UpstreamResponse, target: Target) -> Failure | None:
        """Pass a stream on, event by event, until it ends."""
        endpoint = self._services.relay.endpoints[target.entry.provider]
        stream = self._stream = ChatStream(endpoint.provider, include_usage=self._plan.chat.include_usage)
        deadline = self._began + endpoint.timeouts.total
        first = min(deadline, self._loop.time() + endpoint.timeouts.first_byte)
        try:
            async with asyncio.timeout_at(first) as patience:
                async for chunk in response.chunks():
                    await self._pass_on(stream, chunk)
                    if stream.failure is not None or stream.is_done or self._is_past_the_cap(stream):
                        break
                    patience.reschedule(min(deadline, self._loop.time() + endpoint.timeouts.idle))
        except TimeoutError:
            if self._writing.locked():
                self._client_is_gone = True
                self._ending = Outcome.CLIENT_GONE
                return None
            return Failure(FailureKind.TIMEOUT, "The provider's stream stalled.")
        finally:
            self._take_stock(stream)
        if stream.failure is None and self._is_past_the_cap(stream):
            return PAST_THE_CAP
        if stream.failure is None:
            self._body = stream.finish()
        return stream.failure

    async def _pass_on(self, stream: ChatStream, chunk: bytes) -> None:
        """Give the client what some bytes of the provider make, and see what they tell."""
        out = stream.feed(chunk)
        if self._first_token_at is None and stream.started:
            self._first_token_at = self._loop.time()
        if out:
            await self._send(out)
        # Who serves, and so whether closing stops the bill, may be known only now.
        if self._client_is_gone and not stream.is_done and self._should_cancel():
            self._end(Outcome.CLIENT_GONE)
        if self._loop.time() - self._noted_at > NOTE_SECONDS:
            self._take_stock(stream)
            self._note()

    def _is_past_the_cap(self, stream: ChatStream) -> bool:
        """Say whether a provider goes on after its cap: none makes a delta of less than a token."""
        cap = self._reservation.output_tokens if self._reservation else 0
        return not stream.is_done and stream.deltas > cap * self._plan.chat.choices

    def _note(self) -> None:
        """Tell the meter how far this has come: it may be all that is left of us."""
        self._noted_at = self._loop.time()
        target, served = self._target, self._served
        progress = Progress(
            provider=target.entry.provider,
            model=target.model,
            generation_id=self._generation_id,
            backing=served.backing,
            deltas=served.deltas,
            output_bytes=served.output_bytes,
        )
        if self._reservation is not None:
            self._services.meter.note(self._reservation, progress)

    def _take_stock(self, stream: ChatStream) -> None:
        backing = stream.backing or self._served.backing
        self._served = Served(stream.usage, backing, stream.deltas, stream.output_bytes)
        self._served_model = stream.served_model
        self._generation_id = self._generation_id or stream.upstream_id

    def _chat_call(self, target: Target, reservation: Reservation) -> ChatCall:
        most = target.entry.info.max_output_tokens
        cap = reservation.output_tokens if most is None else min(reservation.output_tokens, most)
        body = with_native_models(self._plan.chat.body, self._plan.targets, target)
        want = self._plan.want
        # A provider that honours the price which the hold was computed at cannot cost more than the hold.
        has_budget = want.key_limits is not None and want.key_limits.has_budget
        price = want.demand.price if has_budget else None
        return ChatCall(body, target.model, self._plan.chat.stream, cap, max_price=price)

    async def _send(self, data: bytes) -> None:
        """Send to the client; when it has left, decide whether reading on is of use."""
        if self._client_is_gone:
            return
        try:
            async with self._writing:
                if not self._has_started:
                    self._has_started = True
                    await self._client.start(self._headers())
                await self._client.send(data)
                self._last_sent = self._loop.time()
        except ClientGone:
            self.client_left()

    def _headers(self) -> dict[str, str]:
        headers = {"x-aipasta-provider": self._target.entry.provider}
        if self._reservation is not None:
            reserved = self._reservation
            headers |= rate_limit_headers(reserved.rules, reserved.remaining, reserved.want.at)
        if self._plan.chat.max_tokens is None or (self._reservation and self._reservation.is_lowered):
            headers["x-aipasta-max-tokens"] = str(self._reservation.output_tokens if self._reservation else 0)
        return headers

    def _should_cancel(self) -> bool:
        policy = self._plan.on_disconnect
        if policy != "auto":
            return policy == "cancel"
        stream = self._stream
        backing = (stream.backing if stream else None) or self._served.backing
        return self._services.relay.endpoints[self._target.entry.provider].provider.stops_billing(backing)

    def _end(self, outcome: Outcome) -> None:
        if self._ending is not None or self._is_over:
            return
        self._ending = outcome
        # Before the reservation there is nothing to interrupt, and half a reservation would be lost.
        if self._task is not None and self._reservation is not None:
            self._task.cancel()

    def _outcome(self, failure: Failure | None) -> Outcome:
        if self._ending is not None:
            return self._ending
        if failure is not None:
            return Outcome.TIMEOUT if failure.kind is FailureKind.TIMEOUT else Outcome.UPSTREAM_ERROR
        return Outcome.CLIENT_GONE if self._client_is_gone else Outcome.COMPLETED

    def _record_is_wanted(self, settlement: Settlement) -> bool:
        """Say whether the provider may know better than our estimate what a cut stream has cost."""
        is_estimate = self._served.usage is None and settlement.bill is not NOTHING
        return (
            is_estimate
            and self._generation_id is not None
            and self._services.reconciler.can_tell(settlement.provider)
        )

    async def _settle_by_record(self, reservation: Reservation, settlement: Settlement) -> None:
        """Hold what is held until the provider has said what it was, or for as long as it may take to."""
        usage = await self._services.reconciler.resolve(settlement.provider, self._generation_id or "")
        if usage is not None:
            made = bill(
                self._target.entry,
                replace(self._served, usage=usage),
                prompt_estimate=reservation.want.prompt_estimate,
                has_failed=False,
            )
            settlement = replace(settlement, bill=made)
        observe(self._services.metrics, self._target.entry.info.id, reservation, settlement)
        await self._services.meter.settle(reservation, settlement)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=self._plan.want.request_id)
        self._services.settlements.add(task)
        task.add_done_callback(self._services.settlements.discard)
        return task

    async def _close(self, failure: Failure | None, settlement: Settlement | None) -> Answer:
        """Give the client its last bytes, or the error."""
        outcome = settlement.outcome if settlement else self._outcome(failure)
        if outcome is Outcome.COMPLETED:
            if not self._plan.chat.stream:
                return Answer(self._body, self._headers(), settlement)
            await self._send(self._body)
        elif outcome is not Outcome.CLIENT_GONE:
            error = self._error(failure)
            if not self._has_started:
                raise error
            await self._send(b"data: %b\n\n" % orjson.dumps(openai_body(error)))
        return Answer(b"", {}, settlement)

    def _error(self, failure: Failure | None) -> GatewayError:
        if failure is None:
            message = "This gateway is shutting down; try again."
            return Unavailable(message, retry_after=1)
        name = self._target.entry.provider
        message = self._services.relay.endpoints[name].without_secrets(failure.message)
        return error_for(replace(failure, message=message), name)

    def _settlement(self, reservation: Reservation, failure: Failure | None) -> Settlement:
        entry, now = self._target.entry, self._loop.time()
        # Where it was we who lost patience, nobody has said that nothing will be billed.
        has_failed = failure is not None and (
            failure.kind is not FailureKind.TIMEOUT or failure.status is not None
        )
        made = bill(
            entry, self._served, prompt_estimate=reservation.want.prompt_estimate, has_failed=has_failed
        )
        first = None if self._first_token_at is None else round((self._first_token_at - self._began) * 1000)
        return Settlement(
            outcome=self._outcome(failure),
            bill=made,
            usd_inr_rate=self._services.usd_inr_rate,
            provider=entry.provider,
            model=self._target.model,
            total_ms=round((now - self._began) * 1000),
            attempts=(*self._attempts[:-1], replace(self._attempts[-1], cost=made.charge.cost)),
            served_model=self._served_model,
            backing=self._served.backing,
            generation_id=self._generation_id,
            price_version=entry.price_version,
            price=entry.price,
            first_token_ms=first,
        )
