"""What every test may ask for: a real database, real simulated providers, a real gateway on a real socket."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import certifi
import hypothesis
import pytest

from admin_api import counters
from plugins import registry
from proxy import database, security
from proxy.metering import worker
from proxy.mongod import embedded_mongod
from proxy.settings import Settings
from tests.databases import Databases
from tests.nursery import Nursery
from tests.server_process import Starter, environment

# A quarter of the examples: `make test` finds most with them, and `make test-long` tries all.
hypothesis.settings.register_profile("quick", max_examples=25)


@pytest.fixture(scope="session", autouse=True)
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the developer's own settings out of the tests: no variable, no .env, no config.yaml of his."""
    names = {name.upper() for name in Settings.model_fields} | {"NODE_ENV", "CONFIG_FILE"}
    with pytest.MonkeyPatch.context() as patch:
        for name in [*names, "OPENROUTER_API_KEY", "HUGGINGFACE_API_KEY"]:
            patch.delenv(name, raising=False)
        patch.chdir(tmp_path_factory.mktemp("cwd"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let httpx trust one authority and not all: reading them takes 40 ms of CPU for every client, and none is met."""
    end = "-----END CERTIFICATE-----\n"
    bundle = tmp_path_factory.mktemp("trust") / "one.pem"
    bundle.write_text(certifi.contents().partition(end)[0] + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(bundle))
        yield


_PASSWORDS = security._passwords
_DATABASE_MS, _RATE_LIMIT_SECONDS = database.OPERATION_TIMEOUT_MS, counters.PATIENCE
_LEASE_SECONDS = worker.ANSWER_SECONDS


@pytest.fixture(scope="session", autouse=True)
def _cheap_passwords() -> Iterator[None]:
    """Hash passwords as always, but with hardly any work: one costs a third of a second of CPU in production."""
    with pytest.MonkeyPatch.context() as patch:
        cheap = _PASSWORDS.copy(argon2__memory_cost=64, argon2__time_cost=1, argon2__parallelism=1)
        patch.setattr(security, "_passwords", cheap)
        yield


@pytest.fixture
def production_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash passwords with all the work that they cost in production."""
    monkeypatch.setattr(security, "_passwords", _PASSWORDS)


@pytest.fixture(scope="session", autouse=True)
def _patience_with_the_database() -> Iterator[None]:
    """Let nothing fail for want of a core: a hundred requests at once may take longer than production waits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "OPERATION_TIMEOUT_MS", 10 * _DATABASE_MS)
        patch.setattr(counters, "PATIENCE", 10 * _RATE_LIMIT_SECONDS)
        patch.setattr(worker, "ANSWER_SECONDS", 10 * _LEASE_SECONDS)
        yield


@pytest.fixture
def production_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the database as long as in production, and no longer."""
    monkeypatch.setattr(database, "OPERATION_TIMEOUT_MS", _DATABASE_MS)
    monkeypatch.setattr(counters, "PATIENCE", _RATE_LIMIT_SECONDS)
    monkeypatch.setattr(worker, "ANSWER_SECONDS", _LEASE_SECONDS)


@pytest.fixture(scope="session", autouse=True)
def _known_plugins() -> Iterator[None]:
    """Look for plugins once in each search path: what is installed in it does not change."""
    found = functools.cache(lambda _path, group: entry_points(group=group))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", lambda group: found(tuple(sys.path), group))
        yield


@pytest.fixture(scope="session")
def mongodb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URI of one embedded MongoDB for all tests, without a database's name."""
    with embedded_mongod(tmp_path_factory.mktemp("mongodb")) as mongod:
        yield mongod.uri


@pytest.fixture(scope="session")
def databases(mongodb_server: str) -> Iterator[Databases]:
    """Yield the databases of that server."""
    lent = Databases(mongodb_server)
    yield lent
    lent.close()


@pytest.fixture
def mongodb_uri(databases: Databases) -> Iterator[str]:
    """Yield the URI of an empty database that no other test uses at the same time."""
    name = databases.borrow()
    yield databases.uri(name)
    databases.give_back(name)


@pytest.fixture
def bare_mongodb_uri(databases: Databases, mongodb_uri: str) -> str:
    """Return the URI of a database in which there is nothing, no collection and no index."""
    databases.drop(mongodb_uri)
    return mongodb_uri


@pytest.fixture(scope="session", autouse=True)
def _nursery() -> Iterator[None]:
    """Fork processes of the gateway from one that has imported it: the import is most of what they cost."""
    with pytest.MonkeyPatch.context() as patch:
        nursery = Nursery(environment())
        patch.setattr(Starter, "nursery", nursery)
        yield
    nursery.close()


@pytest.fixture
def from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start processes of the gateway as its operator does, with an interpreter of their own."""
    monkeypatch.setattr(Starter, "nursery", None)


@pytest.fixture
def project() -> Path:
    """Return the project's folder."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", autouse=True)
def _remains() -> Iterator[None]:
    """Look once for garbage in what a module's tests have left, and never again: Sanic keeps every application.

    Of the CPU of all tests an eighth went into looking at the same millions of objects (measured). The driver's
    forgotten sockets (`_collected` in tests/proxy/test_doctor.py) are no test's fault.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    gc.freeze()


LONG_WAITS = (
    "tests/test_bootstrap.py",
    "tests/fuzz/test_run.py",
    "tests/test_ends.py",
    "tests/test_process.py",
    "tests/proxy/test_mongod.py",
    "tests/torture/test_trials.py",
    "tests/proxy/test_workers.py",
    "tests/proxy/metering/test_ledger_rules.py",
    "tests/proxy/test_doctor.py",
)
"""Files whose tests take long, or wait long, the longest first."""


@pytest.hookimpl(trylast=True)  # after the choice by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each process of pytest-xdist begin with a share of what takes long, so that nothing of that is last.

    Each begins with as many tests, as they stand in the list; who is ready early takes over what another has left.
    """
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    shares: list[list[pytest.Item]] = [[] for _ in range(count)]
    for number, path in enumerate(LONG_WAITS):
        shares[number % count] += [item for item in items if item.nodeid.partition("::")[0] == path]
    others = [item for item in items if item.nodeid.partition("::")[0] not in LONG_WAITS]
    for at, share in enumerate(shares):
        room = max(0, len(items) // count - len(share)) if at < count - 1 else len(others)
        share.extend(others[:room])
        del others[:room]
    items[:] = itertools.chain.from_iterable(shares)


def pytest_collection_finish() -> None:
    """Keep the collector of garbage from looking at what was imported: there is ten times as much of it as of a test."""
    gc.collect()
    gc.freeze()
