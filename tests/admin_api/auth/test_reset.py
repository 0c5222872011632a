"""Tests of admin_api/auth/reset.py, with a real mail server on a socket."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from email import message_from_bytes
from email.message import Message
from typing import Any

import httpx
import pytest
from aiosmtpd.smtp import SMTP

from proxy.clock import utc_now
from proxy.documents import User
from proxy.settings import ProviderSettings
from tests.admin_api.accounts import NEW_PASSWORD, is_good, message_of, signed_in, user_with_password
from tests.gateway import PASSWORD, RunningGateway, running_gateway

DEMO = ProviderSettings(plugin="demo")
FRONTEND = "https://app.example.com"


class Mailbox:
    """Takes every mail that is handed in."""

    def __init__(self) -> None:
        self.mails: asyncio.Queue[tuple[list[str], Message]] = asyncio.Queue()

    async def handle_DATA(self, _server: SMTP, _session: Any, envelope: Any) -> str:  # noqa: N802  aiosmtpd's name
        self.mails.put_nowait((list(envelope.rcpt_tos), message_from_bytes(envelope.content)))
        return "250 taken"

    async def next_link(self) -> tuple[str, str]:
        """Wait for a mail and return whom it went to and the token in its link."""
        recipients, mail = await asyncio.wait_for(self.mails.get(), 10)
        text = mail.get_payload(decode=True)
        assert isinstance(text, bytes)
        found = re.search(rf"{FRONTEND}/reset-password/(\S+)", text.decode())
        assert found is not None, text
        return recipients[0], found[1]


@asynccontextmanager
async def mail_server() -> AsyncIterator[tuple[Mailbox, str]]:
    """Run a mail server in the test's loop; yield its mailbox and its URL."""
    mailbox, loop = Mailbox(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(mailbox, loop=loop, hostname="mail"), "127.0.0.1", 0)
    try:
        yield mailbox, f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def forgot(gateway: RunningGateway, email: str, **headers: str) -> httpx.Response:
    return await gateway.http.post("/api/auth/forgot-password", json={"email": email}, headers=headers)


async def reset(gateway: RunningGateway, token: str, password: str = NEW_PASSWORD) -> httpx.Response:
    return await gateway.http.patch(f"/api/auth/reset-password/{token}", json={"password": password})


async def test_a_forgotten_password(mongodb_uri: str) -> None:
    """The mailed link sets a new password once, ends every session, and signs in; only its hash is stored."""
    async with (
        mail_server() as (mailbox, url),
        running_gateway(mongodb_uri, smtp_url=url, frontend_url=FRONTEND) as gateway,
    ):
        account = await signed_in(gateway)
        poisoned = {
            "host": "evil.example",
            "x-forwarded-host": "evil.example",
            "origin": "https://evil.example",
        }
        assert (await forgot(gateway, account.user.email.upper(), **poisoned)).status_code == 200
        recipient, token = await mailbox.next_link()
        assert recipient == account.user.email
        assert len(token) >= 43
        stored = await account.stored()
        assert stored is not None
        assert token not in str(stored)
        assert stored["passwordReset"]["digest"] == hashlib.sha256(token.encode()).hexdigest()
        assert await is_good(gateway, account.token)

        assert "password: " in message_of(await reset(gateway, token, "short"), 400, "VALIDATION_ERROR")
        response = await reset(gateway, token)
        assert response.status_code == 200, response.text
        assert await is_good(gateway, response.json()["token"])
        assert not await is_good(gateway, account.token)
        used = await reset(gateway, token)
        assert message_of(used, 400, "INVALID_RESET_TOKEN") == "Token is invalid or has expired"
        for password, status in ((PASSWORD, 401), (NEW_PASSWORD, 200)):
            body = {"email": account.user.email, "password": password}
            assert (await gateway.http.post("/api/auth/login", json=body)).status_code == status


async def test_a_link_is_for_one_of_two(mongodb_uri: str) -> None:
    """Two uses at the same moment set one password; a new link voids the older one."""
    async with (
        mail_server() as (mailbox, url),
        running_gateway(mongodb_uri, smtp_url=url, frontend_url=FRONTEND) as gateway,
    ):
        user = await user_with_password(gateway)
        await forgot(gateway, user.email)
        _, older = await mailbox.next_link()
        await forgot(gateway, user.email)
        _, token = await mailbox.next_link()
        assert message_of(await reset(gateway, older), 400)
        answers = await asyncio.gather(
            reset(gateway, token, "first of two"), reset(gateway, token, "second of two")
        )
        assert sorted(answer.status_code for answer in answers) == [200, 400]


