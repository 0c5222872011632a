"""`/api/chat`: messages to models, and the sessions that they make up."""

from __future__ import annotations

import asyncio
from typing import Any

from sanic import HTTPResponse, Request
from sanic.exceptions import RequestCancelled

from admin_api import access, ratelimit
from admin_api.access import SignedIn
from admin_api.chat import asking, service, turns, view
from admin_api.chat.documents import ChatSession
from admin_api.chat.events import Browser, event
from admin_api.chat.schemas import ChatWish, NewSession, SessionChange
from admin_api.chat.turns import Turns
from admin_api.envelope import success
from admin_api.pagination import read_page
from admin_api.validation import read_body
from proxy.blueprint import Blueprint
from proxy.documents import User
from proxy.errors import (
    GatewayError,
    LimitReached,
    PermissionDenied,
    Unavailable,
    UpstreamError,
    envelope,
)
from proxy.gateway import Gateway, gateway_of
from proxy.metering import statistics
from proxy.metering.statistics import Selection, Used

WRITE_SECONDS = 60.0
"""How long a browser may take to read one piece of a stream."""

_MESSAGES_PER_PAGE = 50
blueprint = Blueprint("api-chat", url_prefix="/api/chat")


@blueprint.post("/", ctx_takes_chat=True, ctx_admit=access.signed_in)
@access.user
@ratelimit.by_user("chat")
async def send_message(request: Request, caller: SignedIn) -> HTTPResponse | None:
    """Ask a model, in a session of its own or in one that exists; as a whole or as a stream of events."""
    gateway = gateway_of(request)
    wish = read_body(request, ChatWish, limit=gateway.settings.limits.chat_body_bytes)
    browser, running = Browser(), _turns(request)
    try:
        context = request.ctx
        turn = await asking.prepare(wish, caller, gateway, request_id=context.id, line=context.line)
        task = running.begin(_answer(turn, gateway, running, browser))
        if wish.stream:
            await _stream(request, task, browser)
            return None
        return success(await asyncio.shield(task))
    except (LimitReached, PermissionDenied, UpstreamError) as exc:
        exc.details["user"] = await _balance(caller.user, gateway)
        raise


@blueprint.post("/sessions")
@access.user
async def create_session(request: Request, caller: SignedIn) -> HTTPResponse:
    """Begin an empty session."""
    gateway = gateway_of(request)
    wish = read_body(request, NewSession)
    session = await service.create_session(caller.user_id, wish, gateway.settings.chat, now=gateway.clock())
    data = {"session": view.view_session(session, rate=gateway.settings.usd_inr_rate)}
    return success(data, message="Chat thread created successfully", status=201)


@blueprint.get("/sessions")
@access.user
async def list_sessions(request: Request, caller: SignedIn) -> HTTPResponse:
    """List the sessions of the user, the one used last first."""
    gateway, page = gateway_of(request), read_page(request)
    sessions, total = await service.list_sessions(caller.user_id, page)
    used = await _used(gateway, caller, [str(session.id) for session in sessions])
    rate = gateway.settings.usd_inr_rate
    shown = [
        view.view_session(session, used.get(str(session.id), view.NOTHING_USED), rate=rate)
        for session in sessions
    ]
    return success({"sessions": shown}, results=len(shown), pagination=page.describe(total))


@blueprint.get("/sessions/<session_id:str>")
@access.user
async def get_session(request: Request, caller: SignedIn, session_id: str) -> HTTPResponse:
    """Show a session with a page of its messages, the oldest first."""
    gateway, page = gateway_of(request), read_page(request, _MESSAGES_PER_PAGE)
    session = await service.find_session(caller.user_id, session_id)
    messages, total = await service.list_messages(session, page)
    rate = gateway.settings.usd_inr_rate
    shown = [view.view_message(message, session_id=str(session.id), rate=rate) for message in messages]
    data = {
        "session": await _shown(session, caller, gateway),
        "messages": shown,
        "pagination": page.describe(total),
    }
    return success(data)


