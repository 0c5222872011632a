"""Limits: what a request may take of each, in which window, and what is held for its worst case.

A window is a part of a counter's name, in UTC, so nothing is ever reset: tomorrow has another counter.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from plugins.contract import Api, Price
from plugins.values import Value
from proxy.core.api import ApiRequest
from proxy.core.pricing import ZERO, surcharge
from proxy.core.prompt import size

TOKENS_PER_MESSAGE = 16
"""Upper bound of what a chat template adds around one message."""

TEMPLATE_TOKENS = 512
"""Upper bound of what it says of its own: 72 for `hi` to gpt-oss (Groq), some 500 where Mistral Small gets no system message."""

FEWEST_TOKENS = 16
"""Some providers refuse a smaller output cap, and nobody can use a smaller answer."""

_BYTES_PER_TOKEN = 4
# Asked for by the class, a member takes ten times as long as by a name.
_EMBEDDINGS = Api.EMBEDDINGS


class UserLimits(Value, frozen=True):
    """What a user may use: requests a day and a month, tokens (prompt and completion) a month."""

    daily_requests: int
    monthly_requests: int
    monthly_tokens: int


class MediaTokens(Value, frozen=True):
    """The operator's upper bounds for one image, one audio clip and one file in a prompt, in tokens."""

    image: int
    audio: int
    file: int


def day_ends(now: datetime) -> datetime:
    """Return the start of the next UTC day."""
    return datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=1)


def month_ends(now: datetime) -> datetime:
    """Return the start of the next UTC month."""
    year, month = (now.year + 1, 1) if now.month == 12 else (now.year, now.month + 1)  # noqa: PLR2004
    return datetime(year, month, 1, tzinfo=UTC)


def prompt_bound(request: ApiRequest, context_length: int | None, media: MediaTokens) -> int:
    """Return the most tokens that the prompt can have."""
    prompt = request.prompt
    bound = (
        prompt.text_bytes
        + prompt.messages * TOKENS_PER_MESSAGE
        + prompt.images * media.image
        + prompt.audios * media.audio
        + prompt.files * media.file
        + TEMPLATE_TOKENS * (request.form.api is not _EMBEDDINGS)
    )
    return _readable(bound, request, context_length)


def surcharges(request: ApiRequest, price: Price, media: MediaTokens) -> Decimal:
    """Return what a prompt may cost in USD beyond the price of text, for which it is held.

    Sound has a price of its own. What a model does not take over of a `prediction` is billed as output (OpenAI's guide
    on predicted outputs).
    """
    more, sounds, prediction = ZERO, request.prompt.audios, request.body.get("prediction")
    if sounds:
        more += sounds * media.audio * surcharge(price.prompt, price.audio)
    if prediction is not None:
        more += size(prediction) * request.choices * surcharge(price.prompt, price.completion)
    return more


def prompt_estimate(request: ApiRequest, context_length: int | None, media: MediaTokens) -> int:
    """Return a fair guess of the prompt's tokens, for answers that come without a usage record."""
    prompt = request.prompt
    guess = (
        -(-prompt.text_bytes // _BYTES_PER_TOKEN)
        + prompt.messages * _BYTES_PER_TOKEN
        + prompt.images * media.image
        + prompt.audios * media.audio
        + prompt.files * media.file
    )
    return _readable(guess, request, context_length)


def output_wish(request: ApiRequest, most: int | None, default: int, context_length: int | None) -> int:
    """Return the output cap of one choice: the caller's, else the smallest of the model's, the default and what has room."""
    if request.max_tokens is not None:
        return request.max_tokens if most is None else min(request.max_tokens, most)
    default = default if most is None else min(default, most)
    return default if context_length is None else min(default, _room(request, context_length))


def _room(request: ApiRequest, context_length: int) -> int:
    """Return what a context most probably has left beside a prompt: servers refuse a cap that does not fit (vLLM).

    Of pictures and files only the upper bounds are known, so they are not counted.
    """
    text = -(-request.prompt.text_bytes // _BYTES_PER_TOKEN)
    left = context_length - text - text // 2 - request.prompt.messages * TOKENS_PER_MESSAGE - TEMPLATE_TOKENS
    return max(left, context_length // 4, 1)


def completion_estimate(deltas: int, output_bytes: int) -> int:
    """Return a fair guess of the tokens in a stream that was cut before its usage record."""
    return max(deltas, -(-output_bytes // _BYTES_PER_TOKEN))


def _readable(tokens: int, request: ApiRequest, context_length: int | None) -> int:
    """Return how many of so many tokens a model reads: of a chat what its context holds, of texts to embed that of each."""
    if context_length is None:
        return tokens
    return min(tokens, context_length * (request.prompt.messages if request.form.api is _EMBEDDINGS else 1))
