"""The database that a command works on: the one of MONGODB_URI, or a child of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from admin_api.documents import DOCUMENTS
from proxy import database
from proxy.database import Database
from proxy.mongod import EmbeddedMongod, embedded_mongod
from proxy.settings import Settings


@contextmanager
def mongodb(settings: Settings) -> Iterator[tuple[str, EmbeddedMongod | None]]:
    """Yield where the database is; without MONGODB_URI it is a child of ours."""
    if settings.mongodb_uri:
        yield settings.mongodb_uri, None
        return
    with embedded_mongod(settings.data_dir) as mongod:
        yield mongod.uri, mongod


def with_database(settings: Settings, work: Callable[[Database], Awaitable[None]]) -> None:
    """Do something with the database, which is prepared for it."""

    async def run(uri: str) -> None:
        client = database.connect(uri)
        store = database.database_of(client, settings.database)
        try:
            await database.prepare(store, DOCUMENTS)
            await work(store)
        finally:
            await client.close()

    with mongodb(settings) as (uri, _):
        asyncio.run(run(uri))
