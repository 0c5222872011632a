"""What is measured: ours with everything on, its peers as their documentation starts them, and no gateway at all.

Each is an async context manager that yields where to ask and what to read in /proc. All are installed below
`.bench/`, each in an environment of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.client import Target, load
from bench.keys import add_keys
from bench.processes import CannotRun, free_port, running, wait_for_port
from bench.upstream import MODEL
from proxy.handlers.system import VERSION
from proxy.mongod import embedded_mongod

PROJECT = Path(__file__).resolve().parent.parent
CACHE = PROJECT / ".bench"
KEYS = 1_000
_INSTALL_SECONDS = 400
_START_SECONDS = 90.0
_MASTER_KEY = "sk-of-the-benchmark-alone"


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that serves: where, as whom, its processes, and how long it took to give the first right answer."""

    target: Target
    pid: int | None
    start_seconds: float
    version: str = ""
    all_keys: Target | None = None
    mongod: int | None = None
    is_variant: bool = False
    """Whether it is there only for what gateways are compared by."""


Start = Callable[[int, Path], AbstractAsyncContextManager[Running]]


@asynccontextmanager
async def direct(upstream: int, _folder: Path) -> AsyncIterator[Running]:
    """Ask the provider itself: what everything else is compared with."""
    yield Running(Target(upstream, [{}]), None, 0.0)


