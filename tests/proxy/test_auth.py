"""Tests of proxy/auth.py: a key is refused only when we know that it is wrong, and within a second of that."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest
from pymongo.errors import NetworkTimeout, PyMongoError

from proxy import auth, security
from proxy.auth import FRESH_SECONDS, Authenticator, Caller
from proxy.clock import utc_now
from proxy.core.limits import UserLimits
from proxy.core.routing import Role
from proxy.database import lost
from proxy.documents import ApiKeyDocument, User
from proxy.errors import PermissionDenied, Unavailable
from proxy.limits import Limits
from proxy.mongod import embedded_mongod
from tests.gateway import RunningGateway, running_gateway
from tests.proxy.test_errors import assert_openai_error

ASK = {"model": "demo/echo", "messages": [{"role": "user", "content": "hi"}]}


async def status_with(gateway: RunningGateway, key: str) -> int:
    return (await gateway.chat(key, ASK)).status_code


async def test_what_is_no_key_is_refused_without_the_database(mongodb_uri: str) -> None:
    """A missing, malformed or mistyped key, and one of another scheme, is 401 and costs no database command."""
    async with running_gateway(mongodb_uri) as gateway:
        key = await gateway.key()
        mistyped = key[:20] + ("A" if key[20] != "A" else "B") + key[21:]
        await gateway.parts.database.command("profile", 2)
        cases: list[tuple[bytes | None, str]] = [
            (None, "missing_api_key"),
            (b"", "missing_api_key"),
            (b"Bearer", "missing_api_key"),
            (b"Bearer  ", "missing_api_key"),
            (b"Basic " + key.encode(), "missing_api_key"),
            (key.encode(), "missing_api_key"),
            (b"Bearer sk-or-v1-0123456789", "invalid_api_key"),
            (b"Bearer " + mistyped.encode(), "invalid_api_key"),
            (b"Bearer " + key.encode()[:-1], "invalid_api_key"),
            (b"Bearer " + key.encode() + b"x", "invalid_api_key"),
            (b"Bearer " + key.encode()[:-2] + "é".encode(), "invalid_api_key"),
            (b"Bearer " + key.encode()[:-1] + b"\xe9", "invalid_api_key"),
            (b"Bearer " + key.encode()[:10] + b"\xff" + key.encode()[11:], "invalid_api_key"),
            (b"Bearer " + b"x" * 5000, "invalid_api_key"),
        ]
        for sent, code in cases:
            headers = [] if sent is None else [(b"authorization", sent)]
            response = await gateway.http.post("/v1/chat/completions", json=ASK, headers=headers)
            error = assert_openai_error(response, 401, code)
            assert error["type"] == "authentication_error"
            assert response.headers["www-authenticate"] == "Bearer"
        names = f"{gateway.parts.database.name}.(apikeys|users|accounts|usageevents)"
        profile = gateway.parts.database["system.profile"]
        assert await profile.count_documents({"ns": {"$regex": names}}) == 0
        assert await status_with(gateway, key) == 200
        assert await profile.count_documents({"ns": {"$regex": names}}) > 0
        await gateway.parts.database.command("profile", 0)


async def test_the_scheme_is_read_as_http_says(mongodb_uri: str) -> None:
    """`bearer` in any case, and blanks around the key, are fine."""
    async with running_gateway(mongodb_uri) as gateway:
        key = await gateway.key()
        for value in (f"bearer {key}", f"BEARER   {key}  "):
            headers = {"authorization": value}
            response = await gateway.http.post("/v1/chat/completions", json=ASK, headers=headers)
            assert response.status_code == 200


async def test_a_change_counts_within_a_second(mongodb_uri: str) -> None:
    """Revoking a key, deactivating or deleting its owner and taking his role away work within a second."""
    async with running_gateway(mongodb_uri) as gateway:
        users = [await gateway.user() for _ in range(3)]
        keys = [await gateway.key(user) for user in users]
        assert [await status_with(gateway, key) for key in keys] == [200, 200, 200]
        documents = ApiKeyDocument.get_pymongo_collection()
        await documents.update_one({"userId": users[0].id}, {"$set": {"isActive": False}})
        await users[1].update({"$set": {"isActive": False}})
        await users[2].delete()
        await asyncio.sleep(FRESH_SECONDS)
        assert [await status_with(gateway, key) for key in keys] == [401, 401, 401]
        await users[1].update({"$set": {"isActive": True}})
        await asyncio.sleep(FRESH_SECONDS)
        assert await status_with(gateway, keys[1]) == 200
        assert await gateway.parts.database["users"].count_documents({}) == 2


async def test_a_key_expires_on_its_moment(mongodb_uri: str) -> None:
    """An expired key is refused at once, also while it is remembered."""
    now = [datetime(2026, 11, 23, 12, tzinfo=UTC)]
    async with running_gateway(mongodb_uri, clock=lambda: now[0]) as gateway:
        key = await gateway.key(expiresIn="30d")
        await ApiKeyDocument.get_pymongo_collection().update_one(
            {"digest": security.key_digest(key)}, {"$set": {"expiresAt": now[0] + timedelta(hours=1)}}
        )
        assert await status_with(gateway, key) == 200
        now[0] += timedelta(minutes=59, seconds=59)
        assert await status_with(gateway, key) == 200
        now[0] += timedelta(seconds=1)
        assert await status_with(gateway, key) == 401


async def test_many_requests_ask_once(mongodb_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred requests at once with one key look it up once, and note its use once a minute."""
    monkeypatch.setattr(
        auth, "_REFRESH_SECONDS", 3600.0
    )  # the look at every key in use, which is no request's
    async with running_gateway(mongodb_uri) as gateway:
        key = await gateway.key()
        await gateway.parts.database.command("profile", 2)
        answers = await asyncio.gather(*(gateway.chat(key, b"{}") for _ in range(100)))
        assert {answer.status_code for answer in answers} == {400}
        await gateway.parts.database.command("profile", 0)
        profile, name = gateway.parts.database["system.profile"], gateway.parts.database.name
        assert await profile.count_documents({"ns": f"{name}.apikeys", "op": "command"}) == 1
        assert await profile.count_documents({"ns": f"{name}.apikeys", "op": "update"}) <= 1
        (document,) = await ApiKeyDocument.find_all().to_list()
        assert document.lastUsed is not None


