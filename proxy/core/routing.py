"""Routing: from the model that a request names to the providers that may serve it, in order.

An id is looked for, in this order, as an alias of the operator; as an exact id in the catalogue; behind a
provider's name (`huggingface/org/name`); and then the same without a routing suffix (`:nitro`, `:groq`). The
tier always comes from the catalogue's record, never from the string that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Any

from msgspec import field
from msgspec.structs import force_setattr, replace

from plugins.contract import ModelInfo, Price, Provider
from plugins.values import Value
from proxy.core import fields
from proxy.core.api import ApiRequest
from proxy.core.pricing import dearest
from proxy.errors import InvalidRequest, NotFound, PaidModel, PermissionDenied, Unavailable

_FREE = Price(Decimal(0), Decimal(0))
_MOST_WAYS = 1_000


class Tier(StrEnum):
    """Who may use a model: everybody, or premium users and admins."""

    FREE = "free"
    PAID = "paid"


class Role(StrEnum):
    """A user's role, as the account API spells it."""

    USER = "user"
    PREMIUM = "premium"
    ADMIN = "admin"

    @property
    def may_pay(self) -> bool:
        """Say whether this role may use what costs money."""
        return self is not Role.USER


class Entry(Value, frozen=True):
    """One model of one provider in the catalogue."""

    provider: str
    info: ModelInfo
    tier: Tier
    price_version: str | None = None
    is_available: bool = True
    is_declared_free: bool = False
    status: str = "active"
    dearest: Price | None = None
    """The highest price that can apply, field by field, at which requests are held."""

    def __post_init__(self) -> None:
        """Work out once what every request asks for."""
        force_setattr(self, "dearest", dearest([self.price]))

    @property
    def price(self) -> Price | None:
        """Return the price to hold at: the provider's, or nothing where the operator declares it free."""
        return _FREE if self.info.price is None and self.is_declared_free else self.info.price


class Target(Value, frozen=True):
    """Where to send a request: a catalogue entry, and the id to ask its provider for (with any suffix).

    `timeouts` are those, by name and in seconds, that are not its provider's.
    """

    entry: Entry
    model: str
    timeouts: Mapping[str, float] = field(default_factory=dict)


class Member(Value, frozen=True):
    """One target of a name that the operator has made: a model's id, and the timeouts that are not its provider's."""

    model: str
    timeouts: Mapping[str, float] = field(default_factory=dict)


class Catalogue(Value, frozen=True):
    """Every known model, by provider (in configured order) and id; never changed, only replaced."""

    providers: Mapping[str, Provider]
    entries: Mapping[str, Mapping[str, Entry]]
    aliases: Mapping[str, Sequence[Member]] = field(default_factory=dict)

    def find(self, model: str) -> list[Target]:
        """Return the targets that `model` names, in order; empty when there are none."""
        if model in self.aliases:
            return [
                replace(target, timeouts=member.timeouts)
                for member in self.aliases[model]
                for target in self._find_id(member.model)
            ]
        return self._find_id(model)

    def all(self) -> Iterable[Entry]:
        """Iterate over the available entries; a provider earlier in the order shadows a later one's same id."""
        seen = set()
        for entries in self.entries.values():
            for model, entry in entries.items():
                if entry.is_available and model not in seen:
                    seen.add(model)
                    yield entry

    def _find_id(self, model: str) -> list[Target]:
        prefix, _, rest = model.partition("/")
        prefixed = prefix in self.providers and bool(rest)
        return (
            self._exact(model, self.entries)
            or (self._exact(rest, [prefix]) if prefixed else [])
            or self._without_suffix(model, self.entries)
            or (self._without_suffix(rest, [prefix]) if prefixed else [])
        )

    def _exact(self, model: str, providers: Iterable[str]) -> list[Target]:
        found = (self.entries.get(provider, {}).get(model) for provider in providers)
        return [Target(entry, model) for entry in found if entry is not None and entry.is_available]

    def _without_suffix(self, model: str, providers: Iterable[str]) -> list[Target]:
        targets = []
        for provider in providers:
            base = self.providers[provider].base_id(model)
            if base is not None:
                targets += [Target(target.entry, model) for target in self._exact(base, [provider])]
        return targets


class Way(Value, frozen=True):
    """The targets of a request, in order, and what holds for all of them.

    `context_length` and `max_output_tokens` are the largest, or `None` where one is unknown and so may be larger;
    `price` is the dearest, field by field, or `None` where one has none. `paid_extras` are those of the request, and what
    the operator's own name for a target brings with it.
    """

    targets: tuple[Target, ...]
    context_length: int | None
    max_output_tokens: int | None
    price: Price | None
    paid_extras: tuple[str, ...]


class Ways:
    """The ways through one catalogue; those that are asked for again and again are worked out once."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Know none yet."""
        self.catalogue = catalogue
        self._known: dict[object, Way] = {}

    def find(self, request: ApiRequest, role: Role, allowed_models: frozenset[str] | None) -> Way:
        """Return the way for a request; raise what `route` does."""
        if request.models or request.paid_extras:
            return _way(request, route(request, self.catalogue, role, allowed_models))
        key = (request.model, request.form.api, role, allowed_models)
        way = self._known.get(key)
        if way is None:
            way = _way(request, route(request, self.catalogue, role, allowed_models))
            if len(self._known) >= _MOST_WAYS:
                self._known.clear()
            self._known[key] = way
        return way


