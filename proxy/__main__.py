"""The command line: `serve`, and the few things that an operator does without a browser.

A problem that the operator can mend is one line and exit status 1, never a stack trace.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import getpass
import os
import secrets
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError
from pymongo.errors import PyMongoError

from admin_api import audit, documents, migration
from admin_api.auth import service as accounts
from admin_api.auth.hashing import PasswordHasher
from admin_api.users import service as keys
from admin_api.users.schemas import NewApiKey
from plugins.registry import PluginError
from proxy import database, logs, metrics
from proxy.core.routing import Role
from proxy.database import Database, DatabaseError
from proxy.doctor import Doctor, Finding, Verdict
from proxy.documents import SHARED, User
from proxy.errors import GatewayError
from proxy.listener import allow_connections, check_address, listen
from proxy.metering.journal import JournalError
from proxy.metering.verify import Drift, verify
from proxy.mongod import EmbeddedMongod, MongodError, embedded_mongod
from proxy.relay import Relay
from proxy.server import App, create_app, endpoints, utc_now
from proxy.serving import run
from proxy.settings import Settings, SettingsError, load
from proxy.workers import Post, Workers

_MOST_KEYS = 1_000


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)

    def command() -> int:
        settings = load()
        logs.configure(settings.log_level, settings.secrets())
        status: int = options.command(settings, options)
        return status

    return _reporting(command)


def _reporting(command: Callable[[], int]) -> int:
    """Do something, and turn what the operator can mend into one line."""
    try:
        return command()
    except (SettingsError, MongodError, DatabaseError, JournalError, PluginError, GatewayError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except PyMongoError as exc:
        print(f"error: the database went away: {' '.join(str(exc).split())[:200]}", file=sys.stderr)
    except ValidationError as exc:
        reasons = ", ".join(item["msg"].removeprefix("Value error, ") for item in exc.errors())
        print(f"error: {reasons}", file=sys.stderr)
    return 1


def serve(settings: Settings, _options: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    check_address(settings)
    allow_connections()
    with _mongodb(settings) as (uri, embedded):
        if settings.workers == 1:
            app = create_app(settings, uri, embedded=embedded)
            app.after_server_start(_announce(settings, embedded))
            app.after_server_start(_spare_the_collector)
            run(app, listen(settings), settings)
            return 0
        with TemporaryDirectory(prefix="aipasta-metrics-") as folder:
            work = partial(_serve_as_worker, settings, (uri, embedded), Path(folder))
            shared_port = settings.port if settings.reuse_port else None
            return Workers(
                work, settings.workers, drain_seconds=settings.drain_seconds, shared_port=shared_port
            ).run()


def _serve_as_worker(
    settings: Settings,
    database_at: tuple[str, EmbeddedMongod | None],
    folder: Path,
    post: Post,
) -> int:
    """Serve as one of several workers; the first one says so."""
    uri, embedded = database_at
    metrics.share(folder, post.number)

    def work() -> int:
        app = create_app(settings, uri, embedded=embedded, metrics=metrics.Metrics(folder))
        if post.is_first:
            app.after_server_start(_announce(settings, embedded))
        app.after_server_start(_spare_the_collector)
        run(app, listen(settings), settings, parent=post.line)
        return 0

    return _reporting(work)


async def _spare_the_collector(_app: App) -> None:
    """Look for cycles of garbage seldom, and never among what stays: a tenth of a request's CPU went into that.

    A request leaves hardly any cycle behind; what does is found all the same, twenty thousand objects later.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def create_key(settings: Settings, options: argparse.Namespace) -> int:
    """Make an API key for a user and print it."""

    async def create(_store: Database) -> None:
        user = await User.find_one(User.email == options.email.strip().lower())
        if user is None or user.id is None:
            raise SettingsError(f"no user has the e-mail {options.email}")
        wish = NewApiKey(name=options.name, expiresIn="never", allowedIps=options.allow_ip)
        secret, key = await keys.create_api_key(user.id, wish, most=_MOST_KEYS, now=utc_now())
        await audit.record_of_operator("operator.key_created", target=str(key.id), now=utc_now())
        print(secret)

    return _with_database(settings, create)


