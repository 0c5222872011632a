"""Streamed completions for tests: how a provider writes them, how to play them, and what is seen of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from hypothesis import strategies as st

from plugins.contract import (
    Api,
    ApiCall,
    Failure,
    FailureKind,
    Head,
    Json,
    ModelInfo,
    Provider,
    Translator,
    UpstreamRequest,
    Usage,
)
from proxy.core.answer_stream import AnswerStream
from proxy.core.stream import ChatStream

FIXTURES = {
    path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "fixtures").glob("*.sse"))
}
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


class FakeProvider:
    """Reads `usage`, `error` and `provider` at the top of a chunk, and usage under `x_usage` too."""

    name = "fake"

    def read_backing(self, frame: Json) -> str | None:
        """Read the key of OpenRouter."""
        backing = frame.get("provider")
        return backing if isinstance(backing, str) else None

    def read_usage(self, frame: Json) -> Usage | None:
        """Read OpenAI's three numbers."""
        record = frame.get("usage") or frame.get("x_usage")
        if not isinstance(record, dict) or not isinstance(record.get("prompt_tokens"), int):
            return None
        return Usage(record["prompt_tokens"], record.get("completion_tokens", 0))

    def read_error(self, frame: Json) -> Failure | None:
        """Read an object with a message or a bare text."""
        error = frame.get("error")
        if not error or error == "hidden":
            return None
        message = error.get("message") if isinstance(error, dict) else error
        return Failure(FailureKind.PROVIDER, str(message))

    def models_request(self, api_key: str | None) -> UpstreamRequest:
        """Ask for nothing."""
        raise NotImplementedError

    def read_models(self, body: bytes) -> Sequence[ModelInfo]:
        """Know no models."""
        raise NotImplementedError

    @property
    def apis(self) -> frozenset[Api]:
        """Have every API."""
        return frozenset(Api)

    def translator(self, call: ApiCall) -> Translator | None:  # noqa: ARG002  the signature of the contract
        """Speak OpenAI's form."""
        return None

    def api_request(self, call: ApiCall, api_key: str | None) -> UpstreamRequest:
        """Ask for nothing."""
        raise NotImplementedError

    def read_head(self, headers: Mapping[str, str]) -> Head:
        """Know no headers."""
        raise NotImplementedError

    def read_failure(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """Know no failures."""
        raise NotImplementedError

    def base_id(self, model: str) -> str | None:
        """Know no suffixes."""
        raise NotImplementedError

    def stops_billing(self, backing: str | None) -> bool:
        """Know no backings."""
        raise NotImplementedError


class Outcome(NamedTuple):
    """Everything that can be seen of a stream."""

    sent: bytes
    closing: bytes
    usage: Usage | None
    failure: Failure | None
    names: tuple[str | None, str | None, str | None]
    counts: tuple[int, int]
    claims: tuple[bool, bool, bool]


def run(
    pieces: list[bytes],
    *,
    provider: Provider | None = None,
    choices: int = 1,
    include_usage: bool = True,
    limit: int = 100_000,
) -> Outcome:
    """Play a stream of chunks to its end."""
    stream = ChatStream(
        provider or FakeProvider(), choices=choices, include_usage=include_usage, max_event_bytes=limit
    )
    return play(stream, pieces)


def play(stream: AnswerStream, pieces: list[bytes]) -> Outcome:
    """Play a stream to its end."""
    sent = b"".join([stream.feed(piece) for piece in pieces])
    closing = stream.finish()
    return Outcome(
        sent,
        closing,
        stream.usage,
        stream.failure,
        (stream.upstream_id, stream.served_model, stream.backing),
        (stream.deltas, stream.output_bytes),
        (stream.started, stream.is_done, stream.is_complete),
    )


def cut(data: bytes, points: list[int]) -> list[bytes]:
    """Cut bytes at these places."""
    return [data[start:end] for start, end in pairwise([0, *sorted(points), len(data)])]


def cuts(data: bytes) -> st.SearchStrategy[list[int]]:
    """Draw places to cut."""
    return st.lists(st.integers(0, len(data)), max_size=12)


def read(data: bytes) -> list[Any]:
    """Parse a stream in the simplest way: one `data:` line for each event, LF only."""
    lines = [line.removeprefix("data: ") for line in data.decode().split("\n\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else orjson.loads(line) for line in lines]


def text_of(frames: list[Any]) -> str:
    """Join the content of the first choice."""
    choices = [choice for frame in frames if frame != "[DONE]" for choice in frame["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def sse(*frames: Json | str) -> bytes:
    """Write frames as an upstream would."""
    return b"".join(
        b"data: %b\n\n" % (frame.encode() if isinstance(frame, str) else orjson.dumps(frame))
        for frame in frames
    )


def chunk(delta: Any = None, finish: Any = None, **fields: Any) -> Json:
    """Make a chunk with one choice."""
    choice = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]} | fields


def text(content: str) -> Json:
    """Make a chunk with text."""
    return chunk({"content": content})


OPENING = chunk({"role": "assistant", "content": ""})
HELLO = text("Hello")
STOP = chunk(finish="stop")
EMPTY = chunk({"role": "assistant", "content": ""})
