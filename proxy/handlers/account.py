"""`GET /v1/key` and `GET /v1/requests/{id}`: what a key may and has used, and one request explained."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson
from sanic import HTTPResponse, Request

from plugins.contract import Price
from proxy.auth import Caller
from proxy.blueprint import Blueprint
from proxy.core.networks import write_network
from proxy.core.pricing import from_pico
from proxy.core.rules import Demand, Kind, Rule, rules_of
from proxy.documents import EVENTS
from proxy.errors import NotFound
from proxy.gateway import gateway_of
from proxy.handlers.caller import caller_of
from proxy.metering.contract import Standing
from proxy.metering.event import correction_id

blueprint = Blueprint("account", url_prefix="/v1")

_FREE = Price(Decimal(0), Decimal(0))
_PERIODS = {"i": "minute", "d": "day", "w": "week", "m": "month", "e": "total"}
_SURCHARGES = frozenset({"audio", "audioOutput", "imageOutput"})
_UNLESS_FREE = _SURCHARGES | {"request"}
"""What has a line only where it costs something."""

_KINDS = {Kind.REQUESTS: "requests", Kind.TOKENS: "tokens", Kind.COST: "usd", Kind.CONCURRENCY: "concurrent"}


@blueprint.get("/key")
async def describe_key(request: Request) -> HTTPResponse:
    """Say what the key may use, what it and its user have used, and when each window ends."""
    gateway = gateway_of(request)
    caller = await caller_of(request)
    now = gateway.clock()
    standing = await gateway.meter.standing(caller.user_id, now)
    body = {
        "object": "key",
        "id": caller.key_id,
        "role": caller.role,
        "permissions": sorted(caller.permissions),
        "allowed_models": None if caller.allowed_models is None else sorted(caller.allowed_models),
        "allowed_ips": [write_network(network) for network in caller.allowed_networks] or None,
        "expires_at": caller.expires_at,
        "on_disconnect": caller.on_disconnect,
        "limits": [_describe(rule, standing) for rule in _rules(caller, now)],
    }
    return _json(body)


@blueprint.get("/requests/<request_id>")
async def explain_request(request: Request, request_id: str) -> HTTPResponse:
    """Explain one request of the key's owner: attempts, route, times, tokens, and its cost line by line."""
    gateway = gateway_of(request)
    caller = await caller_of(request)
    await gateway.meter.flush()
    events = gateway.database[EVENTS]
    related = {"_id": {"$in": [request_id, correction_id(request_id)]}, "userId": caller.user_id}
    found = await events.find(related).sort([("kind", -1), ("_id", 1)]).to_list(10)
    if not found or found[0]["_id"] != request_id:
        raise NotFound("There is no such request of yours.", code="request_not_found")
    event, corrections = found[0], found[1:]
    return _json({**_explain(event), "corrections": [_explain(correction) for correction in corrections]})


def _rules(caller: Caller, now: datetime) -> tuple[Rule, ...]:
    # The price does not matter here: only the limits and their windows are read from the rules.
    from_nothing = Demand(0, _FREE)
    return rules_of(caller.limits, caller.key_id, caller.key_limits, from_nothing, now)


def _describe(rule: Rule, standing: Standing) -> dict[str, Any]:
    used, held = standing.counters.get(rule.counter, (0, 0))

    def amount(value: int) -> int | str:
        return format(from_pico(value), "f") if rule.kind is Kind.COST else value

    return {
        "scope": "key" if rule.is_of_key else "user",
        "counts": _KINDS[rule.kind],
        "window": _PERIODS[rule.period],
        "limit": amount(rule.limit),
        "used": amount(used),
        "held": amount(held),
        "remaining": amount(max(0, rule.limit - used)),
        "resets_at": rule.ends,
    }


def _explain(event: dict[str, Any]) -> dict[str, Any]:
    tokens = event["tokens"]
    cached, written = tokens["cached"], tokens["cacheWrite"]
    return {
        "id": event["_id"],
        "object": "request",
        "kind": event["kind"],
        "created_at": event["at"],
        "outcome": event["outcome"],
        "stream": event["stream"],
        "route": {
            "requested_model": event["requestedModel"],
            "provider": event["provider"],
            "model": event["model"],
            "served_model": event["servedModel"],
            "backing": event["backing"],
            "generation_id": event["generationId"],
        },
        "attempts": [
            {
                "provider": attempt["provider"],
                "model": attempt["model"],
                "outcome": attempt["outcome"],
                "status": attempt["status"],
                "started_at": attempt["startedAt"],
                "milliseconds": attempt["milliseconds"],
            }
            for attempt in event["attempts"]
        ],
        "times": {"first_token_ms": event["firstTokenMs"], "total_ms": event["totalMs"]},
        "tokens": {
            "prompt": tokens["prompt"],
            "prompt_uncached": tokens["prompt"] - cached - written,
            "prompt_cached": cached,
            "prompt_cache_write": written,
            "prompt_cache_write_1h": tokens.get("cacheWrite1h", 0),
            "prompt_audio": tokens.get("audio", 0),
            "completion": tokens["completion"],
            "completion_reasoning": tokens["reasoning"],
            "completion_audio": tokens.get("audioOutput", 0),
            "completion_image": tokens.get("imageOutput", 0),
        },
        "cost": {
            "usd": _text(event["costUsd"]),
            "inr": _text(event["costInr"]),
            "usd_inr_rate": _text(event["usdInrRate"]),
            "source": event["costSource"],
            "price_version": event["priceVersion"],
            "estimated": event["estimated"],
            "over_hold": event["overHold"],
            "lines": _lines(event),
        },
        "counted": event["windows"],
    }


def _lines(event: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Multiply the tokens by the prices in effect; a provider's own figure may differ from the sum, and wins.

    Sound and pictures are in the lines of the text's tokens, and have another one for what they cost above those.
    """
    price, tokens = event["price"], event["tokens"]
    if price is None:
        return []
    lasting = tokens.get("cacheWrite1h", 0)
    counts = {
        "prompt": tokens["prompt"] - tokens["cached"] - tokens["cacheWrite"],
        "cached": tokens["cached"],
        "cacheWrite": tokens["cacheWrite"] - lasting,
        "cacheWrite1h": lasting,
        "audio": tokens.get("audio", 0),
        "completion": tokens["completion"],
        "audioOutput": tokens.get("audioOutput", 0),
        "imageOutput": tokens.get("imageOutput", 0),
        "request": 1,
    }
    lines = []
    for name, count in counts.items():
        each = Decimal(price.get(name, 0))
        if count and (each or name not in _UNLESS_FREE):
            line = {
                "item": f"{name}Surcharge" if name in _SURCHARGES else name,
                "count": count,
                "usd_each": format(each, "f"),
                "usd": format(count * each, "f"),
            }
            lines.append(line)
    return lines


def _text(amount: Any) -> str | None:
    """Write an amount with all its digits: a JSON number would lose some."""
    if amount is None:
        return None
    exact: Decimal = amount.to_decimal()
    return format(exact, "f")


def _json(body: object) -> HTTPResponse:
    return HTTPResponse(orjson.dumps(body, option=orjson.OPT_UTC_Z), content_type="application/json")
