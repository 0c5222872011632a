"""What each list and each statistic costs on a large database: CPU of the gateway and of mongod together."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pymongo

from admin_api.documents import DOCUMENTS
from bench import questions
from bench.compare import provider
from bench.data import ADMIN_EMAIL, HEAVY_EMAIL, PASSWORD, Size, fill
from bench.gateways import Running, worker
from bench.plans import Plans
from bench.processes import CannotRun, read
from bench.questions import Subject
from bench.upstream import MODEL
from proxy import database
from proxy.database import Database
from proxy.documents import EVENTS
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
    first: float = 0.0
    plans: Sequence[str] = ()


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
            rows = await _ask_all(gateway, (mongod.uri, pid), secret)
    return _table(size, rows)


async def _fill(uri: str, size: Size) -> str:
    client = database.connect(uri)
    try:
        store = database.database_of(client, "aipasta")
        await database.wait_for(store)
        with pymongo.timeout(3_600):
            quick = store.with_options(write_concern=pymongo.WriteConcern(1, j=False))
            secret = await fill(quick, size, datetime.now(UTC), random.Random(1))  # noqa: S311  dice, not secrets
            # An index over what is there takes a fifth of the time of one that grows with every document.
            await store[ROLLUPS].create_indexes(list(INDEXES))
        await database.prepare(store, DOCUMENTS)
        return secret
    finally:
        await client.close()


async def _ask_all(gateway: Running, mongodb: tuple[str, int], secret: str) -> dict[str, Cost]:
    uri, mongod = mongodb
    base = f"http://127.0.0.1:{gateway.target.port}"
    client = database.connect(uri)
    async with client, httpx.AsyncClient(base_url=base, timeout=_SECONDS) as http:
        store = database.database_of(client, "aipasta")
        user, admin = [await _sign_in(http, email) for email in (HEAVY_EMAIL, ADMIN_EMAIL)]
        key: Mapping[str, str] = {"authorization": f"Bearer {secret}"}
        nobody: Mapping[str, str] = {}
        subject = await _subject(http, store, user)
        asked = {
            **dict.fromkeys(questions.of_user(subject), user),
            **dict.fromkeys(questions.of_key(subject), key),
            **dict.fromkeys(questions.of_admin(subject), admin),
            **dict.fromkeys(questions.of_nobody(), nobody),
        }
        costs = {path: await _cost(http, path, headers, gateway, mongod) for path, headers in asked.items()}
        plans = Plans(store)
        await plans.begin()
        for path, headers in asked.items():
            (await http.get(path, headers=headers)).raise_for_status()
            costs[path] = replace(costs[path], plans=await plans.bad())
        print(await _verified(http, admin, gateway, mongod), flush=True)
        return costs


async def _subject(http: httpx.AsyncClient, store: Database, headers: Mapping[str, str]) -> Subject:
    profile = (await http.get("/api/user/profile", headers=headers)).json()["data"]["user"]
    sessions = (await http.get("/api/chat/sessions", headers=headers)).json()["data"]["sessions"]
    event = await store[EVENTS].find_one({"userId": profile["id"], "keyId": {"$ne": None}})
    if event is None:
        raise CannotRun("the user who has the most has no event")
    return Subject(profile["id"], sessions[0]["id"], event["_id"], MODEL)


async def _verified(
    http: httpx.AsyncClient, headers: Mapping[str, str], gateway: Running, mongod: int
) -> str:
    """Have the whole ledger verified; say what that took, and whether it is right."""
    before = _cpu(gateway.pid) + _cpu(mongod)
    began, events, drift, after = time.perf_counter(), 0, 0, ""
    while after is not None:
        answer = await http.get("/api/admin/ledger/verify", params={"after": after}, headers=headers)
        ledger = answer.raise_for_status().json()["data"]["ledger"]
        events, drift, after = events + ledger["events"], drift + ledger["drift"], ledger["next"]
    cpu, wall = _cpu(gateway.pid) + _cpu(mongod) - before, time.perf_counter() - began
    return f"verified {events:,} events, {drift} counters adrift: {cpu:.1f} s of CPU in {wall:.1f} s"


async def _sign_in(http: httpx.AsyncClient, email: str) -> Mapping[str, str]:
    answer = await http.post("/api/auth/login", json={"email": email, "password": PASSWORD})
    body: dict[str, Any] = answer.raise_for_status().json()
    return {"authorization": f"Bearer {body['token']}"}


async def _cost(
    http: httpx.AsyncClient, path: str, headers: Mapping[str, str], gateway: Running, mongod: int
) -> Cost:
    """Ask once, and then for the measure: what is summed from time to time is summed by the first."""
    first = await _asked(http, path, headers, gateway, mongod, times=1)
    return replace(await _asked(http, path, headers, gateway, mongod, times=_REPEATS), first=first.wall)


async def _asked(
    http: httpx.AsyncClient,
    path: str,
    headers: Mapping[str, str],
    gateway: Running,
    mongod: int,
    *,
    times: int,
) -> Cost:
    before = _cpu(gateway.pid), _cpu(mongod), time.perf_counter()
    for _ in range(times):
        (await http.get(path, headers=headers)).raise_for_status()
    after = _cpu(gateway.pid), _cpu(mongod), time.perf_counter()
    gateway_cpu, mongod_cpu, wall = (
        (late - early) * 1000 / times for early, late in zip(before, after, strict=True)
    )
    return Cost(gateway_cpu, mongod_cpu, wall)


def _cpu(pid: int | None) -> float:
    return read(pid).cpu if pid else 0.0


def _table(size: Size, rows: Mapping[str, Cost]) -> str:
    title = f"{size.users:,} users, {size.events:,} usage events, {size.messages:,} chat messages; in milliseconds"
    head = "| | CPU of the gateway | CPU of mongod | wall time | the first time | |"
    lines = [title, "", head, "|---|---|---|---|---|---|"]
    for path, cost in rows.items():
        lines.append(
            f"| {path} | {cost.gateway:.0f} | {cost.mongod:.0f} | {cost.wall:.0f} | {cost.first:.0f} "
            f"| {_verdict(path, cost)} |"
        )
    return "\n".join(lines)


def _verdict(path: str, cost: Cost) -> str:
    is_over = path not in questions.UNBOUNDED and cost.gateway + cost.mongod > BUDGET_MILLISECONDS
    return "; ".join([*(["**over**"] if is_over else []), *cost.plans])
