"""Bytes reach the wire as scripted: sliced, late, cut off, or nonsense."""

import asyncio
import gzip
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.upstreams import (
    Behaviour,
    Failure,
    HuggingFace,
    OpenRouter,
    echo,
)
from tests.upstreams.client import LLAMA, OSS, Reply, ask, chat, leave, run
from tests.upstreams.failure import FIXTURES

# How it is sent


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_framing(size: int, end: Any) -> None:
    """Slices, line ends, a BOM and comments change no content."""
    odd = Behaviour(split_bytes=size, line_end=end, bom=True, comments_between=True)
    reply = ask(OpenRouter(), chat(stream=True), behaviour=odd)[0]
    assert reply.raw.startswith(b"\xef\xbb\xbf:")
    assert (end == "\n") == (b"\r" not in reply.raw)
    assert reply.text == echo("Good morning")
    assert reply.is_done


@pytest.mark.parametrize("cut", ["fin", "rst"])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_cut_connection(cut: Any, inside: bool, stream: bool) -> None:  # noqa: FBT001
    """A cut connection ends in the middle, and the books say aborted."""
    upstream = OpenRouter()
    reply = ask(upstream, chat(stream=stream), behaviour=Behaviour(cut=cut, cut_after=2, cut_inside=inside))[
        0
    ]
    assert reply.broken
    assert not reply.is_done if not inside else True
    assert (upstream.books[0].state, upstream.books[0].pieces_sent) == ("aborted", 2 * stream)


def test_clean_ends_without_done() -> None:
    """A stream may end cleanly without [DONE], after any stage."""
    upstream = OpenRouter()
    upstream.script.enqueue(
        Behaviour(done=False),
        Behaviour(cut="eof", cut_after="pieces"),
        Behaviour(cut="eof", cut_after="finish"),
        Behaviour(cut="eof", cut_after="usage"),
    )
    replies = ask(upstream, *[chat(stream=True)] * 4)
    assert not any(reply.broken or reply.is_done for reply in replies)
    assert ["usage" in reply.chunks[-1] for reply in replies] == [True, False, False, True]
    assert [reply.chunks[-1]["choices"][0]["finish_reason"] for reply in replies] == [
        "stop",
        None,
        "stop",
        "stop",
    ]
    assert [entry.state for entry in upstream.books] == ["completed", "aborted", "aborted", "aborted"]


def test_stall() -> None:
    """A stalled stream sends its pieces and then nothing until the caller leaves."""
    entry = leave(
        OpenRouter(), chat(stream=True), Behaviour(stall_after=3), lambda entry: entry.pieces_sent == 3
    )
    assert (entry.state, entry.pieces_sent, entry.completion_tokens) == ("client_closed", 3, 3)


@pytest.mark.parametrize("delay", [Behaviour(delay_headers=0.2), Behaviour(delay_first=0.2)])
def test_delays(delay: Behaviour) -> None:
    """Delays stand before the head and before the first byte."""
    upstream = OpenRouter()
    began = time.monotonic()
    (reply,) = ask(upstream, chat(stream=True), behaviour=delay)
    assert time.monotonic() - began >= 0.2
    assert reply.is_done


def test_a_head_comes_alone() -> None:
    """Whoever asks has the head while the first byte is still to come."""
    upstream = OpenRouter()
    upstream.script.always(Behaviour(delay_first=3600))

    async def talk() -> int:
        async with upstream, aiohttp.ClientSession(headers={"Authorization": "Bearer sk-or-v1-a"}) as client:
            asking = client.post(f"{upstream.base_url}/chat/completions", json=chat(stream=True))
            async with asking as answer:
                return answer.status

    assert run(talk()) == 200


