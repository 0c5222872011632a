"""Tests of deploy/nginx.conf: what it says, and where nginx is installed, what nginx makes of it before a gateway."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo import MongoClient

from proxy.clock import utc_now
from proxy.errors import PayloadTooLarge, envelope, openai_body
from proxy.limits import Limits
from proxy.routes import Timeouts
from tests.proxy.stage import FREE, ask
from tests.server_process import ServerProcess, free_port, serving_process
from tests.upstreams import Behaviour, OpenRouter

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/sbin")
MAIN = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/aipasta.conf;
}}
"""
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.example.com\r\n"
SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
SMUGGLING = {
    "space before the colon of Content-Length": f"{HEAD}Content-Length : {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
    "space before the colon of Transfer-Encoding": f"{HEAD}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{SMUGGLED}",
    "a folded line": f"{HEAD}X-A: b\r\n Content-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
    "two lengths": f"{HEAD}Content-Length: 0\r\nContent-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
    "a length and chunks": f"{HEAD}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}",
    "an unknown encoding": f"{HEAD}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{SMUGGLED}",
    "two encodings": f"{HEAD}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{SMUGGLED}",
    "a length with a sign": f"{HEAD}Content-Length: +{len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
    "a chunk size in hexadecimal notation": f"{HEAD}Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n{SMUGGLED}",
    "no host": f"GET /health HTTP/1.1\r\n\r\n{SMUGGLED}",
    "two hosts": f"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{SMUGGLED}",
    "a NUL in a header": f"{HEAD}X-A: a\0b\r\nContent-Length: 0\r\n\r\n{SMUGGLED}",
}


def directives(project: Path) -> dict[str, str]:
    """Return the directives of the example, by their names; of several, the last."""
    text = re.sub(r"#.*", "", (project / "deploy/nginx.conf").read_text())
    return dict(re.findall(r"^\s*([a-z_]+)\s+([^;{]+);", text, re.MULTILINE))


def test_it_says_what_a_gateway_needs(project: Path) -> None:
    """Bodies have as much room as the gateway gives, answers more time, and nothing holds streams back."""
    found = directives(project)
    assert found["proxy_http_version"] == "1.1"
    assert int(found["client_max_body_size"].removesuffix("m")) * 2**20 == Limits().chat_body_bytes
    assert int(found["proxy_read_timeout"].removesuffix("s")) > Timeouts().total
    assert found["ignore_invalid_headers"] == "off"
    assert not {"proxy_ignore_headers", "gzip", "gzip_types", "proxy_cache"} & set(found)
    text = (project / "deploy/nginx.conf").read_text()
    assert "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;" in text
    assert 'proxy_set_header Connection "";' in text
    assert text.count("{") == text.count("}")


