"""The gateway as a process: from an empty folder to the first answer, killed, stopped, and wrongly configured."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import PermissionDeniedError
from pymongo import MongoClient

from proxy.__main__ import main
from proxy.mongod import find_binary
from tests.proxy.stage import MINI, OSS, ask, assert_equals_books
from tests.proxy.test_mongod import mongods
from tests.server_process import (
    PASSWORD,
    ServerProcess,
    environment,
    free_port,
    run_command,
    serving_process,
    start_process,
    wait_until_ready,
)
from tests.upstreams import Behaviour, HuggingFace, OpenRouter

HELLO: Any = ask("demo/echo")
ADMIN = {"ADMIN_EMAIL": "root@example.com", "ADMIN_PASSWORD": PASSWORD}


@contextmanager
def database_at(uri: str) -> Iterator[Any]:
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


@pytest.mark.parametrize("workers", ["1", "2"])
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
            while httpx.get(f"{server.base_url}/health/ready").status_code == 200:
                time.sleep(0.02)  # a signal takes its way through the parent to the workers
            for path in ("/v1/models", "/api/auth/me", "/health/ready"):
                refused = httpx.get(f"{server.base_url}{path}")
                assert (refused.status_code, refused.headers["connection"]) == (503, "close")
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


@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.long), "2"])
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


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.long)])
@pytest.mark.parametrize("where", ["&-", "/dev/full"])
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
                client.chat.completions.create(**HELLO)
        server.kill()
    direct: Any = {**settings, "METERING": "direct"}
    finished = run_command(tmp_path, "serve", PORT=str(free_port()), **direct)
    assert finished.returncode == 1
    _assert_one_line(finished.stderr, "start once with METERING=leased")
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


def test_a_database_without_a_replica_set_will_do(tmp_path: Path) -> None:
    """MONGODB_URI may name a standalone server: accounts, keys, answers and events work there too."""
    with standalone_mongod(tmp_path / "db") as uri, serving_process(tmp_path, MONGODB_URI=uri) as server:
        key = server.new_key(server.sign_up())
        with server.sdk(key) as client:
            assert client.chat.completions.create(**HELLO).choices[0].message.content == "hello there"
        (event,) = events_at(uri, 1)
        assert event["outcome"] == "completed"
        assert server.stop() == 0


def test_the_command_line(tmp_path: Path, mongodb_uri: str) -> None:
    """Admins and keys are made on the command line; what cannot be done is one line and status 1."""
    made = run_command(tmp_path, "admin", "create", "--email", "Boss@Example.com", MONGODB_URI=mongodb_uri)
    assert made.returncode == 0, made.stderr
    assert "the password is" in made.stdout
    again = run_command(tmp_path, "admin", "create", "--email", "boss@example.com", MONGODB_URI=mongodb_uri)
    assert (again.returncode, "password is unchanged" in again.stdout) == (0, True)
    make_key = ("keys", "create", "--email", "boss@example.com")
    key = run_command(tmp_path, *make_key, MONGODB_URI=mongodb_uri)
    assert key.returncode == 0, key.stderr
    with (
        serving_process(tmp_path, MONGODB_URI=mongodb_uri) as server,
        server.sdk(key.stdout.strip()) as client,
    ):
        assert client.chat.completions.create(**HELLO).choices[0].message.content == "hello there"
        elsewhere = run_command(tmp_path, *make_key, "--allow-ip", "192.0.2.0/24", MONGODB_URI=mongodb_uri)
        with server.sdk(elsewhere.stdout.strip()) as tied, pytest.raises(PermissionDeniedError) as refused:
            tied.chat.completions.create(**HELLO)
        assert refused.value.code == "ip_not_allowed"
    nowhere = run_command(tmp_path, *make_key, "--allow-ip", "here", MONGODB_URI=mongodb_uri)
    assert (nowhere.returncode, nowhere.stdout) == (1, "")
    assert_one_line(nowhere)
    nobody = run_command(tmp_path, "keys", "create", "--email", "no@example.com", MONGODB_URI=mongodb_uri)
    assert (nobody.returncode, nobody.stderr) == (1, "error: no user has the e-mail no@example.com\n")
    with database_at(mongodb_uri) as database:
        database["users"].update_one({"email": "boss@example.com"}, {"$set": {"email": "boss@outlook.com"}})
    spelt = ("admin", "create", "--email", "boss+tag@outlook.com")
    found = run_command(tmp_path, *spelt, MONGODB_URI=mongodb_uri)
    assert found.stdout == "boss@outlook.com is an admin now; the password is unchanged\n"
    wrong = run_command(tmp_path, "admin", "create", "--email", "nonsense", MONGODB_URI=mongodb_uri)
    assert wrong.returncode == 1
    assert_one_line(wrong)


def assert_one_line(finished: subprocess.CompletedProcess[str]) -> None:
    assert finished.stderr.startswith("error: ")
    assert finished.stderr.count("\n") == 1, finished.stderr


def test_a_wrong_configuration_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong with the configuration stops the start with one line that names it, and status 1."""
    monkeypatch.chdir(tmp_path)
    strong = "k3J9x-Qw7Lm2Zp8Rt5Vb1Nc6Hd4Gf0Sa-and-more"
    production = {"ENVIRONMENT": "production", "JWT_SECRET": strong, "MONGODB_URI": "mongodb://127.0.0.1:9/x"}
    cases: list[tuple[str, dict[str, str], str]] = [
        ("colour: red\n", {}, "colour: there is no such setting"),
        ("drain_seconds: long\n", {}, "DRAIN_SECONDS"),
        ("jwt_secret: abc\n", {}, "JWT_SECRET"),
        ("providers: {x: {plugin: openai_compatible, base_url: ftp://x}}\n", {}, "base_url"),
        ("limits: {user: {daily_requests: -1}}\n", {}, "limits.user"),
        ("[1, 2]\n", {}, "must be a mapping"),
        ("a: [\n", {}, "cannot be read"),
        ("", {"PORT": "0"}, "PORT"),
        ("", {"CONFIG_FILE": "nowhere.yaml"}, "CONFIG_FILE"),
        ("", {"ADMIN_EMAIL": "a@example.com"}, "ADMIN_PASSWORD"),
        ("", {"ENVIRONMENT": "production"}, "JWT_SECRET"),
        ("", {"NODE_ENV": "production", "JWT_SECRET": "change-me-please-0123456789-abcdef"}, "JWT_SECRET"),
        ("", {"ENVIRONMENT": "production", "JWT_SECRET": strong}, "MONGODB_URI"),
        ("", {**production, "ALLOWED_ORIGINS": "*"}, "ALLOWED_ORIGINS"),
    ]
    for text, settings, named in cases:
        (tmp_path / "config.yaml").write_text(text)
        with monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            assert main(["serve"]) == 1, (text, settings)
        _assert_one_line(capsys.readouterr().err, named)


