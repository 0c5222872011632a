"""An instant provider in OpenRouter's shape: canned answers from a bare protocol, so that it is never the limit.

    python -m bench.upstream PORT [MILLISECONDS [CHUNKS]]

A whole answer is one write. A stream is twenty chunks in twenty writes, one per turn of the loop, or one every
so many milliseconds; each of the paced ones carries the moment of its sending, so that its delay can be measured.
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio import AbstractEventLoop, Transport
from typing import cast

import orjson
import uvloop

MODEL = "openai/gpt-4o-mini"
CHUNKS = 20
WORD = "pasta "
ANSWER = WORD * CHUNKS
_STAMP = b"0" * 19
_CREATED = 1_700_000_000
_USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": CHUNKS,
    "total_tokens": 12 + CHUNKS,
    "cost": 0.0000138,
    "is_byok": False,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
    "cost_details": {"upstream_inference_cost": None},
}


def _head(kind: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nx-generation-id: gen-1700000000-bench\r\n".encode()


def _whole(body: object) -> bytes:
    data = orjson.dumps(body)
    return b"%bcontent-length: %d\r\n\r\n%b" % (_head("application/json"), len(data), data)


def _chat() -> bytes:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": ANSWER, "refusal": None},
        "finish_reason": "stop",
        "native_finish_reason": "stop",
        "logprobs": None,
    }
    return _whole(
        {
            "id": "gen-1700000000-bench",
            "object": "chat.completion",
            "created": _CREATED,
            "model": MODEL,
            "provider": "OpenAI",
            "choices": [choice],
            "usage": _USAGE,
        }
    )


def _models() -> bytes:
    model = {
        "id": MODEL,
        "name": "GPT-4o mini",
        "created": _CREATED,
        "context_length": 128_000,
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        "pricing": {"prompt": "0.00000015", "completion": "0.0000006", "request": "0"},
        "top_provider": {"context_length": 128_000, "max_completion_tokens": 16_384},
        "supported_parameters": ["max_tokens", "temperature"],
    }
    return _whole({"data": [model]})


def _event(delta: dict[str, str], finish: str | None = None, **more: object) -> bytes:
    frame = {
        "id": "gen-1700000000-bench",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": MODEL,
        "provider": "OpenAI",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}],
        **more,
    }
    return _framed(b"data: %b\n\n" % orjson.dumps(frame))


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


CHAT = _chat()
MODELS = _models()
STREAM_HEAD = _head("text/event-stream") + b"transfer-encoding: chunked\r\n\r\n"
STREAM = [_event({"role": "assistant", "content": WORD}) for _ in range(CHUNKS)]
STREAM_END = _event({"content": ""}, "stop", usage=_USAGE) + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
STAMPED, AFTER_STAMP = _event({"role": "assistant", "content": _STAMP.decode()}).split(_STAMP)


class Connection(asyncio.Protocol):
    """One connection, which asks one thing after another."""

    def __init__(self, loop: AbstractEventLoop, pause: float, chunks: int) -> None:
        """Answer on this loop, with so many seconds between the chunks of a stream."""
        self._loop = loop
        self._pause = pause
        self._chunks = chunks
        self._data = b""
        self._transport: Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer as soon as the whole request is here."""
        self._data = self._data + data if self._data else data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._data[:end].lower()
        at = head.find(b"content-length:")
        if at >= 0:
            length = int(head[at + 15 : at + 30].split(b"\r\n")[0])
            if len(self._data) < end + 4 + length:
                return
        elif b"transfer-encoding: chunked" in head and not self._data.endswith(b"0\r\n\r\n"):
            return
        body, self._data = self._data[end:], b""
        self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get "):
            self._write(MODELS)
        elif b'"stream":true' in body or b'"stream": true' in body:
            self._write(STREAM_HEAD)
            self._loop.call_soon(self._stream, 0)
        else:
            self._write(CHAT)

    def _stream(self, sent: int) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if sent == self._chunks:
            self._write(STREAM_END)
        elif self._pause:
            self._write(b"%b%019d%b" % (STAMPED, time.monotonic_ns(), AFTER_STAMP))
            self._loop.call_later(self._pause, self._stream, sent + 1)
        else:
            self._write(STREAM[sent])
            self._loop.call_soon(self._stream, sent + 1)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def serve(port: int, pause: float, chunks: int) -> None:
    """Serve until this is cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(loop, pause, chunks), "127.0.0.1", port, backlog=4_096
    )
    await server.serve_forever()


if __name__ == "__main__":
    port, milliseconds, chunks = (*sys.argv[1:], *("0", str(CHUNKS))[len(sys.argv) - 2 :])
    uvloop.run(serve(int(port), float(milliseconds) / 1000, int(chunks)))
