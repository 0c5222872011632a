"""The simulated upstreams misbehave as the real ones do, and their books say what they billed."""

import json
import time
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from tests.upstreams import (
    Behaviour,
    FreeLimits,
    HuggingFace,
    OpenRouter,
    echo,
)
from tests.upstreams.client import FREE, KEYS, LLAMA, MINI, OSS, Reply, ask, chat, get, leave, post, run
from tests.upstreams.failure import FIXTURES, catalogue
from tests.upstreams.tokens import count

# OpenRouter


def test_chat_has_the_keys_of_the_capture() -> None:
    """A whole answer has every key of the captured one and carries its id in X-Generation-Id."""
    upstream = OpenRouter()
    reply = ask(upstream, chat())[0]
    captured = json.loads((FIXTURES / "openrouter_chat_paid.json").read_text())
    assert set(reply.json) == set(captured)
    assert set(reply.json["choices"][0]) == set(captured["choices"][0])
    assert set(reply.json["usage"]) == set(captured["usage"])
    assert reply.headers["X-Generation-Id"] == reply.json["id"] == upstream.books[0].generation_id
    assert reply.json["choices"][0]["message"]["content"] == echo("Good morning")


def test_comments_come_before_the_first_event() -> None:
    """Comments stand before the first event, and the rest is spelled like the capture."""
    reply = ask(OpenRouter(), chat(stream=True), behaviour=Behaviour(comments_before=3))[0]
    captured = Reply(200, {}, (FIXTURES / "openrouter_stream_ok.sse").read_bytes())
    assert reply.lines[:4] == [": OPENROUTER PROCESSING"] * 3 + [reply.lines[3]]
    assert [set(each) for each in (reply.chunks[0], reply.chunks[-1])] == [
        set(each) for each in (captured.chunks[0], captured.chunks[-1])
    ]
    assert reply.is_done
    assert b"\r" not in reply.raw


@pytest.mark.parametrize(
    ("placement", "choices", "finish"),
    [("repeated", 1, "stop"), ("null_finish", 1, None), ("empty_choices", 0, None), (None, 1, "stop")],
)
def test_usage_placements(placement: Any, choices: int, finish: str | None) -> None:
    """Usage comes with one choice that repeats its finish, with a null finish, or with no choice."""
    last = ask(OpenRouter(), chat(stream=True), behaviour=Behaviour(usage=placement))[0].chunks[-1]
    assert len(last["choices"]) == choices
    assert not choices or last["choices"][0]["finish_reason"] == finish
    assert last["usage"]["completion_tokens"] == count(echo("Good morning"))


def test_duplicated_finish_reason() -> None:
    """A healthy stream says its finish reason twice."""
    chunks = ask(OpenRouter(), chat(stream=True))[0].chunks
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[-3:]] == [None, "stop", "stop"]


def test_error_as_the_first_event() -> None:
    """An error may be the only event of a 200: no choices, no [DONE], nothing billed."""
    upstream = OpenRouter()
    failing = Behaviour(error="200_error_body", error_after=0, comments_before=1)
    reply = ask(upstream, chat(stream=True), behaviour=failing)[0]
    assert (reply.status, len(reply.chunks), reply.chunks[0]["choices"]) == (200, 1, [])
    captured = Reply(200, {}, (FIXTURES / "openrouter_stream_error_first_event.sse").read_bytes())
    assert set(reply.chunks[0]) == set(captured.chunks[0])
    assert reply.chunks[0]["error"]["code"] == 503
    assert not reply.is_done
    assert (upstream.books[0].state, upstream.books[0].cost) == ("failed", Decimal(0))


@pytest.mark.parametrize("done", [None, True])
def test_error_in_mid_stream(done: bool | None) -> None:  # noqa: FBT001
    """An error after some pieces ends the choice with `error`, with or without [DONE]."""
    upstream = OpenRouter()
    reply = ask(
        upstream, chat(stream=True), behaviour=Behaviour(error="502_documented", error_after=2, done=done)
    )[0]
    assert reply.chunks[-1]["choices"][0]["finish_reason"] == "error"
    captured = Reply(200, {}, (FIXTURES / "openrouter_stream_error_mid.sse").read_bytes())
    assert set(reply.chunks[-1]) == set(captured.chunks[-1])
    assert reply.chunks[-1]["error"]["code"] == 502
    assert upstream.books[0].pieces_sent == 2
    assert reply.is_done is bool(done)


