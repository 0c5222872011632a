"""What a provider's JSON says: members, texts, counts, amounts, and the usage record.

Law: what makes no sense is unknown, and never an exception.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from plugins.contract import Json, Usage

T = TypeVar("T")

NOTHING, LEAST_USD, MOST_USD = Decimal(0), 1e-18, 1_000_000
LEAST_EXPONENT = -18
# The precision of Python's decimal context: arithmetic on an amount with more digits would round silently.
MOST_DIGITS = 28
MOST_TOKENS = 10**10
_NO_MEMBERS: Json = {}


def get(holder: object, key: str) -> Any:
    """Return a member of what may be an object."""
    return holder.get(key) if isinstance(holder, dict) else None


def text(value: object) -> str:
    """Return a text, or nothing for what is none."""
    return value if isinstance(value, str) else ""


def texts(value: object) -> tuple[str, ...]:
    """Return the texts in what may be a list."""
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def first(found: Iterable[T | None]) -> T | None:
    """Return the first that is known."""
    return next((each for each in found if each is not None), None)


def count(value: object) -> int | None:
    """Read a number of tokens, or return `None` for what cannot be one."""
    # The type itself, for a truth value is an int too.
    if type(value) is not int:
        if not isinstance(value, float) or not value.is_integer():
            return None
        value = int(value)
    return value if 0 <= value <= MOST_TOKENS else None


def amount(value: object) -> Decimal | None:
    """Read USD to the last digit, or return `None` for what cannot be an amount."""
    if isinstance(value, float):
        return _amount_of_float(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    try:
        read = Decimal(value)
    except InvalidOperation:
        return None
    if not read.is_finite() or not NOTHING <= read <= MOST_USD:
        return None
    is_short = len(read.as_tuple().digits) <= MOST_DIGITS
    return (read if is_short and read.adjusted() >= LEAST_EXPONENT else None) if read else NOTHING


def _amount_of_float(value: float) -> Decimal | None:
    if value == 0:
        return NOTHING
    # The repr of a float is the shortest text that reads back the same: the provider's own digits.
    return Decimal(repr(value)) if LEAST_USD <= value <= MOST_USD else None


def usage(record: object) -> Usage | None:
    """Read a usage record, with parts clamped to their wholes; one that lacks a count is none."""
    if not isinstance(record, dict):
        return None
    prompt, completion = count(record.get("prompt_tokens")), count(record.get("completion_tokens"))
    if prompt is None or completion is None:
        prompt, completion = _completed(prompt, completion, count(record.get("total_tokens")))
    if prompt is None or completion is None or prompt < 0 or completion < 0:
        return None
    details, output = _part(record, "prompt_tokens_details"), _part(record, "completion_tokens_details")
    cached = count(details.get("cached_tokens"))
    if cached is None:
        cached = _flat_cached(record)
    # Hardly any answer has what comes now, and what is not there is not worth a call.
    written, reasoned = details.get("cache_write_tokens"), output.get("reasoning_tokens")
    lasting = details.get("cache_write_1h_tokens")
    heard, said, seen = details.get("audio_tokens"), output.get("audio_tokens"), output.get("image_tokens")
    searches, upstream = record.get("server_tool_use_details"), record.get("cost_details")
    is_byok = record.get("is_byok") is True
    written = min(count(written) or 0, prompt) if written else 0
    if (total := record.get("total_tokens")) != prompt + completion:
        completion += _thought_beside(
            prompt + completion, count(total), count(reasoned) or 0, cached + written
        )
    spoken = min(count(said) or 0, completion) if said else 0
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=min(cached, prompt - written),
        cache_write_tokens=written,
        # Seen live: 2590 reasoning tokens in 2567 completion tokens.
        reasoning_tokens=min(count(reasoned) or 0, completion) if reasoned else 0,
        web_searches=(count(get(searches, "web_search_requests")) or 0) if searches else 0,
        cost=amount(record.get("cost")),
        upstream_cost=amount(get(upstream, "upstream_inference_cost")) if is_byok else None,
        is_byok=is_byok,
        audio_tokens=min(count(heard) or 0, prompt) if heard else 0,
        audio_output_tokens=spoken,
        image_output_tokens=min(count(seen) or 0, completion - spoken) if seen else 0,
        cache_write_1h_tokens=min(count(lasting) or 0, written) if lasting else 0,
    )


def _flat_cached(record: Json) -> int:
    """Find the cached tokens beside the other counts: Featherless writes cached_tokens, DeepSeek prompt_cache_hit_tokens."""
    return first(count(record.get(each)) for each in ("cached_tokens", "prompt_cache_hit_tokens")) or 0


def _completed(
    prompt: int | None, completion: int | None, total: int | None
) -> tuple[int | None, int | None]:
    """Work out the count that is missing, if the total and the other one are there."""
    if prompt is None and completion is not None and total is not None:
        return total - completion, completion
    if completion is None and prompt is not None and total is not None:
        return prompt, total - prompt
    return prompt, completion


def _thought_beside(told: int, total: int | None, reasoning: int, cached: int) -> int:
    """Work out the reasoning that xAI counts beside the completion, and Google in the total alone; both bill it as output."""
    unseen = 0 if total is None else max(0, total - told)
    # A total that counts cached tokens beside the prompt says nothing of the output.
    return unseen if unseen == reasoning or (not reasoning and unseen != cached) else 0


def _part(record: Json, key: str) -> Json:
    """Return a part of an object; one without members for what is none."""
    found = record.get(key)
    return found if isinstance(found, dict) else _NO_MEMBERS
