"""What an API is to the gateway: how its requests are read, its answers followed, and its errors said.

Everything else in a request passes untouched, known to us or not. What is checked fails with one sentence that
names the field.
"""

from __future__ import annotations

from typing import Any, Protocol

from plugins.contract import Api, Provider, Translator
from plugins.values import Value
from proxy.core import fields
from proxy.core.answer import WholeAnswer
from proxy.core.answer_stream import AnswerStream
from proxy.core.prompt import Prompt
from proxy.errors import GatewayError


class ApiRequest(Value, frozen=True):
    """One request of any API, as far as it is routed, billed or answered by.

    `max_tokens` is the caller's output cap of each of `choices` answers: `None` if he names none, 0 where there is
    no output to bill.
    """

    form: Form
    body: dict[str, Any]
    model: str
    models: tuple[str, ...]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    choices: int
    prompt: Prompt
    paid_extras: tuple[str, ...]


class Form(Protocol):
    """The form of one API's requests, answers and errors."""

    api: Api

    def read(self, body: dict[str, Any]) -> ApiRequest:
        """Read a decoded request; raise `InvalidRequest` for the first thing that is wrong with it."""

    def stream(self, provider: Provider, request: ApiRequest, translator: Translator | None) -> AnswerStream:
        """Begin to read a streamed answer; no bytes of a provider make it raise."""

    def read_answer(self, provider: Provider, body: bytes, translator: Translator | None) -> WholeAnswer:
        """Read the body of a 200; no bytes of a provider make it raise."""

    def error_body(self, error: GatewayError, request_id: str | None) -> dict[str, Any]:
        """Render an error as the body of an answer."""

    def error_event(self, error: GatewayError, request_id: str | None, *, number: int) -> bytes:
        """Render an error as the event that ends a stream, after `number` events."""


def parse(form: Form, raw: bytes) -> ApiRequest:
    """Read a request body; raise `InvalidRequest` for the first thing that is wrong with it."""
    return form.read(fields.decode(raw))
