"""Tests of the way of a call through its targets: proxy/exchange.py and proxy/health.py on real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from proxy.core.routing import Role
from tests.proxy.stage import FREE, MINI, OSS, PLAIN, Stage, ask, assert_equals_books, staged
from tests.upstreams import Behaviour, Failure

QUICK = {"retries": {"first_wait": 0.01, "longest_wait": 0.3}, "breaker": {"least_requests": 1_000}}
"""Retries without long waits, and no breaker in the way."""

BOTH = {"both": (f"openrouter/{OSS}", f"huggingface/{OSS}")}
THROTTLED = Failure(429, {"error": {"message": "slow down"}}, {"retry-after": "0"})


def tried(event: dict[str, Any]) -> list[tuple[str, str]]:
    return [(attempt["provider"], attempt["outcome"]) for attempt in event["attempts"]]


async def metric(stage: Stage, name: str, **labels: str) -> float:
    metrics = stage.gateway.parts.metrics
    metrics.flush()
    return metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", ["503_documented", "429_upstream_retry_after", "401_bad_key"])
async def test_another_provider_serves(mongodb_uri: str, error: str, *, stream: bool) -> None:
    """What one provider reports to have failed the next one serves at once; the caller pays that one alone."""
    async with staged(mongodb_uri, fallbacks=BOTH) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        stage.openrouter.script.always(Behaviour(error=error))
        response = await stage.gateway.chat(key, ask("both", stream=stream))
        assert response.status_code == 200
        assert response.headers["x-aipasta-provider"] == "huggingface"
        event = await stage.event()
        assert [provider for provider, _ in tried(event)] == ["openrouter", "huggingface"]
        assert tried(event)[-1][1] == "completed"
        assert event["provider"] == "huggingface"
        assert event["requestedModel"] == "both"
        assert [len(stage.openrouter.books), len(stage.huggingface.books)] == [1, 1]
        assert event["costUsd"].to_decimal() == event["attempts"][1]["costUsd"].to_decimal() > 0
        assert event["attempts"][0]["costUsd"].to_decimal() == stage.openrouter.books[0].cost == 0
        assert await metric(stage, "aipasta_fallbacks_total", provider="openrouter", model=OSS) == 1
        await stage.assert_balanced(user)


async def test_an_unreachable_provider_is_passed_over(mongodb_uri: str) -> None:
    """Without a connection nothing can have run: the next target serves, and the event names both attempts."""
    async with staged(mongodb_uri, fallbacks=BOTH) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        await stage.openrouter.pause()
        assert (await stage.gateway.chat(key, ask("both"))).status_code == 200
        assert tried(await stage.event()) == [("openrouter", "unreachable"), ("huggingface", "completed")]


async def test_passing_trouble_passes(mongodb_uri: str) -> None:
    """A 500, a 429 and an error as the first event are waited out at the one target, and charged once."""
    async with staged(mongodb_uri, resilience=QUICK) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        stage.openrouter.script.enqueue(Behaviour(error="503_documented"), Behaviour(error=THROTTLED))
        assert (await stage.gateway.chat(key, ask(MINI))).status_code == 200
        first_event = Behaviour(error="502_documented", error_after=0, comments_before=2)
        stage.openrouter.script.enqueue(first_event)
        response = await stage.gateway.chat(key, ask(MINI, stream=True))
        assert response.text.endswith("data: [DONE]\n\n")
        whole, streamed = await stage.events(2)
        assert [outcome for _, outcome in tried(whole)] == ["provider", "rate_limit", "completed"]
        assert [outcome for _, outcome in tried(streamed)] == ["provider", "completed"]
        assert_equals_books(whole, stage.openrouter.books[2])
        assert_equals_books(streamed, stage.openrouter.books[4])
        assert await metric(stage, "aipasta_upstream_retries_total", provider="openrouter", model=MINI) == 3
        await stage.assert_balanced(user)


RAN: list[tuple[Behaviour, bool, int]] = [
    (Behaviour(cut="rst"), False, 502),
    (Behaviour(cut="fin"), True, 502),
    (Behaviour(cut="eof", cut_after=0), True, 502),
    (Behaviour(delay_headers=30), True, 504),
    (Behaviour(delay_headers=30), False, 504),
    (Behaviour(stall_after=0), True, 504),
    (Behaviour(garbage="bad_json"), False, 502),
    (Behaviour(garbage="html"), True, 502),
]


async def test_what_may_have_run_is_not_sent_again(mongodb_uri: str) -> None:
    """A reset, a cut, nonsense and our own loss of patience end the call, whatever targets and retries are left."""
    timeouts = {"first_byte": 0.3, "idle": 0.3, "total": 0.6}
    async with staged(mongodb_uri, fallbacks=BOTH, resilience=QUICK, timeouts=timeouts) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        for behaviour, stream, status in RAN:
            stage.openrouter.script.enqueue(behaviour)
            response = await stage.gateway.chat(key, ask("both", stream=stream))
            assert response.status_code == status, (behaviour, response.text)
            assert response.headers["x-should-retry"] == "false"
        assert len(stage.openrouter.books) == len(RAN)
        assert len(stage.huggingface.books) == 0
        assert {len(event["attempts"]) for event in await stage.events(len(RAN))} == {1}
        await stage.assert_balanced(user)


async def test_a_fault_of_the_request_is_told_at_once(mongodb_uri: str) -> None:
    """What the provider finds wrong with the request itself is not tried anywhere else."""
    async with staged(mongodb_uri, fallbacks=BOTH, resilience=QUICK) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        wrong = Failure(400, {"error": {"message": "temperature is too high", "code": 400}})
        stage.openrouter.script.enqueue(Behaviour(error=wrong))
        response = await stage.gateway.chat(key, ask("both"))
        assert (response.status_code, response.json()["error"]["message"]) == (400, "temperature is too high")
        assert len(stage.huggingface.books) == 0


async def test_a_failure_that_cost_something_is_recorded(mongodb_uri: str) -> None:
    """A failed attempt whose usage was billed keeps its cost in its record; the caller pays the one that served."""
    fallbacks = {"mixed": (f"huggingface/{OSS}", f"openrouter/{OSS}")}
    async with staged(mongodb_uri, fallbacks=fallbacks) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user)
        stage.huggingface.script.enqueue(Behaviour(finish_reason="error"))
        assert (await stage.gateway.chat(key, ask("mixed"))).status_code == 200
        event = await stage.event()
        failed, served = (attempt["costUsd"].to_decimal() for attempt in event["attempts"])
        assert failed == stage.huggingface.books[0].cost != 0
        assert_equals_books(event, stage.openrouter.books[0])
        assert served == event["costUsd"].to_decimal()
        await stage.assert_balanced(user)


async def test_a_target_has_its_own_patience(mongodb_uri: str) -> None:
    """A timeout that a fallback list gives to a target wins over its provider's."""
    own = {"own": ({"model": f"openrouter/{OSS}", "timeouts": {"first_byte": 0.2}},)}
    async with staged(mongodb_uri, fallbacks=own, timeouts={"first_byte": 20}) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.enqueue(Behaviour(delay_headers=10))
        assert (await stage.gateway.chat(key, ask("own", stream=True))).status_code == 504
        assert (await stage.event())["totalMs"] < 5_000


