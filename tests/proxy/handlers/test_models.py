"""Tests of proxy/handlers/models.py: the list of models, and one model under any spelling of its name."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import openai
import pytest

from proxy.core.routing import Role
from tests.proxy.stage import FREE, LLAMA, MINI, OSS, PLAIN, ask, staged
from tests.proxy.test_errors import assert_openai_error
from tests.upstreams import HuggingFace, OpenRouter


async def test_the_sdk_lists_models(mongodb_uri: str) -> None:
    """A premium user sees all of every provider, in OpenAI's shape, with price, context length and tier beside it."""
    async with staged(mongodb_uri, aliases={"fast": (FREE,)}) as stage:
        async with stage.sdk(await stage.gateway.key(role=Role.PREMIUM)) as client:
            models: dict[str, Any] = {model.id: model async for model in client.models.list()}
        assert {*OpenRouter().catalogue.records, *HuggingFace().catalogue.records, PLAIN, "fast"} <= set(
            models
        )
        mini = models[MINI]
        assert (mini.object, mini.owned_by, mini.tier, mini.provider) == (
            "model",
            "openai",
            "paid",
            "openrouter",
        )
        record = OpenRouter().catalogue.records[MINI]
        assert mini.context_length == record["context_length"]
        assert {name: Decimal(mini.pricing[name]) for name in ("prompt", "completion")} == {
            name: Decimal(record["pricing"][name]) for name in ("prompt", "completion")
        }
        assert models["openrouter/auto"].pricing is None
        assert (models["fast"].tier, models["fast"].provider) == ("free", "openrouter")


async def test_a_free_user_sees_what_he_may_use(mongodb_uri: str) -> None:
    """Paid models are absent from a free user's list and 404 by name; an alias of one is absent too."""
    async with staged(mongodb_uri, aliases={"best": (MINI,), "fast": (MINI, FREE)}) as stage:
        key = await stage.gateway.key()
        headers = {"authorization": f"Bearer {key}"}
        listed = (await stage.gateway.http.get("/v1/models", headers=headers)).json()
        assert listed["object"] == "list"
        ids = {model["id"] for model in listed["data"]}
        assert {model["tier"] for model in listed["data"]} == {"free"}
        assert {FREE, PLAIN, "fast", "openrouter/free"} <= ids
        assert not {MINI, "best", "openrouter/auto"} & ids
        for model in (MINI, "best", f"openrouter/{MINI}", f"{MINI}:nitro", "no/such"):
            response = await stage.gateway.http.get(f"/v1/models/{model}", headers=headers)
            error = assert_openai_error(response, 404, "model_not_found")
            assert model in error["message"]
        # What a list shows can be used, and what it does not show cannot.
        assert (await stage.gateway.chat(key, ask("fast"))).status_code == 200
        assert (await stage.gateway.chat(key, ask("best"))).status_code == 403


async def test_a_model_has_one_record_under_every_spelling(mongodb_uri: str) -> None:
    """Encoded and raw slashes and colons, prefixes and suffixes all find the model."""
    async with staged(mongodb_uri) as stage:
        headers = {"authorization": f"Bearer {await stage.gateway.key(role=Role.PREMIUM)}"}
        for path, name in (
            ("openai/gpt-4o-mini", MINI),
            ("openai%2Fgpt-4o-mini", MINI),
            ("openai%2fgpt-4o-mini", MINI),
            ("openrouter/openai/gpt-4o-mini", f"openrouter/{MINI}"),
            ("openai/gpt-4o-mini:nitro", f"{MINI}:nitro"),
            ("openai/gpt-4o-mini%3Anitro", f"{MINI}:nitro"),
            ("liquid%2Flfm-2.5-2.6b%3Afree", FREE),
            ("liquid/lfm-2.5-2.6b:free", FREE),
            (f"huggingface%2F{OSS}:groq", f"huggingface/{OSS}:groq"),
            ("llama3.2%3Alatest", PLAIN),
        ):
            response = await stage.gateway.http.get(f"/v1/models/{path}", headers=headers)
            assert (response.status_code, response.json()["id"]) == (200, name), path
        async with stage.sdk(await stage.gateway.key(role=Role.PREMIUM)) as client:
            assert (await client.models.retrieve(FREE)).id == FREE
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve("ünknown/modèl %2F")


async def test_a_key_sees_its_allowed_models(mongodb_uri: str) -> None:
    """A key that is made for some models lists those and serves those, under whichever name it was given."""
    async with staged(mongodb_uri, aliases={"fast": (FREE,)}) as stage:
        wish = ["fast", MINI, f"huggingface/{OSS}"]
        key = await stage.gateway.key(role=Role.PREMIUM, allowedModels=wish)
        headers = {"authorization": f"Bearer {key}"}
        listed = (await stage.gateway.http.get("/v1/models", headers=headers)).json()["data"]
        assert {model["id"] for model in listed} == {"fast", MINI}
        for model, status in (
            ("fast", 200),
            (MINI, 200),
            (f"{MINI}:nitro", 200),
            (f"openrouter/{MINI}", 200),
            (f"huggingface/{OSS}:groq", 200),
            (OSS, 200),
            (FREE, 403),
            (LLAMA, 403),
            (PLAIN, 403),
        ):
            assert (await stage.gateway.chat(key, ask(model))).status_code == status, model
        # Both providers have this id, and the key allows one of them.
        assert stage.huggingface.books[-1].model_asked == OSS
        response = await stage.gateway.chat(key, ask(MINI, models=[MINI, FREE]))
        assert_openai_error(response, 403, "model_not_allowed")


async def test_a_permission_is_needed(mongodb_uri: str) -> None:
    """A key for models cannot chat, and one for chat cannot list."""
    async with staged(mongodb_uri) as stage:
        lists, chats = [await stage.gateway.key(permissions=[each]) for each in ("models", "chat")]
        for key, status in ((lists, 200), (chats, 403)):
            headers = {"authorization": f"Bearer {key}"}
            for path in ("/v1/models", f"/v1/models/{FREE}"):
                assert (await stage.gateway.http.get(path, headers=headers)).status_code == status
        assert_openai_error(await stage.gateway.chat(lists, ask(FREE)), 403, "permission_denied")
        assert (await stage.gateway.chat(chats, ask(FREE))).status_code == 200
        assert (await stage.gateway.http.get("/v1/models")).status_code == 401
