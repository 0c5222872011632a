"""Tests of proxy/logs.py."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import subprocess
import sys
import time
from decimal import Decimal
from typing import Any

import orjson
import pytest

from proxy import logs
from tests.server_process import PROJECT, environment

FORGERIES = (
    "a\n2026-11-23T12:00:00Z [info] admin deleted",
    "a\r\nforged",
    "\x1b[31mred\x1b[0m\x07\x00",
    "\u2028\u2029\u0085\x0b\x0c",
    "\u202egpj.exe",
    "\ud800",
)
SCRIPT = """
import logging, sys, structlog
from proxy import logs
logs.configure("info", ["hunter2-canary"])
log = structlog.get_logger("test")
log.debug("not shown")
log.info("first", text=sys.argv[1], huge="x" * 100_000, number=10**40, nothing=None, many=["a\\nb"])
log.warning("the hunter2-canary is in " + "aipasta_" + "k" * 38, uri="mongodb://u:p4ssw0rd@h/")
try:
    raise ValueError(sys.argv[1])
except ValueError:
    log.exception("failed")
logging.getLogger("library").warning("says %s to hunter2-canary", sys.argv[1])
logging.getLogger("library").error("PATCH /api/auth/reset-password/AbCdEfGhIjKlMnOpQrStUv failed")
"""


def run(text: str) -> bytes:
    """Log a text in all ways, in a process whose standard error is no terminal."""
    command = [sys.executable, "-c", SCRIPT, text]
    done = subprocess.run(command, cwd=PROJECT, env=environment(), capture_output=True, check=True)
    return done.stderr


@pytest.mark.parametrize("text", [text for text in FORGERIES if "\x00" not in text and text != "\ud800"])
def test_lines_are_json_and_cannot_be_forged(text: str) -> None:
    """Every entry is one line of JSON, whatever is logged, by us or by a library; none holds a secret."""
    output = run(text)
    lines = [orjson.loads(line) for line in output.splitlines()]
    assert [line["event"].split(" ")[0] for line in lines] == [
        "first",
        "the",
        "failed",
        "says",
        "PATCH",
    ]
    assert [line["level"] for line in lines] == ["info", "warning", "error", "warning", "error"]
    assert all(line["timestamp"].endswith("Z") for line in lines)
    assert len(lines[0]["huge"]) < 2 * logs.LONGEST_TEXT
    assert lines[0]["number"] == str(10**40)
    assert "ValueError" in lines[2]["exception"]
    for secret in (b"hunter2", b"p4ssw0rd", b"k" * 38, b"AbCdEf"):
        assert secret not in output
    decoded = output.decode()
    assert "\x1b" not in decoded
    assert len(decoded.splitlines()) == len(lines)  # which knows all line ends of Unicode


@pytest.mark.parametrize("text", FORGERIES)
def test_a_terminal_shows_one_line(text: str) -> None:
    """In a terminal, too, a value stays within its line, and a stack trace is indented under it."""
    fields: Any = {"event": text, "value": text, "exception": f"Traceback:\n{text}"}
    shown = logs._as_bytes(None, "info", logs.tame(None, "info", fields)).decode()
    first, *trace = shown.splitlines()
    assert "value" in first
    assert trace
    assert all(line.startswith("  | ") for line in trace)
    assert "forged" not in shown or "\\r\\nforged" in shown or "  | forged" in shown


def test_what_looks_secret_is_hidden() -> None:
    """Keys, tokens, passwords in URLs and the configured secrets are hidden; ordinary words stay."""
    hide = logs.hide(["configured-secret", "abc", ""])
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
    for secret in (
        "configured-secret",
        f"aipasta_{'x' * 38}",
        "sk-or-v1-0123456789",
        "hf_abcdefghij",
        token,
    ):
        fields = hide(None, "info", {"event": f"before {secret} after", "n": 1})
        assert fields == {"event": f"before {logs.HIDDEN} after", "n": 1}
    words = "abc: task-force at https://example.com/a@b, half_done, 12"
    assert hide(None, "info", {"event": words}) == {"event": words}
    assert hide(None, "info", {"uri": "smtp://me:pw@host"})["uri"] == f"smtp://{logs.HIDDEN}@host"


def test_values_of_any_kind_are_bounded() -> None:
    """Numbers stay numbers, and everything else becomes a short text."""
    fields = {"a": Decimal("0.10"), "b": 1.5, "c": {"x": "y\n"}, "d": 2**60, "e": True, "_record": logging}
    tamed = logs.tame(None, "info", dict(fields))
    assert tamed["a"] == "0.10"
    assert (tamed["b"], tamed["e"], tamed["d"]) == (1.5, True, str(2**60))
    assert tamed["c"] == "{'x': 'y\\n'}"
    assert tamed["_record"] is logging
    assert logs.one_line("x" * 10, 4) == "xxxx... (10 characters)"


def test_nobody_has_to_read_the_log() -> None:
    """A reader of standard error that has gone breaks nothing."""
    script = """
import asyncio, structlog
from proxy import logs
logs.configure("info")
for _ in range(200):
    structlog.get_logger().info("x" * 1000)
async def write():
    log = logs.RequestLogger(is_debugging=False)
    for _ in range(200):
        log.write({"y": "y" * 1000}, is_quiet=False)
        await asyncio.sleep(0)
asyncio.run(write())
print("alive")
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, cwd=PROJECT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        process.stderr.close()
        process.stderr = None
        output, _ = process.communicate(timeout=30)
    assert output == b"alive\n"


def test_nobody_waits_for_who_does_not_read() -> None:
    """A log that is not read for a while keeps the program waiting for a moment; what is read says what was left out."""
    script = """
import sys, structlog
from proxy import logs
logs.configure("info")
log = structlog.get_logger()
for number in range(500):
    log.info("x" * 500, number=number)
print("alive", flush=True)
sys.stdin.readline()
log.info("last")
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdin is not None
        try:
            ready, *_ = select.select([process.stdout], [], [], 20)
            assert ready, "it waits for its reader"
            full = os.read(process.stderr.fileno(), 2**20)
            process.stdin.write(b"\n")
            process.stdin.close()
            lines = [orjson.loads(line) for line in (full + process.stderr.read()).splitlines()]
        finally:
            process.kill()
    kept = [line["number"] for line in lines if "number" in line]
    assert kept == list(range(len(kept)))
    assert 50 < len(kept) < 500
    notice, last = lines[len(kept) :]
    assert (notice["left_out"], last["event"]) == (500 - len(kept), "last")


def test_standard_error_may_be_closed() -> None:
    """A program that is started without one, as some schedulers do, runs."""
    script = (
        "import structlog; from proxy import logs; logs.configure('info'); structlog.get_logger().info('x');"
        "logs.RequestLogger(is_debugging=False); print('alive')"
    )
    command = ["/bin/sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, script]
    done = subprocess.run(command, cwd=PROJECT, env=environment(), capture_output=True, check=True)
    assert done.stdout == b"alive\n"


async def test_a_line_about_a_request_is_cheap(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """It takes a small part of what a request may take; the bound is far above the 24 us that a busy machine took of CPU."""
    log, count = logs.RequestLogger(is_debugging=False), 2_000
    fields = {f"field{number}": "openai/gpt-4o-mini" for number in range(14)}
    began = time.process_time()
    for _ in range(count):
        log.write(dict(fields), is_quiet=False)
        await asyncio.sleep(0)
    each = (time.process_time() - began) / count
    assert len(capfdbinary.readouterr().err.splitlines()) == count
    assert each < 200e-6
