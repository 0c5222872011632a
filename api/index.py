"""The function that Vercel runs: every path comes here (vercel.json)."""

from __future__ import annotations

from proxy.asgi import Message, Receive, Send, application

gateway = application()


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Answer for the client that Vercel names: it writes X-Real-IP itself, over whatever a client has sent."""
    named = dict(scope.get("headers", ())).get(b"x-real-ip")
    if named is not None:
        scope = {**scope, "client": (named.decode("latin-1"), 0)}
    await gateway(scope, receive, send)
