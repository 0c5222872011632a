"""Tests of proxy/indexes.py, on a real database: what is there is not made again, and what is missing is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandListener

from admin_api.documents import DOCUMENTS
from proxy import database, indexes
from proxy.database import DatabaseError
from proxy.documents import User


class Heard(CommandListener):
    """Notes the commands that a client sends."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: Any) -> None:
        self.names.append(event.command_name)

    def succeeded(self, event: Any) -> None:
        pass

    def failed(self, event: Any) -> None:
        pass


async def prepared(uri: str) -> tuple[list[str], Mapping[str, Mapping[str, Any]]]:
    """Prepare a database; return the commands that took, and the indexes that there are then."""
    heard = Heard()
    async with AsyncMongoClient[dict[str, Any]](uri, event_listeners=[heard]) as client:
        store = client.get_default_database()
        await database.prepare(store, DOCUMENTS)
        return list(heard.names), await indexes.existing(store, DOCUMENTS)


async def test_a_second_start_makes_nothing(bare_mongodb_uri: str) -> None:
    """The first start makes every index; the second asks once for each collection and makes none."""
    commands, there = await prepared(bare_mongodb_uri)
    assert commands.count("createIndexes") == len(DOCUMENTS)
    for collection, ours in indexes.declared(DOCUMENTS).items():
        assert there[collection].keys() == {"_id_", *(str(index.document["name"]) for index in ours)}
    commands, again = await prepared(bare_mongodb_uri)
    assert "createIndexes" not in commands
    assert commands.count("listIndexes") == len(DOCUMENTS)
    assert again == there


async def test_a_missing_index_is_made_again(mongodb_uri: str) -> None:
    """An index that somebody has dropped is there after the next start, and no other one is touched."""
    _, there = await prepared(mongodb_uri)
    async with AsyncMongoClient[dict[str, Any]](mongodb_uri) as client:
        await client.get_default_database()["users"].drop_index("role")
    commands, again = await prepared(mongodb_uri)
    assert commands.count("createIndexes") == 1
    assert again == there


async def test_an_index_that_is_not_as_we_ask_for_it_stops_the_start(bare_mongodb_uri: str) -> None:
    """One of our names with another meaning is no index of ours: the operator is told, and it is left as it is."""
    async with AsyncMongoClient[dict[str, Any]](bare_mongodb_uri) as client:
        store = client.get_default_database()
        await store["users"].create_index("email", name="email")
        (wanted,) = [index for index in User.Settings.indexes if index.document["name"] == "email"]
        missing = indexes.missing(await indexes.existing(store, [User]), [User])
        assert wanted in missing["users"]
        with pytest.raises(DatabaseError, match=r"users\.email is not as this version makes it: drop it"):
            await database.prepare(store, DOCUMENTS)
        assert "unique" not in (await indexes.existing(store, [User]))["users"]["email"]
