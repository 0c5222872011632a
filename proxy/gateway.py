"""Everything that one process serves with; made by `proxy.server`, found by handlers at `gateway_of(request)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sanic import Request

from proxy.auth import Authenticator
from proxy.catalog import Catalog
from proxy.completions import Completions
from proxy.database import Client, Database
from proxy.health import Health
from proxy.metering.contract import Meter
from proxy.metering.watch import LedgerWatch
from proxy.metrics import Metrics
from proxy.pulse import Pulse
from proxy.relay import Relay
from proxy.settings import Settings


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of a running gateway."""

    settings: Settings
    clock: Callable[[], datetime]
    clients: tuple[Client, ...]
    database: Database
    pulse: Pulse
    metrics: Metrics
    relay: Relay
    health: Health
    catalog: Catalog
    meter: Meter
    watch: LedgerWatch
    authenticator: Authenticator
    completions: Completions


def gateway_of(request: Request) -> Gateway:
    """Return the gateway that serves a request."""
    gateway: Gateway = request.app.ctx.gateway
    return gateway
