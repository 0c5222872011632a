"""One attempt to have a call served: a request to one target, and its answer, read to the end.

A stream goes to the audience as it comes; a whole answer is collected. What the answer has told so far (usage,
backing, the provider's id for it) stands in the attempt's attributes at every moment, also after a failure or a
cancellation, because what was used must be settled whatever happens.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from decimal import Decimal
from functools import partial

from msgspec.structs import replace

from plugins.contract import ApiCall, Failure, FailureKind, Framing, Translator, UpstreamRequest, Usage
from proxy.audience import Audience
from proxy.call import Plan, Services
from proxy.core.answer_stream import AnswerStream
from proxy.core.bill import NOTHING, Bill, Served, bill
from proxy.core.routing import with_native_models
from proxy.deadlines import NEVER, Deadline
from proxy.documents import Outcome
from proxy.errors import InvalidRequest
from proxy.health import Admission
from proxy.metering.contract import AttemptRecord, Progress, Reservation
from proxy.relay import MAX_ANSWER_BYTES, RelayFailed, UpstreamResponse
from proxy.transport import was_never_sent

NOTE_SECONDS = 2.0
"""How often a long stream is noted, so that a process that dies leaves a fair estimate behind."""

_NOTHING_YET = Served()
_COMPLETED = Outcome.COMPLETED  # asked for by the class, a member takes ten times as long
SILENT = Failure(FailureKind.TIMEOUT, "The provider did not answer in time.")
UNFINISHED = Failure(FailureKind.TIMEOUT, "The provider did not finish its answer in time.")
STALLED = Failure(FailureKind.TIMEOUT, "The provider's stream stalled.")
NOT_A_STREAM = Failure(FailureKind.PROVIDER, "The provider answered a stream as a whole.")
PAST_THE_CAP = Failure(FailureKind.PROVIDER, "The provider went past the output limit of this request.")


class Attempt:
    """One request to one target.

    `body` is the whole answer, or a stream's last bytes, to be sent when all is settled. `was_reached` says
    whether the provider may have seen the request, `is_served` that its answer was read to a good end, and
    `is_abandoned` that reading on was of no use: the client has left.
    """

    was_reached = False
    is_served = False
    is_abandoned = False
    failure: Failure | None = None
    served = _NOTHING_YET
    served_model: str | None = None
    generation_id: str | None = None
    first_token_at: float | None = None
    body = b""
    _milliseconds = 0
    _status: int | None = None
    _stream: AnswerStream | None = None
    _translator: Translator | None = None
    _is_over = False
    _unsent = b""
    _patience: Deadline

    def __init__(
        self,
        admission: Admission,
        plan: Plan,
        reservation: Reservation,
        audience: Audience,
        services: Services,
    ) -> None:
        """Prepare; `run` does everything."""
        self.target = admission.target
        self._admission = admission
        self._plan = plan
        self._reservation = reservation
        self._audience = audience
        self._services = services
        self._endpoint = admission.endpoint
        self._timeouts = admission.endpoint.timeouts.changed(self.target.timeouts)
        self._loop = services.loop
        self._began = self._noted_at = self._deadline = self._loop.time()
        self._started_at = services.clock()

    @property
    def is_streaming(self) -> bool:
        """Say whether a stream is open."""
        return self._stream is not None and not self._is_over

    @property
    def events(self) -> int:
        """Return how many events of a stream the client has got, where its API numbers them."""
        return self._stream.events if self._stream else 0

    async def run(self, call_began: float) -> Failure | None:
        """Serve the call, or return why not; the target's whole time counts from the begin of the call."""
        self._deadline = call_began + self._timeouts.total
        try:
            # Many providers send the head of a whole answer when they have computed it.
            patience = self._timeouts.first_byte if self._plan.asked.stream else math.inf
            moment = min(self._deadline, self._began + patience)
            with self._services.deadlines.at(moment) as self._patience:
                response = await self._send(self._request())
                try:
                    self._read_head(response)
                    if not self._take_at_once(response):
                        self.failure = await self._read(response)
                finally:
                    if not response.has_arrived:  # then there is nothing to close
                        await response.aclose()
            self.is_served = self.failure is None and not self.is_abandoned
        except RelayFailed as exc:
            self.failure, self.was_reached = exc.failure, exc.reached
        except TimeoutError as exc:
            self.failure, self.was_reached = self._lateness(), not was_never_sent(exc.__cause__)
        except asyncio.CancelledError as exc:
            self.was_reached = not was_never_sent(exc)
            raise
        finally:
            self._is_over = True
            self._milliseconds = round((self._loop.time() - self._began) * 1000)
            self._admission.ended(self.failure, is_served=self.is_served)
        return self.failure

    def bill(self, usage: Usage | None = None) -> Bill:
        """Make the bill of this attempt, by the provider's own record if it is given."""
        if not self.was_reached:
            return NOTHING
        served = self.served if usage is None else replace(self.served, usage=usage)
        reserved = self._reservation
        return bill(
            self.target.entry,
            served,
            prompt_estimate=reserved.want.prompt_estimate,
            most_output=reserved.output_tokens * reserved.want.choices,
            has_failed=self.failure is not None and self._is_reported(self.failure),
        )

    def record(self, cost: Decimal | None, ending: Outcome | None) -> AttemptRecord:
        """Return what is kept of this attempt; `ending` is what ended it early, if something did."""
        outcome = str(self.failure.kind if self.failure else ending or _COMPLETED)
        return AttemptRecord(
            self.target.entry.provider,
            self.target.model,
            outcome,
            self._started_at,
            self._milliseconds,
            self._status,
            self.generation_id,
            cost,
        )

    def should_cancel(self) -> bool:
        """Say whether to stop reading when the client has left: by default where that stops the bill."""
        policy = self._plan.on_disconnect
        if policy != "auto":
            return policy == "cancel"
        backing = (self._stream.backing if self._stream else None) or self.served.backing
        return self._endpoint.provider.stops_billing(backing)

    def _request(self) -> UpstreamRequest:
        reserved, most = self._reservation, self.target.entry.info.max_output_tokens
        cap = reserved.output_tokens if most is None else min(reserved.output_tokens, most)
        asked = self._plan.asked
        body = with_native_models(asked.body, self._plan.targets, self.target)
        call = ApiCall(
            body,
            self.target.model,
            asked.stream,
            cap,
            max_price=self._plan.max_price,
            api=asked.form.api,
            has_unread_files=asked.prompt.files > 0 and self._plan.leaves_files_unread(self.target),
        )
        self._translator = self._endpoint.provider.translator(call)
        try:
            return self._endpoint.provider.api_request(call, self._admission.api_key)
        except ValueError as exc:
            raise InvalidRequest(str(exc)) from exc

    def _is_reported(self, failure: Failure) -> bool:
        """Say whether the provider has said that it failed, or hung up before it said anything.

        An answer that it began, and that broke off or makes no sense, it may have computed and billed. So it may where it
        was we who lost patience.
        """
        is_silence = self._status is None and failure.kind is not FailureKind.TIMEOUT
        return failure.status is not None or is_silence

    def _lateness(self) -> Failure | None:
        """Say what the time was over for; a client that does not read is no fault of the provider."""
        if self._status is None:
            return SILENT
        if self._stream is None:
            return UNFINISHED
        if self._unsent or self._audience.is_slow:
            self._audience.is_gone = self.is_abandoned = True
            return None
        return STALLED

    def _send(self, request: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        """Begin to send a request, of which nothing is kept: a long prompt is not needed until a stream's end."""
        self.was_reached = True
        return self._services.relay.send(self.target.entry.provider, request, timeouts=self._timeouts)

    def _read_head(self, response: UpstreamResponse) -> None:
        self._status = response.status
        head = self._endpoint.provider.read_head(response.headers)
        self.generation_id = head.generation_id
        self.served = Served(backing=head.backing)
        if not response.has_arrived:
            self._note()

    def _take_at_once(self, response: UpstreamResponse) -> bool:
        """Take a whole answer if all of it is here, so that nothing has to be waited for, and say so."""
        body = None if self._plan.asked.stream or not response.is_success else response.at_once()
        if body is not None:
            self.failure = self._take_whole(body)
        return body is not None

    def _read(self, response: UpstreamResponse) -> Awaitable[Failure | None]:
        if not response.is_success:
            self._patience.at = NEVER  # it has its own
            return self._services.relay.read_failure(self.target.entry.provider, response)
        if not self._plan.asked.stream:
            return self._collect(response)
        if self._is_whole(response):
            self._patience.at = self._deadline
            return self._collect(response)
        return self._pump(response)

    def _is_whole(self, response: UpstreamResponse) -> bool:
        """Say whether a body is one document, which nobody who was asked for a stream should send."""
        is_json = "json" in response.headers.get("content-type", "").lower()
        return is_json and (self._translator is None or self._translator.framing is not Framing.LINES)

    async def _collect(self, response: UpstreamResponse) -> Failure | None:
        """Read a whole answer."""
        try:
            body = await response.read(MAX_ANSWER_BYTES)
        except RelayFailed:
            # It was computed and billed as a whole, however little of it has arrived.
            self.served = replace(self.served, deltas=1, output_bytes=response.received)
            raise
        return self._take_whole(body)

    def _take_whole(self, body: bytes) -> Failure | None:
        answer = self._plan.asked.form.read_answer(self._endpoint.provider, body, self._translator)
        self.body = answer.body
        backing = answer.backing or self.served.backing
        # A whole answer that failed delivers nothing, so nothing of it is estimated.
        self.served = Served(answer.usage, backing, output=() if answer.failure else answer.output)
        self.served_model = answer.served_model
        self.generation_id = self.generation_id or answer.upstream_id
        return answer.failure or (NOT_A_STREAM if self._plan.asked.stream else None)

    async def _pump(self, response: UpstreamResponse) -> Failure | None:
        """Pass a stream on until it ends."""
        asked, now = self._plan.asked, self._loop.time()
        stream = self._stream = asked.form.stream(self._endpoint.provider, asked, self._translator)
        self._patience.at = min(self._deadline, now + self._timeouts.first_byte)
        take = partial(self._take, stream)
        try:
            while await response.pour(take):
                if self._unsent:
                    await self._audience.send(self._unsent)
                    self._unsent = b""
                    self._look_around(stream)
                if self.is_abandoned:
                    return None
                if self._is_at_its_end(stream):
                    break
        finally:
            self._take_stock(stream)
        if stream.failure is None and self._is_past_the_cap(stream):
            return PAST_THE_CAP
        if stream.failure is None:
            self.body += stream.finish()
            response.leave()
        return stream.failure

    def _take(self, stream: AnswerStream, piece: bytes) -> bool:
        """Give the client what some bytes of the provider make; say whether to stop, or to wait for him."""
        out = stream.feed(piece)
        if self.first_token_at is None and stream.started:
            self.first_token_at = self._loop.time()
            if stream.failure is None:
                self._admission.has_begun()
        if out and stream.is_done and stream.failure is None and self._services.meter.settles_at_once:
            # A write less: the last bytes, for which nobody has to wait, follow at once.
            self.body, out = out, b""
        self._unsent = b"" if not out or self._audience.send_now(out) else out
        self._look_around(stream)
        return bool(self._unsent) or self.is_abandoned or self._is_at_its_end(stream)

    def _look_around(self, stream: AnswerStream) -> None:
        """See after a piece who listens and how long it may take to the next, and note now and then how far it is."""
        # Who serves, and so whether closing stops the bill, may be known only now.
        self.is_abandoned = self._audience.is_gone and not stream.is_done and self.should_cancel()
        now = self._loop.time()
        self._patience.at = min(self._deadline, now + self._timeouts.idle)
        if now - self._noted_at > NOTE_SECONDS:
            self._take_stock(stream)
            self._note()

    def _is_at_its_end(self, stream: AnswerStream) -> bool:
        return stream.failure is not None or stream.is_done or self._is_past_the_cap(stream)

    def _is_past_the_cap(self, stream: AnswerStream) -> bool:
        """Say whether a provider goes on after its cap: none makes a delta of less than a token."""
        cap = self._reservation.output_tokens * self._plan.asked.choices
        return not stream.is_done and stream.deltas > cap

    def _take_stock(self, stream: AnswerStream) -> None:
        backing = stream.backing or self.served.backing
        self.served = Served(stream.usage, backing, stream.deltas, stream.output_bytes)
        self.served_model = stream.served_model
        self.generation_id = self.generation_id or stream.upstream_id

    def _note(self) -> None:
        """Tell the meter how far this has come: it may be all that is left of us."""
        self._noted_at = self._loop.time()
        progress = Progress(
            provider=self.target.entry.provider,
            model=self.target.model,
            generation_id=self.generation_id,
            backing=self.served.backing,
            deltas=self.served.deltas,
            output_bytes=self.served.output_bytes,
        )
        self._services.meter.note(self._reservation, progress)
