"""From a browser's wish to a turn that may be taken: its session, the context that fits, the call."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from beanie import PydanticObjectId

from admin_api.access import SignedIn
from admin_api.chat import context, service
from admin_api.chat.context import Room
from admin_api.chat.documents import AttachmentDocument, ChatMessage, ChatSession, SessionSettings
from admin_api.chat.schemas import ChatWish
from admin_api.chat.turns import Turn
from proxy.auth import Caller
from proxy.completions import Call
from proxy.core.chat import CHAT
from proxy.core.routing import Target
from proxy.errors import InvalidRequest, NotFound
from proxy.gateway import Gateway
from proxy.request_log import RequestLine

_STORED_ID_LENGTH = 24


async def prepare(
    wish: ChatWish, caller: SignedIn, gateway: Gateway, *, request_id: str, line: RequestLine | None
) -> Turn:
    """Make the turn; raise `NotFound` for another's session, `InvalidRequest` for what cannot be sent."""
    service.check_tokens(
        wish.options.max_tokens if wish.options else None, "options.max_tokens", gateway.settings.chat
    )
    targets = gateway.catalog.current.find(wish.modelId)
    _check_attachments(wish, targets, gateway)
    session = await _session(wish, caller)
    body = await _body(wish, session, targets, gateway)
    session_id = PydanticObjectId() if session is None or session.id is None else session.id
    asking = Caller(
        user_id=str(caller.user_id),
        role=caller.user.role,
        limits=gateway.authenticator.limits_of(caller.user),
    )
    at = _milliseconds(gateway.clock())
    call = Call(request_id, asking, CHAT.read(body), at, str(session_id), line)
    return Turn(call, caller.user, wish, session_id, session)


async def _session(wish: ChatWish, caller: SignedIn) -> ChatSession | None:
    """Find the session of a wish; ids that a browser or the original made up stand for a new one, unless stored."""
    if wish.sessionId is None:
        return None
    try:
        return await service.find_session(caller.user_id, wish.sessionId)
    except NotFound:
        if len(wish.sessionId) == _STORED_ID_LENGTH and "_" not in wish.sessionId:
            raise
        return None


async def _body(
    wish: ChatWish, session: ChatSession | None, targets: Sequence[Target], gateway: Gateway
) -> dict[str, Any]:
    settings = SessionSettings() if session is None else session.settings
    options = context.merged(wish.options, settings)
    messages = []
    if session is not None:
        room = _room(wish, options.get("max_tokens"), targets, gateway)
        newest = await _newest(session, gateway.settings.chat.context_messages)
        messages = await _wire(context.fitting(newest, room), targets, gateway)
    pictures = [context.picture_of(attachment) for attachment in wish.attachments or ()]
    question = context.wire_message("user", wish.message, [picture for picture in pictures if picture])
    return {"model": wish.modelId, "messages": [*messages, question], "stream": wish.stream, **options}


def _room(wish: ChatWish, max_tokens: int | None, targets: Sequence[Target], gateway: Gateway) -> Room:
    """Work out how much of the smallest window is left beside the question and the answer."""
    limits = gateway.settings.limits
    windows = [length for target in targets if (length := target.entry.info.context_length) is not None]
    if not windows:
        return Room(None, limits.image_tokens)
    most = [most for target in targets if (most := target.entry.info.max_output_tokens) is not None]
    output = min([max_tokens or limits.default_output_tokens, *most])
    question = context.text_tokens(wish.message) + limits.image_tokens * len(wish.attachments or ())
    return Room(min(windows) - output - question, limits.image_tokens)


async def _newest(session: ChatSession, most: int) -> list[ChatMessage]:
    if not most:
        return []
    cursor = ChatMessage.get_pymongo_collection().find(service.messages_of(session), {"attachments.data": 0})
    found = cursor.sort(service.NEWEST_FIRST).limit(most)
    return [ChatMessage.model_validate(document) async for document in found]


async def _wire(
    messages: Sequence[ChatMessage], targets: Sequence[Target], gateway: Gateway
) -> list[dict[str, Any]]:
    """Write the messages for the provider, with their pictures where the model takes any."""
    pictures: dict[PydanticObjectId | None, list[str]] = {}
    left = gateway.settings.limits.chat_body_bytes
    illustrated = [message for message in messages if message.attachments] if _takes_images(targets) else []
    for message in reversed(illustrated):
        left -= sum(attachment.size or 0 for attachment in message.attachments)
        if left < 0:
            break
        found = (context.picture_of(attachment) for attachment in await _attachments(message))
        pictures[message.id] = [picture for picture in found if picture is not None]
    return [
        context.wire_message(message.role, message.content, pictures.get(message.id, []))
        for message in messages
    ]


async def _attachments(message: ChatMessage) -> list[AttachmentDocument]:
    stored = await ChatMessage.get_pymongo_collection().find_one({"_id": message.id}, {"attachments": 1})
    return [AttachmentDocument.model_validate(each) for each in (stored or {}).get("attachments", ())]


def _takes_images(targets: Sequence[Target]) -> bool:
    return bool(targets) and all("image" in target.entry.info.input_modalities for target in targets)


def _check_attachments(wish: ChatWish, targets: Sequence[Target], gateway: Gateway) -> None:
    """Raise `InvalidRequest` for pictures that are too large or that the model does not take."""
    inline = [found for attachment in wish.attachments or () if (found := attachment.inline())]
    most = gateway.settings.chat.attachment_bytes
    if sum(len(data) for _, data in inline) > most:
        raise InvalidRequest(f"Validation failed: attachments: must have at most {most} bytes of data in all")
    # Whether the model exists at all is not said here: the routing says so, by the caller's rights.
    if wish.attachments and targets and not _takes_images(targets):
        raise InvalidRequest(f"Validation failed: attachments: the model {wish.modelId} does not take images")


def _milliseconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
