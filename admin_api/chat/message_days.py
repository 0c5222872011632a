"""How many messages are from each UTC day: counted when somebody asks, kept, and forgotten where messages go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from admin_api.chat.documents import ChatMessage
from proxy.metering import days

MESSAGE_DAYS = "messagedays"
_MOST_DAYS = 3_650


async def messages_by_day() -> list[Mapping[str, Any]]:
    """Return how many messages of each role (`roles`) are from each UTC day (`_id`), oldest first."""
    messages = ChatMessage.get_pymongo_collection()
    edges = [
        await messages.find_one(
            {"createdAt": {"$type": "date"}}, {"createdAt": 1}, sort=[("createdAt", direction)]
        )
        for direction in (1, -1)
    ]
    if edges[0] is None or edges[1] is None:
        return []
    first, last = edges[0]["createdAt"].date(), edges[1]["createdAt"].date()
    number = min((last - first).days, _MOST_DAYS)
    dates = [(last - timedelta(days=back)).isoformat() for back in range(number, -1, -1)]

    async def make(day: str) -> dict[str, Any]:
        begin = datetime.fromisoformat(day).replace(tzinfo=UTC)
        stages: list[Mapping[str, Any]] = [
            {"$match": {"createdAt": {"$gte": begin, "$lt": begin + timedelta(days=1)}}},
            {"$group": {"_id": "$role", "count": {"$sum": 1}}},
        ]
        rows = await (await messages.aggregate(stages)).to_list()
        return {"roles": {str(row["_id"]): row["count"] for row in rows}}

    return await days.kept(messages.database[MESSAGE_DAYS], dates, make)


async def delete_messages(query: Mapping[str, Any]) -> None:
    """Delete messages, and forget what is kept of their days."""
    messages = ChatMessage.get_pymongo_collection()
    day = {"$dateToString": {"date": "$createdAt", "format": "%Y-%m-%d"}}
    found = await messages.aggregate([{"$match": query}, {"$group": {"_id": day}}])
    affected = [row["_id"] async for row in found]
    # Before, since after a crash nobody knows these days; and after, since somebody may have counted meanwhile.
    await forget_days(affected)
    await messages.delete_many(query)
    await forget_days(affected)


async def forget_days(dates: Sequence[str]) -> None:
    """Let the messages of these days be counted anew."""
    await days.forget(ChatMessage.get_pymongo_collection().database[MESSAGE_DAYS], dates)
