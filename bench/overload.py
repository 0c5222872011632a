"""How long a refusal takes: as many streams as there may be, a crowd that wants more at once, and somebody who asks /health."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.client import Connection, Target, WrongAnswer
from bench.compare import provider
from bench.gateways import worker
from bench.keys import add_keys
from bench.processes import read
from bench.streams import Seen, Stream
from proxy.mongod import embedded_mongod

_SECONDS = 8.0
_SETTLE_SECONDS = 1.0  # what has tried the gateway out leaves it a moment later
_OPEN_SECONDS = 60.0
_PROBE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many streams are open, with how many chunks a second, and what asks for more: connections, bytes of a prompt."""

    streams: int
    per_second: float
    connections: int
    prompt_bytes: int


@dataclass(slots=True)
class Waits:
    """What was waited for, in seconds."""

    refused: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    cpu: float = 0.0


async def overload(crowd: Crowd) -> str:
    """Fill a gateway, ask for more, and return a table."""
    pause, chunks = 1000 / crowd.per_second, int(600 * crowd.per_second)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        upstream = stack.enter_context(provider(folder, milliseconds=pause, chunks=chunks))
        mongod = stack.enter_context(embedded_mongod(folder / "data"))
        secrets = await add_keys(mongod.uri, 1)
        config = folder / "full.yaml"
        config.write_text(f"limits: {{concurrent_requests: {crowd.streams}}}\n", encoding="utf-8")
        start = worker(upstream, folder, mongod.uri, secrets, variables={"CONFIG_FILE": str(config)})
        gateway = await stack.enter_async_context(start)
        if gateway.pid is None:
            raise WrongAnswer("the gateway has no process")
        return _table(crowd, await _fill(gateway.target, gateway.pid, crowd))


async def _fill(target: Target, pid: int, crowd: Crowd) -> Waits:
    """Open the streams, and let the crowd come."""
    loop, seen, waits = asyncio.get_running_loop(), Seen(), Waits()
    (request,) = target.requests(stream=True, prompt_bytes=100)
    await asyncio.sleep(_SETTLE_SECONDS)
    opened = [
        await loop.create_connection(partial(Stream, request, seen), "127.0.0.1", target.port)
        for _ in range(crowd.streams)
    ]
    async with asyncio.timeout(_OPEN_SECONDS):
        while any(stream.chunks == 0 for _, stream in opened):  # noqa: ASYNC110  there are as many as streams
            await asyncio.sleep(0.1)
    (call,) = target.requests(stream=False, prompt_bytes=crowd.prompt_bytes)
    health = f"GET /health HTTP/1.1\r\nhost: 127.0.0.1:{target.port}\r\n\r\n".encode()
    cpu, until = read(pid).cpu, loop.time() + _SECONDS
    async with asyncio.TaskGroup() as tasks:
        for _ in range(crowd.connections):
            tasks.create_task(_insist(target.port, call, b"503", waits.refused, until, 0.0))
        tasks.create_task(_insist(target.port, health, b"200", waits.health, until, _PROBE_SECONDS))
    waits.cpu = read(pid).cpu - cpu
    for transport, _ in opened:
        transport.close()
    return waits


async def _insist(
    port: int, request: bytes, status: bytes, waits: list[float], until: float, pause: float
) -> None:
    """Ask the same again and again, on a new connection whenever the old one was closed."""
    loop = asyncio.get_running_loop()
    connection = None
    while loop.time() < until:
        began = time.perf_counter()
        if connection is None:
            _, connection = await loop.create_connection(
                lambda: Connection(loop, stream=False), "127.0.0.1", port
            )
        _, answer = await connection.ask(request)
        waits.append(time.perf_counter() - began)
        if not answer.startswith(b"HTTP/1.1 " + status):
            raise WrongAnswer(answer[:500].decode(errors="replace"))
        if b"connection: close" in answer:
            connection.close()
            connection = None
        await asyncio.sleep(pause)


def _table(crowd: Crowd, waits: Waits) -> str:
    title = (
        f"{crowd.streams} streams of {crowd.per_second:g} chunks a second, and {crowd.connections} connections "
        f"that ask for more, with {crowd.prompt_bytes:,} bytes each; in milliseconds"
    )
    lines = [title, "", "| | answers | median | p99 |", "|---|---|---|---|"]
    for name, values in (("refused", waits.refused), ("/health", waits.health)):
        lines.append(f"| {name} | {len(values):,} | {_at(values, 0.5):.1f} | {_at(values, 0.99):.1f} |")
    share = waits.cpu / max(1, len(waits.refused))
    lines += ["", f"{share * 1e6:,.0f} us of CPU a refusal, that of the streams included"]
    return "\n".join(lines)


def _at(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] * 1000