@pytest.mark.parametrize(
    ("kind", "stream", "claim"),
    [
        ("bad_json", True, lambda reply: b'"delta":\n' in reply.raw),
        ("bad_json", False, lambda reply: b"}" not in reply.raw[-1:]),
        ("html", True, lambda reply: reply.headers["Content-Type"] == "text/html"),
        ("html", False, lambda reply: reply.raw.startswith(b"<!DOCTYPE")),
        ("not_utf8", True, lambda reply: b"\xff\xfe" in reply.raw),
        ("not_utf8", False, lambda reply: b"\xff\xfe" in reply.raw),
        ("giant_event", True, lambda reply: len(reply.raw) > 200_000),
        ("giant_event", False, lambda reply: len(reply.raw) > 200_000),
        ("giant_line", True, lambda reply: max(map(len, reply.raw.split(b"\n"))) > 200_000),
        ("giant_header", True, lambda reply: len(reply.headers["x-giant"]) == 200_000),
        ("gzip", True, lambda reply: gzip.decompress(reply.raw).endswith(b"[DONE]\n\n")),
        ("gzip", False, lambda reply: "usage" in json.loads(gzip.decompress(reply.raw))),
        ("empty", True, lambda reply: reply.raw == b""),
        ("empty", False, lambda reply: reply.raw == b""),
        ("json_for_stream", True, lambda reply: reply.json["object"] == "chat.completion"),
    ],
)
def test_garbage(kind: Any, stream: bool, claim: Callable[[Reply], bool]) -> None:  # noqa: FBT001
    """Every kind of nonsense reaches the wire with status 200."""
    reply = ask(OpenRouter(), chat(stream=stream), behaviour=Behaviour(garbage=kind, giant_bytes=200_000))[0]
    assert reply.status == 200
    assert claim(reply)


def test_custom_error_and_headers() -> None:
    """Any status, body and headers can be scripted, for one model or one key only."""
    upstream = OpenRouter()
    teapot = Failure(418, b"short and stout", {"content-type": "text/plain", "retry-after": "soon"})
    upstream.script.always(Behaviour(error=teapot, headers={"x-odd": "1"}), model=LLAMA)
    odd, plain = ask(upstream, chat(LLAMA), chat())
    assert (odd.status, odd.raw, odd.headers["retry-after"], odd.headers["x-odd"]) == (
        418,
        b"short and stout",
        "soon",
        "1",
    )
    assert plain.status == 200


def test_a_clean_early_end_leaves_the_connection_usable() -> None:
    """After a clean early end the next request on the same connection gets its own answer."""
    upstream = OpenRouter()
    upstream.script.enqueue(Behaviour(cut="eof", cut_after=1))
    cut, whole = ask(upstream, chat(stream=True), chat())
    assert (cut.text, cut.is_done) == ("You ", False)
    assert whole.json["object"] == "chat.completion"


def test_hugging_face_streams_keep_the_extras_of_the_backing() -> None:
    """Groq's stream has its extra fields, Featherless' usage is flat, and an error may be a bare string."""
    asked: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    upstream = HuggingFace()
    upstream.script.enqueue(Behaviour(error="402_credits", error_after=1), model="zai-org/GLM-5.2")
    groq, flat, failed = ask(
        upstream,
        chat(f"{OSS}:groq", **asked),
        chat("Qwen/Qwen3.8-27B:featherless-ai", **asked),
        chat("zai-org/GLM-5.2", **asked),
    )
    groq_captured = Reply(200, {}, (FIXTURES / "hf_stream_groq_include_usage.sse").read_bytes())
    flat_captured = Reply(200, {}, (FIXTURES / "hf_stream_usage_on_finish_chunk.sse").read_bytes())
    assert set(groq.chunks[0]) == set(groq_captured.chunks[0])
    assert set(groq.chunks[-1]["usage"]) == set(groq_captured.chunks[-1]["usage"])
    assert set(flat.chunks[-1]["usage"]) == set(flat_captured.chunks[-1]["usage"])
    assert isinstance(failed.chunks[-1]["error"], str)


@pytest.mark.parametrize(("cut", "raised"), [("fin", False), ("rst", True)])
def test_a_reset_is_not_an_end(cut: Any, raised: bool) -> None:  # noqa: FBT001
    """On the socket a FIN is an end of file, an RST an error."""
    upstream = OpenRouter()
    upstream.script.always(Behaviour(cut=cut, cut_after=2))

    async def talk() -> bool:
        body = json.dumps(chat(stream=True)).encode()
        head = f"POST /api/v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-or-v1-a\r\ncontent-length: {len(body)}\r\n\r\n"
        async with upstream:
            reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
            writer.write(head.encode() + body)
            try:
                await reader.read()
            except ConnectionResetError:
                return True
            finally:
                writer.close()
            return False

    assert run(talk()) is raised
