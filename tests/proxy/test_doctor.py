"""Tests of proxy/doctor.py, on a real database, real sockets and a real disk: one for each thing that can be wrong."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure

from admin_api.documents import DOCUMENTS
from proxy import doctor
from proxy.clock import utc_now
from proxy.doctor import Doctor, Finding, Verdict, disk, skew
from proxy.endpoints import endpoints
from proxy.metrics import Metrics
from proxy.relay import Relay
from proxy.server import start_gateway, stop_gateway
from proxy.settings import ProviderSettings, Settings
from tests.gateway import JWT_SECRET, provider_settings
from tests.server_process import PASSWORD, free_port, run_command
from tests.test_process import standalone_mongod
from tests.upstreams import Behaviour, HuggingFace, OpenAICompatible, OpenRouter, serving

DEMO = {"demo": ProviderSettings(plugin="demo")}


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect what the driver leaves here and not elsewhere: it forgets the socket of a greeting never answered.

    By tracemalloc that socket is made in pymongo's monitor of a server (`Monitor._check_server`, `Pool.connect`,
    `_async_create_connection`), whose task `AsyncMongoClient.close` cancels before the connection is the pool's.
    """
    gc.disable()
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    gc.enable()


async def examined(
    uri: str | None,
    providers: Mapping[str, ProviderSettings] = DEMO,
    *,
    keys: Mapping[str, tuple[str, ...]] | None = None,
    clock: Callable[[], datetime] = utc_now,
    **values: Any,
) -> dict[str, list[Finding]]:
    """Return what the doctor finds, by subject."""
    settings = Settings(jwt_secret=JWT_SECRET, providers=dict(providers), **values)
    settings = settings.model_copy(update={"provider_keys": dict(keys or {})})
    relay = Relay(endpoints(settings, clock))
    found: dict[str, list[Finding]] = {}
    async for finding in Doctor(settings, relay, DOCUMENTS, clock=clock).examine(uri):
        found.setdefault(finding.subject, []).append(finding)
        assert "\n" not in finding.text
        assert (finding.advice != "") == (finding.verdict is not Verdict.OK)
    await relay.aclose()
    return found


def only(found: Mapping[str, list[Finding]], subject: str) -> tuple[Verdict, str]:
    (finding,) = found[subject]
    return finding.verdict, finding.text


async def test_a_healthy_gateway(mongodb_uri: str, tmp_path: Path) -> None:
    """Database, indexes, clocks, both providers and their keys, and the disk are looked at, and all are well."""
    openrouter, huggingface, plain = OpenRouter(), HuggingFace(), OpenAICompatible()
    settings = Settings(jwt_secret=JWT_SECRET, providers=DEMO, data_dir=tmp_path)
    await stop_gateway(await start_gateway(settings, mongodb_uri, Metrics(), utc_now))
    async with serving(openrouter, huggingface, plain):
        providers = {
            "openrouter": provider_settings("openrouter", openrouter.base_url),
            "huggingface": provider_settings("huggingface", huggingface.base_url),
            "plain": provider_settings("openai_compatible", plain.base_url),
        }
        keys = {"openrouter": ("sk-or-v1-one", "sk-or-v1-two"), "huggingface": ("hf_one",)}
        found = await examined(mongodb_uri, providers, keys=keys, data_dir=tmp_path)
        every = [finding for findings in found.values() for finding in findings]
        assert {finding.verdict for finding in every} == {Verdict.OK}, every
        assert re.fullmatch(
            r"MongoDB \d+\.\d+\.\d+, replica set rs0, answers in \d+ ms", found["database"][0].text
        )
        assert {"database indexes", "clock (database)", "clock (openrouter)", "disk"} <= found.keys()
        assert [finding.text for finding in found["provider openrouter"]][1:] == [
            "key 1 of 2 is accepted",
            "key 2 of 2 is accepted",
        ]
        assert re.match(r"\d+ models read", found["provider huggingface"][0].text)
        assert openrouter.books.total_cost() == huggingface.books.total_cost() == 0  # nothing was bought
        assert not [name for name in os.listdir(tmp_path) if name.startswith("doctor")]  # noqa: PTH208  in a coroutine


async def test_refused_keys(mongodb_uri: str) -> None:
    """A key that its provider refuses is named by its number, also where the models are everybody's to read."""
    openrouter = OpenRouter(keys=frozenset({"sk-or-v1-good"}))
    huggingface = HuggingFace(keys=frozenset({"hf_good"}))
    async with serving(openrouter, huggingface):
        providers = {
            "openrouter": provider_settings("openrouter", openrouter.base_url),
            "huggingface": provider_settings("huggingface", huggingface.base_url),
        }
        keys = {"openrouter": ("sk-or-v1-good", "sk-or-v1-bad"), "huggingface": ("hf_bad",)}
        found = await examined(mongodb_uri, providers, keys=keys)
        good, bad = found["provider openrouter"][1:]
        assert (good.verdict, bad.verdict) == (Verdict.OK, Verdict.PROBLEM)
        assert bad.text == "key 2 of 2 is refused"
        assert found["provider huggingface"][-1].text == "key 1 of 1 is refused"
        assert "sk-or" not in str(found)