@pytest.mark.parametrize("name", sorted(catalogue("openrouter_errors.json")))
def test_every_named_error_of_openrouter(name: str) -> None:
    """Every captured error is answered with its status, body and headers: 200s, three 402s, own and upstream 429s."""
    upstream, expected = OpenRouter(), catalogue("openrouter_errors.json")[name]
    reply = ask(upstream, chat(), behaviour=Behaviour(error=name))[0]
    assert reply.status == expected.status
    assert reply.json.get("error") == expected.body.get("error")
    for header, text in expected.headers.items():
        if header != "x-generation-id":
            assert reply.headers[header] == text
    if expected.status in {400, 429}:
        assert reply.headers["X-Generation-Id"] == upstream.books[0].generation_id
    assert (upstream.books[0].state, upstream.books[0].cost) == ("failed", Decimal(0))


def test_upstream_429_with_and_without_retry_after() -> None:
    """An upstream's 429 has Retry-After or not, and never the account's X-RateLimit headers."""
    upstream = OpenRouter()
    upstream.script.enqueue(
        Behaviour(error="429_upstream_retry_after"), Behaviour(error="429_upstream_no_hint")
    )
    hinted, bare, healthy = ask(upstream, chat(), chat(), chat())
    assert (hinted.headers["Retry-After"], "Retry-After" in bare.headers, healthy.status) == ("1", False, 200)
    assert "X-RateLimit-Reset" not in hinted.headers


def test_cost_differs_from_upstream_cost() -> None:
    """A discount, a set price, a null and a missing cost reach the wire, and the books keep what is billed."""
    upstream = OpenRouter()
    upstream.script.enqueue(
        Behaviour(prompt_tokens=15, completion_tokens=6, discount=Decimal("0.01")),
        Behaviour(cost=Decimal("0.5")),
        Behaviour(reported_cost="null"),
        Behaviour(reported_cost="absent"),
        Behaviour(byok=True, prompt_tokens=1000),
    )
    saved, fixed, null, absent, own = (each.json["usage"] for each in ask(upstream, *[chat()] * 5))
    assert (saved["cost"], saved["cost_details"]["upstream_inference_cost"]) == (0.0000057915, 0.00000585)
    assert upstream.books[0].cost == Decimal("0.0000057915")
    assert (fixed["cost"], upstream.books[1].cost) == (0.5, Decimal("0.5"))
    assert null["cost"] is None
    assert "cost" not in absent
    assert upstream.books[2].cost == upstream.books[3].cost == upstream.books[2].upstream_cost
    assert own["is_byok"]
    assert own["cost"] == pytest.approx(own["cost_details"]["upstream_inference_cost"] / 20)


def test_prices_with_cache_override_and_request_fee() -> None:
    """Cached and written tokens, a long prompt's override, and a fee per request all reach the bill."""
    upstream = OpenRouter()
    sol, fee = "openai/gpt-6.1-sol", "perplexity/sonar-pro-search"
    upstream.script.enqueue(
        Behaviour(prompt_tokens=1000, cached_tokens=400, cache_write_tokens=100, completion_tokens=10),
        Behaviour(prompt_tokens=272001, completion_tokens=1),
        Behaviour(prompt_tokens=1, completion_tokens=1),
    )
    ask(upstream, chat(sol), chat(sol), chat(fee))
    assert [entry.cost for entry in upstream.books] == [
        Decimal("0.00139"),
        272001 * Decimal("0.000004") + Decimal("0.000015"),
        Decimal("0.018018"),
    ]


