"""Tests of proxy/core/pricing.py: money is right to the last digit, and a hold is never below the bill."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugins.contract import ModelInfo, Offering, Price, PriceOverride, ProviderOptions, Usage
from plugins.openrouter import OpenRouter as Plugin
from proxy.core.pricing import (
    MOST_COST,
    ZERO,
    CostSource,
    charge,
    charge_said,
    cost_of,
    dearest,
    effective,
    from_pico,
    surcharge,
    to_pico,
    version,
    worst_case,
)
from tests.upstreams import OpenRouter

FIXTURES = Path(__file__).parent / "fixtures"
VECTORS: list[dict[str, Any]] = json.loads((FIXTURES / "usage_cost_vectors.json").read_text())["vectors"]
SIMPLE = Price(Decimal("0.000002"), Decimal("0.000006"))
USED = Usage(1000, 100)
MODEL = ModelInfo("a/b", "B", SIMPLE)

money = st.decimals(0, 1, places=9)
maybe_money = st.none() | money
tokens = st.integers(0, 400_000)
overrides = st.builds(
    PriceOverride,
    min_prompt_tokens=tokens,
    prompt=maybe_money,
    completion=maybe_money,
    cache_read=maybe_money,
    cache_write=maybe_money,
    cache_write_1h=maybe_money,
)
prices = st.builds(
    Price,
    prompt=money,
    completion=money,
    cache_read=maybe_money,
    cache_write=maybe_money,
    cache_write_1h=maybe_money,
    request=money,
    audio=maybe_money,
    image_output=maybe_money,
    audio_output=maybe_money,
    discount=st.decimals(0, 1, places=2),
    overrides=st.lists(overrides, max_size=3).map(
        lambda found: tuple(sorted(found, key=lambda each: each.min_prompt_tokens))
    ),
)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    prompt, completion = draw(tokens), draw(tokens)
    cached = draw(st.integers(0, prompt))
    written = draw(st.integers(0, prompt - cached))
    heard = draw(st.integers(0, completion))
    return Usage(
        prompt,
        completion,
        cached,
        written,
        draw(st.integers(0, completion)),
        cache_write_1h_tokens=draw(st.integers(0, written)),
        audio_tokens=draw(st.integers(0, prompt)),
        audio_output_tokens=heard,
        image_output_tokens=draw(st.integers(0, completion - heard)),
    )


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["model"])
def test_what_was_really_billed(vector: dict[str, Any]) -> None:
    """The table gives what live answers said that inference cost, exactly; the provider's own figure wins over it."""
    pricing = {name: Decimal(value) for name, value in vector["pricing"].items()}
    price = Price(pricing["prompt"], pricing["completion"], cache_read=pricing.get("input_cache_read"))
    usage = Usage(**vector["usage"])
    assert cost_of(price, usage) == Decimal(vector["upstream_total"])
    assert cost_of(price, replace(usage, completion_tokens=0)) == Decimal(vector["upstream_prompt"])
    billed = replace(
        usage, cost=Decimal(vector["billed_cost"]), upstream_cost=Decimal(vector["upstream_total"])
    )
    made = charge(replace(MODEL, price=price), billed, None, declared_free=False)
    assert (made.cost, made.source, made.estimated) == (
        Decimal(vector["billed_cost"]),
        CostSource.PROVIDER,
        False,
    )


def test_parts_of_the_prompt_are_not_paid_twice() -> None:
    """Cached and written tokens are parts of the prompt with prices of their own, or the prompt's where there is none."""
    price = replace(SIMPLE, cache_read=Decimal("0.0000002"), cache_write=Decimal("0.0000025"))
    usage = Usage(1000, 100, cached_tokens=600, cache_write_tokens=300, reasoning_tokens=90)
    assert cost_of(price, usage) == Decimal("0.00167")
    assert cost_of(SIMPLE, usage) == cost_of(SIMPLE, USED) == Decimal("0.0026")
    lasting = replace(usage, cache_write_1h_tokens=100)
    assert cost_of(replace(price, cache_write_1h=Decimal("0.000004")), lasting) == Decimal("0.00182")
    assert cost_of(price, lasting) == Decimal("0.00167")
    fee = replace(SIMPLE, request=Decimal("0.005"), web_search=Decimal("0.01"), discount=Decimal("0.5"))
    assert cost_of(fee, replace(USED, web_searches=2)) == Decimal("0.0138")


