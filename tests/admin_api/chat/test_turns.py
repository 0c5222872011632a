"""Tests of admin_api/chat/turns.py: what a turn stores, whatever becomes of its browser, its session or its provider."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import httpx
import pytest
from httpx_aiohttp import AiohttpTransport
from pymongo import AsyncMongoClient

from proxy.core.routing import Role
from tests.admin_api.playground import FREE, Person, Playground, playground
from tests.upstreams import Behaviour

PAID = "anthropic/claude-haiku-4.5"
OPEN = "meta-llama/Llama-3.3-70B-Instruct"
RATE = 83


async def until_stored(play: Playground, messages: int) -> list[dict[str, Any]]:
    """Wait until so many messages are stored, and their turns over."""
    async with asyncio.timeout(60):
        while len(await play.documents("chatmessages")) < messages:  # noqa: ASYNC110  from outside there is no event
            await asyncio.sleep(0.02)
        await asyncio.gather(*play.gateway.app.ctx.turns._tasks)
    return await play.documents("chatmessages")


async def leave_early(play: Playground, person: Person, body: dict[str, Any], *, after: float) -> None:
    """Send a message as a browser that is closed before the answer is there."""
    transport = AiohttpTransport(trust_env=False)
    async with httpx.AsyncClient(base_url=play.gateway.base_url, transport=transport) as http:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(after):
                await http.post("/api/chat", headers=person.headers, json=body)


async def test_a_turn_is_stored_as_it_is_answered(mongodb_uri: str) -> None:
    """The answer has the shape that the frontend reads; stored are both messages with exact usage and cost."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        answer = await person.say("  Tell me\nabout pasta  ", PAID)
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        (entry,) = play.openrouter.books
        assert entry.cost
        assert data["session"]["title"] == "Tell me about pasta"
        question, reply = data["userMessage"], data["aiMessage"]
        assert (question["role"], question["content"]) == ("user", "Tell me\nabout pasta")
        assert reply["content"] == "You said: Tell me\nabout pasta"
        assert reply["usage"] == {
            "promptTokens": entry.prompt_tokens,
            "completionTokens": entry.completion_tokens,
            "totalTokens": entry.total_tokens,
            "prompt_tokens": entry.prompt_tokens,
            "completion_tokens": entry.completion_tokens,
            "total_tokens": entry.total_tokens,
        }
        assert reply["cost"] == {"usd": float(entry.cost), "inr": float(entry.cost * RATE)}
        assert reply["model"] == {"id": PAID, "name": "Anthropic: Claude Haiku 4.5", "provider": "openrouter"}
        left = 500_000 - entry.total_tokens
        assert data["user"] == {"credits": 199, "tokens": {"balance": left, "used": entry.total_tokens}}
        stored = await play.documents("chatmessages")
        assert [message["role"] for message in stored] == ["user", "assistant"]
        assert [str(message["_id"]) for message in stored] == [question["id"], reply["id"]]
        assert stored[1]["cost"]["usd"].to_decimal() == entry.cost
        assert stored[1]["cost"]["inr"].to_decimal() == entry.cost * RATE
        assert stored[1]["metadata"]["replyTo"] == question["id"]
        (event,) = await play.gateway.events()
        (session,) = await play.documents("chatsessions")
        assert event["sessionId"] == str(session["_id"]) == data["session"]["id"]
        assert session["totalCost"]["usd"].to_decimal() == entry.cost
        assert session["totalTokensUsed"] == entry.total_tokens
        assert (session["messageCount"], session["modelId"]) == (2, PAID)


