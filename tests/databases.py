"""Databases for tests: each is empty when a test gets it, and few are ever made.

Making one takes a quarter of a second of the server's CPU, nearly all of it for indexes; emptying one takes a tenth of
that. So a database goes from test to test, and keeps the collections whose indexes are those of the gateway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from pymongo import MongoClient
from pymongo.uri_parser import parse_uri

from admin_api.documents import DOCUMENTS
from proxy import database

Indexes = dict[str, Any]


class Databases:
    """The databases of one server, to be borrowed one after the other."""

    def __init__(self, server_uri: str) -> None:
        """Name the server by the URI of any of its databases."""
        self._uri = server_uri
        self._free: list[str] = []
        self._made = 0
        asyncio.run(self._prepare("original"))
        self._client: MongoClient[dict[str, Any]] = MongoClient(server_uri)
        self._structure = self._structure_of("original")

    def borrow(self) -> str:
        """Return the name of an empty database that nobody else uses."""
        if self._free:
            return self._free.pop()
        self._made += 1
        return f"test{self._made}"

    def give_back(self, name: str) -> None:
        """Empty a database, and take out of it the collections whose indexes a test has changed."""
        store = self._client[name]
        store.command("profile", 0)
        structure = self._structure_of(name)
        full = self._full(name, structure)
        for collection, indexes in structure.items():
            if indexes != self._structure.get(collection, indexes) or collection == "system.profile":
                store.drop_collection(collection)
            elif collection in full:
                store[collection].delete_many({})
        self._free.append(name)

    def drop(self, uri: str) -> None:
        """Take everything out of a database that is lent."""
        self._client.drop_database(parse_uri(uri)["database"])

    def uri(self, name: str) -> str:
        """Return the address of a database."""
        return self._uri.replace("/aipasta?", f"/{name}?")

    def close(self) -> None:
        """Let go of the server."""
        self._client.close()

    def _structure_of(self, name: str) -> dict[str, Indexes]:
        """Return the indexes of each collection, all by one command."""
        catalogue = self._client["admin"].aggregate([{"$listCatalog": {}}, {"$match": {"db": name}}])
        return {
            entry["name"]: {index["spec"]["name"]: index["spec"] for index in entry["md"]["indexes"]}
            for entry in catalogue
        }

    def _full(self, name: str, collections: Iterable[str]) -> set[str]:
        """Return those of some collections in which there is anything, by one command too."""
        unions = [
            {"$unionWith": {"coll": each, "pipeline": [{"$limit": 1}, {"$project": {"_id": 0, "in": each}}]}}
            for each in collections
        ]
        return {entry["in"] for entry in self._client[name]["nothing"].aggregate(unions)}

    async def _prepare(self, name: str) -> None:
        client = database.connect(self.uri(name))
        try:
            await database.prepare(database.database_of(client, name), DOCUMENTS)
        finally:
            await client.close()
