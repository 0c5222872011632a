"""Tests of plugins/bodies.py: what is asked of a provider in each of its APIs."""

from __future__ import annotations

import tracemalloc
from decimal import Decimal
from typing import Any

import orjson
import pytest

from plugins.bodies import written
from plugins.contract import Api, ApiCall, Price, Provider, ProviderOptions
from plugins.demo import Demo
from plugins.huggingface import HuggingFace
from plugins.openai_compatible import OpenAICompatible
from plugins.openrouter import OpenRouter

ROUTER = OpenRouter(ProviderOptions("openrouter"))
HUB = HuggingFace(ProviderOptions("huggingface"))
PLAIN = OpenAICompatible(ProviderOptions("plain"))
PATHS = {
    Api.CHAT: "/chat/completions",
    Api.EMBEDDINGS: "/embeddings",
    Api.RESPONSES: "/responses",
    Api.MESSAGES: "/messages",
}


def sent(provider: Provider, call: ApiCall) -> dict[str, Any]:
    """Decode what is sent for a call."""
    body: dict[str, Any] = orjson.loads(provider.api_request(call, "key").body)
    return body


def test_who_has_what() -> None:
    """OpenRouter has every API, Hugging Face no embeddings, the demo chat alone, a plain server what is configured."""
    assert ROUTER.apis == set(Api)
    assert HUB.apis == {Api.CHAT, Api.RESPONSES, Api.MESSAGES}
    assert Demo(ProviderOptions("demo")).apis == {Api.CHAT}
    assert PLAIN.apis == {Api.CHAT, Api.EMBEDDINGS}
    some = ProviderOptions("plain", extra={"apis": ["chat", "messages"]})
    assert OpenAICompatible(some).apis == {Api.CHAT, Api.MESSAGES}
    for wrong in (["chats"], "chat", [1]):
        with pytest.raises(ValueError, match="is not a valid Api"):
            OpenAICompatible(ProviderOptions("plain", extra={"apis": wrong}))


@pytest.mark.parametrize("api", Api)
def test_the_way_to_an_api(api: Api) -> None:
    """Each API has its path and its headers, with the provider's key."""
    request = ROUTER.api_request(ApiCall({}, "m", stream=False, max_tokens=1, api=api), "key")
    assert (request.method, request.path) == ("POST", PATHS[api])
    assert request.headers["Authorization"] == "Bearer key"
    assert ("anthropic-version" in request.headers) == (api is Api.MESSAGES)


@pytest.mark.parametrize(
    ("api", "cap"),
    [(Api.RESPONSES, {"max_output_tokens": 7}), (Api.MESSAGES, {"max_tokens": 7}), (Api.EMBEDDINGS, None)],
)
def test_the_body_of_an_api(api: Api, cap: dict[str, int] | None) -> None:
    """The caller's body stays as it is, but for the model, the cap under its name, and whether to stream."""
    body = {"x": [1], "model": "his", "max_tokens": 99, "max_output_tokens": 99, "stream": None}
    call = ApiCall(body, "ours", stream=True, max_tokens=7, api=api)
    expected = {**body, "model": "ours"}
    del expected["stream"]
    if cap is not None:
        expected |= {**cap, "stream": True}
    assert sent(PLAIN, call) == expected
    assert next(iter(sent(PLAIN, call))) == "model"
    uncapped = sent(PLAIN, ApiCall({}, "m", stream=False, max_tokens=None, api=api))
    assert uncapped == {"model": "m"} | ({} if cap is None else {"stream": False})
    assert PLAIN.translator(call) is None


def test_routers_say_in_every_api_what_they_say_in_chat() -> None:
    """OpenRouter gets the highest price that is held for, Hugging Face none of OpenRouter's words."""
    body = {"input": "x", "models": ["a"], "provider": {"only": ["b"]}}
    for api in (Api.EMBEDDINGS, Api.RESPONSES, Api.MESSAGES):
        price = Price(Decimal("0.000001"), Decimal("0.000002"))
        call = ApiCall(body, "m", stream=False, max_tokens=5, max_price=price, api=api)
        assert sent(ROUTER, call)["provider"] == {
            "only": ["b"],
            "max_price": {"prompt": "1", "completion": "2", "request": "0"},
        }
        assert not {"models", "provider"} & sent(HUB, call).keys()


def test_embedding_models_are_listed_too() -> None:
    """OpenRouter's list is asked for models of text and of embeddings."""
    assert ROUTER.models_request(None).path == "/models?output_modalities=text,embeddings"


def test_a_body_takes_no_more_memory_than_it_has_bytes() -> None:
    """A request may wait for minutes, and orjson begins with many times what it needs."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 100_000}]}
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        made = written(body)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert orjson.loads(made) == body
    assert after - before < len(made) + 1000
