"""The one place that wires everything together; it holds no logic."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from sanic import HTTPResponse, Request, Sanic
from sanic.config import Config
from sanic.exceptions import RequestCancelled
from sanic.response import BaseHTTPResponse
from sanic_ext import Extend

from admin_api import lifecycle, ratelimit
from admin_api.auth import service as accounts
from admin_api.auth.hashing import PasswordHasher
from admin_api.blueprints import BLUEPRINTS
from admin_api.chat.turns import FINISH_SECONDS, Turns
from admin_api.documents import DOCUMENTS
from admin_api.models.popularity import Popularity
from proxy import background, database, logs
from proxy.auth import Authenticator
from proxy.call import Services
from proxy.catalog import Catalog
from proxy.clock import Clock, utc_now
from proxy.completions import Completions
from proxy.database import Client, Database
from proxy.deadlines import Deadlines
from proxy.dispatch import Dispatch
from proxy.door import Door
from proxy.endpoints import endpoints
from proxy.errors import UnsupportedMedia
from proxy.gateway import Gateway
from proxy.handlers import account, chat, cors, errors, headers, identity, methods, models, system
from proxy.health import Health
from proxy.metering import journal
from proxy.metering.contract import Meter
from proxy.metering.direct import DirectMeter
from proxy.metering.heartbeat import Heartbeat
from proxy.metering.leased import LeasedMeter
from proxy.metering.watch import LedgerWatch
from proxy.metrics import Metrics
from proxy.mongod import EmbeddedMongod
from proxy.pulse import Pulse
from proxy.reconcile import Reconciler
from proxy.relay import Relay
from proxy.request_log import RequestLog
from proxy.settings import Settings

App = Sanic[Config, SimpleNamespace]

_MOST_HEAD_BYTES = 16_384  # Sanic's own ceiling
_SLACK_SECONDS = 60.0  # the relay ends an exchange in time, and then there is something to be written down
_NO_ENVIRONMENT = "AIPASTA_SANIC_NOT_READ_"  # Sanic would read SANIC_*; there is one reader, proxy.settings


def create_app(
    settings: Settings,
    mongodb_uri: str,
    *,
    embedded: EmbeddedMongod | None = None,
    metrics: Metrics | None = None,
    clock: Clock = utc_now,
    name: str = "aipasta",
) -> App:
    """Make the application; its parts are opened when its server starts and closed when that ends.

    `embedded` is the database at `mongodb_uri` if it is ours to keep alive, `metrics` those of a worker among others.
    """
    app = Sanic(name, config=_sanic_config(settings), configure_logging=False)
    app.ctx.door = Door(
        settings.connections,
        chat_body_bytes=settings.limits.chat_body_bytes,
        answer_seconds=settings.longest_exchange + _SLACK_SECONDS,
    )
    app.ctx.clock = clock
    app.ctx.version = system.VERSION
    app.ctx.hasher = PasswordHasher()
    app.ctx.keepers = []
    app.ctx.popularity = Popularity()
    app.ctx.turns = Turns()
    app.ctx.request_log = RequestLog(logs.request_logger(settings.log_level) if settings.access_log else None)
    for blueprint in (chat.blueprint, models.blueprint, account.blueprint, system.blueprint, *BLUEPRINTS):
        app.blueprint(blueprint)
    methods.add_automatic(app)
    app.error_handler.add(Exception, errors.render_error)
    app.error_handler.add(RequestCancelled, errors.answer_nobody)
    # Of sanic-ext's parts, injection would look at every request (a sixtieth of a chat's CPU), and nothing needs it.
    Extend(app, built_in_extensions=False)
    ends = _Ends(settings)
    app.ctx.dispatch = Dispatch(app, ends.begin, ratelimit.limit_api, ends.end)

    @app.before_server_start
    async def open_gateway(app: App) -> None:
        gateway = app.ctx.gateway = await start_gateway(settings, mongodb_uri, metrics or Metrics(), clock)
        app.ctx.door.guard(_paths_of_calls(app), gateway.completions)
        try:
            await _begin(gateway)
        except BaseException:
            await stop_gateway(gateway)
            raise

    async def _begin(gateway: Gateway) -> None:
        if settings.admin_email and settings.admin_password:
            await accounts.ensure_admin(
                settings.admin_email, settings.admin_password, app.ctx.hasher, now=gateway.clock()
            )
        await lifecycle.start(app)
        if embedded is not None:
            keeper = asyncio.create_task(database.keep_running(embedded), name="embedded-mongod")
            app.ctx.keepers.append(keeper)

    @app.before_server_stop
    async def drain(app: App) -> None:
        await app.ctx.gateway.completions.drain(settings.drain_seconds)
        await app.ctx.turns.finish(FINISH_SECONDS)

    @app.after_server_stop
    async def close_gateway(app: App) -> None:
        await lifecycle.stop(app)
        await background.end(app.ctx.keepers)
        app.ctx.hasher.close()
        await stop_gateway(app.ctx.gateway)

    return app


async def start_gateway(settings: Settings, mongodb_uri: str, metrics: Metrics, clock: Clock) -> Gateway:
    """Connect and start every part; what cannot be started leaves no connection behind."""
    clients = (database.connect(mongodb_uri), database.connect(mongodb_uri, pool_size=1))
    try:
        return await _start_parts(settings, clients, metrics, clock)
    except BaseException:
        for client in clients:
            await client.close()
        raise


async def _start_parts(
    settings: Settings,
    clients: tuple[Client, Client],
    metrics: Metrics,
    clock: Clock,
) -> Gateway:
    """Start every part, in the order in which they need each other."""
    store, beats = (database.database_of(client, settings.database) for client in clients)
    await database.prepare(store, DOCUMENTS)
    metrics.expect(settings.enabled_providers())
    relay = Relay(endpoints(settings, clock))
    catalog = Catalog(
        relay,
        settings.enabled_providers(),
        settings.routes,
        metrics,
        refresh_seconds=settings.catalog_refresh_seconds,
        clock=clock,
    )
    health = Health(relay.endpoints, settings.resilience, metrics)
    reconciler = Reconciler(relay, patience=settings.reconcile_seconds)
    meter = await _meter(settings, store, beats, reconciler, metrics)
    deadlines, rate = Deadlines(), settings.usd_inr_rate
    services = Services(relay, health, meter, reconciler, metrics, deadlines, rate, clock)
    completions = Completions(
        services, catalog, settings.limits, keep_alive_seconds=settings.keep_alive_seconds
    )
    await meter.start()
    await catalog.start()
    await completions.start()
    authenticator = Authenticator(settings.limits, clock=clock)
    await authenticator.start()
    watch = LedgerWatch(store, metrics)
    await watch.start()
    pulse = Pulse(store)
    await pulse.start()
    return Gateway(
        settings=settings,
        clock=clock,
        clients=clients,
        database=store,
        pulse=pulse,
        metrics=metrics,
        relay=relay,
        health=health,
        catalog=catalog,
        meter=meter,
        watch=watch,
        authenticator=authenticator,
        completions=completions,
    )


async def stop_gateway(gateway: Gateway) -> None:
    """Close every part, in the opposite order."""
    await gateway.pulse.stop()
    await gateway.watch.stop()
    await gateway.authenticator.stop()
    await gateway.catalog.stop()
    await gateway.meter.stop()
    gateway.metrics.flush()
    await gateway.relay.aclose()
    for client in gateway.clients:
        await client.close()


async def _meter(
    settings: Settings, store: Database, beats: Database, reconciler: Reconciler, metrics: Metrics
) -> Meter:
    journals = settings.data_dir / "journal" / await database.identity(store)
    if settings.metering == "leased":
        rate = settings.usd_inr_rate
        heartbeat = Heartbeat(beats, clock=utc_now)
        return LeasedMeter(store, heartbeat, journals, reconciler.resolve, metrics, usd_inr_rate=rate)
    journal.refuse_leftovers(journals)
    return DirectMeter(
        store, metrics, hold_seconds=2 * settings.longest_exchange, usd_inr_rate=settings.usd_inr_rate
    )


def _paths_of_calls(app: App) -> frozenset[str]:
    """Return the paths of what asks a model."""
    return frozenset(
        f"/{route.path}" for route in app.router.routes if getattr(route.ctx, "takes_chat", False)
    )


def _sanic_config(settings: Settings) -> Config:
    return Config(
        {
            "ACCESS_LOG": False,
            "MOTD": False,
            "FALLBACK_ERROR_FORMAT": "json",
            "REQUEST_MAX_SIZE": settings.limits.chat_body_bytes,  # proxy.protocol is stricter
            "REQUEST_MAX_HEADER_SIZE": _MOST_HEAD_BYTES,
            # How long an answer that is written may take to be read when its connection is closed with it.
            "GRACEFUL_TCP_CLOSE_TIMEOUT": settings.connections.reader_seconds,
            "OAS": False,
            "CORS": False,
            "HEALTH": False,
            # Ours are added before the start: proxy.handlers.methods.
            "HTTP_AUTO_HEAD": False,
            "HTTP_AUTO_OPTIONS": False,
        },
        env_prefix=_NO_ENVIRONMENT,
    )


class _Ends:
    """What is done at the beginning and at the end of every request."""

    def __init__(self, settings: Settings) -> None:
        """Take what the settings say of it, once: a model of pydantic's takes long to be asked."""
        self._trusted = settings.trusted_proxies
        self._origins = settings.allowed_origins
        self._is_production = settings.is_production

    def begin(self, request: Request) -> HTTPResponse | None:
        """Identify a request; answer it if it is a preflight, and raise what refuses it whatever it asks for."""
        identity.begin(request, request.app.ctx.request_log, self._trusted)
        encoding = request.headers.get("content-encoding")
        if encoding is not None and encoding.lower() != "identity":
            raise UnsupportedMedia("Send the body without a content encoding.")
        return cors.answer_preflight(request)

    def end(self, request: Request, response: BaseHTTPResponse) -> None:
        """Give an answer the headers that every answer has."""
        ratelimit.add_headers(request, response)
        cors.add_headers(request, response, self._origins)
        headers.add_headers(response, is_production=self._is_production)
        identity.end(request, response)
