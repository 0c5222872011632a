"""A whole chat completion: what the body of a provider's 200 says, and whether it is an answer at all.

The counterpart of `proxy.core.stream` for requests that do not stream. The body goes to the client as it is, so
only what is billed or recorded is read; no bytes of a provider make it raise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from plugins.contract import Failure, FailureKind, Provider, Usage
from proxy.core.stream import text_bytes

NOT_JSON: Final = Failure(FailureKind.PROVIDER, "The provider's answer is not JSON.")
NO_CHOICES: Final = Failure(FailureKind.PROVIDER, "The provider's answer has no choices.")


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """What a body says; `output_bytes` are the UTF-8 bytes of the text in its choices."""

    failure: Failure | None = None
    usage: Usage | None = None
    backing: str | None = None
    served_model: str | None = None
    upstream_id: str | None = None
    output_bytes: int = 0


def read_answer(provider: Provider, body: bytes) -> WholeAnswer:
    """Read the body of a 200; `failure` says what is wrong with it, the rest is what it tells nevertheless."""
    try:
        frame = orjson.loads(body)
    except orjson.JSONDecodeError:
        return WholeAnswer(NOT_JSON)
    if not isinstance(frame, dict):
        return WholeAnswer(NOT_JSON)
    choices = frame.get("choices")
    choices = choices if isinstance(choices, list) else []
    messages = [choice.get("message") for choice in choices if isinstance(choice, dict)]
    failure = provider.read_error(frame)
    if failure is None and not messages:
        failure = NO_CHOICES
    return WholeAnswer(
        failure=failure,
        usage=provider.read_usage(frame),
        backing=provider.read_backing(frame),
        served_model=_name(frame.get("model")),
        upstream_id=_name(frame.get("id")),
        output_bytes=sum(map(text_bytes, messages)),
    )


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