@blueprint.patch("/sessions/<session_id:str>")
@access.user
async def update_session(request: Request, caller: SignedIn, session_id: str) -> HTTPResponse:
    """Change a session's title and settings."""
    gateway = gateway_of(request)
    change = read_body(request, SessionChange)
    session = await service.change_session(
        caller.user_id, session_id, change, gateway.settings.chat, now=gateway.clock()
    )
    return success({"session": await _shown(session, caller, gateway)})


@blueprint.delete("/sessions/<session_id:str>")
@access.user
async def delete_session(request: Request, caller: SignedIn, session_id: str) -> HTTPResponse:
    """Delete a session with its messages."""
    session = await service.find_session(caller.user_id, session_id)
    await request.app.ctx.deletions.delete_session(session)
    return HTTPResponse(status=204)


@blueprint.delete("/messages/<message_id:str>")
@access.user
async def delete_message(request: Request, caller: SignedIn, message_id: str) -> HTTPResponse:
    """Delete one message."""
    await service.delete_message(caller.user_id, message_id, now=gateway_of(request).clock())
    return HTTPResponse(status=204)


@blueprint.get("/stats")
@access.user
async def get_statistics(request: Request, caller: SignedIn) -> HTTPResponse:
    """Sum up what the user's chats have used, as the usage events say."""
    gateway = gateway_of(request)
    selection = Selection(user_id=str(caller.user_id), chat_only=True)
    used = await statistics.total(gateway.database, selection)
    models = await statistics.by_model(gateway.database, selection)
    counts = await service.count(caller.user_id)
    return success(view.view_statistics(counts, used, models, gateway.catalog.current))


async def _answer(turn: turns.Turn, gateway: Gateway, running: Turns, browser: Browser) -> dict[str, Any]:
    """Take the turn, and add what its user has left."""
    exchange = await turns.take(turn, gateway, running, browser)
    balance = await _balance(turn.user, gateway)
    if balance is not None:
        balance["tokens"]["used"] = exchange["aiMessage"]["usage"]["totalTokens"]
    return {**exchange, "user": balance}


async def _stream(request: Request, task: asyncio.Task[dict[str, Any]], browser: Browser) -> None:
    """Send the events of a turn; raise what refused it when nothing had been sent by then."""
    response: HTTPResponse | None = None
    while (piece := await browser.pieces.get()) is not None:
        response = response or await _begin(request)
        await _write(response, piece)
    try:
        last = event("done", {"status": "success", "data": await asyncio.shield(task)})
    except GatewayError as exc:
        if response is None:
            raise
        last = event("error", envelope(exc, now=gateway_of(request).clock()))
    response = response or await _begin(request)
    await _write(response, last)
    await response.eof()  # type: ignore[no-untyped-call]  # Sanic has no annotation here


async def _begin(request: Request) -> HTTPResponse:
    # Without these two headers, proxies in front of us would hold the stream back to compress or buffer it.
    headers = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}
    response: HTTPResponse = await request.respond(
        headers=headers, content_type="text/event-stream; charset=utf-8"
    )
    return response


async def _write(response: HTTPResponse, piece: bytes) -> None:
    """Send one piece; a browser that does not read in time is cut off, and finds its answer in the session."""
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await response.send(piece)
    except TimeoutError as exc:
        raise RequestCancelled from exc


async def _shown(session: ChatSession, caller: SignedIn, gateway: Gateway) -> dict[str, Any]:
    used = await _used(gateway, caller, [str(session.id)])
    found = used.get(str(session.id), view.NOTHING_USED)
    return view.view_session(session, found, rate=gateway.settings.usd_inr_rate)


async def _used(gateway: Gateway, caller: SignedIn, session_ids: list[str]) -> dict[str, Used]:
    return await statistics.by_session(gateway.database, str(caller.user_id), session_ids)


async def _balance(user: User, gateway: Gateway) -> dict[str, Any] | None:
    """Return what a user has left, or `None` while nobody can tell: it only decorates an answer."""
    try:
        standing = await gateway.meter.standing(str(user.id), gateway.clock())
    except Unavailable:
        return None
    return view.view_balance(gateway.authenticator.limits_of(user), standing)


def _turns(request: Request) -> Turns:
    running: Turns = request.app.ctx.turns
    return running
