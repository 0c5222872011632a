"""OpenRouter: OpenAI's API with prices, a cost in every answer, and many backings behind one id.

Law: a price that is not understood in full is no price, for a hold must cover the worst case.
Sources: the OpenAPI description and guides in OpenRouterTeam/docs (August 2026), and live captures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from urllib.parse import quote

import orjson
from msgspec.structs import replace

from plugins.contract import (
    Api,
    ApiCall,
    Failure,
    FailureKind,
    Head,
    Json,
    ModelInfo,
    Price,
    PriceOverride,
    UpstreamRequest,
    Usage,
)
from plugins.openai_compatible import OpenAICompatible, clean, code, complaint, said
from plugins.reading import amount, count, get, text

# They steer the routing and share the record of the id without them. `:free` is a record of its own.
ROUTING_SUFFIXES = frozenset({"nitro", "floor", "thinking", "extended", "online", "exacto"})

# Guide "Streaming", list of backings whose stream a closed connection cancels, as letters and digits only.
_CANCELLABLE = (
    "openai azure anthropic fireworks mancer recursal anyscale lepton octoai novita deepinfra together cohere"
    " hyperbolic infermatic avian xai cloudflare sfcompute nineteen liquid friendli chutes deepseek"
)
CANCELLABLE = frozenset(_CANCELLABLE.split())

PRICES = {
    "prompt": "prompt",
    "completion": "completion",
    "cache_read": "input_cache_read",
    "cache_write": "input_cache_write",
    "cache_write_1h": "input_cache_write_1h",
    "request": "request",
    "image": "image",
    "audio": "audio",
    "image_output": "image_output",
    "audio_output": "audio_output",
    "web_search": "web_search",
    "discount": "discount",
}
# Guide "PDF Inputs" (August 2026): where a model takes no files and no engine is named, `mistral-ocr` reads them, at
# $2 per 1,000 pages. This one is free; `pdf-text`, as it was called before, is redirected to it.
FREE_PARSER = {"id": "file-parser", "pdf": {"engine": "cloudflare-ai"}}
# They search the web in every answer. Perplexity's fee stood under `request` in January 2026, since May under `web_search`.
SEARCHES_ONCE = re.compile(r"perplexity/|.+-search-preview")
# 74 searches in one answer, and reasoning with a price of its own beside the completion (captured in May 2025).
SEARCHES_AT_WILL = re.compile(r".+deep-research")
OVERRIDABLE = ("prompt", "completion", "cache_read", "cache_write", "cache_write_1h")
WINDOW_FIELDS = ("utc_start", "utc_end", "utc_days")
MILLION = 6


class OpenRouter(OpenAICompatible):
    """The router at openrouter.ai."""

    APIS = frozenset(Api)

    def headers(self, api_key: str | None) -> dict[str, str]:
        """Add the application's name, which OpenRouter shows in its rankings."""
        headers = super().headers(api_key)
        if self.options.app_url:
            headers["HTTP-Referer"] = self.options.app_url
        if self.options.app_title:
            headers["X-OpenRouter-Title"] = self.options.app_title
        return headers

    def models_request(self, api_key: str | None) -> UpstreamRequest:
        """Ask for the embedding models too, which the list leaves out unasked."""
        return UpstreamRequest("GET", "/models?output_modalities=text,embeddings", self.headers(api_key))

    def body(self, call: ApiCall) -> Json:
        """Forbid what is dearer than what is held: backings, where the caller has no lower bound, and readers of files."""
        body = super().body(call)
        # The description of /embeddings has no plugins.
        if call.has_unread_files and call.api is not Api.EMBEDDINGS:
            body["plugins"] = _with_free_parser(get(body, "plugins"))
        if call.max_price is None:
            return body
        given = get(body, "provider")
        routing = given if isinstance(given, dict) else {}
        wanted = get(routing, "max_price")
        bounds = wanted if isinstance(wanted, dict) else {}
        price = call.max_price
        ours = _bounds(price.prompt, price.completion, price.request)
        body["provider"] = {**routing, "max_price": {**bounds, **_lowest(ours, bounds)}}
        return body

    def read_model(self, entry: Json) -> ModelInfo:
        """Add what OpenRouter says beyond the plain list; its records name no owner but in the id."""
        model = super().read_model(entry)
        longest = count(get(get(entry, "top_provider"), "max_completion_tokens"))
        return replace(
            model,
            price=_with_searches(model.id, read_price(get(entry, "pricing"))),
            is_free=model.id.endswith(":free") or model.id == "openrouter/free",
            owned_by=model.id.partition("/")[0].lstrip("~"),
            max_output_tokens=longest or None,
        )

    def read_head(self, headers: Mapping[str, str]) -> Head:
        """Read the id under which OpenRouter keeps the bill of this generation."""
        return Head(generation_id=headers.get("x-generation-id"))

    def read_backing(self, frame: Json) -> str | None:
        """Read the display name of the backing, which is in every chunk."""
        return text(get(frame, "provider")) or None

    def read_failure(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """Tell what a backing found wrong with a request, which OpenRouter hides behind a general sentence."""
        failure = super().read_failure(status, headers, body)
        if failure.kind is not FailureKind.INVALID_REQUEST or failure.message != "Provider returned error":
            return failure
        raw = complaint(text(get(get(complaint(body), "metadata"), "raw")).encode())
        return replace(
            failure,
            message=clean(said(raw)) or failure.message,
            code=code(raw) or failure.code,
            param=text(get(raw, "param")) or failure.param,
        )

    def generation_request(self, generation_id: str, api_key: str | None) -> UpstreamRequest:
        """Ask for the record of one generation, which may not exist for minutes after its end."""
        return UpstreamRequest(
            "GET", f"/generation?id={quote(generation_id, safe='')}", self.headers(api_key)
        )

    def read_generation(self, body: bytes) -> Usage | None:
        """Read the record; its native counts are those of the tokenizer that was billed."""
        try:
            record = get(orjson.loads(body), "data")
        except orjson.JSONDecodeError:
            return None
        prompt, completion = (
            count(get(record, f"native_tokens_{part}")) for part in ("prompt", "completion")
        )
        cost = amount(get(record, "total_cost"))
        if prompt is None or completion is None or cost is None:
            return None
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            cached_tokens=min(prompt, count(get(record, "native_tokens_cached")) or 0),
            reasoning_tokens=min(completion, count(get(record, "native_tokens_reasoning")) or 0),
            cost=cost,
            upstream_cost=amount(get(record, "upstream_inference_cost")),
            is_byok=get(record, "is_byok") is True,
        )

    def key_request(self, api_key: str) -> UpstreamRequest:
        """Ask for what OpenRouter knows of the key; its list of models is open to everybody."""
        return UpstreamRequest("GET", "/key", self.headers(api_key))

    def base_id(self, model: str) -> str | None:
        """Strip one suffix that only steers the routing."""
        base, _, suffix = model.rpartition(":")
        return base if base and suffix in ROUTING_SUFFIXES else None

    def stops_billing(self, backing: str | None) -> bool:
        """Say yes for the backings that OpenRouter lists; draining is the safe choice for all others."""
        return "".join(filter(str.isalnum, (backing or "").lower())) in CANCELLABLE


