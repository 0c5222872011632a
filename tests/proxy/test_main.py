"""Tests of proxy/__main__.py: what the command line understands. What it does is shown in tests/test_commands.py."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.__main__ import main
from tests.server_process import environment


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "arguments", [[], ["dance"], ["keys"], ["keys", "create"], ["admin", "create"], ["serve", "x"]]
)
def test_what_it_does_not_understand_is_a_usage_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown command or a missing option is argparse's status 2, with the usage."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m proxy" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` lists the commands."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("serve", "keys", "admin", "doctor"))


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("PORT", "many", "PORT"),
        ("MONGODB_URI", "mongodb://", "MONGODB_URI"),
        ("MONGODB_URI", "http://localhost", "MONGODB_URI"),
        ("CONFIG_FILE", "nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_a_problem_of_the_operators_is_one_line(
    name: str, value: str, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the operator can mend is one line on stderr and status 1, without a stack."""
    monkeypatch.setenv(name, value)
    assert main(["keys", "create", "--email", "a@example.com"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert named in error


def test_a_taken_port_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The address that cannot be had is named before anything else is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setenv("PORT", port)
        assert main(["serve"]) == 1
    assert f"127.0.0.1:{port}" in capsys.readouterr().err
    assert not Path("data/mongodb").exists()


_IMPORTED = """
import json, sys
from proxy.__main__ import main
try:
    status = main(sys.argv[1:])
except SystemExit as ended:
    status = ended.code
names = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([status, sorted(names)]))
"""


def imported(*arguments: str, **settings: str) -> tuple[int, set[str]]:
    """Give a command in a process of its own; return its status, and the packages that it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED, *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=True,
    )
    status, names = json.loads(done.stdout.splitlines()[-1])
    return status, set(names)


DRIVER, SERVER, CLIENT = {"pymongo", "beanie"}, {"sanic", "uvloop", "admin_api"}, {"httptools", "httpx"}


@pytest.mark.parametrize(
    ("arguments", "settings", "status"),
    [
        (["--help"], {}, 0),
        (["keys"], {}, 2),
        (["serve"], {"PORT": "many"}, 1),
        (["doctor"], {"ENVIRONMENT": "production"}, 1),
    ],
)
def test_what_goes_wrong_at_once_costs_little(
    arguments: list[str], settings: dict[str, str], status: int
) -> None:
    """Help, a wrong option and a wrong setting are told without a web server, a driver and a client being imported."""
    ended, names = imported(*arguments, **settings)
    assert ended == status
    assert not names & (DRIVER | SERVER | CLIENT)


@pytest.mark.long
def test_a_command_imports_what_it_needs() -> None:
    """Who works on the database alone imports no web server and no client for providers, and who asks providers no server."""
    nowhere = {"MONGODB_URI": "mongodb://"}
    for arguments in (
        ["keys", "create", "--email", "a@example.com"],
        ["admin", "create", "--email", "a@example.com"],
        ["ledger", "verify"],
        ["migrate"],
    ):
        ended, names = imported(*arguments, **nowhere)
        assert ended == 1
        assert names >= DRIVER
        assert not names & ({"sanic", "uvloop"} | CLIENT)
    _, names = imported("doctor", **nowhere)
    assert names >= DRIVER | CLIENT
    assert not names & {"sanic", "uvloop"}
