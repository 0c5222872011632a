"""The indexes of our documents: which there are, which are missing, and which are somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beanie import Document
from pymongo import IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

Database = AsyncDatabase[dict[str, Any]]
Indexes = dict[str, dict[str, dict[str, Any]]]
"""Descriptions of indexes, by their collections and names."""

_OF_THE_SERVER = ("v", "ns")
_MEANING = ("unique", "sparse", "partialFilterExpression", "expireAfterSeconds")


@dataclass(frozen=True, slots=True)
class ForeignIndex:
    """An index that another program made, and with which our documents would not be safe."""

    collection: str
    name: str
    deletes: bool
    """Whether the database removes documents by it."""

    def __str__(self) -> str:
        return f"{self.collection}.{self.name}"


def declared(documents: Sequence[type[Document]]) -> dict[str, list[IndexModel]]:
    """Return the indexes that our documents ask for, by collection."""
    found = {}
    for document in documents:
        settings: Any = getattr(document, "Settings", None)
        name = str(getattr(settings, "name", document.__name__))
        found[name] = list(getattr(settings, "indexes", ()))
    return found


async def existing(database: Database, documents: Sequence[type[Document]]) -> Indexes:
    """Ask the database for the indexes of all our collections, at once; one that is not there has none."""
    names = list(declared(documents))
    return dict(zip(names, await asyncio.gather(*(_of(database[name]) for name in names)), strict=True))


def foreign(there: Indexes, documents: Sequence[type[Document]]) -> list[ForeignIndex]:
    """Find the indexes that are not ours and delete, refuse, or stand in the place of one of ours."""
    found = []
    for collection, indexes in declared(documents).items():
        ours = {str(index.document["name"]): index.document for index in indexes}
        keys = [_keys(index) for index in ours.values()]
        for name, index in there[collection].items():
            deletes = "expireAfterSeconds" in index
            if name not in (*ours, "_id_") and (deletes or index.get("unique") or _keys(index) in keys):
                found.append(ForeignIndex(collection, name, deletes))
    return found


def missing(there: Indexes, documents: Sequence[type[Document]]) -> dict[str, list[IndexModel]]:
    """Find ours that are not there, or not as we ask for them, by collection."""
    found = {
        collection: [index for index in indexes if not _is_there(index, there[collection])]
        for collection, indexes in declared(documents).items()
    }
    return {collection: indexes for collection, indexes in found.items() if indexes}


def altered(there: Indexes, documents: Sequence[type[Document]]) -> list[str]:
    """Name those that have a name of ours and another meaning: in their place the database makes none of ours."""
    return [
        f"{collection}.{index.document['name']}"
        for collection, wanted in missing(there, documents).items()
        for index in wanted
        if _means_another(index.document, there[collection].get(str(index.document["name"])))
    ]


async def _of(collection: AsyncCollection[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {str(index["name"]): dict(index) async for index in await collection.list_indexes()}


def _keys(index: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return list(index["key"].items())


def _means_another(ours: Mapping[str, Any], found: Mapping[str, Any] | None) -> bool:
    if found is None:
        return False
    return _keys(found) != _keys(ours) or any(found.get(name) != ours.get(name) for name in _MEANING)


def _is_there(index: IndexModel, there: Mapping[str, dict[str, Any]]) -> bool:
    found = there.get(str(index.document["name"]))
    if found is None:
        return False
    plain = {name: value for name, value in found.items() if name not in _OF_THE_SERVER}
    return plain == dict(index.document) and _keys(found) == _keys(index.document)
