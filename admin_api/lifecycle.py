"""What the control plane runs beside its endpoints: begun when the gateway has started, ended before it stops."""

from __future__ import annotations

from types import SimpleNamespace

from sanic import Sanic
from sanic.config import Config

from admin_api.deletion import Deletions
from admin_api.mail import Mailer
from admin_api.ratelimit import RateLimiter
from proxy.gateway import Gateway


async def start(app: Sanic[Config, SimpleNamespace]) -> None:
    """Begin to count, to mail, and to delete what has expired or an earlier process began to delete."""
    gateway: Gateway = app.ctx.gateway
    app.ctx.limiter = RateLimiter(gateway.database, gateway.settings)
    app.ctx.mailer = Mailer(gateway.settings)
    app.ctx.deletions = Deletions(gateway)
    await app.ctx.limiter.start()
    app.ctx.mailer.start()
    app.ctx.deletions.start()


async def stop(app: Sanic[Config, SimpleNamespace]) -> None:
    """End the background work; mails that wait get a last moment."""
    await app.ctx.deletions.stop()
    await app.ctx.mailer.stop()