@pytest.mark.parametrize(
    ("text", "uri", "named"),
    [
        ("providers: {x: {plugin: nobody}}\n", "", "no plugin 'nobody'"),
        ("", "postgres://x", "MONGODB_URI"),
    ],
)
def test_what_only_the_start_finds_is_one_line(tmp_path: Path, text: str, uri: str, named: str) -> None:
    """What is known to be wrong when the parts are put together is one line too."""
    (tmp_path / "config.yaml").write_text(text)
    finished = run_command(tmp_path, "serve", seconds=20, PORT=str(free_port()), MONGODB_URI=uri)
    assert finished.returncode == 1, finished.stdout
    _assert_one_line(finished.stderr, named)


def _assert_one_line(said: str, named: str) -> None:
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    assert named in said
    assert "0123456789-abcdef" not in said


def test_what_the_database_refuses_is_one_line(tmp_path: Path, bare_mongodb_uri: str) -> None:
    """A database that answers and refuses is not said to be away."""
    with database_at(bare_mongodb_uri) as database:
        database["users"].insert_many([{"email": "twice@example.com"}, {"email": "twice@example.com"}])
    finished = run_command(tmp_path, "ledger", "verify", MONGODB_URI=bare_mongodb_uri)
    assert finished.returncode == 1
    _assert_one_line(finished.stderr, "the database refuses what is needed")
    assert "twice@example.com" in finished.stderr


def test_a_port_that_is_taken_is_one_line(tmp_path: Path, mongodb_uri: str) -> None:
    """Two gateways cannot listen on one port, and the second says so."""
    with serving_process(tmp_path, MONGODB_URI=mongodb_uri) as server:
        port = server.base_url.rsplit(":", 1)[1]
        finished = run_command(tmp_path, "serve", PORT=port, MONGODB_URI=mongodb_uri)
        assert finished.returncode == 1
        assert f"127.0.0.1:{port}" in finished.stderr
        assert_one_line(finished)


def test_a_journal_that_cannot_be_written_is_one_line(tmp_path: Path, mongodb_uri: str) -> None:
    """A gateway that could not keep its books does not start, and says where it was to keep them."""
    settings = {
        "MONGODB_URI": mongodb_uri,
        "JWT_SECRET": "k3J9x-Qw7Lm2Zp8Rt5Vb1Nc6Hd4Gf0Sa",
        "DATA_DIR": "/proc/nowhere",
    }
    finished = run_command(tmp_path, "serve", seconds=30, PORT=str(free_port()), **settings)
    assert finished.returncode == 1
    assert "the journal in /proc/nowhere/journal" in finished.stderr
    assert_one_line(finished)
