"""Tests of admin_api/ratelimit.py."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from httpx_aiohttp import AiohttpTransport
from pymongo.read_concern import ReadConcern

from admin_api import ratelimit
from admin_api.ratelimit import LONGEST_BACK_OFF, RateLimiter, subject_of
from proxy import database
from proxy.clock import utc_now
from proxy.database import Database
from proxy.errors import RateLimited, Unavailable
from proxy.settings import Settings
from tests.admin_api.accounts import Account, message_of, signed_in, user_with_password
from tests.gateway import PASSWORD, RunningGateway, running_gateway

STRICT: dict[str, Any] = {"development_factor": 1}
LOOPBACK = "127.0.0.0/8,::1"


@asynccontextmanager
async def store(uri: str) -> AsyncIterator[Database]:
    client = database.connect(uri)
    try:
        yield database.database_of(client, "aipasta")
    finally:
        await client.close()


@asynccontextmanager
async def limiter_for(uri: str, **limits: Any) -> AsyncIterator[RateLimiter]:
    async with store(uri) as opened:
        limiter = RateLimiter(opened, Settings(rate_limits={**STRICT, **limits}))
        await limiter.start()
        yield limiter


async def get(gateway: RunningGateway, path: str, address: str = "198.51.100.1") -> httpx.Response:
    return await gateway.http.get(path, headers={"x-forwarded-for": address})


async def test_the_global_limit(mongodb_uri: str) -> None:
    """Each address has so many requests to /api, unknown paths included; nothing else is counted; two workers share."""
    limits = {**STRICT, "api": {"requests": 6}}
    async with (
        running_gateway(mongodb_uri, rate_limits=limits, trusted_proxies=LOOPBACK) as one,
        running_gateway(mongodb_uri, rate_limits=limits, trusted_proxies=LOOPBACK) as two,
    ):
        for gateway in (one, two) * 5:
            for path in ("/health", "/", "/v1/models", "/metrics"):
                assert (await get(gateway, path)).status_code != 429
        answers = [
            await get(gateway, path)
            for gateway, path in zip((one, two) * 3, ("/api/models", "/api/x") * 3, strict=True)
        ]
        assert [answer.status_code for answer in answers] == [200, 404] * 3
        left = [answer.headers["ratelimit-remaining"] for answer in answers]
        assert left == ["5", "4", "3", "2", "1", "0"]
        assert answers[0].headers["ratelimit-limit"] == "6"
        assert answers[0].headers["ratelimit-policy"] == "6;w=900"
        for gateway in (one, two):
            refused = await get(gateway, "/api/models")
            message = message_of(refused, 429, "RATE_LIMITED")
            wait = int(refused.headers["retry-after"])
            assert 890 <= wait <= 900
            assert message == f"Too many requests. Try again in {wait} seconds."
            assert refused.json()["retryAfter"] == wait
            assert refused.headers["ratelimit-remaining"] == "0"
        assert (await get(one, "/api/models", "198.51.100.2")).status_code == 200


async def test_a_forged_address_does_not_help(mongodb_uri: str) -> None:
    """Without trusted proxies X-Forwarded-For is nobody's word; behind one, only what it appended counts."""
    limits = {**STRICT, "api": {"requests": 3}}
    async with running_gateway(mongodb_uri, rate_limits=limits) as gateway:
        answers = [await get(gateway, "/api/models", f"203.0.113.{number}") for number in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    async with running_gateway(mongodb_uri, rate_limits=limits, trusted_proxies=LOOPBACK) as gateway:
        forged = [f"203.0.113.{number}, 198.51.100.9" for number in range(5)]
        answers = [await get(gateway, "/api/models", line) for line in forged]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        first, second = [
            [await get(gateway, "/api/models", f"2001:db8:0:{net}::{number}") for number in range(1, 5)]
            for net in (1, 2)
        ]
        assert [answer.status_code for answer in first] == [200, 200, 200, 429]
        assert [answer.status_code for answer in second] == [200, 200, 200, 429]


async def test_the_auth_limit_counts_tries_of_credentials(mongodb_uri: str) -> None:
    """Register, login, forgotten, reset and changed passwords share it, right or wrong; /me and its like do not."""
    limits = {**STRICT, "api": {"requests": 1000}, "auth": {"requests": 5}}
    async with running_gateway(mongodb_uri, rate_limits=limits) as gateway:
        account = await signed_in(gateway)
        for _ in range(10):
            for method, path in (("GET", "me"), ("GET", "verify")):
                assert (await account.send(method, f"/api/auth/{path}")).status_code == 200
        for _ in range(3):
            refreshed = await account.send("POST", "/api/auth/refresh")
            account = Account(gateway, account.user, refreshed.json()["token"])
            assert (await gateway.http.post("/api/auth/logout")).status_code == 200
        tries = (
            ("POST", "register"),
            ("POST", "login"),
            ("POST", "forgot-password"),
            ("PATCH", "reset-password/x"),
            ("PATCH", "password"),
        )
        counted = [await account.send(method, f"/api/auth/{path}", {}) for method, path in tries]
        assert [answer.status_code for answer in counted] == [400] * 5
        for method, path in tries:
            refused = await account.send(method, f"/api/auth/{path}", {})
            assert message_of(refused, 429, "RATE_LIMITED")
            assert refused.headers["ratelimit-limit"] == "5"
        assert (await account.send("GET", "/api/auth/me")).status_code == 200


async def test_development_is_ten_times_wider(mongodb_uri: str) -> None:
    """The specification's numbers hold in production; every one of them can be configured."""
    async with store(mongodb_uri) as opened:
        now = utc_now()
        expected = {"api": 100, "auth": 10, "chat": 50}
        for environment, factor in (("production", 1), ("development", 10)):
            limiter = RateLimiter(opened, Settings(environment=environment))
            for rule, requests in expected.items():
                window = await limiter.take(rule, environment, now)  # type: ignore[arg-type]
                assert window is not None
                assert (window.limit, window.seconds) == (requests * factor, 900)


async def test_a_window_begins_with_its_first_request(mongodb_uri: str) -> None:
    """After its seconds a window is over and the next one is whole."""
    async with limiter_for(mongodb_uri, api={"requests": 2, "seconds": 60}) as limiter:
        now = utc_now()

        async def take(after: float) -> tuple[int, bool, int]:
            window = await limiter.take("api", "somebody", now + timedelta(seconds=after))
            assert window is not None
            return window.remaining, window.is_over, round(window.resets_in)

        assert [await take(0), await take(20), await take(59)] == [
            (1, False, 60),
            (0, False, 40),
            (0, True, 1),
        ]
        assert [await take(60), await take(61)] == [(1, False, 60), (0, False, 59)]


async def test_counting_is_exact_under_concurrency(mongodb_uri: str) -> None:
    """Of sixty requests at once over two limiters exactly ten are within a limit of ten."""
    async with (
        limiter_for(mongodb_uri, chat={"requests": 10}) as one,
        limiter_for(mongodb_uri, chat={"requests": 10}) as two,
    ):
        now = utc_now()
        windows = await asyncio.gather(*(limiter.take("chat", "user", now) for limiter in (one, two) * 30))
        assert sorted(window.count for window in windows if window is not None) == list(range(1, 61))
        assert Counter(window.is_over for window in windows if window is not None) == {True: 50, False: 10}


async def waits(limiter: RateLimiter, account: str, address: str, now: datetime) -> float:
    """Try a password; return how long the try has to wait, 0 when it was admitted."""
    try:
        await limiter.begin_attempt(account, address, now)
    except RateLimited as exc:
        return exc.retry_after or 0
    return 0


async def test_tries_on_an_account_back_off(mongodb_uri: str) -> None:
    """After five free tries each next one waits twice as long, up to a minute; a success forgets them all."""
    async with limiter_for(mongodb_uri) as limiter:
        now = utc_now()
        assert [await waits(limiter, "asha", "a", now) for _ in range(7)] == [0] * 5 + [
            pytest.approx(1, abs=0.01)
        ] * 2
        delays = []
        for _ in range(9):
            delay = await waits(limiter, "asha", "a", now)
            delays.append(round(delay))
            now += timedelta(seconds=delay + 0.01)
            assert await waits(limiter, "asha", "a", now) == 0
        assert delays == [1, 2, 4, 8, 16, 32, LONGEST_BACK_OFF, LONGEST_BACK_OFF, LONGEST_BACK_OFF]
        await limiter.attempt_succeeded("asha", "a")
        assert [await waits(limiter, "asha", "a", now) for _ in range(5)] == [0] * 5


async def test_attackers_cannot_lock_the_owner_out(mongodb_uri: str) -> None:
    """However many addresses try, the owner's has a try at once; each of theirs soon has but one."""
    async with limiter_for(mongodb_uri, attack={"requests": 20}, account={"requests": 5}) as limiter:
        now = utc_now()
        for number in range(30):
            assert await waits(limiter, "asha", f"attacker-{number}", now) == 0
        again = [await waits(limiter, "asha", f"attacker-{number}", now) > 0 for number in range(20, 30)]
        assert again == [True] * 10
        assert await waits(limiter, "asha", "owner", now) == 0
        assert await waits(limiter, "ravi", "attacker-29", now) == 0


async def test_guessing_at_once_gains_nothing(mongodb_uri: str) -> None:
    """Twenty guesses at the same moment over two workers are five tries."""
    now = utc_now()

    def clock() -> datetime:
        return now

    limits = {**STRICT, "auth": {"requests": 1000}}
    async with (
        running_gateway(mongodb_uri, clock=clock, rate_limits=limits) as one,
        running_gateway(mongodb_uri, clock=clock, rate_limits=limits) as two,
    ):
        user = await user_with_password(one)
        guesses = [
            {"email": user.email.upper(), "password": f"guess number {number}"} for number in range(20)
        ]
        answers = await asyncio.gather(
            *(
                (one, two)[number % 2].http.post("/api/auth/login", json=guess)
                for number, guess in enumerate(guesses)
            )
        )
        assert Counter(answer.status_code for answer in answers) == {401: 5, 429: 15}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert (
            message_of(refused, 429, "RATE_LIMITED")
            == "Too many attempts on this account. Wait before you try again."
        )
        right = {"email": user.email, "password": PASSWORD}
        assert (await one.http.post("/api/auth/login", json=right)).status_code == 429
        now += timedelta(seconds=1.1)
        assert (await one.http.post("/api/auth/login", json=right)).status_code == 200
        assert (await two.http.post("/api/auth/login", json=right)).status_code == 200


@pytest.mark.usefixtures("production_timeouts")
async def test_without_a_database_comfort_is_open_and_passwords_are_not() -> None:
    """What cannot be counted is let pass or told to come again; an outage is noticed once a second, not for every rule."""
    loop = asyncio.get_running_loop()
    silent = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with silent, store(f"mongodb://127.0.0.1:{port}/none?directConnection=true") as opened:
        limiter, now = RateLimiter(opened, Settings()), utc_now()
        assert await limiter.take("api", "somebody", now) is None
        begun = loop.time()
        assert [await limiter.take("chat", "somebody", now) for _ in range(100)] == [None] * 100
        for _ in range(50):
            with pytest.raises(Unavailable):
                await limiter.take("auth", "somebody", now)
        with pytest.raises(Unavailable):
            await limiter.begin_attempt("asha", "a", now)
        assert loop.time() - begun < 0.5
        await limiter.attempt_succeeded("asha", "a")


@pytest.mark.usefixtures("production_timeouts")
async def test_a_crowd_of_guesses_gains_nothing(mongodb_uri: str) -> None:
    """Of six hundred guesses at once no more are checked than are allowed one by one, and none once they are refused."""
    limits = {**STRICT, "api": {"requests": 100_000}}
    async with running_gateway(mongodb_uri, rate_limits=limits) as gateway:
        user = await user_with_password(gateway)
        # Without the client's own limit of connections, which would let but a hundred in at once.
        transport = AiohttpTransport(trust_env=False, limits=httpx.Limits(max_connections=None))
        async with httpx.AsyncClient(base_url=gateway.base_url, transport=transport, timeout=60) as crowd:
            for checked in (gateway.parts.settings.rate_limits.auth.requests, 0):
                guesses = [{"email": user.email, "password": f"guess {number}"} for number in range(600)]
                answers = await asyncio.gather(
                    *(crowd.post("/api/auth/login", json=guess) for guess in guesses)
                )
                refused = [answer for answer in answers if answer.status_code != 401]
                assert len(answers) - len(refused) <= checked
                for answer in refused:
                    assert answer.status_code in (429, 503)
                    assert message_of(answer, answer.status_code)


async def test_what_is_over_is_not_asked_for_again(mongodb_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window is known to be over until it ends, whatever becomes of its counter; so much is known, and no more."""
    monkeypatch.setattr(ratelimit, "MOST_REMEMBERED", 3)
    async with (
        limiter_for(mongodb_uri, api={"requests": 1, "seconds": 60}) as limiter,
        store(mongodb_uri) as opened,
    ):
        now = utc_now()

        async def is_over(subject: str, after: float = 0) -> bool:
            window = await limiter.take("api", subject, now + timedelta(seconds=after))
            assert window is not None
            return window.is_over

        assert [await is_over("a"), await is_over("a")] == [False, True]
        await opened["ratelimits"].delete_many({})
        assert await is_over("a", 59)
        assert not await is_over("a", 60)
        for subject in "bcde":
            assert [await is_over(subject), await is_over(subject)] == [False, True]
        assert list(limiter._over) == ["api:c", "api:d", "api:e"]
        assert await is_over("b")


async def test_counters_are_forgotten_and_name_nobody(mongodb_uri: str) -> None:
    """The database deletes windows that are over, and no counter holds an e-mail address."""
    async with limiter_for(mongodb_uri) as limiter, store(mongodb_uri) as opened:
        await limiter.begin_attempt("asha@example.com", "a", utc_now())
        # What is counted waits for no majority, so neither does who looks at once.
        there = opened.get_collection("ratelimits", read_concern=ReadConcern("local"))
        counters = await there.find().to_list()
        assert len(counters) == 2
        assert "asha" not in str(counters)
        assert all(isinstance(counter["until"], datetime) for counter in counters)
        indexes = await opened["ratelimits"].index_information()
        assert indexes["expiry"]["expireAfterSeconds"] == 0


@pytest.mark.parametrize(
    ("address", "subject"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("", ""),
    ],
)
def test_an_ipv6_customer_is_one_subject(address: str, subject: str) -> None:
    """Whoever has a whole IPv6 network does not have a limit for each of its addresses."""
    assert subject_of(address) == subject
