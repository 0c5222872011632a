"""A catalogue is the model list that an upstream serves, and the only source of the prices in its books."""

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from tests.upstreams.failure import FIXTURES

OPENROUTER_FILES = (
    "openrouter_models_2026-01-29_request_fee.json",
    "openrouter_models_2026-05-01.json",
    "openrouter_models_2026-10-02.json",
)
VARIANTS = frozenset({"nitro", "floor", "online", "thinking", "extended", "exacto"})
HUGGINGFACE_POLICIES = frozenset({"fastest", "cheapest", "preferred"})
DISPLAY_NAMES = {
    "openai": "OpenAI",
    "anthropic": "Anthropic",
    "google": "Google",
    "google-ai-studio": "Google AI Studio",
    "meta-llama": "DeepInfra",
    "deepinfra": "DeepInfra",
    "deepseek": "DeepSeek",
    "qwen": "Alibaba",
    "x-ai": "xAI",
    "xai": "xAI",
    "mistralai": "Mistral",
    "amazon-bedrock": "Amazon Bedrock",
    "sambanova": "SambaNova",
}
EMBEDDING_MODELS = {
    model: {"id": model, "canonical_slug": model, "pricing": {"prompt": price, "completion": "0"}}
    for model, price in (
        ("openai/text-embedding-3-small", "0.00000002"),
        ("qwen/qwen3-embedding-8b", "0.00000001"),
    )
}


def load(file: str) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads((FIXTURES / file).read_text(encoding="utf-8"))["data"]
    return records


class OpenRouterCatalogue:
    """OpenRouter's records by id: the union of the dumps, the latest winning."""

    def __init__(self) -> None:
        self.records = {record["id"]: record for file in OPENROUTER_FILES for record in load(file)}

    def find(self, model: str) -> dict[str, Any] | None:
        """Find a record by its id, its canonical slug, or its id with a variant that has no record."""
        if model in self.records:
            return self.records[model]
        if model in EMBEDDING_MODELS:
            return dict(EMBEDDING_MODELS[model])
        base, _, variant = model.rpartition(":")
        if variant in VARIANTS:
            return self.find(base)
        return next((each for each in self.records.values() if each["canonical_slug"] == model), None)

    def serving(self, record: Mapping[str, Any], served_by_auto: str, served_by_free: str) -> dict[str, Any]:
        """Follow aliases and the two routers to the record that is really served and billed."""
        routed = {"openrouter/auto": served_by_auto, "openrouter/free": served_by_free}
        alias = record.get("alias_target") or {}
        target = alias.get("slug") or routed.get(record["id"]) or record["id"]
        return self.records.get(target) or dict(record)

    def listing(self) -> dict[str, Any]:
        return {
            "data": list(self.records.values()),
            "total_count": len(self.records),
            "links": {"next": None},
        }


def openrouter_slug(record: Mapping[str, Any]) -> str:
    """Return the slug that answers carry: the dated one, but free models keep their id."""
    model, slug = str(record["id"]), str(record["canonical_slug"])
    return model if model.endswith(":free") else slug


def openrouter_provider(record: Mapping[str, Any], wished: Iterable[str]) -> str:
    """Return the display name of the backing provider: the caller's first wish, else the model's author."""
    for wish in wished:
        return DISPLAY_NAMES.get(wish.split("/")[0], wish.title())
    author = str(record["id"]).lstrip("~").split("/")[0]
    if author == "google" and record["id"].endswith(":free"):
        return "Google AI Studio"
    return DISPLAY_NAMES.get(author, author.title())


class HuggingFaceCatalogue:
    """The router's records by id, and the choice of a backing provider."""

    def __init__(self) -> None:
        self.records = {record["id"]: record for record in load("hf_router_models_sim.json")}

    def offering(self, model: str, suffix: str) -> dict[str, Any] | None:
        """Choose the live offering that a suffix selects; a provider's name pins it; None when there is none."""
        record = self.records.get(model)
        live: list[dict[str, Any]] = [
            each for each in (record or {}).get("providers", ()) if each["status"] == "live"
        ]
        if suffix not in HUGGINGFACE_POLICIES:
            return next((each for each in live if each["provider"] == suffix), None)
        if not live or suffix == "preferred":
            return live[0] if live else None
        if suffix == "cheapest":
            live.sort(key=_output_price)
        else:
            live.sort(key=_throughput, reverse=True)
        return live[0]

    def providers(self) -> set[str]:
        """Name every backing provider."""
        return {each["provider"] for record in self.records.values() for each in record["providers"]}

    def listing(self) -> dict[str, Any]:
        return {"object": "list", "data": list(self.records.values())}


def _output_price(offering: Mapping[str, Any]) -> Decimal:
    pricing = offering.get("pricing")
    return Decimal(str(pricing["output"])) if pricing else Decimal("Infinity")


def _throughput(offering: Mapping[str, Any]) -> float:
    return float(offering.get("throughput") or 0)
