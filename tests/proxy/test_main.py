"""Tests of proxy/__main__.py: what the command line understands. What it does is shown in tests/test_process.py."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from proxy.__main__ import main


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
