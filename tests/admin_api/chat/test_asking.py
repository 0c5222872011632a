"""Tests of admin_api/chat/asking.py: what a provider gets to read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from beanie import PydanticObjectId

from admin_api.chat.documents import ChatMessage
from proxy.core.routing import Role
from proxy.settings import ChatSection
from tests.admin_api.playground import FREE, Person, Playground, playground
from tests.upstreams import Behaviour

SEEING = "openai/gpt-4o"
BLIND = "deepseek-ai/DeepSeek-V4-Pro"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)


async def begun(person: Person, **settings: Any) -> str:
    session = (await person.post("/api/chat/sessions", {})).json()["data"]["session"]["_id"]
    if settings:
        await person.patch(f"/api/chat/sessions/{session}", {"settings": settings})
    return str(session)


async def written(person: Person, session: str, texts: list[str]) -> None:
    """Store messages of a session, questions and answers in turn."""
    assert person.user.id is not None
    for number, text in enumerate(texts):
        message_id = PydanticObjectId()
        await ChatMessage(
            id=message_id,
            messageId=str(message_id),
            sessionId=PydanticObjectId(session),
            userId=person.user.id,
            role="assistant" if number % 2 else "user",
            content=text,
            createdAt=LONG_AGO + timedelta(seconds=number),
        ).insert()


def sent(play: Playground) -> list[Any]:
    """Return the contents of the messages that OpenRouter got last."""
    return [message["content"] for message in play.openrouter.books[-1].body["messages"]]


async def test_the_latest_messages_are_sent_in_order(mongodb_uri: str) -> None:
    """Of a long session the latest messages go along, as many as configured, in the order of the conversation."""
    async with playground(mongodb_uri, chat=ChatSection(context_messages=6)) as play:
        person = await play.person()
        session = await begun(person)
        await written(person, session, [f"m{number}" for number in range(25)] + ["m25"])
        await person.say("now", FREE, sessionId=session)
        assert sent(play) == ["m20", "m21", "m22", "m23", "m24", "m25", "now"]
        await person.say("again", FREE, sessionId=session)
        assert sent(play) == ["m22", "m23", "m24", "m25", "now", "You said: now", "again"]
        roles = [message["role"] for message in play.openrouter.books[-1].body["messages"]]
        assert roles == ["user", "assistant", "user", "assistant", "user", "assistant", "user"]


async def test_no_context_where_none_is_wanted(mongodb_uri: str) -> None:
    """With `context_messages: 0` every question stands alone."""
    async with playground(mongodb_uri, chat=ChatSection(context_messages=0)) as play:
        person = await play.person()
        session = await begun(person)
        await person.say("one", FREE, sessionId=session)
        await person.say("two", FREE, sessionId=session)
        assert sent(play) == ["two"]


async def test_what_does_not_fit_stays_behind(mongodb_uri: str) -> None:
    """Messages that the model's window cannot hold beside question and answer are left out, the oldest first."""
    async with playground(mongodb_uri) as play:
        record = play.openrouter.catalogue.records[FREE]
        record["context_length"], record["top_provider"] = 1_000, {"max_completion_tokens": 100}
        await (await play.person(Role.ADMIN)).post("/api/models/sync")
        person = await play.person()
        session = await begun(person)
        await written(person, session, ["a" * 300, "b" * 300, "c" * 300, "d" * 300])
        answer = await person.say("now", FREE, sessionId=session)
        assert answer.status_code == 200, answer.text
        assert sent(play) == ["c" * 300, "d" * 300, "now"]


async def test_options_win_over_settings(mongodb_uri: str) -> None:
    """The request's options are sent, the session's settings where it is silent, and 0 stays 0."""
    async with playground(mongodb_uri) as play:
        person = await play.person()
        session = await begun(person, temperature=1.5, maxTokens=200, topP=0.25)
        options = {
            "temperature": 0,
            "max_tokens": 64,
            "top_k": 0,
            "frequency_penalty": -1.5,
            "presence_penalty": 0,
        }
        await person.say("hello", FREE, sessionId=session, options=options)
        body = play.openrouter.books[-1].body
        assert {name: body[name] for name in (*options, "top_p")} == {**options, "top_p": 0.25}
        await person.say("hello", FREE, options={"temperature": None})
        body = play.openrouter.books[-1].body
        assert not {"temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty"} & body.keys()


async def test_pictures_go_along(mongodb_uri: str) -> None:
    """A picture becomes an image part, by address or with its bytes, and goes along with later questions too."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        attachments = [
            {"type": "image", "url": "https://example.com/cat.png", "name": "cat.png"},
            {"type": "image", "data": PIXEL, "mimeType": "image/png"},
            {"type": "image", "url": f"data:image/gif;base64,{PIXEL}"},
        ]
        answer = await person.say("what is it", SEEING, attachments=attachments)
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        parts = [
            {"type": "text", "text": "what is it"},
            {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
            {"type": "image_url", "image_url": {"url": f"data:image/gif;base64,{PIXEL}"}},
        ]
        assert sent(play) == [parts]
        session = data["session"]["id"]
        shown = (await person.get(f"/api/chat/sessions/{session}")).json()["data"]["messages"][0]
        assert [attachment["name"] for attachment in shown["attachments"]] == ["cat.png", None, None]
        assert shown["attachments"][1]["size"] == len(PIXEL)
        assert not any("data" in attachment for attachment in shown["attachments"])
        await person.say("and its colour", SEEING, sessionId=session)
        assert sent(play)[0] == parts
        answer = await person.say("in words", BLIND, sessionId=session)
        assert answer.status_code == 200, answer.text
        assert play.huggingface.books[-1].body["messages"][0]["content"] == "what is it"


async def test_pictures_that_cannot_be_sent(mongodb_uri: str) -> None:
    """A model that takes no pictures, and pictures that are too large, are refused before anything is asked."""
    async with playground(mongodb_uri, chat=ChatSection(attachment_bytes=50)) as play:
        person = await play.person(Role.PREMIUM)
        blind = await person.say(
            "look", BLIND, attachments=[{"type": "image", "url": "https://example.com/a.png"}]
        )
        assert blind.status_code == 400
        assert "does not take images" in blind.json()["message"]
        large = [{"type": "image", "data": PIXEL, "mimeType": "image/png"}]
        refused = await person.say("look", SEEING, attachments=large)
        assert refused.status_code == 400
        assert "at most 50 bytes" in refused.json()["message"]
        assert len(play.openrouter.books) == len(play.huggingface.books) == 0


async def test_more_values_than_anybody_reads(mongodb_uri: str) -> None:
    """A body of very many values is refused before it is read: reading it would keep everybody else waiting."""
    async with playground(mongodb_uri) as play:
        person = await play.person()
        refused = await person.say("look", FREE, attachments=[{}] * 100_001)
        assert refused.status_code == 400
        assert refused.json()["status"] == "fail"
        assert "100,000 objects and lists" in refused.json()["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_empty_answer(mongodb_uri: str, *, stream: bool) -> None:
    """A model that says nothing, or only thinks, has answered nothing: that is stored, and sent as no context."""
    async with playground(mongodb_uri) as play:
        person = await play.person()
        play.openrouter.script.enqueue(Behaviour(text="", reasoning="let me think"))
        answer = await person.say("hello", FREE, stream=stream)
        assert answer.status_code == 200, answer.text
        stored = await play.documents("chatmessages")
        assert [message["content"] for message in stored] == ["hello", ""]
        await person.say("again", FREE, sessionId=str(stored[0]["sessionId"]))
        assert sent(play) == ["hello", "again"]