def route(
    request: ApiRequest, catalogue: Catalogue, role: Role, allowed_models: frozenset[str] | None
) -> list[Target]:
    """Return the targets for a request, all of which its caller may use.

    Every id in `models` passes the same checks as `model`. Raises `NotFound`, `PermissionDenied` (role, or the
    key's allowed models), `InvalidRequest` (no provider of these models has the API), or `Unavailable` while no
    catalogue has been read yet.
    """
    targets: dict[tuple[str, str], Target] = {}
    for model in dict.fromkeys((request.model, *request.models)):
        for target in _permitted(model, catalogue, role, allowed_models):
            targets.setdefault((target.entry.provider, target.model), target)
    extras = () if role.may_pay else _paid_extras(request, targets.values())
    if extras:
        names = ", ".join(f"`{name}`" for name in extras)
        raise PaidModel(
            f"{names} costs extra and needs a premium account.", details={"requiredPlan": Role.PREMIUM}
        )
    api = request.form.api
    able = [target for target in targets.values() if api in catalogue.providers[target.entry.provider].apis]
    if not able:
        message = f"No provider of the model `{request.model}` has the API `{api}`."
        raise InvalidRequest(message, param="model", code="api_not_supported")
    return able


def with_native_models(
    body: Mapping[str, Any], targets: Sequence[Target], target: Target
) -> Mapping[str, Any]:
    """Return the body with `models` as the target's provider knows them: no prefix, no alias, nobody else's."""
    if "models" not in body:
        return body
    position = targets.index(target)
    mine = [each.model for each in targets[position:] if each.entry.provider == target.entry.provider]
    natives = list(dict.fromkeys(mine))
    if target.model not in (body["models"] or ()):
        natives.remove(target.model)
    others = {name: value for name, value in body.items() if name != "models"}
    return {**others, "models": natives} if natives else others


def may_use(entry: Entry, role: Role, allowed_models: frozenset[str] | None, asked: str) -> bool:
    """Say whether a caller may use an entry under the name that he asks for."""
    return (entry.tier is Tier.FREE or role.may_pay) and _is_allowed(entry, allowed_models, asked)


def unknown_model(model: str) -> NotFound:
    """Make the error for a model that does not exist, or that the caller may not know of."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return NotFound(message, code="model_not_found", param="model")


def unpriced(model: str) -> InvalidRequest:
    """Make the error for a model without a known price, asked for by a key whose money is limited."""
    message = f"The model `{model}` has no known price, and this API key has a budget."
    return InvalidRequest(message, code="model_not_priced", param="model")


def unbounded(extras: Iterable[str]) -> InvalidRequest:
    """Make the error for what costs extra without a bound, asked for by a key whose money is limited."""
    names = ", ".join(f"`{name}`" for name in extras)
    message = f"What {names} costs has no bound here, and this API key has a budget."
    return InvalidRequest(message, code="extras_not_bounded")


def _permitted(
    model: str, catalogue: Catalogue, role: Role, allowed_models: frozenset[str] | None
) -> list[Target]:
    found = catalogue.find(model)
    if not found:
        if not any(catalogue.entries.values()):
            raise Unavailable("The model catalogue has not been read from any provider yet.", retry_after=5)
        raise unknown_model(model)
    named = [target for target in found if _is_allowed(target.entry, allowed_models, model)]
    if not named:
        raise PermissionDenied(
            f"This API key may not use the model `{model}`.", code="model_not_allowed", param="model"
        )
    usable = [target for target in named if target.entry.tier is Tier.FREE or role.may_pay]
    if not usable:
        raise PaidModel(
            f"The model `{model}` needs a premium account.",
            param="model",
            details={"requiredPlan": Role.PREMIUM},
        )
    return usable


def _paid_extras(request: ApiRequest, targets: Iterable[Target]) -> tuple[str, ...]:
    """Name what costs extra: what the body asks for, and a suffix that an alias leads to."""
    known = request.paid_extras
    is_online = fields.ONLINE not in known and any(fields.ONLINE in target.model for target in targets)
    return (*known, fields.ONLINE) if is_online else known


def _way(request: ApiRequest, targets: Sequence[Target]) -> Way:
    entries = [target.entry for target in targets]
    return Way(
        tuple(targets),
        _largest([entry.info.context_length for entry in entries]),
        _largest([entry.info.max_output_tokens for entry in entries]),
        dearest([entry.dearest for entry in entries]),
        _paid_extras(request, targets),
    )


def _largest(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def _is_allowed(entry: Entry, allowed_models: frozenset[str] | None, asked: str) -> bool:
    return allowed_models is None or not allowed_models.isdisjoint(
        (asked, entry.info.id, f"{entry.provider}/{entry.info.id}")
    )
