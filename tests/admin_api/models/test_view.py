"""Tests of admin_api/models/view.py."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from admin_api.models.view import capabilities_of, category_of, price_per_thousand, view_model
from plugins.contract import ModelInfo, Price
from proxy.core.routing import Entry, Tier


def model(name: str = "org/model-8b", **fields: Any) -> ModelInfo:
    return ModelInfo(**{"id": name, "name": name, "price": None, **fields})


@pytest.mark.parametrize(
    ("name", "taken", "made", "category"),
    [
        ("org/plain", ("text",), ("text",), "text-only"),
        ("org/eyes", ("text", "image"), ("text",), "multimodal"),
        ("org/reader", ("text", "file"), ("text",), "multimodal"),
        ("org/painter", ("text",), ("image", "text"), "image"),
        ("org/speaker", ("text",), ("text", "audio"), "audio"),
        ("org/listener", ("audio",), ("text",), "audio"),
        ("qwen/qwen3-coder", ("text",), ("text",), "code"),
        ("openai/gpt-5-codex", ("text", "image"), ("text",), "code"),
        ("mistralai/codestral-2508", ("text",), ("text",), "code"),
        ("org/decoder-free", ("text",), ("text",), "code"),
        ("org/encodes", ("text",), ("text",), "text-only"),
    ],
)
def test_categories(name: str, taken: tuple[str, ...], made: tuple[str, ...], category: str) -> None:
    """What a model makes decides its category, then what it is for, then what it takes."""
    assert category_of(model(name, input_modalities=taken, output_modalities=made)) == category


def test_capabilities() -> None:
    """Capabilities are what a model takes or makes, and tools where the provider names them."""
    able = model(input_modalities=("text", "image", "video"), supported_parameters=("tools",))
    assert capabilities_of(able) == {
        "text": True,
        "image": True,
        "audio": False,
        "video": True,
        "code": False,
        "function_calling": True,
    }


def test_prices() -> None:
    """Prices per token are shown per 1,000 and per million, exactly; what is not known is null and never 0."""
    price = Price(Decimal("0.0000025"), Decimal("0.00001"), image=Decimal("0.003"), request=Decimal("0.01"))
    info = model(price=price, created=5, max_output_tokens=7, context_length=9)
    shown = view_model(Entry("p", info, Tier.PAID), "org/model-8b", usage=3, is_favorite=True, can_use=False)
    assert shown["pricing"] == {
        "input": 0.0025,
        "output": 0.01,
        "image": 0.003,
        "audio": 0.0,
        "unit": "USD per 1K tokens",
        "currency": "USD",
        "inputPerMillion": 2.5,
        "outputPerMillion": 10.0,
        "perRequest": 0.01,
    }
    assert shown["limits"] == {"maxTokens": 7, "contextLength": 9, "rateLimit": None}
    assert shown["metadata"]["parameterCount"] == "8B"
    assert (shown["isFavorite"], shown["canUse"], shown["tier"]) == (True, False, "paid")
    unknown = view_model(Entry("p", model(), Tier.FREE), "x", usage=0, is_favorite=False, can_use=True)
    assert unknown["pricing"]["input"] is None
    assert unknown["pricing"]["inputPerMillion"] is None
    assert price_per_thousand(model()) is None