def test_free_limits_by_minute_and_day() -> None:
    """Free models stop at 20 a minute and 50 a day, with limits in headers and a reset in epoch milliseconds."""
    upstream, now = OpenRouter(free_limits=FreeLimits()), [86400.0 * 20000]
    upstream.clock = lambda: now[0]

    async def talk() -> list[Reply]:
        async with upstream, aiohttp.ClientSession() as client:
            replies = [await post(client, upstream, chat(FREE)) for _ in range(21)]
            for _ in range(2):
                now[0] += 60
                replies += [await post(client, upstream, chat(FREE)) for _ in range(16)]
            return [*replies, await post(client, upstream, chat(MINI))]

    replies = run(talk())
    assert [at for at, each in enumerate(replies) if each.status == 429] == [20, 51, 52]
    assert "free-models-per-min" in replies[20].json["error"]["message"]
    assert int(replies[20].headers["X-RateLimit-Reset"]) == (86400 * 20000 + 60) * 1000
    assert "free-models-per-day" in replies[52].json["error"]["message"]
    assert int(replies[52].headers["X-RateLimit-Reset"]) == 86400 * 20001 * 1000
    assert replies[-1].status == 200


def test_auto_serves_a_real_model_at_its_price() -> None:
    """A price of -1 is never billed: openrouter/auto names and bills the model that served."""
    upstream = OpenRouter()
    reply = ask(
        upstream, chat("openrouter/auto"), behaviour=Behaviour(prompt_tokens=15, completion_tokens=6)
    )[0]
    assert reply.json["model"] == MINI
    assert (upstream.books[0].model_asked, upstream.books[0].cost) == (
        "openrouter/auto",
        Decimal("0.00000585"),
    )


def test_model_slug_changes() -> None:
    """The answer may name a dated slug, an alias's target, or another model that is billed at its own price."""
    upstream = OpenRouter()
    upstream.script.enqueue(
        Behaviour(served_model=LLAMA, prompt_tokens=10, completion_tokens=0), model="openai/gpt-5"
    )
    moved, dated, alias, nitro = ask(
        upstream,
        chat("openai/gpt-5"),
        chat("openai/gpt-5"),
        chat("~openai/gpt-sol-latest"),
        chat(f"{MINI}:nitro"),
    )
    assert (moved.json["model"], upstream.books[0].cost) == (LLAMA, Decimal("0.000001"))
    assert dated.json["model"] == "openai/gpt-5-2025-08-07"
    assert alias.json["model"] == "openai/gpt-6.1-sol-20260929"
    assert nitro.json["model"] == MINI


@pytest.mark.parametrize(("model", "stops"), [(MINI, True), ("google/gemini-2.5-flash", False)])
def test_disconnect_bills_as_the_provider_does(model: str, stops: bool) -> None:  # noqa: FBT001
    """A closed connection stops OpenAI's billing at the tokens produced; Google bills in full."""
    slow = Behaviour(pieces=100, delay_between=0.05)
    entry = leave(OpenRouter(), chat(model, stream=True), slow, lambda entry: entry.pieces_sent >= 3)
    assert entry.state == "client_closed"
    assert 3 <= entry.pieces_sent < 50
    assert entry.completion_tokens == (entry.tokens_sent if stops else 100)
    assert entry.cost is not None
    assert entry.cost > 0


def test_disconnect_of_a_whole_answer_is_billed_in_full() -> None:
    """A request without a stream cannot be cancelled."""
    entry = leave(OpenRouter(), chat(), Behaviour(delay_headers=5), lambda entry: entry.provider != "")
    assert (entry.state, entry.completion_tokens) == ("client_closed", count(echo("Good morning")))


def test_disconnect_before_any_token_is_free() -> None:
    """A stream that its caller left before the first token costs nothing."""
    entry = leave(
        OpenRouter(), chat(stream=True), Behaviour(delay_first=5), lambda entry: entry.status == 200
    )
    assert (entry.state, entry.completion_tokens, entry.cost) == ("client_closed", 0, Decimal(0))


