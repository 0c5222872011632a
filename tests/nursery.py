"""Processes of the gateway that need not import it, which takes over a second of CPU: one that has done so forks them.

The one that has imported it does nothing else: it has no thread and no event loop. What it forks is a process like
any other, with a session, a folder and an environment of its own, that can be killed and frozen.
"""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import orjson

import proxy.commands
from proxy.__main__ import main

_LONGEST_ORDER = 65_536


class Child:
    """A process that was forked, as `subprocess.Popen` would show it."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        """Watch over a process that has just begun."""
        self._nursery = nursery
        self._handle = os.pidfd_open(pid)
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, or `None` while it runs."""
        return self.returncode if self.returncode is not None else self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once it has ended; raise `subprocess.TimeoutExpired` when it does not."""
        status = self.returncode if self.returncode is not None else self._ended(timeout)
        if status is None:
            raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, seconds: float | None) -> int | None:
        handle = select.poll()
        handle.register(self._handle, select.POLLIN)
        if not handle.poll(None if seconds is None else seconds * 1000):
            return None
        self.returncode = self._nursery.bury(self.pid)
        os.close(self._handle)
        return self.returncode


class Nursery:
    """The process that forks, started when it is first needed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Keep the environment in which it imports; what it forks gets another."""
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._lock = threading.Lock()

    def start(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        output: BinaryIO,
        errors: BinaryIO,
    ) -> Child:
        """Run the gateway's command line in a process, and do not wait for it."""
        order = {"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)}
        return Child(self, self._ask(order, [output.fileno(), errors.fileno()]))

    def bury(self, pid: int) -> int:
        """Return how a process has ended."""
        return os.waitstatus_to_exitcode(self._ask({"bury": pid}, []))

    def close(self) -> None:
        """End it; what it has forked goes on."""
        if self._line is not None and self._process is not None:
            self._line.close()
            self._process.wait(10)

    def _ask(self, order: Mapping[str, Any], files: list[int]) -> int:
        with self._lock:
            if self._line is None:
                self._line = self._begin()
            socket.send_fds(self._line, [orjson.dumps(order)], files)
            return int(self._line.recv(32))

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, "-m", __name__, str(number)]
            self._process = subprocess.Popen(
                command, env=self._environment, stdin=subprocess.DEVNULL, pass_fds=[number]
            )
        return ours


def _serve(line: socket.socket) -> int:
    """Take orders until there is nobody to give them; in what is forked, return the exit status of the command."""
    while True:
        message, files, _, _ = socket.recv_fds(line, _LONGEST_ORDER, 2)
        if not message:
            return 0
        order = orjson.loads(message)
        if "bury" in order:
            line.send(b"%d" % os.waitpid(order["bury"], 0)[1])
            continue
        pid = os.fork()
        if pid == 0:
            line.close()
            return _become(order, files)
        for number in files:
            os.close(number)
        line.send(b"%d" % pid)


def _become(order: Mapping[str, Any], files: Sequence[int]) -> int:
    os.setsid()
    # Where the tests run under `nohup`, what they start would inherit that it is ignored.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for number, file in zip((1, 2), files, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    return main(order["arguments"])


if __name__ == "__main__":
    gc.disable()
    for module in pkgutil.iter_modules(proxy.commands.__path__, "proxy.commands."):
        importlib.import_module(module.name)
    gc.freeze()
    gc.enable()
    sys.exit(_serve(socket.socket(fileno=int(sys.argv[1]))))
