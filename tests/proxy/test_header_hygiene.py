"""Tests of the headers that cross the gateway: of a caller's none goes up, of a provider's none comes down."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.core.routing import Role
from tests.gateway import provider_settings, running_gateway
from tests.proxy.stage import MINI, OSS, PLAIN, Stage, ask, staged
from tests.upstreams import Behaviour, OpenRouter, serving

FROM_THE_CALLER = {
    # hop by hop
    "Connection": "keep-alive, X-Secret-Hop",
    "Keep-Alive": "timeout=5",
    "Proxy-Authorization": "Basic Zm9vOmJhcg==",
    "TE": "trailers",
    "X-Secret-Hop": "1",
    # credentials and identities
    "Cookie": "jwt=canary",
    "X-Api-Key": "canary",
    "Api-Key": "canary",
    "OpenAI-Organization": "canary",
    "OpenAI-Project": "canary",
    "X-HF-Bill-To": "canary",
    "Anthropic-Beta": "canary",
    # where the request comes from and goes to
    "Forwarded": "for=canary",
    "X-Forwarded-For": "10.9.8.7",
    "X-Forwarded-Host": "canary.example",
    "X-Real-IP": "10.9.8.7",
    "Via": "1.1 canary",
    "Origin": "http://localhost:3000",
    "Referer": "https://canary.example",
    # what a provider would act on
    "HTTP-Referer": "https://canary.example",
    "X-OpenRouter-Title": "canary",
    "X-Title": "canary",
    "X-OpenRouter-Cache": "true",
    "X-OpenRouter-Metadata": "enabled",
    "X-Session-Id": "canary",
    "Idempotency-Key": "canary",
    "Accept-Encoding": "gzip, br",
    "User-Agent": "canary/1",
    "X-Request-Id": "canary",
    "X-Stainless-Retry-Count": "1",
}
"""What a caller may send; none of it is a provider's business."""

GO_UP = {"host", "accept", "authorization", "accept-encoding", "content-type", "content-length"}
ATTRIBUTION = {"http-referer", "x-openrouter-title"}

FROM_THE_PROVIDER = {
    "Set-Cookie": "canary=1; Path=/",
    "Server": "canary",
    "Via": "1.1 canary",
    "X-Powered-By": "canary",
    "CF-Ray": "canary",
    "X-Generation-Id": "gen-canary",
    "X-Provider-Name": "canary",
    "X-RateLimit-Limit": "123456",
    "X-RateLimit-Remaining-Requests": "123456",
    "OpenAI-Organization": "canary",
    "Access-Control-Allow-Origin": "https://canary.example",
    "Strict-Transport-Security": "max-age=1",
    "Content-Security-Policy": "canary",
    "Location": "https://canary.example",
    "WWW-Authenticate": "Bearer realm=canary",
    "Alt-Svc": "canary",
    "Trailer": "X-Canary",
    "X-Should-Retry": "true",
    "X-Request-Id": "canary",
}
"""What a provider may send; our answers say none of it in its words."""


@pytest.mark.parametrize("model", [MINI, f"huggingface/{OSS}", PLAIN])
async def test_no_header_of_a_caller_goes_up(mongodb_uri: str, model: str) -> None:
    """A provider sees our headers and no other; the caller sets neither the authorization nor the host."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        response = await stage.gateway.chat(key, ask(model), headers=FROM_THE_CALLER)
        assert response.status_code == 200, response.text
        upstream = next(each for each in (stage.openrouter, stage.huggingface, stage.plain) if each.books)
        seen = {name.lower(): value for name, value in upstream.books[0].headers.items()}
        assert seen.keys() <= GO_UP, seen.keys() - GO_UP
        assert seen["host"] == upstream.root_url.removeprefix("http://")
        assert key not in str(seen)
        assert "canary" not in str(seen).replace("sk-or-v1-canary", "").replace("hf_canary", "")
        assert seen["accept-encoding"] == "identity"


async def test_no_header_of_a_provider_comes_down(mongodb_uri: str) -> None:
    """A whole answer, a stream and a refusal carry our headers, whatever the provider's say."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        for behaviour, stream in (
            (Behaviour(headers=FROM_THE_PROVIDER), False),
            (Behaviour(headers=FROM_THE_PROVIDER), True),
            (Behaviour(headers=FROM_THE_PROVIDER, error="503_documented"), False),
        ):
            await check_answer(stage, key, behaviour, stream=stream)


async def check_answer(stage: Stage, key: str, behaviour: Behaviour, *, stream: bool) -> None:
    stage.openrouter.script.enqueue(behaviour)
    response = await stage.gateway.chat(key, ask(MINI, stream=stream))
    said = {name.lower(): value for name, value in response.headers.items()}
    assert "canary" not in str(said)
    assert "123456" not in said.values()
    assert "set-cookie" not in said
    assert said["x-request-id"].startswith("req_")
    assert said.get("x-should-retry") in (None, "false")


async def test_a_provider_knows_the_application(mongodb_uri: str) -> None:
    """`app_url` and `app_title` are sent to OpenRouter, where the operator has set them."""
    upstream = OpenRouter()
    labels: dict[str, Any] = {"app_url": "https://app.example.com", "app_title": "Example"}
    async with serving(upstream):
        providers = {"openrouter": provider_settings("openrouter", upstream.base_url, **labels)}
        keys = {"openrouter": ("sk-or-v1-x",)}
        async with running_gateway(mongodb_uri, providers, provider_keys=keys) as gateway:
            key = await gateway.key(role=Role.PREMIUM)
            assert (await gateway.chat(key, ask(MINI), headers=FROM_THE_CALLER)).status_code == 200
    seen = {name.lower(): value for name, value in upstream.books[0].headers.items()}
    assert seen.keys() - GO_UP == ATTRIBUTION
    assert (seen["http-referer"], seen["x-openrouter-title"]) == ("https://app.example.com", "Example")