async def test_a_link_ends_by_itself_and_with_the_account(mongodb_uri: str) -> None:
    """After half an hour, a password change or a deactivation the link is worth nothing."""
    now = utc_now()

    def clock() -> datetime:
        return now

    async with (
        mail_server() as (mailbox, url),
        running_gateway(mongodb_uri, clock=clock, smtp_url=url, frontend_url=FRONTEND) as gateway,
    ):
        account = await signed_in(gateway)
        await forgot(gateway, account.user.email)
        _, late = await mailbox.next_link()
        now += timedelta(minutes=30, seconds=1)
        assert message_of(await reset(gateway, late), 400)

        await forgot(gateway, account.user.email)
        _, overtaken = await mailbox.next_link()
        wish = {"currentPassword": PASSWORD, "newPassword": "yet another one"}
        assert (await account.send("PATCH", "/api/auth/password", wish)).status_code == 200
        assert message_of(await reset(gateway, overtaken), 400)

        await forgot(gateway, account.user.email)
        _, inactive = await mailbox.next_link()
        await account.user.update({"$set": {"isActive": False}})
        assert message_of(await reset(gateway, inactive), 400)


async def test_nobody_learns_who_has_an_account(mongodb_uri: str) -> None:
    """Unknown, deactivated and known addresses get the same answer; only the known one gets a mail, at its own address."""
    async with (
        mail_server() as (mailbox, url),
        running_gateway(mongodb_uri, smtp_url=url, frontend_url=FRONTEND) as gateway,
    ):
        inactive = await gateway.user(isActive=False)
        user = await gateway.user()
        await user.update({"$set": {"email": "ashar@gmail.com"}})
        addresses = ("nobody@example.com", inactive.email, "Asha.R+tag@gmail.com")
        answers = [await forgot(gateway, address) for address in addresses]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert (await mailbox.next_link())[0] == "ashar@gmail.com"
        await asyncio.sleep(0.1)
        assert mailbox.mails.empty()


async def test_of_two_with_one_address_each_gets_his_own_link(mongodb_uri: str) -> None:
    """Where a stranger has got the form that a user types, each mail goes to its account's own address and resets that."""
    async with (
        mail_server() as (mailbox, url),
        running_gateway(mongodb_uri, smtp_url=url, frontend_url=FRONTEND) as gateway,
    ):
        accounts = {"asharao@gmail.com": await gateway.user(), "asha.rao@gmail.com": await gateway.user()}
        for email, user in accounts.items():
            await user.update({"$set": {"email": email}})
        await forgot(gateway, "Asha.Rao@Gmail.com")
        links = dict([await mailbox.next_link(), await mailbox.next_link()])
        assert links.keys() == accounts.keys()
        for email, token in links.items():
            answer = await reset(gateway, token)
            assert answer.json()["data"]["user"]["_id"] == str(accounts[email].id)


async def test_an_account_gets_few_mails(mongodb_uri: str) -> None:
    """Nobody can fill a mailbox: after the third request the answer stays the same and no mail leaves."""
    limits = {"development_factor": 1, "auth": {"requests": 100}}
    async with (
        mail_server() as (mailbox, url),
        running_gateway(mongodb_uri, smtp_url=url, frontend_url=FRONTEND, rate_limits=limits) as gateway,
    ):
        user = await gateway.user()
        answers = [await forgot(gateway, user.email) for _ in range(6)]
        assert {answer.content for answer in answers} == {answers[0].content}
        for _ in range(3):
            await mailbox.next_link()
        await asyncio.sleep(0.1)
        assert mailbox.mails.empty()


async def test_without_a_mail_server(mongodb_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In development the mail is printed; in production it is not sent, the log warns, and the answer is the same."""
    answers = []
    for environment, words in (("development", "/reset-password/"), ("production", "SMTP_URL is not set")):
        async with running_gateway(
            mongodb_uri, {"demo": DEMO}, environment=environment, frontend_url=FRONTEND
        ) as gateway:
            user = await gateway.user()
            answers.append((await forgot(gateway, user.email)).content)
            await asyncio.sleep(0.1)
            printed = capsys.readouterr().out
            assert words in printed
            assert ("/reset-password/" in printed) == (environment == "development")
            assert await User.find(User.passwordReset.digest != None).count() >= 1  # type: ignore[union-attr]  # noqa: E711  Beanie's query
    assert answers[0] == answers[1]


async def test_bad_tokens(mongodb_uri: str) -> None:
    """Any text in the place of the token is a 400, however long or strange."""
    async with running_gateway(mongodb_uri) as gateway:
        for token in ("x", "%00", "%24ne", "x" * 3000, "%ED%A0%80", "..%2f"):
            response = await reset(gateway, token)
            assert response.status_code in (400, 404), token
            assert message_of(response, response.status_code)
