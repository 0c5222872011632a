"""How the gateway as a process ends: told to by whatever signal, in mid-stream, while it starts, and killed."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.proxy.stage import MINI, ask, assert_equals_books
from tests.proxy.test_mongod import mongods
from tests.server_process import (
    ADMIN,
    ServerProcess,
    assert_one_line,
    database_at,
    events_at,
    free_port,
    run_command,
    serving_process,
    start_process,
)
from tests.upstreams import Behaviour, OpenRouter


def streaming(server: ServerProcess, key: str, lines: list[str]) -> threading.Thread:
    """Read a stream in a thread of its own, line by line."""

    def read() -> None:
        headers = {"authorization": f"Bearer {key}"}
        url = f"{server.base_url}/v1/chat/completions"
        try:
            with httpx.stream(
                "POST", url, json=ask(MINI, stream=True), headers=headers, timeout=30
            ) as response:
                lines.extend(response.iter_lines())
        except httpx.TransportError as exc:
            lines.append(f"broken: {type(exc).__name__}")

    thread = threading.Thread(target=read)
    thread.start()
    return thread


def terminate(server: ServerProcess) -> None:
    server.process.send_signal(signal.SIGTERM)


def terminate_all_and_again(server: ServerProcess) -> None:
    server.signal_group(signal.SIGTERM)
    time.sleep(0.3)
    server.signal_group(signal.SIGTERM)


def press_ctrl_c_twice(server: ServerProcess) -> None:
    server.signal_group(signal.SIGINT)
    time.sleep(0.3)
    server.signal_group(signal.SIGINT)


def close_the_terminal(server: ServerProcess) -> None:
    server.signal_group(signal.SIGHUP)


@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.long), "2"])
@pytest.mark.parametrize(
    "end",
    [
        terminate,
        *(
            pytest.param(end, marks=pytest.mark.long)
            for end in (terminate_all_and_again, press_ctrl_c_twice, close_the_terminal)
        ),
    ],
)
def test_a_stream_outlives_sigterm(
    tmp_path: Path, mongodb_uri: str, end: Callable[[ServerProcess], None], workers: str
) -> None:
    """However it is told to end, running streams end well, their events are there, new work is 503, the status is 0."""
    with OpenRouter().in_thread() as openrouter:
        settings = {
            "MONGODB_URI": mongodb_uri,
            "OPENROUTER_API_KEY": "sk-or-v1-one",
            "OPENROUTER_BASE_URL": openrouter.base_url,
            "WORKERS": workers,
            **ADMIN,
        }
        with serving_process(tmp_path, **settings) as server, ExitStack() as idle:
            key = server.new_key(server.sign_in("root@example.com"))
            # 5 s; with AIPASTA_LONG_DRAIN=1 20 s, for once and by hand.
            pieces = 100 if os.environ.get("AIPASTA_LONG_DRAIN") else 25
            openrouter.script.always(Behaviour(pieces=pieces, delay_between=0.2))
            streams: list[list[str]] = [[] for _ in range(4)]
            threads = [streaming(server, key, lines) for lines in streams]
            while len(openrouter.books) < 4 or any(entry.pieces_sent < 2 for entry in openrouter.books):
                time.sleep(0.02)
            address = ("127.0.0.1", int(server.base_url.rsplit(":", 1)[1]))
            for _ in range(50):
                idle.enter_context(socket.create_connection(address))
            end(server)
            for path in ("/v1/models", "/api/auth/me", "/health/ready"):
                # A signal takes its way through the parent, and reaches one worker before the other.
                while (answer := httpx.get(f"{server.base_url}{path}")).status_code != 503:
                    assert answer.status_code in {200, 401}
                    time.sleep(0.02)
                assert answer.headers["connection"] == "close"
            assert httpx.get(f"{server.base_url}/health").status_code == 200
            assert server.process.wait(pieces * 0.2 + 15) == 0
            for thread in threads:
                thread.join(60)
        for lines in streams:
            assert "data: [DONE]" in lines[-2:]
        events = events_at(mongodb_uri, 4)
        entries = {entry.generation_id: entry for entry in openrouter.books}
        for event in events:
            assert_equals_books(event, entries[event["generationId"]])
        assert "Traceback" not in server.log.read_text()


@pytest.mark.long
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_terminal_that_is_closed_leaves_no_database_behind(tmp_path: Path, workers: str) -> None:
    """SIGHUP to all of its processes ends a gateway as SIGTERM does, its MongoDB included."""
    with serving_process(tmp_path, WORKERS=workers) as server:
        assert len(mongods(tmp_path / "data")) == 1
        close_the_terminal(server)
        assert server.process.wait(20) == 0
    assert mongods(tmp_path / "data") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_start_that_is_ended_leaves_no_database_behind(tmp_path: Path, number: signal.Signals) -> None:
    """A signal while MongoDB is being started ends the gateway, and what it has started."""
    log, data = tmp_path / "early.log", tmp_path / "data"
    process = start_process(tmp_path, log, PORT=str(free_port()))
    while not mongods(data):
        assert process.poll() is None, log.read_text()
        time.sleep(0.005)
    process.send_signal(number)
    assert process.wait(30) == 0, log.read_text()
    time.sleep(0.5)  # one that was begun would be there by now
    assert mongods(data) == []
    assert log.read_text() == ""


def test_idle_connections_do_not_delay_the_end(tmp_path: Path, mongodb_uri: str) -> None:
    """With nothing under way a gateway ends at once, however many connections are kept alive."""
    settings = {"MONGODB_URI": mongodb_uri, "DRAIN_SECONDS": "3600"}
    with serving_process(tmp_path, **settings) as server, ExitStack() as connections:
        clients = [connections.enter_context(httpx.Client(base_url=server.base_url)) for _ in range(50)]
        assert {client.get("/health").status_code for client in clients} == {200}
        assert server.stop(60) == 0


@pytest.mark.long
def test_a_stream_longer_than_the_drain_is_ended(tmp_path: Path, mongodb_uri: str) -> None:
    """A stream that outlasts DRAIN_SECONDS gets an error event, and what it used is recorded as a shutdown."""
    with OpenRouter().in_thread() as openrouter:
        settings = {
            "MONGODB_URI": mongodb_uri,
            "OPENROUTER_API_KEY": "sk-or-v1-one",
            "OPENROUTER_BASE_URL": openrouter.base_url,
            "DRAIN_SECONDS": "0.5",
            **ADMIN,
        }
        with serving_process(tmp_path, **settings) as server:
            key = server.new_key(server.sign_in("root@example.com"))
            # Twenty seconds: longer than this drain, and shorter than one that nobody has set.
            openrouter.script.enqueue(Behaviour(pieces=200, delay_between=0.1))
            lines: list[str] = []
            thread = streaming(server, key, lines)
            openrouter.books.wait_until(lambda books: bool(books) and books[-1].pieces_sent > 2)
            assert server.stop(60) == 0
            thread.join(60)
        assert "service_unavailable" in next(line for line in lines if "error" in line)
        assert "data: [DONE]" not in lines
        (event,) = events_at(mongodb_uri, 1)
        assert (event["outcome"], event["requests"]) == ("shutdown", 1)
        assert event["tokens"]["completion"] > 0


@pytest.mark.parametrize("metering", ["leased", pytest.param("direct", marks=pytest.mark.long)])
def test_a_killed_stream_is_closed_after_the_restart(tmp_path: Path, mongodb_uri: str, metering: str) -> None:
    """A stream that dies with its gateway leaves one event of unknown outcome, and nothing held."""
    total = "8" if metering == "direct" else "60"
    (tmp_path / "config.yaml").write_text(
        "providers: {openrouter: {plugin: openrouter, api_key_env: OPENROUTER_API_KEY,"
        f" base_url: 'http://localhost', timeouts: {{total: {total}}}}}}}\n"
    )
    with OpenRouter().in_thread() as openrouter:
        openrouter.generation_delay = float("inf")
        settings = {
            "MONGODB_URI": mongodb_uri,
            "OPENROUTER_API_KEY": "sk-or-v1-one",
            "OPENROUTER_BASE_URL": openrouter.base_url,
            "METERING": metering,
            "RECONCILE_SECONDS": "0",
            **ADMIN,
        }
        with serving_process(tmp_path, **settings) as server:
            key = server.new_key(server.sign_in("root@example.com"))
            openrouter.script.enqueue(Behaviour(pieces=500, delay_between=0.1))
            lines: list[str] = []
            thread = streaming(server, key, lines)
            openrouter.books.wait_until(lambda books: bool(books) and books[-1].pieces_sent > 2)
            server.kill()
            thread.join(60)
        assert lines[-1].startswith("broken"), lines
        with serving_process(tmp_path, **settings):
            (event,) = events_at(mongodb_uri, 1)
            assert (event["outcome"], event["estimated"], event["requests"]) == ("unknown", True, 1)
            assert event["tokens"]["prompt"] > 0
            assert_nothing_is_held(mongodb_uri, event["userId"])


def test_a_meter_without_a_journal_leaves_none_behind(tmp_path: Path, mongodb_uri: str) -> None:
    """With METERING=direct a gateway does not start over the journal of one that died, and says how it is booked."""
    settings = {"MONGODB_URI": mongodb_uri, **ADMIN}
    with serving_process(tmp_path, **settings) as server:
        with server.sdk(server.new_key(server.sign_in("root@example.com"))) as client:
            for _ in range(3):
                client.chat.completions.create(**ask("demo/echo"))
        server.kill()
    direct: Any = {**settings, "METERING": "direct"}
    finished = run_command(tmp_path, "serve", PORT=str(free_port()), **direct)
    assert finished.returncode == 1
    assert_one_line(finished.stderr, "start once with METERING=leased")
    with serving_process(tmp_path, **settings) as server:
        events = events_at(mongodb_uri, 3)
        assert_nothing_is_held(mongodb_uri, events[0]["userId"])
        with serving_process(tmp_path, **direct) as beside:  # a journal that is in use is nobody's business
            assert beside.stop() == 0
        assert server.stop() == 0


def assert_nothing_is_held(uri: str, user_id: str) -> None:
    deadline = time.monotonic() + 60
    with database_at(uri) as database:
        while True:
            account = database["accounts"].find_one({"_id": user_id})
            held = [counter["l"] for counter in account["c"].values()] + list(account.get("h", []))
            used = [counter["u"] for counter in account["c"].values()]
            if not any(held) and any(used):
                return
            assert time.monotonic() < deadline, account
            time.sleep(0.1)