async def test_providers_that_do_not_serve(mongodb_uri: str) -> None:
    """Nobody there, errors, nonsense, and a silent server are told apart; none stops the examination."""
    upstream = OpenRouter()
    async with serving(upstream), _silent() as port:
        providers = {
            "gone": provider_settings("openai_compatible", f"http://127.0.0.1:{free_port()}/v1"),
            "mute": provider_settings(
                "openai_compatible", f"http://127.0.0.1:{port}/v1", timeouts={"first_byte": 0.3}
            ),
            "broken": provider_settings("openai_compatible", upstream.base_url),
            "elsewhere": provider_settings("openai_compatible", f"{upstream.base_url}/nothing"),
        }
        upstream.script.enqueue(Behaviour(error="503_documented"), path="/models")
        found = await examined(mongodb_uri, providers)
        for name, words in {
            "gone": "cannot be reached",
            "mute": "cannot be reached",
            "broken": "list of models is status 503",
            "elsewhere": "list of models is status 404",
        }.items():
            verdict, text = only(found, f"provider {name}")
            assert verdict is Verdict.PROBLEM, name
            assert words in text, name


@asynccontextmanager
async def _silent() -> AsyncIterator[int]:
    """Listen, and never say anything."""
    connections: list[asyncio.BaseTransport] = []

    class Silent(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            connections.append(transport)

    async with await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        for connection in connections:
            connection.close()


async def test_no_provider_at_all(mongodb_uri: str) -> None:
    """Without a key production has no provider, which is a problem; development has the demo, which is a warning."""
    openrouter = ProviderSettings(plugin="openrouter", api_key_env="NOBODY_SETS_THIS")
    found = await examined(mongodb_uri, {"openrouter": openrouter}, environment="production")
    assert only(found, "providers") == (Verdict.PROBLEM, "none is on")
    found = await examined(mongodb_uri, {"openrouter": openrouter})
    assert only(found, "provider demo")[0] is Verdict.WARNING


async def test_production_without_what_production_needs(mongodb_uri: str) -> None:
    """Mails, origins and proxies that nobody has configured are warnings, each with the variable to set."""
    found = await examined(mongodb_uri, environment="production", docs_enabled=True)
    warnings = [each.text + each.advice for each in found["configuration"] if each.verdict is Verdict.WARNING]
    for variable in ("SMTP_URL", "ALLOWED_ORIGINS", "TRUSTED_PROXIES", "DOCS_ENABLED"):
        assert sum(variable in text for text in warnings) == 1


async def test_a_database_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nobody listens, and one that is none, are problems with an advice; the rest is examined."""
    monkeypatch.setattr(doctor, "_DATABASE_SECONDS", 1.0)
    for uri, words in (
        (f"mongodb://user:p4ssw0rd@127.0.0.1:{free_port()}/x?directConnection=true", "does not answer"),
        ("mongodb://[", "MONGODB_URI"),
        ("postgres://x", "MONGODB_URI"),
    ):
        found = await examined(uri)
        verdict, text = only(found, "database")
        assert (verdict, words in text) == (Verdict.PROBLEM, True), text
        assert "p4ssw0rd" not in str(found)
        assert "provider demo" in found


async def test_a_single_server_is_a_warning(tmp_path: Path) -> None:
    """A standalone MongoDB will do; that its data are on one machine is said."""
    with standalone_mongod(tmp_path / "db") as uri:
        found = await examined(uri)
        verdict, text = only(found, "database")
        assert (verdict, "standalone" in text) == (Verdict.WARNING, True)
        assert only(found, "database indexes")[0] is Verdict.OK


async def test_a_database_of_somebody_else(bare_mongodb_uri: str) -> None:
    """Indexes of another program are a problem, missing ones a warning; rights that are missing have their advice."""
    async with AsyncMongoClient[dict[str, Any]](bare_mongodb_uri) as client:
        store = client.get_default_database()
        await store["usageevents"].insert_one({})
        verdict, text = only(await examined(bare_mongodb_uri), "database indexes")
        assert (verdict, text.startswith("missing: usageevents.")) == (Verdict.WARNING, True)
        await store["users"].create_index("role", name="email")
        verdict, text = only(await examined(bare_mongodb_uri), "database indexes")
        assert (verdict, text.startswith("users.email is not as")) == (Verdict.PROBLEM, True)
        await store["users"].create_index("lastSeen", expireAfterSeconds=5)
        verdict, text = only(await examined(bare_mongodb_uri), "database indexes")
        assert (verdict, "users.lastSeen_1 was made by another program" in text) == (Verdict.PROBLEM, True)
    for code, words in ((18, "refuses user and password"), (13, "may not do")):
        assert words in doctor._refused(OperationFailure("no", code)).text


async def test_what_earlier_versions_have_left(bare_mongodb_uri: str) -> None:
    """A collection and an index that nothing reads any more are named until they are dropped, and stay until then."""
    async with AsyncMongoClient[dict[str, Any]](bare_mongodb_uri) as client:
        store = client.get_default_database()
        await store["usagedays"].insert_one({})
        await store["apikeys"].create_index([("userId", 1), ("createdAt", -1)], name="owner")
        for expected in (
            ["no longer used: usagedays, the index owner of apikeys"],
            ["no longer used: the index owner of apikeys"],
            [],
        ):
            _, *left = (await examined(bare_mongodb_uri))["database"]
            assert [finding.text for finding in left] == expected
            assert {finding.verdict for finding in left} <= {Verdict.WARNING}
            if "usagedays" in await store.list_collection_names():
                await store.drop_collection("usagedays")
            else:
                await store.drop_collection("apikeys")


async def test_a_wrong_clock(mongodb_uri: str) -> None:
    """A clock that differs from the database's is a warning from two seconds on, and a problem from a minute on."""
    for seconds, expected, words in (
        (0.0, Verdict.OK, "agrees"),
        (-10.0, Verdict.WARNING, "s behind it"),
        (10.0, Verdict.WARNING, "s ahead of it"),
        (3_600.0, Verdict.PROBLEM, "s ahead of it"),
        (-3_600.0, Verdict.PROBLEM, "s behind it"),
    ):

        def clock(seconds: float = seconds) -> datetime:
            return utc_now() + timedelta(seconds=seconds)

        verdict, text = only(await examined(mongodb_uri, clock=clock), "clock (database)")
        assert (verdict, words in text) == (expected, True), text


def test_a_slow_answer_is_no_wrong_clock() -> None:
    """What may be the answer's way is not held against a clock."""
    assert skew("clock", timedelta(seconds=9), timedelta(seconds=8)).verdict is Verdict.OK
    assert skew("clock", timedelta(seconds=11), timedelta(seconds=8)).verdict is Verdict.WARNING
    assert skew("clock", timedelta(seconds=-3), timedelta(seconds=8)).verdict is Verdict.WARNING


def test_a_disk_that_cannot_be_used(tmp_path: Path) -> None:
    """A DATA_DIR that is a file, below a file, or on a device that is full, is a problem; without a disk none is needed."""
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "below", Path("/proc/nowhere")):
        (finding,) = disk(Settings(data_dir=folder))
        assert (finding.verdict, "DATA_DIR" in finding.advice) == (Verdict.PROBLEM, True)
    (finding,) = disk(Settings(data_dir=file, metering="direct", mongodb_uri="mongodb://x"))
    assert (finding.verdict, finding.text) == (Verdict.OK, "not needed")
    (finding,) = disk(Settings(data_dir=tmp_path / "new"))
    assert finding.verdict is Verdict.OK


