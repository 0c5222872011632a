"""A simulated Parrot: its API is nobody else's, and it keeps books of what it billed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from aiohttp import web

PRICES = {"polly": [2, 8], "captain": [20, 80]}
"""Micro-dollars for a word heard and a word said."""


@dataclass
class ParrotServer:
    """Says the last turn again, a word a line; `cut_after` and `oops_after` count the words before it goes wrong."""

    base_url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    books: list[tuple[int, int, Decimal]] = field(default_factory=list)
    cut_after: int | None = None
    oops_after: int | None = None
    line: bytes | None = None
    refusal: int | None = None
    counted: dict[str, Any] | None = None
    prices: dict[str, list[int]] = field(default_factory=lambda: PRICES)

    async def voices(self, request: web.Request) -> web.Response:
        """List the voices and their prices."""
        assert request.headers["x-parrot-key"] == "squawk"
        return web.json_response(self.prices)

    async def speak(self, request: web.Request) -> web.StreamResponse:
        """Answer, as a whole or live."""
        asked = await request.json()
        self.asked.append(asked)
        if self.refusal:
            return web.Response(status=self.refusal, text="squawk, no")
        words = asked["turns"][-1]["says"].split()
        said = words[: asked["limit"]]
        heard = sum(len(turn["says"].split()) for turn in asked["turns"])
        prices = PRICES[asked["voice"]]
        cost = Decimal(heard * prices[0] + len(said) * prices[1]) / 1_000_000
        end = {
            "why": "done" if len(said) == len(words) else "limit",
            "counted": self.counted or {"heard": heard, "said": len(said)},
        }
        head = {"id": f"squawk-{len(self.asked)}", "voice": asked["voice"], "at": 1_790_000_000}
        if not asked["live"]:
            self.books.append((heard, len(said), cost))
            return web.json_response({**head, "says": " ".join(said), **end})
        return await self._live(
            request, [head, *({"w": f"{word} "} for word in said), end], (heard, len(said), cost)
        )

    async def _live(
        self, request: web.Request, lines: list[dict[str, Any]], bill: tuple[int, int, Decimal]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        await response.prepare(request)
        for at, line in enumerate(lines):
            if at - 1 == self.cut_after:
                return response
            if at - 1 == self.oops_after:
                await response.write(b'{"oops": "the parrot is tired", "status": 503}\n')
                return response
            if self.line is not None:
                await response.write(self.line)
            if "counted" in line:
                self.books.append(bill)
            await response.write(json.dumps(line).encode() + b"\n")
            await asyncio.sleep(0)
        return response


@asynccontextmanager
async def serving_parrot() -> AsyncIterator[ParrotServer]:
    """Serve on a free port for a while."""
    parrot = ParrotServer()
    app = web.Application()
    app.router.add_get("/voices", parrot.voices)
    app.router.add_post("/speak", parrot.speak)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        parrot.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield parrot
    finally:
        await runner.cleanup()
