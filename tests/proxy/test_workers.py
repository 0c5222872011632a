"""Tests of proxy/workers.py: several processes that an operator sees as one gateway."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as families

from tests.proxy.stage import ask
from tests.server_process import (
    ADMIN,
    ServerProcess,
    assert_one_line,
    free_port,
    run_command,
    serving_process,
    start_process,
)
from tests.test_ends import streaming
from tests.upstreams import Behaviour, OpenRouter

HELLO: Any = ask("demo/echo")
SERVED = 'aipasta_requests_total{model="demo/echo",outcome="completed",provider="demo"}'


def until(claim: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until a claim holds."""
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def both_serve(server: ServerProcess) -> bool:
    """Say whether both workers listen; the first one starts alone."""
    return len(server.workers()) == 2 and listeners(server.base_url) == 2


def listeners(base_url: str) -> int:
    port = f":{int(base_url.rsplit(':', 1)[1]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(row[1].endswith(port) and row[3] == "0A" for row in rows[1:])


def chat(server: ServerProcess, key: str, count: int) -> None:
    """Ask over a new connection each time, so that every worker gets its share."""
    headers = {"authorization": f"Bearer {key}"}
    for _ in range(count):
        response = httpx.post(f"{server.base_url}/v1/chat/completions", json=HELLO, headers=headers)
        assert response.status_code == 200, response.text


def assert_well_formed(exposition: str) -> None:
    """Check an exposition with the library's parser, and with Prometheus' own tool where there is one."""
    names = [family.name for family in families(exposition)]
    assert len(names) == len(set(names)) > 10
    promtool = shutil.which("promtool")
    if promtool is not None:
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=exposition, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_two_workers_are_one_gateway(tmp_path: Path) -> None:
    """Any scrape counts the requests of both workers, also after one of them was killed and replaced, and again."""
    with serving_process(tmp_path, WORKERS="2") as server:
        until(lambda: both_serve(server))
        key = server.new_key(server.sign_up())
        chat(server, key, 20)
        until(lambda: server.metrics().get(SERVED) == 20)  # each tells the others every second
        for _ in range(8):
            assert server.metrics()[SERVED] == 20
        exposition = httpx.get(f"{server.base_url}/metrics").text
        assert_well_formed(exposition)
        assert "pid=" not in exposition
        for victim in server.workers():
            os.kill(victim, signal.SIGKILL)
            until(lambda victim=victim: victim not in server.workers() and both_serve(server))  # type: ignore[misc]
        chat(server, key, 10)
        until(lambda: server.metrics()[SERVED] == 30)
        until(lambda: server.metrics()["aipasta_requests_in_flight"] == 0)
        metrics = server.metrics()
        assert metrics['aipasta_catalogue_models{provider="demo"}'] == 1
        assert_well_formed(httpx.get(f"{server.base_url}/metrics").text)
        assert server.stop() == 0
    log = server.log.read_text()
    assert log.count("AI Pasta gateway (development) on") == 1
    assert log.count("a worker has ended") == 2
    assert "Traceback" not in log


@pytest.mark.long
def test_fifty_a_day_are_fifty_over_two_workers(tmp_path: Path) -> None:
    """A limit holds to the last request, whichever worker gets it."""
    with serving_process(tmp_path, WORKERS="2") as server:
        until(lambda: both_serve(server))
        key = server.new_key(server.sign_up())
        headers = {"authorization": f"Bearer {key}"}
        url = f"{server.base_url}/v1/chat/completions"
        statuses = [
            httpx.post(url, json={**HELLO, "max_tokens": 16}, headers=headers).status_code for _ in range(60)
        ]
        assert (statuses.count(200), statuses.count(429)) == (50, 10)


def test_workers_do_not_outlive_their_parent(tmp_path: Path, mongodb_uri: str) -> None:
    """Workers whose parent was killed drain and end, so that the next gateway finds its port free."""
    with serving_process(tmp_path, WORKERS="2", MONGODB_URI=mongodb_uri) as server:
        until(lambda: both_serve(server))
        server.kill()
        until(lambda: listeners(server.base_url) == 0)
        port = server.base_url.rsplit(":", 1)[1]
        with serving_process(tmp_path, PORT=port, MONGODB_URI=mongodb_uri) as successor:
            assert successor.stop() == 0


@pytest.mark.long
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_new_version_takes_over(tmp_path: Path, mongodb_uri: str, workers: str) -> None:
    """With REUSE_PORT a newer gateway serves on the port while the old one lets its streams end, and nobody is refused."""
    with OpenRouter().in_thread() as openrouter:
        settings = {
            "MONGODB_URI": mongodb_uri,
            "OPENROUTER_API_KEY": "sk-or-v1-one",
            "OPENROUTER_BASE_URL": openrouter.base_url,
            "WORKERS": workers,
            "REUSE_PORT": "true",
            "PORT": str(free_port()),
            **ADMIN,
        }
        with serving_process(tmp_path, **settings) as old:
            key = old.new_key(old.sign_in("root@example.com"))
            openrouter.script.always(Behaviour(pieces=50, delay_between=0.2))
            lines: list[str] = []
            thread = streaming(old, key, lines)
            openrouter.books.wait_until(lambda books: bool(books) and books[-1].pieces_sent > 2)
            with serving_process(tmp_path, **settings) as new:
                until(lambda: listeners(new.base_url) == 2 * int(workers))
                old.process.send_signal(signal.SIGTERM)
                until(lambda: listeners(new.base_url) == int(workers))
                assert old.process.poll() is None
                for _ in range(20):
                    assert httpx.get(f"{new.base_url}/health/ready").status_code == 200
                assert old.process.wait(20) == 0
                thread.join(5)
                assert "data: [DONE]" in lines[-2:]
                assert httpx.get(f"{new.base_url}/health/ready").status_code == 200
                assert new.stop() == 0


def test_what_cannot_start_is_one_line(tmp_path: Path, mongodb_uri: str) -> None:
    """With workers, too, a wrong setting or a taken port stops the start with one line and status 1."""
    settings: Any = {"WORKERS": "2", "MONGODB_URI": mongodb_uri}
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = str(taken.getsockname()[1])
        finished = run_command(tmp_path, "serve", PORT=port, **settings)
        assert (finished.returncode, port in finished.stderr) == (1, True)
        assert_one_line(finished.stderr)
    (tmp_path / "config.yaml").write_text("providers: {x: {plugin: nobody}}\n")
    finished = run_command(tmp_path, "serve", PORT=str(free_port()), **settings)
    assert (finished.returncode, "no plugin 'nobody'" in finished.stderr) == (1, True)
    assert_one_line(finished.stderr)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_during_the_start_ends_it(tmp_path: Path, workers: str) -> None:
    """SIGTERM while the database is still waited for ends the start at once, and in good order."""
    log = tmp_path / "early.log"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = f"mongodb://127.0.0.1:{silent.getsockname()[1]}/x"
        process = start_process(tmp_path, log, WORKERS=workers, MONGODB_URI=database, PORT=str(free_port()))
        silent.settimeout(20)
        with silent.accept()[0]:
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
