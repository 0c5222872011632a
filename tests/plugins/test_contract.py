"""The contract: values that nobody changes, and a law about what a plugin may know."""

from __future__ import annotations

import ast
import sys
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

import plugins
from plugins import contract
from plugins.values import Value

SOURCES = sorted(Path(plugins.__file__).parent.glob("*.py"))
FORBIDDEN = {"asyncio", "datetime", "os", "random", "socket", "time", "uuid"}
CLASSES = [
    each
    for each in vars(contract).values()
    if isinstance(each, type) and each.__module__ == contract.__name__ and not issubclass(each, Enum)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_the_contract_has_values_and_protocols(kind: type) -> None:
    """Whatever is exchanged with a plugin is a value, which nobody changes."""
    assert issubclass(kind, Value) or getattr(kind, "_is_protocol", False)


def test_unknown_is_not_zero() -> None:
    """A price says nothing of what it does not name, and a usage has no cost unless one is given."""
    price = contract.Price(Decimal(1), Decimal(2))
    assert (price.cache_read, price.cache_write, price.image_output, price.web_search) == (None,) * 4
    assert contract.Usage(1, 2).cost is None


@pytest.mark.parametrize("odd", [Decimal(-1), Decimal("NaN"), Decimal("Infinity"), 0.5, "1"])
def test_a_price_is_an_amount(odd: Any) -> None:
    """A price below zero would credit whoever asks; what is no Decimal would be rounded, or break a request."""
    for make in (
        lambda: contract.Price(odd, Decimal(0)),
        lambda: contract.Price(Decimal(0), Decimal(0), web_search=odd),
        lambda: contract.PriceOverride(1, completion=odd),
    ):
        with pytest.raises(ValueError, match="a price is a Decimal of at least 0, and "):
            make()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_plugins_are_pure(source: Path) -> None:
    """A plugin imports nothing but other plugins, msgspec, orjson and a standard library without clock or network."""
    tree = ast.parse(source.read_text())
    names = [each.module or "" for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)]
    names += [name.name for each in ast.walk(tree) if isinstance(each, ast.Import) for name in each.names]
    roots = {name.partition(".")[0] for name in names}
    assert roots <= (sys.stdlib_module_names - FORBIDDEN) | {"msgspec", "orjson", "plugins"}
