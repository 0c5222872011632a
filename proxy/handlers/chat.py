"""What a model is asked: `POST /v1/chat/completions`, `/v1/embeddings`, `/v1/responses` and `/v1/messages`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sanic import HTTPResponse, Request
from sanic.exceptions import RequestCancelled

from proxy.auth import Caller
from proxy.blueprint import Blueprint
from proxy.call import ClientGone
from proxy.completions import Call
from proxy.core.api import Form, parse
from proxy.core.chat import CHAT
from proxy.core.embeddings import EMBEDDINGS
from proxy.core.messages import MESSAGES
from proxy.core.responses import RESPONSES
from proxy.gateway import gateway_of
from proxy.handlers.caller import caller_of
from proxy.handlers.headers import HotResponse
from proxy.protocol import StrictHttp

blueprint = Blueprint("chat", url_prefix="/v1")

Admit = Callable[[Request], Awaitable[Caller]]
Answering = Awaitable[HTTPResponse | None]
"""What a handler returns: it does nothing itself, so that a coroutine of its own would only have to be made and woken."""


def _admit(request: Request) -> Awaitable[Caller]:
    """Return what finds out who asks, by the head of his request alone."""
    return caller_of(request, permission="chat")


def _admit_to_messages(request: Request) -> Awaitable[Caller]:
    """Do so for Anthropic's clients, who send the key in a header of its own."""
    key = request.headers.get("x-api-key")
    return caller_of(request, permission="chat", otherwise=key and f"Bearer {key}")


@blueprint.post("/chat/completions", ctx_takes_chat=True, ctx_admit=_admit)
def create_chat_completion(request: Request) -> Answering:
    """Answer a chat request, as a whole or as a stream."""
    return _answer(request, CHAT, _admit)


@blueprint.post("/embeddings", ctx_takes_chat=True, ctx_admit=_admit)
def create_embeddings(request: Request) -> Answering:
    """Answer with the vectors of texts."""
    return _answer(request, EMBEDDINGS, _admit)


@blueprint.post("/responses", ctx_takes_chat=True, ctx_admit=_admit)
def create_response(request: Request) -> Answering:
    """Answer a request of OpenAI's newer API, as a whole or as a stream."""
    return _answer(request, RESPONSES, _admit)


@blueprint.post("/messages", ctx_takes_chat=True, ctx_admit=_admit_to_messages)
def create_message(request: Request) -> Answering:
    """Answer a request of Anthropic's API."""
    return _answer(request, MESSAGES, _admit_to_messages)


async def _answer(request: Request, form: Form, admit: Admit) -> HTTPResponse | None:
    gateway, caller, context = gateway_of(request), await admit(request), request.ctx
    call = Call(context.id, caller, parse(form, request.body), gateway.clock(), line=context.line)
    request.body = b""  # it was read, and what a long prompt takes is not needed twice until a stream's end
    client = StreamingClient(request)
    answer = await gateway.completions.create(call, client)
    if call.asked.stream:
        await client.close()
        return None
    return HotResponse(answer.body, dict(answer.headers), "application/json")


class StreamingClient:
    """The connection that a stream of server-sent events goes to."""

    def __init__(self, request: Request) -> None:
        """Nothing is sent before `start`."""
        self._request = request
        self._response: HTTPResponse | None = None
        self._stream: Any = request.stream

    @property
    def has_room(self) -> bool:
        """Say whether the connection takes more at once; an ASGI server does not tell."""
        stream = self._stream
        return not isinstance(stream, StrictHttp) or stream.protocol.has_room

    async def start(self, headers: Mapping[str, str]) -> None:
        """Send the head of the answer."""
        if self._is_gone():
            raise ClientGone
        # Without these two headers, proxies in front of us would hold the stream back to compress or buffer it.
        headers = {**headers, "cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}
        response = HotResponse(b"", headers, "text/event-stream; charset=utf-8")
        await self._request.app.ctx.dispatch.respond(self._request, response)
        self._response = response

    async def send(self, data: bytes) -> None:
        """Send one piece at once."""
        await self._write(data, is_last=False)

    def send_now(self, data: bytes) -> bool:
        """Send one piece at once if the client takes it at once."""
        if self._is_gone():
            raise ClientGone
        stream = self._stream
        try:
            return isinstance(stream, StrictHttp) and stream.send_now(data)
        except RequestCancelled as exc:
            raise ClientGone from exc

    async def finish(self, data: bytes) -> None:
        """Send the last piece and the end of the answer in one write: one more takes 1.3 % of a stream's CPU."""
        await self._write(data, is_last=True)
        self._response = None

    async def close(self) -> None:
        """End an answer that was begun and not finished."""
        if self._response is not None and not self._is_gone():
            await self._response.eof()  # type: ignore[no-untyped-call]  # Sanic has no annotation here

    async def _write(self, data: bytes, *, is_last: bool) -> None:
        if self._is_gone() or self._response is None:
            raise ClientGone
        try:
            # Past the response object, which looks at every piece whether it is text.
            await self._stream.send(data, is_last)
        except RequestCancelled as exc:
            raise ClientGone from exc

    def _is_gone(self) -> bool:
        connection = self._request.conn_info
        return connection is None or connection.lost or self._request.stream is None
