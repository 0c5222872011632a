"""The processes that are measured: how they are started and ended, and what /proc says of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_STOP_SECONDS = 15.0
_POLL_SECONDS = 0.01


class CannotRun(Exception):
    """A gateway cannot be had here; the message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one or several processes have used: CPU in seconds, and memory in bytes."""

    cpu: float
    memory: int


def read(pid: int) -> Reading:
    """Add up a process and its descendants."""
    each = of_each(pid).values()
    return Reading(sum(reading.cpu for reading in each), sum(reading.memory for reading in each))


def of_each(pid: int) -> dict[int, Reading]:
    """Read a process and its descendants, each by its id."""
    parents = _parents()
    members, found = [pid], 0
    while found < len(members):
        members += [child for child, parent in parents.items() if parent == members[found]]
        found += 1
    readings = {}
    for member in members:
        with suppress(OSError):
            fields = _fields(member)
            cpu = (int(fields[11]) + int(fields[12])) / _TICK  # utime, stime
            readings[member] = Reading(cpu, int(fields[21]) * _PAGE)  # rss
    return readings


def _parents() -> dict[int, int]:
    parents = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208  ten times as fast as a Path for each
        if entry.isdigit():
            with suppress(OSError):
                parents[int(entry)] = int(_fields(int(entry))[1])
    return parents


def _fields(pid: int) -> list[str]:
    # The second field is the name in brackets, which may hold anything; what follows it is plain.
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def running(
    command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a session of its own, and end that session at the end; its output goes to a log in the folder."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _signal(process, signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path, seconds: float) -> None:
    """Wait until a program listens; raise `CannotRun` with its last line when it ends, or does not."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "it says nothing")
            raise CannotRun(f"it does not listen: {last[:200]}")
        time.sleep(_POLL_SECONDS)
