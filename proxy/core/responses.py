"""OpenAI's Responses API, passed through to providers that have it.

Nothing is kept between two requests: all callers share the operator's account at a provider, so what one of them
stored there could be read by another, and nobody could bound what a stored conversation costs. `store` is false.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import orjson

from plugins.contract import Api, Failure, FailureKind, Json, Provider, Translator
from proxy.core import fields
from proxy.core.answer import NOT_JSON, WholeAnswer, answer_of, frame_of
from proxy.core.answer_stream import UNEXPLAINED, AnswerStream
from proxy.core.api import ApiRequest
from proxy.core.chat import ChatForm
from proxy.core.named_stream import NamedStream
from proxy.core.prompt import measure
from proxy.errors import GatewayError, InvalidRequest, openai_body

NO_OUTPUT: Final = Failure(FailureKind.PROVIDER, "The provider's answer has no output.")
UNFINISHED: Final = Failure(FailureKind.PROVIDER, "The provider's answer is not finished.")

_STATELESS = "nothing is kept between two requests; send the whole conversation in `input`"
_REFUSED = {
    "store": "nothing is kept here",
    "previous_response_id": _STATELESS,
    "conversation": _STATELESS,
    "background": "an answer that is fetched later cannot be metered",
    "prompt": "a stored prompt has no size that could be held for; send its text",
}
_FINISHED = ("completed", "incomplete", None)
_COUNTS = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}
_DETAILS = {
    "input_tokens_details": "prompt_tokens_details",
    "output_tokens_details": "completion_tokens_details",
}


class ResponsesForm(ChatForm):
    """`POST /responses`; an error that is an answer's body is that of chat."""

    api = Api.RESPONSES

    def read(self, body: dict[str, Any]) -> ApiRequest:
        """Read a decoded request."""
        model, models = fields.model(body), fields.models(body)
        fields.refuse(body, _REFUSED)
        fields.text_or_parts(body, "instructions")
        fields.tools(body)
        return ApiRequest(
            form=self,
            body={**body, "store": False},
            model=model,
            models=models,
            stream=fields.boolean(body, "stream"),
            include_usage=True,
            max_tokens=fields.integer(body, "max_output_tokens", most=fields.MOST_TOKENS),
            choices=1,
            # The instructions are a message of their own.
            prompt=measure([*_items(body), ""], body, besides=frozenset({"input"})),
            paid_extras=fields.paid_extras(body, (model, *models)),
        )

    def stream(
        self,
        provider: Provider,
        request: ApiRequest,  # noqa: ARG002  chat's alone
        translator: Translator | None,  # noqa: ARG002  likewise
    ) -> AnswerStream:
        """Begin to read events."""
        return ResponsesStream(provider)

    def read_answer(self, provider: Provider, body: bytes, translator: Translator | None) -> WholeAnswer:  # noqa: ARG002  likewise
        """Read a response; Hugging Face answers a refusal with status 200 and a failed one."""
        frame = frame_of(body)
        if frame is None:
            return WholeAnswer(NOT_JSON)
        output, status = frame.get("output"), frame.get("status")
        fault = None if isinstance(output, list) else NO_OUTPUT
        if status not in _FINISHED:
            fault = UNEXPLAINED if status == "failed" else UNFINISHED
        output = output if isinstance(output, list) else []
        return answer_of(provider, as_chat(frame), body, output=output, fault=fault)

    def error_event(self, error: GatewayError, request_id: str | None, *, number: int) -> bytes:  # noqa: ARG002  Anthropic's has it
        """Render the API's error event, with the object beside it on which OpenAI's SDKs raise."""
        body = openai_body(error)
        shown = {name: body["error"][name] for name in ("code", "message", "param")}
        event = {"type": "error", "sequence_number": number, **shown, **body}
        return b"event: error\ndata: %b\n\n" % orjson.dumps(event)


class ResponsesStream(NamedStream):
    """One streamed response."""

    LAST: ClassVar = frozenset({"response.completed", "response.incomplete"})

    def _note(self, kind: str, frame: Json) -> None:
        response = frame.get("response")
        if isinstance(response, dict):
            chat = as_chat(response)
            self._note_names(chat)
            self._note_usage(chat)
            # A failed response says why; any other has an `error` of null.
            self.failure = self._provider.read_error(chat)
        if kind == "response.failed":
            self.failure = self.failure or UNEXPLAINED
        elif kind.endswith(".delta"):
            self._note_text(frame.get("delta"))


RESPONSES = ResponsesForm()


def as_chat(response: Json) -> Json:
    """Put what plugins read of a response where a chat completion has it."""
    record = response.get("usage")
    if not isinstance(record, dict):
        return response
    renamed = {_COUNTS.get(name) or _DETAILS.get(name) or name: value for name, value in record.items()}
    return {**response, "usage": renamed}


def _items(body: dict[str, Any]) -> list[Any]:
    """Read `input`: a text, or a list of messages and other items."""
    given = body.get("input")
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        raise InvalidRequest("`input` must be a string or a non-empty list of items.", param="input")
    for index, item in enumerate(given):
        param = f"input[{index}]"
        if not isinstance(item, dict) or not isinstance(item.get("type", item.get("role")), str):
            raise InvalidRequest(f"`{param}` must be an object with a `type` or a `role`.", param=param)
        if item.get("type") == "item_reference":
            raise InvalidRequest(f"`{param}` refers to a stored item, and {_STATELESS}.", param=param)
        if "role" in item and not isinstance(item.get("content"), str | list | None):
            raise InvalidRequest(
                f"`{param}.content` must be a string or a list of parts.", param=f"{param}.content"
            )
    return given
