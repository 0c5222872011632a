"""Tests of proxy/exchange.py: every way in which an answer can end, and what is recorded of it."""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx
import openai
import pytest

from proxy.core.routing import Role
from tests.proxy.stage import FREE, MINI, OSS, PLAIN, ask, assert_equals_books, staged
from tests.upstreams import Behaviour

ENDINGS: tuple[Literal["fin", "rst", "eof"], ...] = ("fin", "rst", "eof")
IMPATIENT = {"first_byte": 0.4, "idle": 0.4, "total": 2}


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    lines = (line[6:] for line in response.text.splitlines() if line.startswith("data: {"))
    return [json.loads(line) for line in lines]


def assert_ended_with_error(response: httpx.Response, code: str) -> None:
    """Check that a stream that had begun ended with one error event in OpenAI's shape, and no [DONE]."""
    assert response.status_code == 200
    *chunks, last = chunks_of(response)
    assert all("error" not in chunk for chunk in chunks)
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert last["error"]["code"] == code
    assert "[DONE]" not in response.text


def assert_refused(response: httpx.Response, status: int, code: str) -> None:
    """Check that an error came before any output, as HTTP says it."""
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == code
    assert response.headers["content-type"] == "application/json"


LONG = "anthropic/claude-sonnet-4.6"
"""A model with prices for cached and for written tokens."""


PLACEMENTS: tuple[Any, ...] = ("repeated", "null_finish", "empty_choices", "on_finish", "on_content", "every")


async def test_usage_is_found_wherever_it_stands(mongodb_uri: str) -> None:
    """A usage record is found in every place, and the event's tokens and cost are those of the provider's books."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        for placement in PLACEMENTS:
            details = Behaviour(
                usage=placement,
                prompt_tokens=1000,
                completion_tokens=333,
                cached_tokens=400,
                cache_write_tokens=100,
                reasoning_tokens=50,
            )
            for upstream, model in ((stage.openrouter, LONG), (stage.huggingface, f"huggingface/{OSS}:groq")):
                upstream.script.enqueue(details)
                wish = ask(model, stream=True, stream_options={"include_usage": True})
                response = await stage.gateway.chat(key, wish)
                assert response.text.endswith("data: [DONE]\n\n"), placement
                usages = [chunk["usage"] for chunk in chunks_of(response) if chunk.get("usage")]
                assert [usage["completion_tokens"] for usage in usages] == [333], placement
        events = await stage.events(2 * len(PLACEMENTS))
        for event, entry in zip(events[::2], stage.openrouter.books, strict=True):
            assert_equals_books(event, entry)
            assert event["costSource"] == "provider"
        for event, entry in zip(events[1::2], stage.huggingface.books, strict=True):
            assert (event["tokens"]["completion"], event["costSource"]) == (333, "price_table")
            assert event["costUsd"].to_decimal() == entry.cost


async def test_a_stream_without_usage_is_estimated(mongodb_uri: str) -> None:
    """A stream that ends well without a usage record is complete for the client and estimated for the books."""
    async with staged(mongodb_uri) as stage:
        stage.openrouter.script.enqueue(Behaviour(usage="missing"))
        key = await stage.gateway.key(role=Role.PREMIUM)
        response = await stage.gateway.chat(key, ask(MINI, "word " * 200, stream=True))
        assert response.text.endswith("data: [DONE]\n\n")
        event, entry = await stage.event(), stage.openrouter.books[0]
        assert (event["outcome"], event["estimated"], event["costSource"]) == (
            "completed",
            True,
            "price_table",
        )
        assert event["tokens"]["completion"] == pytest.approx(entry.completion_tokens, rel=0.1)
        assert event["tokens"]["prompt"] == pytest.approx(entry.prompt_tokens, rel=0.1)


async def test_a_whole_answer_without_usage_is_estimated(mongodb_uri: str) -> None:
    """Of a whole answer its text is measured, at four bytes a token."""
    async with staged(mongodb_uri) as stage:
        stage.openrouter.script.enqueue(Behaviour(usage="missing"))
        key = await stage.gateway.key(role=Role.PREMIUM)
        response = await stage.gateway.chat(key, ask(MINI, "word " * 200))
        said = response.json()["choices"][0]["message"]["content"]
        assert "usage" not in response.json()
        event = await stage.event()
        assert (event["outcome"], event["estimated"]) == ("completed", True)
        assert event["tokens"]["completion"] == -(-len(said) // 4) > 100


async def test_an_error_before_the_answer_has_its_own_status(mongodb_uri: str) -> None:
    """An error that comes first, be it after comments or inside a 200, is an HTTP error and costs nothing."""
    cases = [
        (True, Behaviour(error="502_documented", error_after=0, comments_before=2), 502, "provider_error"),
        (True, Behaviour(error="429_upstream_retry_after", error_after=0), 429, "provider_rate_limited"),
        (True, Behaviour(error="200_error_body"), 502, "provider_error"),
        (False, Behaviour(error="200_error_body"), 502, "provider_error"),
        (False, Behaviour(error="200_choice_error_documented"), 502, "provider_error"),
        (False, Behaviour(error="503_documented"), 502, "provider_error"),
    ]
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        for stream, behaviour, status, code in cases:
            stage.openrouter.script.enqueue(behaviour)
            assert_refused(await stage.gateway.chat(key, ask(MINI, stream=stream)), status, code)
        for event in await stage.events(len(cases)):
            assert (event["outcome"], event["requests"]) == ("upstream_error", 0)
            assert event["costUsd"].to_decimal() == 0
        await stage.assert_balanced(user)


async def test_a_whole_answer_that_is_an_error_is_not_an_answer(mongodb_uri: str) -> None:
    """The SDK raises for a 200 with an error inside, which by itself it would take for an answer."""
    async with staged(mongodb_uri) as stage:
        stage.openrouter.script.enqueue(Behaviour(error="200_error_body"))
        async with stage.sdk(await stage.gateway.key(role=Role.PREMIUM)) as client:
            create: Any = client.chat.completions.create
            with pytest.raises(openai.InternalServerError, match="overloaded") as caught:
                await create(**ask(MINI))
        assert caught.value.code == "provider_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_half_a_character(mongodb_uri: str, *, stream: bool) -> None:
    """An answer that a server written in JavaScript has cut in the middle of an emoji is served, and costs what it costs."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.enqueue(Behaviour(text="Al dente \ud83d"))
        response = await stage.gateway.chat(key, ask(MINI, stream=stream))
        assert response.status_code == 200
        assert "\\ud83d" in response.text
        assert_equals_books(await stage.event(), stage.openrouter.books[0])


