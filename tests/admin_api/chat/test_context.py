"""Tests of admin_api/chat/context.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from beanie import PydanticObjectId

from admin_api.chat.context import Room, fitting, merged, picture_of, text_tokens, wire_message
from admin_api.chat.documents import AttachmentDocument, ChatMessage, SessionSettings
from admin_api.chat.schemas import Options
from proxy import database

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
EVERYTHING = Room(None, 0)


@pytest.fixture(autouse=True)
async def _documents(mongodb_uri: str) -> AsyncIterator[None]:
    """Set Beanie up: it makes no document without a database."""
    client = database.connect(mongodb_uri)
    await database.prepare(database.database_of(client, "aipasta"), [ChatMessage])
    yield
    await client.close()


def message(number: int, role: str, text: str, *, reply_to: ChatMessage | None = None) -> ChatMessage:
    return ChatMessage(
        id=PydanticObjectId(),
        sessionId=PydanticObjectId(),
        userId=PydanticObjectId(),
        role=role,
        content=text,
        metadata={} if reply_to is None else {"replyTo": str(reply_to.id)},
        createdAt=NOON + timedelta(seconds=number),
    )


def texts(messages: list[ChatMessage], room: Room = EVERYTHING) -> list[str]:
    """Return what is chosen of messages in the order of their time."""
    return [chosen.content for chosen in fitting(messages[::-1], room)]


async def test_answers_follow_their_questions() -> None:
    """Answers of models that were asked at once stand behind their own questions."""
    first, second = message(0, "user", "q1"), message(1, "user", "q2")
    late, early = (
        message(3, "assistant", "a1", reply_to=first),
        message(2, "assistant", "a2", reply_to=second),
    )
    assert texts([first, second, early, late]) == ["q1", "a1", "q2", "a2"]


async def test_no_answer_comes_first() -> None:
    """An answer whose question did not fit is left out: many models refuse a conversation that begins so."""
    messages = [message(0, "assistant", "lost"), message(1, "user", "q"), message(2, "assistant", "a")]
    assert texts(messages) == ["q", "a"]
    assert texts(messages[:1]) == []


async def test_unknown_roles_and_empty_messages_are_left_out() -> None:
    """What no provider could read does not go along; a system message does."""
    messages = [message(0, "system", "be kind"), message(1, "tool", "x"), message(2, "user", "")]
    assert texts(messages) == ["be kind"]


async def test_bytes_bound_tokens() -> None:
    """A message fits as long as its bytes do, pictures counted apart; one that does not fit ends the choice."""
    messages = [message(0, "user", "äöü"), message(1, "user", "abc")]
    both = text_tokens("äöü") + text_tokens("abc")
    assert text_tokens("äöü") == text_tokens("abcdef")
    assert texts(messages, Room(both, 0)) == ["äöü", "abc"]
    assert texts(messages, Room(both - 1, 0)) == ["abc"]
    assert texts(messages, Room(-1, 0)) == []
    messages[1].attachments = [AttachmentDocument(type="image", url="https://example.com/a.png")]
    assert texts(messages, Room(both + 500, 500)) == ["äöü", "abc"]
    assert texts(messages, Room(both + 499, 500)) == ["abc"]


async def test_merging() -> None:
    """The request's option wins, the session's fills in, `None` is sent by nobody, and 0 is a value."""
    settings = SessionSettings(temperature=1.0, maxTokens=10, topP=0.5)
    options = Options(temperature=0, top_k=0)
    assert merged(options, settings) == {"temperature": 0, "max_tokens": 10, "top_p": 0.5, "top_k": 0}
    assert merged(None, SessionSettings()) == {}


async def test_pictures() -> None:
    """A picture is found by its address or its bytes; an address that only the original understood is none."""
    assert picture_of(AttachmentDocument(data="AA==", mimeType="image/png")) == "data:image/png;base64,AA=="
    assert picture_of(AttachmentDocument(url="http://example.com/a")) == "http://example.com/a"
    assert picture_of(AttachmentDocument(url="/uploads/a.png")) is None
    assert wire_message("user", "hi", []) == {"role": "user", "content": "hi"}
