"""The catalogue as users see it: found, filtered and sorted in memory, and edited by admins.

An id of this surface is one that `POST /api/chat` accepts: where two providers have one id, the second one's is
prefixed with its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bson.decimal128 import Decimal128
from pydantic import ValidationError

from admin_api.access import SignedIn
from admin_api.models.popularity import Counts
from admin_api.models.schemas import ModelEdit, ModelQuery, PriceEdit
from admin_api.models.view import CATEGORIES, capabilities_of, category_of, price_per_thousand, view_model
from proxy.catalog import CatalogError, Refreshed
from proxy.core.routing import Catalogue, Entry, Role, may_use
from proxy.documents import AIModel
from proxy.errors import InvalidRequest, NotFound, ProviderFailed
from proxy.gateway import Gateway

RESULT_NAMES = {"openrouter": "openRouter", "huggingface": "huggingFace"}
"""How the frontend's contract spells two providers in the report of a sync; others keep their own name."""

_MOST_POPULAR = 3


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at the models; anybody who is not signed in sees what a new user would."""

    role: Role = Role.USER
    favorites: frozenset[str] = frozenset()

    @classmethod
    def of(cls, visitor: SignedIn | None) -> Viewer:
        """Look with a visitor's eyes."""
        if visitor is None:
            return cls()
        return cls(visitor.user.role, frozenset(visitor.user.preferences.favoriteModels))


@dataclass(frozen=True, slots=True)
class Shown:
    """One model under its public id."""

    id: str
    entry: Entry


def shown(catalogue: Catalogue, role: Role) -> list[Shown]:
    """List every model of every provider; those out of service are for admins alone."""
    found, seen = [], set()
    for provider, entries in catalogue.entries.items():
        for model, entry in entries.items():
            is_shadowed = model in seen or model in catalogue.aliases
            seen.add(model)
            if entry.is_available or role is Role.ADMIN:
                found.append(Shown(f"{provider}/{model}" if is_shadowed else model, entry))
    return found


def find(catalogue: Catalogue, model_id: str, role: Role) -> Shown:
    """Find one model by its public id, its prefixed one, or any other that routes; raise `NotFound`."""
    everything = shown(catalogue, role)
    for model in everything:
        if model_id == model.id:
            return model
    for model in everything:
        if model_id == f"{model.entry.provider}/{model.entry.info.id}":
            return model
    targets = catalogue.find(model_id)
    for model in everything:
        if targets and model.entry is targets[0].entry:
            return model
    raise NotFound("Model not found")


def view(model: Shown, viewer: Viewer, counts: Counts) -> dict[str, Any]:
    """Render one model for whoever looks."""
    entry = model.entry
    prefixed = f"{entry.provider}/{entry.info.id}"
    return view_model(
        entry,
        model.id,
        usage=counts.get((entry.provider, entry.info.id), 0),
        is_favorite=not viewer.favorites.isdisjoint((model.id, prefixed)),
        can_use=entry.is_available and may_use(entry, viewer.role, None, model.id),
    )


def select(models: Iterable[Shown], query: ModelQuery, counts: Counts) -> list[Shown]:
    """Filter and sort."""
    return _sorted([model for model in models if _matches(model, query)], query.sort, counts)


def describe_providers(models: Sequence[Shown]) -> list[dict[str, Any]]:
    """Count the models of each provider, with the range of their input prices; most models first."""
    groups: dict[str, list[Shown]] = {}
    for model in models:
        groups.setdefault(model.entry.provider, []).append(model)
    described = [
        {
            "name": name,
            "modelCount": len(members),
            "categories": sorted({category_of(member.entry.info) for member in members}),
            "pricing": _price_range(members),
        }
        for name, members in groups.items()
    ]
    return sorted(described, key=lambda group: (-int(str(group["modelCount"])), str(group["name"])))


def describe_categories(models: Sequence[Shown], counts: Counts) -> list[dict[str, Any]]:
    """Count the models of each category, with the most popular ones; most models first."""
    groups: dict[str, list[Shown]] = {name: [] for name in CATEGORIES}
    for model in models:
        groups[category_of(model.entry.info)].append(model)
    described = []
    for name, members in sorted(groups.items(), key=lambda group: -len(group[1])):
        popular = _sorted(members, "popularity", counts)[:_MOST_POPULAR]
        described.append(
            {
                "name": name,
                "modelCount": len(members),
                "providers": sorted({member.entry.provider for member in members}),
                "avgPrice": _price_range(members)["average"],
                "popularModels": [
                    {"modelId": member.id, "name": member.entry.info.name} for member in popular
                ],
            }
        )
    return [group for group in described if group["modelCount"]]