def create_admin(settings: Settings, options: argparse.Namespace) -> int:
    """Make an account with the role admin, or give the role to the one that exists."""

    async def create(_store: Database) -> None:
        existing = await User.find_one(User.email == options.email.strip().lower())
        if existing is not None:
            await audit.record_of_operator("operator.admin_made", target=str(existing.id), now=utc_now())
            await existing.update({"$set": {"role": Role.ADMIN, "isActive": True, "updatedAt": utc_now()}})
            print(f"{existing.email} is an admin now; the password is unchanged")
            return
        password, is_ours = _new_password()
        await accounts.ensure_admin(options.email, password, PasswordHasher(), now=utc_now())
        print(f"{options.email} is an admin now" + (f"; the password is {password}" if is_ours else ""))

    return _with_database(settings, create)


def migrate(settings: Settings, _options: argparse.Namespace) -> int:
    """Take over a database that the original AI Pasta backend wrote."""

    async def run(uri: str) -> None:
        client = database.connect(uri)
        store, ours = database.database_of(client, settings.database), [*SHARED, *documents()]
        try:
            await database.wait_for(store)
            done = 0
            async for line in migration.migrate(store, ours, usd_inr_rate=settings.usd_inr_rate):
                print(line, flush=True)
                done += 1
            await database.prepare(store, ours)
            print("the database is ours" if done else "nothing to do: the database is ours already")
        except PyMongoError as exc:
            cause = " ".join(str(exc).split())[:200]
            raise DatabaseError(f"stopped half-way; run `migrate` again: {cause}") from exc
        finally:
            await client.close()

    with _mongodb(settings) as (uri, _):
        asyncio.run(run(uri))
    return 0


def verify_ledger(settings: Settings, _options: argparse.Namespace) -> int:
    """Recompute every counter from the events; the exit status says whether all are right."""
    drifts: list[Drift] = []

    async def check(store: Database) -> None:
        report = await verify(store)
        for drift in report.drifts:
            print(
                f"{drift.user_id} {drift.counter} {drift.what}: {drift.counted}, should be {drift.expected}"
            )
        print(f"{report.accounts} accounts, {report.events} events, {report.drift} counters adrift")
        print(f"{report.open_holds} requests hold something of their limits now")
        drifts.extend(report.drifts)

    _with_database(settings, check)
    return 1 if drifts else 0


