"""Tests of proxy/request_log.py and of the request ids of proxy/handlers/identity.py, on a real gateway."""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import Any

import orjson
import pytest

from proxy.core.routing import Role
from proxy.handlers.identity import NO_ROUTE
from proxy.logs import RequestLogger
from proxy.request_log import CLIENT_LEFT, RequestLog
from tests.admin_api.accounts import signed_in
from tests.gateway import PASSWORD
from tests.proxy.metering.meters import settlement
from tests.proxy.stage import MINI, Stage, ask, staged
from tests.upstreams import Behaviour

Capture = pytest.CaptureFixture[bytes]
TRACE = "trace-7f3a:1.2"


async def lines(capture: Capture, stage: Stage, count: int) -> list[dict[str, Any]]:
    """Wait until that many lines are written, and return them in their order."""
    written = b""

    async def are_written() -> bool:
        nonlocal written
        written += capture.readouterr().err
        return len(_read(written)) >= count

    await stage.until(are_written)
    found = _read(written)
    assert len(found) == count, found
    return found


def _read(written: bytes) -> list[dict[str, Any]]:
    parsed = [orjson.loads(line) for line in written.splitlines() if line.startswith(b"{")]
    return [line for line in parsed if line["event"] == "request"]


async def test_a_call_is_one_line(mongodb_uri: str, capsysbinary: Capture) -> None:
    """A completion's line names its ids, key, user, model, provider, outcome, tokens, cost and times, as its event."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(role=Role.PREMIUM)
        key = await stage.gateway.key(user)
        capsysbinary.readouterr()
        for fields in ({}, {"stream": True}):
            headers = {"x-request-id": TRACE}
            response = await stage.gateway.chat(key, ask(MINI, **fields), headers=headers)
            assert response.status_code == 200
        found, events = await lines(capsysbinary, stage, 2), await stage.events(2)
        for line, event in zip(found, events, strict=True):
            assert line["request"] == event["_id"]
            assert (line["client_request"], line["key"], line["user"]) == (TRACE, key[-4:], str(user.id))
            assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/chat/completions", 200)
            assert (line["model"], line["provider"], line["outcome"]) == (MINI, "openrouter", "completed")
            assert line["prompt_tokens"] == event["tokens"]["prompt"]
            assert line["completion_tokens"] == event["tokens"]["completion"]
            assert line["cost_usd"] == f"{event['costUsd'].to_decimal():f}"
            assert line["address"] == "127.0.0.1"
            assert line["total_ms"] == event["totalMs"]
            assert line["ms"] >= 0
            assert key not in str(line)
        assert found[1]["first_token_ms"] <= found[1]["total_ms"]


async def test_a_question_of_the_playground_is_one_line(mongodb_uri: str, capsysbinary: Capture) -> None:
    """Its line says what became of the call behind it, as that of any other does."""
    async with staged(mongodb_uri) as stage:
        account = await signed_in(stage.gateway, role=Role.PREMIUM)
        capsysbinary.readouterr()
        asked = await account.send("POST", "/api/chat/", {"message": "Hello", "modelId": MINI})
        assert asked.status_code == 200
        (line,), (event,) = await lines(capsysbinary, stage, 1), await stage.events(1)
        assert (line["route"], line["status"], line["user"]) == ("/api/chat", 200, str(account.id))
        assert (line["request"], line["model"], line["outcome"]) == (event["_id"], MINI, "completed")
        assert line["cost_usd"] == f"{event['costUsd'].to_decimal():f}"


async def test_a_line_is_written_once(capfdbinary: Capture) -> None:
    """A call that begins when its client has left, and his line is written, does not write it again."""
    log = RequestLog(RequestLogger(is_debugging=False))
    for begins_late in (False, True):
        line = log.begin("req_1", "POST", "/v1/chat/completions", "127.0.0.1")
        assert line is not None
        if not begins_late:
            line.call_begun()
        line.answered(CLIENT_LEFT)
        if begins_late:
            line.call_begun()
        line.call_ended("somebody", settlement())
        await asyncio.sleep(0)
        (found,) = _read(capfdbinary.readouterr().err)
        assert (found["status"], "outcome" in found) == (CLIENT_LEFT, not begins_late)


async def test_a_client_that_leaves_is_in_the_log(mongodb_uri: str, capsysbinary: Capture) -> None:
    """The line of an abandoned call is written when the call is over, with what it has cost."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM, onDisconnect="cancel")
        capsysbinary.readouterr()
        stage.openrouter.script.enqueue(Behaviour(pieces=200, delay_between=0.05), Behaviour(delay_first=30))
        for wait in (b"data:", b""):
            await _begin_and_leave(stage, key, wait)
        streamed, unanswered = sorted(await lines(capsysbinary, stage, 2), key=lambda line: line["status"])
        assert (streamed["status"], streamed["outcome"]) == (200, "client_gone")
        assert streamed["completion_tokens"] > 0
        assert (unanswered["status"], unanswered["outcome"]) == (CLIENT_LEFT, "client_gone")


