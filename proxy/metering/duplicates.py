"""Writing what may have been written before: a duplicate key is success, everything else is not.

A write that the majority has not confirmed is no success either, even where no single document was refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError

MOST_AT_ONCE = 400
"""A message may have 48 MB: 120 KB for each, which is an event of fifty attempts whose names are as long as they may be."""

_DUPLICATE = 11000
Collection = AsyncCollection[dict[str, Any]]


async def insert(collection: Collection, documents: Sequence[dict[str, Any] | RawBSONDocument]) -> None:
    """Insert documents, each unless it is there already; raise `PyMongoError`."""
    for start in range(0, len(documents), MOST_AT_ONCE):
        # `insert_many` looks at each of them, again and again, for 1.0 of the 6.3 us that an event takes.
        answer = await collection.database.command(
            {
                "insert": collection.name,
                "ordered": False,
                "writeConcern": collection.write_concern.document,
                "documents": list(documents[start : start + MOST_AT_ONCE]),
            }
        )
        concern = answer.get("writeConcernError")
        details = {
            "writeErrors": answer.get("writeErrors", []),
            "writeConcernErrors": [] if concern is None else [concern],
        }
        if not _are_duplicates(details):
            raise BulkWriteError(details)


async def write(collection: Collection, commands: Sequence[UpdateOne]) -> None:
    """Send guarded upserts, which fail as duplicates where they were done before; raise `PyMongoError`."""
    if not commands:
        return
    try:
        await collection.bulk_write(commands, ordered=False)
    except BulkWriteError as exc:
        if not _are_duplicates(exc.details):
            raise


def _are_duplicates(details: Mapping[str, Any] | None) -> bool:
    if details is None or details.get("writeConcernErrors"):
        return False
    return all(error["code"] == _DUPLICATE for error in details["writeErrors"])