async def sync(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """Read every provider's list anew and report; raise `ProviderFailed` when not one could be read."""
    names = list(gateway.relay.endpoints)
    reports = dict(zip(names, await asyncio.gather(*(_sync(gateway, name) for name in names)), strict=True))
    if all(report["errors"] for report in reports.values()):
        message = "; ".join(f"{name}: {report['message']}" for name, report in reports.items())
        details = {"provider": names[0], "data": {"results": _named(reports)}}
        raise ProviderFailed(f"No provider's models could be read: {message}", details=details)
    await gateway.catalog.announce()
    return _named(reports)


async def edit_model(model_id: str, changes: Mapping[str, Any], gateway: Gateway) -> dict[str, Any]:
    """Keep what an admin has decided about a model, and return the model as admins see it.

    `changes` has any of the fields of `ModelEdit`. It holds on every worker within about a second and survives a
    sync. Raises `InvalidRequest` (a negative price, an unknown field or status) and `NotFound`.
    """
    edit = _edit(changes)
    found = find(gateway.catalog.current, model_id, Role.ADMIN)
    entry = found.entry
    updates: dict[str, Any] = {name: getattr(edit, name) for name in ("isAvailable", "status")}
    updates = {name: value for name, value in updates.items() if name in edit.model_fields_set}
    if "pricing" in edit.model_fields_set:
        updates["priceOverride"] = None if edit.pricing is None else _override(edit.pricing, entry)
    key = {"_id": f"{entry.provider}/{entry.info.id}"}
    result = await AIModel.get_pymongo_collection().update_one(key, {"$set": updates})
    if not result.matched_count:
        raise NotFound("Model not found")
    await gateway.catalog.announce()
    return view(find(gateway.catalog.current, found.id, Role.ADMIN), Viewer(Role.ADMIN), {})


def _edit(changes: Mapping[str, Any]) -> ModelEdit:
    if not changes:
        raise InvalidRequest("Validation failed: name at least one of isAvailable, status, pricing")
    try:
        return ModelEdit.model_validate(dict(changes))
    except ValidationError as exc:
        reasons = (
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in exc.errors(include_url=False, include_input=False)
        )
        raise InvalidRequest(f"Validation failed: {', '.join(reasons)}") from exc


def _override(edit: PriceEdit, entry: Entry) -> dict[str, Decimal128]:
    """Turn a price per 1,000 tokens into one per token; a half that is not named stays what it is now."""
    now = entry.info.price
    parts = (
        ("prompt", edit.input, None if now is None else now.prompt),
        ("completion", edit.output, None if now is None else now.completion),
    )
    prices = {}
    for name, given, before in parts:
        price = before if given is None else Decimal(str(given)) / 1000
        if price is None:
            raise InvalidRequest(
                "Validation failed: pricing: this model has no price yet; name both input and output"
            )
        prices[name] = Decimal128(price)
    return prices


async def _sync(gateway: Gateway, name: str) -> dict[str, Any]:
    try:
        refreshed, message = await gateway.catalog.refresh(name), None
    except CatalogError as exc:
        refreshed, message = Refreshed(0, 0, 0), str(exc)[:200]
    return {
        "added": refreshed.added,
        "updated": refreshed.updated,
        "gone": refreshed.gone,
        "errors": 0 if message is None else 1,
        "message": message,
    }


def _named(reports: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {RESULT_NAMES.get(name, name): report for name, report in reports.items()}


def _matches(model: Shown, query: ModelQuery) -> bool:
    entry, info = model.entry, model.entry.info
    if query.provider is not None and query.provider not in (
        entry.provider.casefold(),
        info.owned_by.casefold(),
    ):
        return False
    if query.search is not None and not any(
        query.search in text.casefold() for text in (model.id, info.name, info.description)
    ):
        return False
    if query.category is not None and category_of(info) != query.category:
        return False
    if query.capabilities:
        capabilities = capabilities_of(info)
        if not all(capabilities[name] for name in query.capabilities):
            return False
    return _is_within(price_per_thousand(info), query)


def _is_within(price: Decimal | None, query: ModelQuery) -> bool:
    if query.min_price is None and query.max_price is None:
        return True
    if price is None:
        return False
    least, most = query.min_price or Decimal(0), query.max_price
    return price >= least and (most is None or price <= most)


def _sorted(models: list[Shown], order: str, counts: Counts) -> list[Shown]:
    """Sort; models without a known price come last, whichever way prices are sorted."""
    by_name = sorted(models, key=lambda model: (model.entry.info.name.casefold(), model.id))
    if order == "name":
        return by_name
    if order == "newest":
        return sorted(by_name, key=lambda model: -model.entry.info.created)
    if order == "popularity":
        return sorted(by_name, key=lambda model: -counts.get((model.entry.provider, model.entry.info.id), 0))
    sign = 1 if order == "price_low" else -1

    def rank(model: Shown) -> tuple[bool, Decimal]:
        price = price_per_thousand(model.entry.info)
        return price is None, sign * (price or Decimal(0))

    return sorted(by_name, key=rank)


def _price_range(models: Sequence[Shown]) -> dict[str, float | None]:
    prices = [price for model in models if (price := price_per_thousand(model.entry.info)) is not None]
    if not prices:
        return {"average": None, "min": None, "max": None}
    average = sum(prices, Decimal(0)) / len(prices)
    return {"average": float(average), "min": float(min(prices)), "max": float(max(prices))}
