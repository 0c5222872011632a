"""The responses shape prints OpenAI's Responses API: one response object, or named events numbered in a row."""

from collections.abc import Callable, Mapping
from typing import Any

from tests.upstreams.answer import Choice
from tests.upstreams.ask import Ask, read_responses
from tests.upstreams.failure import Failure
from tests.upstreams.generation import DONE, Event, Generation, Stage

Money = Callable[[Generation], dict[str, Any]]


def no_money(generation: Generation) -> dict[str, Any]:
    """Print no cost at all."""
    del generation
    return {}


class ResponsesShape:
    """POST /responses; `money` adds the cost where an upstream tells it."""

    def __init__(self, money: Money, *, ends_with_done: bool) -> None:
        self._money = money
        self._ends_with_done = ends_with_done

    def read(self, body: Mapping[str, Any]) -> Ask:
        return read_responses(body)

    def refusal(self, failure: Failure) -> Failure:
        return failure

    def events(self, generation: Generation) -> list[Event]:
        choice = generation.answer.choices[0]
        rows: list[tuple[str, dict[str, Any], Stage, int]] = [
            ("response.created", {"response": self._response(generation, "in_progress")}, "open", 0),
            ("response.in_progress", {"response": self._response(generation, "in_progress")}, "open", 0),
        ]
        for at, item in enumerate(self._items(generation, choice)):
            rows += self._item_rows(choice, at, item)
        ended = "incomplete" if choice.finish == "length" else "completed"
        rows.append((f"response.{ended}", {"response": self.body(generation)}, "usage", 0))
        events = [
            Event({"type": name, "sequence_number": number, **fields}, stage, name, tokens)
            for number, (name, fields, stage, tokens) in enumerate(rows)
        ]
        done = self._ends_with_done if generation.behaviour.done is None else generation.behaviour.done
        return [*events, Event(DONE, "done")] if done else events

    def _item_rows(
        self, choice: Choice, at: int, item: dict[str, Any]
    ) -> list[tuple[str, dict[str, Any], Stage, int]]:
        """Open one output item, write its deltas, close it."""
        where = {"output_index": at, "item_id": item["id"]}
        kind, name = {
            "message": ("text", "response.output_text"),
            "reasoning": ("reasoning", "response.reasoning_summary_text"),
            "function_call": ("arguments", "response.function_call_arguments"),
        }[item["type"]]
        spot = (
            where
            if kind == "arguments"
            else where | {"summary_index" if kind == "reasoning" else "content_index": 0}
        )
        deltas = [
            each
            for each in choice.deltas
            if each.kind == kind and (kind != "arguments" or each.call == item_call(item))
        ]
        text = "".join(each.text for each in deltas)
        opened = {**item, "status": "in_progress", **empty_fields(item)}
        rows: list[tuple[str, dict[str, Any], Stage, int]] = [
            ("response.output_item.added", {"output_index": at, "item": opened}, "open", 0)
        ]
        part = {"type": "output_text", "text": "", "annotations": []}
        if kind == "text":
            rows.append(("response.content_part.added", spot | {"part": part}, "open", 0))
        rows += [(f"{name}.delta", spot | {"delta": each.text}, "piece", each.tokens) for each in deltas]
        rows.append(
            (f"{name}.done", spot | {"arguments" if kind == "arguments" else "text": text}, "finish", 0)
        )
        if kind == "text":
            rows.append(("response.content_part.done", spot | {"part": part | {"text": text}}, "finish", 0))
        rows.append(("response.output_item.done", {"output_index": at, "item": item}, "finish", 0))
        return rows

    def _items(self, generation: Generation, choice: Choice) -> list[dict[str, Any]]:
        suffix = generation.id[-12:]
        items: list[dict[str, Any]] = []
        thought, text = choice.joined("reasoning"), choice.joined("text")
        if thought:
            summary = [{"type": "summary_text", "text": thought}]
            items.append({"type": "reasoning", "id": f"rs_{suffix}", "summary": summary})
        if text or not choice.calls:
            content = [{"type": "output_text", "text": text, "annotations": []}]
            message = {"type": "message", "id": f"msg_{suffix}", "role": "assistant", "status": "completed"}
            items.append(message | {"content": content})
        items += [
            {
                "type": "function_call",
                "id": f"fc_{suffix}_{at}",
                "call_id": f"call_{suffix}_{at}",
                "status": "completed",
                "name": call.name,
                "arguments": call.arguments,
            }
            for at, call in enumerate(choice.calls)
        ]
        return items

    def _response(self, generation: Generation, status: str) -> dict[str, Any]:
        return {
            "id": generation.id,
            "object": "response",
            "created_at": generation.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": generation.ask.max_tokens,
            "model": generation.served.model,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "metadata": {},
            "usage": None,
        }

    def body(self, generation: Generation) -> dict[str, Any]:
        choice = generation.answer.choices[0]
        cut = choice.finish == "length"
        usage = None if generation.behaviour.usage == "missing" else self._usage(generation)
        return self._response(generation, "incomplete" if cut else "completed") | {
            "output": self._items(generation, choice),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": usage,
        }

    def _usage(self, generation: Generation) -> dict[str, Any]:
        tokens = generation.tokens
        return {
            "input_tokens": tokens.prompt,
            "input_tokens_details": {"cached_tokens": tokens.cached},
            "output_tokens": tokens.completion,
            "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
            "total_tokens": tokens.total,
        } | self._money(generation)

    def error_events(self, generation: Generation, failure: Failure, *, first: bool) -> list[Event]:
        """Say an error as a failed response."""
        del first
        error = {"code": "server_error", "message": failure.message}
        response = self._response(generation, "failed") | {"error": error, "error_type": "server"}
        return [Event({"type": "response.failed", "response": response}, "finish", "response.failed")]


def item_call(item: Mapping[str, Any]) -> int:
    return int(str(item["id"]).rpartition("_")[2])


def empty_fields(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an item has when it is opened."""
    return {"message": {"content": []}, "reasoning": {"summary": []}}.get(
        str(item["type"]), {"arguments": ""}
    )
