"""Tests of proxy/database.py: nothing waits for ever, nothing acknowledged is lost, and an outage is known as one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pymongo.errors import AutoReconnect, DuplicateKeyError, NetworkTimeout, OperationFailure, PyMongoError

from proxy import database
from proxy.database import DatabaseError, is_outage, lost
from proxy.documents import User
from proxy.errors import Unavailable
from proxy.mongod import embedded_mongod
from tests.proxy.test_auth import frozen


async def test_every_write_is_durable_and_everything_has_an_end(mongodb_uri: str) -> None:
    """Writes go to a majority and its journal, reads come from there, and every operation has a deadline."""
    client = database.connect(mongodb_uri)
    try:
        store = database.database_of(client, "unused")
        assert store.write_concern.document == {"w": "majority", "j": True}
        assert store.read_concern.level == "majority"
        assert store["x"].write_concern == store.write_concern
        assert client.options.timeout == database.OPERATION_TIMEOUT_MS / 1000
        assert store.name == mongodb_uri.rsplit("/", 1)[1].split("?", maxsplit=1)[0]
    finally:
        await client.close()


MALFORMED = [
    "",
    "http://localhost",
    "mongodb://",
    "mongodb://h:port/x",
    "mongodb://h/?tls=true&tlsCAFile=/nowhere",
]


@pytest.mark.parametrize("uri", MALFORMED)
def test_a_malformed_address_is_named(uri: str) -> None:
    """A URI that is none is one line that names the setting."""
    with pytest.raises(DatabaseError, match="MONGODB_URI"):
        database.connect(uri)


@pytest.mark.usefixtures("production_timeouts")
async def test_a_frozen_server_is_unavailable_in_time(tmp_path: Path) -> None:
    """A server that does not answer is `Unavailable` within two seconds, and well as soon as it answers again."""
    with embedded_mongod(tmp_path) as mongod:
        client = database.connect(mongod.uri)
        try:
            store = database.database_of(client, "unused")
            await database.prepare(store, [User])
            with frozen(tmp_path):
                with pytest.raises(Unavailable) as caught:
                    await database.ping(store)
                assert caught.value.retry_after == 2
                # Without our deadline the driver gives the connection up, after many seconds, and calls that no timeout.
                assert isinstance(caught.value.__cause__, PyMongoError)
                assert caught.value.__cause__.timeout
                assert database.OPERATION_TIMEOUT_MS < 2_000
            async with asyncio.timeout(30):
                while not await answers(store):  # noqa: ASYNC110  the server is asked
                    await asyncio.sleep(0.05)
        finally:
            await client.close()


async def answers(store: database.Database) -> bool:
    try:
        await database.ping(store)
    except Unavailable:
        return False
    return True


@pytest.mark.parametrize(
    ("error", "claim"),
    [
        (AutoReconnect("x"), True),
        (NetworkTimeout("x"), True),
        (OperationFailure("x", 50), True),
        (OperationFailure("x", 91, {"errorLabels": ["RetryableWriteError"]}), True),
        (DuplicateKeyError("x"), False),
        (OperationFailure("bad field"), False),
    ],
)
def test_what_is_an_outage(error: PyMongoError, *, claim: bool) -> None:
    """A server that is away is an outage; a question that is wrong is a defect of ours."""
    assert is_outage(error) is claim
    assert "x" not in lost(error).message.split()
