"""An exchange is one request for a generation, from its first byte in to its last byte out, and one entry in the books."""

import asyncio
import json
import secrets
import string
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.upstreams import money
from tests.upstreams.answer import compose, measure
from tests.upstreams.ask import Ask
from tests.upstreams.behaviour import Behaviour
from tests.upstreams.books import Entry, State
from tests.upstreams.failure import Failure
from tests.upstreams.generation import Event, Generation, Shape, reached
from tests.upstreams.wire import HTML, CutOffError, Wire, dumped

if TYPE_CHECKING:
    from tests.upstreams.server import SimulatedUpstream

LETTERS = string.ascii_letters + string.digits
CLIENT_CLOSED = 499
STREAM_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache"}


class Exchange:
    """Answers one request, whatever happens to it, and closes its entry exactly once."""

    def __init__(self, upstream: "SimulatedUpstream", request: web.Request, shape: Shape) -> None:
        self._upstream = upstream
        self._request = request
        self._shape = shape
        self._behaviour = Behaviour()
        self._generation: Generation | None = None
        self._has_stalled = False
        self._entry = opened_entry(upstream.generation_id(), request)

    async def run(self) -> web.StreamResponse:
        self._upstream.books.open(self._entry)
        try:
            return await self._answer()
        except CutOffError as cut:
            self._stop("aborted")
            return cut.response
        except ConnectionError:
            self._stop("client_closed")
            return web.Response(status=CLIENT_CLOSED)
        except asyncio.CancelledError:
            self._stop("aborted" if self._upstream.is_stopping else "client_closed")
            raise
        finally:
            self._close("failed")

    async def _answer(self) -> web.StreamResponse:
        entry = self._entry
        ask = await self._ask()
        if isinstance(ask, Failure):
            return await self._refuse(ask)
        entry.model_asked, entry.stream = ask.model, ask.stream
        names = self._upstream.names(ask)
        self._behaviour = self._upstream.script.take(names, entry.key, entry.path, generates=True)
        failure = self._upstream.failure(self._behaviour)
        refused = failure and (self._behaviour.error_after is None or not ask.stream)
        plan = failure if failure and refused else self._plan(ask)
        self._generation = None if isinstance(plan, Failure) else plan
        plan = await self._upstream.wait_headers(self._behaviour, ask) or plan
        if isinstance(plan, Failure):
            return await self._refuse(plan)
        if ask.stream and self._behaviour.garbage not in {"html", "json_for_stream"}:
            return await self._send_stream(plan, failure)
        return await self._send_whole(plan)

    async def _ask(self) -> Ask | Failure:
        """Read the body, but judge the key first."""
        self._entry.raw_body = await self._request.read()
        ask = self._read()
        return self._upstream.refuse_key(self._entry.key) or ask or self._upstream.refuse_json()

    def _read(self) -> Ask | None:
        try:
            self._entry.body = json.loads(self._entry.raw_body)
            return self._shape.read(self._entry.body)
        except (ValueError, TypeError, AttributeError, KeyError):
            return None

    def _plan(self, ask: Ask) -> Generation | Failure:
        """Decide everything about the answer before its first byte."""
        entry, behaviour = self._entry, self._behaviour
        served = self._upstream.admit(ask, behaviour)
        if isinstance(served, Failure):
            return served
        answer = compose(ask, behaviour)
        tokens = measure(ask, answer, behaviour)
        bill = self._upstream.bill(served, tokens, ask, behaviour)
        entry.model_served, entry.provider = served.model, served.provider
        entry.is_byok, entry.generation_delay = behaviour.byok, behaviour.generation_delay
        entry.prompt_tokens, entry.cached_tokens = tokens.prompt, tokens.cached
        entry.cache_write_tokens = tokens.cache_write
        entry.cost = None if bill.cost is None else money.ZERO
        return Generation(entry, ask, behaviour, answer, tokens, served, bill)

    # Answers

    async def _refuse(self, failure: Failure) -> web.StreamResponse:
        """Answer with a failure, which costs nothing."""
        entry = self._entry
        failure = self._upstream.signed(self._shape.refusal(failure), entry)
        entry.status, entry.error = failure.status, failure.name
        wire = Wire(self._request, self._behaviour)
        encoded = failure.encoded()
        self._close("failed")
        await wire.open(failure.status, failure.headers, len(encoded))
        await wire.write(encoded)
        return await wire.end()

    async def _send_whole(self, generation: Generation) -> web.StreamResponse:
        behaviour = self._behaviour
        wire = Wire(self._request, behaviour)
        encoded, kind = self._whole_body(generation)
        self._entry.status = 200
        await wire.open(200, self._upstream.headers(generation) | {"content-type": kind}, len(encoded))
        await wire.pause(behaviour.delay_first)
        if behaviour.stall_after is not None:
            await wire.write(encoded[: len(encoded) // 2])
            await wire.pause(behaviour.stall_seconds)
            encoded = encoded[len(encoded) // 2 :]
        if behaviour.cut:
            half = len(encoded) // 2 if behaviour.cut_inside else 0
            await wire.write(encoded[:half])
            await wire.cut(b"")
        self._complete(generation)
        await wire.write(encoded)
        return await wire.end()

    def _whole_body(self, generation: Generation) -> tuple[bytes, str]:
        json_type = "application/json"
        encoded = dumped(self._shape.body(generation)).encode(errors="backslashreplace")
        match self._behaviour.garbage:
            case "html":
                return HTML, "text/html"
            case "empty":
                return b"", json_type
            case "bad_json":
                return encoded[: len(encoded) // 2], json_type
            case "not_utf8":
                return encoded[:-1] + b',"x":"\xff\xfe"}', json_type
            case "giant_event" | "giant_line":
                padding = b"x" * self._behaviour.giant_bytes
                return encoded[:-1] + b',"padding":"' + padding + b'"}', json_type
        return encoded, json_type

    async def _send_stream(self, generation: Generation, failure: Failure | None) -> web.StreamResponse:
        wire = Wire(self._request, self._behaviour)
        self._entry.status = 200
        await wire.open(200, STREAM_HEADERS | self._upstream.headers(generation))
        await self._keep_alive(wire)
        if self._behaviour.garbage == "empty":
            return await wire.end()
        spoiled = False
        for event in self._shape.events(generation):
            sent = self._entry.pieces_sent
            await self._misbehave(wire, event)
            if failure and reached(self._behaviour.error_after, sent, event.stage):
                return await self._fail_stream(wire, generation, failure)
            if not spoiled and sent >= self._behaviour.garbage_after:
                spoiled = True
                await wire.garbage()
            await self._send(wire, generation, event)
        self._complete(generation)
        return await wire.end()

    async def _keep_alive(self, wire: Wire) -> None:
        """Spend the time before the first event with comments, if there are any."""
        behaviour = self._behaviour
        for _ in range(behaviour.comments_before):
            await wire.comment()
            await wire.pause(behaviour.delay_first / behaviour.comments_before)
        if not behaviour.comments_before:
            await wire.pause(behaviour.delay_first)

    async def _misbehave(self, wire: Wire, event: Event) -> None:
        """Stall or cut before this event if its time has come."""
        behaviour, sent = self._behaviour, self._entry.pieces_sent
        if reached(behaviour.stall_after, sent, event.stage) and not self._has_stalled:
            self._has_stalled = True
            await wire.pause(behaviour.stall_seconds)
        if behaviour.cut and reached(behaviour.cut_after, sent, event.stage):
            await wire.cut(wire.framed(event))

    async def _send(self, wire: Wire, generation: Generation, event: Event) -> None:
        entry = self._entry
        if event.stage == "done":
            self._complete(generation)
        if event.stage == "piece" and entry.pieces_sent:
            await wire.pause(self._behaviour.delay_between)
        if self._behaviour.comments_between:
            await wire.comment()
        await wire.event(event)
        entry.tokens_sent += event.tokens
        entry.pieces_sent += event.tokens > 0

    async def _fail_stream(self, wire: Wire, generation: Generation, failure: Failure) -> web.StreamResponse:
        first = self._entry.pieces_sent == 0
        self._entry.error, self._entry.finish_reason = failure.name, "error"
        if self._upstream.insures_errors:
            self._close("failed")
        else:
            self._stop("failed")
        for event in self._shape.error_events(generation, failure, first=first):
            await wire.event(event)
        return await wire.end()

    # Books

    def _complete(self, generation: Generation) -> None:
        """Book the whole answer; one that ended in an error is not charged where errors are insured."""
        entry, choice = self._entry, generation.answer.choices[0]
        if entry.state != "running":
            return
        entry.finish_reason, entry.native_finish_reason = choice.finish, choice.native_finish
        charged = not (self._upstream.insures_errors and choice.finish == "error")
        self._book(generation, generation.tokens.completion, charged=charged)
        self._close("completed")

    def _stop(self, state: State) -> None:
        """Book an answer that was broken off: in full, or only what was produced, as its provider does."""
        entry, generation = self._entry, self._generation
        if generation is None or entry.state != "running":
            self._close(state)
            return
        total = generation.tokens.completion
        full = not entry.stream or not self._upstream.stops_on_close(generation)
        everything = entry.tokens_sent >= generation.answer.shown_tokens
        so_far = entry.tokens_sent + generation.answer.hidden_tokens * (entry.tokens_sent > 0)
        completion = total if full or everything else min(so_far, total)
        self._book(generation, completion, charged=completion > 0)
        self._close(state)

    def _book(self, generation: Generation, completion: int, *, charged: bool) -> None:
        entry = self._entry
        tokens = money.produced(generation.tokens, completion)
        bill = self._upstream.bill(generation.served, tokens, generation.ask, generation.behaviour)
        entry.completion_tokens, entry.reasoning_tokens = tokens.completion, tokens.reasoning
        entry.upstream_cost = bill.upstream
        entry.cost = bill.cost if charged or bill.cost is None else money.ZERO

    def _close(self, state: State) -> None:
        self._upstream.books.close(self._entry, state)


def opened_entry(generation_id: str, request: web.Request) -> Entry:
    headers = {name.lower(): text for name, text in request.headers.items()}
    return Entry(generation_id, request.path, bearer(request), headers, time.time())


def bearer(request: web.Request) -> str | None:
    """Return the key of a request: Authorization: Bearer, or Anthropic's x-api-key."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    return request.headers.get("x-api-key")


def letters(count: int) -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(count))


def json_response(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=dumped(value).encode(), status=status, content_type="application/json")
