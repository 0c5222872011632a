"""Tests of a key's budget against what costs extra: plugins, searches, sound."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from proxy.core.routing import Role
from proxy.limits import Limits
from tests.proxy.stage import FREE, MINI, Stage, ask, staged
from tests.upstreams import Behaviour

HEARING = "google/gemini-2.5-flash"
"""A token of sound costs more here than one of text."""

CLAUDE = "anthropic/claude-haiku-4.5"
SEARCHING = "perplexity/sonar"

EXTRAS: list[dict[str, Any]] = [
    {"plugins": [{"id": "web"}]},
    {"web_search_options": {}},
    {"service_tier": "priority"},
    {"tools": [{"type": "openrouter:web_search"}]},
]
MOST = "0.02"


async def spend(
    stage: Stage, behaviour: Behaviour, body: dict[str, Any], most: str = MOST
) -> tuple[list[int], Decimal]:
    """Ask ten times at once with a key that has a budget; return the statuses, and what is booked."""
    key = await stage.gateway.key(role=Role.PREMIUM, totalBudget=most)
    stage.openrouter.script.enqueue(*[behaviour] * 10)
    answers = await asyncio.gather(*(stage.gateway.chat(key, body) for _ in range(10)))
    costs = [event["costUsd"].to_decimal() for event in await stage.gateway.events()]
    return sorted(answer.status_code for answer in answers), sum(costs, Decimal(0))


@pytest.mark.parametrize("extras", EXTRAS, ids=[next(iter(extras)) for extras in EXTRAS])
async def test_what_has_no_bound_is_refused_to_a_budget(mongodb_uri: str, extras: dict[str, Any]) -> None:
    """Nobody knows what an extra costs before it was billed: a key with a budget cannot ask for one, others can."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM, totalBudget=MOST)
        refused = await stage.gateway.chat(key, ask(MINI, **extras))
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "extras_not_bounded"
        assert next(iter(extras)) in refused.json()["error"]["message"]
        assert len(stage.openrouter.books) == 0
        free_of_it = await stage.gateway.key(role=Role.PREMIUM)
        assert (await stage.gateway.chat(free_of_it, ask(MINI, **extras))).status_code == 200


async def test_an_extra_behind_an_alias_is_one(mongodb_uri: str) -> None:
    """What costs extra does so too where the operator's own name for a model brings it, and not the caller's words."""
    aliases = {"searching": (f"openrouter/{MINI}:online",), "finding": (f"{FREE}:online",)}
    async with staged(mongodb_uri, aliases=aliases) as stage:
        statuses, booked = await spend(stage, Behaviour(), ask("searching"))
        assert (statuses, booked) == ([400] * 10, Decimal(0))
        rich, poor = await stage.gateway.key(role=Role.PREMIUM), await stage.gateway.key()
        assert (await stage.gateway.chat(rich, ask("searching"))).status_code == 200
        assert (await stage.gateway.chat(poor, ask("finding"))).status_code == 403
        assert (await stage.gateway.chat(poor, ask(FREE))).status_code == 200


async def test_what_the_operator_bounds_is_held(mongodb_uri: str) -> None:
    """With a bound, each request holds it, and a budget is not overspent by the many that come at once."""
    limits = Limits(extras_usd=Decimal("0.009"))
    async with staged(mongodb_uri, limits=limits) as stage:
        slow = Behaviour(delay_headers=0.3, cost=Decimal("0.008"))
        statuses, booked = await spend(stage, slow, ask(MINI, max_tokens=20, plugins=[{"id": "web"}]))
        assert statuses == [200] * 2 + [402] * 8
        assert booked == Decimal("0.016")


async def test_a_search_that_nobody_asked_for_is_held(mongodb_uri: str) -> None:
    """A model that searches the web in every answer bills that in every one, and holds it."""
    async with staged(mongodb_uri) as stage:
        slow = Behaviour(delay_headers=0.3, web_searches=1)
        statuses, booked = await spend(stage, slow, ask(SEARCHING, max_tokens=20))
        assert statuses == [200] * 3 + [402] * 7
        assert Decimal("0.015") < booked <= Decimal(MOST)
        assert not any(event["overHold"] for event in await stage.gateway.events())


@pytest.mark.parametrize(
    ("tokens", "fields"),
    [(72, {}), (400, {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]})],
    ids=["template", "tools"],
)
async def test_what_a_provider_adds_to_a_prompt_is_held(
    mongodb_uri: str, tokens: int, fields: dict[str, Any]
) -> None:
    """What a chat template says of its own, and what Claude gets told about tools, are tokens of the prompt as well."""
    async with staged(mongodb_uri) as stage:
        slow = Behaviour(delay_headers=0.3, text="yes " * 16, prompt_tokens=tokens)
        statuses, booked = await spend(stage, slow, ask(CLAUDE, "hi", max_tokens=16, **fields), most="0.0035")
        assert 200 in statuses
        assert booked <= Decimal("0.0035")
        assert not any(event["overHold"] for event in await stage.gateway.events())


async def test_sound_is_held_at_its_own_price(mongodb_uri: str) -> None:
    """A clip of as many tokens as one may have never costs more than what was held for it."""
    async with staged(mongodb_uri) as stage:
        clip = {"type": "input_audio", "input_audio": {"data": "eHh4", "format": "mp3"}}
        body = {**ask(HEARING, max_tokens=20), "messages": [{"role": "user", "content": [clip]}]}
        slow = Behaviour(delay_headers=0.3, prompt_tokens=19_000, cost=Decimal("0.0195"))
        statuses, booked = await spend(stage, slow, body)
        assert statuses.count(402) == 10 - statuses.count(200)
        assert booked <= Decimal(MOST)
        assert not any(event["overHold"] for event in await stage.gateway.events())


async def test_a_prediction_is_held_as_output(mongodb_uri: str) -> None:
    """What a model does not take over of a predicted answer is billed as output: the hold covers each of its bytes."""
    async with staged(mongodb_uri) as stage:
        words = {"type": "content", "content": "a " * 1_000}
        slow = Behaviour(delay_headers=0.3, completion_tokens=1_000, cost=Decimal("0.0008"))
        statuses, booked = await spend(stage, slow, ask(MINI, max_tokens=20, prediction=words), most="0.003")
        assert statuses.count(402) == 10 - statuses.count(200) > 5
        assert booked <= Decimal("0.003")
        assert not any(event["overHold"] for event in await stage.gateway.events())
