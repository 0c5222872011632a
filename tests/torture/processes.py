"""What is killed and frozen: real mongods and real gateways, each a process of its own."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from proxy.mongod import ENVIRONMENT, find_binary
from tests.server_process import Process as AnyProcess
from tests.server_process import Starter, environment, free_port

REPLICA_SET = "rs0"
READY_SECONDS = 60.0
_ALREADY_INITIALIZED = 23


class Process:
    """A process that can be killed, frozen and started again, at the same place."""

    def __init__(self, command: Sequence[str], folder: Path, log: Path, variables: Mapping[str, str]) -> None:
        """Keep how it is started; nothing runs yet."""
        self._command = list(command)
        self._folder = folder
        self._variables = dict(variables)
        self._process: AnyProcess | None = None
        self.log = log
        self.starts = 0
        self._log_begins_at = 0

    @property
    def is_running(self) -> bool:
        """Say whether it lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and do not wait until it serves."""
        with self.log.open("ab") as output:
            self._log_begins_at = output.tell()
            self._process = self._launch(output)
        self.starts += 1

    def _launch(self, output: BinaryIO) -> AnyProcess:
        return subprocess.Popen(
            self._command,
            cwd=self._folder,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def kill(self) -> None:
        """End it with `kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Stop it in its tracks."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    async def end(self, seconds: float = 40.0) -> int | None:
        """End it as a service manager does; return its exit status, or `None` when it had to be killed."""
        if self._process is None or not self.is_running:
            return 0
        self._signal(signal.SIGTERM)
        try:
            return await asyncio.to_thread(self._process.wait, seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


class Mongod(Process):
    """One member of a replica set."""

    def __init__(self, folder: Path, port: int) -> None:
        """Keep its data in this folder."""
        binary = find_binary()
        assert binary is not None
        data = folder / f"mongod-{port}"
        data.mkdir(parents=True)
        self.host = f"127.0.0.1:{port}"
        command = [
            str(binary),
            *("--dbpath", str(data), "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket"),
            *("--replSet", REPLICA_SET, "--oplogSize", "990", "--wiredTigerCacheSizeGB", "0.25"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false", "--quiet"),
        ]
        super().__init__(command, folder, folder / f"mongod-{port}.log", ENVIRONMENT)


@dataclass
class Databases:
    """A replica set of one or three on loopback."""

    members: list[Mongod]

    @property
    def uri(self) -> str:
        """Return where it is."""
        hosts = ",".join(member.host for member in self.members)
        return f"mongodb://{hosts}/torture?replicaSet={REPLICA_SET}"

    def begin(self) -> None:
        """Start every member, and wait for a primary."""
        for member in self.members:
            member.start()
        with MongoClient[dict[str, Any]](
            self.members[0].host, directConnection=True, timeoutMS=1000 * READY_SECONDS
        ) as client:
            members = [{"_id": at, "host": member.host} for at, member in enumerate(self.members)]
            settings = {"electionTimeoutMillis": 1500, "heartbeatIntervalMillis": 400}
            order = {"_id": REPLICA_SET, "members": members, "settings": settings}
            try:
                client.admin.command("replSetInitiate", order)
            except OperationFailure as exc:
                if exc.code != _ALREADY_INITIALIZED:
                    raise
        with MongoClient[dict[str, Any]](self.uri, timeoutMS=1000 * READY_SECONDS) as client:
            client.get_database().command("ping")

    def primary(self) -> Mongod | None:
        """Return the member that takes writes, or `None` while there is none."""
        for member in self.members:
            try:
                with MongoClient[dict[str, Any]](member.host, directConnection=True, timeoutMS=500) as client:
                    if client.admin.command("hello")["isWritablePrimary"]:
                        return member
            except PyMongoError:
                continue
        return None


class Gateway(Process):
    """One gateway, `python -m proxy serve`, at a port of its own."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        """Serve with these settings."""
        self.port = free_port()
        super().__init__(
            ["serve"],
            folder,
            folder / f"gateway-{self.port}.log",
            environment(PORT=str(self.port), LOG_LEVEL="warning", **variables),
        )

    def _launch(self, output: BinaryIO) -> AnyProcess:
        return Starter.start(self._command, self._folder, self._variables, output)

    async def is_ready(self) -> bool:
        """Say whether it takes requests."""
        if not self.is_running:
            return False
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    return b" 200 " in await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    async def wait_until_ready(self) -> None:
        """Wait until it takes requests."""
        async with asyncio.timeout(READY_SECONDS):
            while not await self.is_ready():
                if not self.is_running:
                    said = self.log.read_bytes()[self._log_begins_at :].decode()[-3000:]
                    # A start ends where its database is killed meanwhile, and a service manager begins it anew.
                    assert "the database went away" in said, said
                    self.start()
                await asyncio.sleep(0.05)


@contextmanager
def databases(folder: Path, members: int = 1) -> Iterator[Databases]:
    """Run a replica set for a while."""
    found = Databases([Mongod(folder, free_port()) for _ in range(members)])
    try:
        found.begin()
        yield found
    finally:
        for member in found.members:
            member.thaw()
            member.kill()
