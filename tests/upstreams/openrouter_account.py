"""OpenRouter's endpoints that generate nothing: models, generations, key and credits, as JSON of the books."""

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from aiohttp import web

from tests.upstreams.catalogue import openrouter_provider
from tests.upstreams.exchange import bearer, json_response
from tests.upstreams.failure import Failure
from tests.upstreams.free_limits import DAY
from tests.upstreams.money import number

if TYPE_CHECKING:
    from tests.upstreams.openrouter import OpenRouter


class AccountEndpoints:
    """Reads of the catalogue need no key; reads of the account do."""

    def __init__(self, upstream: "OpenRouter") -> None:
        self._upstream = upstream

    def add_routes(self, router: web.UrlDispatcher) -> None:
        prefix = self._upstream.prefix
        router.add_get(f"{prefix}/models", self.list_models)
        router.add_get(f"{prefix}/models/count", self.count_models)
        router.add_get(f"{prefix}/models/{{model:.+}}/endpoints", self.list_endpoints)
        router.add_get(f"{prefix}/model/{{model:.+}}", self.retrieve_model)
        router.add_get(f"{prefix}/generation", self.retrieve_generation)
        router.add_get(f"{prefix}/key", self.retrieve_key)
        router.add_get(f"{prefix}/credits", self.retrieve_credits)

    async def list_models(self, request: web.Request) -> web.Response:
        failure = await self._upstream.misbehave(request)
        return refused(failure) if failure else json_response(self._upstream.catalogue.listing())

    async def count_models(self, request: web.Request) -> web.Response:
        del request
        return json_response({"data": {"count": len(self._upstream.catalogue.records)}})

    async def retrieve_model(self, request: web.Request) -> web.Response:
        record = self._upstream.catalogue.find(unquote(request.match_info["model"]))
        if record is None:
            return refused(Failure(404, {"error": {"message": "Model not found", "code": 404}}))
        return json_response({"data": record})

    async def list_endpoints(self, request: web.Request) -> web.Response:
        record = self._upstream.catalogue.find(unquote(request.match_info["model"]))
        if record is None:
            return refused(Failure(404, {"error": {"message": "Model not found", "code": 404}}))
        shown = {name: record[name] for name in ("id", "name", "created", "description", "architecture")}
        return json_response({"data": shown | {"endpoints": [endpoint_of(record)]}})

    async def retrieve_generation(self, request: web.Request) -> web.Response:
        refusal = self._upstream.refuse_key(bearer(request))
        if refusal:
            return refused(refusal)
        asked = request.query.get("id", "")
        failure = await self._upstream.misbehave(request, asked)
        if failure:
            return refused(failure)
        record = self._upstream.generation_record(asked)
        if record is None:
            return refused(Failure(404, {"error": {"message": f"Generation {asked} not found", "code": 404}}))
        return json_response({"data": record})

    async def retrieve_key(self, request: web.Request) -> web.Response:
        key = bearer(request)
        refusal = self._upstream.refuse_key(key)
        if refusal or key is None:
            return refused(refusal or self._upstream.error("401_no_key"))
        spent = number(self._upstream.books.total_cost(key))
        periods = ("", "_daily", "_weekly", "_monthly")
        usage: dict[str, Any] = {f"usage{period}": spent for period in periods}
        byok: dict[str, Any] = {f"byok_usage{period}": 0 for period in periods}
        return json_response({"data": usage | byok | self._key_facts(key)})

    def _key_facts(self, key: str) -> dict[str, Any]:
        limits, now = self._upstream.free_limits, self._upstream.clock()
        used = limits.in_window(DAY, now) if limits else 0
        allowed = limits.per_day if limits else 50
        return {
            "creator_user_id": "user_REDACTED",
            "expires_at": None,
            "free_model_daily_requests": {
                "limit": allowed,
                "remaining": max(0, allowed - used),
                "used": used,
            },
            "include_byok_in_limit": False,
            "is_free_tier": False,
            "is_management_key": False,
            "is_provisioning_key": False,
            "label": f"{key[:12]}...{key[-3:]}",
            "limit": None,
            "limit_remaining": None,
            "limit_reset": None,
            "rate_limit": {
                "requests": -1,
                "interval": "10s",
                "note": "This field is deprecated and safe to ignore.",
            },
        }

    async def retrieve_credits(self, request: web.Request) -> web.Response:
        refusal = self._upstream.refuse_key(bearer(request))
        if refusal:
            return refused(refusal)
        spent = number(self._upstream.books.total_cost())
        return json_response(
            {"data": {"total_credits": number(self._upstream.credits), "total_usage": spent}}
        )


def refused(failure: Failure) -> web.Response:
    return web.Response(body=failure.encoded(), status=failure.status, headers=dict(failure.headers))


def endpoint_of(record: dict[str, Any]) -> dict[str, Any]:
    """Describe the one endpoint that serves a model here."""
    provider, top = openrouter_provider(record, ()), record["top_provider"]
    return {
        "name": f"{provider}: {record['name']}",
        "model_id": record["id"],
        "model_name": record["name"],
        "context_length": record["context_length"],
        "pricing": record["pricing"] | {"discount": 0},
        "provider_name": provider,
        "tag": provider.lower().replace(" ", "-"),
        "quantization": "unknown",
        "max_completion_tokens": top["max_completion_tokens"],
        "max_prompt_tokens": None,
        "supported_parameters": record["supported_parameters"],
        "status": 0,
        "uptime_last_5m": 100,
        "uptime_last_30m": 99.5,
        "uptime_last_1d": 99.8,
        "supports_implicit_caching": "input_cache_read" in record["pricing"],
        "latency_last_30m": {"p50": 0.25, "p75": 0.35, "p90": 0.48, "p99": 0.85},
        "throughput_last_30m": {"p50": 45.2, "p75": 38.5, "p90": 28.3, "p99": 15.1},
    }
