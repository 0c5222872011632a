"""Anthropic's Messages API, passed through to providers that have it."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import orjson

from plugins.contract import Api, Failure, FailureKind, Json, Provider, Translator
from proxy.core import fields
from proxy.core.answer import NOT_JSON, WholeAnswer, answer_of, frame_of
from proxy.core.answer_stream import AnswerStream
from proxy.core.api import ApiRequest
from proxy.core.named_stream import NamedStream
from proxy.core.prompt import TOOL_PROMPT_TOKENS, Prompt, measure
from proxy.errors import GatewayError, InvalidRequest, anthropic_body

NO_CONTENT: Final = Failure(FailureKind.PROVIDER, "The provider's answer has no content.")

# Anthropic runs servers' tools and skills itself; `speed` and `inference_geo` have prices of their own.
_EXTRAS = ("plugins", "preset", "mcp_servers", "container", "speed", "inference_geo")
_DELTAS = ("text", "thinking", "partial_json")


class MessagesForm:
    """`POST /messages`."""

    api = Api.MESSAGES

    def read(self, body: dict[str, Any]) -> ApiRequest:
        """Read a decoded request."""
        model, models = fields.model(body), fields.models(body)
        messages = fields.messages(body)
        fields.text_or_parts(body, "system")
        cap = fields.integer(body, "max_tokens", most=fields.MOST_TOKENS)
        if cap is None:
            raise InvalidRequest("`max_tokens` is required.", param="max_tokens")
        return ApiRequest(
            form=self,
            body=body,
            model=model,
            models=models,
            stream=fields.boolean(body, "stream"),
            include_usage=True,
            max_tokens=cap,
            choices=1,
            prompt=_prompt(messages, body),
            paid_extras=fields.paid_extras(body, (model, *models), names=_EXTRAS),
        )

    def stream(
        self,
        provider: Provider,
        request: ApiRequest,  # noqa: ARG002  chat's alone
        translator: Translator | None,  # noqa: ARG002  likewise
    ) -> AnswerStream:
        """Begin to read events."""
        return MessagesStream(provider)

    def read_answer(self, provider: Provider, body: bytes, translator: Translator | None) -> WholeAnswer:  # noqa: ARG002  likewise
        """Read a message."""
        frame = frame_of(body)
        if frame is None:
            return WholeAnswer(NOT_JSON)
        content = frame.get("content")
        fault = None if isinstance(content, list) else NO_CONTENT
        output = content if isinstance(content, list) else []
        return answer_of(
            provider, {**frame, "usage": as_chat(frame.get("usage"))}, body, output=output, fault=fault
        )

    def error_body(self, error: GatewayError, request_id: str | None) -> dict[str, Any]:
        """Render Anthropic's error object."""
        return anthropic_body(error, request_id)

    def error_event(self, error: GatewayError, request_id: str | None, *, number: int) -> bytes:  # noqa: ARG002  Responses' has it
        """Render it as the event on which Anthropic's SDKs raise."""
        return b"event: error\ndata: %b\n\n" % orjson.dumps(anthropic_body(error, request_id))


class MessagesStream(NamedStream):
    """One streamed message: the first event tells the prompt's tokens, the last but one those of the output."""

    LAST: ClassVar = frozenset({"message_stop"})

    def __init__(self, provider: Provider, **bounds: int) -> None:
        """Start before the first byte."""
        super().__init__(provider, **bounds)
        self._record: Json = {}

    def _note(self, kind: str, frame: Json) -> None:
        if kind == "message_start" and isinstance(message := frame.get("message"), dict):
            self._note_names(message)
            self._keep(message.get("usage"))
        elif kind == "message_delta":
            usage = frame.get("usage")
            self._keep(usage)
            if isinstance(usage, dict) and "output_tokens" in usage:
                self._note_usage({"usage": as_chat(self._record)})
        elif kind == "content_block_delta" and isinstance(delta := frame.get("delta"), dict):
            for name in _DELTAS:
                self._note_text(delta.get(name))

    def _keep(self, usage: object) -> None:
        """Add to the record what an event says of it; the counts are running totals."""
        if isinstance(usage, dict):
            self._record |= {name: value for name, value in usage.items() if value is not None}


MESSAGES = MessagesForm()


def as_chat(record: object) -> Json | None:
    """Put a usage record under chat's names; Anthropic counts cached tokens beside the input and not in it."""
    if not isinstance(record, dict):
        return None
    read, written = record.get("cache_read_input_tokens"), record.get("cache_creation_input_tokens")
    given = record.get("input_tokens")
    prompt = given
    if type(given) is int:
        prompt = sum(each for each in (given, read, written) if type(each) is int)
    searches, by_age = record.get("server_tool_use"), record.get("cache_creation")
    lasting = by_age.get("ephemeral_1h_input_tokens") if isinstance(by_age, dict) else None
    return {
        **record,
        "prompt_tokens": prompt,
        "completion_tokens": record.get("output_tokens"),
        "prompt_tokens_details": {
            "cached_tokens": read,
            "cache_write_tokens": written,
            "cache_write_1h_tokens": lasting,
        },
        "server_tool_use_details": searches,
    }


def _prompt(messages: list[dict[str, Any]], body: dict[str, Any]) -> Prompt:
    """Measure the messages, and `system` as one of them."""
    system = {"role": "system", "content": body.get("system") or ""}
    prompt = measure([system, *messages], body, besides=frozenset({"system", "messages"}))
    # As much is said about each tool that Anthropic's models know of themselves.
    extra = TOOL_PROMPT_TOKENS * sum(map(fields.is_server_tool, fields.tools(body)))
    return Prompt(prompt.text_bytes + extra, prompt.messages, prompt.images, prompt.audios, prompt.files)
