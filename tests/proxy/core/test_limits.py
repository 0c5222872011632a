"""Tests of proxy/core/limits.py: what a request may take at most, and what it probably takes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core import limits
from proxy.core.api import ApiRequest, parse
from proxy.core.chat import CHAT
from proxy.core.embeddings import EMBEDDINGS
from proxy.core.limits import MediaTokens

MEDIA = MediaTokens(image=6000, audio=20_000, file=100_000)


def request(content: Any = "hi", **fields: Any) -> ApiRequest:
    return parse(
        CHAT, orjson.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **fields})
    )


@given(st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001  made aware there
def test_windows_end_after_now(now: datetime) -> None:
    """A day ends within a day and a month within 31, at midnight UTC, and never at the moment itself."""
    for ends, most in ((limits.day_ends(now), 1), (limits.month_ends(now), 31)):
        assert timedelta(0) < ends - now <= timedelta(days=most)
        assert (ends.hour, ends.minute, ends.second, ends.microsecond, ends.tzinfo) == (0, 0, 0, 0, UTC)
    assert limits.month_ends(now).day == 1


def test_a_prompt_is_bounded_by_its_bytes_and_by_the_context() -> None:
    """No tokenizer makes more tokens than bytes, and no model reads more than its context."""
    asked = request("é" * 1000)
    assert limits.prompt_bound(asked, None, MEDIA) >= 2000 + limits.TOKENS_PER_MESSAGE
    assert limits.prompt_bound(asked, 512, MEDIA) == 512
    assert limits.prompt_bound(asked, 10**6, MEDIA) == limits.prompt_bound(asked, None, MEDIA)


def test_every_text_to_embed_has_a_context_of_its_own() -> None:
    """Many texts take many times what one takes, which the context bounds, in what is held and in what is guessed."""
    asked = EMBEDDINGS.read({"model": "m", "input": ["word " * 4_000] * 100})
    assert limits.prompt_bound(asked, 8_192, MEDIA) == 100 * 8_192
    assert (
        limits.prompt_bound(asked, 100_000, MEDIA) == limits.prompt_bound(asked, None, MEDIA) >= 100 * 20_000
    )
    assert (
        limits.prompt_estimate(asked, 8_192, MEDIA)
        == limits.prompt_estimate(asked, None, MEDIA)
        >= 100 * 5_000
    )


def test_media_have_bounds_of_their_own() -> None:
    """A picture, a clip and a file each add what the operator has configured."""
    parts: list[dict[str, Any]] = [{"type": kind, kind: {}} for kind in ("image_url", "input_audio", "file")]
    bare, full = request([]), request(parts)
    difference = limits.prompt_bound(full, None, MEDIA) - limits.prompt_bound(bare, None, MEDIA)
    assert 126_000 <= difference < 126_100


@given(text=st.text(max_size=2000), context=st.none() | st.integers(1, 10**6))
def test_an_estimate_is_never_above_the_bound(text: str, context: int | None) -> None:
    """What is guessed where a provider tells nothing is at most what was held."""
    asked = request(text.encode(errors="replace").decode())
    estimate = limits.prompt_estimate(asked, context, MEDIA)
    assert 0 < estimate <= limits.prompt_bound(asked, context, MEDIA)


def test_the_output_cap() -> None:
    """The caller's cap counts up to the model's own; without one, the smaller of the model's and the default."""
    for asked, most, expected in (
        (None, None, 4096),
        (None, 1000, 1000),
        (None, 235_929, 4096),
        (50, None, 50),
        (50, 10, 10),
        (200_000, 235_929, 200_000),
    ):
        assert limits.output_wish(request(max_tokens=asked), most, 4096, None) == expected
        assert limits.output_wish(request(max_tokens=asked), most, 4096, 128_000) == expected


@given(size=st.integers(1, 40_000), context=st.integers(1, 40_000), is_dense=st.booleans())
@example(size=32_248, context=16_388, is_dense=True)
def test_a_cap_that_nobody_named_fits_beside_the_prompt(*, size: int, context: int, is_dense: bool) -> None:
    """Where the caller names none, prompt and output fit into the context together, or a quarter of it is left at least."""
    asked = request("x" * size)
    cap = limits.output_wish(asked, None, 4096, context)
    tokens = size * 3 // 8 if is_dense else size // 4
    assert 1 <= cap <= 4096
    assert cap + tokens + 200 <= context or cap == max(1, min(4096, context // 4))
    assert cap >= min(4096, context // 4)
    assert limits.output_wish(request("x" * size, max_tokens=4096), None, 10, context) == 4096


@given(deltas=st.integers(0, 10**6), size=st.integers(0, 10**7))
def test_a_cut_answer_is_estimated(deltas: int, size: int) -> None:
    """An estimate has at least a token per piece, and one per four bytes."""
    estimate = limits.completion_estimate(deltas, size)
    assert estimate >= deltas
    assert (estimate - 1) * 4 < size or estimate == deltas
