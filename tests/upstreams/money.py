"""Money is Decimal USD from the price list to the books; a float exists only in the JSON on the wire."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from tests.upstreams.behaviour import Behaviour
from tests.upstreams.tokens import Tokens

MILLION = Decimal(1_000_000)
BYOK_FEE = Decimal("0.05")
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Bill:
    """What one generation costs: `cost` is billed to the account, `upstream` is what inference cost; None is unknown."""

    cost: Decimal | None
    upstream: Decimal | None = None
    prompt: Decimal = ZERO
    completion: Decimal = ZERO


FREE = Bill(ZERO, ZERO)
UNPRICED = Bill(None)


def price_at(pricing: Mapping[str, Any], prompt_tokens: int) -> dict[str, Decimal]:
    """Return OpenRouter's prices that hold for a prompt of this length, later overrides winning."""
    prices = {name: Decimal(text) for name, text in pricing.items() if isinstance(text, str)}
    for override in pricing.get("overrides") or ():
        if prompt_tokens > override.get("min_prompt_tokens", -1):
            prices |= {name: Decimal(text) for name, text in override.items() if isinstance(text, str)}
    return prices


def openrouter_bill(
    pricing: Mapping[str, Any], tokens: Tokens, behaviour: Behaviour, *, one_hour_cache: bool, searches: int
) -> Bill:
    """Price tokens as OpenRouter does: cached and written tokens are parts of the prompt."""
    prices = price_at(pricing, tokens.prompt)
    read = prices.get("input_cache_read", prices["prompt"])
    write = prices.get("input_cache_write", prices["prompt"])
    if one_hour_cache:
        write = prices.get("input_cache_write_1h", write)
    uncached = tokens.prompt - tokens.cached - tokens.cache_write
    prompt = uncached * prices["prompt"] + tokens.cached * read + tokens.cache_write * write
    completion = tokens.completion * prices["completion"]
    extra = prices.get("request", ZERO) + searches * prices.get("web_search", ZERO)
    discount = 1 - (behaviour.discount or Decimal(str(pricing.get("discount") or 0)))
    upstream = prompt + completion + extra
    return Bill(_billed(upstream, behaviour, discount), upstream, prompt, completion)


def per_million_bill(pricing: Mapping[str, Any] | None, tokens: Tokens, behaviour: Behaviour) -> Bill:
    """Price tokens by `input` and `output` USD per million; without prices the cost is unknown."""
    if not pricing:
        return UNPRICED if behaviour.cost is None else Bill(behaviour.cost)
    prompt = tokens.prompt * Decimal(str(pricing["input"])) / MILLION
    completion = tokens.completion * Decimal(str(pricing["output"])) / MILLION
    upstream = prompt + completion
    return Bill(_billed(upstream, behaviour, 1 - behaviour.discount), upstream, prompt, completion)


def produced(tokens: Tokens, completion: int) -> Tokens:
    """Return the tokens of a generation that was stopped after `completion` tokens."""
    return replace(tokens, completion=completion, reasoning=min(tokens.reasoning, completion))


def _billed(upstream: Decimal, behaviour: Behaviour, share: Decimal) -> Decimal:
    if behaviour.cost is not None:
        return behaviour.cost
    return upstream * (BYOK_FEE if behaviour.byok else share)


def number(amount: Decimal | None) -> float | int | None:
    """Print money as JavaScript would: a JSON number with the shortest digits."""
    if amount is None:
        return None
    return int(amount) if amount == amount.to_integral_value() else float(amount)
