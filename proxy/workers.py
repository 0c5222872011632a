"""Several servers on one port, one process each, and a small parent that holds them together.

The parent forks its workers, starts another one for each that dies, passes on the first signal to end, waits, and
then has an exit status that says whether all of them ended well. It opens no connection and runs no event loop, so
that there is nothing in it that could stall. Each worker holds one end of a socket pair: the parent learns from its
end that a worker serves, or is dead; a worker that finds the other end closed has lost its parent, and drains.

The first worker starts alone: what it makes in the database, the others find there.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from proxy.listener import count_listeners
from proxy.serving import MAKE_WAY, READY, signals

HEALTHY_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0
MARGIN_SECONDS = 20.0
"""What a worker may need beside its drain: to end what is left, to write everything down, to close."""

_POLL_SECONDS = 0.2
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker starts with: its number, its end of the line to its parent, and whether nobody served before."""

    number: int
    line: socket.socket
    is_first: bool


Work = Callable[[Post], int]


@dataclass(slots=True)
class Worker:
    """One process, as its parent sees it."""

    number: int
    pid: int
    line: socket.socket
    started_at: float
    is_ready: bool = False
    makes_way: bool = False


class Workers:
    """The workers of one parent."""

    def __init__(self, work: Work, count: int, *, drain_seconds: float, shared_port: int | None) -> None:
        """Prepare for `count` workers, in each of which `work` returns the exit status.

        `shared_port` is the port on which a newer gateway may listen beside them, if one may.
        """
        self._work = work
        self._count = count
        self._patience = drain_seconds + MARGIN_SECONDS
        self._shared_port = shared_port
        self._workers: dict[int, Worker] = {}
        self._due: dict[int, float] = {}
        self._failures: dict[int, int] = {}
        self._selector = selectors.DefaultSelector()
        self._signals = signals()
        self._was_ready = False
        self._kill_at: float | None = None
        self._status = 0

    def run(self) -> int:
        """Keep the workers running until a signal; return the exit status."""
        told, wake = socket.socketpair()
        with self._selector, told, wake:
            for end in (told, wake):
                end.settimeout(0)
            self._selector.register(told, selectors.EVENT_READ)
            signal.set_wakeup_fd(wake.fileno())
            for number in self._signals:
                signal.signal(number, lambda *_: None)
            self._start(0)
            while self._workers or self._due:
                for key, _ in self._selector.select(_POLL_SECONDS):
                    if key.data is None:
                        told.recv(64)
                        self._stop(0)
                    else:
                        self._hear(key.data)
                self._act(time.monotonic())
            # Whatever comes now comes too late to change the exit status.
            signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
            signal.set_wakeup_fd(-1)
        return self._status

    def _hear(self, worker: Worker) -> None:
        """Take note that a worker serves, or that it has ended."""
        try:
            said = worker.line.recv(16)
        except ConnectionError:
            said = b""
        if said:
            worker.is_ready = said == READY
            if not self._was_ready:
                self._was_ready = True
                self._due |= dict.fromkeys(range(1, self._count), 0.0)
            return
        self._bury(worker)

    def _bury(self, worker: Worker) -> None:
        self._selector.unregister(worker.line)
        worker.line.close()
        del self._workers[worker.number]
        _, raw = os.waitpid(worker.pid, 0)
        status = os.waitstatus_to_exitcode(raw)
        if self._kill_at is not None:
            # One that had not begun to serve dies of the signal, and leaves nothing behind.
            if status != 0 and (worker.is_ready or status != -signal.SIGTERM):
                self._status = 1
            return
        if not self._was_ready:
            self._stop(status or 1)
            return
        pause = self._pause(worker)
        log.warning("a worker has ended", worker=worker.number, status=status, next_in_seconds=pause)
        self._due[worker.number] = time.monotonic() + pause

    def _pause(self, worker: Worker) -> float:
        """Return how long to wait for the next try: twice as long with each that does not live."""
        if worker.is_ready and time.monotonic() - worker.started_at > HEALTHY_SECONDS:
            self._failures.pop(worker.number, None)
            return 0.0
        failures = self._failures[worker.number] = self._failures.get(worker.number, 0) + 1
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (failures - 1))

    def _act(self, now: float) -> None:
        """Do what time has come for."""
        for number in [number for number, at in self._due.items() if at <= now]:
            del self._due[number]
            self._start(number)
        if self._kill_at is None:
            return
        self._let_a_successor_in()
        if now > self._kill_at:
            self._status = 1
            for worker in self._workers.values():
                os.kill(worker.pid, signal.SIGKILL)

    def _let_a_successor_in(self) -> None:
        ours = [worker for worker in self._workers.values() if worker.is_ready and not worker.makes_way]
        if self._shared_port is not None and ours and count_listeners(self._shared_port) > len(ours):
            for worker in ours:
                worker.makes_way = True
                with suppress(ConnectionError):  # it has ended just now
                    worker.line.send(MAKE_WAY)

    def _stop(self, status: int) -> None:
        """Ask every worker to end; a second time changes nothing."""
        if self._kill_at is not None:
            return
        self._status = status
        self._kill_at = time.monotonic() + self._patience
        self._due.clear()
        for worker in self._workers.values():
            os.kill(worker.pid, signal.SIGTERM)

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        # A signal that comes now waits until it is clear whose it is.
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._become(Post(number, theirs, is_first=not self._was_ready))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        theirs.close()
        worker = self._workers[number] = Worker(number, pid, ours, time.monotonic())
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _become(self, post: Post) -> None:
        """Be a worker, and never return."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # its parent hears of it, and says so
            self._selector.close()
            for worker in self._workers.values():
                worker.line.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
            status = self._work(post)
            if sys.stdout is not None:  # as it is where it was closed
                sys.stdout.flush()
            os._exit(status)
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(1)
