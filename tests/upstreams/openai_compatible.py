"""A plain OpenAI-compatible server, as Ollama, vLLM or OpenAI itself: exact shapes, no prices, usage on request only."""

from collections.abc import Iterable
from decimal import Decimal
from typing import ClassVar
from urllib.parse import unquote

from aiohttp import web

from tests.upstreams import money
from tests.upstreams.ask import Ask
from tests.upstreams.behaviour import Behaviour, Placement
from tests.upstreams.chat_shape import ChatShape
from tests.upstreams.embeddings_shape import EmbeddingsShape
from tests.upstreams.exchange import bearer, json_response
from tests.upstreams.failure import Failure
from tests.upstreams.generation import Generation, Served
from tests.upstreams.openrouter_account import refused
from tests.upstreams.responses_shape import ResponsesShape, no_money
from tests.upstreams.server import SimulatedUpstream
from tests.upstreams.tokens import Tokens

CREATED = 1721172741
TEMPLATE_TOKENS = 70
"""What the chat template of gpt-oss says of its own."""


class OpenAICompatible(SimulatedUpstream):
    """Simulated plain server; without `keys` it asks for none; `pricing` (settable: input, output, USD per million) is for its books alone.

    One with a `context_length` refuses what does not fit into it, as vLLM does.
    """

    errors_file: ClassVar[str] = "openrouter_errors.json"

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        keys: frozenset[str] | None = None,
        models: Iterable[str] = ("gpt-4o-mini", "llama3.2:latest"),
        tells_usage: bool = True,
        context_length: int | None = None,
    ) -> None:
        super().__init__(host=host, port=port, keys=keys)
        self.models = tuple(models)
        self.tells_usage = tells_usage
        self.context_length = context_length
        self.pricing: dict[str, Decimal] | None = None

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/chat/completions", self.endpoint(ChatShape()))
        router.add_post("/v1/embeddings", self.endpoint(EmbeddingsShape(no_money)))
        router.add_post("/v1/responses", self.endpoint(ResponsesShape(no_money, ends_with_done=False)))
        router.add_get("/v1/models", self._list_models)
        router.add_get("/v1/models/{model:.+}", self._retrieve_model)

    def refuse_key(self, key: str | None) -> Failure | None:
        if self.keys is None or key in self.keys:
            return None
        return openai_error(
            401, "Incorrect API key provided.", "invalid_request_error", code="invalid_api_key"
        )

    def refuse_json(self) -> Failure:
        return openai_error(400, "We could not parse the JSON body of your request.", "invalid_request_error")

    def admit(self, ask: Ask, behaviour: Behaviour) -> Served | Failure:
        if ask.model not in self.models:
            return unknown_model(ask.model)
        if not ask.has_input:
            return openai_error(
                400, "[] is too short - 'messages'", "invalid_request_error", param="messages"
            )
        if ask.include_usage_without_stream:
            message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            return openai_error(400, message, "invalid_request_error", param="stream_options")
        asked_for = ask.prompt_tokens + TEMPLATE_TOKENS + (ask.max_tokens or 1)
        if self.context_length is not None and asked_for > self.context_length:
            message = (
                f"This model's maximum context length is {self.context_length} tokens. However, you requested"
                f" {asked_for} tokens."
            )
            return openai_error(400, message, "BadRequestError", param="max_tokens")
        served = behaviour.served_model or ask.model
        usage: Placement = "empty_choices" if self.tells_usage else "missing"
        return Served(served, behaviour.provider or "openai", self.pricing, usage)

    def bill(self, served: Served, tokens: Tokens, ask: Ask, behaviour: Behaviour) -> money.Bill:
        del ask
        return money.per_million_bill(served.pricing, tokens, behaviour)

    def headers(self, generation: Generation) -> dict[str, str]:
        return {"x-request-id": f"req_{generation.id[-12:]}", "openai-processing-ms": "7"}

    async def _list_models(self, request: web.Request) -> web.Response:
        refusal = self.refuse_key(bearer(request))
        if refusal:
            return refused(refusal)
        failure = await self.misbehave(request)
        length: dict[str, str | int] = (
            {} if self.context_length is None else {"max_model_len": self.context_length}
        )
        records = [model_record(model) | length for model in self.models]
        return refused(failure) if failure else json_response({"object": "list", "data": records})

    async def _retrieve_model(self, request: web.Request) -> web.Response:
        model = unquote(request.match_info["model"])
        return json_response(model_record(model)) if model in self.models else refused(unknown_model(model))


def model_record(model: str) -> dict[str, str | int]:
    return {"id": model, "object": "model", "created": CREATED, "owned_by": "system"}


def unknown_model(model: str) -> Failure:
    message = f"The model `{model}` does not exist or you do not have access to it."
    return openai_error(404, message, "invalid_request_error", code="model_not_found")


def openai_error(
    status: int, message: str, kind: str, *, param: str | None = None, code: str | None = None
) -> Failure:
    error = {"message": message, "type": kind, "param": param, "code": code}
    return Failure(status, {"error": error}, name=f"{status}_{code or kind}")