def test_an_override_begins_above_its_threshold() -> None:
    """An override counts for a prompt strictly longer than its threshold, field by field, the last one winning."""
    price = replace(
        SIMPLE,
        overrides=(
            PriceOverride(272_000, prompt=Decimal(4), cache_read=Decimal(1), cache_write_1h=Decimal(8)),
            PriceOverride(500_000, prompt=Decimal(9), completion=Decimal(7)),
        ),
    )
    assert effective(price, 272_000).prompt == SIMPLE.prompt
    longer = effective(price, 272_001)
    assert (longer.prompt, longer.completion) == (Decimal(4), SIMPLE.completion)
    assert (longer.cache_read, longer.cache_write_1h) == (Decimal(1), Decimal(8))
    longest = effective(price, 500_001)
    assert (longest.prompt, longest.completion, longest.cache_read) == (Decimal(9), Decimal(7), Decimal(1))


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(10, 5, cost=ZERO), "0"),
        (Usage(10, 5, cost=Decimal("0.0000057915"), upstream_cost=Decimal("0.00000585")), "0.0000057915"),
        (Usage(10, 5, cost=Decimal("0.95"), upstream_cost=Decimal(19), is_byok=True), "19.95"),
        (Usage(10, 5, cost=Decimal("0.95"), is_byok=True), "0.95"),
    ],
)
def test_the_providers_figure_wins(usage: Usage, cost: str) -> None:
    """What the provider debits is the cost, be it 0; with the owner's own key at the backing both parts are."""
    made = charge(MODEL, usage, None, declared_free=True)
    assert (made.cost, made.source, made.estimated) == (Decimal(cost), CostSource.PROVIDER, False)


def test_whoever_served_sets_the_price() -> None:
    """The backing's own price is exact; an unknown backing, or one without a price, is charged the highest, as an estimate."""
    cheap = Price(Decimal("0.000001"), Decimal("0.000001"))
    model = replace(MODEL, offerings=(Offering("groq", cheap), Offering("fireworks", None)))
    for backing, cost, estimated in (
        ("groq", cost_of(cheap, USED), False),
        ("fireworks", cost_of(SIMPLE, USED), True),
        ("nobody", cost_of(SIMPLE, USED), True),
        (None, cost_of(SIMPLE, USED), True),
    ):
        made = charge(model, USED, backing, declared_free=False)
        assert (made.cost, made.source, made.estimated) == (cost, CostSource.PRICE_TABLE, estimated)


def test_an_absurd_figure_is_no_figure() -> None:
    """A cost above what any answer can cost is a mistake: the table decides, as an estimate, or nobody can tell."""
    billed = replace(USED, cost=MOST_COST + 1)
    made = charge(MODEL, billed, None, declared_free=False)
    assert (made.cost, made.source, made.estimated) == (cost_of(SIMPLE, USED), CostSource.PRICE_TABLE, True)
    assert charge(MODEL, replace(USED, cost=MOST_COST), None, declared_free=False).cost == MOST_COST
    for wild in (Usage(10**10, 0), Usage(10**10, 0, cost=MOST_COST * 2)):
        unknown = charge(MODEL, wild, None, declared_free=False)
        assert (unknown.cost, unknown.source, unknown.estimated) == (None, CostSource.UNKNOWN, True)


def test_what_a_provider_says_is_bounded_as_a_whole() -> None:
    """The fee and what the owner's own key has paid are one cost: a sum that is absurd is not taken over either."""
    paid = replace(USED, cost=Decimal(1), upstream_cost=Decimal(2), is_byok=True)
    assert charge(MODEL, paid, None, declared_free=False).cost == 3
    absurd = replace(paid, upstream_cost=MOST_COST)
    assert charge_said(absurd) is None
    assert charge(MODEL, absurd, None, declared_free=False).source is CostSource.PRICE_TABLE
    assert charge_said(replace(absurd, is_byok=False)) is not None


def test_no_price_is_not_free_by_accident() -> None:
    """Without any price the cost is unknown, unless the operator has declared the provider free."""
    unknown = charge(replace(MODEL, price=None), USED, None, declared_free=False)
    assert (unknown.cost, unknown.source, unknown.estimated) == (None, CostSource.UNKNOWN, True)
    declared = charge(replace(MODEL, price=None), USED, None, declared_free=True)
    assert (declared.cost, declared.source) == (ZERO, CostSource.DECLARED)
    known = charge(MODEL, USED, None, declared_free=True)
    assert (known.cost, known.source) == (cost_of(SIMPLE, USED), CostSource.PRICE_TABLE)


