"""The other endpoints keep their documented shapes, real SDKs read them, and a script is obeyed in its order."""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from tests.upstreams import (
    Behaviour,
    HuggingFace,
    OpenAICompatible,
    OpenRouter,
    SimulatedUpstream,
    ToolCall,
    echo,
)
from tests.upstreams.client import KEYS, MINI, OSS, UPSTREAMS, Reply, ask, chat, get, post, run
from tests.upstreams.failure import FIXTURES

# Other endpoints, and real SDKs


def test_embeddings() -> None:
    """Embeddings answer one vector an input, and usage with its cost."""
    upstream = OpenRouter()
    body = {"model": "openai/text-embedding-3-small", "input": ["one", "two"]}
    reply = ask(upstream, body, path="/embeddings")[0]
    assert [len(each["embedding"]) for each in reply.json["data"]] == [8, 8]
    assert set(reply.json["usage"]) >= {"prompt_tokens", "total_tokens", "cost"}
    assert upstream.books[0].cost == Decimal("0.00000004")


def test_messages_stream() -> None:
    """Anthropic's events come in their order, and errors have its shape."""
    body = {**chat(), "max_tokens": 100, "stream": True}
    upstream = OpenRouter()
    upstream.script.enqueue(Behaviour(), Behaviour(error="429_upstream_retry_after"))
    reply, refused = ask(upstream, body, body, path="/messages")
    names = [chunk["type"] for chunk in reply.chunks]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert reply.chunks[-2]["usage"]["output_tokens"] == upstream.books[0].completion_tokens
    assert (refused.json["type"], refused.json["error"]["type"]) == ("error", "rate_limit_error")


@pytest.mark.parametrize(("make", "model"), UPSTREAMS)
def test_openai_sdk_reads_chat_and_responses(make: Callable[[], SimulatedUpstream], model: str) -> None:
    """The real SDK reads streams, usage, models and responses of an upstream served from a thread."""
    with make().in_thread() as upstream:
        with openai.OpenAI(base_url=upstream.base_url, api_key=KEYS[type(upstream)], timeout=5) as client:
            question: Any = [{"role": "user", "content": "Good morning"}]
            chunks = list(
                client.chat.completions.create(
                    model=model, messages=question, stream=True, stream_options={"include_usage": True}
                )
            )
            spoken = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            events = list(client.responses.create(model=model, input="Good morning", stream=True))
            whole = client.responses.create(model=model, input="Good morning")
            ids = [each.id for each in client.models.list()]
        upstream.wait_idle(entries=3)
        used = chunks[-1].usage
        assert spoken == whole.output_text == echo("Good morning")
        assert used is not None
        assert used.prompt_tokens == upstream.books[0].prompt_tokens
        assert events[-1].type == "response.completed"
        assert model in ids


@pytest.mark.parametrize("text", ["Good morning", "call tool"])
def test_anthropic_sdk_reads_messages(text: str) -> None:
    """The real Anthropic SDK reads a stream of /messages: text or a tool's use, and the usage of the books."""
    with OpenRouter().in_thread() as upstream:
        url, key = f"{upstream.root_url}/api", KEYS[OpenRouter]
        tool: Any = {"name": "weather", "input_schema": {"type": "object"}}
        with anthropic.Anthropic(base_url=url, api_key=key, timeout=5) as client:
            question: Any = [{"role": "user", "content": text}]
            with client.messages.stream(model=MINI, max_tokens=99, messages=question, tools=[tool]) as stream:
                final = stream.get_final_message()
        upstream.wait_idle(entries=1)
        entry = upstream.books[0]
    content: Any = final.content[0]
    if text == "call tool":
        assert (content.name, content.input, final.stop_reason) == (
            "weather",
            {"location": "Paris"},
            "tool_use",
        )
    else:
        assert (content.text, final.stop_reason) == (echo(text), "end_turn")
    assert (final.usage.input_tokens, final.usage.output_tokens) == (
        entry.prompt_tokens,
        entry.completion_tokens,
    )


def test_openai_sdk_raises_on_errors() -> None:
    """The real SDK raises the class of each status from the simulator's errors."""
    with OpenRouter().in_thread() as upstream:
        upstream.script.enqueue(Behaviour(error="429_free_daily"))
        client = openai.OpenAI(base_url=upstream.base_url, api_key=KEYS[OpenRouter], max_retries=0, timeout=5)
        with client, pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model=MINI, messages=[{"role": "user", "content": "x"}])


def test_plain_server_is_exactly_openai() -> None:
    """A plain server says usage: null on all chunks but the last, needs no key, and may know no usage at all."""
    model, options = "gpt-4o-mini", {"include_usage": True}
    reply, bare = ask(
        OpenAICompatible(),
        chat(model, stream=True, stream_options=options),
        chat(model, stream=True),
        key=None,
    )
    captured = Reply(200, {}, (FIXTURES / "openai_stream_include_usage.sse").read_bytes())
    assert [set(chunk) for chunk in (reply.chunks[0], reply.chunks[-1])] == [
        set(chunk) for chunk in (captured.chunks[0], captured.chunks[-1])
    ]
    assert [chunk["usage"] for chunk in reply.chunks[:-1]] == [None] * (len(reply.chunks) - 1)
    assert reply.chunks[-1]["choices"] == []
    assert not any("usage" in chunk for chunk in bare.chunks)
    silent = ask(OpenAICompatible(tells_usage=False), chat(model, stream=True, stream_options=options))[0]
    assert not any(chunk.get("usage") for chunk in silent.chunks)
    assert ask(OpenAICompatible(), chat("gpt-9"), chat(model, stream_options=options))[0].status == 404