@asynccontextmanager
async def ours(
    upstream: int, folder: Path, *, variables: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """Start one worker on an embedded MongoDB, with keys, limits, a budget and leased metering."""
    with embedded_mongod(folder / "data") as mongod:
        secrets = await add_keys(mongod.uri, KEYS)
        async with worker(upstream, folder, mongod.uri, secrets, variables=variables) as found:
            lock = folder / "data" / "mongodb" / "data" / "mongod.lock"
            yield replace(found, mongod=int(lock.read_text(encoding="ascii")))


@asynccontextmanager
async def unlogged(upstream: int, folder: Path) -> AsyncIterator[Running]:
    """Start the same without its line for each request: as they are started here, no peer writes one."""
    async with ours(upstream, folder, variables={"ACCESS_LOG": "false"}) as found:
        yield replace(found, is_variant=True)


@asynccontextmanager
async def worker(
    upstream: int,
    folder: Path,
    mongodb_uri: str,
    secrets: Sequence[str],
    *,
    module: Sequence[str] = ("proxy", "serve"),
    variables: Mapping[str, str] | None = None,
) -> AsyncIterator[Running]:
    """Start one gateway process on a database in which these keys are."""
    port = free_port()
    settings = {
        **(variables or {}),
        "DATA_DIR": str(folder / "data"),
        "PORT": str(port),
        "MONGODB_URI": mongodb_uri,
        "OPENROUTER_BASE_URL": f"http://127.0.0.1:{upstream}/v1",
        "OPENROUTER_API_KEY": "sk-or-v1-bench",
        "PYTHONPATH": str(PROJECT),
    }
    headers = [{"authorization": f"Bearer {secret}"} for secret in secrets]
    with running([await _own_python(), "-m", *module], folder, _environment(settings)) as process:
        target = Target(port, headers[:1])
        seconds = await _first_answer(process, target, folder)
        yield Running(target, process.pid, seconds, VERSION, Target(port, headers))


@asynccontextmanager
async def litellm(upstream: int, folder: Path) -> AsyncIterator[Running]:
    """Start LiteLLM's proxy: one worker, no database, no keys but the master key."""
    home = CACHE / "litellm"
    program = home / "bin" / "litellm"
    if not program.exists():
        await _install(sys.executable, "-m", "venv", str(home))
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        await _install(*pip, "--disable-pip-version-check", "litellm[proxy]")
    config = folder / "config.yaml"
    config.write_text(
        f"model_list:\n- model_name: {MODEL}\n  litellm_params:\n    model: openai/gpt-4o-mini\n"
        f"    api_base: http://127.0.0.1:{upstream}/v1\n    api_key: sk-bench\n"
        f"general_settings:\n  master_key: {_MASTER_KEY}\n",
        encoding="utf-8",
    )
    port = free_port()
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    # Its own table of prices instead of one that it would fetch from the internet at start.
    variables = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    target = Target(port, [{"authorization": f"Bearer {_MASTER_KEY}"}])
    with running([*command, "--num_workers", "1"], folder, _environment(variables)) as process:
        seconds = await _first_answer(process, target, folder)
        names = [path.name for path in (home / "lib").glob("python*/site-packages/litellm-*.dist-info")]
        version = names[0].removeprefix("litellm-").removesuffix(".dist-info") if names else ""
        yield Running(target, process.pid, seconds, version)


@asynccontextmanager
async def portkey(upstream: int, folder: Path) -> AsyncIterator[Running]:
    """Start Portkey's gateway, told in headers where to go."""
    node = shutil.which("node")
    npm = shutil.which("npm")
    if node is None or npm is None:
        raise CannotRun("node and npm are not on PATH")
    home = CACHE / "portkey"
    program = home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if not program.exists():
        home.mkdir(parents=True, exist_ok=True)
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(home)]
        await _install(npm, "install", *options, "@portkey-ai/gateway")
    port = free_port()
    headers = {
        "authorization": "Bearer sk-bench",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
    }
    command = [node, str(program), f"--port={port}", "--headless"]
    # It refuses to go to private addresses unless they are named.
    variables = {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
    target = Target(port, [headers])
    version = json.loads((program.parent.parent / "package.json").read_text(encoding="utf-8"))["version"]
    with running(command, folder, _environment(variables)) as process:
        yield Running(target, process.pid, await _first_answer(process, target, folder), version)


@asynccontextmanager
async def nginx(upstream: int, folder: Path) -> AsyncIterator[Running]:
    """Start nginx with one worker as a bare proxy: what passing bytes on costs, without knowing what they say."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None:
        raise CannotRun("nginx is not on PATH (Debian: apt-get install nginx-light)")
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; keepalive_requests 1000000; client_max_body_size 20m;\n"
        f" client_body_buffer_size 1m; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n"
        f" fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f" upstream provider {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000; }}\n"
        f" server {{ listen 127.0.0.1:{port} backlog=4096;\n"
        "  location / { proxy_pass http://provider; proxy_http_version 1.1; proxy_buffering off;\n"
        '   proxy_set_header Connection ""; } } }\n',
        encoding="utf-8",
    )
    target = Target(port, [{}])
    command = [program, "-c", str(config), "-p", str(folder)]
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr  # noqa: ASYNC221  at once
    version = said.strip().rpartition("/")[2]
    with running(command, folder, _environment({})) as process:
        yield Running(target, process.pid, await _first_answer(process, target, folder), version)


PEERS: Mapping[str, Start] = {"litellm": litellm, "portkey": portkey, "nginx": nginx}


async def _own_python() -> str:
    """Return the Python of an environment as an operator has it; what tests need is imported wherever it is found."""
    lock = PROJECT / "requirements.lock"
    home = CACHE / f"ours-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    python, stamp = str(home / "bin" / "python"), home / "installed"
    if not stamp.exists():
        await _install(sys.executable, "-m", "venv", "--clear", str(home))
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        await _install(*pip, "--no-deps", "--requirement", str(lock))
        stamp.touch()
    return python


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, **variables}


async def _first_answer(process: subprocess.Popen[bytes], target: Target, folder: Path) -> float:
    """Wait for the first right answer; return how long that took since the process was started, a moment ago."""
    began = time.monotonic()
    await asyncio.to_thread(wait_for_port, process, target.port, folder / "log", _START_SECONDS)
    await load(target, stream=False, connections=1, seconds=60, most=1)
    return time.monotonic() - began


async def _install(*command: str) -> None:
    """Run an installer; raise `CannotRun` with its last line when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(_INSTALL_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError as exc:
        process.kill()
        await process.wait()
        raise CannotRun(f"its installation took longer than {_INSTALL_SECONDS} s") from exc
    if process.returncode != 0:
        lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
        raise CannotRun(f"it cannot be installed: {(lines or ['no output'])[-1][:200]}")
