"""A generation is one answer being given: what was asked, what is said, who serves it and what it costs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tests.upstreams.answer import Answer
from tests.upstreams.ask import Ask
from tests.upstreams.behaviour import Behaviour, Placement, Position
from tests.upstreams.books import Entry
from tests.upstreams.failure import Failure
from tests.upstreams.money import Bill
from tests.upstreams.tokens import Tokens

Stage = Literal["open", "piece", "finish", "usage", "done"]
STAGES: tuple[Stage, ...] = ("open", "piece", "finish", "usage", "done")
DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Served:
    """Who answers: the slug in the answer, the backing provider, its prices, and how usage is placed by default."""

    model: str
    provider: str
    pricing: Mapping[str, Any] | None
    usage: Placement = "empty_choices"


@dataclass(slots=True)
class Generation:
    entry: Entry
    ask: Ask
    behaviour: Behaviour
    answer: Answer
    tokens: Tokens
    served: Served
    bill: Bill
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def id(self) -> str:
        return self.entry.generation_id

    @property
    def placement(self) -> Placement:
        return self.behaviour.usage or self.served.usage


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream; `tokens` is how many completion tokens its piece carries."""

    payload: Any
    stage: Stage = "open"
    name: str | None = None
    tokens: int = 0


def reached(position: Position | None, pieces: int, coming: Stage) -> bool:
    """Tell whether a position lies before the event that comes next."""
    if position is None:
        return False
    if isinstance(position, int):
        return pieces >= position and (position == 0 or coming != "open")
    after = {"pieces": "piece", "finish": "finish", "usage": "usage"}[position]
    return STAGES.index(coming) > [*STAGES].index(after)  # type: ignore[arg-type]


class Shape(Protocol):
    """How one endpoint of one upstream spells an answer."""

    def read(self, body: Mapping[str, Any]) -> Ask: ...
    def events(self, generation: Generation) -> list[Event]: ...
    def body(self, generation: Generation) -> dict[str, Any]: ...
    def refusal(self, failure: Failure) -> Failure: ...
    def error_events(self, generation: Generation, failure: Failure, *, first: bool) -> list[Event]: ...
