"""Tests of proxy/reconcile.py."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from plugins.contract import ProviderOptions
from plugins.openai_compatible import OpenAICompatible
from plugins.openrouter import OpenRouter
from proxy.reconcile import Reconciler
from proxy.relay import Endpoint, Relay
from proxy.routes import Timeouts

RECORD = {
    "data": {"id": "gen-1", "native_tokens_prompt": 13, "native_tokens_completion": 1, "total_cost": 0.1}
}
Answer = Callable[[], httpx.Response]


class Provider(httpx.AsyncBaseTransport):
    """Answers each request with what the next function of a list makes; the last one answers for ever."""

    def __init__(self, *answers: Answer) -> None:
        """Answer with these."""
        self._answers = list(answers)
        self.asked = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:  # noqa: ARG002  the transport's signature
        """Answer one request."""
        self.asked += 1
        return self._answers.pop(0)() if len(self._answers) > 1 else self._answers[0]()


def reconciler(provider: Provider, *, patience: float) -> Reconciler:
    plugin = OpenRouter(ProviderOptions("openrouter"))
    endpoint = Endpoint(plugin, "http://openrouter.example/api/v1", ("key",), Timeouts(), provider)
    return Reconciler(Relay({"openrouter": endpoint}), patience=patience)


def there_is_none_yet() -> httpx.Response:
    return httpx.Response(404, json={"error": {"code": 404, "message": "Generation not found"}})


def the_process_is_stopped() -> httpx.Response:
    time.sleep(0.6)
    raise httpx.ReadError("the provider has hung up long ago")


async def test_it_asks_until_there_is_a_record() -> None:
    """A record that appears within the patience is the answer."""
    provider = Provider(there_is_none_yet, lambda: httpx.Response(200, json=RECORD))
    usage = await reconciler(provider, patience=5).resolve("openrouter", "gen-1")
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, str(usage.cost)) == (13, 1, "0.1")


async def test_a_stopped_process_asks_once_more() -> None:
    """A process that was stopped beyond the patience in the middle of a question asks again when it goes on."""
    provider = Provider(the_process_is_stopped, lambda: httpx.Response(200, json=RECORD))
    usage = await reconciler(provider, patience=0.5).resolve("openrouter", "gen-1")
    assert usage is not None
    assert provider.asked == 2


async def test_patience_ends() -> None:
    """A provider that never has a record is left alone, and one that keeps none is not asked at all."""
    provider = Provider(there_is_none_yet)
    assert await reconciler(provider, patience=0.5).resolve("openrouter", "gen-1") is None
    assert 1 < provider.asked < 5
    plain = Endpoint(OpenAICompatible(ProviderOptions("plain")), "http://x", (), Timeouts(), provider)
    asked = provider.asked
    assert await Reconciler(Relay({"plain": plain}), patience=5).resolve("plain", "gen-1") is None
    assert provider.asked == asked