def test_generation_is_missing_then_found() -> None:
    """GET /generation answers 404 for a while, then the record with the books' cost."""
    upstream = OpenRouter(generation_delay=60)
    shape = json.loads((FIXTURES / "openrouter_misc.json").read_text())["GET /generation?id="]["data"]
    ask(upstream, chat())
    path, key = f"/generation?id={upstream.books[0].generation_id}", KEYS[OpenRouter]
    missing = get(upstream, path, key=key)[0]
    upstream.clock = lambda: time.time() + 61
    found = get(upstream, path, key=key)[0]
    assert (missing.status, found.status) == (404, 200)
    assert set(found.json["data"]) == set(shape)
    assert Decimal(repr(found.json["data"]["total_cost"])) == upstream.books[0].cost


def test_account_endpoints() -> None:
    """The catalogue needs no key and its latest dump wins; the account's endpoints need one."""
    paths = (
        "/models",
        "/models/count",
        f"/models/{MINI}/endpoints",
        "/model/openai%2Fgpt-4o-mini",
        "/key",
        "/credits",
    )
    models, counted, endpoints, model, *locked = get(OpenRouter(), *paths)
    records = {record["id"]: record for record in models.json["data"]}
    assert counted.json["data"]["count"] == len(records) == models.json["total_count"]
    assert "overrides" in records["openai/gpt-6.1-sol"]["pricing"]
    assert "request" not in records["perplexity/sonar"]["pricing"]
    assert endpoints.json["data"]["endpoints"][0]["provider_name"] == "OpenAI"
    assert model.json["data"]["id"] == MINI
    assert [each.status for each in locked] == [401, 401]
    misc = json.loads((FIXTURES / "openrouter_misc.json").read_text())
    for path, reply in zip(paths[4:], get(OpenRouter(), *paths[4:], key="sk-or-v1-a"), strict=True):
        assert set(reply.json["data"]) == set(misc[f"GET {path}"]["data"])


def test_keys_and_models_are_refused() -> None:
    """No key and a bad key are 401, an unknown model is 400, a price over max_price is 404."""
    missing, bad = (ask(OpenRouter(), chat(), key=key)[0] for key in (None, "sk-wrong"))
    assert (missing.status, missing.json["error"]["message"]) == (401, "No cookie auth credentials found")
    assert (bad.status, bad.json["error"]["message"]) == (401, "User not found.")
    unknown, broken, dear, cheap = ask(
        OpenRouter(),
        chat("nobody/nothing"),
        {"model": MINI},
        chat(provider={"max_price": {"completion": 0.5}}),
        chat(provider={"max_price": {"completion": 0.6, "prompt": 1}}),
    )
    assert (unknown.status, unknown.json["error"]["message"]) == (
        400,
        "nobody/nothing is not a valid model ID",
    )
    assert [each.status for each in (broken, dear, cheap)] == [400, 404, 200]
    assert ask(OpenRouter(keys=frozenset({"sk-or-v1-one"})), chat())[0].status == 401


# Hugging Face


@pytest.mark.parametrize("name", sorted(catalogue("hf_errors.json")))
def test_every_named_error_of_hugging_face(name: str) -> None:
    """Errors are strings, objects, `message`, `detail` or HTML, with the headers of the captures."""
    expected = catalogue("hf_errors.json")[name]
    reply = ask(HuggingFace(), chat(OSS), behaviour=Behaviour(error=name))[0]
    assert (reply.status, reply.raw) == (expected.status, expected.encoded())
    assert reply.headers["Content-Type"].startswith(expected.headers["content-type"])


def test_hugging_face_checks_the_token_before_the_model() -> None:
    """A bad token is 401 even for an unknown model, and no token at all is HTML."""
    bad, missing = (ask(HuggingFace(), chat("nobody/nothing"), key=key)[0] for key in ("nope", None))
    assert (bad.status, bad.json) == (401, {"error": "Invalid username or password."})
    assert bad.headers["WWW-Authenticate"].startswith("Bearer")
    assert (missing.status, missing.headers["Content-Type"]) == (401, "text/html")
    assert ask(HuggingFace(), chat("nobody/nothing"))[0].json["error"]["code"] == "model_not_supported"


