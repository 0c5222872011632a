"""OpenRouter as its callers see it: https://openrouter.ai/api/v1, with keys, catalogue, generations and free limits."""

import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar

from aiohttp import web

from tests.upstreams import money
from tests.upstreams.ask import Ask
from tests.upstreams.behaviour import Behaviour
from tests.upstreams.books import Entry
from tests.upstreams.catalogue import OpenRouterCatalogue, openrouter_provider, openrouter_slug
from tests.upstreams.embeddings_shape import EmbeddingsShape
from tests.upstreams.exchange import letters
from tests.upstreams.failure import Failure, named
from tests.upstreams.free_limits import FreeLimits
from tests.upstreams.generation import Generation, Served
from tests.upstreams.messages_shape import MessagesShape
from tests.upstreams.openrouter_account import AccountEndpoints
from tests.upstreams.openrouter_chat import OpenRouterChat
from tests.upstreams.openrouter_chat import money as printed_money
from tests.upstreams.responses_shape import ResponsesShape
from tests.upstreams.server import SimulatedUpstream
from tests.upstreams.tokens import Tokens

# Providers that stop generating and billing when the connection closes; the others bill in full.
STOPPING = frozenset(
    {
        "OpenAI",
        "Azure",
        "Anthropic",
        "Fireworks",
        "Together",
        "DeepInfra",
        "Novita",
        "DeepSeek",
        "xAI",
        "Cohere",
        "Cloudflare",
    }
)
SIGNED_STATUSES = frozenset({400, 429})


class OpenRouter(SimulatedUpstream):
    """Simulated OpenRouter; accepts the given keys, or any key that starts with sk-or-v1-."""

    prefix: ClassVar[str] = "/api/v1"
    errors_file: ClassVar[str] = "openrouter_errors.json"
    insures_errors: ClassVar[bool] = True

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        keys: frozenset[str] | None = None,
        free_limits: FreeLimits | None = None,
        generation_delay: float = 0.0,
    ) -> None:
        super().__init__(host=host, port=port, keys=keys)
        self.free_limits = free_limits
        self.generation_delay = generation_delay
        self.auto_serves = "openai/gpt-4o-mini"
        self.free_serves = "google/gemma-4-31b-it:free"
        self.clock: Callable[[], float] = time.time
        self.credits = Decimal("100.5")
        self.catalogue = OpenRouterCatalogue()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post(f"{self.prefix}/chat/completions", self.endpoint(OpenRouterChat()))
        router.add_post(
            f"{self.prefix}/responses", self.endpoint(ResponsesShape(printed_money, ends_with_done=True))
        )
        router.add_post(f"{self.prefix}/messages", self.endpoint(MessagesShape(printed_money)))
        router.add_post(f"{self.prefix}/embeddings", self.endpoint(EmbeddingsShape(printed_money)))
        AccountEndpoints(self).add_routes(router)

    def reset(self) -> None:
        super().reset()
        if self.free_limits:
            self.free_limits.reset()

    # Refusals

    def error(self, name: str) -> Failure:
        return named(self.errors_file, name)

    def refuse_key(self, key: str | None) -> Failure | None:
        if key is None:
            return self.error("401_no_key")
        known = key in self.keys if self.keys is not None else key.startswith("sk-or-v1-")
        return None if known else self.error("401_bad_key")

    def refuse_json(self) -> Failure:
        return self.error("400_invalid_json")

    def signed(self, failure: Failure, entry: Entry) -> Failure:
        """Put the generation id on 400, 429 and 200, where the captures have it."""
        body = failure.body
        if isinstance(body, dict) and str(body.get("id", "")).startswith("gen-"):
            failure = Failure(
                failure.status, {**body, "id": entry.generation_id}, failure.headers, failure.name
            )
        if failure.status in SIGNED_STATUSES or failure.status < 300:
            return failure.with_headers({"x-generation-id": entry.generation_id})
        return failure

    # Routing and money

    def admit(self, ask: Ask, behaviour: Behaviour) -> Served | Failure:
        if not ask.has_input:
            return self.error("400_missing_messages")
        for model in (ask.model, *ask.models):
            if self.catalogue.find(model) is None:
                return invalid_model(model)
        record = self.catalogue.serving(
            self.catalogue.find(ask.model) or {}, self.auto_serves, self.free_serves
        )
        if self.free_limits and record["id"].endswith(":free"):
            refused = self.free_limits.refuse(self.clock())
            if refused:
                return refused
        if behaviour.honour_max_price and ask.max_price and too_dear(record["pricing"], ask.max_price):
            return no_endpoints(ask.model)
        return self._served(record, ask, behaviour)

    def _served(self, record: Mapping[str, Any], ask: Ask, behaviour: Behaviour) -> Served:
        """Choose who serves; a scripted model is billed at its own price where it has one."""
        slug = behaviour.served_model or openrouter_slug(record)
        other = self.catalogue.find(slug) if behaviour.served_model else None
        provider = behaviour.provider or openrouter_provider(other or record, ask.provider_order)
        return Served(slug, provider, (other or record)["pricing"], "repeated")

    def bill(self, served: Served, tokens: Tokens, ask: Ask, behaviour: Behaviour) -> money.Bill:
        online = ask.web_search or ask.model.endswith(":online")
        return money.openrouter_bill(
            served.pricing or {},
            tokens,
            behaviour,
            one_hour_cache=ask.one_hour_cache,
            searches=behaviour.web_searches or int(online),
        )

    def headers(self, generation: Generation) -> dict[str, str]:
        return {"x-generation-id": generation.id}

    def generation_id(self) -> str:
        return f"gen-{int(time.time())}-{letters(20)}"

    def stops_on_close(self, generation: Generation) -> bool:
        wished = generation.behaviour.on_close
        return generation.served.provider in STOPPING if wished is None else wished == "stop"

    # Generations

    def generation_record(self, generation_id: str) -> dict[str, Any] | None:
        """Return the record of a closed generation, once its delay is over."""
        entry = self.books.find(generation_id)
        if entry is None or entry.closed is None or not entry.model_served:
            return None
        delay = self.generation_delay if entry.generation_delay is None else entry.generation_delay
        if math.isinf(delay) or self.clock() < entry.closed + delay:
            return None
        return recorded(entry)


