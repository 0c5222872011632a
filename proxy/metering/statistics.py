"""What was used, read from the roll-ups and never from the events: by day, by model, by user, by session.

The finest grain of time is a UTC day: a selection since some moment has the whole of that moment's day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from proxy.core.pricing import from_pico
from proxy.database import Database
from proxy.metering.rollups import ROLLUPS, session_key


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
    """What to sum: of one user or of all, in chats alone or everywhere, since a day or since ever."""

    user_id: str | None = None
    chat_only: bool = False
    since: datetime | None = None


async def total(database: Database, selection: Selection) -> Used:
    """Sum everything selected."""
    sums = await _grouped(database, selection, None)
    return sums[0][1] if sums else Used()


async def by_day(database: Database, selection: Selection) -> list[tuple[str, Used]]:
    """Sum by UTC day (`YYYY-MM-DD`), oldest first; days without use are left out."""
    sums = await _grouped(database, selection, "$day")
    return sorted((str(day), used) for day, used in sums)


async def by_model(database: Database, selection: Selection) -> list[tuple[str, str, Used]]:
    """Sum by model and provider, most tokens first."""
    sums = await _grouped(database, selection, {"model": "$model", "provider": "$provider"})
    rows = [(group["model"], group["provider"], used) for group, used in sums]
    return sorted(rows, key=lambda row: (-row[2].tokens, row[0]))


async def by_user(database: Database, selection: Selection, most: int) -> list[tuple[str, Used]]:
    """Sum by user, most tokens first, at most `most` of them."""
    sums = await _grouped(database, selection, "$userId", most=most)
    return [(str(user), used) for user, used in sums]


async def by_session(database: Database, user_id: str, session_ids: Sequence[str]) -> dict[str, Used]:
    """Return what each of a user's chat sessions has used; one without use is left out."""
    keys = [session_key(session_id) for session_id in session_ids]
    found = database[ROLLUPS].find({"_id": {"$in": keys}, "userId": user_id})
    return {str(row["sessionId"]): _used(row) async for row in found}


async def _grouped(
    database: Database, selection: Selection, key: Any, *, most: int | None = None
) -> list[tuple[Any, Used]]:
    names = ("requests", "prompt", "completion", "usdPico", "inrPico")
    stages: list[Mapping[str, Any]] = [
        {"$match": _match(selection)},
        {"$group": {"_id": key, **{name: {"$sum": f"${name}"} for name in names}}},
    ]
    if most is not None:
        stages += [
            {"$set": {"all": {"$add": ["$prompt", "$completion"]}}},
            {"$sort": {"all": -1, "_id": 1}},
            {"$limit": most},
        ]
    cursor = await database[ROLLUPS].aggregate(stages)
    return [(row["_id"], _used(row)) async for row in cursor]


def _match(selection: Selection) -> dict[str, Any]:
    # The first day there can be keeps the roll-ups of sessions and keys, which have none, out of the sums.
    since = "0000" if selection.since is None else selection.since.astimezone(UTC).strftime("%Y-%m-%d")
    match: dict[str, Any] = {"day": {"$gte": since}}
    if selection.user_id is not None:
        match["userId"] = selection.user_id
    if selection.chat_only:
        match["chat"] = True
    return match


def _used(row: Mapping[str, Any]) -> Used:
    return Used(
        requests=row["requests"],
        prompt_tokens=row["prompt"],
        completion_tokens=row["completion"],
        cost_usd=from_pico(row["usdPico"]),
        cost_inr=from_pico(row["inrPico"]),
    )
