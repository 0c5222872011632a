"""Runs schemathesis in a process of its own against a gateway in another, and returns what it has found."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
from bson import json_util
from pymongo import MongoClient

from proxy import tokens
from proxy.clock import utc_now
from proxy.token_keys import TokenKeys
from tests.gateway import JWT_SECRET
from tests.server_process import PROJECT, ServerProcess, run_command, serving_process

_MAIN = "from schemathesis.cli import schemathesis; schemathesis()"
CALLERS = ("anonymous", "user", "admin")
ADMIN = "root@example.com"
_GATEWAY = """
trusted_proxies: [127.0.0.1/32]
rate_limits: {development_factor: 1000000}
limits:
  user: {daily_requests: 1000000, monthly_requests: 1000000, monthly_tokens: 1000000000}
  admin: {daily_requests: 1000000, monthly_requests: 1000000, monthly_tokens: 1000000000}
  api_keys_per_user: 1000000
"""
# What JSON Schema cannot say (a password among the common ones, a model that nobody has) is a refusal all the same.
# Who may call what is tests/test_credentials.py's subject, where no hook adds the credential that is to be missing.
_TOOL = """
[auth]
auto-signup = false
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 402, 403, 404, 409]
[checks.negative_data_rejection]
expected-statuses = [400, 401, 402, 403, 404, 405, 409, 413, 415, 503]
[checks.ignored_auth]
enabled = {checks_auth}
[checks.missing_required_header]
enabled = {checks_auth}
"""


@dataclass(frozen=True)
class Target:
    """A gateway to try, and its database."""

    server: ServerProcess
    uri: str


@contextmanager
def target(folder: Path, uri: str) -> Iterator[Target]:
    """Serve with the demo provider and without limits that would soon end the trial."""
    (folder / "config.yaml").write_text(_GATEWAY)
    settings = {"MONGODB_URI": uri, "JWT_SECRET": JWT_SECRET, "ACCESS_LOG": "false"}
    with serving_process(folder, **settings) as server:
        yield Target(server, uri)


def run(
    target: Target, folder: Path, caller: str, *, phases: str, examples: int = 1, paths: str = "."
) -> tuple[int, str]:
    """Try the operations whose paths match as one caller; return schemathesis' exit status and its report."""
    tool = folder / f"{caller}.toml"
    tool.write_text(_TOOL.format(checks_auth="true" if caller == "anonymous" else "false"))
    command = [
        *(sys.executable, "-c", _MAIN, "--config-file", str(tool), "run"),
        f"{target.server.base_url}/docs/openapi.json",
        *("--phases", phases, "--max-examples", str(examples), "--generation-deterministic"),
        *("--continue-on-failure", "--no-color", "--warnings", "off"),
        *("--suppress-health-check", "all", "--include-path-regex", paths),
    ]
    finished = subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks",
            "FUZZ": orjson.dumps(_wish(target, folder, caller)).decode(),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return finished.returncode, finished.stdout + finished.stderr


def _wish(target: Target, folder: Path, caller: str) -> dict[str, Any]:
    if caller == "anonymous":
        return {"uri": target.uri, "session": json_util.dumps(None)}
    email = ADMIN if caller == "admin" else "user@example.com"
    token = target.server.sign_up(email)
    if caller == "admin":
        made = run_command(folder, "admin", "create", "--email", ADMIN, MONGODB_URI=target.uri)
        assert made.returncode == 0, made.stderr
    key = target.server.new_key(token)
    claims = tokens.read(token, TokenKeys.of(JWT_SECRET), now=utc_now())
    with MongoClient[dict[str, Any]](target.uri, tz_aware=True) as client:
        session = client.get_default_database()["sessions"].find_one({"_id": claims.session_id})
    assert httpx.get(f"{target.server.base_url}/health").status_code == 200
    return {"uri": target.uri, "token": token, "key": key, "session": json_util.dumps(session)}
