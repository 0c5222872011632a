"""The chat shape prints OpenAI's chat completions exactly; upstreams with a dialect override its parts."""

from collections.abc import Mapping
from typing import Any

from tests.upstreams.answer import Choice, Delta
from tests.upstreams.ask import Ask, read_chat
from tests.upstreams.failure import Failure
from tests.upstreams.generation import DONE, Event, Generation
from tests.upstreams.tokens import split


class ChatShape:
    """POST /chat/completions as OpenAI answers it."""

    def read(self, body: Mapping[str, Any]) -> Ask:
        return read_chat(body)

    def refusal(self, failure: Failure) -> Failure:
        return failure

    # Streams

    def events(self, generation: Generation) -> list[Event]:
        if self.placement(generation) == "on_content":
            return self._crowded(generation)
        events = self.opening(generation)
        events += [
            Event(self.piece(generation, delta), "piece", tokens=delta.tokens)
            for delta in generation.answer.interleaved()
        ]
        events += self._finish(generation)
        if self.placement(generation) == "every":
            for event in events:
                event.payload["usage"] = self.usage(generation)
        return self.closed(generation, events)

    def closed(self, generation: Generation, events: list[Event]) -> list[Event]:
        """End the stream with [DONE], unless the behaviour forgets it."""
        return events if generation.behaviour.done is False else [*events, Event(DONE, "done")]

    def placement(self, generation: Generation) -> str:
        """Say where usage goes; nobody asked for it means nowhere."""
        if generation.behaviour.usage is None and not generation.ask.include_usage:
            return "missing"
        return generation.placement

    def _finish(self, generation: Generation) -> list[Event]:
        placement = self.placement(generation)
        together = placement == "on_finish"
        last = generation.answer.choices[-1]
        events = [
            Event(self.finish(generation, choice), "usage" if together and choice is last else "finish")
            for choice in generation.answer.choices
        ]
        if together:
            events[-1].payload["usage"] = self.usage(generation)
        if placement in {"repeated", "null_finish", "empty_choices"}:
            events.append(Event(self.usage_chunk(generation, placement), "usage"))
        return events

    def _crowded(self, generation: Generation) -> list[Event]:
        """Put the last content, finish and usage into one chunk."""
        deltas = generation.answer.interleaved()
        events = self.opening(generation)
        events += [Event(self.piece(generation, each), "piece", tokens=each.tokens) for each in deltas]
        ends = [self.finish(generation, choice) for choice in generation.answer.choices]
        if deltas:
            crowded = events.pop().payload
            ends[-1]["choices"][0]["delta"] = crowded["choices"][0]["delta"]
        ends[-1]["usage"] = self.usage(generation)
        events += [Event(end, "finish") for end in ends[:-1]]
        events.append(Event(ends[-1], "usage", tokens=deltas[-1].tokens if deltas else 0))
        return self.closed(generation, events)

    def opening(self, generation: Generation) -> list[Event]:
        """Open every choice with its role."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [
            Event(self.chunk(generation, [self.choice(generation, index, dict(delta))]))
            for index in range(generation.ask.n)
        ]

    def chunk(self, generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {
            "id": generation.id,
            "object": "chat.completion.chunk",
            "created": generation.created,
            "model": generation.served.model,
            "service_tier": "default",
            "system_fingerprint": fingerprint(generation),
            "choices": choices,
        }
        return chunk | ({"usage": None} if generation.ask.include_usage else {})

    def choice(
        self, generation: Generation, index: int, delta: dict[str, Any], ended: Choice | None = None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta,
            "logprobs": self.logprobs(generation, delta.get("content")),
            "finish_reason": ended.finish if ended else None,
        }

    def logprobs(self, generation: Generation, text: str | None) -> dict[str, Any] | None:
        if not generation.ask.logprobs or not text:
            return None
        entries = [
            {"token": token, "logprob": -0.25, "bytes": list(token.encode()), "top_logprobs": []}
            for token in split(text)
        ]
        return {"content": entries, "refusal": None}

    def piece(self, generation: Generation, delta: Delta) -> dict[str, Any]:
        return self.chunk(generation, [self.choice(generation, delta.choice, self.delta(generation, delta))])

    def delta(self, generation: Generation, delta: Delta) -> dict[str, Any]:
        if delta.kind == "text":
            return {"content": delta.text}
        if delta.kind == "reasoning":
            return {"reasoning": delta.text}
        return {"tool_calls": [tool_delta(generation, delta)]}

    def finish(self, generation: Generation, choice: Choice) -> dict[str, Any]:
        return self.chunk(generation, [self.choice(generation, choice.index, {}, choice)])

    def usage_chunk(self, generation: Generation, placement: str) -> dict[str, Any]:
        """Print the chunk that carries usage alone: without choices, or with one that says little."""
        choices: list[dict[str, Any]] = []
        if placement != "empty_choices":
            ended = generation.answer.choices[-1] if placement == "repeated" else None
            choices = [self.choice(generation, 0, {"content": "", "role": "assistant"}, ended)]
        return self.chunk(generation, choices) | {"usage": self.usage(generation)}

    def error_events(self, generation: Generation, failure: Failure, *, first: bool) -> list[Event]:
        del first
        events = [Event({"error": failure.error}, "finish")]
        return self.closed(generation, events) if generation.behaviour.done else events

    # Whole answers

    def body(self, generation: Generation) -> dict[str, Any]:
        body = {
            "id": generation.id,
            "object": "chat.completion",
            "created": generation.created,
            "model": generation.served.model,
            "choices": [self.whole_choice(generation, choice) for choice in generation.answer.choices],
            "service_tier": "default",
            "system_fingerprint": fingerprint(generation),
        }
        return body if generation.behaviour.usage == "missing" else body | {"usage": self.usage(generation)}

    def whole_choice(self, generation: Generation, choice: Choice) -> dict[str, Any]:
        return {
            "index": choice.index,
            "message": self.message(generation, choice),
            "logprobs": self.logprobs(generation, choice.joined("text")),
            "finish_reason": choice.finish,
        }

    def message(self, generation: Generation, choice: Choice) -> dict[str, Any]:
        calls = [tool_call(generation, choice.index, at) for at in range(len(choice.calls))]
        text = choice.joined("text")
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text or (None if calls else ""),
            "refusal": None,
        }
        for call, written in zip(calls, choice.calls, strict=True):
            call["function"] = {"name": written.name, "arguments": written.arguments}
        return message | ({"tool_calls": calls} if calls else {})

    def usage(self, generation: Generation) -> dict[str, Any]:
        tokens = generation.tokens
        return {
            "prompt_tokens": tokens.prompt,
            "completion_tokens": tokens.completion,
            "total_tokens": tokens.total,
            "prompt_tokens_details": {"cached_tokens": tokens.cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": tokens.reasoning,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


def fingerprint(generation: Generation) -> str:
    """Return the fingerprint, which depends on the seed alone."""
    return f"fp_{generation.ask.seed or 0:010x}"


def tool_call(generation: Generation, choice: int, at: int) -> dict[str, Any]:
    return {"id": f"call_{generation.id[-8:]}{choice}{at}", "type": "function"}


def tool_delta(generation: Generation, delta: Delta) -> dict[str, Any]:
    """Print a fragment of a tool call: the first names it, the others write its arguments."""
    if delta.kind == "arguments":
        return {"index": delta.call, "function": {"arguments": delta.text}}
    opened = {"function": {"name": delta.text, "arguments": ""}}
    return {"index": delta.call} | tool_call(generation, delta.choice, delta.call) | opened