async def test_an_error_in_mid_stream_is_an_error_event(mongodb_uri: str) -> None:
    """After the first piece an error is one event that the SDK raises, and what was delivered is estimated."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        for done in (None, True):
            stage.openrouter.script.enqueue(Behaviour(error="502_documented", error_after=2, done=done))
            assert_ended_with_error(await stage.gateway.chat(key, ask(MINI, stream=True)), "provider_error")
        stage.openrouter.script.enqueue(Behaviour(error="502_documented", error_after=2))
        async with stage.sdk(key) as client:
            create: Any = client.chat.completions.create
            with pytest.raises(openai.APIError) as caught:
                async for _ in await create(**ask(MINI, stream=True)):
                    pass
            assert caught.value.code == "provider_error"
        for event in await stage.events(3):
            assert (event["outcome"], event["estimated"], event["requests"]) == ("upstream_error", True, 1)
            assert event["tokens"]["completion"] >= 2


@pytest.mark.parametrize("cut", ENDINGS)
async def test_a_cut_stream_is_never_a_clean_end(mongodb_uri: str, cut: Literal["fin", "rst", "eof"]) -> None:
    """Wherever the provider breaks off, the client gets an error and no [DONE]; after [DONE] it does not matter."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        for model, upstream in ((MINI, stage.openrouter), (PLAIN, stage.plain)):
            for after in (2, "pieces"):
                for inside in (False, True):
                    upstream.script.enqueue(Behaviour(cut=cut, cut_after=after, cut_inside=inside))
                    response = await stage.gateway.chat(key, ask(model, stream=True))
                    assert_ended_with_error(response, "provider_error")
            upstream.script.enqueue(Behaviour(cut=cut, cut_after=0))
            assert_refused(await stage.gateway.chat(key, ask(model, stream=True)), 502, "provider_error")
            upstream.script.enqueue(Behaviour(cut=cut, cut_after="usage"))
            response = await stage.gateway.chat(key, ask(model, stream=True))
            if cut == "eof":
                assert response.text.endswith("data: [DONE]\n\n")
            else:
                assert_ended_with_error(response, "provider_error")
        events = await stage.events(12)
        for entries in (events[:6], events[6:]):
            for event in entries[:4]:
                assert (event["outcome"], event["estimated"]) == ("upstream_error", True)
                assert event["tokens"]["completion"] >= 2
                assert event["tokens"]["prompt"] > 0
            # It was begun, and nobody knows whether it was billed.
            assert (entries[4]["estimated"], entries[4]["tokens"]["completion"]) == (True, 0)
            assert entries[4]["tokens"]["prompt"] > 0
            # The usage record had come: it counts, whatever happened to the stream.
            assert not entries[5]["estimated"]
        assert_equals_books(events[5], stage.openrouter.books[5])
        await stage.assert_balanced(user)


