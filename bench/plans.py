"""How the database has answered: what it read through from end to end, or sorted in memory."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from proxy.database import Database

_MANY = 1_000


class Plans:
    """The database's own profile of what it does, from `begin` on."""

    def __init__(self, database: Database) -> None:
        """Read the profile of this database."""
        self._database = database
        self._since = datetime.now(UTC)

    async def begin(self) -> None:
        """Have everything written down."""
        await self._database.command("profile", 2)

    async def bad(self) -> list[str]:
        """Name what has read or sorted more than a thousand documents without an index since the last time."""
        since, self._since = self._since, datetime.now(UTC)
        found = self._database["system.profile"].find({"ts": {"$gte": since}})
        return sorted({line async for operation in found if (line := _judge(operation))})


def _judge(operation: Mapping[str, Any]) -> str:
    examined = operation.get("docsExamined", 0)
    if examined < _MANY or operation["ns"].endswith("system.profile"):
        return ""
    plan = str(operation.get("planSummary", ""))
    if "COLLSCAN" in plan:
        return f"{operation['ns'].partition('.')[2]}: read all {examined:,} documents"
    if operation.get("hasSortStage"):
        return f"{operation['ns'].partition('.')[2]}: sorted {examined:,} documents in memory"
    return ""
