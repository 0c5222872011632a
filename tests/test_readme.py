"""README.md says what is so: its tables, its paths, its commands, and its first requests."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from tests.gateway import running_gateway
from tests.readme import README, with_tables

TEXT = README.read_text(encoding="utf-8")
ROOT = README.parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_tables_are_those_of_the_code() -> None:
    """Settings, metrics and the benchmark are in the README as code and results say; `python -m tests.readme` writes it."""
    assert with_tables(TEXT) == TEXT


def test_the_map_is_the_tree() -> None:
    """Every file and folder that the map names exists, and no module of the data plane is missing from it."""
    tree = next(block for block in blocks("text") if "config.yaml" in block)
    folder = ROOT
    named = set()
    for line in tree.splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        if indent == 0:
            folder = ROOT / name if name.endswith("/") else ROOT
        path = folder / name if indent else ROOT / name
        assert path.exists(), path
        named.add(name)
    assert {"exchange.py", "completions.py", "core/", "metering/"} <= named


def test_the_make_targets_exist() -> None:
    """Every `make x` in the README is a target."""
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", TEXT, flags=re.MULTILINE)) <= targets


async def run(script: str, *command: str, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        script,
        env={"PATH": "/usr/bin:/bin:" + str(Path(sys.executable).parent), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_a_newcomers_first_requests_work(mongodb_uri: str) -> None:
    """The shell blocks from the first curl to the account API, and the Python one, run as they stand."""
    shell = [block for block in blocks("sh") if "curl" in block]
    script = "\n".join(["set -eu", *shell, 'echo "key=$KEY"']).replace("http://localhost:5000", "$REAL")
    async with running_gateway(mongodb_uri) as gateway:
        output = await run(script, "bash", "-c", REAL=gateway.base_url)
        assert output.count('"Hello there"') >= 1
        assert "data: [DONE]" in output
        assert 'aipasta_tokens_total{kind="prompt",model="demo/echo",provider="demo"}' in output
        assert '"status":"fail"' in output.splitlines()[-1]  # the admin's endpoint, asked for by a user
        assert output.count('"status":"success"') >= 5
        key = output.rsplit("key=", 1)[1].strip()
        python = next(block for block in blocks("python") if "OpenAI" in block)
        python = python.replace("http://localhost:5000", gateway.base_url).replace("KEY", repr(key))
        assert (await run(python, sys.executable, "-c")).strip() == "Hello there"
        events = await gateway.events()
        assert [event["outcome"] for event in events] == ["completed"] * 4