@pytest.mark.parametrize("cut", ["fin", "rst"])
async def test_a_cut_whole_answer_is_billed_as_what_it_was(mongodb_uri: str, cut: Any) -> None:
    """A whole answer that is cut in its body was computed and billed: the event estimates it, and never says 0."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.enqueue(Behaviour(cut=cut, cut_inside=True))
        assert_refused(await stage.gateway.chat(key, ask(MINI)), 502, "provider_error")
        event, entry = await stage.event(), stage.openrouter.books[0]
        assert entry.cost
        assert (event["outcome"], event["estimated"]) == ("upstream_error", True)
        assert event["tokens"]["prompt"] == pytest.approx(entry.prompt_tokens, abs=8)
        assert event["costUsd"].to_decimal() > 0


@pytest.mark.long
async def test_silence_ends_an_exchange(mongodb_uri: str) -> None:
    """No head, no first event, a stall in the middle, and dripping for ever each end in a timeout."""
    async with staged(mongodb_uri, timeouts=IMPATIENT) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        script = stage.openrouter.script
        for behaviour in (Behaviour(delay_headers=30), Behaviour(delay_first=30)):
            script.enqueue(behaviour)
            assert_refused(await stage.gateway.chat(key, ask(MINI, stream=True)), 504, "provider_timeout")
        script.enqueue(Behaviour(stall_after=2))
        assert_ended_with_error(await stage.gateway.chat(key, ask(MINI, stream=True)), "provider_timeout")
        script.enqueue(Behaviour(pieces=1000, delay_between=0.2))
        assert_ended_with_error(await stage.gateway.chat(key, ask(MINI, stream=True)), "provider_timeout")
        script.enqueue(
            Behaviour(delay_between=0.3, pieces=3), Behaviour(delay_headers=1), Behaviour(stall_after=0)
        )
        response = await stage.gateway.chat(key, ask(MINI, stream=True))
        assert response.text.endswith("data: [DONE]\n\n")
        assert (await stage.gateway.chat(key, ask(MINI))).status_code == 200
        assert_refused(await stage.gateway.chat(key, ask(MINI)), 504, "provider_timeout")
        outcomes = [event["outcome"] for event in await stage.events(7)]
        assert outcomes == ["timeout"] * 4 + ["completed"] * 2 + ["timeout"]
        await stage.assert_balanced(user)
        await stage.openrouter.idle()


async def test_a_timeout_that_the_provider_reports_costs_nothing(mongodb_uri: str) -> None:
    """A 408 or 504 of the provider's is an answer: it bills nothing, and so do we."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user()
        key = await stage.gateway.key(user)
        stage.huggingface.script.enqueue(Behaviour(error="504_html_sim"))
        stage.openrouter.script.enqueue(Behaviour(error="408_documented"))
        for model in (f"huggingface/{OSS}", FREE):
            assert_refused(await stage.gateway.chat(key, ask(model)), 504, "provider_timeout")
        for event in await stage.events(2):
            assert (event["outcome"], event["requests"], event["tokens"]["prompt"]) == ("timeout", 0, 0)
        await stage.assert_balanced(user)


async def test_nonsense_is_an_error(mongodb_uri: str) -> None:
    """Whatever a provider sends in place of an answer, the client gets an error in OpenAI's shape, never nonsense."""
    first: list[tuple[bool, Any]] = [
        *(
            (True, kind)
            for kind in ("html", "empty", "json_for_stream", "bad_json", "not_utf8", "giant_header")
        ),
        *((False, kind) for kind in ("html", "empty", "bad_json", "not_utf8", "giant_header")),
    ]
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        for stream, kind in first:
            stage.openrouter.script.enqueue(Behaviour(garbage=kind))
            assert_refused(await stage.gateway.chat(key, ask(MINI, stream=stream)), 502, "provider_error")
        for kind in ("bad_json", "not_utf8", "giant_event", "giant_line"):
            stage.openrouter.script.enqueue(Behaviour(garbage=kind, garbage_after=2, giant_bytes=5 * 2**20))  # type: ignore[arg-type]
            assert_ended_with_error(await stage.gateway.chat(key, ask(MINI, stream=True)), "provider_error")
        events = await stage.events(len(first) + 4)
        assert {event["outcome"] for event in events} == {"upstream_error"}
        # A stream that was answered as a whole was billed, and its usage is known.
        assert_equals_books(events[2], stage.openrouter.books[2])
        await stage.assert_balanced(user)


async def test_framing_does_not_matter(mongodb_uri: str) -> None:
    """A mark of byte order, CRLF, comments in between and bytes one by one make the same answer and the same bill."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        for behaviour in (
            Behaviour(),
            Behaviour(bom=True, line_end="\r\n", comments_between=True),
            Behaviour(split_bytes=1),
            Behaviour(line_end="\r", split_bytes=7),
            Behaviour(done=False),
        ):
            stage.openrouter.script.enqueue(behaviour)
            response = await stage.gateway.chat(key, ask(MINI, "Grüße, 世界 🙂", stream=True))
            assert response.text.endswith("data: [DONE]\n\n")
            text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks_of(response))
            assert text == "You said: Grüße, 世界 🙂"
        for event, entry in zip(await stage.events(5), stage.openrouter.books, strict=True):
            assert_equals_books(event, entry)


async def test_a_silent_stream_is_kept_alive(mongodb_uri: str) -> None:
    """A stream that is silent for long gets comments, which neither the client nor the books count."""
    async with staged(mongodb_uri, keep_alive_seconds=0.1) as stage:
        stage.openrouter.script.enqueue(Behaviour(stall_after=1, stall_seconds=0.5))
        key = await stage.gateway.key(role=Role.PREMIUM)
        response = await stage.gateway.chat(key, ask(MINI, stream=True))
        assert response.text.count(": keep-alive\n\n") >= 2
        assert response.text.endswith("data: [DONE]\n\n")
        assert_equals_books(await stage.event(), stage.openrouter.books[0])