@given(price=prices, usage=usages(), others=st.lists(prices, max_size=2))
def test_a_hold_covers_every_bill(price: Price, usage: Usage, others: list[Price]) -> None:
    """Whatever part of the prompt is cached, however long it is: the hold is at least what the table asks."""
    hold = dearest([*others, price])
    assert hold is not None
    bill, sound = cost_of(price, usage), usage.audio_tokens * surcharge(hold.prompt, hold.audio)
    assert 0 <= bill <= worst_case(hold, usage.prompt_tokens, usage.completion_tokens) + sound
    media = max(price.completion, price.image_output or ZERO, price.audio_output or ZERO)
    assert hold.completion >= media


def test_sound_that_is_written_into_a_cache_is_held_for_both() -> None:
    """Such a token costs what writing costs and what sound costs beside text, which may be cheapest in a long prompt."""
    price = replace(SIMPLE, prompt=Decimal(2), cache_write=Decimal(5), audio=Decimal(7))
    hold = dearest([price, SIMPLE])
    assert hold is not None
    usage = Usage(1, 0, cache_write_tokens=1, audio_tokens=1)
    assert cost_of(price, usage) == hold.prompt + surcharge(hold.prompt, hold.audio) == 10
    cheaper = replace(price, overrides=(PriceOverride(min_prompt_tokens=0, prompt=Decimal(1)),))
    hold = dearest([cheaper])
    assert hold is not None
    assert cost_of(cheaper, usage) == hold.prompt + surcharge(hold.prompt, hold.audio) == 11


@given(price=prices, small=usages(), more=st.integers(0, 1000))
def test_a_hold_grows_with_its_bounds(price: Price, small: Usage, more: int) -> None:
    """A larger bound never makes a smaller hold."""
    hold = dearest([price])
    assert hold is not None
    assert worst_case(hold, small.prompt_tokens, small.completion_tokens) <= worst_case(
        hold, small.prompt_tokens + more, small.completion_tokens + more
    )


def test_the_dearest_of_unknown_prices_is_unknown() -> None:
    """One price that nobody knows makes the whole unknown, and so does none at all."""
    assert dearest([SIMPLE, None]) is None
    assert dearest([]) is None


@given(st.integers(-(10**18), 10**18))
def test_counters_keep_money_exactly(pico: int) -> None:
    """Pico-dollars go to dollars and back without loss."""
    assert to_pico(from_pico(pico)) == pico


def test_money_is_rounded_half_to_even() -> None:
    """Half a pico-dollar goes to the even side, so that many roundings do not drift."""
    assert [to_pico(Decimal(text)) for text in ("0.5e-12", "1.5e-12", "2.5e-12", "2.51e-12")] == [0, 2, 2, 3]


def test_a_price_table_has_a_name() -> None:
    """Equal prices have one version, any change makes another, and no price has none."""
    assert version(SIMPLE) == version(Price(Decimal("0.000002"), Decimal("0.000006")))
    assert version(SIMPLE) != version(replace(SIMPLE, request=Decimal(1)))
    assert version(replace(SIMPLE, overrides=(PriceOverride(1),))) != version(SIMPLE)
    assert version(None) is None


def test_every_price_of_the_catalogue_covers_the_simulators_bill() -> None:
    """For each model of three real catalogues, the hold of a long and of a short prompt covers a cached, written bill."""
    plugin = Plugin(ProviderOptions("openrouter"))
    body = json.dumps(OpenRouter().catalogue.listing()).encode()
    for model in plugin.read_models(body):
        hold = dearest([model.price])
        if model.price is None or hold is None:
            assert hold is model.price
            continue
        for size in (10, 200_001, 272_001, 1_000_001):
            for usage in (Usage(size, 500), Usage(size, 500, size // 2, size // 4)):
                assert cost_of(model.price, usage) <= worst_case(hold, size, 500), model.id


def test_sound_and_pictures_have_prices_of_their_own() -> None:
    """Their tokens are parts of the whole, and cost what the table says of them; without such a price they are text."""
    price = replace(
        SIMPLE, audio=Decimal("0.00004"), audio_output=Decimal("0.00008"), image_output=Decimal(1)
    )
    mixed = replace(USED, audio_tokens=200, audio_output_tokens=30, image_output_tokens=1)
    text = cost_of(SIMPLE, replace(USED, prompt_tokens=800, completion_tokens=69))
    assert cost_of(price, mixed) == text + 200 * Decimal("0.00004") + 30 * Decimal("0.00008") + 1
    assert cost_of(SIMPLE, mixed) == cost_of(SIMPLE, USED)
