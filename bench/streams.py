"""Many open streams at once: nothing of them is lost, and how late each chunk is.

The provider writes into every chunk when it was sent, on the clock that the client reads too. The same streams are
opened at the provider itself first, so that what the client and the machine add is known.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from asyncio import Transport
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

from bench.client import Target
from bench.compare import provider
from bench.gateways import Running, direct, worker
from bench.keys import add_keys
from bench.measure import MEBIBYTE
from bench.processes import Reading, read
from proxy.mongod import embedded_mongod

_STAMP = re.compile(rb'"content":"(\d{19})"')
_OPEN_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Load:
    """How many streams, how many chunks in each, and how many of them a second."""

    streams: int
    chunks: int
    per_second: float
    workers: int


@dataclass(slots=True)
class Seen:
    """What arrived of all streams: the delay of every chunk in milliseconds, and the streams that were not whole."""

    delays: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    bytes_held: int = 0
    cpu: float = 0.0
    seconds: float = 0.0


class Stream(asyncio.Protocol):
    """One connection with one stream on it."""

    def __init__(self, request: bytes, seen: Seen) -> None:
        """Note every chunk in `seen`."""
        self._request = request
        self._seen = seen
        self._rest = b""
        self.chunks = 0
        self.has_ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask at once."""
        cast("Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        """Note how late the chunks in these bytes are."""
        now = time.monotonic_ns()
        data = self._rest + data
        end = 0
        for found in _STAMP.finditer(data):
            end = found.end()
            self.chunks += 1
            self._seen.delays.append((now - int(found[1])) / 1e6)
        self._rest = data[max(end, len(data) - 60) :]  # a stamp may be cut in two
        if data.endswith(b"0\r\n\r\n") and not self.has_ended.done():
            self.has_ended.set_result(b"[DONE]" in data)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Take note of an end that came too early."""
        if not self.has_ended.done():
            self.has_ended.set_result(False)


async def hold_streams(wanted: Load) -> str:
    """Hold the streams open, directly and through so many workers; return what was found, as a table."""
    pause = 1000 / wanted.per_second
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        provider(Path(folder), milliseconds=pause, chunks=wanted.chunks) as upstream,
    ):
        async with direct(upstream, Path(folder)) as bare:
            without = await _run(bare, wanted)
        with embedded_mongod(Path(folder) / "data") as mongod:
            secrets = await add_keys(mongod.uri, 1)
            several = {"WORKERS": str(wanted.workers)}
            async with worker(upstream, Path(folder), mongod.uri, secrets, variables=several) as gateway:
                within = await _run(gateway, wanted)
    return _table(wanted, without, within)


async def _run(gateway: Running, wanted: Load) -> Seen:
    seen = Seen()
    loop = asyncio.get_running_loop()
    before, began = _read(gateway), time.monotonic()
    streams = []
    for number in range(wanted.streams):
        make = partial(Stream, _request(gateway.target), seen)
        _, stream = await loop.create_connection(make, "127.0.0.1", gateway.target.port)
        streams.append(stream)
        await asyncio.sleep(max(0.0, began + number * _OPEN_SECONDS / wanted.streams - time.monotonic()))
    seen.bytes_held = _read(gateway).memory - before.memory
    async with asyncio.timeout(60 + 10 * wanted.chunks / wanted.per_second):
        endings = [await stream.has_ended for stream in streams]
    seen.cpu, seen.seconds = _read(gateway).cpu - before.cpu, time.monotonic() - began
    for number, (stream, is_whole) in enumerate(zip(streams, endings, strict=True)):
        if not is_whole or stream.chunks != wanted.chunks:
            seen.broken.append(f"stream {number} has {stream.chunks} of {wanted.chunks} chunks")
    return seen


def _read(gateway: Running) -> Reading:
    return read(gateway.pid) if gateway.pid else Reading(0.0, 0)


def _request(target: Target) -> bytes:
    return target.requests(stream=True, prompt_bytes=100)[0]


def _table(wanted: Load, without: Seen, within: Seen) -> str:
    rows = [
        ("streams that were not whole", len(without.broken), len(within.broken)),
        ("chunks that arrived", len(without.delays), len(within.delays)),
        ("delay of a chunk, median, ms", _at(without, 0.5), _at(within, 0.5)),
        ("delay of a chunk, p99, ms", _at(without, 0.99), _at(within, 0.99)),
        ("CPU per chunk, us", "", f"{within.cpu / max(1, len(within.delays)) * 1e6:.1f}"),
        ("CPU of the workers, cores", "", f"{within.cpu / within.seconds:.2f}"),
        ("memory per stream, KiB", "", f"{within.bytes_held / wanted.streams / 1024:.1f}"),
        ("memory of all streams, MiB", "", f"{within.bytes_held / MEBIBYTE:.1f}"),
    ]
    title = f"{wanted.streams} streams of {wanted.chunks} chunks, {wanted.per_second:g} a second, {wanted.workers} workers"
    lines = [title, "", "| | no gateway | this gateway |", "|---|---|---|"]
    lines += [f"| {what} | {bare} | {mine} |" for what, bare, mine in rows]
    return "\n".join(lines + within.broken[:5])


def _at(seen: Seen, share: float) -> str:
    delays = sorted(seen.delays)
    return f"{delays[min(len(delays) - 1, int(len(delays) * share))]:.1f}" if delays else "none"