@pytest.mark.parametrize(
    ("suffix", "provider", "output"),
    [("", "cerebras", "0.75"), (":fastest", "cerebras", "0.75"), (":cheapest", "novita", "0.69"),
     (":groq", "groq", "0.75"), (":preferred", "cerebras", "0.75")],
)  # fmt: skip
def test_suffix_selects_the_provider(suffix: str, provider: str, output: str) -> None:
    """A suffix selects the backing provider, is stripped in the answer, and that provider's price is billed."""
    upstream = HuggingFace()
    reply = ask(upstream, chat(OSS + suffix), behaviour=Behaviour(prompt_tokens=0, completion_tokens=1000))[0]
    assert (reply.json["model"], reply.headers["x-inference-provider"]) == (OSS, provider)
    assert upstream.books[0].cost == Decimal(output) / 1000


@pytest.mark.parametrize(
    ("model", "choices", "text"),
    [(f"{OSS}:groq", 0, ""), ("zai-org/GLM-5.2", 1, ""), ("google/gemma-4-31B-it", 1, "ng")],
)
def test_hugging_face_usage_placements(model: str, choices: int, text: str) -> None:
    """Usage comes alone, on the finish chunk, or with the last content; unasked it does not come."""
    asked, unasked = ask(
        HuggingFace(),
        chat(model, stream=True, stream_options={"include_usage": True}),
        chat(model, stream=True),
    )
    last = asked.chunks[-1]
    assert (len(last["choices"]), bool(last["usage"])) == (choices, True)
    assert not choices or last["choices"][0]["delta"].get("content", "") == text
    assert asked.text == unasked.text == echo("Good morning")
    assert not any(chunk.get("usage") for chunk in unasked.chunks)


def test_usage_can_be_missing() -> None:
    """Usage is missing altogether where scripted, in a stream and in a whole answer."""
    body = chat(OSS, stream=True, stream_options={"include_usage": True})
    streamed, whole = ask(HuggingFace(), body, chat(OSS), behaviour=Behaviour(usage="missing"))
    assert not any(chunk.get("usage") for chunk in streamed.chunks)
    assert "usage" not in whole.json


def test_provider_without_price() -> None:
    """A provider without a price has an unknown cost in the books, and its cached tokens are flat."""
    upstream, model = HuggingFace(), "deepseek-ai/DeepSeek-V4-Pro:featherless-ai"
    usage = ask(upstream, chat(model), behaviour=Behaviour(cached_tokens=2))[0].json["usage"]
    assert (usage["cached_tokens"], upstream.books[0].cost) == (2, None)


def test_retired_pair_is_410() -> None:
    """A pinned pair that is retired answers 410 and names the provider; one never offered is 400."""
    retired, never = ask(
        HuggingFace(),
        chat("meta-llama/Llama-3.3-70B-Instruct:cerebras"),
        chat("meta-llama/Llama-3.3-70B-Instruct:hf-inference"),
    )
    assert (retired.status, never.status) == (410, 400)
    assert "cerebras" in retired.json["error"]["message"]


def test_responses_with_a_bad_token_answers_200_failed() -> None:
    """The router's /responses says a bad token with 200 and a failed response."""
    reply = ask(HuggingFace(), {"model": OSS, "input": "hi"}, path="/responses", key="nope")[0]
    assert (reply.status, reply.json["status"]) == (200, "failed")


def test_slow_whole_answer_is_504() -> None:
    """The router gives up on a slow whole answer, not on a slow stream."""
    upstream = HuggingFace(gateway_timeout=0.05)
    whole, streamed = ask(upstream, chat(OSS), chat(OSS, stream=True), behaviour=Behaviour(delay_headers=0.2))
    assert (whole.status, streamed.status) == (504, 200)
    assert whole.headers["Content-Type"].startswith("text/html")
    assert upstream.books[0].cost == 0


def test_hugging_face_lists_models() -> None:
    """The model list is the fixture, without a key; one model is found by its raw path."""
    listed, found, missing = get(HuggingFace(), "/models", f"/models/{OSS}", "/models/no/body")
    assert listed.json == json.loads((FIXTURES / "hf_router_models_sim.json").read_text())
    assert (found.json["id"], missing.status) == (OSS, 404)
