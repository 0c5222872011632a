"""Looks at everything that a gateway needs before it serves, and says what to do about what it lacks.

It leaves everything as it is: it reads, asks, and writes one file that it removes. What it says holds no secret but
by an accident of somebody's error message, and so is cleaned once more before it is printed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

import pymongo
from beanie import Document
from pymongo.errors import OperationFailure, PyMongoError

from plugins.contract import ChecksKeys, FailureKind, SelfAnswering
from proxy import database, indexes
from proxy.database import Database, DatabaseError
from proxy.relay import Endpoint, Relay, RelayFailed
from proxy.settings import Settings

LEAST_SPACE, ENOUGH_SPACE = 100 * 2**20, 2**30
LEAST_VERSION, TESTED_VERSION = (4, 4), (6, 0)
SKEW = timedelta(seconds=2)
WRONG_CLOCK = timedelta(seconds=60)
"""From here on tokens of one gateway are refused by another, and days begin at the wrong moment."""

_DATABASE_SECONDS = 10.0
_PROVIDER_SECONDS = 20.0
_SLOW_SYNC_SECONDS = 0.1
_UNUSED_COLLECTION, _UNUSED_INDEX = "usagedays", ("apikeys", "owner")
_UNAUTHORIZED, _WRONG_PASSWORD, _WRONG_ATLAS_PASSWORD = 13, 18, 8000  # MongoDB's error codes


class Verdict(StrEnum):
    """Whether something is as it should be."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    verdict: Verdict
    subject: str
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    """Say that all is well."""
    return Finding(Verdict.OK, subject, text)


def warning(subject: str, text: str, advice: str) -> Finding:
    """Say that the gateway can serve, and what would be better."""
    return Finding(Verdict.WARNING, subject, text, advice)


def problem(subject: str, text: str, advice: str) -> Finding:
    """Say why the gateway cannot serve, and what to do."""
    return Finding(Verdict.PROBLEM, subject, text, advice)


