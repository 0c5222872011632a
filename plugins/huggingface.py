"""Hugging Face's router: one id, several backings at prices of their own, and no cost in any answer.

Law: what is held and estimated is the highest price among the live backings; the answer's header names the real one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from plugins.contract import (
    Api,
    ApiCall,
    Failure,
    FailureKind,
    Head,
    Json,
    ModelInfo,
    Offering,
    Price,
    UpstreamRequest,
    Usage,
)
from plugins.openai_compatible import OpenAICompatible, seconds
from plugins.reading import amount, count, get, text

# OpenRouter's words about routing; here the routing is in the id's suffix.
FOREIGN_FIELDS = ("models", "provider", "plugins", "route", "transforms")
MILLIONTH = -6
NOBODYS_MODEL = "aipasta/there-is-no-such-model"
STATUS_FIRST = re.compile(r"([45]\d\d)\s")
# The hub's own limit answers with IETF's header, `"api";r=0;t=55`, and without Retry-After.
RESET = re.compile(r";\s*t=(\d+)")


class HuggingFace(OpenAICompatible):
    """The router at router.huggingface.co."""

    APIS = frozenset({Api.CHAT, Api.RESPONSES, Api.MESSAGES})

    def body(self, call: ApiCall) -> Json:
        """Leave out what only OpenRouter understands."""
        body = super().body(call)
        return {key: body[key] for key in body if key not in FOREIGN_FIELDS}

    def cap_field(self, body: Mapping[str, Any]) -> str:  # noqa: ARG002 - the signature of the class above
        """Choose max_tokens always: the router's specification knows no other."""
        return "max_tokens"

    def read_model(self, entry: Json) -> ModelInfo:
        """Add the live offerings; what is free is the operator's decision, for nothing here is."""
        model = super().read_model(entry)
        providers = get(entry, "providers")
        found = (
            [_offering(each) for each in providers if _is_live(each)] if isinstance(providers, list) else []
        )
        lengths = [each.context_length for each in found if each.context_length]
        return replace(
            model,
            price=_highest([each.price for each in found if each.price]),
            owned_by=model.owned_by or model.id.partition("/")[0],
            context_length=max(lengths, default=model.context_length),
            offerings=tuple(found),
        )

    def read_head(self, headers: Mapping[str, str]) -> Head:
        """Read which backing the router chose."""
        return Head(backing=headers.get("x-inference-provider"))

    def read_usage(self, frame: Json) -> Usage | None:
        """Drop any cost: the router passes bodies through unchanged, and bills by its own list."""
        usage = super().read_usage(frame)
        return usage and replace(usage, cost=None, upstream_cost=None, is_byok=False)

    def read_error(self, frame: Json) -> Failure | None:
        """Judge by the status that /responses puts before the words of what failed, in an answer with status 200."""
        failure = super().read_error(frame)
        status = STATUS_FIRST.match(failure.message) if failure else None
        if failure is None or status is None:
            return failure
        return super().read_error({"error": {"code": status[1], "message": failure.message}})

    def read_failure(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """Read the hub's own wait where the plain one is missing."""
        failure = super().read_failure(status, headers, body)
        reset = RESET.search(headers.get("ratelimit", ""))
        if failure.kind is not FailureKind.RATE_LIMIT or failure.retry_after is not None or reset is None:
            return failure
        return replace(failure, retry_after=seconds(reset[1]))

    def key_request(self, api_key: str) -> UpstreamRequest:
        """Ask a model that nobody has: the router looks at the key before it looks for the model."""
        body = {"messages": [{"role": "user", "content": "hi"}]}
        return self.api_request(ApiCall(body, NOBODYS_MODEL, stream=False, max_tokens=1), api_key)

    def base_id(self, model: str) -> str | None:
        """Strip the suffix, a policy (`:fastest`) or a backing (`:groq`)."""
        base, _, suffix = model.rpartition(":")
        return base if base and suffix else None

    def stops_billing(self, backing: str | None) -> bool:  # noqa: ARG002 - the contract's signature
        """Say no: nothing is published about it."""
        return False


def _is_live(entry: object) -> bool:
    return bool(text(get(entry, "provider"))) and get(entry, "status") in (None, "live")


def _offering(entry: Json) -> Offering:
    pricing = get(entry, "pricing")
    prompt, completion = amount(get(pricing, "input")), amount(get(pricing, "output"))
    price = None
    if prompt is not None and completion is not None:
        price = Price(prompt.scaleb(MILLIONTH), completion.scaleb(MILLIONTH))
    return Offering(entry["provider"], price, count(get(entry, "context_length")) or None)


def _highest(prices: list[Price]) -> Price | None:
    if not prices:
        return None
    return Price(max(each.prompt for each in prices), max(each.completion for each in prices))
