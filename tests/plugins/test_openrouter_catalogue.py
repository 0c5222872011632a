"""The catalogue of OpenRouter: what a model costs, at worst, and what is free."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.contract import ModelInfo, Price, PriceOverride, ProviderOptions
from plugins.openrouter import OpenRouter, read_price
from tests.plugins import recordings

ROUTER = OpenRouter(ProviderOptions("openrouter"))
CATALOGUES = [
    "openrouter_models_2026-01-29_request_fee.json",
    "openrouter_models_2026-05-01.json",
    "openrouter_models_2026-10-02.json",
]


def models_of(fixture: str) -> dict[str, ModelInfo]:
    """Read a recorded catalogue."""
    body = (recordings.FIXTURES / fixture).read_bytes()
    return {model.id: model for model in ROUTER.read_models(body)}


def price_of(**pricing: Any) -> Price | None:
    """Read prices, with harmless ones where none are given."""
    return read_price({"prompt": "0.000002", "completion": "0.00001", **pricing})


@pytest.mark.parametrize("fixture", CATALOGUES)
def test_catalogue_is_read_whole(fixture: str) -> None:
    """Every record of a recorded catalogue becomes a model with its own prices, but for the variable ones."""
    models = models_of(fixture)
    records = recordings.read(fixture)["data"]
    assert list(models) == [record["id"] for record in records]
    for record in records:
        price = models[record["id"]].price
        if record["pricing"]["prompt"] == "-1":
            assert price is None
        else:
            assert price is not None
            assert price.prompt == Decimal(record["pricing"]["prompt"])
            assert price.completion == Decimal(record["pricing"]["completion"])


@pytest.mark.parametrize("fixture", CATALOGUES)
def test_free_is_in_the_id(fixture: str) -> None:
    """A model is free by its id; a price of zero alone does not make it so."""
    for model in models_of(fixture).values():
        assert model.is_free is (model.id.endswith(":free") or model.id == "openrouter/free")
    zero = b'{"data": [{"id": "a/b", "pricing": {"prompt": "0", "completion": "0"}}]}'
    assert [model.is_free for model in ROUTER.read_models(zero)] == [False]


def test_record_is_read_whole() -> None:
    """A record gives everything that the gateway uses."""
    model = models_of("openrouter_models_2026-10-02.json")["openai/gpt-6.1-sol"]
    assert (model.name, model.created, model.owned_by) == ("OpenAI: GPT-6.1 Sol", 1790702882, "openai")
    assert (model.context_length, model.max_output_tokens) == (1_050_000, 128_000)
    assert model.input_modalities == ("file", "image", "text")
    assert "max_tokens" in model.supported_parameters
    assert model.price == Price(
        prompt=Decimal("0.000002"),
        completion=Decimal("0.00001"),
        cache_read=Decimal("0.0000001"),
        cache_write=Decimal("0.0000025"),
        web_search=Decimal("0.01"),
        overrides=(
            PriceOverride(
                272_000, Decimal("0.000004"), Decimal("0.000015"), Decimal("0.0000002"), Decimal("0.000005")
            ),
        ),
    )


@pytest.mark.parametrize(
    ("model", "request_fee", "search"),
    [
        ("perplexity/sonar-pro", "0.0051", None),
        ("openai/gpt-4o-search-preview", "0.0051", None),
        ("openai/gpt-4.1-mini", "0.0001", "0.005"),
        ("perplexity/sonar-deep-research", None, None),
        ("openai/o3-deep-research", None, None),
    ],
)
def test_searches_that_nobody_asked_for(model: str, request_fee: str | None, search: str | None) -> None:
    """A model that searches in every answer costs that in each; one that searches at will has no price to hold at."""
    prices = {"prompt": "0.000002", "completion": "0.000008", "request": "0.0001", "web_search": "0.005"}
    (found,) = ROUTER.read_models(orjson.dumps({"data": [{"id": model, "pricing": prices}]}))
    read = found.price and (found.price.request, found.price.web_search)
    assert read == (request_fee and (Decimal(request_fee), None if search is None else Decimal(search)))


def test_half_a_character_in_a_description() -> None:
    """A description that was cut in the middle of an emoji costs no other model its place in the list."""
    listed = rb'{"data":[{"id":"a/b","description":"Fast \ud83d...","pricing":{"prompt":"1e-7","completion":"0"}},{"id":"a/c"}]}'
    first, second = ROUTER.read_models(listed)
    assert first.price is not None
    assert (first.id, first.description, first.price.prompt, second.id) == (
        "a/b",
        "Fast ?...",
        Decimal("1e-7"),
        "a/c",
    )


def test_fees_and_long_caches() -> None:
    """The fee per request and the price of an hour's cache are read; an alias belongs to its author."""
    for catalogue in CATALOGUES[:2]:
        sonar = models_of(catalogue)["perplexity/sonar"]
        assert sonar.price is not None
        assert (sonar.price.request, sonar.price.web_search or 0) == (Decimal("0.005"), 0)
    recent = models_of("openrouter_models_2026-10-02.json")
    sonnet = recent["anthropic/claude-sonnet-5.5"].price
    assert sonnet is not None
    assert sonnet.cache_write_1h == Decimal("0.000004")
    assert recent["~openai/gpt-sol-latest"].owned_by == "openai"
    assert recent["openrouter/auto"].context_length == 2_000_000