class Doctor:
    """Examines the surroundings of one configuration."""

    def __init__(
        self,
        settings: Settings,
        relay: Relay,
        documents: Sequence[type[Document]],
        *,
        clock: Callable[[], datetime],
    ) -> None:
        """Look at these."""
        self._settings = settings
        self._relay = relay
        self._documents = documents
        self._clock = clock

    async def examine(self, mongodb_uri: str | None) -> AsyncIterator[Finding]:
        """Yield every finding as it is made; without an address the database is left out."""
        for finding in (*configuration(self._settings), *disk(self._settings)):
            yield finding
        if mongodb_uri is not None:
            async for finding in self._database(mongodb_uri):
                yield finding
        if not self._relay.endpoints:
            yield problem("providers", "none is on", "Set OPENROUTER_API_KEY or HUGGINGFACE_API_KEY.")
        for name, endpoint in self._relay.endpoints.items():
            async for finding in self._provider(name, endpoint):
                yield finding

    async def _database(self, uri: str) -> AsyncIterator[Finding]:
        try:
            client = database.connect(uri)
        except (DatabaseError, PyMongoError) as exc:
            yield problem(
                "database", _one_line(exc), "Look at MONGODB_URI: mongodb://user:password@host/name"
            )
            return
        store = database.database_of(client, self._settings.database)
        try:
            with pymongo.timeout(_DATABASE_SECONDS):
                for finding in [
                    *await self._server(store),
                    *await self._contents(store),
                    *await _leftovers(store),
                ]:
                    yield finding
        except PyMongoError as exc:
            yield _refused(exc)
        finally:
            await client.close()

    async def _server(self, store: Database) -> list[Finding]:
        """Ask the server who it is, and what time it is there."""
        asked = self._clock()
        hello = await store.command("hello", codec_options=store.codec_options)
        answered = self._clock()
        build = await store.command("buildInfo")
        version = tuple(build["versionArray"][:2])
        kind = f"replica set {hello['setName']}" if "setName" in hello else "standalone"
        kind = "sharded cluster" if hello.get("msg") == "isdbgrid" else kind
        milliseconds = round((answered - asked).total_seconds() * 1000)
        text = f"MongoDB {build['version']}, {kind}, answers in {milliseconds} ms"
        found = ok("database", text)
        if kind == "standalone":
            found = warning("database", text, "Use a replica set: what one machine keeps is lost with it.")
        if version < TESTED_VERSION:
            found = warning("database", text, "Use MongoDB 6.0 or newer, with which this is tested.")
        if version < LEAST_VERSION:
            found = problem("database", text, "Use MongoDB 6.0 or newer.")
        return [found, skew("clock (database)", hello["localTime"] - asked, answered - asked)]

    async def _contents(self, store: Database) -> list[Finding]:
        """Look at indexes and rights, without a change."""
        there = await indexes.existing(store, self._documents)
        foreign = indexes.foreign(there, self._documents)
        if foreign:
            advice = "Make a backup, then run `python -m proxy migrate` once."
            return [problem("database indexes", f"{foreign[0]} was made by another program", advice)]
        altered = indexes.altered(there, self._documents)
        if altered:
            advice = "Drop it: the next start of the gateway makes it anew."
            return [problem("database indexes", f"{altered[0]} is not as this version makes it", advice)]
        declared = sum(len(ours) for ours in indexes.declared(self._documents).values())
        missing = [
            f"{collection}.{index.document['name']}"
            for collection, wanted in indexes.missing(there, self._documents).items()
            for index in wanted
            if there[collection]
        ]
        # It matches nothing, so it writes nothing; but it needs the right to, and a primary.
        await store["identity"].update_one({"_id": secrets.token_hex(8)}, {"$set": {"seen": True}})
        if missing:
            text = f"missing: {', '.join(missing[:5])}"
            return [warning("database indexes", text, "The next start of the gateway makes them.")]
        return [ok("database indexes", f"none of {declared} is missing, and {store.name} may be written")]

    async def _provider(self, name: str, endpoint: Endpoint) -> AsyncIterator[Finding]:
        subject = f"provider {name}"
        if isinstance(endpoint.provider, SelfAnswering):
            yield warning(subject, "answers by itself, with no model behind it", "Set a provider's key.")
            return
        try:
            async with asyncio.timeout(_PROVIDER_SECONDS):
                for finding in [
                    *await self._models(subject, name, endpoint),
                    *await self._keys(subject, name, endpoint),
                ]:
                    yield finding
        except RelayFailed as exc:
            place = urlsplit(endpoint.base_url).netloc.rpartition("@")[2]
            advice = f"Look at base_url, and whether this machine may reach {place}."
            yield problem(subject, f"cannot be reached: {exc.failure.message}", advice)
        except TimeoutError:
            yield problem(
                subject,
                f"does not answer within {_PROVIDER_SECONDS:.0f} s",
                "Try again; look at its status page.",
            )

    async def _models(self, subject: str, name: str, endpoint: Endpoint) -> list[Finding]:
        asked = self._clock()
        status, headers, body = await self._relay.fetch(
            name, endpoint.provider.models_request(endpoint.next_key(asyncio.get_running_loop().time()))
        )
        answered = self._clock()
        if not 200 <= status < 300:  # noqa: PLR2004  success, as HTTP defines it
            failure = endpoint.provider.read_failure(status, headers, body)
            text = f"its list of models is status {status}: {endpoint.without_secrets(failure.message)}"
            return [problem(subject, text, "Look at base_url and the key.")]
        try:
            models = endpoint.provider.read_models(body)
        except ValueError as exc:
            return [problem(subject, f"its list of models cannot be read: {exc}", "Look at base_url.")]
        found = [ok(subject, f"{len(models)} models read")]
        if not models:
            found = [warning(subject, "it has no models", "Look at base_url.")]
        date = _date(headers.get("date"))
        if date is not None:
            second = timedelta(seconds=1)  # the header is rounded down to one
            found.append(skew(f"clock ({name})", date + second - asked, answered - asked + second))
        return found

    async def _keys(self, subject: str, name: str, endpoint: Endpoint) -> list[Finding]:
        """Ask the provider about each of its keys, without buying anything."""
        plugin, found = endpoint.provider, []
        for number, key in enumerate(endpoint.api_keys, 1):
            request = (
                plugin.key_request(key) if isinstance(plugin, ChecksKeys) else plugin.models_request(key)
            )
            status, headers, body = await self._relay.fetch(name, request)
            which = f"key {number} of {len(endpoint.api_keys)}"
            kind = None if status < 400 else plugin.read_failure(status, headers, body).kind  # noqa: PLR2004
            if kind in (FailureKind.CREDENTIALS, FailureKind.FORBIDDEN):
                advice = "Make a new key at the provider, and set its variable anew."
                found.append(problem(subject, f"{which} is refused", advice))
            elif kind is FailureKind.CREDITS:
                found.append(problem(subject, f"{which} has no credit", "Buy credit at the provider."))
            elif kind in (FailureKind.PROVIDER, FailureKind.RATE_LIMIT, FailureKind.TIMEOUT):
                found.append(warning(subject, f"{which} could not be tried: status {status}", "Try again."))
            else:
                found.append(ok(subject, f"{which} is accepted"))
        return found


