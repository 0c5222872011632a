"""`migrate`: take over a database that the original AI Pasta backend wrote."""

from __future__ import annotations

import argparse
import asyncio

from pymongo.errors import PyMongoError

from admin_api import migration
from admin_api.documents import DOCUMENTS
from proxy import database
from proxy.commands.reporting import reporting
from proxy.commands.store import mongodb
from proxy.database import DatabaseError
from proxy.settings import Settings


@reporting
def run(settings: Settings, _options: argparse.Namespace) -> int:
    """Say each step before it is taken; again, it finds nothing to do."""
    with mongodb(settings) as (uri, _):
        asyncio.run(_take_over(settings, uri))
    return 0


async def _take_over(settings: Settings, uri: str) -> None:
    client = database.connect(uri)
    store = database.database_of(client, settings.database)
    try:
        await database.wait_for(store)
        done = 0
        async for line in migration.migrate(store, DOCUMENTS, usd_inr_rate=settings.usd_inr_rate):
            print(line, flush=True)
            done += 1
        await database.prepare(store, DOCUMENTS)
        print("the database is ours" if done else "nothing to do: the database is ours already")
    except PyMongoError as exc:
        cause = " ".join(str(exc).split())[:200]
        raise DatabaseError(f"stopped half-way; run `migrate` again: {cause}") from exc
    finally:
        await client.close()
