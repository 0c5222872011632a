"""Sums that are written with the events, each exactly once, so that no statistic has to read the events.

One document per user, day, provider and model, and one per chat session. Each belongs to one account, whose
requests are counted in the journal's order, so the last offset that a document has seen of a journal is its
guard against a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pymongo import ASCENDING, IndexModel, UpdateOne

from proxy.metering.event import endless

ROLLUPS = "rollups"
AMOUNTS = ("requests", "prompt", "completion", "usdPico", "inrPico")
_IDS_KEPT = 256
INDEXES = (
    IndexModel([("userId", ASCENDING), ("day", ASCENDING)], name="user"),
    IndexModel([("day", ASCENDING)], name="day"),
    IndexModel([("js", ASCENDING)], name="journals", sparse=True),
)

Sums = dict[str, dict[str, Any]]


def sums_of(events: Iterable[Mapping[str, Any]]) -> Sums:
    """Sum events by the roll-ups that they belong to."""
    # Those of a busy key go to the same places, whose names take longer to make than the sums.
    alike: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for event in events:
        day, user, key = event["at"].date(), event["userId"], event["keyId"]
        place = (day, user, key, event["sessionId"], event["provider"], event["model"])
        alike.setdefault(place, []).append(event)
    sums: Sums = {}
    for group in alike.values():
        amounts = amounts_of(*group)
        for key, names in _places(group[0]):
            known = sums.get(key)
            if known is None:
                sums[key] = {"names": names, "amounts": dict(amounts)}
                continue
            for name, amount in amounts.items():
                known["amounts"][name] += amount
    return sums


def amounts_of(*events: Mapping[str, Any]) -> dict[str, int]:
    """Say what events add to a roll-up."""
    requests = prompt = completion = usd = inr = 0
    for event in events:
        requests += event["requests"]
        prompt += event["tokens"]["prompt"]
        completion += event["tokens"]["completion"]
        usd += event["costPico"]
        inr += event["costInrPico"]
    return dict(zip(AMOUNTS, (requests, prompt, completion, usd, inr), strict=True))


def updates(sums: Sums, journal: str, thru: int) -> list[UpdateOne]:
    """Return the guarded updates; one that was done before fails as a duplicate key, which is success."""
    return [
        UpdateOne(
            {"_id": key, f"thru.{journal}": {"$not": {"$gte": thru}}},
            _addition(place, journal, thru),
            upsert=True,
        )
        for key, place in sums.items()
    ]


def update_from(key: str, place: Mapping[str, Any], journal: str, seen: int | None, thru: int) -> UpdateOne:
    """Return the update for whoever has read what a roll-up has `seen` of a journal; it fails if that is no longer so."""
    guard = {"$exists": False} if seen is None else seen
    return UpdateOne(
        {"_id": key, f"thru.{journal}": guard}, _addition(place, journal, thru), upsert=seen is None
    )


def retirement(journal: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the filter and the update that make the roll-ups that go on for ever forget a journal."""
    return {"js": journal}, {"$unset": {f"thru.{journal}": ""}, "$pull": {"js": journal}}


def single_updates(event: Mapping[str, Any]) -> list[UpdateOne]:
    """Return the updates for one event that comes without a journal, guarded by its own id.

    The last ids are kept, which is many more than can be under way for one document at once.
    """
    return [
        UpdateOne(
            {"_id": key, "done": {"$ne": event["_id"]}},
            {
                "$inc": _increments(amounts_of(event), names),
                "$push": {"done": {"$each": [event["_id"]], "$slice": -_IDS_KEPT}},
                "$setOnInsert": names,
            },
            upsert=True,
        )
        for key, names in _places(event)
    ]


def _addition(place: Mapping[str, Any], journal: str, thru: int) -> dict[str, Any]:
    update: dict[str, Any] = {
        "$inc": _increments(place["amounts"], place["names"]),
        "$set": {f"thru.{journal}": thru},
        "$setOnInsert": place["names"],
    }
    if "day" not in place["names"]:
        # A day is over soon; this one would collect every journal that there ever was.
        update["$addToSet"] = {"js": journal}
    return update


def _increments(amounts: Mapping[str, int], names: Mapping[str, Any]) -> Mapping[str, Any]:
    return amounts if "day" in names else endless(amounts)


def session_key(session_id: str) -> str:
    """Return the id of a chat session's roll-up."""
    return f"session:{session_id}"


def keys_of(event: Mapping[str, Any]) -> list[str]:
    """Return the ids of the roll-ups that an event belongs to."""
    return [key for key, _ in _places(event)]


def _places(event: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    day = event["at"].strftime("%Y-%m-%d")
    user, provider, model = event["userId"], event["provider"], event["model"]
    names = {
        "userId": user,
        "day": day,
        "provider": provider,
        "model": model,
        "chat": event["sessionId"] is not None,
    }
    kind = "chat" if names["chat"] else "api"
    places = [(f"day:{kind}:{user}:{day}:{provider}:{model}", names)]
    if event["sessionId"] is not None:
        places.append((session_key(event["sessionId"]), {"userId": user, "sessionId": event["sessionId"]}))
    if event["keyId"] is not None:
        places.append((f"key:{event['keyId']}", {"userId": user, "keyId": event["keyId"]}))
    return places
