"""No secret leaves the place where it belongs: canaries are sent on every way, and then looked for everywhere.

Looked at are the bodies and headers of all answers, the log at its most talkative, the metrics, the export, the
journal, and every document of the database.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email import message_from_bytes
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult
from bson import json_util
from pymongo import MongoClient

from admin_api.openapi.document import OPERATIONS
from proxy import security
from tests.proxy.stage import FREE, MINI, ask
from tests.server_process import free_port, run_command, serving_process
from tests.upstreams import Behaviour, HuggingFace, OpenRouter
from tests.upstreams.failure import Failure

ADMIN = "root@example.com"
ASHA = "asha@example.com"


def canary(prefix: str = "") -> str:
    return f"{prefix}canary{secrets.token_hex(12)}"


@dataclass
class Secrets:
    """What must not be found, by what it is."""

    configured: dict[str, str] = field(
        default_factory=lambda: {
            "OPENROUTER_API_KEY": canary("sk-or-v1-"),
            "HUGGINGFACE_API_KEY": canary("hf_"),
            "JWT_SECRET": canary("a-signing-secret-of-enough-length-"),
            "JWT_ACCEPTED_SECRETS": canary("another-secret-of-enough-length-"),
            "ADMIN_PASSWORD": canary("admin-"),
            "METRICS_TOKEN": canary("metrics-"),
            "mongodb": canary("mongodb"),
            "smtp": canary("smtp"),
        }
    )
    of_users: dict[str, str] = field(
        default_factory=lambda: {
            "password": canary("pass-"),
            "new password": canary("pass-"),
            "wrong password": canary("pass-"),
            "forged key": security.new_api_key().secret,
        }
    )

    def all(self) -> dict[str, str]:
        return self.configured | self.of_users

    def found_in(self, text: str) -> set[str]:
        """Return which of them stand in a text, as they are, in base64, or as URLs write them."""
        found = set()
        for name, secret in self.all().items():
            forms = {
                secret,
                base64.b64encode(secret.encode()).decode().rstrip("="),
                secret.replace("-", "%2D"),
            }
            if any(form in text for form in forms):
                found.add(name)
        return found


@dataclass
class Client:
    """Asks, and looks at every answer; what an answer may hold is what was asked for."""

    http: httpx.Client
    kept: Secrets
    answers: int = 0

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        bearer: str = "",
        may: tuple[str, ...] = (),
        **more: Any,
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
        headers |= more.pop("headers", {})
        content = None if body is None else json.dumps(body)
        answer = self.http.request(method, path, headers=headers, content=content)
        self.http.cookies.clear()
        text = f"{answer.headers}\n{answer.text}"
        found = self.kept.found_in(text) - set(may)
        assert not found, f"{method} {path} gives away {found}: {text[:2000]}"
        self.answers += 1
        return answer


class Mailbox:
    """Keeps the tokens of the links that are mailed."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    async def handle_DATA(self, _server: SMTP, _session: Any, envelope: Any) -> str:  # noqa: N802  aiosmtpd's name
        text = message_from_bytes(envelope.content).get_payload(decode=True)
        assert isinstance(text, bytes)
        found = re.search(r"/reset-password/(\S+)", text.decode())
        assert found is not None
        self.tokens.append(found[1])
        return "250 taken"


@contextlib.contextmanager
def mail_server(user: str, password: str) -> Iterator[tuple[Mailbox, str]]:
    """Run a mail server that takes one user's mails; yield its mailbox and its URL."""

    def check(_server: Any, _session: Any, _envelope: Any, _mechanism: str, given: Any) -> AuthResult:
        return AuthResult(success=given.password.decode() == password)

    mailbox = Mailbox()
    controller = Controller(
        mailbox,
        hostname="127.0.0.1",
        port=free_port(),
        authenticator=check,
        auth_require_tls=False,
    )
    controller.start()
    try:
        yield mailbox, f"smtp://{user}:{password}@127.0.0.1:{controller.port}"
    finally:
        controller.stop()


def uri_with_password(uri: str, password: str) -> str:
    """Make a user in the database, and return the address with which he signs in."""
    with MongoClient[dict[str, Any]](uri) as client:
        user = f"u{secrets.token_hex(4)}"
        roles = ["readWriteAnyDatabase", "dbAdminAnyDatabase"]
        client["admin"].command("createUser", user, pwd=password, roles=roles)
    return uri.replace("mongodb://", f"mongodb://{user}:{password}@") + "&authSource=admin"


