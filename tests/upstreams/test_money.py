"""Tokens are never more than bytes, and prices are right to the last digit of every capture."""

import json
from decimal import Decimal
from typing import Any

import pytest

from tests.upstreams import Behaviour
from tests.upstreams.failure import FIXTURES
from tests.upstreams.money import openrouter_bill
from tests.upstreams.tokens import Tokens, count, split


@pytest.mark.parametrize("text", ["", "a", "plain words", "नमस्ते दुनिया", "🍝🍝", "aé" * 9])
def test_tokens_are_never_more_than_bytes(text: str) -> None:
    """A text splits into whole tokens, fewer than or as many as its bytes."""
    assert "".join(split(text)) == text
    assert len(split(text)) == count(text) <= len(text.encode())


@pytest.mark.parametrize("vector", json.loads((FIXTURES / "usage_cost_vectors.json").read_text())["vectors"])
def test_cost_equals_every_captured_vector(vector: dict[str, Any]) -> None:
    """The simulator prices every captured usage object to the last digit."""
    used = vector["usage"]
    tokens = Tokens(
        used["prompt_tokens"], used["completion_tokens"], used["cached_tokens"], used["cache_write_tokens"]
    )
    bill = openrouter_bill(vector["pricing"], tokens, Behaviour(), one_hour_cache=False, searches=0)
    assert bill.upstream == Decimal(vector["upstream_total"])
    if bill.upstream != Decimal(vector["billed_cost"]):
        saved = openrouter_bill(
            vector["pricing"], tokens, Behaviour(discount=Decimal("0.01")), one_hour_cache=False, searches=0
        )
        assert saved.cost == Decimal(vector["billed_cost"])
