"""Tests of proxy/core/routing.py: a name leads to its targets, and only to those that its caller may use."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.contract import ModelInfo, Price, ProviderOptions
from plugins.huggingface import HuggingFace
from plugins.openrouter import OpenRouter
from proxy.core import api
from proxy.core.chat import CHAT
from proxy.core.routing import (
    Catalogue,
    Entry,
    Member,
    Role,
    Target,
    Tier,
    Way,
    Ways,
    may_use,
    route,
    unpriced,
    with_native_models,
)
from proxy.errors import NotFound, PaidModel, PermissionDenied, Unavailable

PROVIDERS = {
    "openrouter": OpenRouter(ProviderOptions("openrouter")),
    "huggingface": HuggingFace(ProviderOptions("huggingface")),
}


parse = partial(api.parse, CHAT)


def entry(provider: str, model: str, tier: Tier = Tier.FREE, **values: Any) -> Entry:
    return Entry(provider, ModelInfo(model, model, None), tier, **values)


CATALOGUE = Catalogue(
    PROVIDERS,
    {
        "openrouter": {
            each.info.id: each
            for each in (
                entry("openrouter", "a/paid", Tier.PAID),
                entry("openrouter", "a/paid:free"),
                entry("openrouter", "both/have", Tier.PAID),
                entry("openrouter", "a/off", is_available=False),
                entry("openrouter", "openrouter/auto", Tier.PAID),
            )
        },
        "huggingface": {
            each.info.id: each for each in (entry("huggingface", "h/free"), entry("huggingface", "both/have"))
        },
    },
    {
        "best": (Member("a/paid"), Member("h/free", {"idle": 5})),
        "deep": (Member("best"),),
        "h/free": (Member("a/paid:free"),),
    },
)


WAYS = Ways(CATALOGUE)


def named(
    model: str, role: Role = Role.PREMIUM, allowed: Sequence[str] | None = None, **fields: Any
) -> list[str]:
    """Route a request, and return its targets as `provider>model`."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
    targets = route(
        parse(orjson.dumps(body)), CATALOGUE, role, None if allowed is None else frozenset(allowed)
    )
    return [f"{target.entry.provider}>{target.model}" for target in targets]


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        ("a/paid", ["openrouter>a/paid"]),
        ("openrouter/a/paid", ["openrouter>a/paid"]),
        ("a/paid:nitro", ["openrouter>a/paid:nitro"]),
        ("openrouter/a/paid:nitro", ["openrouter>a/paid:nitro"]),
        ("a/paid:free", ["openrouter>a/paid:free"]),
        ("a/paid:free:nitro", ["openrouter>a/paid:free:nitro"]),
        ("openrouter/auto", ["openrouter>openrouter/auto"]),
        ("both/have", ["openrouter>both/have", "huggingface>both/have"]),
        ("huggingface/both/have", ["huggingface>both/have"]),
        ("both/have:groq", ["huggingface>both/have:groq"]),
        ("huggingface/both/have:groq", ["huggingface>both/have:groq"]),
        ("best", ["openrouter>a/paid", "huggingface>h/free"]),
        ("h/free", ["openrouter>a/paid:free"]),
        ("huggingface/h/free", ["huggingface>h/free"]),
    ],
)
def test_a_name_leads_to_its_targets(model: str, targets: list[str]) -> None:
    """Aliases first, then exact ids in the order of the providers, then prefixes, then known suffixes."""
    assert named(model) == targets


@pytest.mark.parametrize(
    "model",
    [
        "nobody",
        "a/off",
        "deep",
        "A/PAID",
        "huggingface/a/paid",
        "openrouter/",
        "a/paid:unknown:nitro",
        "a/paid ",
        "both/have:free:x:y",
    ],
)
def test_what_nobody_has_is_not_found(model: str) -> None:
    """Unknown and unavailable ids, an alias of an alias, another case: none of them is guessed at."""
    with pytest.raises(NotFound) as caught:
        named(model)
    assert caught.value.error_code == "model_not_found"


def test_every_id_passes_the_same_checks() -> None:
    """`models` may name what `model` may, each target once, and one that is forbidden forbids the whole."""
    assert named("h/free", models=["h/free", "a/paid:free", "both/have"]) == [
        "openrouter>a/paid:free",
        "openrouter>both/have",
        "huggingface>both/have",
    ]
    for role, wish, error in (
        (Role.USER, {"models": ["a/paid"]}, PaidModel),
        (Role.USER, {"models": ["nobody"]}, NotFound),
        (Role.USER, {"plugins": [{"id": "web"}]}, PaidModel),
    ):
        with pytest.raises(error):
            named("h/free", role, **wish)
    with pytest.raises(PermissionDenied):
        named("h/free", Role.ADMIN, ["a/paid:free"], models=["a/paid"])


def test_a_free_user_gets_the_free_part() -> None:
    """Of several providers or members, a free user gets those that are free."""
    assert named("both/have", Role.USER) == ["huggingface>both/have"]
    assert named("best", Role.USER) == ["huggingface>h/free"]
    with pytest.raises(PaidModel) as caught:
        named("a/paid", Role.USER)
    assert caught.value.details == {"requiredPlan": "premium"}


