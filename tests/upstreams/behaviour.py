"""A behaviour is everything that one answer does differently from a healthy upstream; the default does nothing.

Positions count pieces: non-empty deltas of text, reasoning or tool calls. `0` is before the first event, `3`
after the third piece, "pieces" after the last one, "finish" after the finish chunk, "usage" after the usage chunk.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Literal

from tests.upstreams.failure import Failure

Position = int | Literal["pieces", "finish", "usage"]
Placement = Literal["repeated", "null_finish", "empty_choices", "on_finish", "on_content", "every", "missing"]
Garbage = Literal[
    "bad_json",
    "html",
    "not_utf8",
    "giant_event",
    "giant_line",
    "giant_header",
    "gzip",
    "empty",
    "json_for_stream",
]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call in an answer; `arguments` is the JSON text as a model would write it."""

    name: str
    arguments: str = '{"location":"Paris"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How one request is answered."""

    # Time, in seconds
    delay_headers: float = 0.0
    delay_first: float = 0.0
    delay_between: float = 0.0
    stall_after: Position | None = None
    stall_seconds: float = 3600.0

    # What is said
    text: str | None = None
    pieces: int | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    served_model: str | None = None
    provider: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    # Usage and money
    usage: Placement | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    web_searches: int = 0
    discount: Decimal = Decimal(0)
    cost: Decimal | None = None
    reported_cost: Literal["billed", "null", "absent"] = "billed"
    byok: bool = False
    on_close: Literal["stop", "full"] | None = None
    generation_delay: float | None = None

    # Errors and endings
    error: str | Failure | None = None
    error_after: Position | None = None
    cut: Literal["fin", "rst", "eof"] | None = None
    cut_after: Position = 0
    cut_inside: bool = False
    done: bool | None = None

    # Nonsense and framing
    garbage: Garbage | None = None
    garbage_after: int = 0
    giant_bytes: int = 16 * 1024 * 1024
    split_bytes: int | None = None
    line_end: Literal["\n", "\r\n", "\r"] = "\n"
    bom: bool = False
    comments_before: int = 0
    comments_between: bool = False
    comment: str = " OPENROUTER PROCESSING"

    # Rules of the provider that this answer keeps
    honour_max_tokens: bool = True
    honour_max_price: bool = True

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Behaviour":
        """Build a behaviour from the JSON of /_control; an unknown field is a ValueError that names it."""
        unknown = set(fields) - {each.name for each in dataclasses.fields(cls)}
        if unknown:
            msg = f"unknown behaviour fields: {', '.join(sorted(unknown))}"
            raise ValueError(msg)
        values = dict(fields)
        for name in ("cost", "discount"):
            if values.get(name) is not None:
                values[name] = Decimal(str(values[name]))
        if "tool_calls" in values:
            values["tool_calls"] = tuple(ToolCall(**call) for call in values["tool_calls"])
        if isinstance(values.get("error"), dict):
            values["error"] = Failure(**values["error"])
        return cls(**values)
