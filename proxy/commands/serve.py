"""`serve`: the gateway itself, in this process or in several workers."""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, NoReturn

from proxy import metrics, serving
from proxy.commands.reporting import reporting
from proxy.commands.store import mongodb
from proxy.listener import allow_connections, check_address, listen
from proxy.mongod import EmbeddedMongod
from proxy.server import App, create_app
from proxy.settings import Settings
from proxy.workers import Post, Workers

# As malloc.h has them.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


@reporting
def run(settings: Settings, _options: argparse.Namespace) -> int:
    """Serve until SIGTERM, Ctrl-C, or the end of the terminal."""
    for number in serving.signals():
        signal.signal(number, _end)
    check_address(settings)
    allow_connections()
    with mongodb(settings) as (uri, embedded):
        if settings.workers == 1:
            app = create_app(settings, uri, embedded=embedded)
            app.after_server_start(_announce(settings, embedded))
            app.after_server_start(_prepare_memory)
            serving.run(app, listen(settings), settings)
            return 0
        with TemporaryDirectory(prefix="aipasta-metrics-") as folder:
            work = partial(_serve_as_worker, settings, (uri, embedded), Path(folder))
            shared_port = settings.port if settings.reuse_port else None
            return Workers(
                work, settings.workers, drain_seconds=settings.drain_seconds, shared_port=shared_port
            ).run()


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    """End a start that has not come to its servers yet, which have ways of their own: the database is left, too."""
    raise SystemExit(0)


@reporting
def _serve_as_worker(
    settings: Settings,
    database_at: tuple[str, EmbeddedMongod | None],
    folder: Path,
    post: Post,
) -> int:
    """Serve as one of several workers; the first one says so."""
    uri, embedded = database_at
    metrics.share(folder, post.number)
    app = create_app(settings, uri, embedded=embedded, metrics=metrics.Metrics(folder))
    if post.is_first:
        app.after_server_start(_announce(settings, embedded))
    app.after_server_start(_prepare_memory)
    serving.run(app, listen(settings), settings, parent=post.line)
    return 0


async def _prepare_memory(_app: App) -> None:
    """Set up what was made for programs of another kind."""
    _spare_the_collector()
    _give_memory_back()


def _spare_the_collector() -> None:
    """Look for cycles of garbage seldom, and never among what stays: a tenth of a request's CPU went into that.

    A request leaves hardly any cycle behind; what does is found all the same, twenty thousand objects later.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _give_memory_back() -> None:
    """Keep glibc's thresholds from growing with what is freed, so that it gives back what long prompts have taken.

    A mapping is for what is larger than the twelve times the size of a text that orjson asks for, and gives back at once,
    and what is kept is more than thirty prompts of 100 KB take together: with lower ones each of them was two mappings
    and sixty page faults, a fifth of its CPU. After 100,000 requests a worker holds 111 to 114 MiB (measured).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 8 * 2**20)
        mallopt(_M_MMAP_THRESHOLD, 2 * 2**20)


def _announce(
    settings: Settings, embedded: EmbeddedMongod | None
) -> Callable[[App], Coroutine[Any, Any, None]]:
    """Say what runs, where, and how to get a first key."""

    async def announce(app: App) -> None:
        address = "localhost" if settings.listen_host in ("127.0.0.1", "0.0.0.0") else settings.listen_host  # noqa: S104
        base = f"http://{address}:{settings.port}"
        catalogue = app.ctx.gateway.catalog.current
        providers = ", ".join(f"{name} ({len(models)} models)" for name, models in catalogue.entries.items())
        where = f"embedded MongoDB in {settings.data_dir}" if embedded else "MongoDB at MONGODB_URI"
        _tell(
            f"AI Pasta gateway ({settings.environment}) on {base}/v1, with {where}",
            f"providers: {providers or 'none: set OPENROUTER_API_KEY or HUGGINGFACE_API_KEY'}",
            "a first key, with TOKEN from the first answer:",
            f"  curl -s {base}/api/auth/register -H 'Content-Type: application/json' \\",
            """    -d '{"name":"Asha","email":"asha@example.com","password":"a long secret"}'""",
            f"  curl -s {base}/api/user/api-keys -H 'Content-Type: application/json' \\",
            """    -H "Authorization: Bearer $TOKEN" -d '{"name":"first"}'""",
        )

    return announce


def _tell(*lines: str) -> None:
    """Print lines; that nobody can be told, or the disk is full, is no reason not to serve."""
    try:
        print(*lines, sep="\n", flush=True)
    except OSError:
        # Python keeps what it could not write, and would fail once more with it at the end.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