@dataclass(frozen=True)
class Front:
    """nginx in front of a gateway, and the provider behind it."""

    port: int
    server: ServerProcess
    openrouter: OpenRouter
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def nginx(folder: Path, example: str, gateway_port: int) -> Iterator[int]:
    """Run nginx with the example, but for its addresses and its certificate."""
    port = free_port()
    text = example.replace("127.0.0.1:5000", f"127.0.0.1:{gateway_port}")
    text = re.sub(r"listen 80;", f"listen 127.0.0.1:{free_port()};", text)
    text = re.sub(r"listen 443 ssl http2;", f"listen 127.0.0.1:{port};", text)
    text = re.sub(r"^\s*ssl_.*$", "", text, flags=re.MULTILINE)
    (folder / "aipasta.conf").write_text(text)
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder, user="" if os.getuid() else "user root;"))
    command = [str(NGINX), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with (folder / "nginx.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_for(port, process, folder / "nginx.log")
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return


@contextmanager
def fronted(folder: Path, project: Path, mongodb_uri: str) -> Iterator[Front]:
    example = (project / "deploy/nginx.conf").read_text()
    with OpenRouter().in_thread() as openrouter:
        settings = {
            "MONGODB_URI": mongodb_uri,
            "OPENROUTER_BASE_URL": openrouter.base_url,
            "OPENROUTER_API_KEY": "sk-or-v1-canary",
            "TRUSTED_PROXIES": "127.0.0.1",
        }
        with (
            serving_process(folder, **settings) as server,
            nginx(folder, example, int(server.base_url.rsplit(":", 1)[1])) as port,
        ):
            yield Front(port, server, openrouter, server.new_key(server.sign_up()))


def _streams_unbuffered(front: Front) -> None:
    front.openrouter.script.enqueue(Behaviour(pieces=3, delay_between=0.5))
    headers = {"authorization": f"Bearer {front.key}"}
    body = ask(FREE, stream=True)
    with httpx.stream(
        "POST", f"{front.url}/v1/chat/completions", json=body, headers=headers, timeout=30
    ) as answer:
        pieces = answer.iter_bytes()
        seen = next(pieces)
        assert front.openrouter.books[-1].closed is None
        assert b"content" in seen
        assert b"[DONE]" not in seen
        assert b"[DONE]" in b"".join(pieces)


def _knows_the_client(front: Front) -> None:
    left = []
    for source, claimed in (("127.0.0.2", "9.9.9.9"), ("127.0.0.2", "8.8.8.8"), ("127.0.0.3", "8.8.8.8")):
        transport = httpx.HTTPTransport(local_address=source)
        with httpx.Client(transport=transport) as http:
            answer = http.get(f"{front.url}/api/models", headers={"x-forwarded-for": claimed})
            left.append(int(answer.headers["ratelimit-remaining"]))
    assert left[0] - left[1] == 1
    assert left[2] == left[0]


def _refuses_smuggling(front: Front) -> None:
    found = {name: _statuses(front.port, request.encode()) for name, request in SMUGGLING.items()}
    refused = {name: statuses for name, statuses in found.items() if statuses in (["400"], ["501"], [])}
    assert refused == found


def _statuses(port: int, request: bytes) -> list[str]:
    """Send bytes, and return the statuses of all answers until the server closes or falls silent."""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(request)
        connection.settimeout(1.0)
        seen = b""
        try:
            while piece := connection.recv(65_536):
                seen += piece
        except (TimeoutError, ConnectionResetError):
            pass
    return re.findall(r"HTTP/1\.[01] (\d{3})", seen.decode("latin-1"))


def _refuses_in_our_shapes(front: Front) -> None:
    big = json.dumps(ask(FREE, "x" * (Limits().chat_body_bytes + 1024)))
    headers = {"authorization": f"Bearer {front.key}", "content-type": "application/json"}
    answer = httpx.post(f"{front.url}/v1/chat/completions", content=big, headers=headers, timeout=30)
    assert answer.status_code == 413
    ours = PayloadTooLarge("The body is too large.")
    assert answer.json() == {**_envelope(ours), **openai_body(ours)}
    assert httpx.get(f"{front.url}/metrics").status_code == 404
    unknown = httpx.get(f"{front.url}/v1/models/openai%2Fgpt-4o-mini", headers=headers)
    assert unknown.json()["error"]["code"] == "model_not_found"


def _envelope(error: PayloadTooLarge) -> dict[str, Any]:
    told = envelope(error, now=utc_now())
    return {name: value for name, value in told.items() if name != "timestamp"}


def _notices_a_client_that_leaves(front: Front, mongodb_uri: str) -> None:
    front.openrouter.script.enqueue(Behaviour(pieces=200, delay_between=0.05, provider="DeepInfra"))
    headers = {"authorization": f"Bearer {front.key}"}
    body = ask(FREE, stream=True)
    with httpx.stream(
        "POST", f"{front.url}/v1/chat/completions", json=body, headers=headers, timeout=30
    ) as answer:
        next(answer.iter_bytes())
    front.openrouter.books.wait_until(lambda books: books[-1].state != "running")
    with MongoClient[dict[str, Any]](mongodb_uri) as client:
        events = client.get_default_database()["usageevents"]
        deadline = time.monotonic() + 10
        while not events.count_documents({"outcome": "client_gone"}):
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)


@pytest.mark.long
def test_nginx_in_front_of_a_gateway(project: Path, mongodb_uri: str, tmp_path: Path) -> None:
    """Streams pass unbuffered, the true client counts, smuggling is refused, refusals and disconnects get through.

    Where there is no nginx, what the example says is all that can be asserted.
    """
    test_it_says_what_a_gateway_needs(project)
    if NGINX is None:
        return
    with fronted(tmp_path, project, mongodb_uri) as front:
        _streams_unbuffered(front)
        _knows_the_client(front)
        _refuses_in_our_shapes(front)
        _refuses_smuggling(front)
        _notices_a_client_that_leaves(front, mongodb_uri)
        assert front.server.stop() == 0
