"""What was used, read from the roll-ups and never from the events: by day, by model, by user, by session.

The finest grain of time is a UTC day: a selection since some moment has the whole of that moment's day.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from operator import itemgetter
from typing import Any, TypeVar

from proxy.core.pricing import from_pico
from proxy.database import Database
from proxy.metering import days
from proxy.metering.days import NAMES
from proxy.metering.event import whole
from proxy.metering.rollups import AMOUNTS, ROLLUPS, session_key

_CANDIDATES = 3
Amounts = tuple[int, ...]
"""In the order of `AMOUNTS`."""

_amounts_of = itemgetter(*AMOUNTS)
Key = TypeVar("Key")


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
    """What to sum: one user's, in chats alone or everywhere, since a day or since ever."""

    user_id: str
    chat_only: bool = False
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Everybody:
    """What all users together have used: in chats (`True`) and elsewhere (`False`), by day, and by model and provider."""

    days: Mapping[bool, dict[str, Amounts]]
    models: Mapping[bool, dict[tuple[str, str], Amounts]]
    tokens: Counter[str]
    """Of users, as far as the first ones of each day tell."""

    def total(self, *, chat_only: bool = False) -> Used:
        """Sum everything."""
        found = _merged(self.days, chat_only=chat_only).values()
        return _used(_sum(found)) if found else Used()

    def by_day(self, *, chat_only: bool = False) -> list[tuple[str, Used]]:
        """Sum by UTC day (`YYYY-MM-DD`), oldest first; days without use are left out."""
        found = _merged(self.days, chat_only=chat_only)
        return [(day, _used(amounts)) for day, amounts in sorted(found.items())]

    def by_model(self, *, chat_only: bool = False) -> list[tuple[str, str, Used]]:
        """Sum by model and provider, most tokens first."""
        found = _merged(self.models, chat_only=chat_only)
        return _ordered([(*names, _used(amounts)) for names, amounts in found.items()])

    def likely_first(self, most: int) -> list[str]:
        """Name the users with the most tokens, as far as the first ones of each day tell."""
        return [user for user, _ in self.tokens.most_common(most)]


async def everybody(database: Database, since: datetime | None) -> Everybody:
    """Read what all users have used since the day of a moment, and go through it once: a quarter has 4,000 rows."""
    of_days: defaultdict[tuple[bool, str], list[Amounts]] = defaultdict(list)
    of_models: defaultdict[tuple[bool, str, str], list[Amounts]] = defaultdict(list)
    tokens: Counter[str] = Counter()
    for day in await days.sums(database, _first_day(since)):
        tokens.update(dict(zip(day["topUsers"], day["topTokens"], strict=True)))
        names, amounts = (zip(*(day[name] for name in columns), strict=True) for columns in (NAMES, AMOUNTS))
        for place, row in zip(names, amounts, strict=True):
            of_days[place[0], day["_id"]].append(row)
            of_models[place].append(row)
    found = Everybody({True: {}, False: {}}, {True: {}, False: {}}, tokens)
    for (is_chat, name), rows in of_days.items():
        found.days[is_chat][name] = _sum(rows)
    for (is_chat, model, provider), rows in of_models.items():
        found.models[is_chat][model, provider] = _sum(rows)
    return found


async def total(database: Database, selection: Selection) -> Used:
    """Sum everything that one user has used."""
    sums = await _grouped(database, selection, None)
    return sums[0][1] if sums else Used()


async def by_day(database: Database, selection: Selection) -> list[tuple[str, Used]]:
    """Sum what one user has used by UTC day (`YYYY-MM-DD`), oldest first; days without use are left out."""
    sums = await _grouped(database, selection, "$day")
    return sorted((str(day), used) for day, used in sums)


async def by_model(database: Database, selection: Selection) -> list[tuple[str, str, Used]]:
    """Sum what one user has used by model and provider, most tokens first."""
    sums = await _grouped(database, selection, {"model": "$model", "provider": "$provider"})
    return _ordered([(group["model"], group["provider"], used) for group, used in sums])


async def by_user(
    database: Database, since: datetime | None, found: Everybody, most: int
) -> list[tuple[str, Used]]:
    """Sum by user, most tokens first, at most `most` of them.

    Who comes into question is decided by the first fifty of each day; what is said of them is exact.
    """
    match = {"day": {"$gte": _first_day(since)}, "userId": {"$in": found.likely_first(_CANDIDATES * most)}}
    sums = [(str(user), used) for user, used in await _group(database, match, "$userId")]
    return sorted(sums, key=lambda row: (-row[1].tokens, row[0]))[:most]


async def by_session(database: Database, user_id: str, session_ids: Sequence[str]) -> dict[str, Used]:
    """Return what each of a user's chat sessions has used; one without use is left out."""
    keys = [session_key(session_id) for session_id in session_ids]
    found = database[ROLLUPS].find({"_id": {"$in": keys}, "userId": user_id})
    return {str(row["sessionId"]): _used(tuple(map(whole, _amounts_of(row)))) async for row in found}


async def _grouped(database: Database, selection: Selection, key: Any) -> list[tuple[Any, Used]]:
    """Sum what one user has used."""
    match: dict[str, Any] = {"day": {"$gte": _first_day(selection.since)}, "userId": selection.user_id}
    if selection.chat_only:
        match["chat"] = True
    return await _group(database, match, key)


async def _group(database: Database, match: Mapping[str, Any], key: Any) -> list[tuple[Any, Used]]:
    amounts = {name: {"$sum": f"${name}"} for name in AMOUNTS}
    cursor = await database[ROLLUPS].aggregate([{"$match": match}, {"$group": {"_id": key, **amounts}}])
    return [(row["_id"], _used(_amounts_of(row))) async for row in cursor]


def _first_day(since: datetime | None) -> str:
    # The first day there can be keeps the roll-ups of sessions and keys, which have none, out of the sums.
    return "0000" if since is None else since.astimezone(UTC).strftime("%Y-%m-%d")


def _ordered(rows: list[tuple[str, str, Used]]) -> list[tuple[str, str, Used]]:
    return sorted(rows, key=lambda row: (-row[2].tokens, row[0]))


def _merged(by_chat: Mapping[bool, Mapping[Key, Amounts]], *, chat_only: bool) -> dict[Key, Amounts]:
    """Put what was used in chats and elsewhere together, unless chats alone are asked for."""
    chats, others = by_chat[True], by_chat[False]
    if chat_only or not others:
        return dict(chats)
    both = chats.keys() & others.keys()
    return {**chats, **others, **{key: _sum((chats[key], others[key])) for key in both}}


def _sum(rows: Iterable[Amounts]) -> Amounts:
    return tuple(map(sum, zip(*rows, strict=True)))


def _used(amounts: Amounts) -> Used:
    requests, prompt, completion, usd, inr = amounts
    return Used(requests, prompt, completion, from_pico(usd), from_pico(inr))
