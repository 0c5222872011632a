"""Money: what a usage record costs at a price, and what a request can cost at most.

The rules are those that OpenRouter's and Hugging Face's own bills follow: cached and cache-write tokens are
parts of the prompt and have prices of their own, reasoning tokens are already inside the completion, a
provider's own figure beats every table. All amounts are `Decimal` USD; `to_pico` is the one place where money
is rounded, for the integer counters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from decimal import Decimal
from enum import StrEnum

from msgspec.structs import replace

from plugins.contract import ModelInfo, Price, Usage
from plugins.values import Value

ZERO = Decimal(0)
MOST_COST = Decimal(10_000)
"""What one answer can cost in USD: a figure above is a provider's mistake, and would not fit the integer counters."""

_PICO = Decimal(10) ** 12


class CostSource(StrEnum):
    """Where an event's cost comes from, best first."""

    PROVIDER = "provider"
    PRICE_TABLE = "price_table"
    DECLARED = "declared"
    NOTHING_SERVED = "nothing_served"
    UNKNOWN = "unknown"


_PROVIDER = CostSource.PROVIDER  # asked for by the class, a member takes ten times as long


class Charge(Value, frozen=True, array_like=True):
    """What one answer costs, and how we know. `cost` is `None` only when nobody can tell."""

    cost: Decimal | None
    source: CostSource
    estimated: bool


def to_pico(usd: Decimal) -> int:
    """Convert USD to whole pico-dollars (10^-12 USD), half to even: the unit of every counter."""
    return round(usd * _PICO)


def from_pico(pico: int) -> Decimal:
    """Convert pico-dollars back to USD."""
    return Decimal(pico) / _PICO


def cost_of(price: Price, usage: Usage) -> Decimal:
    """Compute the cost of `usage` from a price table."""
    price = effective(price, usage.prompt_tokens)
    uncached = usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens
    write = _either(price.cache_write, price.prompt)
    # Only Anthropic's API tells apart what was written for an hour; where nobody does, all counts as written for minutes.
    lasting = usage.cache_write_1h_tokens
    total = (
        uncached * price.prompt
        + usage.cached_tokens * _either(price.cache_read, price.prompt)
        + (usage.cache_write_tokens - lasting) * write
        + lasting * _either(price.cache_write_1h, write)
        + usage.audio_tokens * surcharge(price.prompt, price.audio)
        + usage.completion_tokens * price.completion
        + usage.audio_output_tokens * surcharge(price.completion, price.audio_output)
        + usage.image_output_tokens * surcharge(price.completion, price.image_output)
        + price.request
        + usage.web_searches * _either(price.web_search, ZERO)
    )
    return total * (1 - price.discount)


def surcharge(text: Decimal, other: Decimal | None) -> Decimal:
    """Return what a token of sound or of a picture costs more than one of text, which is all that can be told of it."""
    return ZERO if other is None or other < text else other - text


def effective(price: Price, prompt_tokens: int) -> Price:
    """Apply the overrides that a prompt of this length triggers; a later one wins, field by field."""
    for override in price.overrides:
        if prompt_tokens > override.min_prompt_tokens:
            price = replace(
                price,
                prompt=_either(override.prompt, price.prompt),
                completion=_either(override.completion, price.completion),
                cache_read=_first(override.cache_read, price.cache_read),
                cache_write=_first(override.cache_write, price.cache_write),
                cache_write_1h=_first(override.cache_write_1h, price.cache_write_1h),
            )
    return price


def charge(model: ModelInfo, usage: Usage, backing: str | None, *, declared_free: bool) -> Charge:
    """Decide what an answer costs: the provider's figure, else the table of whoever served it.

    Without the name of the backing, or without a price of its own, the model's price (the highest among its
    backings) is an upper bound and marked as an estimate, and so is the table's figure where the provider's own is
    absurd. `declared_free` is the operator's word that a model
    without any price costs nothing.
    """
    said = charge_said(usage)
    if said is not None:
        return said
    for offering in model.offerings:
        if offering.backing == backing and offering.price is not None:
            return _by_table(offering.price, usage, estimated=usage.cost is not None)
    if model.price is not None:
        return _by_table(model.price, usage, estimated=bool(model.offerings) or usage.cost is not None)
    if declared_free:
        return Charge(ZERO, CostSource.DECLARED, estimated=False)
    return Charge(None, CostSource.UNKNOWN, estimated=True)


def charge_said(usage: Usage) -> Charge | None:
    """Return what the provider itself says that an answer costs; `None` if it says nothing, or something absurd."""
    if usage.cost is None:
        return None
    # With the owner's own key at the backing (BYOK) `cost` is the router's fee alone.
    own = usage.upstream_cost if usage.is_byok and usage.upstream_cost is not None else ZERO
    cost = usage.cost + own
    return None if cost > MOST_COST else Charge(cost, _PROVIDER, estimated=False)


def _by_table(price: Price, usage: Usage, *, estimated: bool) -> Charge:
    cost = cost_of(price, usage)
    if cost > MOST_COST:
        return Charge(None, CostSource.UNKNOWN, estimated=True)
    return Charge(cost, CostSource.PRICE_TABLE, estimated=estimated)


def dearest(prices: Iterable[Price | None]) -> Price | None:
    """Return the price that is, field by field, the highest that can apply, or `None` if one is unknown.

    A token of sound may be written into a cache as well: its price is the dearest prompt's and, on top, the most that
    sound comes to beside text.
    """
    known: list[Price] = []
    for price in prices:
        if price is None:
            return None
        known.append(price)
    if not known:
        return None
    prompt, sound = max(map(_dearest_prompt, known)), max(map(_dearest_sound, known))
    return Price(
        prompt=prompt,
        completion=max(map(_dearest_completion, known)),
        request=max(price.request for price in known),
        audio=prompt + sound if sound else None,
    )


def worst_case(price: Price, prompt_tokens: int, output_tokens: int) -> Decimal:
    """Return the most that a request can cost at a price made by `dearest`."""
    return prompt_tokens * price.prompt + output_tokens * price.completion + price.request


def version(price: Price | None) -> str | None:
    """Name a price table by its content, so that an event says which one it was charged by."""
    if price is None:
        return None
    text = repr([(name, str(getattr(price, name))) for name in price.__struct_fields__])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _dearest_prompt(price: Price) -> Decimal:
    candidates = [price.prompt, price.cache_read, price.cache_write, price.cache_write_1h]
    for override in price.overrides:
        candidates += [
            override.prompt,
            override.cache_read,
            override.cache_write,
            override.cache_write_1h,
        ]
    return max(candidate for candidate in candidates if candidate is not None)


def _dearest_sound(price: Price) -> Decimal:
    texts = [price.prompt, *(each.prompt for each in price.overrides if each.prompt is not None)]
    return surcharge(min(texts), price.audio)


def _dearest_completion(price: Price) -> Decimal:
    # Pictures and sound that a model makes count as completion tokens, at prices of their own.
    candidates = [price.completion, price.image_output, price.audio_output]
    candidates += [override.completion for override in price.overrides]
    return max(candidate for candidate in candidates if candidate is not None)


def _either(value: Decimal | None, default: Decimal) -> Decimal:
    return default if value is None else value


def _first(value: Decimal | None, default: Decimal | None) -> Decimal | None:
    return default if value is None else value
