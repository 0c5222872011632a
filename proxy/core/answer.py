"""A whole answer: what the body of a provider's 200 says, and whether it is an answer at all.

The counterpart of `proxy.core.answer_stream` for requests that do not stream. The body goes to the client as it is,
so only what is billed or recorded is read; no bytes of a provider make it raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from plugins.contract import Failure, FailureKind, Json, Provider, Usage
from plugins.values import Value
from proxy.core.answer_stream import name_in, parse

NOT_JSON: Final = Failure(FailureKind.PROVIDER, "The provider's answer is not JSON.")
NO_CHOICES: Final = Failure(FailureKind.PROVIDER, "The provider's answer has no choices.")


class WholeAnswer(Value, frozen=True):
    """What a body says; `body` is what the client gets, `output` the messages or items in it that a model has written."""

    failure: Failure | None = None
    usage: Usage | None = None
    backing: str | None = None
    served_model: str | None = None
    upstream_id: str | None = None
    output: Sequence[Any] = ()
    body: bytes = b""


def frame_of(body: bytes) -> Json | None:
    """Decode a body; `None` if it is no JSON object."""
    frame = parse(body)
    return frame if isinstance(frame, dict) else None


def read_answer(provider: Provider, body: bytes) -> WholeAnswer:
    """Read a chat completion; `failure` says what is wrong with it, the rest is what it tells nevertheless."""
    frame = frame_of(body)
    if frame is None:
        return WholeAnswer(NOT_JSON)
    choices = frame.get("choices")
    choices = choices if isinstance(choices, list) else []
    messages = [choice.get("message") for choice in choices if isinstance(choice, dict)]
    return answer_of(provider, frame, body, output=messages, fault=None if messages else NO_CHOICES)


def answer_of(
    provider: Provider, frame: Json, body: bytes, *, output: Sequence[Any], fault: Failure | None
) -> WholeAnswer:
    """Read what every API's answers have in common; `fault` is what is wrong with this one if it names no error."""
    return WholeAnswer(
        failure=provider.read_error(frame) or fault,
        usage=provider.read_usage(frame),
        backing=name_in(provider.read_backing(frame)),
        served_model=name_in(frame.get("model")),
        upstream_id=name_in(frame.get("id")),
        output=output,
        body=body,
    )
