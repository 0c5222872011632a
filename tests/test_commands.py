"""The command line as a process: what it makes, and the one line that it says of whatever is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openai import PermissionDeniedError

from proxy.__main__ import main
from tests.proxy.stage import ask
from tests.server_process import (
    assert_one_line,
    database_at,
    free_port,
    run_command,
    serving_process,
)

HELLO: Any = ask("demo/echo")


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
    assert_one_line(nowhere.stderr)
    nobody = run_command(tmp_path, "keys", "create", "--email", "no@example.com", MONGODB_URI=mongodb_uri)
    assert (nobody.returncode, nobody.stderr) == (1, "error: no user has the e-mail no@example.com\n")
    with database_at(mongodb_uri) as database:
        database["users"].update_one({"email": "boss@example.com"}, {"$set": {"email": "boss@outlook.com"}})
    spelt = ("admin", "create", "--email", "boss+tag@outlook.com")
    found = run_command(tmp_path, *spelt, MONGODB_URI=mongodb_uri)
    assert found.stdout == "boss@outlook.com is an admin now; the password is unchanged\n"
    wrong = run_command(tmp_path, "admin", "create", "--email", "nonsense", MONGODB_URI=mongodb_uri)
    assert wrong.returncode == 1
    assert_one_line(wrong.stderr)


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
        assert_one_line(capsys.readouterr().err, named)


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
    assert_one_line(finished.stderr, named)


def test_what_the_database_refuses_is_one_line(tmp_path: Path, bare_mongodb_uri: str) -> None:
    """A database that answers and refuses is not said to be away."""
    with database_at(bare_mongodb_uri) as database:
        database["users"].insert_many([{"email": "twice@example.com"}, {"email": "twice@example.com"}])
    finished = run_command(tmp_path, "ledger", "verify", MONGODB_URI=bare_mongodb_uri)
    assert finished.returncode == 1
    assert_one_line(finished.stderr, "the database refuses what is needed")
    assert "twice@example.com" in finished.stderr


def test_a_port_that_is_taken_is_one_line(tmp_path: Path, mongodb_uri: str) -> None:
    """Two gateways cannot listen on one port, and the second says so."""
    with serving_process(tmp_path, MONGODB_URI=mongodb_uri) as server:
        port = server.base_url.rsplit(":", 1)[1]
        finished = run_command(tmp_path, "serve", PORT=port, MONGODB_URI=mongodb_uri)
        assert finished.returncode == 1
        assert f"127.0.0.1:{port}" in finished.stderr
        assert_one_line(finished.stderr)


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
    assert_one_line(finished.stderr)
