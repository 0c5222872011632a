"""The chat API: what a request for a completion asks for, as OpenAI spells it and OpenRouter adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from plugins.contract import Api, Provider, Translator
from proxy.core import fields
from proxy.core.answer import WholeAnswer, read_answer
from proxy.core.answer_stream import AnswerStream
from proxy.core.api import ApiRequest
from proxy.core.prompt import measure
from proxy.core.stream import ChatStream
from proxy.core.translation import TranslatedStream, translate
from proxy.errors import GatewayError, InvalidRequest, openai_body

MAX_CHOICES = 128
"""The most choices (`n`) that OpenAI's API accepts."""


class ChatForm:
    """`POST /chat/completions`."""

    api = Api.CHAT

    def read(self, body: dict[str, Any]) -> ApiRequest:
        """Read a decoded request."""
        model, models = fields.model(body), fields.models(body)
        messages = fields.messages(body)
        stream = fields.boolean(body, "stream")
        return ApiRequest(
            form=self,
            body=body,
            model=model,
            models=models,
            stream=stream,
            include_usage=_include_usage(body, stream=stream),
            max_tokens=_max_tokens(body),
            choices=fields.integer(body, "n", most=MAX_CHOICES) or 1,
            prompt=measure(messages, body, besides=frozenset({"messages"})),
            paid_extras=fields.paid_extras(body, (model, *models)),
        )

    def stream(self, provider: Provider, request: ApiRequest, translator: Translator | None) -> AnswerStream:
        """Begin to read chunks."""
        choices, include_usage = request.choices, request.include_usage
        if translator is None:
            return ChatStream(provider, choices=choices, include_usage=include_usage)
        return TranslatedStream(provider, translator, choices=choices, include_usage=include_usage)

    def read_answer(self, provider: Provider, body: bytes, translator: Translator | None) -> WholeAnswer:
        """Read a completion."""
        return read_answer(provider, body if translator is None else translate(translator, body))

    def error_body(self, error: GatewayError, request_id: str | None) -> dict[str, Any]:  # noqa: ARG002  Anthropic's has it
        """Render OpenAI's error object."""
        return openai_body(error)

    def error_event(self, error: GatewayError, request_id: str | None, *, number: int) -> bytes:  # noqa: ARG002  likewise
        """Render it as a chunk, on which OpenAI's SDKs raise."""
        return b"data: %b\n\n" % orjson.dumps(openai_body(error))


CHAT = ChatForm()


def _include_usage(body: Mapping[str, Any], *, stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        # OpenRouter's own spelling of the same wish.
        usage = body.get("usage")
        return stream and isinstance(usage, dict) and usage.get("include") is True
    if not isinstance(options, dict):
        raise InvalidRequest("`stream_options` must be an object.", param="stream_options")
    if not stream:
        raise InvalidRequest(
            "`stream_options` is only allowed when `stream` is true.", param="stream_options"
        )
    return fields.boolean(options, "include_usage")


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    old = fields.integer(body, "max_tokens", most=fields.MOST_TOKENS)
    new = fields.integer(body, "max_completion_tokens", most=fields.MOST_TOKENS)
    if old is not None and new is not None and old != new:
        raise InvalidRequest(
            "`max_tokens` and `max_completion_tokens` must not contradict each other; send one of them.",
            param="max_tokens",
        )
    return new if old is None else old