def configuration(settings: Settings) -> Iterator[Finding]:
    """Say what is configured, and what an operator may have forgotten; what is wrong has stopped us before."""
    yield ok("configuration", f"{settings.environment}, metering {settings.metering}")
    if not settings.is_production:
        return
    subject = "configuration"
    if settings.smtp_url is None:
        yield warning(subject, "no mail can be sent", "Set SMTP_URL, or nobody can reset a password.")
    if all("//localhost" in origin for origin in settings.allowed_origins):
        yield warning(
            subject, "no page but those of localhost may call the account API", "Set ALLOWED_ORIGINS."
        )
    if not settings.trusted_proxies:
        advice = "Behind a load balancer set TRUSTED_PROXIES, or all clients share one address' limits."
        yield warning(subject, "no proxy is trusted", advice)
    if settings.serves_docs:
        yield warning(
            subject, "everybody can read the documentation", "Unset DOCS_ENABLED if that is not wanted."
        )


def disk(settings: Settings) -> Iterator[Finding]:
    """Look at the folder that the journal is in, unless nothing is kept there."""
    if settings.metering == "direct" and settings.mongodb_uri:
        yield ok("disk", "not needed")
        return
    folder = settings.data_dir
    try:
        seconds = _synced(folder)
        free = shutil.disk_usage(folder).free
    except OSError as exc:
        advice = "Let the gateway's user write there, or set DATA_DIR to a folder where it may."
        yield problem("disk", f"{folder} cannot be written: {exc.strerror}", advice)
        return
    text = f"{folder} is writable, {free / 2**30:.1f} GiB free, a write is safe after {seconds * 1000:.1f} ms"
    if free < LEAST_SPACE:
        yield problem(
            "disk", text, "Make room: without it no request can be written down, and none is served."
        )
    elif free < ENOUGH_SPACE:
        yield warning("disk", text, "Make room: the journal needs it when the database is away.")
    elif seconds > _SLOW_SYNC_SECONDS:
        yield warning("disk", text, "Use a faster disk for DATA_DIR: every batch of events waits for it.")
    else:
        yield ok("disk", text)


def skew(subject: str, difference: timedelta, uncertainty: timedelta) -> Finding:
    """Judge a clock that was `difference` ahead of ours when it was read, within `uncertainty`."""
    outside = max(-difference, difference - uncertainty, timedelta(0))
    direction = "behind" if difference > timedelta(0) else "ahead of"
    text = f"this machine is {outside.total_seconds():.1f} s {direction} it"
    advice = "Let NTP set the clocks (timedatectl set-ntp true)."
    if outside >= WRONG_CLOCK:
        return problem(subject, text, advice)
    if outside >= SKEW:
        return warning(subject, text, advice)
    return ok(subject, "agrees with this machine's")


def _synced(folder: Path) -> float:
    """Write a file and wait until it is safe; return how long that took. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"doctor-{secrets.token_hex(4)}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, b"x" * 4096)
        began = time.perf_counter()
        os.fdatasync(descriptor)
        return time.perf_counter() - began
    finally:
        os.close(descriptor)
        path.unlink()


async def _leftovers(store: Database) -> list[Finding]:
    """Look for what earlier versions of the gateway have made and nothing reads any more."""
    found = await store.list_collection_names(filter={"name": _UNUSED_COLLECTION})
    collection, name = _UNUSED_INDEX
    if name in await store[collection].index_information():
        found.append(f"the index {name} of {collection}")
    if not found:
        return []
    advice = "Drop what is named once no gateway of an earlier version runs."
    return [warning("database", f"no longer used: {', '.join(found)}", advice)]


def _refused(exc: PyMongoError) -> Finding:
    code = exc.code if isinstance(exc, OperationFailure) else None
    if code in (_WRONG_PASSWORD, _WRONG_ATLAS_PASSWORD):
        return problem("database", "it refuses user and password", "Look at MONGODB_URI and authSource.")
    if code == _UNAUTHORIZED:
        return problem(
            "database",
            "its user may not do what is needed",
            "Give the user of MONGODB_URI the role readWrite.",
        )
    advice = "Is it running, is its address in MONGODB_URI right, and may this machine reach it?"
    return problem("database", f"does not answer: {_one_line(exc)}", advice)


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:200]


def _date(header: str | None) -> datetime | None:
    try:
        return None if header is None else parsedate_to_datetime(header)
    except ValueError:
        return None
