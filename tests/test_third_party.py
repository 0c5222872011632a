"""A plugin in a package of its own, installed beside the gateway, adds a provider whose API is nobody else's."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from proxy.catalog import CatalogError
from proxy.core.routing import Role
from tests.gateway import RunningGateway, provider_settings, running_gateway
from tests.parrot import ParrotServer, serving_parrot

pytestmark = pytest.mark.long
PACKAGE = Path(__file__).parent / "third_party"
README = Path(__file__).parent.parent / "README.md"
ASKED: dict[str, Any] = {
    "model": "polly",
    "messages": [
        {"role": "system", "content": "Say it again."},
        {"role": "user", "content": "Polly wants a cracker"},
    ],
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Install the package into a directory of its own, which is on the path for a while."""
    source, target = tmp_path_factory.mktemp("source") / "parrot", tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, source)
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    subprocess.run(command, check=True, timeout=120)
    sys.path.insert(0, str(target))
    importlib.invalidate_caches()
    yield
    sys.path.remove(str(target))
    sys.modules.pop("aipasta_parrot", None)
    importlib.invalidate_caches()


@asynccontextmanager
async def talking(mongodb_uri: str) -> AsyncIterator[tuple[RunningGateway, ParrotServer]]:
    """Run a gateway whose one provider is a Parrot."""
    async with serving_parrot() as parrot:
        providers = {"zoo": provider_settings("parrot", parrot.base_url, tier="by_price")}
        async with running_gateway(mongodb_uri, providers, provider_keys={"zoo": ("squawk",)}) as gateway:
            yield gateway, parrot


def sdk(gateway: RunningGateway, key: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key=key, max_retries=0)


@pytest.mark.usefixtures("installed")
async def test_it_serves_and_is_metered(mongodb_uri: str) -> None:
    """Models with prices, whole answers and streams, in OpenAI's form; tokens, cost and balance are Parrot's own."""
    assert [each.value for each in entry_points(group="aipasta.plugins")] == ["aipasta_parrot:Parrot"]
    async with talking(mongodb_uri) as (gateway, parrot):
        key = await gateway.key(role=Role.PREMIUM, totalBudget="0.01")
        async with sdk(gateway, key) as client:
            models = {model.id: model async for model in client.models.list()}
            assert models["captain"].model_extra is not None
            assert models["captain"].model_extra["pricing"]["completion"] == "0.00008"
            whole = await client.chat.completions.create(**ASKED)
            assert (whole.id, whole.created, whole.model) == ("squawk-1", 1_790_000_000, "polly")
            assert whole.choices[0].message.content == "Polly wants a cracker"
            assert whole.usage is not None
            assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 4)
            chunks = [
                chunk
                async for chunk in await client.chat.completions.create(
                    **ASKED, stream=True, max_tokens=3, stream_options={"include_usage": True}
                )
            ]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Polly wants a "
        assert chunks[-2].choices[0].finish_reason == "length"
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 10
        assert parrot.asked[1]["limit"] == 3
        for event, (heard, said, cost) in zip(await gateway.events(), parrot.books, strict=True):
            assert (event["tokens"]["prompt"], event["tokens"]["completion"]) == (heard, said)
            assert event["costUsd"].to_decimal() == cost
            assert (event["costSource"], event["estimated"]) == ("price_table", False)


@pytest.mark.usefixtures("installed")
async def test_whatever_goes_wrong_is_an_error_of_ours(mongodb_uri: str) -> None:
    """Errors, cuts and nonsense end a stream with an error and without [DONE], or are an HTTP error before it."""
    async with talking(mongodb_uri) as (gateway, parrot):
        key = await gateway.key(role=Role.PREMIUM)
        parrot.oops_after = 2
        async with sdk(gateway, key) as client:
            create: Any = client.chat.completions.create
            with pytest.raises(openai.APIError, match="the parrot is tired"):
                async for _ in await create(**ASKED, stream=True):
                    pass
        parrot.oops_after, parrot.cut_after = None, 2
        response = await gateway.chat(key, {**ASKED, "stream": True})
        assert '"error"' in response.text
        assert "[DONE]" not in response.text
        parrot.cut_after = None
        for line in (b"squawk\n", b'{"why": "bored"}\n', b'"\xff"\n', b"7\n", b"[1]\n"):
            parrot.line = line
            response = await gateway.chat(key, {**ASKED, "stream": True})
            assert (response.status_code, "[DONE]" in response.text) == (502, False), line
        outcomes = {event["outcome"] for event in await gateway.events()}
        assert outcomes == {"upstream_error"}