# By hand


def test_control_and_books_over_http() -> None:
    """POST /_control scripts a behaviour and GET /_books shows what was billed."""
    upstream = OpenRouter()

    async def talk() -> tuple[list[Reply], Any]:
        async with upstream, aiohttp.ClientSession() as client:
            control = f"{upstream.root_url}/_control"
            orders = [
                {"behaviour": {"error": {"status": 503, "body": "gone", "headers": {}}, "cost": "0.1"}},
                {"behaviour": {"tool_calls": [{"name": "f"}], "cost": "0.25"}},
                {"behaviour": {"no_such_field": 1}},
                {"do": "dance"},
            ]
            statuses = [(await client.post(control, json=order)).status for order in orders]
            assert statuses == [200, 200, 400, 400]
            replies = [await post(client, upstream, chat()) for _ in range(2)]
            return replies, await (await client.get(f"{upstream.root_url}/_books")).json()

    (refused, called), books = run(talk())
    assert (refused.status, refused.raw) == (503, b"gone")
    assert called.json["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "f"
    assert (books["total_cost"], [entry["state"] for entry in books["entries"]]) == (
        "0.25",
        ["failed", "completed"],
    )


def test_script_order_and_filters() -> None:
    """Queued behaviours go first and once; standing ones stay; filters by model, key and path hold."""
    upstream = OpenRouter()
    upstream.script.always(Behaviour(text="standing"))
    upstream.script.enqueue(Behaviour(text="other key"), key="sk-or-v1-other")
    upstream.script.enqueue(
        Behaviour(text="twice", tool_calls=(ToolCall("f", "{}"),)), times=2, path="/chat/completions"
    )
    texts = [each.json["choices"][0]["message"]["content"] for each in ask(upstream, *[chat()] * 3)]
    assert texts == ["twice", "twice", "standing"]
    assert upstream.script.pending == 1
    upstream.reset()
    assert (len(upstream.books), upstream.script.pending) == (0, 0)


def test_reads_of_the_catalogue_leave_the_queue_alone() -> None:
    """GET /models meets only behaviours that name its path."""
    upstream = OpenRouter()
    upstream.script.enqueue(Behaviour(error="500_documented"))
    assert get(upstream, "/models")[0].status == 200
    upstream.script.enqueue(Behaviour(error="503_documented"), path="/models")
    assert [each.status for each in get(upstream, "/models", "/models")] == [503, 200]
    assert upstream.script.pending == 1


def test_an_unknown_error_name_is_refused_at_once() -> None:
    """A behaviour with an error that no fixture has is refused where it is written."""
    with pytest.raises(KeyError, match="401_bad_key"):
        OpenRouter().script.enqueue(Behaviour(error="no_such_error"))


def test_stopping_aborts_what_runs() -> None:
    """A request that runs while the upstream stops is booked as aborted, and the port is taken again."""
    upstream = OpenRouter()
    upstream.script.enqueue(Behaviour(delay_headers=5))

    async def talk() -> int:
        async with aiohttp.ClientSession() as client:
            await upstream.start()
            port, running = upstream.port, asyncio.ensure_future(post(client, upstream, chat()))
            await upstream.books.until(lambda books: books.running == 1)
            await upstream.pause()
            with pytest.raises(aiohttp.ClientError):
                await running
            async with upstream:
                assert (await post(client, upstream, chat())).status == 200
            return port

    port = run(talk())
    assert port == upstream.port
    assert [entry.state for entry in upstream.books] == ["aborted", "completed"]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"7", b'{"model": 7}', b'{"model":"openai/gpt-4o","messages":[{"content":7}],"n":"x"}'],
)
def test_malformed_bodies_are_400(body: bytes) -> None:
    """A body that makes no sense is answered 400 and booked as failed."""
    upstream = OpenRouter()

    async def talk() -> int:
        async with upstream, aiohttp.ClientSession(headers={"Authorization": "Bearer sk-or-v1-a"}) as client:
            answer = await client.post(f"{upstream.base_url}/chat/completions", data=body)
            return answer.status

    assert run(talk()) == 400
    assert upstream.books[0].state == "failed"


def test_provider_in_the_path_is_pinned() -> None:
    """The router's per-provider path serves from that provider."""
    upstream = HuggingFace()

    async def talk() -> Reply:
        async with upstream, aiohttp.ClientSession(headers={"Authorization": "Bearer hf_a"}) as client:
            url = f"{upstream.root_url}/groq/v1/chat/completions"
            async with client.post(url, json=chat(OSS)) as answer:
                return Reply(answer.status, answer.headers, await answer.read())

    reply = run(talk())
    assert (reply.headers["x-inference-provider"], reply.json["model"]) == ("groq", OSS)
