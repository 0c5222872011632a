"""Mails leave in the background: nobody waits for a mail server, and a slow one cannot pile up work.

Without `SMTP_URL` a mail is printed to the log in development; in production it is not sent, and the log says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import make_msgid
from typing import Any
from urllib.parse import unquote, urlsplit

import aiosmtplib
import structlog

from admin_api.auth.emails import parse_email
from proxy import background
from proxy.settings import Settings

MOST_WAITING = 100
TIMEOUT_SECONDS = 15.0
_ATTEMPTS = 3
_PAUSE_SECONDS = 2.0
_LAST_MAILS_SECONDS = 3.0
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Mail:
    """A plain-text message to one person."""

    to: str
    subject: str
    text: str


class Mailer:
    """The queue of mails, and the one task that sends them."""

    def __init__(self, settings: Settings) -> None:
        """Send nothing before `start`."""
        self._settings = settings
        self._queue: asyncio.Queue[Mail] = asyncio.Queue(MOST_WAITING)
        self._sender: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._sender = asyncio.create_task(self._send_for_ever(), name="mails")

    async def stop(self) -> None:
        """Give what waits a last moment, then end."""
        if self._sender is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._queue.join(), _LAST_MAILS_SECONDS)
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)

    def send(self, mail: Mail) -> None:
        """Take a mail to be sent, or drop it with a line in the log when too many wait."""
        try:
            self._queue.put_nowait(mail)
        except asyncio.QueueFull:
            log.warning("a mail was dropped, too many wait", subject=mail.subject)

    async def _send_for_ever(self) -> None:
        while True:
            mail = await self._queue.get()
            try:
                await background.survived("sending a mail", self._deliver(mail))
            finally:
                self._queue.task_done()

    async def _deliver(self, mail: Mail) -> None:
        if self._settings.smtp_url is None:
            if self._settings.is_production:
                log.warning("a mail was not sent: SMTP_URL is not set", subject=mail.subject)
            else:
                words = " ".join(mail.text.split())  # one line, from which the link can be copied
                log.info("a mail, printed because SMTP_URL is not set", to=mail.to, text=words)
            return
        try:
            await self._send(mail, self._message(mail), _server(self._settings.smtp_url))
        except ValueError as exc:
            log.warning("a mail cannot be written", subject=mail.subject, cause=str(exc))

    async def _send(self, mail: Mail, message: EmailMessage, server: Mapping[str, Any]) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                # The recipient is said and not read from the message, where an address may be written otherwise.
                await aiosmtplib.send(message, recipients=[mail.to], **server)
            except (aiosmtplib.SMTPException, OSError) as exc:
                log.warning("a mail could not be sent", attempt=attempt, cause=type(exc).__name__)
                await asyncio.sleep(_PAUSE_SECONDS * (attempt < _ATTEMPTS))
            else:
                return
        log.error("a mail was given up", subject=mail.subject)

    def _message(self, mail: Mail) -> EmailMessage:
        """Write a mail; raise `ValueError` when that cannot be done, or not to exactly this address."""
        if parse_email(mail.to) != mail.to:  # stored under older rules: no header is sure to hold it as it is
            raise ValueError("the recipient's address is none of ours")
        local, _, domain = mail.to.rpartition("@")
        message = EmailMessage()
        message["From"] = self._settings.mail_from
        message["To"] = Address(username=local, domain=domain)
        message["Subject"] = mail.subject
        message["Message-ID"] = make_msgid(domain="aipasta")
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text)
        return message


def _server(url: str) -> dict[str, Any]:
    """Read a mail server's URL as aiosmtplib's arguments.

    Over `smtp://` TLS is begun where the server offers it, and demanded before a password leaves this machine.
    """
    parts = urlsplit(url)
    is_local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    return {
        "hostname": parts.hostname,
        "port": parts.port or (465 if parts.scheme == "smtps" else 587 if parts.username else 25),
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "use_tls": parts.scheme == "smtps",
        "start_tls": True if parts.scheme == "smtp" and parts.username and not is_local else None,
        "timeout": TIMEOUT_SECONDS,
    }