def test_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little space is a warning, and hardly any a problem: the bounds are moved here, since the disk cannot be filled."""
    for least, enough, verdict in ((2**60, 2**61, Verdict.PROBLEM), (0, 2**61, Verdict.WARNING)):
        monkeypatch.setattr(doctor, "LEAST_SPACE", least)
        monkeypatch.setattr(doctor, "ENOUGH_SPACE", enough)
        (finding,) = disk(Settings(data_dir=tmp_path))
        assert (finding.verdict, "Make room" in finding.advice) == (verdict, True)


def test_the_command(tmp_path: Path, mongodb_uri: str) -> None:
    """`python -m proxy doctor` prints a line for each thing, no secret, and its status says whether the gateway can serve."""
    secrets: dict[str, Any] = {
        "JWT_SECRET": JWT_SECRET,
        "ADMIN_PASSWORD": PASSWORD,
        "ADMIN_EMAIL": "root@example.com",
    }
    good = run_command(tmp_path, "doctor", MONGODB_URI=mongodb_uri, **secrets)
    assert good.returncode == 0, good.stdout + good.stderr
    assert good.stdout.splitlines()[-1] == "the gateway can serve"
    assert re.search(r"^ok +database +MongoDB", good.stdout, re.MULTILINE)
    refused = mongodb_uri.replace("//", "//me:canary-of-mongodb@")
    secrets["OPENROUTER_API_KEY"] = "sk-or-v1-canary-of-openrouter"
    address = f"http://127.0.0.1:{free_port()}/v1"
    bad = run_command(tmp_path, "doctor", MONGODB_URI=refused, OPENROUTER_BASE_URL=address, **secrets)
    assert (bad.returncode, bad.stdout.splitlines()[-1]) == (
        1,
        "2 to be mended before the gateway can serve",
    )
    for done in (good, bad):
        assert "Traceback" not in done.stderr
        assert not any(secret in done.stdout + done.stderr for secret in ("canary", JWT_SECRET, PASSWORD))
    wrong = run_command(tmp_path, "doctor", ENVIRONMENT="production")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