def _with_free_parser(plugins: object) -> object:
    """Let files be read for free, unless the caller has chosen a reader, or writes what OpenRouter will refuse."""
    if not plugins:
        return [FREE_PARSER]
    if not isinstance(plugins, list) or any(get(each, "id") == FREE_PARSER["id"] for each in plugins):
        return plugins
    return [*plugins, FREE_PARSER]


@lru_cache(maxsize=1_024)
def _bounds(prompt: Decimal, completion: Decimal, request: Decimal) -> Mapping[str, str]:
    """Write a price as bounds: per million tokens, but per one request; decimal strings, the type in the API's schema."""
    millions = {
        "prompt": prompt.scaleb(MILLION),
        "completion": completion.scaleb(MILLION),
        "request": request,
    }
    return {name: format(price, "f") for name, price in millions.items()}


def _lowest(ours: Mapping[str, str], bounds: Mapping[str, object]) -> Mapping[str, object]:
    """Keep the caller's bound where it is lower."""
    if not bounds:
        return ours
    chosen: dict[str, object] = {}
    for name, price in ours.items():
        wanted = amount(bounds.get(name))
        chosen[name] = price if wanted is None or wanted > Decimal(price) else bounds[name]
    return chosen


def read_price(pricing: object) -> Price | None:
    """Read a record's prices, or return `None` when one is variable ("-1") or not understood."""
    given = {name: get(pricing, key) for name, key in PRICES.items() if get(pricing, key) is not None}
    prices = {name: amount(value) for name, value in given.items()}
    base = {name: price for name, price in prices.items() if price is not None}
    if base.keys() != prices.keys() or not {"prompt", "completion"} <= base.keys():
        return None
    if base.get("discount", Decimal(0)) > 1:
        return None
    entries = get(pricing, "overrides") or []
    conditions = [_condition(each) for each in entries] if isinstance(entries, list) else [None]
    known = [each for each in conditions if each is not None]
    if len(known) != len(conditions):
        return None
    worst = _worst(base, known, 0)
    thresholds = sorted({threshold for threshold, _, _ in known if threshold})
    steps = (PriceOverride(each, **_overridden(_worst(base, known, each))) for each in thresholds)
    return replace(Price(worst["prompt"], worst["completion"]), **worst, overrides=tuple(steps))


def _with_searches(model: str, price: Price | None) -> Price | None:
    """Let a request to a model that searches unasked cost a search, and let one without a bound have no price."""
    if price is None or SEARCHES_AT_WILL.match(model):
        return None
    if price.web_search is None or not SEARCHES_ONCE.match(model):
        return price
    return replace(price, request=price.request + price.web_search, web_search=None)


Condition = tuple[int, bool, dict[str, Decimal]]


def _condition(entry: object) -> Condition | None:
    """Read an override as threshold, whether it depends on the time of day, and prices."""
    threshold = get(entry, "min_prompt_tokens")
    tokens = 0 if threshold is None else count(threshold)
    named = {name: get(entry, PRICES[name]) for name in OVERRIDABLE if get(entry, PRICES[name]) is not None}
    prices = {name: amount(value) for name, value in named.items()}
    known = {name: price for name, price in prices.items() if price is not None}
    if not isinstance(entry, dict) or tokens is None or len(known) != len(named):
        return None
    return tokens, any(get(entry, each) is not None for each in WINDOW_FIELDS), known


def _worst(base: Mapping[str, Decimal], conditions: list[Condition], threshold: int) -> dict[str, Decimal]:
    """Work out the dearest prices of a prompt just over `threshold`, at whatever time of day.

    Later entries win per price. One with a time window may apply or not while a request runs, so it
    counts where it raises a price and is passed over where it lowers one: a hold is never too small.
    """
    worst = dict(base)
    for least, is_timed, prices in conditions:
        if least > threshold:
            continue
        for name, price in prices.items():
            # Without a cache price of its own a token costs what a prompt token costs.
            before = worst.get(name, worst["prompt"])
            worst[name] = max(before, price) if is_timed else price
    return worst


def _overridden(prices: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return {name: prices[name] for name in OVERRIDABLE if name in prices}
