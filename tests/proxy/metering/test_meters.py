"""Both meters keep the same rules: these tests know neither of them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bson.int64 import Int64

from proxy.core.limits import UserLimits
from proxy.core.rules import KeyLimits
from proxy.errors import GatewayError, InsufficientFunds, RateLimited
from proxy.metering import statistics
from proxy.metering.contract import Meter
from tests.proxy.metering.meters import METERS, USER, budget, connected, settlement, want

pytestmark = pytest.mark.parametrize("running", METERS, ids=lambda meter: meter.__name__)


async def use(
    meter: Meter, seconds: float = 0.0, prompt: int = 60, completion: int = 20, **values: Any
) -> str:
    """Take a request from its reservation to its settlement; return how it went."""
    try:
        reservation = await meter.reserve(want(**values))
    except GatewayError as exc:
        return type(exc).__name__
    await asyncio.sleep(seconds)
    await meter.settle(reservation, settlement(prompt, min(completion, reservation.output_tokens)))
    return "served"


async def test_fifty_a_day_are_fifty(mongodb_uri: str, tmp_path: Path, running: Any) -> None:
    """Of 70 requests at once over two meters, a limit of fifty a day admits exactly fifty."""
    limits = UserLimits(50, 1000, 10**9)
    async with connected(mongodb_uri) as books:
        async with running(mongodb_uri, tmp_path) as one, running(mongodb_uri, tmp_path) as two:
            outcomes = await asyncio.gather(*(use(meter, 0.01, limits=limits) for meter in (one, two) * 35))
            assert Counter(outcomes) == {"served": 50, "RateLimited": 20}
            with pytest.raises(RateLimited) as refused:
                await one.reserve(want(limits=limits))
            assert refused.value.should_retry is False
        await books.assert_exact()
        assert len(await books.events()) == 50


async def test_one_after_the_other_are_fifty_too(mongodb_uri: str, tmp_path: Path, running: Any) -> None:
    """Requests that come singly, now here now there, are refused not one too early."""
    limits = UserLimits(50, 1000, 10**9)
    async with connected(mongodb_uri) as books:
        async with running(mongodb_uri, tmp_path) as one, running(mongodb_uri, tmp_path) as two:
            outcomes = [await use((one, two)[number % 2], limits=limits) for number in range(52)]
            assert outcomes == ["served"] * 50 + ["RateLimited"] * 2
        await books.assert_exact()


async def test_a_budget_is_never_overspent(mongodb_uri: str, tmp_path: Path, running: Any) -> None:
    """Hundreds at once, with random sizes and endings, never spend more than a key's budget."""
    dice = random.Random(7)
    limits = budget("0.01")
    async with connected(mongodb_uri) as books:
        async with running(mongodb_uri, tmp_path) as one, running(mongodb_uri, tmp_path) as two:

            async def any_request(meter: Meter) -> str:
                try:
                    reservation = await meter.reserve(
                        want(key_limits=limits, output_tokens=dice.randint(20, 400))
                    )
                except (InsufficientFunds, RateLimited) as exc:
                    return type(exc).__name__
                await asyncio.sleep(dice.random() / 50)
                if dice.random() < 0.1:
                    await meter.refund(reservation)
                    return "refunded"
                completion = dice.randint(0, reservation.output_tokens)
                await meter.settle(reservation, settlement(dice.randint(1, 100), completion))
                return "served"

            outcomes = Counter(await asyncio.gather(*(any_request((one, two)[n % 2]) for n in range(60))))
            # The budget covers eleven of the largest worst cases at once; how many more there are is the dice's.
            assert outcomes["served"] + outcomes["refunded"] >= 11
            assert outcomes["InsufficientFunds"] + outcomes["RateLimited"] > 0
        events = await books.events()
        assert sum(event["costPico"] for event in events) <= 10**10
        assert len(events) == outcomes["served"]
        await books.assert_exact()


async def test_the_cap_is_lowered_to_what_is_affordable(
    mongodb_uri: str, tmp_path: Path, running: Any
) -> None:
    """A wish for more than is left is lowered; below sixteen tokens it is refused, and says so."""
    limits = UserLimits(50, 1000, 1000)
    async with connected(mongodb_uri) as books:
        async with running(mongodb_uri, tmp_path) as meter:
            reservation = await meter.reserve(want(limits=limits, output_tokens=5000))
            assert (reservation.output_tokens, reservation.is_lowered) == (900, True)
            with pytest.raises(RateLimited) as refused:
                await meter.reserve(want(limits=limits, output_tokens=5000))
            assert refused.value.retry_after == 1
            await meter.settle(reservation, settlement(100, 790))
            with pytest.raises(RateLimited) as refused:
                await meter.reserve(want(limits=limits, output_tokens=5000))
            assert refused.value.should_retry is False
            small = await meter.reserve(want(limits=limits, demand=want().demand.__class__(90, None)))
            assert small.output_tokens == 20
            await meter.refund(small)
        await books.assert_exact()


