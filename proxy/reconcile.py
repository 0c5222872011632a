"""Asking a provider afterwards what a generation has cost, for streams that were cut before their usage record."""

from __future__ import annotations

import asyncio

import structlog

from plugins.contract import KeepsRecords, Usage
from proxy.relay import Relay, RelayFailed

_FIRST_DELAY, _LONGEST_DELAY = 0.2, 8.0
log = structlog.get_logger(__name__)


class Reconciler:
    """Asks the providers that keep records."""

    def __init__(self, relay: Relay, *, patience: float) -> None:
        """Ask through this relay; a provider has `patience` seconds to write its record, then an estimate has to do."""
        self._relay = relay
        self._patience = patience
        self._in_hurry = asyncio.Event()

    def can_tell(self, provider: str) -> bool:
        """Say whether a provider keeps records at all."""
        endpoint = self._relay.endpoints.get(provider)
        return endpoint is not None and isinstance(endpoint.provider, KeepsRecords)

    def hurry(self) -> None:
        """Ask nobody again: the process is about to end."""
        self._in_hurry.set()

    async def resolve(self, provider: str, generation_id: str) -> Usage | None:
        """Return what a generation used and cost, or `None` when its provider does not tell in time."""
        if not self.can_tell(provider):
            return None
        loop, delay = asyncio.get_running_loop(), _FIRST_DELAY
        deadline = loop.time() + self._patience
        while not self._in_hurry.is_set():
            asked_at = loop.time()
            # Only the account that made a generation can see it, and which of ours that was may have died with a process.
            for key in self._relay.endpoints[provider].api_keys or (None,):
                usage = await self._ask(provider, generation_id, key)
                if usage is not None:
                    return usage
            # By when we asked, not by now: a process that was stopped for a minute asks once more.
            if asked_at + delay > deadline:
                log.info("a generation has no record", provider=provider, generation=generation_id)
                return None
            await self._pause(delay)
            delay = min(delay * 2, _LONGEST_DELAY)
        return None

    async def _ask(self, name: str, generation_id: str, api_key: str | None) -> Usage | None:
        endpoint = self._relay.endpoints[name]
        plugin = endpoint.provider
        if not isinstance(plugin, KeepsRecords):
            return None
        try:
            request = plugin.generation_request(generation_id, api_key)
            status, _, body = await self._relay.fetch(name, request)
        except RelayFailed:
            return None
        return plugin.read_generation(body) if status == 200 else None  # noqa: PLR2004  found

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._in_hurry.wait()
        except TimeoutError:
            return
