"""The web frontend's calls, in its order and with its headers, from a browser that enforces CORS.

What the frontend reads of an answer is what is asserted of it here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from proxy.core.routing import Role
from tests.admin_api.playground import FREE, playground
from tests.upstreams import Behaviour

ORIGIN = "http://localhost:3000"
PAID = "openai/gpt-4o"
OPEN = "meta-llama/Llama-3.3-70B-Instruct"
PASSWORD = "pasta al forno 7"
SIMPLE_METHODS = {"GET", "HEAD", "POST"}
USER_AGENT = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/147.0.0.0 Safari/537.36"
)


class BlockedByCors(Exception):
    """The browser does not let the page have what it asked for."""


@dataclass
class Browser:
    """A page of the frontend: it asks before it sends what is not simple, and reads what it may."""

    http: httpx.AsyncClient
    origin: str = ORIGIN
    token: str | None = None
    preflights: list[str] = field(default_factory=list)

    async def fetch(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Do what `fetch` does with its default credentials: no cookie is sent to another origin, none is kept."""
        # Every call of the frontend names a content type that is not simple, reading ones too.
        sent = {"content-type": "application/json"} | (headers or {})
        await self._ask(method, path, sorted(sent))
        self.http.cookies.clear()
        answer = await self.http.request(
            method, path, json=body, headers={**sent, "origin": self.origin, "user-agent": USER_AGENT}
        )
        self.http.cookies.clear()
        self._check_origin(answer)
        return answer

    async def api(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Call as the frontend's client does: with the token it keeps, and who it is."""
        headers = {"x-client-info": USER_AGENT[:100]}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        return await self.fetch(method, path, body, headers=headers)

    async def _ask(self, method: str, path: str, names: list[str]) -> None:
        """Send the preflight, and refuse as a browser does."""
        asked = {
            "origin": self.origin,
            "access-control-request-method": method,
            "access-control-request-headers": ",".join(names),
        }
        answer = await self.http.options(path, headers=asked)
        self.preflights.append(f"{method} {path.partition('?')[0]}")
        self._check_origin(answer)
        if not answer.is_success:
            raise BlockedByCors(f"the preflight of {path} was answered {answer.status_code}")
        methods = _listed(answer, "access-control-allow-methods")
        allowed = {name.lower() for name in _listed(answer, "access-control-allow-headers")}
        if method not in SIMPLE_METHODS | methods or not set(names) <= allowed:
            raise BlockedByCors(f"{method} {path} with {names}")

    def _check_origin(self, answer: httpx.Response) -> None:
        if answer.headers.get("access-control-allow-origin") not in (self.origin, "*"):
            raise BlockedByCors(f"{answer.request.method} {answer.request.url.path} for {self.origin}")


def _listed(answer: httpx.Response, header: str) -> set[str]:
    return {name.strip() for name in answer.headers.get(header, "").split(",")}


def succeeded(answer: httpx.Response, status: int = 200) -> Any:
    """Return what the frontend reads of a success."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["status"] == "success"
    return body


async def registered(browser: Browser, email: str = "asha@example.com") -> dict[str, Any]:
    """Fill in the form; keep the token."""
    form = {"name": "Asha", "email": email, "password": PASSWORD}
    body = succeeded(await browser.fetch("POST", "/api/auth/register", form), 201)
    browser.token = body["token"]
    user: dict[str, Any] = body["data"]["user"]
    return user


def credits_of(user: dict[str, Any]) -> int:
    """Compute what the frontend shows as credits; without them it refuses to send."""
    return int(user.get("credits") or user["tokens"]["balance"])


async def loaded(browser: Browser) -> list[dict[str, Any]]:
    """Load the page: health, who am I, models and sessions; return the sessions."""
    assert (await browser.fetch("GET", "/health")).status_code == 200
    user = succeeded(await browser.api("GET", "/api/auth/me"))["data"]["user"]
    assert credits_of(user) > 0
    models = succeeded(await browser.api("GET", "/api/models"))["data"]["models"]
    for model in models:
        assert len(model["id"]) >= 3
        assert all(model[name].lower() is not None for name in ("name", "provider", "description"))
        assert {"input", "output", "image"} <= model["pricing"].keys()
        assert {"text", "image", "audio"} <= model["capabilities"].keys()
    sessions = succeeded(await browser.api("GET", "/api/chat/sessions"))["data"]["sessions"]
    for session in sessions:
        assert session["_id"]
        assert session["title"]
        assert session["createdAt"]
    return list(sessions)


def chat_body(message: str, model: str, session: str | None) -> dict[str, Any]:
    return {
        "message": message,
        "modelId": model,
        "sessionId": session,
        "options": {"temperature": 0.7, "max_tokens": 1000},
    }


async def test_a_day_of_the_frontend(mongodb_uri: str) -> None:
    """Register, load, chat with two models at once, reload, open, go on, delete, log out: every call succeeds."""
    async with playground(mongodb_uri) as play:
        browser = Browser(play.gateway.http)
        assert (await browser.fetch("GET", "/health")).status_code == 200
        assert credits_of(await registered(browser)) == 50
        assert await loaded(browser) == []

        created = await browser.api("POST", "/api/chat/sessions", {"title": "What is ragu", "modelId": FREE})
        session = succeeded(created, 201)["data"]["session"]["_id"]
        answers = await asyncio.gather(
            *(
                browser.api("POST", "/api/chat", chat_body("What is ragu?", model, session))
                for model in (FREE, OPEN)
            )
        )
        for answer in answers:
            data = succeeded(answer)["data"]
            assert data["aiMessage"]["content"] == "You said: What is ragu?"
            assert data["aiMessage"]["usage"]["prompt_tokens"] > 0
            assert credits_of(data["user"]) in (48, 49)
        sent = [*play.openrouter.books, *play.huggingface.books]
        assert {entry.body["max_tokens"] for entry in sent} == {1000}

        (shown,) = await loaded(browser)
        assert shown["title"] == "What is ragu"
        opened = succeeded(await browser.api("GET", f"/api/chat/sessions/{session}?page=1&limit=50"))["data"]
        assert opened["session"]["_id"] == session
        assert opened["pagination"]["total"] == len(opened["messages"]) == 4
        for message in opened["messages"]:
            assert message["_id"]
            assert message["createdAt"]
            assert message["content"].endswith("What is ragu?")
        replies = [message for message in opened["messages"] if message["role"] == "assistant"]
        assert {reply["model"]["provider"] for reply in replies} == {"openrouter", "huggingface"}

        again = await browser.api("POST", "/api/chat", chat_body("And why?", FREE, session))
        assert succeeded(again)["data"]["aiMessage"]["content"] == "You said: And why?"
        assert len(play.openrouter.books[-1].body["messages"]) == 5

        deleted = await browser.api("DELETE", f"/api/chat/sessions/{session}")
        assert deleted.is_success
        assert await loaded(browser) == []
        gone = await browser.api("GET", f"/api/chat/sessions/{session}?page=1&limit=50")
        assert gone.status_code == 404

        succeeded(await browser.api("POST", "/api/auth/logout"))
        assert (await browser.api("GET", "/api/auth/me")).status_code == 401
        form = {"email": "asha@example.com", "password": PASSWORD}
        body = succeeded(await browser.fetch("POST", "/api/auth/login", form))
        assert credits_of(body["data"]["user"]) == 47
        assert "GET /health" in browser.preflights
        assert "DELETE /api/chat/sessions/" + session in browser.preflights


async def test_what_the_frontend_shows_of_refusals(mongodb_uri: str) -> None:
    """Every refusal reaches the page, CORS and all, with the code by which it chooses what to show."""
    async with playground(mongodb_uri) as play:
        browser = Browser(play.gateway.http)
        await registered(browser)
        taken = await browser.fetch(
            "POST", "/api/auth/register", {"name": "Asha", "email": "asha@example.com", "password": PASSWORD}
        )
        assert (taken.status_code, taken.json()["message"]) == (400, "User with this email already exists")
        wrong = {"email": "asha@example.com", "password": "wrong"}
        assert (await browser.fetch("POST", "/api/auth/login", wrong)).json()["message"]
        paid = (await browser.api("POST", "/api/chat", chat_body("hi", PAID, None))).json()
        assert (paid["code"], paid["requiredPlan"]) == ("PAYWALL", "premium")
        assert credits_of(paid["user"]) == 50
        play.openrouter.script.enqueue(Behaviour(error="502_documented"))
        failed = await browser.api("POST", "/api/chat", chat_body("hi", FREE, None))
        assert (failed.status_code, failed.json()["code"]) == (502, "PROVIDER_ERROR")
        assert failed.json()["provider"] == "openrouter"
        unknown = await browser.api("POST", "/api/chat", chat_body("hi", "gone/model", None))
        assert unknown.status_code == 404
        assert (await browser.api("POST", "/api/errors", {"message": "x"})).status_code == 404
        browser.token = "not.a.token"
        assert (await browser.api("GET", "/api/auth/me")).status_code == 401
        assert await play.documents("chatmessages") == []


async def test_sessions_that_the_frontend_made_up(mongodb_uri: str) -> None:
    """When the frontend could not make a session its own ids are good for a chat all the same."""
    async with playground(mongodb_uri) as play:
        browser = Browser(play.gateway.http)
        await registered(browser)
        for made_up in ("local_fallback", "local_session_1757000000000_k3j5h2lqa"):
            succeeded(await browser.api("POST", "/api/chat", chat_body("hello", FREE, made_up)))
        assert len(await loaded(browser)) == 2


async def test_another_origin_reads_nothing(mongodb_uri: str) -> None:
    """A page of an origin that is not allowed gets neither a preflight nor an answer through its browser."""
    async with playground(mongodb_uri) as play:
        person = await play.person(Role.PREMIUM)
        browser = Browser(play.gateway.http, origin="https://evil.example")
        browser.token = person.headers["authorization"].removeprefix("Bearer ")
        for method, path in (("GET", "/api/auth/me"), ("POST", "/api/chat"), ("GET", "/health")):
            with pytest.raises(BlockedByCors):
                await browser.api(method, path, {})
        assert len(play.openrouter.books) == 0