async def test_concurrent_requests_are_counted(mongodb_uri: str, tmp_path: Path, running: Any) -> None:
    """A key with two places has two requests in flight at most; a place that is free again can be taken."""
    limits = KeyLimits(concurrent_requests=2)
    async with connected(mongodb_uri) as books:
        async with running(mongodb_uri, tmp_path) as one, running(mongodb_uri, tmp_path) as two:
            first, _ = [await meter.reserve(want(key_limits=limits)) for meter in (one, two)]
            with pytest.raises(RateLimited):
                await two.reserve(want(key_limits=limits))
            await one.settle(first, settlement())
            third = await two.reserve(want(key_limits=limits))
            await two.refund(third)
            await two.refund(_)
        await books.assert_exact()


async def test_a_settlement_counts_once(mongodb_uri: str, tmp_path: Path, running: Any) -> None:
    """Settling a request again, or after its refund, changes nothing."""
    async with connected(mongodb_uri) as books:
        async with running(mongodb_uri, tmp_path) as meter:
            reservation = await meter.reserve(want())
            await asyncio.gather(*(meter.settle(reservation, settlement()) for _ in range(3)))
            await meter.refund(reservation)
            refunded = await meter.reserve(want())
            await meter.refund(refunded)
        (event,) = await books.events()
        assert event["tokens"] == {
            "prompt": 60,
            "completion": 20,
            "cached": 0,
            "cacheWrite": 0,
            "reasoning": 0,
        }
        await books.assert_exact()


async def test_a_provider_above_the_hold_is_booked_and_flagged(
    mongodb_uri: str, tmp_path: Path, running: Any
) -> None:
    """What a provider charges above the hold is counted in full, and nothing becomes negative."""
    async with connected(mongodb_uri) as books:
        async with running(mongodb_uri, tmp_path) as meter:
            reservation = await meter.reserve(want(key_limits=budget("0.001")))
            await meter.settle(reservation, settlement(5000, 5000))
            with pytest.raises(InsufficientFunds):
                await meter.reserve(want(key_limits=budget("0.001")))
        (event,) = await books.events()
        assert event["overHold"]
        await books.assert_exact()


async def test_no_sum_is_ever_full(mongodb_uri: str, tmp_path: Path, running: Any) -> None:
    """A user, a key and a chat that have cost more than 64 bits of pico-rupees go on, also where the sum was an integer."""
    session = "6b03f7404765ff65c84d670e"
    nearly = 2**63 - 10**6
    async with connected(mongodb_uri) as books:
        async with running(mongodb_uri, tmp_path) as meter:
            await meter.settle(await meter.reserve(want(session_id=session)), settlement(cost="1"))
            await meter.flush()
        for place in ("t.inrPico", "inrPico"):
            store = books.database["accounts" if "." in place else "rollups"]
            await store.update_many({"day": None}, {"$set": {place: Int64(nearly)}})
        async with running(mongodb_uri, tmp_path) as meter:
            for _ in range(2):
                await meter.settle(await meter.reserve(want(session_id=session)), settlement(cost="1"))
                await meter.flush()
            total = Decimal(nearly + 2 * 83 * 10**12) / 10**12
            assert (await meter.standing(USER, datetime.now(UTC))).cost_inr == total
            sessions = await statistics.by_session(books.database, USER, [session])
            assert (sessions[session].requests, sessions[session].cost_inr) == (3, total)
        await books.assert_exact()


async def test_what_went_over_its_hold_is_counted(mongodb_uri: str, tmp_path: Path, running: Any) -> None:
    """A provider that counts more than could be held is in the metrics, and its event says so."""
    async with connected(mongodb_uri) as books, running(mongodb_uri, tmp_path) as meter:
        for cost in ("0.000001", "1000"):
            reservation = await meter.reserve(want(key_limits=budget("1")))
            await meter.settle(reservation, settlement(cost=cost))
        await meter.flush()
        assert sorted(event["overHold"] for event in await books.events()) == [False, True]
        assert meter._metrics.over_hold.labels("openrouter")._value.get() == 1.0