async def _begin_and_leave(stage: Stage, key: str, wait: bytes) -> None:
    """Ask for a stream, and hang up when it has begun, or when it is under way at the provider."""
    port = int(stage.gateway.base_url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = orjson.dumps(ask(MINI, stream=True))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    asked = len(stage.openrouter.books)
    if wait:
        await reader.readuntil(wait)
    else:

        async def is_under_way() -> bool:
            return stage.gateway.parts.metrics.value("aipasta_requests_in_flight") > 0 and asked >= 1

        await stage.until(is_under_way)
        await asyncio.sleep(0.2)  # so that the provider has it
    writer.close()
    await writer.wait_closed()


async def test_every_other_request_is_one_line_too(mongodb_uri: str, capsysbinary: Capture) -> None:
    """Sign-in, refusals, errors and strange requests have a line with route and status, and no path or query."""
    async with staged(mongodb_uri) as stage:
        account, http = await signed_in(stage.gateway), stage.gateway.http
        capsysbinary.readouterr()
        await http.post("/api/auth/login", json={"email": account.user.email, "password": PASSWORD})
        await http.patch("/api/auth/reset-password/a-secret-token", json={"password": PASSWORD})
        await account.send("GET", "/api/auth/me?x=a-secret-token")
        await http.get("/no/a-secret-token")
        await http.put("/health")
        await stage.gateway.chat("wrong", ask(MINI))
        await stage.gateway.chat(await stage.gateway.key(), ask("no/such"))
        await http.get("/health")
        found = await lines(capsysbinary, stage, 7)
        assert [(line["route"], line["status"]) for line in found] == [
            ("/api/auth/login", 200),
            ("/api/auth/reset-password/{token}", 400),
            ("/api/auth/me", 200),
            (NO_ROUTE, 404),
            (NO_ROUTE, 405),
            ("/v1/chat/completions", 401),
            ("/v1/chat/completions", 404),
        ]
        assert found[2]["user"] == str(account.id)
        assert found[5]["error"] == "invalid_api_key"
        assert "key" not in found[5]
        assert "a-secret-token" not in str(found)


async def test_probes_are_quiet(mongodb_uri: str, capsysbinary: Capture) -> None:
    """What asks every few seconds whether all is well leaves no line, unless LOG_LEVEL is debug."""
    for level, count in (("info", 0), ("debug", 3)):
        async with staged(mongodb_uri, log_level=level) as stage:
            capsysbinary.readouterr()
            for path in ("/health", "/health/ready", "/metrics"):
                assert (await stage.gateway.http.get(path)).status_code == 200
            assert len(await lines(capsysbinary, stage, count)) == count


async def test_the_log_of_requests_can_be_switched_off(mongodb_uri: str, capsysbinary: Capture) -> None:
    """With ACCESS_LOG=false, or LOG_LEVEL=warning, no line is written, and ids are returned all the same."""
    for settings in ({"access_log": False}, {"log_level": "warning"}):
        async with staged(mongodb_uri, **settings) as stage:
            key = await stage.gateway.key(role=Role.PREMIUM)
            response = await stage.gateway.chat(key, ask(MINI))
            assert response.headers["x-request-id"].startswith("req_")
            await stage.gateway.settled()
            assert _read(capsysbinary.readouterr().err) == []


async def test_a_clients_id_comes_back(mongodb_uri: str, capsysbinary: Capture) -> None:
    """A sane `x-request-id` is returned beside ours and logged; any other is replaced by ours; errors are no exception."""
    sane = ("f3b1c2d4-0000-4000-8000-123456789abc", "a" * 128, "req_000000000000000000000000")
    others = (
        "a" * 129,
        f"aipasta_{'x' * 38}",
        "",
        "two words",
        "<script>",
        "a\tb",
        "%0d%0aset-cookie:x",
        "\x1b[31m",
        "é",
        ".hidden",
    )
    async with staged(mongodb_uri) as stage:
        for given, path in itertools.product((*sane, *others), ("/", "/nowhere", "/v1/models")):
            capsysbinary.readouterr()
            headers = await _headers_of(stage, path, given)
            (line,) = await lines(capsysbinary, stage, 1)
            if given in sane:
                assert headers["x-request-id"] == given == line["client_request"]
                assert headers["x-aipasta-request-id"] == line["request"] != given
            else:
                assert headers["x-request-id"] == line["request"], given
                assert "x-aipasta-request-id" not in headers
                assert "client_request" not in line


async def _headers_of(stage: Stage, path: str, given: str) -> dict[str, str]:
    """Ask with an id as it is, which no client library would send."""
    address = ("127.0.0.1", int(stage.gateway.base_url.rsplit(":", 1)[1]))

    def exchange() -> bytes:
        with socket.create_connection(address, timeout=10) as connection:
            head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: {given}\r\n\r\n"
            connection.sendall(head.encode())
            return b"".join(iter(lambda: connection.recv(65_536), b""))

    head = (await asyncio.to_thread(exchange)).partition(b"\r\n\r\n")[0].decode("latin-1")
    pairs = (line.partition(":") for line in head.split("\r\n")[1:])
    return {name.lower(): value.strip() for name, _, value in pairs}


async def test_the_event_keeps_our_id(mongodb_uri: str) -> None:
    """Nobody chooses the id of a usage event: two requests with one `x-request-id` are two events."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        ours = set()
        for _ in range(2):
            response = await stage.gateway.chat(key, ask(MINI), headers={"x-request-id": TRACE})
            assert response.headers["x-request-id"] == TRACE
            ours.add(response.headers["x-aipasta-request-id"])
        assert {event["_id"] for event in await stage.events(2)} == ours
        explained = await stage.gateway.http.get(
            f"/v1/requests/{ours.pop()}", headers={"authorization": f"Bearer {key}"}
        )
        assert explained.status_code == 200


async def test_a_secret_in_a_url_is_refused(mongodb_uri: str) -> None:
    """A key, token or password in a URL is a 400 that says where it belongs, on every surface, though it were good."""
    queries = ("api_key=x", "apikey=x", "API-KEY=x", "token=x", "a=b&access%5Ftoken=x", "password", "key=")
    async with staged(mongodb_uri) as stage:
        headers = {"authorization": f"Bearer {await stage.gateway.key()}"}
        for query, path in itertools.product(queries, ("/v1/models", "/api/auth/me", "/health", "/nowhere")):
            response = await stage.gateway.http.get(f"{path}?{query}", headers=headers)
            assert response.status_code == 400, (path, query)
            assert "Authorization" in response.text
            assert "x-request-id" in response.headers