@pytest.mark.parametrize("heard", [-1_000_000, 10**30, 0.5, True])
@pytest.mark.usefixtures("installed")
async def test_nonsense_of_a_provider_credits_nobody(mongodb_uri: str, heard: object) -> None:
    """A plugin that believes what no provider can have counted leaves the request to be estimated."""
    async with talking(mongodb_uri) as (gateway, parrot):
        key = await gateway.key(role=Role.PREMIUM)
        parrot.counted = {"heard": heard, "said": 1}
        for stream in (False, True):
            assert (await gateway.chat(key, {**ASKED, "stream": stream})).status_code == 200
        for event in await gateway.events():
            assert event["estimated"]
            assert event["costUsd"].to_decimal() > 0
            assert 0 < event["tokens"]["prompt"] < 100


@pytest.mark.usefixtures("installed")
async def test_a_negative_price_is_none(mongodb_uri: str) -> None:
    """A list with a price below zero is refused as a whole: nobody is credited for asking."""
    async with serving_parrot() as parrot:
        parrot.prices = {"polly": [-2, -8]}
        providers = {"zoo": provider_settings("parrot", parrot.base_url)}
        async with running_gateway(mongodb_uri, providers, provider_keys={"zoo": ("squawk",)}) as gateway:
            key = await gateway.key(role=Role.PREMIUM)
            assert (await gateway.chat(key, ASKED)).status_code == 503
            with pytest.raises(CatalogError, match="a price is a Decimal of at least 0, and prompt is "):
                await gateway.parts.catalog.refresh("zoo")


@pytest.mark.usefixtures("installed")
async def test_its_refusals_are_judged_by_the_plugin(mongodb_uri: str) -> None:
    """A status of the provider's becomes what the plugin says that it means."""
    async with talking(mongodb_uri) as (gateway, parrot):
        key = await gateway.key(role=Role.PREMIUM)
        for status, ours in ((400, 400), (500, 502), (429, 429)):
            parrot.refusal = status
            assert (await gateway.chat(key, ASKED)).status_code == ours


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.usefixtures("installed")
async def test_what_it_cannot_be_asked_is_refused(mongodb_uri: str, *, stream: bool) -> None:
    """What the plugin cannot put into the provider's words is a 400 in its own, and costs nothing."""
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    async with talking(mongodb_uri) as (gateway, parrot):
        user = await gateway.user(Role.PREMIUM)
        key = await gateway.key(user, totalBudget="0.04")
        for message in ({"role": "user", "content": picture}, {"role": "user"}):
            response = await gateway.chat(key, {"model": "polly", "messages": [message], "stream": stream})
            assert response.status_code == 400
            assert response.json()["error"]["message"] == "Parrots hear text and nothing else."
        assert (parrot.asked, await gateway.events()) == ([], [])
        standing = await gateway.parts.meter.standing(str(user.id), gateway.parts.clock())
        assert (standing.requests, standing.tokens, standing.cost_usd) == (0, 0, Decimal(0))
        assert (await gateway.chat(key, {**ASKED, "stream": stream})).status_code == 200


@pytest.mark.usefixtures("installed")
async def test_what_it_has_not_is_refused(mongodb_uri: str) -> None:
    """An API that the plugin does not list is a clear 400, and nothing reaches the provider."""
    async with talking(mongodb_uri) as (gateway, parrot):
        headers = {"authorization": f"Bearer {await gateway.key(role=Role.PREMIUM)}"}
        body = {"model": "polly", "input": "Polly"}
        response = await gateway.http.post("/v1/embeddings", json=body, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "api_not_supported")
        assert parrot.asked == []


def test_the_readme_shows_this_very_plugin() -> None:
    """The plugin that the README shows is the essential part of the one above, word for word, and a short one."""
    source = (PACKAGE / "aipasta_parrot.py").read_text()
    section = README.read_text().partition("## Writing a plugin")[2].partition("\n## ")[0]
    (shown,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert shown.strip() in source
    assert shown.count("\n") > 40
    assert source.count("\n") < 105