async def test_both_providers_and_the_books(mongodb_uri: str) -> None:
    """Sessions, statistics and usage events say the same as both providers' books, in tokens, USD and INR."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        session = (await person.say("one", PAID)).json()["data"]["session"]["id"]
        for model in (OPEN, PAID, FREE):
            assert (await person.say("more", model, sessionId=session)).status_code == 200
        entries = [*play.openrouter.books, *play.huggingface.books]
        usd = sum((entry.cost or Decimal(0) for entry in entries), Decimal(0))
        tokens = sum(entry.total_tokens for entry in entries)
        (shown,) = (await person.get("/api/chat/sessions")).json()["data"]["sessions"]
        assert shown["messageCount"] == 8
        assert shown["totalTokensUsed"] == tokens
        assert shown["totalCost"]["usd"] == pytest.approx(float(usd), rel=1e-12)
        assert shown["totalCost"]["inr"] == pytest.approx(float(usd * RATE), rel=1e-12)
        (stored,) = await play.documents("chatsessions")
        assert stored["totalCost"]["usd"].to_decimal() == usd
        events = await play.gateway.events()
        assert sum((event["costUsd"].to_decimal() for event in events), Decimal(0)) == usd
        data = (await person.get("/api/chat/stats")).json()["data"]
        assert data["overview"] == {
            "totalSessions": 1,
            "totalMessages": 8,
            "totalTokens": tokens,
            "totalCostUSD": pytest.approx(float(usd), rel=1e-12),
            "totalCostINR": pytest.approx(float(usd * RATE), rel=1e-12),
        }
        assert sum(row["totalTokens"] for row in data["modelUsage"]) == tokens
        assert {(row["modelId"], row["provider"], row["count"]) for row in data["modelUsage"]} == {
            (PAID, "openrouter", 2),
            (FREE, "openrouter", 1),
            (OPEN, "huggingface", 1),
        }


@pytest.mark.parametrize("stream", [False, True])
async def test_the_browser_leaves(mongodb_uri: str, *, stream: bool) -> None:
    """An answer whose browser has gone is finished, billed and stored."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        slow = Behaviour(delay_between=0.1) if stream else Behaviour(delay_headers=0.6)
        play.openrouter.script.enqueue(slow)
        body = {"message": "take your time", "modelId": PAID, "stream": stream}
        await leave_early(play, person, body, after=0.3)
        stored = await until_stored(play, 2)
        assert stored[1]["content"] == "You said: take your time"
        (entry,) = play.openrouter.books
        assert entry.state == "completed"
        (event,) = await play.gateway.events()
        assert event["outcome"] == "completed"
        assert event["costUsd"].to_decimal() == entry.cost == stored[1]["cost"]["usd"].to_decimal()
        (shown,) = (await person.get("/api/chat/sessions")).json()["data"]["sessions"]
        assert shown["messageCount"] == 2


async def test_ten_calls_at_once(mongodb_uri: str) -> None:
    """Ten calls at once in one session keep every message, its counters, and each answer behind its question."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        session = (await person.post("/api/chat/sessions", {"title": "ten"})).json()["data"]["session"]["_id"]
        answers = await asyncio.gather(
            *(person.say(f"question {number}", PAID, sessionId=session) for number in range(10))
        )
        assert [answer.status_code for answer in answers] == [200] * 10
        shown = (await person.get(f"/api/chat/sessions/{session}")).json()["data"]
        assert shown["session"]["messageCount"] == len(shown["messages"]) == 20
        times = [message["createdAt"] for message in shown["messages"]]
        assert times == sorted(times)
        places = {message["_id"]: place for place, message in enumerate(shown["messages"])}
        replies = [message for message in shown["messages"] if message["role"] == "assistant"]
        assert len(replies) == 10
        for reply in replies:
            question = shown["messages"][places[reply["metadata"]["replyTo"]]]
            assert places[question["_id"]] < places[reply["_id"]]
            assert reply["content"] == f"You said: {question['content']}"
        assert shown["session"]["totalTokensUsed"] == sum(e.total_tokens for e in play.openrouter.books)
        (stored,) = await play.documents("chatsessions")
        assert stored["totalCost"]["usd"].to_decimal() == play.openrouter.books.total_cost()
        await person.say("and now", PAID, sessionId=session)
        sent = play.openrouter.books[-1].body["messages"]
        assert [message["role"] for message in sent] == ["user", "assistant"] * 10 + ["user"]
        for question, reply in zip(sent[:-1:2], sent[1::2], strict=True):
            assert reply["content"] == f"You said: {question['content']}"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_provider_leaves_nothing(mongodb_uri: str, *, stream: bool) -> None:
    """A call that fails leaves no message and no empty session, and says whose fault it is."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        kept = (await person.say("hello", PAID)).json()["data"]["session"]["id"]
        failing = Behaviour(error="502_documented")
        for session in (None, kept):
            play.openrouter.script.enqueue(failing)
            answer = await person.say("hello", PAID, sessionId=session, stream=stream)
            assert answer.status_code == 502
            body = answer.json()
            assert (body["status"], body["code"], body["provider"]) == (
                "error",
                "PROVIDER_ERROR",
                "openrouter",
            )
            assert body["user"]["credits"] == 199
        assert len(await play.documents("chatmessages")) == 2
        (session,) = await play.documents("chatsessions")
        assert session["messageCount"] == 2


