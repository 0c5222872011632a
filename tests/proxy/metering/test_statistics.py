"""Tests of proxy/metering/statistics.py: what was used is the sum of the events, in every cut."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from proxy.metering import statistics
from proxy.metering.statistics import Selection, Used
from tests.proxy.metering.meters import RATE, USER, connected, direct, leased, settlement, want

OTHER = "6b03f7404765ff65c84d6777"


@pytest.mark.parametrize("running", [direct, leased])
async def test_every_cut_is_the_sum_of_the_events(mongodb_uri: str, tmp_path: Path, running: Any) -> None:
    """By day, model, user and session, and in all: requests, tokens and money add up to the events'."""
    today = datetime.now(UTC)
    async with running(mongodb_uri, tmp_path) as meter, connected(mongodb_uri) as books:
        for number in range(12):
            values = {
                "user_id": (USER, USER, OTHER)[number % 3],
                "model": ("a/one", "b/two")[number % 2],
                "session_id": "s1" if number % 4 == 0 else None,
            }
            reservation = await meter.reserve(want(at=today, **values))
            await meter.settle(
                reservation, settlement(10 * number, number, "0.000001", model=values["model"])
            )
        await meter.flush()
        events = await books.events()
        assert len(events) == 12
        everybody = await statistics.everybody(books.database, None)
        assert everybody.total() == summed(events)
        assert everybody.by_day() == [(today.strftime("%Y-%m-%d"), summed(events))]
        mine = [event for event in events if event["userId"] == USER]
        assert await statistics.total(books.database, Selection(user_id=USER)) == summed(mine)
        ((day, used),) = await statistics.by_day(books.database, Selection(user_id=USER))
        assert (day, used) == (today.strftime("%Y-%m-%d"), summed(mine))
        by_model = {model: used for model, _, used in everybody.by_model()}
        assert {model: used.requests for model, used in by_model.items()} == Counter(
            event["model"] for event in events
        )
        users = await statistics.by_user(books.database, None, everybody, 1)
        assert [(user, used.requests) for user, used in users] == [(USER, 8)]
        chats = [event for event in events if event["sessionId"]]
        assert everybody.total(chat_only=True) == summed(chats)
        tomorrow = today + timedelta(days=1)
        assert (await statistics.everybody(books.database, tomorrow)).total() == Used()
        assert await statistics.total(books.database, Selection(USER, since=tomorrow)) == Used()


def summed(events: Any) -> Used:
    return Used(
        requests=sum(event["requests"] for event in events),
        prompt_tokens=sum(event["tokens"]["prompt"] for event in events),
        completion_tokens=sum(event["tokens"]["completion"] for event in events),
        cost_usd=Decimal(sum(event["costPico"] for event in events)) / 10**12,
        cost_inr=Decimal(sum(event["costInrPico"] for event in events)) / 10**12,
    )


def test_tokens_are_both_kinds() -> None:
    """What counts against a limit is prompt and completion together."""
    assert Used(1, 30, 12, Decimal(1), RATE).tokens == 42
