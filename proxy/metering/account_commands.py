"""What is said to an account document of a worker's share: to lease, to count, and to keep late commands away.

Each command has a guard that names the share's version in the document, so that it is done once or not at all. No two
entries count their versions from the same number: what was said to one that is gone, and arrives when a late lease has made
another one under the same journal's name, finds no version that it knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bson.decimal128 import Decimal128

from proxy.core.rules import Rule
from proxy.metering.event import endless
from proxy.metering.slices import LEASED_SHARE, Batch, Slice


def lease_filter(slice_: Slice, journal: str) -> dict[str, Any]:
    """Return the guard of a lease: the entry is as this share knows it, and its worker is not given up."""
    if slice_.version is None:
        return {"_id": slice_.user_id, f"j.{journal}": {"$exists": False}}
    return {
        "_id": slice_.user_id,
        f"j.{journal}.v": slice_.version,
        f"j.{journal}.lost": {"$exists": False},
    }


def lease_pipeline(
    journal: str, start: int, first_version: int, asks: Iterable[tuple[Rule, int, int, int]]
) -> list[dict[str, Any]]:
    """Return the update that grants all or nothing: for each rule what the first, and all, waiting requests need,
    and what is wanted ahead of need.

    Should the entry be new, it has counted the journal until `start`, and has this version, which no other one begins with.
    Remaining, the check of every limit, the grant and the write happen in one update of one document.
    """
    left, grants, checks = {}, {}, []
    for rule, first, every, ahead in asks:
        name = rule.counter
        left[name] = {"$subtract": [rule.limit, _taken(name)]}
        if first > 0:  # a limit of which the first one needs no more must not keep him from the others
            checks.append({"$gte": [f"$_left.{name}", first]})
        share = {"$floor": {"$divide": [f"$_left.{name}", LEASED_SHARE]}}
        most = {"$max": [every, {"$min": [ahead, share]}]}
        amount = {"$max": [0, {"$min": [f"$_left.{name}", most]}]}
        grants[name] = {"$toLong": {"$cond": ["$_ok", amount, 0]}}
    counters = {
        f"c.{name}": {
            "$cond": [
                {"$gt": [{"$add": [_taken(name), f"$_grant.{name}"]}, 0]},
                {
                    "u": {"$ifNull": [f"$c.{name}.u", 0]},
                    "l": {"$add": [{"$ifNull": [f"$c.{name}.l", 0]}, f"$_grant.{name}"]},
                },
                # What is only asked for leaves no trace, or a key at its limit would fill its account.
                {"$ifNull": [f"$c.{name}", "$$REMOVE"]},
            ]
        }
        for name in grants
    }
    slices = {}
    for name in grants:
        sum_ = {"$add": [{"$ifNull": [f"$j.{journal}.s.{name}", 0]}, f"$_grant.{name}"]}
        slices[f"j.{journal}.s.{name}"] = {"$cond": [{"$gt": [sum_, 0]}, sum_, "$$REMOVE"]}
    entry = {
        f"j.{journal}.v": {"$ifNull": [{"$add": [f"$j.{journal}.v", 1]}, first_version]},
        f"j.{journal}.thru": {"$ifNull": [f"$j.{journal}.thru", start]},
        "js": {"$setUnion": [{"$ifNull": ["$js", []]}, [journal]]},
    }
    return [
        {"$set": {"_left": left}},
        {"$set": {"_ok": {"$and": checks}}},
        {"$set": {"_grant": grants}},
        {"$set": {**counters, **slices, **entry}},
        {"$unset": ["_left", "_ok", "_grant"]},
    ]


def fence(journal: str) -> dict[str, Any]:
    """Return the update that makes every command fail that was sent before and may still arrive."""
    return {"$inc": {f"j.{journal}.v": 1}}


def count_update(
    slice_: Slice, batch: Batch, journal: str, totals: Mapping[str, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the guard and the update that count a share's batch."""
    changes: dict[str, int | Decimal128] = {f"c.{name}.u": used for name, used in batch.used.items() if used}
    empty: dict[str, str] = {}
    for name, amount in batch.taken.items():
        changes[f"c.{name}.l"] = -amount
        if amount == slice_.counters[name].leased:
            empty[f"j.{journal}.s.{name}"] = ""
        else:
            changes[f"j.{journal}.s.{name}"] = -amount
    changes |= {f"t.{name}": total for name, total in endless(totals).items() if totals[name]}
    changes[f"j.{journal}.v"] = 1
    update: dict[str, Any] = {"$set": {f"j.{journal}.thru": batch.thru}, "$inc": changes}
    if empty:
        update["$unset"] = empty
    guard = {
        "_id": slice_.user_id,
        f"j.{journal}.v": slice_.version,
        f"j.{journal}.thru": slice_.thru,
        f"j.{journal}.lost": {"$exists": False},
    }
    return guard, update


def _taken(name: str) -> dict[str, Any]:
    return {"$add": [{"$ifNull": [f"$c.{name}.u", 0]}, {"$ifNull": [f"$c.{name}.l", 0]}]}
