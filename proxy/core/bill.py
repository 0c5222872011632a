"""What an exchange used and costs: the provider's usage record where there is one, else a marked estimate."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from plugins.contract import Usage
from plugins.values import Value
from proxy.core import limits, pricing
from proxy.core.answer_stream import text_bytes
from proxy.core.pricing import ZERO, Charge, CostSource
from proxy.core.routing import Entry

_MOST_TOKENS: Final = 10**10
_INTEGERS: Final = (int,) * 10


class Counted(Value, frozen=True, array_like=True):
    """The tokens of a request; `cached` and `cache_write` are parts of `prompt`, `reasoning` of `completion`.

    The others are those that few requests have, each with a price of its own: parts of `cache_write`, of `prompt`, and
    two of `completion`.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0
    cache_write_1h: int = 0
    audio: int = 0
    audio_output: int = 0
    image_output: int = 0

    @property
    def total(self) -> int:
        """Return what counts against a token limit."""
        return self.prompt + self.completion


class Served(Value, frozen=True):
    """What came back from a provider: its usage record, or what we saw go by.

    Of a whole answer that is its `output`, measured only where there is no record: it takes 1 % of a chat's bytecodes.
    """

    usage: Usage | None = None
    backing: str | None = None
    deltas: int = 0
    output_bytes: int = 0
    output: Sequence[Any] = ()

    def measured(self) -> tuple[int, int]:
        """Return the deltas, of which a whole answer with text is one, and the UTF-8 bytes of the text in them."""
        whole = sum(map(text_bytes, self.output))
        return self.deltas + (whole > 0), self.output_bytes + whole


class Bill(Value, frozen=True, array_like=True):
    """The tokens and the cost of one exchange."""

    tokens: Counted
    charge: Charge


NOTHING = Bill(Counted(), Charge(ZERO, CostSource.NOTHING_SERVED, estimated=False))


def bill(entry: Entry, served: Served, *, prompt_estimate: int, most_output: int, has_failed: bool) -> Bill:
    """Make the bill of an exchange with `entry`.

    `has_failed` means that the provider itself reported an error; it does not bill for one without an answer.
    An answer that was cut before its usage record, or has one that makes no sense, is estimated from the prompt and from
    what has arrived of it, which may be pictures or vectors, so not above the output cap that it was asked for with.
    """
    usage = served.usage
    if usage is not None and _makes_sense(usage):
        return Bill(counted(usage), _charge(entry, usage, served.backing))
    deltas, output_bytes = served.measured()
    if has_failed and not deltas:
        return NOTHING
    completion = min(limits.completion_estimate(deltas, output_bytes), most_output)
    guess = Usage(prompt_estimate, completion)
    charge = _charge(entry, guess, served.backing)
    return Bill(counted(guess), Charge(charge.cost, charge.source, estimated=True))


def _makes_sense(usage: Usage) -> bool:
    """Say whether anybody can have counted that: a plugin may believe whatever it is told."""
    counts = (
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.reasoning_tokens,
        usage.web_searches,
        usage.audio_tokens,
        usage.audio_output_tokens,
        usage.image_output_tokens,
    )
    # Every bill asks this, and three loops of the interpreter's own take a third of one of ours.
    if tuple(map(type, counts)) != _INTEGERS or min(counts) < 0 or max(counts) > _MOST_TOKENS:
        return False
    if usage.cached_tokens + usage.cache_write_tokens > usage.prompt_tokens:
        return False
    if usage.cache_write_1h_tokens > usage.cache_write_tokens:
        return False
    return _is_amount(usage.cost) and _is_amount(usage.upstream_cost)


def _is_amount(value: Decimal | None) -> bool:
    return value is None or (type(value) is Decimal and value.is_finite() and value >= ZERO)


def _charge(entry: Entry, usage: Usage, backing: str | None) -> Charge:
    return pricing.charge(entry.info, usage, backing, declared_free=entry.is_declared_free)


def counted(usage: Usage) -> Counted:
    """Take over the tokens of a usage record."""
    return Counted(
        prompt=usage.prompt_tokens,
        completion=usage.completion_tokens,
        cached=usage.cached_tokens,
        cache_write=usage.cache_write_tokens,
        reasoning=usage.reasoning_tokens,
        cache_write_1h=usage.cache_write_1h_tokens,
        audio=usage.audio_tokens,
        audio_output=usage.audio_output_tokens,
        image_output=usage.image_output_tokens,
    )
