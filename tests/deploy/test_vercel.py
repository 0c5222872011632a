"""Tests of the function that Vercel runs, in a process of its own under the server that Vercel uses, uvicorn."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.server_process import environment, free_port

SETTINGS = {
    "ENVIRONMENT": "production",
    "JWT_SECRET": "0123456789abcdef0123456789abcdef-for-vercel",
    "ALLOWED_ORIGINS": "https://app.example.com",
}
PUBLIC, OTHER = {"x-real-ip": "8.8.8.8"}, {"x-real-ip": "8.8.4.4"}


@contextmanager
def function(folder: Path, **settings: str) -> Iterator[httpx.Client]:
    """Run `api.index:app` from a folder with no configuration, and yield a client for it."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "api.index:app",
        "--port",
        str(port),
        "--log-level",
        "warning",
    ]
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(**settings), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
            _wait_for(http, process, folder / "log")
            yield http
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(http: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 40
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            http.get("/health")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return


@pytest.mark.long
def test_it_serves_in_production_without_a_disk(mongodb_uri: str, tmp_path: Path) -> None:
    """It serves from variables alone, writes no file, and knows its clients by the address that Vercel names."""
    home = tmp_path / "home"
    home.mkdir()
    with function(tmp_path, MONGODB_URI=mongodb_uri, DATA_DIR=str(home / "data"), **SETTINGS) as http:
        assert http.get("/health/ready").json() == {"status": "READY"}
        assert http.get("/v1/models").json()["error"]["code"] == "missing_api_key"
        assert "strict-transport-security" in http.get("/").headers
        assert http.get("/metrics", headers=PUBLIC).status_code == 403
        left = [
            int(http.get("/api/models", headers=headers).headers["ratelimit-remaining"])
            for headers in (PUBLIC, PUBLIC, OTHER)
        ]
        assert left[0] - left[1] == 1
        assert left[2] == left[0]
    assert not any(home.iterdir())


@pytest.mark.long
def test_it_says_what_is_missing(tmp_path: Path) -> None:
    """Without MONGODB_URI it does not start, and says why."""
    command = [sys.executable, "-c", "import api.index"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "MONGODB_URI: must be set" in done.stderr.splitlines()[-1]


def test_every_path_goes_to_the_function(project: Path) -> None:
    """vercel.json sends every path to the function, and publishes no file of the project but robots.txt."""
    settings = json.loads((project / "vercel.json").read_text())
    (function_path,) = settings["functions"]
    assert (project / function_path).is_file()
    assert settings["rewrites"] == [{"source": "/(.*)", "destination": "/api/index"}]
    assert [path.name for path in (project / settings["outputDirectory"]).iterdir()] == ["robots.txt"]
    ignored = (project / ".vercelignore").read_text().split("\n")
    assert {".env", "data"} <= set(ignored)


def test_the_function_carries_no_mongod(project: Path) -> None:
    """What is installed from pyproject.toml is small: the embedded MongoDB is an extra."""
    table = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert not any("fiftyone" in line for line in table["dependencies"])
    assert any("fiftyone" in line for line in table["optional-dependencies"]["embedded"])
