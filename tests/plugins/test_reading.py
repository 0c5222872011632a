"""Tests of plugins/reading.py: what counts of a number that a provider has written."""

from __future__ import annotations

from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.reading import amount, count, usage
from tests.plugins import recordings


def test_numbers_are_bounded() -> None:
    """A number with more digits than arithmetic keeps, or written with an absurd exponent, is none."""
    assert amount("0." + "1" * 29) is None
    assert amount("1e999999999999999999999") is None
    assert amount("-0.0") == Decimal(0)
    assert str(amount("0E-999999")) == "0"
    assert count(1e300) is None
    assert count(True) is None


@recordings.PATIENT
@given(st.decimals(min_value=0, max_value=1000, places=12))
def test_amounts_survive_floats(cost: Decimal) -> None:
    """Any amount in pico-dollars up to a thousand dollars survives the way through a JSON number."""
    assert amount(orjson.loads(format(cost, "f"))) == cost


def test_parts_never_exceed_their_whole() -> None:
    """Sound and pictures are parts of the prompt and the completion, whatever a record says of them."""
    record = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"audio_tokens": 90},
        "completion_tokens_details": {"audio_tokens": 40, "image_tokens": 7},
    }
    read = usage(record)
    assert read is not None
    assert (read.audio_tokens, read.audio_output_tokens, read.image_output_tokens) == (90, 40, 7)
    record |= {"prompt_tokens": 30, "completion_tokens_details": {"audio_tokens": 45, "image_tokens": 45}}
    read = usage(record)
    assert read is not None
    assert (read.audio_tokens, read.audio_output_tokens, read.image_output_tokens) == (30, 45, 5)
    nonsense = usage({**record, "prompt_tokens_details": {"audio_tokens": "many"}})
    assert nonsense is not None
    assert nonsense.audio_tokens == 0


@pytest.mark.parametrize(
    ("counts", "completion", "reasoning"),
    [
        ((32, 9, 135, 94, 0), 103, 94),  # xAI's own example
        ((21, 0, 81, 60, 0), 60, 60),
        ((20, 424, 1016, None, 0), 996, 0),  # Google's endpoint for OpenAI's SDKs
        ((20, 424, 444, 94, 0), 424, 94),
        ((20, 424, 538, 90, 0), 424, 90),
        ((20, 424, 1444, None, 1000), 424, 0),
        ((20, 424, 20, 94, 0), 424, 94),
        ((20, 424, 10**11, None, 0), 424, 0),
        ((20, 424, "many", 94, 0), 424, 94),
    ],
)
def test_reasoning_beside_the_completion(
    counts: tuple[int, int, object, int | None, int], completion: int, reasoning: int
) -> None:
    """Reasoning that a provider counts beside the completion, as its total shows, is output as well, and once."""
    prompt, said, total, thought, cached = counts
    record = {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": total}
    record |= {"prompt_tokens_details": {"cached_tokens": cached}}
    read = usage({**record, "completion_tokens_details": {"reasoning_tokens": thought}})
    assert read is not None
    assert (read.prompt_tokens, read.completion_tokens, read.reasoning_tokens) == (
        prompt,
        completion,
        reasoning,
    )
