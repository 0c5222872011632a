"""An answer is decided before the first byte: a row of deltas, each with its tokens, that every shape only prints."""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tests.upstreams import tokens
from tests.upstreams.ask import Ask
from tests.upstreams.behaviour import Behaviour, ToolCall

ECHO_LENGTH = 400
THOUGHT = "The user wants an answer."
Kind = Literal["reasoning", "text", "call", "arguments"]


@dataclass(frozen=True, slots=True)
class Delta:
    """One piece of one choice; a `call` opens tool call number `call`, `arguments` goes on with it."""

    choice: int
    kind: Kind
    text: str
    tokens: int = 1
    call: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """One of `n` alternatives."""

    index: int
    deltas: tuple[Delta, ...]
    finish: str
    native_finish: str
    hidden_tokens: int = 0

    def joined(self, kind: Kind) -> str:
        return "".join(delta.text for delta in self.deltas if delta.kind == kind)

    @property
    def calls(self) -> list[ToolCall]:
        names = [delta.text for delta in self.deltas if delta.kind == "call"]
        written = [
            "".join(delta.text for delta in self.deltas if delta.kind == "arguments" and delta.call == at)
            for at in range(len(names))
        ]
        return [ToolCall(name, arguments) for name, arguments in zip(names, written, strict=True)]


@dataclass(frozen=True, slots=True)
class Answer:
    choices: tuple[Choice, ...]

    def interleaved(self) -> list[Delta]:
        """All deltas in the order of the wire: one of each choice in turn."""
        rounds = itertools.zip_longest(*(choice.deltas for choice in self.choices))
        return [delta for each in rounds for delta in each if delta is not None]

    @property
    def reasoning_tokens(self) -> int:
        deltas = (delta for choice in self.choices for delta in choice.deltas if delta.kind == "reasoning")
        return sum(delta.tokens for delta in deltas) + self.hidden_tokens

    @property
    def shown_tokens(self) -> int:
        return sum(delta.tokens for choice in self.choices for delta in choice.deltas)

    @property
    def hidden_tokens(self) -> int:
        """The reasoning that is billed but not shown."""
        return sum(choice.hidden_tokens for choice in self.choices)

    @property
    def completion_tokens(self) -> int:
        return self.shown_tokens + self.hidden_tokens


def echo(last_text: str) -> str:
    """Return the default answer to a last user message."""
    if len(last_text) <= ECHO_LENGTH:
        return f"You said: {last_text}"
    digest = hashlib.sha256(last_text.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"You said: {last_text[:ECHO_LENGTH]} [sha256 {digest}]"


def compose(ask: Ask, behaviour: Behaviour) -> Answer:
    """Decide the whole answer to a request; an embedding says nothing."""
    if not ask.speaks:
        return Answer((Choice(0, (), "stop", "stop"),))
    return Answer(tuple(_choice(ask, behaviour, index) for index in range(ask.n)))


def measure(ask: Ask, answer: Answer, behaviour: Behaviour) -> tokens.Tokens:
    """Count what the answer uses; what the behaviour says wins."""
    return tokens.Tokens(
        prompt=_given(behaviour.prompt_tokens, ask.prompt_tokens),
        completion=_given(behaviour.completion_tokens, answer.completion_tokens),
        cached=behaviour.cached_tokens or 0,
        cache_write=behaviour.cache_write_tokens or 0,
        reasoning=_given(behaviour.reasoning_tokens, answer.reasoning_tokens),
    )


def _given(override: int | None, counted: int) -> int:
    return counted if override is None else override


def _choice(ask: Ask, behaviour: Behaviour, index: int) -> Choice:
    calls = behaviour.tool_calls or ((ToolCall(ask.tool),) if ask.tool and behaviour.text is None else ())
    thought = behaviour.reasoning or (THOUGHT if ask.reasons else "")
    words = _words(ask, behaviour, index, silent=bool(calls))
    deltas = [Delta(index, "reasoning", token) for token in tokens.split(thought)]
    deltas += [Delta(index, "text", token) for token in words]
    for at, call in enumerate(calls):
        deltas.append(Delta(index, "call", call.name, tokens.count(call.name), at))
        deltas += [Delta(index, "arguments", token, call=at) for token in tokens.split(call.arguments)]
    kept = _limited(deltas, ask.max_tokens if behaviour.honour_max_tokens else None)
    finish = "length" if len(kept) < len(deltas) else ("tool_calls" if calls else "stop")
    hidden = 0 if ask.shows_reasoning else sum(each.tokens for each in kept if each.kind == "reasoning")
    shown = [each for each in kept if ask.shows_reasoning or each.kind != "reasoning"]
    finish = behaviour.finish_reason or finish
    native = behaviour.native_finish_reason or finish
    return Choice(index, tuple(_merged(shown, behaviour.pieces)), finish, native, hidden)


def _words(ask: Ask, behaviour: Behaviour, index: int, *, silent: bool) -> list[str]:
    if behaviour.text is not None:
        return tokens.split(_stopped(behaviour.text, ask.stop))
    if silent:
        return []
    text = _json_answer(ask) or echo(ask.last_text) + (f" ({index})" if index else "")
    words = tokens.split(_stopped(text, ask.stop))
    if behaviour.pieces is None or behaviour.pieces <= len(words) or not words:
        return words
    return list(itertools.islice(itertools.cycle(words), behaviour.pieces))


def _stopped(text: str, stops: tuple[str, ...]) -> str:
    for stop in stops:
        text = text.split(stop, 1)[0] if stop else text
    return text


def _limited(deltas: list[Delta], limit: int | None) -> list[Delta]:
    if limit is None:
        return deltas
    sums = itertools.accumulate(delta.tokens for delta in deltas)
    return [delta for delta, total in zip(deltas, sums, strict=True) if total <= limit]


def _merged(deltas: list[Delta], pieces: int | None) -> list[Delta]:
    """Join neighbouring texts so that at most `pieces` of them are left."""
    texts = [delta for delta in deltas if delta.kind == "text"]
    if not pieces or pieces >= len(texts):
        return deltas
    bounds = [len(texts) * at // pieces for at in range(pieces + 1)]
    groups = [texts[start:end] for start, end in itertools.pairwise(bounds)]
    joined = [
        replace(group[0], text="".join(each.text for each in group), tokens=len(group)) for group in groups
    ]
    before = [delta for delta in deltas if delta.kind == "reasoning"]
    after = [delta for delta in deltas if delta.kind in {"call", "arguments"}]
    return before + joined + after


def _json_answer(ask: Ask) -> str | None:
    wanted = ask.response_format or {}
    if wanted.get("type") == "json_object":
        return json.dumps({"answer": echo(ask.last_text)}, ensure_ascii=False)
    if wanted.get("type") != "json_schema":
        return None
    schema = (wanted.get("json_schema") or {}).get("schema") or {}
    return json.dumps(_example(schema, echo(ask.last_text)), ensure_ascii=False)


def _example(schema: Mapping[str, Any], text: str) -> Any:
    """Build the smallest value that a JSON schema of the ordinary kinds allows."""
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        return {name: _example(each, text) for name, each in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [_example(schema.get("items") or {}, text)]
    scalars: dict[str, Any] = {"integer": 1, "number": 1.5, "boolean": True, "null": None}
    return scalars.get(str(kind), text)
