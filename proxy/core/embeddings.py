"""The embeddings API: vectors for texts. There is no output to hold for or to bill, and nothing streams."""

from __future__ import annotations

from typing import Any, Final

from plugins.contract import Api, Failure, FailureKind, Provider, Translator
from proxy.core import fields
from proxy.core.answer import NOT_JSON, WholeAnswer, answer_of, frame_of
from proxy.core.api import ApiRequest
from proxy.core.chat import ChatForm
from proxy.core.prompt import Prompt, measure
from proxy.errors import InvalidRequest

MAX_INPUTS: Final = 2048
"""The most inputs that OpenAI's API accepts in one request."""

NO_VECTORS: Final = Failure(FailureKind.PROVIDER, "The provider's answer has no embeddings.")
_INPUT = frozenset({"input"})


class EmbeddingsForm(ChatForm):
    """`POST /embeddings`; its errors are those of chat."""

    api = Api.EMBEDDINGS

    def read(self, body: dict[str, Any]) -> ApiRequest:
        """Read a decoded request."""
        fields.refuse(body, {"stream": "an embedding comes as a whole"})
        model, models = fields.model(body), fields.models(body)
        return ApiRequest(
            form=self,
            body=body,
            model=model,
            models=models,
            stream=False,
            include_usage=False,
            max_tokens=0,
            choices=1,
            prompt=_prompt(body),
            paid_extras=fields.paid_extras(body, (model, *models)),
        )

    def read_answer(self, provider: Provider, body: bytes, translator: Translator | None) -> WholeAnswer:  # noqa: ARG002  chat's alone
        """Read a list of embeddings."""
        frame = frame_of(body)
        if frame is None:
            return WholeAnswer(NOT_JSON)
        vectors = frame.get("data")
        has_vectors = isinstance(vectors, list) and bool(vectors)
        return answer_of(provider, frame, body, output=[], fault=None if has_vectors else NO_VECTORS)


EMBEDDINGS = EmbeddingsForm()


def _prompt(body: dict[str, Any]) -> Prompt:
    """Measure `input`: a text, tokens, or a list of texts, of tokens, or of objects with parts."""
    given = body.get("input")
    if not isinstance(given, str | list) or not given:
        raise InvalidRequest("`input` must be a non-empty string or list.", param="input")
    inputs = [given] if isinstance(given, str) or _are_tokens(given) else given
    if len(inputs) > MAX_INPUTS:
        raise InvalidRequest(f"`input` must have at most {MAX_INPUTS} entries.", param="input")
    for index, each in enumerate(inputs):
        if not isinstance(each, str | dict) and not _are_tokens(each):
            raise InvalidRequest(
                f"`input[{index}]` must be a string, an object or a list of tokens.", param=f"input[{index}]"
            )
    items = ({"role": "user", **each} if isinstance(each, dict) else each for each in inputs)
    return measure(items, body, besides=_INPUT)


def _are_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is int for each in value)
