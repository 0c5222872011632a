"""A database that sometimes does not say what it has done: nothing, half of it, all of it, or all of it later."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Any, cast

from pymongo.errors import NetworkTimeout, PyMongoError

from proxy.database import Database

Command = Callable[[], Awaitable[Any]]


class Fault(StrEnum):
    """What becomes of a command whose sender hears nothing."""

    NOT_DONE = "not done"
    HALF_DONE = "half done"
    DONE = "done"
    DONE_LATER = "done later"


class FlakyDatabase:
    """Gives the next commands the faults that are queued, and keeps those that are still under way."""

    def __init__(self, database: Database) -> None:
        """Pass everything on to this database."""
        self._database = database
        self.faults: list[Fault | None] = []
        self.under_way: list[Command] = []

    def __getitem__(self, name: str) -> FlakyCollection:
        """Return a collection that has the same troubles."""
        return FlakyCollection(self._database[name], self)

    @classmethod
    def over(cls, database: Database) -> tuple[Database, FlakyDatabase]:
        """Return it twice: as what the code takes it for, and as what it is."""
        made = cls(database)
        return cast("Database", made), made

    async def command(self, command: dict[str, Any]) -> Any:
        """Insert several documents."""
        part = {**command, "documents": command["documents"][: len(command["documents"]) // 2]}
        return await self.run(
            lambda: self._database.command(command),
            half=lambda: _none() if not part["documents"] else self._database.command(part),
        )

    async def run(self, command: Command, half: Command | None = None) -> Any:
        """Do a command, or what its fault says; raise as the driver does when no answer comes."""
        fault = self.faults.pop(0) if self.faults else None
        if fault is None:
            return await command()
        # Whatever the server says to it, nobody hears that.
        with contextlib.suppress(PyMongoError):
            match fault:
                case Fault.HALF_DONE if half is not None:
                    await half()
                case Fault.DONE | Fault.HALF_DONE:
                    await command()
                case Fault.DONE_LATER:
                    self.under_way.append(command)
        raise NetworkTimeout("no answer")

    async def arrive(self) -> None:
        """Do everything that is still under way; nobody hears how it went."""
        commands, self.under_way = self.under_way, []
        for command in commands:
            try:
                await command()
            except Exception as exc:  # noqa: BLE001  whoever sent it is not there any more
                _ = exc


class FlakyCollection:
    """The methods that write, with faults; reads go through."""

    def __init__(self, collection: Any, database: FlakyDatabase) -> None:
        """Write to this collection."""
        self._collection = collection
        self._run = database.run
        self.name = collection.name
        self.write_concern = collection.write_concern
        self.database = database
        self.find = collection.find
        self.find_one = collection.find_one
        self.update_many = collection.update_many

    async def find_one_and_update(self, *arguments: Any, **options: Any) -> Any:
        """Update a document, and return it."""
        return await self._run(lambda: self._collection.find_one_and_update(*arguments, **options))

    async def update_one(self, *arguments: Any, **options: Any) -> Any:
        """Update a document."""
        return await self._run(lambda: self._collection.update_one(*arguments, **options))

    async def insert_one(self, document: Any) -> Any:
        """Insert a document."""
        return await self._run(lambda: self._collection.insert_one(document))

    async def bulk_write(self, commands: Sequence[Any], **options: Any) -> Any:
        """Send several updates."""
        part = list(commands[: len(commands) // 2])
        return await self._run(
            lambda: self._collection.bulk_write(commands, **options),
            half=lambda: _none() if not part else self._collection.bulk_write(part, **options),
        )


async def _none() -> None:
    """Do nothing, which is the half of one."""
