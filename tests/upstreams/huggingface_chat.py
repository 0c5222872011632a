"""Hugging Face's chat is the backing provider's own, passed through: each has its extra fields and its place for usage."""

from collections.abc import Mapping
from typing import Any

from tests.upstreams.answer import Choice, Delta
from tests.upstreams.ask import Ask
from tests.upstreams.chat_shape import ChatShape
from tests.upstreams.generation import Event, Generation

TIMED = frozenset({"groq"})
FLAT_CACHE = frozenset({"featherless-ai"})
REASONING_CONTENT = frozenset({"novita", "deepinfra", "zai-org"})


class HuggingFaceChat(ChatShape):
    """POST /v1/chat/completions of the router, or of one provider that its path pins."""

    def __init__(self, pinned: str | None = None) -> None:
        self._pinned = pinned

    def read(self, body: Mapping[str, Any]) -> Ask:
        return super().read({**body, "model": f"{body['model']}:{self._pinned}"} if self._pinned else body)

    def opening(self, generation: Generation) -> list[Event]:
        events = [
            Event(
                self.chunk(generation, [self.choice(generation, index, {"role": "assistant", "content": ""})])
            )
            for index in range(generation.ask.n)
        ]
        if generation.served.provider == "groq":
            events[0].payload["x_groq"] = {"id": f"req_{generation.id[-12:]}"}
        return events

    def chunk(self, generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = super().chunk(generation, choices)
        del chunk["service_tier"]
        if generation.served.provider in TIMED:
            chunk.pop("usage", None)
        return chunk

    def delta(self, generation: Generation, delta: Delta) -> dict[str, Any]:
        if delta.kind == "reasoning" and generation.served.provider in REASONING_CONTENT:
            return {"reasoning_content": delta.text}
        if delta.kind == "reasoning" and generation.served.provider == "groq":
            return {"reasoning": delta.text, "channel": "analysis"}
        return super().delta(generation, delta)

    def usage_chunk(self, generation: Generation, placement: str) -> dict[str, Any]:
        return super().usage_chunk(generation, placement) | self._timing(generation)

    def body(self, generation: Generation) -> dict[str, Any]:
        body = super().body(generation)
        del body["service_tier"]
        return body | self._timing(generation)

    def message(self, generation: Generation, choice: Choice) -> dict[str, Any]:
        message = super().message(generation, choice)
        del message["refusal"]
        thought = choice.joined("reasoning")
        name = "reasoning_content" if generation.served.provider in REASONING_CONTENT else "reasoning"
        return message | ({name: thought} if thought else {})

    def _timing(self, generation: Generation) -> dict[str, Any]:
        if generation.served.provider == "cerebras":
            return {"time_info": {"queue_time": 0.0001, "prompt_time": 0.001, "completion_time": 0.02}}
        return {}

    def usage(self, generation: Generation) -> dict[str, Any]:
        tokens, provider = generation.tokens, generation.served.provider
        usage: dict[str, Any] = {
            "prompt_tokens": tokens.prompt,
            "completion_tokens": tokens.completion,
            "total_tokens": tokens.total,
        }
        if provider in FLAT_CACHE:
            return usage | {"cached_tokens": tokens.cached}
        if provider in TIMED:
            times = {"queue_time": 0.05, "prompt_time": 0.004, "completion_time": 0.02, "total_time": 0.024}
            usage |= times
        if tokens.cached:
            usage["prompt_tokens_details"] = {"cached_tokens": tokens.cached}
        if tokens.reasoning:
            usage["completion_tokens_details"] = {"reasoning_tokens": tokens.reasoning}
        return usage
