"""The gateway as its operator runs it: a process of its own, started from a folder with nothing in it but settings."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import httpx
from openai import OpenAI
from pymongo import MongoClient

from tests.nursery import Child, Nursery

Process = subprocess.Popen[bytes] | Child
PROJECT = Path(__file__).resolve().parent.parent
PASSWORD = "a long secret of mine"
ADMIN = {"ADMIN_EMAIL": "root@example.com", "ADMIN_PASSWORD": PASSWORD}
START_SECONDS = 40.0
_PORTS = range(10_000, 27_000)  # below those of outgoing connections, and of MongoDB


@dataclass
class ServerProcess:
    """A running gateway, and what a newcomer does with it."""

    process: Process
    base_url: str
    log: Path

    def sign_up(self, email: str = "asha@example.com") -> str:
        """Register, and return the token of the new account."""
        body = {"name": "Asha", "email": email, "password": PASSWORD}
        return self._token("/api/auth/register", body)

    def sign_in(self, email: str = "asha@example.com") -> str:
        """Sign in to an account that exists, and return a token."""
        return self._token("/api/auth/login", {"email": email, "password": PASSWORD})

    def new_key(self, token: str) -> str:
        """Make an API key, and return its secret."""
        headers = {"authorization": f"Bearer {token}"}
        response = httpx.post(f"{self.base_url}/api/user/api-keys", json={"name": "first"}, headers=headers)
        assert response.status_code in (200, 201), response.text
        secret = next(value for value in _texts(response.json()) if value.startswith("aipasta_"))
        assert len(secret) == len("aipasta_") + 38
        return secret

    def sdk(self, key: str) -> OpenAI:
        """Return OpenAI's client for this gateway."""
        return OpenAI(base_url=f"{self.base_url}/v1", api_key=key, max_retries=0)

    def metrics(self) -> dict[str, float]:
        """Return every sample of /metrics by its name and labels."""
        lines = httpx.get(f"{self.base_url}/metrics").text.splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and all of its children, as a terminal or a service manager does."""
        os.killpg(self.process.pid, number)

    def workers(self) -> list[int]:
        """Return the process ids of its children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def kill(self) -> None:
        """End it with `kill -9`."""
        self.process.kill()
        self.process.wait(10)

    def stop(self, seconds: float = 20) -> int:
        """End it as a service manager does, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def _token(self, path: str, body: Mapping[str, str]) -> str:
        response = httpx.post(f"{self.base_url}{path}", json=body)
        assert response.status_code in (200, 201), response.text
        token = response.json()["token"]
        assert isinstance(token, str)
        return token


class Starter:
    """How processes of the gateway are started: each from nothing, unless a `nursery` forks them."""

    nursery: Nursery | None = None

    @classmethod
    def start(
        cls,
        arguments: Sequence[str],
        folder: Path,
        variables: Mapping[str, str],
        output: BinaryIO,
        errors: BinaryIO | None = None,
    ) -> Process:
        """Run the gateway's command line in a session of its own, and do not wait for it."""
        if cls.nursery is not None:
            return cls.nursery.start(arguments, folder, variables, output, errors or output)
        return subprocess.Popen(
            [sys.executable, "-m", "proxy", *arguments],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors or output,
            start_new_session=True,
        )


@contextmanager
def serving_process(folder: Path, **settings: str) -> Iterator[ServerProcess]:
    """Run `python -m proxy serve` in a folder until the block ends; `settings` are environment variables."""
    port = settings.pop("PORT", None) or str(free_port())
    log = folder / f"gateway-{port}-{time.monotonic_ns()}.log"
    process = start_process(folder, log, PORT=port, **settings)
    server = ServerProcess(process, f"http://127.0.0.1:{port}", log)
    try:
        wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


def start_process(folder: Path, log: Path, **settings: str) -> Process:
    """Start `python -m proxy serve`, in a process group of its own, and do not wait for it."""
    with log.open("wb") as output:
        return Starter.start(["serve"], folder, environment(**settings), output)


def run_command(
    folder: Path, *arguments: str, seconds: float = 60, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run one command of the gateway's command line to its end."""
    with TemporaryFile() as output, TemporaryFile() as errors:
        process = Starter.start(arguments, folder, environment(**settings), output, errors)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
            raise
        texts = [_whole(file) for file in (output, errors)]
    return subprocess.CompletedProcess(arguments, status, *texts)


def environment(**settings: str) -> dict[str, str]:
    """Return the environment of a process that knows of nothing but these settings."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "PYTHONPATH": str(PROJECT), "PYTHONWARNINGS": "default", **settings}


def _whole(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


def free_port() -> int:
    """Return a port that nobody listens on, and that no connection is given before somebody does."""
    while True:
        port = random.choice(_PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_until_ready(server: ServerProcess) -> None:
    """Wait until a gateway serves."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert server.process.poll() is None, server.log.read_text()
        assert time.monotonic() < deadline, server.log.read_text()
        try:
            if httpx.get(f"{server.base_url}/health/ready", timeout=1).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from _texts(child)


@contextmanager
def database_at(uri: str) -> Iterator[Any]:
    """Connect to the database of a gateway from beside it."""
    with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        yield client.get_default_database()


def events_at(uri: str, count: int) -> list[dict[str, Any]]:
    """Wait until that many usage events are in a database, and return them, oldest first."""
    deadline = time.monotonic() + 90
    with database_at(uri) as database:
        while True:
            events: list[dict[str, Any]] = list(database["usageevents"].find().sort("at"))
            if len(events) >= count or time.monotonic() > deadline:
                assert len(events) == count, [event["outcome"] for event in events]
                return events
            time.sleep(0.05)


def assert_one_line(said: str, named: str = "") -> None:
    """Assert that a command has failed in one line, which names what is wrong and no secret."""
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    assert named in said
    assert "0123456789-abcdef" not in said
