"""How a model looks from outside: the shape that the web frontend reads, with prices in USD per 1,000 tokens.

The provider's own words decide; what it does not say is null. Prices of pictures are per picture.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from plugins.contract import ModelInfo, Price
from proxy.core.routing import Entry

CATEGORIES = ("text-only", "multimodal", "code", "image", "audio")
CAPABILITIES = ("text", "image", "audio", "video", "code", "function_calling")

_CODE = re.compile(r"(?i)(?:^|[^a-z])(?:code|codex|codestral|devstral)(?:[^a-z]|$)|coder|codellama")
_SIZE = re.compile(r"(?i)(?<![a-z0-9.])(\d+(?:\.\d+)?(?:x\d+)?b)(?![a-z0-9])")
_PER_THOUSAND = 1000
_PER_MILLION = 1_000_000


def category_of(info: ModelInfo) -> str:
    """Put a model into one category: what it makes decides, then what it is made for, then what it takes."""
    made, taken = set(info.output_modalities), set(info.input_modalities)
    if "image" in made:
        return "image"
    if "audio" in made or (taken and "text" not in taken and "audio" in taken):
        return "audio"
    if _is_for_code(info):
        return "code"
    return "multimodal" if taken - {"text"} else "text-only"


def capabilities_of(info: ModelInfo) -> dict[str, bool]:
    """Say what a model takes or makes."""
    either = {*info.input_modalities, *info.output_modalities}
    return {
        "text": "text" in info.output_modalities,
        "image": "image" in either,
        "audio": "audio" in either,
        "video": "video" in either,
        "code": _is_for_code(info),
        "function_calling": "tools" in info.supported_parameters,
    }


def price_per_thousand(info: ModelInfo) -> Decimal | None:
    """Return the input price that lists are filtered and sorted by; `None` when it is not known."""
    return None if info.price is None else info.price.prompt * _PER_THOUSAND


def view_model(
    entry: Entry, public_id: str, *, usage: int, is_favorite: bool, can_use: bool
) -> dict[str, Any]:
    """Render a catalogue entry under the id by which `POST /api/chat` knows it."""
    info = entry.info
    return {
        "id": public_id,
        "modelId": public_id,
        "name": info.name or info.id,
        "provider": entry.provider,
        "ownedBy": info.owned_by or entry.provider,
        "description": info.description or "",
        "category": category_of(info),
        "capabilities": capabilities_of(info),
        "pricing": _pricing(info.price),
        "limits": {
            "maxTokens": info.max_output_tokens,
            "contextLength": info.context_length,
            "rateLimit": None,
        },
        "metadata": {
            "architecture": None,
            "parameterCount": _size_of(info.id),
            "tags": list(info.supported_parameters),
            "inputModalities": list(info.input_modalities),
            "outputModalities": list(info.output_modalities),
            "popularity": {"usage": usage},
            "performance": {"speed": None, "quality": None, "efficiency": None},
            "createdAt": info.created or None,
        },
        "status": entry.status,
        "isAvailable": entry.is_available,
        "tier": entry.tier,
        "isFree": entry.tier == "free",
        "isFavorite": is_favorite,
        "canUse": can_use,
    }


def _pricing(price: Price | None) -> dict[str, Any]:
    """Render a price; the frontend takes a model for free when input, output and image are all 0."""
    if price is None:
        amounts: dict[str, Any] = dict.fromkeys(("input", "output", "image", "audio"))
        exact: dict[str, Any] = dict.fromkeys(("inputPerMillion", "outputPerMillion", "perRequest"))
    else:
        amounts = {
            "input": float(price.prompt * _PER_THOUSAND),
            "output": float(price.completion * _PER_THOUSAND),
            "image": float(price.image or 0),
            "audio": float((price.audio or 0) * _PER_THOUSAND),
        }
        exact = {
            "inputPerMillion": float(price.prompt * _PER_MILLION),
            "outputPerMillion": float(price.completion * _PER_MILLION),
            "perRequest": float(price.request),
        }
    return {**amounts, "unit": "USD per 1K tokens", "currency": "USD", **exact}


def _is_for_code(info: ModelInfo) -> bool:
    return _CODE.search(info.id) is not None


def _size_of(model: str) -> str | None:
    found = _SIZE.search(model)
    return None if found is None else found[1].upper()