@pytest.mark.parametrize(
    "pricing",
    [
        None,
        {},
        {"prompt": "0.1"},
        {"prompt": "-1", "completion": "-1"},
        {"prompt": "0.1", "completion": "-0.1"},
        {"prompt": "0.1", "completion": None},
        {"prompt": "0.1", "completion": "x"},
    ],
)
def test_unknown_price(pricing: Any) -> None:
    """A price that is missing, negative or no number is unknown, and the model stays in the list."""
    (model,) = ROUTER.read_models(orjson.dumps({"data": [{"id": "a/b", "pricing": pricing}]}))
    assert model.price is None


@pytest.mark.parametrize(
    "pricing",
    [
        {"request": "-1"},
        {"request": "much"},
        {"input_cache_write": "-1"},
        {"image": []},
        {"discount": 1.5},
        {"discount": -0.5},
        {"overrides": {"prompt": "0"}},
        {"overrides": ["x"]},
        {"overrides": [{"min_prompt_tokens": "many", "prompt": "0.1"}]},
        {"overrides": [{"min_prompt_tokens": 5, "prompt": "-1"}]},
    ],
)
def test_half_understood_price(pricing: dict[str, Any]) -> None:
    """A price of which a part is not understood is unknown, for its worst case is."""
    assert price_of(**pricing) is None


def test_price_in_full() -> None:
    """Every price that the contract has a word for is read, and an absent one is not zero."""
    price = price_of(image="0.001", audio="0.002", image_output="0.04", audio_output="0.05", discount=0.1)
    assert price is not None
    assert (price.image, price.audio, price.web_search) == (Decimal("0.001"), Decimal("0.002"), None)
    assert (price.image_output, price.audio_output) == (Decimal("0.04"), Decimal("0.05"))
    assert (price.discount, price.cache_read, price.overrides) == (Decimal("0.1"), None, ())


def test_overrides_ascend() -> None:
    """Overrides come out ascending and cumulative, whatever their order: the last that applies has it all."""
    given = [
        {"min_prompt_tokens": 500, "completion": "0.00004"},
        {"min_prompt_tokens": 200, "prompt": "0.000003"},
    ]
    price = price_of(overrides=given)
    assert price is not None
    assert price.overrides == (
        PriceOverride(200, Decimal("0.000003"), Decimal("0.00001")),
        PriceOverride(500, Decimal("0.000003"), Decimal("0.00004")),
    )


@pytest.mark.parametrize(
    ("override", "prompt"),
    [
        ({"utc_start": 100, "utc_end": 500, "prompt": "0.000001"}, "0.000002"),
        ({"utc_start": 100, "utc_end": 500, "prompt": "0.000005"}, "0.000005"),
        ({"utc_days": [6], "prompt": "0.000005"}, "0.000005"),
        ({"prompt": "0.000001"}, "0.000001"),
    ],
)
def test_time_windows(override: dict[str, Any], prompt: str) -> None:
    """A price for some hours counts where it is the higher one: a hold covers the whole day."""
    price = price_of(overrides=[override])
    assert price is not None
    assert (price.prompt, price.overrides) == (Decimal(prompt), ())


def test_time_window_of_a_cache_price() -> None:
    """A cheap cache price for some hours does not count where the prompt price holds for the others."""
    price = price_of(overrides=[{"utc_start": 1, "input_cache_read": "0.0000001"}])
    assert price is not None
    assert price.cache_read == Decimal("0.000002")


PRICES = st.integers(0, 9).map(str)
OVERRIDE = st.fixed_dictionaries(
    {},
    optional={
        "min_prompt_tokens": st.integers(0, 3),
        "utc_start": st.integers(0, 2359),
        "prompt": PRICES,
        "completion": PRICES,
    },
)


@recordings.PATIENT
@given(st.lists(OVERRIDE, max_size=5), st.integers(0, 5), st.lists(st.booleans(), min_size=5, max_size=5))
def test_no_time_of_day_is_dearer(overrides: list[dict[str, Any]], tokens: int, is_open: list[bool]) -> None:
    """Whichever time windows are open, the rules as published never cost more than the price that is read."""
    published = {"prompt": Decimal(5), "completion": Decimal(5)}
    for override, is_now in zip(overrides, is_open, strict=False):
        too_short = "min_prompt_tokens" in override and tokens <= override["min_prompt_tokens"]
        if not too_short and (is_now or "utc_start" not in override):
            published |= {key: Decimal(override[key]) for key in published if key in override}
    price = read_price({"prompt": "5", "completion": "5", "overrides": overrides})
    assert price is not None
    applied = [each for each in price.overrides if tokens > each.min_prompt_tokens]
    prompt = applied[-1].prompt if applied else price.prompt
    completion = applied[-1].completion if applied else price.completion
    assert prompt is not None
    assert completion is not None
    # A threshold of 0 is read as none, which an empty prompt alone could tell apart.
    if tokens:
        assert prompt >= published["prompt"]
        assert completion >= published["completion"]


@recordings.PATIENT
@given(recordings.BODIES | recordings.LISTS.map(lambda entries: orjson.dumps({"data": entries})))
def test_no_list_breaks_it(body: bytes) -> None:
    """A model list either is read or raises ValueError, and no price in it is negative."""
    try:
        models = ROUTER.read_models(body)
    except ValueError:
        return
    assert all(
        model.price is None or min(model.price.prompt, model.price.completion) >= 0 for model in models
    )