def examine(settings: Settings, _options: argparse.Namespace) -> int:
    """Look at everything that the gateway needs; the exit status says whether it can serve."""
    hide = logs.hide(settings.secrets())
    problems = 0

    def show(finding: Finding) -> None:
        nonlocal problems
        problems += finding.verdict is Verdict.PROBLEM
        shown = hide(None, "", {"text": finding.text, "advice": finding.advice})
        print(f"{finding.verdict:8} {finding.subject:24} {shown['text']}", flush=True)
        if finding.advice:
            print(f"{'':33} -> {shown['advice']}", flush=True)

    async def look(uri: str | None) -> None:
        relay = Relay(endpoints(settings, utc_now))
        doctor = Doctor(settings, relay, [*SHARED, *documents()], clock=utc_now)
        async for finding in doctor.examine(uri):
            show(finding)
        await relay.aclose()

    try:
        with _mongodb(settings) as (uri, _):
            asyncio.run(look(uri))
    except MongodError as exc:
        show(Finding(Verdict.PROBLEM, "database", str(exc), "Mend that, or set MONGODB_URI."))
        asyncio.run(look(None))
    print(
        "the gateway can serve" if problems == 0 else f"{problems} to be mended before the gateway can serve"
    )
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m proxy", description="The AI Pasta gateway.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("serve", help="serve until SIGTERM or Ctrl-C").set_defaults(command=serve)
    commands.add_parser(
        "doctor", help="look at configuration, database, providers, clock and disk, and say what to do"
    ).set_defaults(command=examine)
    commands.add_parser(
        "migrate", help="take over a database of the original AI Pasta backend; again does nothing"
    ).set_defaults(command=migrate)
    key = commands.add_parser("keys", help="API keys").add_subparsers(required=True, metavar="ACTION")
    make_key = key.add_parser("create", help="make a key for a user and print it")
    make_key.add_argument("--email", required=True, help="whose key it is")
    make_key.add_argument("--name", default="command line", help="what the key is called")
    make_key.add_argument(
        "--allow-ip",
        action="append",
        metavar="ADDRESS",
        help="where it may be used from: an address or a network; several times for several",
    )
    make_key.set_defaults(command=create_key)
    ledger = commands.add_parser("ledger", help="the books").add_subparsers(required=True, metavar="ACTION")
    ledger.add_parser("verify", help="recompute every counter from the events").set_defaults(
        command=verify_ledger
    )
    admin = commands.add_parser("admin", help="admins").add_subparsers(required=True, metavar="ACTION")
    make_admin = admin.add_parser("create", help="make an admin, or give an existing user the role")
    make_admin.add_argument("--email", required=True, help="who becomes an admin")
    make_admin.set_defaults(command=create_admin)
    return parser


@contextmanager
def _mongodb(settings: Settings) -> Iterator[tuple[str, EmbeddedMongod | None]]:
    """Yield where the database is; without MONGODB_URI it is a child of ours."""
    if settings.mongodb_uri:
        yield settings.mongodb_uri, None
        return
    with embedded_mongod(settings.data_dir) as mongod:
        yield mongod.uri, mongod


def _with_database(settings: Settings, work: Callable[[Database], Awaitable[None]]) -> int:
    async def run(uri: str) -> None:
        client = database.connect(uri)
        store = database.database_of(client, settings.database)
        try:
            await database.prepare(store, [*SHARED, *documents()])
            await work(store)
        finally:
            await client.close()

    with _mongodb(settings) as (uri, _):
        asyncio.run(run(uri))
    return 0


def _new_password() -> tuple[str, bool]:
    """Return the password to use, and whether it was made up here."""
    if os.isatty(sys.stdin.fileno()):
        return getpass.getpass("Password for the new admin: "), False
    return secrets.token_urlsafe(18), True


def _announce(
    settings: Settings, embedded: EmbeddedMongod | None
) -> Callable[[App], Coroutine[Any, Any, None]]:
    """Say what runs, where, and how to get a first key."""

    async def announce(app: App) -> None:
        address = "localhost" if settings.listen_host in ("127.0.0.1", "0.0.0.0") else settings.listen_host  # noqa: S104
        base = f"http://{address}:{settings.port}"
        catalogue = app.ctx.gateway.catalog.current
        providers = ", ".join(f"{name} ({len(models)} models)" for name, models in catalogue.entries.items())
        where = f"embedded MongoDB in {settings.data_dir}" if embedded else "MongoDB at MONGODB_URI"
        print(f"AI Pasta gateway ({settings.environment}) on {base}/v1, with {where}")
        print(f"providers: {providers or 'none: set OPENROUTER_API_KEY or HUGGINGFACE_API_KEY'}")
        print("a first key, with TOKEN from the first answer:")
        print(f"  curl -s {base}/api/auth/register -H 'Content-Type: application/json' \\")
        print("""    -d '{"name":"Asha","email":"asha@example.com","password":"a long secret"}'""")
        print(f"  curl -s {base}/api/user/api-keys -H 'Content-Type: application/json' \\")
        print("""    -H "Authorization: Bearer $TOKEN" -d '{"name":"first"}'""", flush=True)

    return announce


if __name__ == "__main__":
    sys.exit(main())