def invalid_model(model: str) -> Failure:
    error = {"message": f"{model} is not a valid model ID", "code": 400}
    return Failure(400, {"error": error, "user_id": "user_REDACTED"}, name="400_invalid_model")


def no_endpoints(model: str) -> Failure:
    message = f"No endpoints found for {model} that satisfy your max_price."
    metadata = {
        "routing_funnel": [{"step": "Initial Endpoints", "endpoint_count": 1}],
        "failed_routing_step": "Filter by Max Price",
    }
    return Failure(
        404, {"error": {"message": message, "code": 404, "metadata": metadata}}, name="404_max_price"
    )


def too_dear(pricing: Mapping[str, Any], limits: Mapping[str, Decimal]) -> bool:
    """Tell whether a price exceeds its limit: USD per million tokens, but per request for `request`."""
    scales = {"prompt": money.MILLION, "completion": money.MILLION, "request": Decimal(1)}
    return any(
        Decimal(pricing.get(name) or 0) * scale > limits[name]
        for name, scale in scales.items()
        if name in limits
    )


def recorded(entry: Entry) -> dict[str, Any]:
    """Print an entry of the books as GET /generation does."""
    closed = entry.closed or entry.opened
    milliseconds = round((closed - entry.opened) * 1000)
    cost, upstream = money.number(entry.cost), money.number(entry.upstream_cost)
    return {
        "api_type": "embeddings" if entry.path.endswith("/embeddings") else "completions",
        "app_id": None,
        "cache_discount": None,
        "cancelled": entry.state in {"client_closed", "aborted"},
        "created_at": datetime.fromtimestamp(entry.opened, UTC).isoformat(),
        "data_region": "global",
        "external_user": None,
        "finish_reason": entry.finish_reason,
        "generation_time": milliseconds,
        "http_referer": entry.headers.get("http-referer"),
        "id": entry.generation_id,
        "is_byok": entry.is_byok,
        "latency": milliseconds,
        "model": entry.model_served,
        "moderation_latency": None,
        "native_finish_reason": entry.native_finish_reason,
        "native_tokens_cached": entry.cached_tokens,
        "native_tokens_completion": entry.completion_tokens,
        "native_tokens_completion_images": 0,
        "native_tokens_prompt": entry.prompt_tokens,
        "native_tokens_reasoning": entry.reasoning_tokens,
        "num_fetches": 0,
        "num_input_audio_prompt": 0,
        "num_media_completion": 0,
        "num_media_prompt": 0,
        "num_search_results": 0,
        "origin": entry.headers.get("http-referer", ""),
        "preset_id": None,
        "provider_name": entry.provider,
        "provider_responses": None,
        "request_id": f"req-{entry.generation_id[4:]}",
        "router": entry.model_asked if entry.model_asked.startswith("openrouter/") else None,
        "service_tier": None,
        "session_id": None,
        "streamed": entry.stream,
        "tokens_completion": entry.completion_tokens,
        "tokens_prompt": entry.prompt_tokens,
        "total_cost": cost,
        "upstream_id": f"chatcmpl-{entry.generation_id[-20:]}",
        "upstream_inference_cost": upstream,
        "usage": cost,
        "user_agent": entry.headers.get("user-agent"),
        "web_search_engine": None,
    }
