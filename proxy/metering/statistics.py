"""What was used, summed from the usage events: by day, by model, by session. Corrections are in the sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from proxy.core.pricing import from_pico
from proxy.database import Database
from proxy.documents import EVENTS


@dataclass(frozen=True, slots=True)
class Used:
    """A sum over usage events."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    cost_inr: Decimal = Decimal(0)

    @property
    def tokens(self) -> int:
        """Return prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events to sum: `None` stands for all; `since` is inclusive, `until` exclusive."""

    user_id: str | None = None
    key_id: str | None = None
    session_ids: Sequence[str] | None = None
    chat_only: bool = False
    since: datetime | None = None
    until: datetime | None = None


async def total(database: Database, selection: Selection) -> Used:
    """Sum everything selected."""
    sums = await _grouped(database, selection, None)
    return sums[0][1] if sums else Used()


async def by_day(database: Database, selection: Selection) -> list[tuple[str, Used]]:
    """Sum by UTC day (`YYYY-MM-DD`), oldest first; days without use are left out."""
    sums = await _grouped(database, selection, {"$dateToString": {"date": "$at", "format": "%Y-%m-%d"}})
    return sorted((str(day), used) for day, used in sums)


async def by_model(database: Database, selection: Selection) -> list[tuple[str, str, Used]]:
    """Sum by model and provider, most tokens first."""
    sums = await _grouped(database, selection, {"model": "$model", "provider": "$provider"})
    rows = [(group["model"], group["provider"], used) for group, used in sums]
    return sorted(rows, key=lambda row: (-row[2].tokens, row[0]))


async def by_session(database: Database, selection: Selection) -> dict[str, Used]:
    """Sum by chat session; requests outside of any session are left out."""
    sums = await _grouped(database, selection, "$sessionId")
    return {str(session): used for session, used in sums if session is not None}


async def by_user(database: Database, selection: Selection, most: int) -> list[tuple[str, Used]]:
    """Sum by user, most tokens first, at most `most` of them."""
    sums = await _grouped(database, selection, "$userId", most=most)
    return [(str(user), used) for user, used in sums]


async def _grouped(
    database: Database, selection: Selection, key: Any, *, most: int | None = None
) -> list[tuple[Any, Used]]:
    group: dict[str, Any] = {
        "_id": key,
        "requests": {"$sum": "$requests"},
        "prompt": {"$sum": "$tokens.prompt"},
        "completion": {"$sum": "$tokens.completion"},
        "usd": {"$sum": "$costPico"},
        "inr": {"$sum": "$costInrPico"},
    }
    stages: list[Mapping[str, Any]] = [{"$match": _match(selection)}, {"$group": group}]
    if most is not None:
        stages += [
            {"$set": {"all": {"$add": ["$prompt", "$completion"]}}},
            {"$sort": {"all": -1, "_id": 1}},
            {"$limit": most},
        ]
    cursor = await database[EVENTS].aggregate(stages)
    return [(row["_id"], _used(row)) async for row in cursor]


def _match(selection: Selection) -> dict[str, Any]:
    match: dict[str, Any] = {}
    if selection.user_id is not None:
        match["userId"] = selection.user_id
    if selection.key_id is not None:
        match["keyId"] = selection.key_id
    if selection.session_ids is not None:
        match["sessionId"] = {"$in": list(selection.session_ids)}
    elif selection.chat_only:
        match["sessionId"] = {"$ne": None}
    moments = {"$gte": selection.since, "$lt": selection.until}
    if any(moments.values()):
        match["at"] = {operator: moment for operator, moment in moments.items() if moment is not None}
    return match


def _used(row: Mapping[str, Any]) -> Used:
    return Used(
        requests=row["requests"],
        prompt_tokens=row["prompt"],
        completion_tokens=row["completion"],
        cost_usd=from_pico(row["usd"]),
        cost_inr=from_pico(row["inr"]),
    )
