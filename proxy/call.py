"""What a call is made of: what was decided about it, whom it is for, what it is served with, and its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from plugins.contract import Api, Price
from plugins.values import Value
from proxy.core.api import ApiRequest
from proxy.core.routing import Target
from proxy.deadlines import Deadlines
from proxy.health import Health
from proxy.metering.contract import Meter, Settlement, Want
from proxy.metrics import Metrics
from proxy.reconcile import Reconciler
from proxy.relay import Relay


class ClientGone(Exception):
    """The client has closed its connection, or does not read."""


class Client(Protocol):
    """Where the answer of a stream goes."""

    @property
    def has_room(self) -> bool:
        """Say whether a piece would be sent at once, as far as anybody knows."""
        ...

    async def start(self, headers: Mapping[str, str]) -> None:
        """Begin the answer with status 200; raise `ClientGone`."""

    async def send(self, data: bytes) -> None:
        """Send a piece at once, waiting for a slow reader; raise `ClientGone`."""

    def send_now(self, data: bytes) -> bool:
        """Send a piece if there is nothing to wait for, and say so; raise `ClientGone`."""

    async def finish(self, data: bytes) -> None:
        """Send the last piece, and with it that it is the last; raise `ClientGone`."""


class Answer(Value, frozen=True):
    """What became of a call: the body (empty when it went to the client as a stream), and what was recorded."""

    body: bytes
    headers: Mapping[str, str]
    settlement: Settlement | None


class Plan(Value, frozen=True):
    """What was decided about a call before anything was done for it.

    `max_price` is the price that it is held at, where the money of its key is limited: a provider that honours it cannot
    cost more than the hold.
    """

    asked: ApiRequest
    targets: tuple[Target, ...]
    want: Want
    on_disconnect: str
    max_price: Price | None

    def leaves_files_unread(self, target: Target) -> bool:
        """Say whether the target, or another model that its provider may turn to by itself, takes no files."""
        serving = self.targets if "models" in self.asked.body else (target,)
        return not all("file" in each.entry.info.input_modalities for each in serving)


@dataclass(frozen=True, slots=True)
class Services:
    """What calls are served with."""

    relay: Relay
    health: Health
    meter: Meter
    reconciler: Reconciler
    metrics: Metrics
    deadlines: Deadlines
    usd_inr_rate: Decimal
    clock: Callable[[], datetime]
    settlements: set[asyncio.Task[None]] = field(default_factory=set)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)


def observe(metrics: Metrics, api: Api, model: str, settlement: Settlement) -> None:
    """Tell the metrics what became of a call; `model` is the catalogue's id."""
    name = settlement.provider
    tokens, charge = settlement.bill.tokens, settlement.bill.charge
    series = metrics.of_call(api, name, model, settlement.outcome)
    series.requests.amount += 1
    series.of_api.amount += 1
    series.duration.observe(settlement.total_ms / 1000)
    if settlement.first_token_ms is not None:
        series.first_token.observe(settlement.first_token_ms / 1000)
    prompt, completion, cached, cache_write, reasoning = series.tokens
    prompt.amount += tokens.prompt
    completion.amount += tokens.completion
    cached.amount += tokens.cached
    cache_write.amount += tokens.cache_write
    reasoning.amount += tokens.reasoning
    if charge.cost is None:
        metrics.unpriced.labels(name).inc()
    else:
        series.cost.amount += float(charge.cost)
