"""The way from a request to its answer, on a server with handlers that do what ours should not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from sanic import HTTPResponse, Request
from sanic.response import BaseHTTPResponse, text

from proxy.handlers.headers import HotResponse
from tests.proxy.bare_app import application, port_of


class Seen:
    """What the beginning and the end of every request have seen."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.begun: list[str] = []
        self.ended: list[int] = []

    def begin(self, request: Request) -> HTTPResponse | None:
        """Answer some paths, refuse some, and pass the rest on."""
        self.begun.append(request.path)
        if request.path == "/refused":
            raise ValueError("refused")
        return text("from the beginning") if request.path == "/answered" else None

    def end(self, _request: Request, response: BaseHTTPResponse) -> None:
        """Sign an answer."""
        self.ended.append(response.status)
        response.headers["x-signed"] = "yes"


@asynccontextmanager
async def served() -> AsyncIterator[tuple[httpx.AsyncClient, Seen]]:
    """Serve an application that has one of each kind of handler."""
    seen = Seen()
    handlers = (whole, hot, echo, nothing, broken, changed_its_mind, stream)
    app = application(*handlers, begin=seen.begin, end=seen.end)
    for path in ("refused", "answered"):
        app.add_route(broken, f"/{path}", name=path, error_format="json")
    async with (
        port_of(app) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        yield http, seen


async def whole(_request: Request) -> HTTPResponse:
    return text("whole")


async def hot(_request: Request) -> HTTPResponse:
    return HotResponse(b"hot", {}, "text/plain")


async def echo(request: Request) -> HTTPResponse:
    return text(request.body.decode())


async def nothing(_request: Request) -> None:
    return None


async def broken(_request: Request) -> HTTPResponse:
    raise ValueError("broken")


async def changed_its_mind(request: Request) -> HTTPResponse:
    await request.app.ctx.dispatch.respond(request, text("not this"))
    raise ValueError("but that")


async def stream(request: Request) -> None:
    response = HotResponse(b"", {}, "text/plain")
    await request.app.ctx.dispatch.respond(request, response)
    for piece in ("one ", "two ", "three"):
        await response.send(piece)


async def test_answers_of_every_kind() -> None:
    """Each is sent as it was made, signed once, on one connection after the other."""
    async with served() as (http, seen):
        for path, body in (("whole", "whole"), ("hot", "hot"), ("stream", "one two three")):
            answer = await http.get(f"/{path}")
            assert (answer.status_code, answer.text) == (200, body)
            assert answer.headers.get_list("x-signed") == ["yes"]
        assert seen.ended == [200] * 3
        assert (await http.head("/whole")).headers["content-length"] == "5"


async def test_bodies_arrive() -> None:
    """Small ones and large ones, with a length and in chunks."""

    async def chunks(text: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(text), 10_000):
            yield text[start : start + 10_000]

    async with served() as (http, _):
        for body in (b"", b"x", b"word " * 10_000):
            assert (await http.post("/echo", content=body)).content == body
            assert (await http.post("/echo", content=chunks(body))).content == body


async def test_what_fails_is_answered() -> None:
    """A handler that raises, returns nothing, or has thrown its answer away; a refusal; a path that there is not."""
    async with served() as (http, seen):
        failing = {"broken": 500, "nothing": 500, "changed_its_mind": 500, "refused": 500, "unknown": 404}
        for number, (path, status) in enumerate(failing.items(), start=1):
            answer = await http.get(f"/{path}")
            assert answer.status_code == status, path
            assert "not this" not in answer.text
            assert len(seen.begun) == len(seen.ended) == number  # once each, also where it was refused
        assert (await http.get("/whole")).text == "whole"


async def test_the_beginning_may_answer() -> None:
    """Its answer is signed as every other, and the handler is not asked."""
    async with served() as (http, seen):
        answer = await http.get("/answered")
        assert (answer.status_code, answer.text, answer.headers["x-signed"]) == (
            200,
            "from the beginning",
            "yes",
        )
        assert seen.ended == [200]
