"""The gateway as a process: from an empty folder to the first answer, against providers, and with whatever it is given."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.mongod import find_binary
from tests.proxy.stage import MINI, OSS, ask, assert_equals_books
from tests.server_process import (
    ADMIN,
    ServerProcess,
    environment,
    events_at,
    free_port,
    serving_process,
    wait_until_ready,
)
from tests.upstreams import HuggingFace, OpenRouter

HELLO: Any = ask("demo/echo")


@pytest.mark.usefixtures("from_nothing")
def test_from_an_empty_folder(tmp_path: Path) -> None:
    """With no setting at all: sign up, a key, the SDK, tokens and cost in the metrics; and after kill -9 all is there."""
    with serving_process(tmp_path) as server:
        key = server.new_key(server.sign_up())
        with server.sdk(key) as client:
            answer = client.chat.completions.create(**HELLO)
            assert answer.choices[0].message.content == "hello there"
            streamed = client.chat.completions.create(**HELLO, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
            assert text == "hello there"
            assert "demo/echo" in {model.id for model in client.models.list()}
        metrics = server.metrics()
        assert answer.usage is not None
        samples = {name: value for name, value in metrics.items() if "demo/echo" in name}
        assert sum(value for name, value in samples.items() if name.startswith("aipasta_requests_total")) == 2
        prompts = [
            value for name, value in samples.items() if "aipasta_tokens_total" in name and '"prompt"' in name
        ]
        assert prompts == [2 * answer.usage.prompt_tokens], samples
        assert any(name.startswith("aipasta_cost_usd_total") for name in samples)
        server.kill()
    with serving_process(tmp_path) as server:
        headers = {"authorization": f"Bearer {server.sign_in()}"}
        me = httpx.get(f"{server.base_url}/api/auth/me", headers=headers)
        assert me.status_code == 200
        with server.sdk(key) as client:
            assert client.chat.completions.create(**HELLO).choices[0].message.content == "hello there"
        assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


def test_against_the_providers(tmp_path: Path, mongodb_uri: str) -> None:
    """Through OPENROUTER_BASE_URL and HUGGINGFACE_BASE_URL the events and the metrics equal the providers' books."""
    with OpenRouter().in_thread() as openrouter, HuggingFace().in_thread() as huggingface:
        settings = {
            "MONGODB_URI": mongodb_uri,
            "OPENROUTER_API_KEY": "sk-or-v1-one, sk-or-v1-two",
            "HUGGINGFACE_API_KEY": "hf_dummy",
            "OPENROUTER_BASE_URL": openrouter.base_url,
            "HUGGINGFACE_BASE_URL": f"{huggingface.base_url}/",
            **ADMIN,
        }
        with serving_process(tmp_path, **settings) as server:
            with server.sdk(server.new_key(server.sign_in("root@example.com"))) as client:
                create: Any = client.chat.completions.create
                for model in (MINI, f"huggingface/{OSS}"):
                    create(**ask(model, "word " * 50))
                    for _ in create(**ask(model, stream=True)):
                        pass
            entries = [*openrouter.books, *huggingface.books]
            events = events_at(mongodb_uri, 4)
            for event, entry in zip(events, entries, strict=True):
                assert_equals_books(event, entry)
            assert {entry.key for entry in openrouter.books} == {"sk-or-v1-one", "sk-or-v1-two"}
            metrics = server.metrics()
            cost = sum(value for name, value in metrics.items() if name.startswith("aipasta_cost_usd_total"))
            assert cost == pytest.approx(
                float(openrouter.books.total_cost() + huggingface.books.total_cost())
            )
            tokens = sum(
                value
                for name, value in metrics.items()
                if name.startswith("aipasta_tokens_total") and ('"prompt"' in name or '"completion"' in name)
            )
            assert tokens == sum(entry.total_tokens for entry in entries)
            server.kill()
        with serving_process(tmp_path, **settings) as server:
            assert len(events_at(mongodb_uri, 4)) == 4
            with server.sdk(server.new_key(server.sign_in("root@example.com"))) as client:
                create = client.chat.completions.create
                create(**ask(MINI))
            events_at(mongodb_uri, 5)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.long)])
@pytest.mark.parametrize("where", ["&-", pytest.param("/dev/full", marks=pytest.mark.long)])
def test_nobody_has_to_be_told(tmp_path: Path, mongodb_uri: str, where: str, workers: str) -> None:
    """A gateway whose standard output is closed, or on a full disk, serves and ends well."""
    port = free_port()
    shell = subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$0" -m proxy serve >{where} 2>err', sys.executable],
        cwd=tmp_path,
        env=environment(MONGODB_URI=mongodb_uri, PORT=str(port), WORKERS=workers),
    )
    with shell as process:
        try:
            wait_until_ready(ServerProcess(process, f"http://127.0.0.1:{port}", tmp_path / "err"))
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert (tmp_path / "err").read_text().count("Traceback") == 0


@contextmanager
def standalone_mongod(folder: Path) -> Iterator[str]:
    """Run a database server as most people first do: without a replica set."""
    binary, port = find_binary(), free_port()
    assert binary is not None
    folder.mkdir()
    command = [str(binary), "--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--wiredTigerCacheSizeGB", "0.25"],
        stdout=subprocess.DEVNULL,
        env={"PATH": os.defpath, "LC_ALL": "C"},
    )
    try:
        yield f"mongodb://127.0.0.1:{port}/plain"
    finally:
        process.terminate()
        process.wait(20)


def test_a_burst_of_connections_waits_in_line(tmp_path: Path, mongodb_uri: str) -> None:
    """Hundreds of connections that come while the gateway is busy all stand in its line, where nothing makes room."""
    with serving_process(tmp_path, MONGODB_URI=mongodb_uri) as server, ExitStack() as connections:
        address = ("127.0.0.1", int(server.base_url.rsplit(":", 1)[1]))
        server.process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(400):
                connections.enter_context(socket.create_connection(address, timeout=30))
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert httpx.get(f"{server.base_url}/health").status_code == 200


@pytest.mark.long
def test_a_database_without_a_replica_set_will_do(tmp_path: Path) -> None:
    """MONGODB_URI may name a standalone server: accounts, keys, answers and events work there too."""
    with standalone_mongod(tmp_path / "db") as uri, serving_process(tmp_path, MONGODB_URI=uri) as server:
        key = server.new_key(server.sign_up())
        with server.sdk(key) as client:
            assert client.chat.completions.create(**HELLO).choices[0].message.content == "hello there"
        (event,) = events_at(uri, 1)
        assert event["outcome"] == "completed"
        assert server.stop() == 0
