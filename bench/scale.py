"""What each list and each statistic costs on a large database: CPU of the gateway and of mongod together."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pymongo

from admin_api.documents import DOCUMENTS
from bench.compare import provider
from bench.data import ADMIN_EMAIL, HEAVY_EMAIL, PASSWORD, Size, fill
from bench.gateways import Running, worker
from bench.processes import read
from proxy import database
from proxy.metering.rollups import INDEXES, ROLLUPS
from proxy.mongod import embedded_mongod

BUDGET_MILLISECONDS = 100.0
_REPEATS = 5
_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What one request costs, in milliseconds: CPU of the gateway, CPU of mongod, and the wall time beside it."""

    gateway: float
    mongod: float
    wall: float


async def measure_scale(size: Size) -> str:
    """Make the data, start on it, and ask every endpoint; return a table."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        provider(Path(name)) as upstream,
        embedded_mongod(Path(name) / "data") as mongod,
    ):
        folder = Path(name)
        began = time.monotonic()
        secret = await _fill(mongod.uri, size)
        print(f"made {size.events:,} events in {time.monotonic() - began:.0f} s", flush=True)
        pid = int((folder / "data" / "mongodb" / "data" / "mongod.lock").read_text(encoding="ascii"))
        variables = {"ADMIN_EMAIL": ADMIN_EMAIL, "ADMIN_PASSWORD": PASSWORD}
        async with worker(upstream, folder, mongod.uri, [secret], variables=variables) as gateway:
            print(f"first answer {gateway.start_seconds:.1f} s after the start", flush=True)
            rows = await _ask_all(gateway, pid, secret)
    return _table(size, rows)


async def _fill(uri: str, size: Size) -> str:
    client = database.connect(uri)
    try:
        store = database.database_of(client, "aipasta")
        await database.prepare(store, DOCUMENTS)
        await store[ROLLUPS].create_indexes(list(INDEXES))
        with pymongo.timeout(3_600):
            quick = store.with_options(write_concern=pymongo.WriteConcern(1, j=False))
            return await fill(quick, size, datetime.now(UTC), random.Random(1))  # noqa: S311  dice, not secrets
    finally:
        await client.close()


async def _ask_all(gateway: Running, mongod: int, secret: str) -> dict[str, Cost]:
    base = f"http://127.0.0.1:{gateway.target.port}"
    async with httpx.AsyncClient(base_url=base, timeout=_SECONDS) as http:
        user, admin = [await _sign_in(http, email) for email in (HEAVY_EMAIL, ADMIN_EMAIL)]
        sessions = (await http.get("/api/chat/sessions", headers=user)).json()["data"]["sessions"]
        found = await http.get("/api/admin/users", params={"search": HEAVY_EMAIL}, headers=admin)
        (heavy,) = found.json()["data"]["users"]
        of_user = {
            "/api/user/profile": user,
            **{f"/api/user/stats?period={period}": user for period in ("7d", "30d", "90d")},
            "/api/user/api-keys": user,
            "/api/chat/sessions": user,
            "/api/chat/sessions?limit=100": user,
            f"/api/chat/sessions/{sessions[0]['id']}": user,
            "/api/chat/stats": user,
            "/api/models": user,
            "/v1/models": {"authorization": f"Bearer {secret}"},
            "/v1/key": {"authorization": f"Bearer {secret}"},
        }
        of_admin = [
            *(f"/api/admin/stats?period={period}" for period in ("7d", "30d", "90d")),
            "/api/admin/users",
            "/api/admin/users?limit=100",
            "/api/admin/users?page=200",
            "/api/admin/users?search=person77",
            "/api/admin/users?search=nobody",
            "/api/admin/users?sortBy=name&sortOrder=asc",
            "/api/admin/users?sortBy=email",
            "/api/admin/users?sortBy=lastActive",
            "/api/admin/users?role=premium&status=active",
            f"/api/admin/users/{heavy['id']}",
            "/api/admin/system",
            "/api/admin/audit",
            "/api/admin/audit?action=auth.login&page=20",
        ]
        asked = {**of_user, **dict.fromkeys(of_admin, admin)}
        return {path: await _cost(http, path, headers, gateway, mongod) for path, headers in asked.items()}


async def _sign_in(http: httpx.AsyncClient, email: str) -> Mapping[str, str]:
    answer = await http.post("/api/auth/login", json={"email": email, "password": PASSWORD})
    body: dict[str, Any] = answer.raise_for_status().json()
    return {"authorization": f"Bearer {body['token']}"}


async def _cost(
    http: httpx.AsyncClient, path: str, headers: Mapping[str, str], gateway: Running, mongod: int
) -> Cost:
    costs = []
    for _ in range(_REPEATS):
        before = _cpu(gateway.pid), _cpu(mongod), time.perf_counter()
        (await http.get(path, headers=headers)).raise_for_status()
        after = _cpu(gateway.pid), _cpu(mongod), time.perf_counter()
        costs.append(tuple((late - early) * 1000 for early, late in zip(before, after, strict=True)))
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def _cpu(pid: int | None) -> float:
    return read(pid).cpu if pid else 0.0


def _table(size: Size, rows: Mapping[str, Cost]) -> str:
    title = f"{size.users:,} users, {size.events:,} usage events, {size.messages:,} chat messages; in milliseconds"
    lines = [title, "", "| | CPU of the gateway | CPU of mongod | wall time | |", "|---|---|---|---|---|"]
    for path, cost in rows.items():
        verdict = "" if cost.gateway + cost.mongod <= BUDGET_MILLISECONDS else "**over**"
        lines.append(f"| {path} | {cost.gateway:.0f} | {cost.mongod:.0f} | {cost.wall:.0f} | {verdict} |")
    return "\n".join(lines)
