"""Tests of admin_api/mail.py, with real mail servers on sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from admin_api.auth.emails import parse_email
from admin_api.mail import MOST_WAITING, Mail, Mailer
from proxy.settings import Settings


def parsed(typed: str) -> str | None:
    """Return an address as it is stored, or `None` when it is none."""
    try:
        return parse_email(typed)
    except ValueError:
        return None


ENCODED_WORDS = [
    "=?utf-8?q??=@example.com",
    "=?utf-8?q?asha?=@example.com",
    "=?utf-8?q?other=40example.net=2c?=@example.com",
    "=?utf-8?q?=ff?=@example.com",
]
LOCAL_PARTS = st.text("abq8=?.+'_-", min_size=1, max_size=30) | st.text(min_size=1, max_size=10)
TYPED = st.builds("{}@{}".format, LOCAL_PARTS, st.sampled_from(["example.com", "b" * 60 + ".example.com"]))


class Recorder:
    """A mail server's handler that answers DATA as told and keeps what it took."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.taken: list[Any] = []
        self.arrived = asyncio.Event()

    async def handle_DATA(self, _server: SMTP, _session: Any, envelope: Any) -> str:  # noqa: N802  aiosmtpd's name
        answer = self.answers.pop(0) if self.answers else "250 taken"
        if answer.startswith("250"):
            self.taken.append(envelope)
            self.arrived.set()
        return answer


@asynccontextmanager
async def serving(factory: Callable[[], asyncio.Protocol]) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def mailer(**settings: Any) -> AsyncIterator[Mailer]:
    made = Mailer(Settings(mail_from="AI Pasta <no-reply@example.com>", **settings))
    made.start()
    try:
        yield made
    finally:
        await made.stop()


async def test_a_mail_arrives() -> None:
    """Sender, recipient, subject and every letter of the text are what was meant."""
    recorder = Recorder()
    async with serving(lambda: SMTP(recorder)) as port, mailer(smtp_url=f"smtp://127.0.0.1:{port}") as sender:
        sender.send(Mail("asha@example.com", "Grüße", "Ein Link:\nhttps://app.example.com/x?y=z\n"))
        await asyncio.wait_for(recorder.arrived.wait(), 10)
        (envelope,) = recorder.taken
        assert (envelope.mail_from, envelope.rcpt_tos) == ("no-reply@example.com", ["asha@example.com"])
        assert b"https://app.example.com/x?y=3Dz" in envelope.content or b"x?y=z" in envelope.content
        assert b"From: AI Pasta <no-reply@example.com>" in envelope.content


@given(st.lists(TYPED, min_size=20, max_size=40))
@example(ENCODED_WORDS)
@settings(max_examples=settings().max_examples // 5, deadline=None, phases=[Phase.explicit, Phase.generate])
async def test_a_mail_goes_to_the_stored_address(typed: list[str]) -> None:
    """Whatever passes for an address is the one recipient, letter by letter, in the envelope and in the mail."""
    recorder = Recorder()
    addresses = [*filter(None, map(parsed, typed)), "last@example.com"]
    async with (
        serving(lambda: SMTP(recorder, enable_SMTPUTF8=True)) as port,
        mailer(smtp_url=f"smtp://127.0.0.1:{port}") as sender,
    ):
        for address in addresses:
            sender.send(Mail(address, "x", "y"))
        await asyncio.wait_for(sender._queue.join(), 60)
    assert [envelope.rcpt_tos for envelope in recorder.taken] == [[address] for address in addresses]
    for address, envelope in zip(addresses, recorder.taken, strict=True):
        header = envelope.content.partition(b"Subject: ")[0].partition(b"To:")[2]
        assert header.strip() == address.encode()


async def test_a_refusal_is_tried_again() -> None:
    """A server that cannot take a mail now gets it a little later."""
    recorder = Recorder("451 not now")
    async with serving(lambda: SMTP(recorder)) as port, mailer(smtp_url=f"smtp://127.0.0.1:{port}") as sender:
        sender.send(Mail("asha@example.com", "x", "y"))
        await asyncio.wait_for(recorder.arrived.wait(), 10)
        assert len(recorder.taken) == 1


async def test_user_and_password_are_shown_to_the_server() -> None:
    """They come from the URL, where they are percent-encoded."""
    recorder, seen = Recorder(), []

    def check(_server: SMTP, _session: Any, _envelope: Any, _mechanism: str, given: Any) -> AuthResult:
        seen.append((given.login, given.password))
        return AuthResult(success=True)

    def server() -> SMTP:
        return SMTP(recorder, authenticator=check, auth_require_tls=False, auth_required=True)

    async with (
        serving(lambda: quiet(server)) as port,
        mailer(smtp_url=f"smtp://us%40er:p%3Aw@127.0.0.1:{port}") as sender,
    ):
        sender.send(Mail("asha@example.com", "x", "y"))
        await asyncio.wait_for(recorder.arrived.wait(), 10)
    assert seen == [(b"us@er", b"p:w")]


def quiet(factory: Callable[[], SMTP]) -> SMTP:
    """Make a server whose insecure set-up is meant."""
    with pytest.warns(UserWarning, match="Requiring AUTH"):
        return factory()


async def test_nobody_waits_for_a_slow_server() -> None:
    """Handing in returns at once; what is too much is dropped, and the end does not wait for it."""

    class Silent(asyncio.Protocol):
        """Takes a connection and never says a word."""

    async with serving(Silent) as port:
        made = Mailer(Settings(smtp_url=f"smtp://127.0.0.1:{port}"))
        made.start()
        await asyncio.sleep(0)
        for number in range(MOST_WAITING + 20):
            made.send(Mail("asha@example.com", str(number), "y"))
        assert made._queue.qsize() == MOST_WAITING
        await asyncio.wait_for(made.stop(), 10)
        assert made._sender is not None
        assert made._sender.done()


async def test_a_mail_that_cannot_be_written_harms_no_other() -> None:
    """A line break in a subject, or an address that reads as another one in a header: given up, and the next leaves."""
    recorder = Recorder()
    async with (
        serving(lambda: SMTP(recorder, enable_SMTPUTF8=True)) as port,
        mailer(smtp_url=f"smtp://127.0.0.1:{port}") as sender,
    ):
        sender.send(Mail("asha@example.com", "x\nBcc: all@example.com", "y"))
        for address in (
            *ENCODED_WORDS,
            "asha",
            '"asha r"@example.com',
            "asha@example.com, other@example.com",
        ):
            sender.send(Mail(address, "x", "y"))
        sender.send(Mail("asha@example.com", "next", "y"))
        await asyncio.wait_for(recorder.arrived.wait(), 15)
        assert [b"Subject: next" in envelope.content for envelope in recorder.taken] == [True]
        assert recorder.taken[0].rcpt_tos == ["asha@example.com"]