async def test_a_stream_that_breaks_off_leaves_nothing(mongodb_uri: str) -> None:
    """A stream that breaks off ends with an error event, leaves no message, and its cost is in the session's total."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        kept = (await person.say("hello", PAID)).json()["data"]["session"]["id"]
        play.openrouter.script.enqueue(Behaviour(cut="rst", cut_after=2))
        answer = await person.say("a long story please", PAID, sessionId=kept, stream=True)
        assert answer.status_code == 200
        events = [block.split("\n") for block in answer.text.strip().split("\n\n")]
        assert [event[0] for event in events] == ["event: delta", "event: delta", "event: error"]
        assert '"code":"PROVIDER_ERROR"' in events[-1][1]
        assert '"provider":"openrouter"' in events[-1][1]
        assert len(await play.documents("chatmessages")) == 2
        first, second = await play.gateway.events()
        tokens = sum(event["tokens"]["prompt"] + event["tokens"]["completion"] for event in (first, second))
        shown = (await person.get(f"/api/chat/sessions/{kept}")).json()["data"]["session"]
        assert shown["messageCount"] == 2
        assert second["tokens"]["prompt"] > 0
        assert shown["totalTokensUsed"] == tokens


async def test_a_session_deleted_in_mid_answer(mongodb_uri: str) -> None:
    """An answer to a session that was deleted meanwhile is given, and leaves nothing behind."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        session = (await person.post("/api/chat/sessions", {})).json()["data"]["session"]["_id"]
        play.openrouter.script.enqueue(Behaviour(delay_headers=0.5))
        asking = asyncio.create_task(person.say("hello", PAID, sessionId=session))
        await play.openrouter.books.until(lambda books: len(books) == 1)
        assert (await person.delete(f"/api/chat/sessions/{session}")).status_code == 204
        assert (await asking).status_code == 200
        assert await play.documents("chatmessages") == []
        assert await play.documents("chatsessions") == []


async def test_an_account_deleted_in_mid_answer(mongodb_uri: str) -> None:
    """An answer to somebody who has deleted his account meanwhile begins no session."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        play.openrouter.script.enqueue(Behaviour(delay_headers=0.5))
        asking = asyncio.create_task(person.say("hello", PAID))
        await play.openrouter.books.until(lambda books: len(books) == 1)
        await person.user.delete()
        assert (await asking).status_code == 200
        assert await play.documents("chatmessages") == []
        assert await play.documents("chatsessions") == []


async def test_a_gateway_that_stops_finishes_its_turns(mongodb_uri: str) -> None:
    """A gateway that is told to stop stores the answers that are under way."""
    async with playground(mongodb_uri, drain_seconds=5) as play:
        person = await play.person(Role.PREMIUM)
        play.openrouter.script.enqueue(Behaviour(delay_headers=0.5))
        body = {"message": "last words", "modelId": PAID}
        await leave_early(play, person, body, after=0.2)
        await play.gateway.parts.completions.drain(5)
        await play.gateway.app.ctx.turns.finish(2)
        stored = await play.documents("chatmessages")
        assert [message["content"] for message in stored] == ["last words", "You said: last words"]
        refused = await person.say("too late", PAID)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"


@pytest.mark.long
@pytest.mark.usefixtures("production_timeouts")
async def test_a_database_that_is_away_for_a_while(mongodb_uri: str) -> None:
    """An answer that cannot be stored at once is given all the same, and stored when the database answers again."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        play.openrouter.script.enqueue(Behaviour(delay_headers=0.5))
        asking = asyncio.create_task(person.say("hello", PAID))
        await play.openrouter.books.until(lambda books: len(books) == 1)
        operator: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongodb_uri)
        await operator.admin.command("fsync", lock=True)
        try:
            answer = await asking
        finally:
            await operator.admin.command("fsyncUnlock")
            await operator.close()
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"]["aiMessage"]["content"] == "You said: hello"
        stored = await until_stored(play, 2)
        assert [str(message["_id"]) for message in stored] == [
            answer.json()["data"][name]["id"] for name in ("userMessage", "aiMessage")
        ]
        (session,) = await play.documents("chatsessions")
        assert session["messageCount"] == 2
        assert len(await play.gateway.events()) == 1