@given(
    model=st.sampled_from(
        ["a/paid", "both/have", "openrouter/auto", "best", "h/free", "a/paid:free", "nobody"]
    ),
    prefix=st.sampled_from(["", "openrouter/", "huggingface/"]),
    suffix=st.sampled_from(["", ":nitro", ":floor", ":groq", ":online", ":free", ":thinking"]),
    more=st.lists(st.sampled_from(["a/paid", "both/have", "h/free", "best"]), max_size=3),
)
def test_no_spelling_leads_a_free_user_to_a_paid_model(
    model: str, prefix: str, suffix: str, more: list[str]
) -> None:
    """However a model is spelled, and whatever stands in `models`, a free user is served by free entries alone."""
    body = {
        "model": f"{prefix}{model}{suffix}",
        "models": more,
        "messages": [{"role": "user", "content": "hi"}],
    }
    asked = parse(orjson.dumps(body))
    with suppress(NotFound, PermissionDenied):
        # What somebody else was told must not be what he is told.
        _ = WAYS.find(asked, Role.ADMIN, None)
    try:
        targets = route(asked, CATALOGUE, Role.USER, None)
    except (NotFound, PermissionDenied) as refusal:
        with pytest.raises(type(refusal)):
            WAYS.find(asked, Role.USER, None)
        return
    assert targets
    assert all(target.entry.tier is Tier.FREE for target in targets)
    assert WAYS.find(asked, Role.USER, None).targets == tuple(targets)


def test_a_way_tells_what_holds_for_all_of_its_targets() -> None:
    """It holds the dearest price and the largest bounds, and what is unknown of one is unknown of all."""
    sizes = {"small": (100, 10, "1"), "large": (200, 5, "2"), "vague": (None, 7, None)}
    entries = {
        name: Entry(
            "openrouter",
            ModelInfo(
                name,
                name,
                None if price is None else Price(Decimal(price), Decimal(3)),
                context_length=context,
                max_output_tokens=most,
            ),
            Tier.FREE,
        )
        for name, (context, most, price) in sizes.items()
    }
    ways = Ways(Catalogue(PROVIDERS, {"openrouter": entries}))

    def found(*models: str) -> Way:
        body = {"model": models[0], "models": models[1:], "messages": [{"role": "user", "content": "hi"}]}
        return ways.find(parse(orjson.dumps(body)), Role.USER, None)

    both = found("small", "large")
    assert (both.context_length, both.max_output_tokens) == (200, 10)
    assert both.price == Price(Decimal(2), Decimal(3))
    all_three = found("small", "large", "vague")
    assert (all_three.context_length, all_three.max_output_tokens, all_three.price) == (None, 10, None)
    assert found("small") is found("small")


def test_only_so_many_ways_are_kept() -> None:
    """Names that many callers may use, each in his own way, do not fill the memory."""
    asked = parse(orjson.dumps({"model": "h/free", "messages": [{"role": "user", "content": "hi"}]}))
    ways = Ways(CATALOGUE)
    first = ways.find(asked, Role.USER, frozenset({"h/free"}))
    for number in range(1_000):
        assert ways.find(asked, Role.USER, frozenset({"h/free", str(number)})).targets == first.targets
    assert ways.find(asked, Role.USER, frozenset({"h/free"})) is not first


def test_a_key_may_name_models_in_any_way() -> None:
    """A key's allowed models are matched by the asked name, by the id, and by provider and id."""
    for allowed in (["a/paid"], ["openrouter/a/paid"], ["best"]):
        expected = named("best", allowed=["best"]) if allowed == ["best"] else ["openrouter>a/paid"]
        assert named("best", allowed=allowed) == expected
    assert named("both/have", allowed=["huggingface/both/have"]) == ["huggingface>both/have"]
    with pytest.raises(PermissionDenied):
        named("a/paid", allowed=[])
    assert not may_use(CATALOGUE.entries["openrouter"]["a/paid"], Role.USER, None, "a/paid")
    assert may_use(CATALOGUE.entries["huggingface"]["h/free"], Role.USER, frozenset({"x"}), "x")


def test_without_any_catalogue_nobody_is_told_that_a_model_does_not_exist() -> None:
    """Before any provider's list has been read, every model is unavailable rather than unknown."""
    empty = Catalogue(PROVIDERS, {"openrouter": {}, "huggingface": {}})
    body = orjson.dumps({"model": "a/paid", "messages": [{"role": "user"}]})
    with pytest.raises(Unavailable):
        route(parse(body), empty, Role.ADMIN, None)


def test_the_first_provider_shadows_the_others() -> None:
    """A list has each id once, of the first provider that has it, and nothing that is off."""
    assert [(each.provider, each.info.id) for each in CATALOGUE.all()] == [
        ("openrouter", "a/paid"),
        ("openrouter", "a/paid:free"),
        ("openrouter", "both/have"),
        ("openrouter", "openrouter/auto"),
        ("huggingface", "h/free"),
    ]


def test_models_in_a_providers_own_words() -> None:
    """`models` goes on with the ids of the target's provider, from this target on, and vanishes where none is left."""
    mine, other, theirs = (
        Target(CATALOGUE.entries[provider][model], model)
        for provider, model in (
            ("openrouter", "a/paid"),
            ("openrouter", "both/have"),
            ("huggingface", "h/free"),
        )
    )
    targets = (mine, theirs, other)
    wish = {"model": "best", "models": ["huggingface/h/free", "openrouter/both/have"], "x": 1}
    assert with_native_models(wish, targets, mine) == {"model": "best", "models": ["both/have"], "x": 1}
    assert with_native_models(wish, targets, theirs) == {"model": "best", "x": 1}
    assert with_native_models(wish, targets, other) == {"model": "best", "x": 1}
    named_too = {"models": ["a/paid", "both/have"]}
    assert with_native_models(named_too, (mine, other), mine) == named_too
    plain = {"model": "a/paid"}
    assert with_native_models(plain, targets, mine) is plain


def test_a_model_without_a_price_is_named() -> None:
    """The refusal of an unpriced model on a key with a budget names the model."""
    assert unpriced("a/b").error_code == "model_not_priced"
