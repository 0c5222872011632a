"""OpenRouter's chat: a role on every chunk, a native finish reason, a provider, and usage with its cost always."""

from typing import Any

from tests.upstreams.answer import Choice, Delta
from tests.upstreams.chat_shape import ChatShape, fingerprint, tool_delta
from tests.upstreams.failure import Failure
from tests.upstreams.generation import Event, Generation
from tests.upstreams.money import number


class OpenRouterChat(ChatShape):
    """POST /api/v1/chat/completions."""

    def placement(self, generation: Generation) -> str:
        return generation.placement

    def opening(self, generation: Generation) -> list[Event]:
        del generation
        return []

    def chunk(self, generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": generation.id,
            "object": "chat.completion.chunk",
            "created": generation.created,
            "model": generation.served.model,
            "provider": generation.served.provider,
            "system_fingerprint": fingerprint(generation),
            "choices": choices,
        }

    def choice(
        self, generation: Generation, index: int, delta: dict[str, Any], ended: Choice | None = None
    ) -> dict[str, Any]:
        logprobs = self.logprobs(generation, delta.get("content"))
        return {
            "index": index,
            "delta": delta,
            "finish_reason": ended.finish if ended else None,
            "native_finish_reason": ended.native_finish if ended else None,
        } | ({"logprobs": logprobs} if logprobs else {})

    def delta(self, generation: Generation, delta: Delta) -> dict[str, Any]:
        if delta.kind == "text":
            return {"content": delta.text, "role": "assistant"}
        if delta.kind == "reasoning":
            return {
                "content": "",
                "role": "assistant",
                "reasoning": delta.text,
                "reasoning_details": [reasoning_detail(delta.text)],
            }
        return {"content": None, "role": "assistant", "tool_calls": [tool_delta(generation, delta)]}

    def finish(self, generation: Generation, choice: Choice) -> dict[str, Any]:
        delta = {"content": "", "role": "assistant"}
        return self.chunk(generation, [self.choice(generation, choice.index, delta, choice)])

    def usage_chunk(self, generation: Generation, placement: str) -> dict[str, Any]:
        return super().usage_chunk(generation, placement) | {"service_tier": None}

    def error_events(self, generation: Generation, failure: Failure, *, first: bool) -> list[Event]:
        """Say an error: alone with no choices as the first event, else with an ended choice."""
        ended = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        chunk = self.chunk(generation, [] if first else [ended])
        del chunk["system_fingerprint"]
        events = [Event(chunk | {"error": failure.error}, "finish")]
        return self.closed(generation, events) if generation.behaviour.done else events

    def body(self, generation: Generation) -> dict[str, Any]:
        return {"id": generation.id, "provider": generation.served.provider} | super().body(generation)

    def whole_choice(self, generation: Generation, choice: Choice) -> dict[str, Any]:
        return super().whole_choice(generation, choice) | {"native_finish_reason": choice.native_finish}

    def message(self, generation: Generation, choice: Choice) -> dict[str, Any]:
        thought = choice.joined("reasoning") or None
        details = {"reasoning_details": [reasoning_detail(thought)]} if thought else {}
        return super().message(generation, choice) | {"reasoning": thought} | details

    def usage(self, generation: Generation) -> dict[str, Any]:
        tokens = generation.tokens
        searches = generation.behaviour.web_searches
        server_tools = {"server_tool_use_details": {"web_search_requests": searches}} if searches else {}
        return {
            "prompt_tokens": tokens.prompt,
            "completion_tokens": tokens.completion,
            "total_tokens": tokens.total,
            **money(generation),
            "prompt_tokens_details": {
                "cached_tokens": tokens.cached,
                "cache_write_tokens": tokens.cache_write,
                "audio_tokens": 0,
                "video_tokens": 0,
            },
            "completion_tokens_details": {
                "reasoning_tokens": tokens.reasoning,
                "image_tokens": 0,
                "audio_tokens": 0,
            },
            **server_tools,
        }


def money(generation: Generation) -> dict[str, Any]:
    """Print the cost as OpenRouter's usage objects do, or as the behaviour hides it."""
    behaviour, bill = generation.behaviour, generation.bill
    if behaviour.reported_cost == "absent":
        return {}
    return {
        "cost": number(bill.cost) if behaviour.reported_cost == "billed" else None,
        "is_byok": behaviour.byok,
        "cost_details": {
            "upstream_inference_cost": number(bill.upstream),
            "upstream_inference_prompt_cost": number(bill.prompt),
            "upstream_inference_completions_cost": number(bill.completion),
        },
    }


def reasoning_detail(text: str | None) -> dict[str, Any]:
    return {"type": "reasoning.text", "text": text, "format": "unknown", "index": 0}
