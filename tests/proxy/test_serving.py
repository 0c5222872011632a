"""Tests of proxy/serving.py in the test's own loop; what a process makes of signals is in tests/test_ends.py."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from contextlib import ExitStack

from sanic import HTTPResponse, Request
from sanic.response import text

from proxy import serving
from proxy.core.routing import Role
from proxy.server import create_app
from proxy.settings import Settings
from tests.gateway import JWT_SECRET
from tests.proxy.bare_app import application
from tests.proxy.stage import MINI, ask, staged
from tests.raw import connected, statuses
from tests.server_process import PROJECT
from tests.upstreams import Behaviour

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_the_order_of_an_end(mongodb_uri: str) -> None:
    """Idle connections are closed at once, new work is refused, a running stream ends well, and then all is closed."""
    async with staged(mongodb_uri) as stage:
        base_url, key = stage.gateway.base_url, await stage.gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.enqueue(Behaviour(pieces=20, delay_between=0.1))
        running = asyncio.create_task(stage.gateway.chat(key, ask(MINI, stream=True)))
        await stage.openrouter.books.until(lambda books: bool(books) and books[-1].model_served is not None)
        door = stage.gateway.app.ctx.door
        async with connected(base_url) as idle:
            await idle.send(HEALTH)
            assert statuses(await idle.answer()) == [200]
            door.is_draining = True
            await idle.send(HEALTH.replace(b"/health", b"/v1/models"))
            answer = await idle.rest()
        assert statuses(answer) == [503]
        assert b"connection: close" in answer
        assert b"shutting down" in answer
        assert (await running).text.endswith("data: [DONE]\n\n")


async def test_nobody_is_let_in_before_the_parts_are_there(mongodb_uri: str) -> None:
    """A gateway listens when it can serve, and not before."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = probe.getsockname()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        app = create_app(Settings(jwt_secret=JWT_SECRET), mongodb_uri, name="test-serving")
        server = await serving.create_server(app, listener)
        with socket.socket() as early:
            assert early.connect_ex(address) != 0
        await serving.start(server)
        async with connected(f"http://127.0.0.1:{address[1]}") as connection:
            await connection.send(HEALTH)
            assert statuses(await connection.answer()) == [200]
            await serving.stop(server, 1)
            assert await connection.rest() == b""
        with socket.socket() as late:
            assert late.connect_ex(address) != 0


async def test_who_came_a_moment_ago_is_answered() -> None:
    """A first request that is on its way when the end begins is served, its connection closed, and silence not waited for."""
    app = application(health)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = await serving.create_server(app, listener)
        await serving.start(server)
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with connected(base_url) as quick, connected(base_url) as slow, connected(base_url) as silent:
            while len(server.connections) < 3:  # noqa: ASYNC110  whoever is accepted tells nobody
                await asyncio.sleep(0)
            ending = asyncio.create_task(serving.stop(server, 1))
            for newcomer, thinks in ((quick, 0), (slow, 0.5)):
                await asyncio.sleep(thinks)
                await newcomer.send(HEALTH)
                answer = await newcomer.rest()
                assert (statuses(answer), b"connection: close" in answer) == ([200], True)
            assert await silent.rest() == b""
            await ending


async def test_who_stands_in_line_is_let_in() -> None:
    """Whom the kernel has taken, and nobody accepted yet, is served and not reset when the end begins."""
    app = application(health)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = await serving.create_server(app, listener)
        await serving.start(server)
        with ExitStack() as line:
            places = [line.enter_context(socket.create_connection(listener.getsockname())) for _ in range(50)]
            for place in places:
                place.sendall(HEALTH)
            await serving.stop(server, 1)
            assert {statuses(place.recv(2**16))[0] for place in places} == {200}


IMPATIENT = """
import asyncio, os, signal, socket
from proxy import serving
from proxy.settings import Settings
from sanic.response import text
from tests.proxy.bare_app import application

async def health(request):
    return text("well")

async def ask(app):
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(b"GET /health HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.1)
    app.ctx.answer = asyncio.create_task(reader.readline())

async def tell(app):
    print(await app.ctx.answer)

app = application(health)
app.after_server_start(ask)
app.after_server_stop(tell)
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
serving.run(app, listener, Settings(jwt_secret="x" * 32))
"""


def test_who_comes_before_an_early_end_is_answered() -> None:
    """A process that is told to end as soon as it listens still answers whoever it has let in."""
    command = [sys.executable, "-c", IMPATIENT]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "b'HTTP/1.1 200 OK\\r\\n'\n"), ended.stderr


async def health(_request: Request) -> HTTPResponse:
    return text("well")
