"""An ask is what a simulator understands of a request, the same for every kind of body."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tests.upstreams import tokens

NO_REASONING = frozenset({"", "none"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """The parts of a request that decide the answer, the tokens and the route."""

    model: str
    stream: bool
    prompt_tokens: int
    last_text: str
    models: tuple[str, ...] = ()
    max_tokens: int | None = None
    n: int = 1
    tool: str | None = None
    stop: tuple[str, ...] = ()
    response_format: Mapping[str, Any] | None = None
    reasons: bool = False
    shows_reasoning: bool = True
    logprobs: bool = False
    seed: int | None = None
    include_usage: bool = False
    include_usage_without_stream: bool = False
    has_input: bool = True
    speaks: bool = True
    provider_order: tuple[str, ...] = ()
    max_price: Mapping[str, Decimal] | None = None
    one_hour_cache: bool = False
    web_search: bool = False

    def __post_init__(self) -> None:
        """Refuse what no upstream would take; the caller answers 400."""
        if not all(isinstance(model, str) for model in (self.model, *self.models)):
            msg = "model must be a string"
            raise TypeError(msg)
        numbers: tuple[Any, ...] = (self.n, 1 if self.max_tokens is None else self.max_tokens)
        for number in numbers:
            if not isinstance(number, int) or number < 1:
                msg = "n and max_tokens must be positive integers"
                raise ValueError(msg)


def read_chat(body: Mapping[str, Any]) -> Ask:
    """Read the body of /chat/completions."""
    messages = [each for each in body.get("messages") or [] if isinstance(each, dict)]
    last = last_user_text(messages)
    schema = body.get("response_format")
    stop = body.get("stop") or ()
    return Ask(
        prompt_tokens=count_messages(messages)
        + tokens.count_json(body.get("tools"))
        + tokens.count_json(schema),
        last_text=last,
        max_tokens=body.get("max_tokens")
        if body.get("max_completion_tokens") is None
        else body["max_completion_tokens"],
        n=body.get("n") or 1,
        tool=wanted_tool(body, last),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        response_format=schema,
        logprobs=bool(body.get("logprobs")),
        seed=body.get("seed"),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        include_usage_without_stream=bool(body.get("stream_options")) and not body.get("stream"),
        has_input=bool(messages),
        **common(body),
    )


def read_responses(body: Mapping[str, Any]) -> Ask:
    """Read the body of /responses."""
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else list(given or [])
    messages = [each for each in items if isinstance(each, dict)]
    last = last_user_text(messages)
    return Ask(
        prompt_tokens=count_messages(messages)
        + tokens.count(body.get("instructions") or "")
        + tokens.count_json(body.get("tools")),
        last_text=last,
        max_tokens=body.get("max_output_tokens"),
        tool=wanted_tool(body, last),
        has_input=bool(messages),
        include_usage=True,
        **common(body),
    )


def read_messages(body: Mapping[str, Any]) -> Ask:
    """Read the body of Anthropic's /messages."""
    messages = [each for each in body.get("messages") or [] if isinstance(each, dict)]
    last = last_user_text(messages)
    choice: Any = body.get("tool_choice") or {"type": "auto"}
    forced = {"any": "required", "none": "none", "auto": "auto"}.get(str(choice.get("type")), choice)
    return Ask(
        prompt_tokens=count_messages(messages)
        + tokens.count_content(body.get("system"))
        + tokens.count_json(body.get("tools")),
        last_text=last,
        max_tokens=body.get("max_tokens"),
        tool=wanted_tool({**body, "tool_choice": forced}, last),
        stop=tuple(body.get("stop_sequences") or ()),
        has_input=bool(messages),
        include_usage=True,
        **common(body),
    )


def read_embeddings(body: Mapping[str, Any]) -> Ask:
    """Read the body of /embeddings: every string is a message without overhead."""
    given = body.get("input")
    texts = [given] if isinstance(given, str) else [each for each in given or [] if isinstance(each, str)]
    return Ask(
        prompt_tokens=max(1, sum(map(tokens.count, texts))),
        last_text=texts[-1] if texts else "",
        has_input=bool(given),
        speaks=False,
        **(common(body) | {"stream": False}),
    )


def common(body: Mapping[str, Any]) -> dict[str, Any]:
    """Read what every kind of body has: model, stream, reasoning, the caller's wishes about providers."""
    models = tuple(body.get("models") or ())
    reasoning = body.get("reasoning") or {}
    effort = reasoning.get("effort") or body.get("reasoning_effort") or ""
    routing = body.get("provider") if isinstance(body.get("provider"), dict) else {}
    price = (routing or {}).get("max_price")
    return {
        "model": body.get("model") or (models[0] if models else ""),
        "models": models,
        "stream": bool(body.get("stream")),
        "reasons": _reasons(body, reasoning, effort),
        "shows_reasoning": not reasoning.get("exclude"),
        "provider_order": tuple((routing or {}).get("only") or (routing or {}).get("order") or ()),
        "max_price": {name: Decimal(str(price[name])) for name in price} if price else None,
        "one_hour_cache": _mentions_hour(body),
        "web_search": any(
            isinstance(each, dict) and each.get("id") == "web" for each in body.get("plugins") or ()
        ),
    }


def _reasons(body: Mapping[str, Any], reasoning: Mapping[str, Any], effort: str) -> bool:
    if reasoning.get("enabled") is False or effort == "none":
        return False
    return effort not in NO_REASONING or bool(reasoning) or bool(body.get("include_reasoning"))


def _mentions_hour(value: Any) -> bool:
    if isinstance(value, dict):
        control = value.get("cache_control")
        return (isinstance(control, dict) and control.get("ttl") == "1h") or any(
            map(_mentions_hour, value.values())
        )
    return isinstance(value, list) and any(map(_mentions_hour, value))


def count_messages(messages: list[Any]) -> int:
    return sum(
        tokens.TOKENS_PER_MESSAGE
        + tokens.count_content(message.get("content"))
        + sum(_count_call(call) for call in message.get("tool_calls") or ())
        for message in messages
    )


def _count_call(call: Any) -> int:
    function = call.get("function") or {}
    return tokens.count(function.get("name") or "") + tokens.count(function.get("arguments") or "")


def last_user_text(messages: list[Any]) -> str:
    users = (tokens.text_of(each.get("content")) for each in reversed(messages) if each.get("role") == "user")
    return next(users, "")


def wanted_tool(body: Mapping[str, Any], last: str) -> str | None:
    """Name the function to call: forced, or asked for by the words `call tool`; else None."""
    names = [name for name in map(_tool_name, body.get("tools") or ()) if name]
    choice = body.get("tool_choice")
    if not names or choice == "none":
        return None
    if isinstance(choice, dict):
        return _tool_name(choice) or names[0]
    return names[0] if choice == "required" or "call tool" in last.lower() else None


def _tool_name(tool: Any) -> str | None:
    if not isinstance(tool, dict):
        return None
    name = (tool.get("function") or tool).get("name")
    return name if isinstance(name, str) else None
