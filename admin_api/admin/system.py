"""How the process that answers is doing, and the database and the providers behind it."""

from __future__ import annotations

import platform
import resource
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from admin_api.admin.activity import CHAT_MESSAGES, CHAT_SESSIONS
from proxy.documents import EVENTS, AIModel, ApiKeyDocument, User
from proxy.gateway import Gateway

_STATUS = Path("/proc/self/status")
_STALE_PERIODS = 3


async def measure(gateway: Gateway, started_at: datetime) -> dict[str, Any]:
    """Return the figures of now."""
    now = gateway.clock()
    return {
        "timestamp": now,
        "server": {
            "uptime": max(0.0, (now - started_at).total_seconds()),
            "memory": _memory(),
            "cpuUsage": _cpu(),
            "requestsInFlight": int(gateway.metrics.value("aipasta_requests_in_flight")),
            "pythonVersion": platform.python_version(),
            "platform": platform.system().lower(),
        },
        "database": await _database(gateway),
        "providers": [await _provider(gateway, name, now) for name in gateway.catalog.current.entries],
    }


def _memory() -> dict[str, int]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"rss": _resident() or peak, "peak": peak}


def _resident() -> int | None:
    """Return the bytes of memory in use; `None` where the system does not say."""
    if not _STATUS.exists():
        return None
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    return int(lines["VmRSS"].split()[0]) * 1024


def _cpu() -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"user": usage.ru_utime, "system": usage.ru_stime}


async def _database(gateway: Gateway) -> dict[str, Any]:
    database = gateway.database
    collections = {
        "users": User.Settings.name,
        "sessions": CHAT_SESSIONS,
        "messages": CHAT_MESSAGES,
        "models": AIModel.Settings.name,
        "apiKeys": ApiKeyDocument.Settings.name,
        "events": EVENTS,
    }
    began = time.perf_counter()
    await database.command("ping")
    milliseconds = (time.perf_counter() - began) * 1000
    counts = {shown: await database[name].estimated_document_count() for shown, name in collections.items()}
    return {"isConnected": True, "milliseconds": milliseconds, "collections": counts}


async def _provider(gateway: Gateway, name: str, now: datetime) -> dict[str, Any]:
    """Say when a provider's models were last read, by this worker or another, and how this one finds it."""
    newest = await AIModel.get_pymongo_collection().find_one(
        {"provider": name}, {"fetchedAt": 1}, sort=[("fetchedAt", -1)]
    )
    read_at = newest["fetchedAt"] if newest else None
    limit = _STALE_PERIODS * gateway.settings.catalog_refresh_seconds
    age = None if read_at is None else (now - read_at).total_seconds()
    return {
        "name": name,
        "models": len(gateway.catalog.current.entries[name]),
        "readAt": read_at,
        "isFresh": age is not None and age <= limit,
        **gateway.health.view(name),
    }