@contextmanager
def frozen(data_dir: Path) -> Iterator[None]:
    """Stop a database server without ending it: connections stay open, and nothing answers."""
    pid = int((data_dir / "mongodb" / "data" / "mongod.lock").read_text())
    os.kill(pid, signal.SIGSTOP)
    # It is on its way to every thread, and one that it has not reached yet would answer.
    while not all(map(is_stopped, Path(f"/proc/{pid}/task").iterdir())):
        time.sleep(0.001)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def is_stopped(thread: Path) -> bool:
    """Say whether a thread is stopped by a signal; one that is no more does nothing either."""
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def becomes(gateway: RunningGateway, path: str, status: int) -> None:
    """Wait until a path answers with a status."""
    async with asyncio.timeout(30):
        while (await gateway.http.get(path)).status_code != status:  # noqa: ASYNC110  the server is asked
            await asyncio.sleep(0.05)


@pytest.mark.long
@pytest.mark.usefixtures("production_timeouts")
async def test_a_frozen_database_is_503_and_never_401(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database does not answer, a key that nobody knows of is 503 when our patience ends; then all is well."""
    causes: list[PyMongoError] = []

    def noted(cause: PyMongoError) -> Unavailable:
        causes.append(cause)
        return lost(cause)

    monkeypatch.setattr(auth, "lost", noted)
    with embedded_mongod(tmp_path) as mongod:
        async with running_gateway(mongod.uri, metering="direct") as gateway:
            keys = [await gateway.key() for _ in range(3)]
            with frozen(tmp_path):
                answers = await asyncio.gather(*(gateway.chat(key, ASK) for key in keys for _ in range(3)))
                for answer in answers:
                    assert_openai_error(answer, 503, "service_unavailable")
                    assert answer.headers["retry-after"] == "2"
                assert causes
                assert all(cause.timeout for cause in causes)
                for path in ("/health", "/health/ready"):
                    await becomes(gateway, path, 503)
                # What is no key at all needs no database to be refused.
                assert await status_with(gateway, "aipasta_nonsense") == 401
                # A client that does not wait leaves nothing behind that complains.
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await gateway.chat(keys[0], ASK)
                await asyncio.sleep(1.6)
            async with asyncio.timeout(30):
                while await status_with(gateway, keys[0]) != 200:  # noqa: ASYNC110  the server is asked
                    await asyncio.sleep(0.05)
            assert [await status_with(gateway, key) for key in keys] == [200, 200, 200]
            await becomes(gateway, "/health", 200)
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_one_failure_answers_everybody_who_waits() -> None:
    """Whose key comes while others are read is not read after them when that fails: he would wait twice as long."""
    authenticator = Authenticator(Limits(), clock=utc_now)
    reads: list[Sequence[str]] = []
    begins, gives_up = asyncio.Event(), asyncio.Event()

    async def read(digests: Sequence[str]) -> NoReturn:
        reads.append(digests)
        begins.set()
        await gives_up.wait()
        raise NetworkTimeout("nobody answers")

    authenticator._read_again = read  # type: ignore[method-assign]

    def ask() -> asyncio.Task[Caller]:
        authorization = f"Bearer {security.new_api_key().secret}"
        return asyncio.create_task(authenticator.caller(authorization, "127.0.0.1"))

    first = ask()
    await begins.wait()
    others = [ask(), ask()]
    await asyncio.sleep(0)
    gives_up.set()
    outcomes = await asyncio.gather(first, *others, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    assert [len(digests) for digests in reads] == [1]


async def test_limits_of_a_user_are_his_own_or_his_roles(mongodb_uri: str) -> None:
    """An admin's limit wins where there is one, be it 0; the role's default holds for the rest."""
    async with running_gateway(mongodb_uri) as gateway:
        authenticator = Authenticator(Limits(), clock=gateway.parts.clock)
        user: User = await gateway.user(Role.PREMIUM, usageLimits={"dailyRequests": 0})
        assert authenticator.limits_of(user) == UserLimits(0, 5_000, 500_000)
        caller = await gateway.parts.authenticator.caller(f"Bearer {await gateway.key(user)}", "127.0.0.1")
        assert (caller.user_id, caller.role, caller.limits) == (
            str(user.id),
            Role.PREMIUM,
            UserLimits(0, 5_000, 500_000),
        )


async def test_a_permission_is_required(mongodb_uri: str) -> None:
    """A caller without a permission is told which."""
    async with running_gateway(mongodb_uri) as gateway:
        authenticator = gateway.parts.authenticator
        key = f"Bearer {await gateway.key(permissions=['chat'])}"
        caller = await authenticator.caller(key, "127.0.0.1", permission="chat")
        assert caller.permissions == {"chat"}
        with pytest.raises(PermissionDenied, match="models"):
            await authenticator.caller(key, "127.0.0.1", permission="models")
