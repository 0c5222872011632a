"""Tests of admin_api/chat/events.py: an answer as a stream."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import httpx
import orjson
import pytest

from admin_api.chat.events import Browser, event
from proxy.core.routing import Role
from tests.admin_api.playground import FREE, Person, playground
from tests.upstreams import Behaviour

PAID = "anthropic/claude-haiku-4.5"


def read(text: str) -> list[tuple[str, Any]]:
    """Read a stream of events; comments are left out."""
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    events = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    return [(each["event"], orjson.loads(each["data"])) for each in events]


async def streamed(person: Person, message: str, **fields: Any) -> httpx.Response:
    answer = await person.say(message, PAID, stream=True, **fields)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    return answer


async def test_a_stream_ends_with_the_whole_answer(mongodb_uri: str) -> None:
    """The pieces make up the answer, and the last event is the body that a request without `stream` gets."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        events = read((await streamed(person, "tell me")).text)
        assert {name for name, _ in events[:-1]} == {"delta"}
        name, body = events[-1]
        whole = (await person.say("tell me", PAID)).json()
        assert name == "done"
        assert body.keys() == whole.keys()
        assert body["data"].keys() == whole["data"].keys()
        assert body["data"]["aiMessage"].keys() == whole["data"]["aiMessage"].keys()
        text = "".join(piece["content"] for _, piece in events[:-1])
        assert text == body["data"]["aiMessage"]["content"] == "You said: tell me"
        entry = play.openrouter.books[0]
        assert body["data"]["aiMessage"]["cost"]["usd"] == float(entry.cost or 0)
        session = body["data"]["session"]["id"]
        stored = await play.documents("chatmessages")
        assert [m["content"] for m in stored if str(m["sessionId"]) == session] == ["tell me", text]


async def test_pieces_come_one_by_one(mongodb_uri: str) -> None:
    """Each piece is with the browser before the provider has sent the next."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        play.openrouter.script.enqueue(Behaviour(delay_between=0.15))
        body = {"message": "slowly now", "modelId": PAID, "stream": True}
        clock = asyncio.get_running_loop().time
        async with play.gateway.http.stream("POST", "/api/chat", headers=person.headers, json=body) as answer:
            times = [clock() async for line in answer.aiter_lines() if line == "event: delta"]
        assert len(times) >= 4
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert min(gaps) > 0.05


async def test_a_silent_stream_is_kept_alive(mongodb_uri: str) -> None:
    """While the provider thinks the browser gets comments, so that no proxy cuts the connection."""
    async with playground(mongodb_uri, keep_alive_seconds=0.1) as play:
        person = await play.person(Role.PREMIUM)
        play.openrouter.script.enqueue(Behaviour(delay_first=0.5))
        text = (await streamed(person, "think")).text
        assert text.startswith(": keep-alive\n\n")
        assert read(text)[-1][0] == "done"


async def test_reasoning_is_streamed_apart(mongodb_uri: str) -> None:
    """What a model thinks aloud comes as `reasoning`, and is no part of the answer that is stored."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        play.openrouter.script.enqueue(Behaviour(reasoning="hmm, pasta", text="Al dente."))
        events = read((await streamed(person, "how")).text)
        thoughts = "".join(piece.get("reasoning", "") for _, piece in events[:-1])
        assert thoughts == "hmm, pasta"
        assert events[-1][1]["data"]["aiMessage"]["content"] == "Al dente."


async def test_a_refusal_before_the_stream_is_a_plain_one(mongodb_uri: str) -> None:
    """What is refused before the first piece has its status and its JSON body, as without `stream`."""
    async with playground(mongodb_uri) as play:
        poor = await play.person()
        answer = await poor.say("hello", PAID, stream=True)
        assert (answer.status_code, answer.json()["code"]) == (403, "PAYWALL")
        assert (await poor.say("hello", FREE, stream=True, sessionId="0" * 24)).status_code == 404


async def test_the_browsers_side_of_a_call() -> None:
    """OpenAI's chunks become events of ours, whichever way they are grouped; an error's words are kept apart."""
    browser = Browser()
    await browser.start({})
    one = b'data: {"choices":[{"delta":{"role":"assistant","content":"A\xc3\xa9"}}]}\n\n'
    two = b'data: {"choices":[{"delta":{"content":"\\n"}},{"delta":{}}]}\n\n'
    await browser.send(one + two)
    await browser.send(b": keep-alive\n\n")
    await browser.send(b'data: {"choices":[]}\n\ndata: [DONE]\n\n')
    await browser.send(b'data: {"error":{"message":"broken"}}\n\n')
    browser.end()
    pieces = [browser.pieces.get_nowait() for _ in range(browser.pieces.qsize())]
    assert pieces == [
        event("delta", {"content": "Aé"}),
        event("delta", {"content": "\n"}),
        b": keep-alive\n\n",
        None,
    ]
    assert (browser.text, browser.error) == ("Aé\n", "broken")


async def test_whatever_a_chunk_holds_is_no_trouble() -> None:
    """A chunk that the gateway passes on, for it is none of its business, harms no answer."""
    browser = Browser()
    for odd in (
        rb'{"error":null,"choices":[{"delta":{"content":"A"}}]}',
        rb'{"choices":["odd",{"delta":"odd"},{"delta":{"content":"B \ud83d"}}]}',
        rb'{"choices":7}',
    ):
        await browser.send(b"data: %b\n\n" % odd)
    assert (browser.text, browser.error) == ("AB ?", None)


@pytest.mark.parametrize("stream", [False, True])
async def test_half_a_character(mongodb_uri: str, *, stream: bool) -> None:
    """An answer that is cut in the middle of an emoji is stored, with a mark in its place."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        play.openrouter.script.enqueue(Behaviour(text="Al dente \ud83d"))
        answer = await person.say("how", PAID, stream=stream)
        assert answer.status_code == 200
        body = read(answer.text)[-1][1] if stream else answer.json()
        assert body["data"]["aiMessage"]["content"] == "Al dente ?"