async def test_the_requests_own_list_goes_over_providers(mongodb_uri: str) -> None:
    """`models` in a request is a list of fallbacks too, over all providers."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.always(Behaviour(error="503_documented"))
        response = await stage.gateway.chat(key, ask(MINI, models=[f"huggingface/{OSS}", PLAIN]))
        assert response.headers["x-aipasta-provider"] == "huggingface"
        stage.huggingface.script.always(Behaviour(error="503_html_sim"))
        response = await stage.gateway.chat(key, ask(MINI, models=[f"huggingface/{OSS}", PLAIN]))
        assert response.headers["x-aipasta-provider"] == "plain"


async def test_refused_keys_are_set_aside(mongodb_uri: str) -> None:
    """With two of four keys refused or exhausted every caller is served, and each bad key is asked but once."""
    keys = {"openrouter": ("sk-or-v1-a", "sk-or-v1-b", "sk-or-v1-c", "sk-or-v1-d")}
    async with staged(mongodb_uri, provider_keys=keys) as stage:
        stage.openrouter.script.always(Behaviour(error="401_bad_key"), key="sk-or-v1-a")
        stage.openrouter.script.always(Behaviour(error="402_credits_documented"), key="sk-or-v1-c")
        key = await stage.gateway.key(role=Role.PREMIUM)
        for _ in range(12):
            assert (await stage.gateway.chat(key, ask(MINI))).status_code == 200
        used = Counter(entry.key for entry in stage.openrouter.books)
        assert (used["sk-or-v1-a"], used["sk-or-v1-c"]) == (1, 1)
        assert used["sk-or-v1-b"] + used["sk-or-v1-d"] == 12
        assert abs(used["sk-or-v1-b"] - used["sk-or-v1-d"]) <= 1
        assert await metric(stage, "aipasta_keys_set_aside", provider="openrouter") == 2
        assert stage.gateway.parts.health.view("openrouter")["apiKeys"] == {"total": 4, "setAside": 2}


async def test_a_key_is_tried_again_later(mongodb_uri: str) -> None:
    """A key that was refused is used again after its time; when all are refused, the oldest refusal is tried."""
    keys = {"openrouter": ("sk-or-v1-a", "sk-or-v1-b")}
    resilience = {"set_aside": {"refused": 0.3}, "breaker": {"least_requests": 1_000}}
    async with staged(mongodb_uri, provider_keys=keys, resilience=resilience) as stage:
        stage.openrouter.script.always(Behaviour(error="401_bad_key"))
        key = await stage.gateway.key(role=Role.PREMIUM)
        for _ in range(2):
            assert (await stage.gateway.chat(key, ask(MINI))).status_code == 502
        first, second, third = (entry.key for entry in stage.openrouter.books)
        assert first == third != second
        stage.openrouter.script.clear()
        await asyncio.sleep(0.35)
        for _ in range(2):
            assert (await stage.gateway.chat(key, ask(MINI))).status_code == 200
        assert {entry.key for entry in stage.openrouter.books[-2:]} == {"sk-or-v1-a", "sk-or-v1-b"}


async def test_retries_have_a_budget(mongodb_uri: str) -> None:
    """A provider that fails every request gets no more retries than the budget has, whatever the rounds."""
    retries = {"first_wait": 0.01, "budget": 0.1, "burst": 2, "rounds": 3}
    resilience = {"retries": retries, "breaker": {"least_requests": 1_000}}
    async with staged(mongodb_uri, resilience=resilience) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.always(Behaviour(error="503_documented"))
        for _ in range(20):
            assert (await stage.gateway.chat(key, ask(MINI))).status_code == 502
        assert 22 <= len(stage.openrouter.books) <= 24


CHOICES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a backing": ("huggingface", "deepseek-ai/DeepSeek-V4-Pro:groq", {}),
    "a preference": ("openrouter", MINI, {"provider": {"only": ["groq"]}}),
    "a policy": ("openrouter", f"{MINI}:nitro", {}),
}
"""The provider, the model as it is asked for, and the fields beside it."""


@pytest.mark.parametrize("choice", CHOICES)
async def test_a_choice_of_backings_is_nobody_elses_trouble(mongodb_uri: str, choice: str) -> None:
    """What fails where one caller has chosen who serves is spared in his way alone, and without series of its own."""
    name, asked, fields = CHOICES[choice]
    model = asked.removesuffix(":groq").removesuffix(":nitro")
    breaker = {"least_requests": 5}
    async with staged(mongodb_uri, resilience={"retries": {"rounds": 1}, "breaker": breaker}) as stage:
        first, second = [await stage.gateway.key(role=Role.PREMIUM) for _ in range(2)]
        upstream = stage.openrouter if name == "openrouter" else stage.huggingface
        upstream.script.enqueue(Behaviour(error=Failure(503, {"error": "No provider"})), times=5)
        for status in (502, 502, 502, 502, 502, 503):
            answer = await stage.gateway.chat(first, ask(f"{name}/{asked}", **fields))
            assert answer.status_code == status
        assert len(upstream.books) == 5
        shown = stage.gateway.parts.health.view(name)["breakers"]
        assert [(each["model"], each["state"]) for each in shown] == [(asked, "open")]
        assert (await stage.gateway.chat(second, ask(f"{name}/{model}"))).status_code == 200
        other = {"provider": {"only": ["openai"]}}
        assert (await stage.gateway.chat(second, ask(f"{name}/{model}", **other))).status_code == 200
        exposed = (await stage.gateway.http.get("/metrics")).text
        assert f'aipasta_breaker_state{{model="{model}",provider="{name}"}} 0.0' in exposed
        assert f'"{model}:' not in exposed


async def test_a_sick_target_is_spared(mongodb_uri: str) -> None:
    """A breaker opens on failures, refuses without asking, lets one probe through, and closes; all of it shows."""
    breaker = {"least_requests": 5, "pause": 0.3, "longest_pause": 0.3}
    async with staged(
        mongodb_uri, resilience={"retries": {"rounds": 1}, "breaker": breaker}, fallbacks=BOTH
    ) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.always(Behaviour(error="503_documented"), model=MINI)
        for _ in range(5):
            assert (await stage.gateway.chat(key, ask(MINI))).status_code == 502
        mine = {"provider": "openrouter", "model": MINI}
        assert await metric(stage, "aipasta_breaker_state", **mine) == 2
        shown = stage.gateway.parts.health.view("openrouter")["breakers"]
        assert [(each["model"], each["state"]) for each in shown] == [(MINI, "open")]
        spared = await stage.gateway.chat(key, ask(MINI))
        assert (spared.status_code, spared.headers["retry-after"]) == (503, "1")
        assert len(stage.openrouter.books) == 5
        assert (
            await stage.gateway.chat(key, ask(FREE))
        ).status_code == 200  # another target of the same provider
        await asyncio.sleep(0.35)
        stage.openrouter.script.clear()
        stage.openrouter.script.enqueue(Behaviour(delay_headers=0.3), model=MINI)
        answers = await asyncio.gather(*(stage.gateway.chat(key, ask(MINI)) for _ in range(10)))
        assert Counter(answer.status_code for answer in answers) == {200: 1, 503: 9}
        assert (await stage.gateway.chat(key, ask(MINI))).status_code == 200
        steps = {
            state: await metric(stage, "aipasta_breaker_changes_total", **mine, state=state)
            for state in ("open", "half_open", "closed")
        }
        assert steps == {"open": 1, "half_open": 1, "closed": 1}
        assert stage.gateway.parts.health.view("openrouter")["breakers"] == []
        await stage.events(8)


async def test_a_probe_whose_client_leaves_blocks_nobody(mongodb_uri: str) -> None:
    """A probe that is broken off by its client is followed by another one at once."""
    breaker = {"least_requests": 3, "pause": 0.1, "longest_pause": 60}
    async with staged(mongodb_uri, resilience={"retries": {"rounds": 1}, "breaker": breaker}) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM, onDisconnect="cancel")
        stage.openrouter.script.enqueue(Behaviour(error="503_documented"), times=3)
        for _ in range(3):
            assert (await stage.gateway.chat(key, ask(MINI))).status_code == 502
        await asyncio.sleep(0.15)
        stage.openrouter.script.enqueue(Behaviour(delay_headers=30))
        leaver = asyncio.create_task(stage.gateway.chat(key, ask(MINI, stream=True)))
        await stage.openrouter.books.until(lambda books: len(books) == 4)
        leaver.cancel()
        await asyncio.gather(leaver, return_exceptions=True)
        await stage.events(4)
        assert (await stage.gateway.chat(key, ask(MINI))).status_code == 200


async def test_an_encoded_answer_is_refused(mongodb_uri: str) -> None:
    """Compression that nobody asked for is refused with a clear sentence, in whole answers and in streams."""
    async with staged(mongodb_uri, fallbacks=BOTH) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        for stream in (False, True):
            stage.openrouter.script.enqueue(Behaviour(garbage="gzip"))
            response = await stage.gateway.chat(key, ask(MINI, stream=stream))
            assert response.status_code == 502
            assert "content encoding" in response.json()["error"]["message"]
        assert all(entry.headers["accept-encoding"] == "identity" for entry in stage.openrouter.books)
        packed = Behaviour(garbage="gzip", error="503_documented")
        stage.openrouter.script.enqueue(packed)
        response = await stage.gateway.chat(key, ask("both"))
        assert (response.status_code, response.headers["x-aipasta-provider"]) == (200, "huggingface")
