"""A turn: one question, its answer, and both of them in the database.

A turn runs in a task of its own, which a browser that leaves does not cancel. Nothing is stored before there is an
answer, so a call that fails leaves no message and no empty session. Storing repeats itself until the database has
answered, and every step of it can be done twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import structlog
from beanie import PydanticObjectId
from beanie.odm.utils.dump import get_dict
from bson.decimal128 import Decimal128
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError

from admin_api.chat.documents import (
    AttachmentDocument,
    ChatMessage,
    ChatSession,
    Cost,
    ModelName,
    TokenCounts,
)
from admin_api.chat.events import Browser
from admin_api.chat.message_days import delete_messages
from admin_api.chat.schemas import ChatWish
from admin_api.chat.service import expiry
from admin_api.chat.view import view_exchange
from admin_api.users.deletion import is_staying
from proxy.call import Answer
from proxy.completions import Call
from proxy.core.answer_stream import parse
from proxy.core.pricing import from_pico, to_pico
from proxy.database import is_outage
from proxy.documents import Outcome, User
from proxy.errors import GatewayError, ProviderFailed, ProviderTimeout, Unavailable
from proxy.gateway import Gateway
from proxy.metering.contract import Settlement

STORE_SECONDS = 2.0
"""How long an answer waits until it is stored; storing goes on by itself after that."""

FINISH_SECONDS = 5.0
"""How long a process that ends waits for what is still to be stored."""

_DUPLICATE = 11_000
_RECENT_TURNS = 50
_TITLE_LENGTH = 50
_LAST_SECONDS = 1.0
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.0
log = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Turn:
    """A question that may be asked; `session` is `None` where the answer begins a new one."""

    call: Call
    user: User
    wish: ChatWish
    session_id: PydanticObjectId
    session: ChatSession | None

    @property
    def title(self) -> str:
        """Return the title of the session."""
        if self.session is not None:
            return self.session.title
        text = " ".join(self.wish.message.split())
        return text if len(text) <= _TITLE_LENGTH else f"{text[:_TITLE_LENGTH]}..."


class Turns:
    """The turns of this process that are under way, and what follows them."""

    def __init__(self) -> None:
        """Begin with none."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something to its end, whoever still waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def ended(self) -> None:
        """Wait until all that are under way now are done, and what they leave behind is stored."""
        for _ in ("turns", "what they store"):
            if self._tasks:
                await asyncio.wait(set(self._tasks))

    async def finish(self, seconds: float) -> None:
        """Wait until all are done, at most so long, and end the others."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        # Again and again: a turn that ends may leave the storing of its answer behind.
        while self._tasks and loop.time() < deadline:
            await asyncio.wait(list(self._tasks), timeout=deadline - loop.time())
        unfinished = list(self._tasks)
        for task in unfinished:
            task.cancel()
        if unfinished:
            # Bounded: a cancellation can get lost in the database driver.
            await asyncio.wait(unfinished, timeout=_LAST_SECONDS)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits has it; a browser that left must not leave a warning behind


async def take(turn: Turn, gateway: Gateway, turns: Turns, browser: Browser) -> dict[str, Any]:
    """Ask, store, and return both messages as they look from outside; raise what `Completions.create` raises."""
    try:
        answer = await gateway.completions.create(turn.call, browser)
        settlement = _settled(answer, browser)
        text = browser.text if turn.wish.stream else _text_of(answer.body)
        question = _question(turn)
        reply = _reply(turn, settlement, text, gateway)
        reply.metadata["replyTo"] = str(question.id)
        stored = turns.begin(_store(turn, (question, reply), settlement, gateway))
        done, _ = await asyncio.wait({stored}, timeout=STORE_SECONDS)
        for task in done:
            task.result()
    finally:
        browser.end()
    named = (str(turn.session_id), turn.title)
    return view_exchange(named, question, reply, rate=gateway.settings.usd_inr_rate)


def _settled(answer: Answer, browser: Browser) -> Settlement:
    """Return what a complete answer used; raise for a stream that broke off, whose error the browser has not seen."""
    settlement = answer.settlement
    if settlement is None:
        raise Unavailable("The request was not served; try again.", retry_after=1)
    if settlement.outcome is Outcome.COMPLETED:
        return settlement
    message = browser.error or "The provider's answer was cut off."
    if settlement.outcome is Outcome.SHUTDOWN:
        raise Unavailable(message, retry_after=1)
    kind: type[GatewayError] = ProviderTimeout if settlement.outcome is Outcome.TIMEOUT else ProviderFailed
    raise kind(message, details={"provider": settlement.provider})


def _text_of(body: bytes) -> str:
    """Read the text of a whole answer; a model may also answer with nothing, or in parts."""
    choice = parse(body)["choices"][0]
    message = choice.get("message") if isinstance(choice, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _question(turn: Turn) -> ChatMessage:
    attachments = [
        AttachmentDocument(
            type=given.type,
            url=given.url if given.inline() is None else None,
            data=inline[1] if (inline := given.inline()) else None,
            name=given.name,
            mimeType=inline[0] if inline else given.mimeType,
            size=len(inline[1]) if inline else None,
        )
        for given in turn.wish.attachments or ()
    ]
    return _message(turn, "user", turn.wish.message, turn.call.at, attachments=attachments)


def _reply(turn: Turn, settlement: Settlement, text: str, gateway: Gateway) -> ChatMessage:
    tokens, cost = settlement.bill.tokens, settlement.bill.charge.cost
    entry = gateway.catalog.current.entries.get(settlement.provider, {}).get(settlement.model)
    # Later than its question even on a clock that stands, so that the order is never in doubt.
    at = max(gateway.clock(), turn.call.at + timedelta(milliseconds=1))
    return _message(
        turn,
        "assistant",
        text,
        at,
        model=ModelName(
            id=turn.wish.modelId,
            name=settlement.model if entry is None else entry.info.name,
            provider=settlement.provider,
        ),
        usage=TokenCounts(
            promptTokens=tokens.prompt, completionTokens=tokens.completion, totalTokens=tokens.total
        ),
        cost=Cost(usd=cost, inr=None if cost is None else cost * settlement.usd_inr_rate),
        metadata={
            "requestId": turn.call.request_id,
            "costSource": str(settlement.bill.charge.source),
            "estimated": settlement.bill.charge.estimated,
            "milliseconds": settlement.total_ms,
        },
    )


def _message(turn: Turn, role: str, content: str, at: datetime, **fields: Any) -> ChatMessage:
    message_id = PydanticObjectId()
    return ChatMessage(
        id=message_id,
        sessionId=turn.session_id,
        userId=turn.user.id,
        messageId=str(message_id),
        role=role,
        content=content,
        modelId=turn.wish.modelId,
        createdAt=at.replace(microsecond=at.microsecond // 1000 * 1000),
        **fields,
    )


async def _store(
    turn: Turn, messages: tuple[ChatMessage, ChatMessage], settlement: Settlement, gateway: Gateway
) -> None:
    """Write both messages, and count them in their session; take them back when session or owner are gone by now."""
    await _insist(lambda: _insert(messages))
    step = _begin_session if turn.session is None else _count_in
    has_session = await _insist(lambda: step(turn, messages[1], settlement, gateway))
    if not has_session or not await _insist(lambda: is_staying(PydanticObjectId(turn.user.id))):
        await _insist(lambda: _take_back(turn, messages))


async def _insert(messages: tuple[ChatMessage, ...]) -> None:
    documents = [get_dict(message, to_db=True) for message in messages]
    try:
        await ChatMessage.get_pymongo_collection().insert_many(documents, ordered=False)
    except BulkWriteError as exc:
        if any(error["code"] != _DUPLICATE for error in exc.details["writeErrors"]):
            raise


async def _take_back(turn: Turn, messages: tuple[ChatMessage, ...]) -> None:
    await delete_messages({"_id": {"$in": [message.id for message in messages]}})
    if turn.session is None:
        await ChatSession.get_pymongo_collection().delete_one({"_id": turn.session_id})


async def _begin_session(turn: Turn, reply: ChatMessage, settlement: Settlement, gateway: Gateway) -> bool:
    """Make the session that the turn begins."""
    usd, inr = _money(settlement)
    session = ChatSession(
        id=turn.session_id,
        sessionId=str(turn.session_id),
        userId=turn.user.id,
        modelId=turn.wish.modelId,
        title=turn.title,
        messageCount=2,
        lastActivity=reply.createdAt,
        totalTokensUsed=settlement.bill.tokens.total,
        totalCost=Cost(usd=usd, inr=inr),
        expiresAt=expiry(gateway.settings.chat, reply.createdAt),
        createdAt=turn.call.at,
        updatedAt=reply.createdAt,
    )
    document = get_dict(session, to_db=True) | {"recentTurns": [turn.call.request_id]}
    with contextlib.suppress(DuplicateKeyError):  # it is there: this is a repetition
        await ChatSession.get_pymongo_collection().insert_one(document)
    return True


async def _count_in(turn: Turn, reply: ChatMessage, settlement: Settlement, gateway: Gateway) -> bool:
    """Count a turn in its session, once; say no when the session has been deleted meanwhile."""
    sessions = ChatSession.get_pymongo_collection()
    own = {"_id": turn.session_id, "userId": turn.user.id}
    request_id = turn.call.request_id
    result = await sessions.update_one(
        {**own, "recentTurns": {"$ne": request_id}}, _growth(turn, reply, settlement, gateway)
    )
    if result.matched_count:
        return True
    return await sessions.find_one({**own, "recentTurns": request_id}, {"_id": 1}) is not None


def _growth(turn: Turn, reply: ChatMessage, settlement: Settlement, gateway: Gateway) -> list[dict[str, Any]]:
    """Write the update of a session's counters, whichever way its totals were kept before."""
    usd, inr = _money(settlement)
    old_usd = {"$cond": [{"$isNumber": "$totalCost"}, {"$toDecimal": "$totalCost"}, None]}
    old_inr = {"$multiply": [old_usd, Decimal128(settlement.usd_inr_rate)]}
    tokens = _either("$totalTokensUsed", "$totalTokens", 0)
    recent = {"$concatArrays": [_either("$recentTurns", []), [turn.call.request_id]]}
    changes = {
        "messageCount": {"$add": [_either("$messageCount", 0), 2]},
        "totalTokensUsed": {"$add": [tokens, settlement.bill.tokens.total]},
        "totalCost": {
            "usd": {"$add": [_either(old_usd, "$totalCost.usd", 0), Decimal128(usd)]},
            "inr": {"$add": [_either(old_inr, "$totalCost.inr", 0), Decimal128(inr)]},
        },
        "modelId": _either("$modelId", {"$literal": turn.wish.modelId}),
        "lastActivity": {"$max": ["$lastActivity", reply.createdAt]},
        "expiresAt": expiry(gateway.settings.chat, reply.createdAt),
        "recentTurns": {"$slice": [recent, -_RECENT_TURNS]},
        "updatedAt": reply.createdAt,
    }
    return [{"$set": changes}]


def _either(*expressions: Any) -> dict[str, Any]:
    return {"$ifNull": list(expressions)}


def _money(settlement: Settlement) -> tuple[Decimal, Decimal]:
    """Return USD and INR, rounded as the usage events' totals are."""
    cost = settlement.bill.charge.cost or Decimal(0)
    return from_pico(to_pico(cost)), from_pico(to_pico(cost * settlement.usd_inr_rate))


async def _insist(step: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Repeat a step until the database has answered it."""
    delay = _FIRST_DELAY
    while True:
        try:
            return await step()
        except PyMongoError as exc:
            if not is_outage(exc):
                raise
            log.warning("storing an answer waits for the database", cause=str(exc)[:200])
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_DELAY)
