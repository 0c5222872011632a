"""`doctor`: what the gateway lacks, and what to do about it."""

from __future__ import annotations

import argparse
import asyncio

from admin_api.documents import DOCUMENTS
from proxy import logs
from proxy.clock import utc_now
from proxy.commands.reporting import reporting
from proxy.commands.store import mongodb
from proxy.doctor import Doctor, Finding, Verdict
from proxy.endpoints import endpoints
from proxy.mongod import MongodError
from proxy.relay import Relay
from proxy.settings import Settings


@reporting
def run(settings: Settings, _options: argparse.Namespace) -> int:
    """Look at everything that the gateway needs; the exit status says whether it can serve."""
    hide = logs.hide(settings.secrets())
    problems = 0

    def show(finding: Finding) -> None:
        nonlocal problems
        problems += finding.verdict is Verdict.PROBLEM
        shown = hide(None, "", {"text": finding.text, "advice": finding.advice})
        print(f"{finding.verdict:8} {finding.subject:24} {shown['text']}", flush=True)
        if finding.advice:
            print(f"{'':33} -> {shown['advice']}", flush=True)

    async def look(uri: str | None) -> None:
        relay = Relay(endpoints(settings, utc_now))
        doctor = Doctor(settings, relay, DOCUMENTS, clock=utc_now)
        async for finding in doctor.examine(uri):
            show(finding)
        await relay.aclose()

    try:
        with mongodb(settings) as (uri, _):
            asyncio.run(look(uri))
    except MongodError as exc:
        show(Finding(Verdict.PROBLEM, "database", str(exc), "Mend that, or set MONGODB_URI."))
        asyncio.run(look(None))
    print(
        "the gateway can serve" if problems == 0 else f"{problems} to be mended before the gateway can serve"
    )
    return 1 if problems else 0
