"""What is sent along with a question: the latest messages of its session that fit, in the order of the conversation.

Pure: a message's tokens are bounded by its bytes, since no tokenizer makes more than one token of one byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from admin_api.chat.documents import AttachmentDocument, ChatMessage, SessionSettings
from admin_api.chat.schemas import Attachment, Options
from proxy.core.limits import TOKENS_PER_MESSAGE

ROLES = ("user", "assistant", "system")


@dataclass(frozen=True, slots=True)
class Room:
    """How many tokens a prompt may have (`None`: nobody knows), and what is counted for one picture."""

    tokens: int | None
    image_tokens: int


def fitting(newest_first: Sequence[ChatMessage], room: Room) -> list[ChatMessage]:
    """Return the latest messages that fit, oldest first, each answer right behind its question."""
    chosen, left = [], room.tokens
    for message in newest_first:
        if left is not None:
            left -= tokens_of(message, room.image_tokens)
            if left < 0:
                break
        if message.role in ROLES and message.content:
            chosen.append(message)
    return _in_turns(chosen[::-1])


def tokens_of(message: ChatMessage, image_tokens: int) -> int:
    """Bound the tokens of a message."""
    return text_tokens(message.content) + image_tokens * len(message.attachments)


def text_tokens(text: str) -> int:
    """Bound the tokens of a message that is all text."""
    return len(text.encode(errors="replace")) + TOKENS_PER_MESSAGE


def wire_message(role: str, text: str, pictures: Sequence[str]) -> dict[str, Any]:
    """Write a message as providers read it; `pictures` are addresses or data URLs."""
    if not pictures:
        return {"role": role, "content": text}
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    parts += [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
    return {"role": role, "content": parts}


def picture_of(attachment: AttachmentDocument | Attachment) -> str | None:
    """Return where a provider finds a picture: its address, or all of it in a data URL."""
    if attachment.data is not None:
        return f"data:{attachment.mimeType};base64,{attachment.data}"
    is_usable = attachment.url is not None and attachment.url.startswith(
        ("https://", "http://", "data:image/")
    )
    return attachment.url if is_usable else None


def merged(options: Options | None, settings: SessionSettings) -> dict[str, Any]:
    """Return the options to send: the request's, where it is silent the session's, and nothing else."""
    asked: Mapping[str, Any] = {} if options is None else options.model_dump()
    usual = {
        "temperature": settings.temperature,
        "max_tokens": settings.maxTokens,
        "top_p": settings.topP,
    }
    both = {name: usual.get(name) if asked.get(name) is None else asked[name] for name in (*usual, *asked)}
    return {name: value for name, value in both.items() if value is not None}


def _in_turns(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Put answers behind their questions (several models may have been asked at once); drop what answers nothing."""
    turns: dict[str, list[ChatMessage]] = {}
    for message in messages:
        question = message.metadata.get("replyTo")
        turns.setdefault(str(question) if str(question) in turns else str(message.id), []).append(message)
    ordered = [message for turn in turns.values() for message in turn]
    while ordered and ordered[0].role == "assistant":
        del ordered[0]
    return ordered
