"""Mixed traffic, as a day brings it: chats and streams, clients that leave, mistakes, the account service, sign-ins."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from httpx_aiohttp import AiohttpTransport

from tests.torture.shots import Leave, Shot, fire
from tests.torture.world import MODEL, World

PASSWORD = "a long secret of mine"
ACCOUNTS = 3
MOST_BOOKED = 5_000
"""Entries after which the simulated provider begins a new book: it is not its memory that is measured."""

_LARGE = 200_000
_PATHS = (
    "/api/models?limit=20",
    "/api/user/stats",
    "/api/user/api-keys",
    "/api/chat/sessions",
    "/api/auth/me",
)
EXPECTED = {200, 201, 400, 401, 404, 502}
"""Statuses that this traffic earns; a provider of ours fails now and then."""


@dataclass
class Traffic:
    """What is sent to one gateway, and what came back."""

    world: World
    http: httpx.AsyncClient
    keys: list[str]
    emails: list[str]
    tokens: list[str]
    most: float
    requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    is_over: bool = False

    @property
    def dice(self) -> random.Random:
        """Return what everything is decided with."""
        return self.world.dice

    @property
    def surprises(self) -> dict[str, int]:
        """Return what was answered that should not have been."""
        expected = {f"{kind} {status}" for kind in _KINDS for status in EXPECTED} | {"shot left"}
        return {name: count for name, count in self.statuses.items() if name not in expected}

    async def run(self) -> None:
        """Ask again and again until it is over, or enough has been asked."""
        kinds, weights = zip(*_KINDS.items(), strict=True)
        while not self.is_over and self.requests < self.most:
            self.requests += 1
            kind = self.dice.choices(kinds, [weight for weight, _ in weights])[0]
            self.statuses[f"{kind} {await _KINDS[kind][1](self)}"] += 1
            if len(self.world.upstream.books) > MOST_BOOKED:
                self.world.upstream.books.clear()

    async def shot(self) -> str:
        """Ask over a connection of its own, as a whole or as a stream, and perhaps leave early."""
        dice = self.dice
        leave = Leave.NEVER if dice.random() < 0.7 else dice.choice(list(Leave)[1:])
        shot = Shot(
            self.requests,
            "",
            stream=dice.random() < 0.7,
            max_tokens=dice.choice((16, 60)),
            leave=leave,
            words=dice.choice((1, 20, 400)),
        )
        await fire(shot, dice.choice(self.keys), MODEL, self.world.gateways[0].port)
        return str(shot.status) if leave is Leave.NEVER else "left"

    async def chat(self) -> str:
        """Ask over a connection that is kept."""
        return await self._chat(MODEL, "hello there", stream=self.dice.random() < 0.5)

    async def large(self) -> str:
        """Ask with a long prompt."""
        return await self._chat(MODEL, "word " * (_LARGE // 5))

    async def mistake(self) -> str:
        """Ask for what there is not, with a wrong key, or in bad JSON."""
        kind = self.dice.randrange(3)
        if kind == 0:
            return await self._chat(f"no/model-{self.dice.randrange(10**6)}", "hello")
        if kind == 1:
            return await self._status("GET", "/v1/models", headers={"authorization": "Bearer aipasta_nobody"})
        headers = {"authorization": f"Bearer {self.dice.choice(self.keys)}"}
        return await self._status("POST", "/v1/chat/completions", content=b'{"model":', headers=headers)

    async def account(self) -> str:
        """Read something of an account."""
        return await self._status("GET", self.dice.choice(_PATHS), headers=self._session())

    async def playground(self) -> str:
        """Ask in the playground."""
        question = {"message": "Hello", "modelId": MODEL, "stream": self.dice.random() < 0.5}
        return await self._status("POST", "/api/chat", json=question, headers=self._session())

    async def sign_in(self) -> str:
        """Sign in, and go on with the new token."""
        at = self.dice.randrange(len(self.emails))
        body = {"email": self.emails[at], "password": PASSWORD}
        answer = await self.http.post("/api/auth/login", json=body)
        if answer.is_success:
            self.tokens[at] = answer.json()["token"]
        return str(answer.status_code)

    async def watch(self) -> str:
        """Look at it as Prometheus and a load balancer do."""
        return await self._status("GET", self.dice.choice(("/metrics", "/health/ready", "/health")))

    def _session(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.dice.choice(self.tokens)}"}

    async def _chat(self, model: str, text: str, **fields: Any) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 30, **fields}
        headers = {"authorization": f"Bearer {self.dice.choice(self.keys)}"}
        return await self._status("POST", "/v1/chat/completions", json=body, headers=headers)

    async def _status(self, method: str, path: str, **request: Any) -> str:
        answer = await self.http.request(method, path, **request)
        told = "" if answer.status_code in EXPECTED else f" {answer.text[:200]}"
        return f"{answer.status_code}{told}"


_KINDS: dict[str, tuple[int, Callable[[Traffic], Awaitable[str]]]] = {
    "shot": (50, Traffic.shot),
    "chat": (20, Traffic.chat),
    "account": (15, Traffic.account),
    "mistake": (8, Traffic.mistake),
    "playground": (3, Traffic.playground),
    "watch": (2, Traffic.watch),
    "large": (1, Traffic.large),
    "sign_in": (1, Traffic.sign_in),
}


@asynccontextmanager
async def traffic(world: World, most: float) -> AsyncIterator[Traffic]:
    """Make accounts and keys, and yield traffic of at most so many requests."""
    base_url = f"http://127.0.0.1:{world.gateways[0].port}"
    transport = AiohttpTransport(trust_env=False)
    async with httpx.AsyncClient(base_url=base_url, transport=transport, timeout=60) as http:
        keys = [(await world.add_key(f"soak{number}")).secret for number in range(ACCOUNTS)]
        emails = [f"asha{number}@example.com" for number in range(ACCOUNTS)]
        tokens = [await _sign_up(http, email) for email in emails]
        await world.store["users"].update_many({"email": {"$in": emails}}, {"$set": {"role": "premium"}})
        yield Traffic(world, http, keys, emails, tokens, most)


async def _sign_up(http: httpx.AsyncClient, email: str) -> str:
    body = {"name": "Asha", "email": email, "password": PASSWORD}
    answer = await http.post("/api/auth/register", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])
