"""Tests of proxy/metering/duplicates.py: what was written before is no error, and everything else is one."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo import UpdateOne, WriteConcern
from pymongo.errors import BulkWriteError

from proxy.metering import duplicates
from tests.proxy.metering.meters import connected

_MORE_THAN_THERE_ARE = WriteConcern(5)


async def test_what_is_there_already_is_no_error(mongodb_uri: str) -> None:
    """Of documents that are inserted together, those that are there stay as they were, and the others are new."""
    async with connected(mongodb_uri) as books:
        collection = books.database["things"]
        await duplicates.insert(collection, [])
        await duplicates.insert(collection, [{"_id": 1, "of": "first"}])
        await duplicates.insert(collection, [{"_id": each, "of": "second"} for each in (0, 1, 2)])
        found = await collection.find().sort("_id").to_list()
        assert [document["of"] for document in found] == ["second", "first", "second"]


async def test_many_are_inserted_in_several_commands(
    mongodb_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, all of them arrive."""
    monkeypatch.setattr(duplicates, "MOST_AT_ONCE", 2)
    async with connected(mongodb_uri) as books:
        collection = books.database["things"]
        for count in (1, 2, 5):
            await duplicates.insert(collection, [{"_id": each} for each in range(count)])
            assert await collection.count_documents({}) == count


async def test_anything_else_is_an_error(mongodb_uri: str) -> None:
    """A document that the database refuses, also beside one that is there already, which it says first."""
    async with connected(mongodb_uri) as books:
        collection = await books.database.create_collection("strict", validator={"of": {"$type": "string"}})
        documents: list[dict[str, Any]] = [
            {"_id": 1, "of": "first"},
            {"_id": 1, "of": "x"},
            {"_id": 2, "of": 2},
        ]
        with pytest.raises(BulkWriteError) as raised:
            await duplicates.insert(collection, documents)
        assert [error["code"] for error in raised.value.details["writeErrors"]] == [11000, 121]
        assert await collection.count_documents({}) == 1


async def test_what_too_few_have_confirmed_is_an_error(mongodb_uri: str) -> None:
    """More members than there are cannot confirm a write, and nobody is told that it will last."""
    async with connected(mongodb_uri) as books:
        collection = books.database["things"].with_options(write_concern=_MORE_THAN_THERE_ARE)
        with pytest.raises(BulkWriteError) as raised:
            await duplicates.insert(collection, [{"_id": 1}])
        assert raised.value.details["writeConcernErrors"]
        with pytest.raises(BulkWriteError):
            await duplicates.write(collection, [UpdateOne({"_id": 2}, {"$set": {"of": 2}}, upsert=True)])
