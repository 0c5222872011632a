"""`ledger verify`: every counter against the events."""

from __future__ import annotations

import argparse

from proxy.commands.reporting import reporting
from proxy.commands.store import with_database
from proxy.database import Database
from proxy.metering.verify import Drift, verify
from proxy.settings import Settings


@reporting
def run(settings: Settings, _options: argparse.Namespace) -> int:
    """Recompute every counter from the events; the exit status says whether all are right."""
    drifts: list[Drift] = []

    async def check(store: Database) -> None:
        report = await verify(store)
        for drift in report.drifts:
            print(
                f"{drift.user_id} {drift.counter} {drift.what}: {drift.counted}, should be {drift.expected}"
            )
        print(f"{report.accounts} accounts, {report.events} events, {report.drift} counters adrift")
        print(f"{report.open_holds} requests or leases hold something of a limit now")
        drifts.extend(report.drifts)

    with_database(settings, check)
    return 1 if drifts else 0