@pytest.mark.long
def test_secrets_stay_where_they_belong(tmp_path: Path, mongodb_uri: str) -> None:
    """Neither configured secrets nor keys, passwords and tokens of users are in any answer, log, metric or document."""
    kept = Secrets()
    with (
        OpenRouter(keys=frozenset({kept.configured["OPENROUTER_API_KEY"]})).in_thread() as openrouter,
        HuggingFace(keys=frozenset({kept.configured["HUGGINGFACE_API_KEY"]})).in_thread() as huggingface,
        mail_server("gateway", kept.configured["smtp"]) as (mailbox, smtp_url),
    ):
        settings = {
            **{name: secret for name, secret in kept.configured.items() if name.isupper()},
            "MONGODB_URI": uri_with_password(mongodb_uri, kept.configured["mongodb"]),
            "SMTP_URL": smtp_url,
            "ADMIN_EMAIL": ADMIN,
            "FRONTEND_URL": "https://app.example.com",
            "OPENROUTER_BASE_URL": openrouter.base_url,
            "HUGGINGFACE_BASE_URL": huggingface.base_url,
            "LOG_LEVEL": "debug",
        }
        with (
            serving_process(tmp_path, **settings) as server,
            httpx.Client(base_url=server.base_url, timeout=30, trust_env=False) as http,
        ):
            client = Client(http, kept)
            _live(client, mailbox)
            _fail(client, openrouter, huggingface)
            _try_everything(client)
            client.send("GET", "/metrics", bearer=kept.configured["METRICS_TOKEN"])
            assert client.answers > 4 * len(OPERATIONS)
            assert server.stop() == 0
        log = server.log.read_text()
        assert kept.found_in(log) == set()
        assert "unhandled exception" not in log
        for name, text in [*_documents(mongodb_uri), *_files(tmp_path, server.log)]:
            assert kept.found_in(text) == set(), name


def _live(client: Client, mailbox: Mailbox) -> None:
    """Sign up and in, forget the password, make a key, chat, export: all that goes well."""
    known = client.kept.of_users
    registration = {"name": "Asha", "email": ASHA, "password": known["password"]}
    known["first token"] = client.send("POST", "/api/auth/register", registration).json()["token"]
    client.send("POST", "/api/auth/forgot-password", {"email": ASHA})
    for _ in itertools.takewhile(lambda _: not mailbox.tokens, range(200)):
        client.send("GET", "/health/ready")
    known["reset token"] = mailbox.tokens[0]
    reset = {"password": known["new password"]}
    path = f"/api/auth/reset-password/{known['reset token']}"
    known["second token"] = client.send("PATCH", path, reset).json()["token"]
    client.send("PATCH", path, reset)
    answer = client.send("POST", "/api/auth/login", {"email": ASHA, "password": known["new password"]})
    known["token"] = answer.json()["token"]
    answer = client.send("POST", "/api/user/api-keys", {"name": "k"}, bearer=known["token"])
    known["key"] = answer.json()["data"]["apiKey"]
    for body in (ask(FREE), ask(FREE, stream=True)):
        assert client.send("POST", "/v1/chat/completions", body, bearer=known["key"]).status_code == 200
    chat = {"message": "hello", "modelId": FREE}
    assert client.send("POST", "/api/chat", chat, bearer=known["token"]).status_code == 200
    assert client.send("GET", "/api/user/export", bearer=known["token"]).status_code == 200


