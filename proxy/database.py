"""The connection to MongoDB: one client per process, with explicit concerns and a timeout on everything.

pymongo has no default operation timeout, so a frozen server would hang a request for ever; and `w:1` without a
journal loses acknowledged events when the server dies. Both are set here and nowhere else.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

import pymongo
import structlog
from beanie import Document, init_beanie
from bson.codec_options import CodecOptions
from pymongo import AsyncMongoClient, ReadPreference, ReturnDocument, WriteConcern
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import ConfigurationError, ConnectionFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from proxy import background, indexes
from proxy.errors import Unavailable
from proxy.mongod import EmbeddedMongod, MongodError

OPERATION_TIMEOUT_MS = 1_500
"""Bound of one operation on the way of a request, with its retries: an outage is answered within two seconds."""

POOL_SIZE = 50
_STARTUP_SECONDS = 30
_INDEX_SECONDS = 600

log = structlog.get_logger(__name__)

Client = AsyncMongoClient[dict[str, Any]]
Database = AsyncDatabase[dict[str, Any]]


class DatabaseError(Exception):
    """The database cannot be used at start; the message is one line."""


def connect(uri: str, *, pool_size: int = POOL_SIZE) -> Client:
    """Make the client; nothing is sent yet. Raises `DatabaseError` for a malformed URI."""
    try:
        return AsyncMongoClient(
            uri,
            timeoutMS=OPERATION_TIMEOUT_MS,
            serverSelectionTimeoutMS=OPERATION_TIMEOUT_MS,
            connectTimeoutMS=OPERATION_TIMEOUT_MS,
            waitQueueTimeoutMS=OPERATION_TIMEOUT_MS,
            maxPoolSize=pool_size,
            tz_aware=True,
            appname="aipasta",
        )
    except (ConfigurationError, ValueError, OSError) as exc:  # the last for a file of certificates
        raise DatabaseError(f"MONGODB_URI: {exc}") from exc


def database_of(client: Client, default: str) -> Database:
    """Return the database that the URI names, else `default`, with majority reads and writes."""
    name = client.get_default_database(default).name
    return client.get_database(
        name,
        codec_options=CodecOptions(tz_aware=True),
        read_preference=ReadPreference.PRIMARY,
        write_concern=WriteConcern("majority", j=True),
        read_concern=ReadConcern("majority"),
    )


async def prepare(database: Database, documents: Sequence[type[Document]]) -> None:
    """Wait until the database answers, then set up Beanie, and make the indexes that are missing.

    Raises `DatabaseError` when it does not answer within half a minute, or has indexes that are not ours.
    """
    await wait_for(database)
    there = await indexes.existing(database, documents)
    foreign = indexes.foreign(there, documents)
    if foreign:
        raise DatabaseError(
            f"another program wrote this database and its index {foreign[0]} is not safe for ours: "
            "make a backup, then run `python -m proxy migrate` once"
        )
    altered = indexes.altered(there, documents)
    if altered:
        raise DatabaseError(
            f"the index {altered[0]} is not as this version makes it: drop it, and start again to have it made"
        )
    with pymongo.timeout(_INDEX_SECONDS):
        # Beanie would list and make the indexes of every collection again, one after the other.
        await init_beanie(database=database, document_models=list(documents), skip_indexes=True)
        missing = indexes.missing(there, documents)
        await asyncio.gather(*(database[name].create_indexes(wanted) for name, wanted in missing.items()))


async def wait_for(database: Database) -> None:
    """Wait until the database answers; raise `DatabaseError` after half a minute."""
    deadline = asyncio.get_running_loop().time() + _STARTUP_SECONDS
    while True:
        try:
            await database.command("ping")
            break
        except PyMongoError as exc:
            if asyncio.get_running_loop().time() > deadline:
                raise DatabaseError(
                    f"MONGODB_URI: the database does not answer: {' '.join(str(exc).split())[:200]}"
                ) from exc
            await asyncio.sleep(0.2)


async def ping(database: Database) -> None:
    """Raise `Unavailable` when the database does not answer."""
    try:
        await database.command("ping")
    except PyMongoError as exc:
        raise lost(exc) from exc


async def identity(database: Database) -> str:
    """Return the name that a database has given itself: a journal belongs to one database."""
    found = await database["identity"].find_one_and_update(
        {"_id": "database"},
        {"$setOnInsert": {"name": secrets.token_hex(8)}},
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    return str((found or {})["name"])


async def keep_running(mongod: EmbeddedMongod) -> None:
    """Revive the embedded server, every second, should it have died."""
    while True:
        await asyncio.sleep(1)
        await background.survived("watching the embedded MongoDB", _revive(mongod))


async def _revive(mongod: EmbeddedMongod) -> None:
    try:
        if await asyncio.to_thread(mongod.ensure_running):
            log.warning("the embedded MongoDB had died and was started again")
    except MongodError as exc:
        log.warning("the embedded MongoDB has died and does not come back", cause=str(exc))


def is_outage(exc: PyMongoError) -> bool:
    """Say whether an error means that the database is away, rather than that we asked something wrong."""
    return isinstance(exc, ConnectionFailure) or exc.timeout or exc.has_error_label("RetryableWriteError")


def lost(_cause: PyMongoError) -> Unavailable:
    """Make the error for a request that needs a database which does not answer."""
    return away()


def away() -> Unavailable:
    """Make the same error where nobody had to ask the database to know that."""
    return Unavailable("The database does not answer; try again in a moment.", retry_after=2)
