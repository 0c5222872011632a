"""Hugging Face's router as its callers see it: https://router.huggingface.co/v1, with backing providers behind it."""

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import unquote

from aiohttp import web

from tests.upstreams import money
from tests.upstreams.ask import Ask
from tests.upstreams.behaviour import Behaviour, Placement
from tests.upstreams.books import Entry
from tests.upstreams.catalogue import HuggingFaceCatalogue
from tests.upstreams.exchange import bearer, json_response, letters
from tests.upstreams.failure import Failure, named
from tests.upstreams.generation import Generation, Served
from tests.upstreams.huggingface_chat import HuggingFaceChat
from tests.upstreams.messages_shape import MessagesShape
from tests.upstreams.openrouter_account import refused
from tests.upstreams.responses_shape import ResponsesShape, no_money
from tests.upstreams.server import SimulatedUpstream
from tests.upstreams.tokens import Tokens

RETIRED = frozenset({("meta-llama/Llama-3.3-70B-Instruct", "cerebras")})
# Where a backing provider puts usage in a stream; the others send a chunk of their own.
PLACEMENTS: Mapping[str, Placement] = {
    "novita": "on_finish",
    "zai-org": "on_finish",
    "featherless-ai": "on_finish",
    "deepinfra": "on_content",
}
# Backing providers that go on billing after the connection closed.
BILLING_ON = frozenset({"groq", "hf-inference", "nebius", "sambanova"})


class HuggingFace(SimulatedUpstream):
    """Simulated router; accepts the given tokens, or any that starts with hf_.

    `retired` are pairs of model and provider that answer 410; `gateway_timeout` is when a slow whole answer becomes 504.
    """

    errors_file: ClassVar[str] = "hf_errors.json"

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        keys: frozenset[str] | None = None,
        gateway_timeout: float = 60.0,
        retired: frozenset[tuple[str, str]] = RETIRED,
    ) -> None:
        super().__init__(host=host, port=port, keys=keys)
        self.gateway_timeout = gateway_timeout
        self.retired = retired
        self.default_policy = "fastest"
        self.catalogue = HuggingFaceCatalogue()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        responses = self.endpoint(ResponsesShape(no_money, ends_with_done=False))
        router.add_post("/v1/chat/completions", self.endpoint(HuggingFaceChat()))
        for provider in self.catalogue.providers():
            router.add_post(f"/{provider}/v1/chat/completions", self.endpoint(HuggingFaceChat(provider)))
        router.add_post("/v1/responses", self._with_failed_tokens(responses))
        router.add_post("/v1/messages", self.endpoint(MessagesShape(no_money)))
        router.add_get("/v1/models", self._list_models)
        router.add_get("/v1/models/{model:.+}", self._retrieve_model)

    # Refusals

    def refuse_key(self, key: str | None) -> Failure | None:
        if key is None:
            return named(self.errors_file, "401_no_token")
        known = key in self.keys if self.keys is not None else key.startswith("hf_")
        return None if known else named(self.errors_file, "401_bad_token")

    def refuse_json(self) -> Failure:
        return Failure(400, {"error": "Invalid JSON in request body"}, name="400_invalid_json")

    def signed(self, failure: Failure, entry: Entry) -> Failure:
        return failure.with_headers({"x-request-id": f"req-{entry.generation_id[-12:]}"})

    def _with_failed_tokens(self, answer: Any) -> Any:
        """Answer a bad token with 200 and a failed response, as this one endpoint does."""

        async def answered(request: web.Request) -> web.StreamResponse:
            key = bearer(request)
            if key is not None and self.refuse_key(key):
                return refused(named(self.errors_file, "200_responses_auth_failure"))
            response: web.StreamResponse = await answer(request)
            return response

        return answered

    # Routing and money

    def names(self, ask: Ask) -> frozenset[str]:
        return frozenset({ask.model, split_model(ask.model)[0]})

    def admit(self, ask: Ask, behaviour: Behaviour) -> Served | Failure:
        model, suffix = split_model(ask.model)
        if (model, suffix) in self.retired:
            return retired_pair(suffix)
        if not ask.has_input:
            return Failure(422, {"error": "messages: field required"}, name="422_messages")
        offering = self.catalogue.offering(model, suffix or self.default_policy)
        if offering is None:
            return unsupported(ask.model)
        provider = behaviour.provider or offering["provider"]
        usage = PLACEMENTS.get(provider, "empty_choices")
        return Served(
            behaviour.served_model or model, provider, self._pricing(model, provider, offering), usage
        )

    def _pricing(self, model: str, provider: str, chosen: Mapping[str, Any]) -> Mapping[str, Decimal] | None:
        """Return the prices of the provider that serves, which a behaviour may have changed."""
        offering = chosen if provider == chosen["provider"] else self.catalogue.offering(model, provider)
        return (offering or {}).get("pricing")

    def bill(self, served: Served, tokens: Tokens, ask: Ask, behaviour: Behaviour) -> money.Bill:
        del ask
        return money.per_million_bill(served.pricing, tokens, behaviour)

    def headers(self, generation: Generation) -> dict[str, str]:
        request_id = f"req-{generation.id[-12:]}"
        return {"x-inference-provider": generation.served.provider, "x-request-id": request_id}

    def generation_id(self) -> str:
        return f"chatcmpl-{letters(24)}"

    def stops_on_close(self, generation: Generation) -> bool:
        wished = generation.behaviour.on_close
        return generation.served.provider not in BILLING_ON if wished is None else wished == "stop"

    async def wait_headers(self, behaviour: Behaviour, ask: Ask | None = None) -> Failure | None:
        if ask is None or ask.stream or behaviour.delay_headers <= self.gateway_timeout:
            return await super().wait_headers(behaviour)
        await asyncio.sleep(self.gateway_timeout)
        return named(self.errors_file, "504_html_sim")

    # Catalogue

    async def _list_models(self, request: web.Request) -> web.Response:
        failure = await self.misbehave(request)
        return refused(failure) if failure else json_response(self.catalogue.listing())

    async def _retrieve_model(self, request: web.Request) -> web.Response:
        record = self.catalogue.records.get(unquote(request.match_info["model"]))
        return json_response(record) if record else json_response({"error": "Model not found"}, 404)


def split_model(model: str) -> tuple[str, str]:
    """Cut `org/name:suffix` into its two parts; without a suffix the second is empty."""
    name, _, suffix = model.partition(":")
    return name, suffix


def unsupported(model: str) -> Failure:
    error = {
        "message": f"The requested model '{model}' is not supported by any provider you have enabled.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_supported",
    }
    return Failure(400, {"error": error}, name="400_model_not_supported")


def retired_pair(provider: str) -> Failure:
    error = {
        "message": f"The requested model is deprecated and no longer supported by provider '{provider}'.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_supported",
    }
    return Failure(410, {"error": error}, name="410_deprecated_pair")