def _fail(client: Client, openrouter: OpenRouter, huggingface: HuggingFace) -> None:
    """Let the providers fail with words that repeat our keys, before an answer and in the middle of one."""
    known = client.kept.of_users
    admin = {"email": ADMIN, "password": client.kept.configured["ADMIN_PASSWORD"]}
    known["admin's token"] = client.send("POST", "/api/auth/login", admin).json()["token"]
    answer = client.send("POST", "/api/user/api-keys", {"name": "k"}, bearer=known["admin's token"])
    known["admin's key"] = answer.json()["data"]["apiKey"]
    for upstream, model, name in (
        (openrouter, MINI, "OPENROUTER_API_KEY"),
        (huggingface, "huggingface/openai/gpt-oss-120b", "HUGGINGFACE_API_KEY"),
    ):
        words = f"Incorrect API key {client.kept.configured[name]} for Bearer {client.kept.configured[name]}"
        for status, after, stream in itertools.product((400, 401, 402, 429, 500), (None, 2), (False, True)):
            error = Failure(status, {"error": {"message": words, "code": status, "type": words}})
            upstream.script.enqueue(Behaviour(error=error, error_after=after))
            body = ask(model, stream=stream)
            client.send("POST", "/v1/chat/completions", body, bearer=known["admin's key"])
            upstream.script.clear()
        upstream.script.enqueue(Behaviour(error=Failure(401, {"error": {"message": words}})), path="/models")
        client.send("POST", "/api/models/sync", {}, bearer=known["admin's token"])
        upstream.script.clear()


def _try_everything(client: Client) -> None:
    """Send every credential to every route, well and badly, in headers, bodies, cookies and URLs."""
    known = client.kept.of_users
    secret = known["wrong password"]
    client.send("POST", "/api/auth/login", {"email": ASHA, "password": secret})
    client.send(
        "POST",
        "/api/auth/login",
        {"email": secret, "password": secret, secret: secret},
        may=("wrong password",),
    )
    keys = ("forged key", "token", "key", "admin's token", "admin's key")
    ends_sign_in = {"/api/auth/logout", "/api/auth/refresh", "/api/user/account"}
    for (method, path), name in itertools.product(OPERATIONS, keys):
        if path in ends_sign_in:
            continue
        filled = path.replace("{model_id}", "x").replace("{model}", "x").replace("{category}", "x")
        filled = re.sub(r"{\w+}", "0" * 24, filled)
        client.send(method.upper(), filled, None if method == "get" else {}, bearer=known[name])
    for query in ("api_key", "apikey", "key", "token", "access_token"):
        answer = client.send("GET", f"/v1/models?{query}={known['key']}")
        assert answer.status_code == 400
    for headers in (
        {"cookie": f"jwt={known['token']}x", "origin": "https://evil.example"},
        {"x-request-id": known["key"]},
        {"x-api-key": known["forged key"]},
        {"authorization": f"Basic {known['key']}"},
    ):
        client.send("GET", "/api/auth/me", headers=headers)
    refreshed = client.send("POST", "/api/auth/refresh", bearer=known["token"])
    known["refreshed token"] = refreshed.json()["token"]
    client.send("GET", "/api/admin/audit?limit=100", bearer=known["admin's token"])
    client.send("GET", "/api/admin/system", bearer=known["admin's token"])


def _documents(uri: str) -> Iterator[tuple[str, str]]:
    with MongoClient[dict[str, Any]](uri) as client:
        database = client.get_default_database()
        for name in database.list_collection_names():
            for document in database[name].find():
                yield f"{name} {document['_id']}", json_util.dumps(document)


def _files(folder: Path, log: Path) -> Iterator[tuple[str, str]]:
    for path in folder.rglob("*"):
        if path.is_file() and path != log:
            yield str(path), path.read_bytes().decode("latin-1")


@pytest.mark.parametrize(
    ("settings", "secret"),
    [
        ({"MONGODB_URI": "http://me:{}@127.0.0.1/x"}, "canary-of-mongodb"),
        ({"SMTP_URL": "imap://me:{}@127.0.0.1"}, "canary-of-smtp"),
        ({"ADMIN_PASSWORD": "{}"}, "canary-of-admin"),
        ({"JWT_SECRET": "{}", "ENVIRONMENT": "production"}, "canary-of-jwt"),
        ({"JWT_ACCEPTED_SECRETS": "{}", "ENVIRONMENT": "production"}, "canary-of-jwt"),
        ({"ADMIN_PASSWORD": "{}", "ADMIN_EMAIL": "nonsense"}, "canary-of-admin"),
    ],
)
def test_a_start_that_fails_names_no_secret(
    tmp_path: Path, mongodb_uri: str, settings: Mapping[str, str], secret: str
) -> None:
    """What is wrong with a setting is said without its value, where the value is a secret."""
    filled: dict[str, Any] = {"MONGODB_URI": mongodb_uri}
    filled |= {name: value.format(secret) for name, value in settings.items()}
    done = run_command(tmp_path, "serve", **filled)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert secret not in done.stdout + done.stderr
