"""A provider's bad day under load, and what its callers notice: `python -m tests.bad_day` prints the table.

The same trouble is made three times: for a gateway with one target that is tried once, for one that retries, and for
one that has another provider to fall back on. The simulators' own books judge the money.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families as families

from proxy.core.routing import Role
from proxy.documents import User
from proxy.mongod import embedded_mongod
from tests.proxy.stage import OSS, Stage, ask, staged
from tests.upstreams import Behaviour, Entry

KEYS = tuple(f"sk-or-v1-{number}" for number in range(4))
PATIENCE = {"first_byte": 20, "idle": 20, "total": 60}
IMPATIENT = {"model": f"openrouter/{OSS}", "timeouts": {"first_byte": 0.4}}
BREAKER = {"least_requests": 6, "pause": 0.3, "longest_pause": 0.6}
NEVER = {"least_requests": 10**6}
WAYS: dict[str, dict[str, Any]] = {
    "alone": {"retries": {"rounds": 1, "attempts": 1}, "breaker": NEVER},
    "with retries": {"retries": {"first_wait": 0.05}, "breaker": NEVER},
    "with fallbacks": {"retries": {"first_wait": 0.05}, "breaker": BREAKER},
}
FALLBACKS = {
    "alone": (f"openrouter/{OSS}",),
    "alone, impatient": (IMPATIENT,),
    "both": (f"openrouter/{OSS}", f"huggingface/{OSS}"),
    "both, impatient": (IMPATIENT, f"huggingface/{OSS}"),
}
WIDE = {"dailyRequests": 10**6, "monthlyRequests": 10**6, "monthlyTokens": 10**9}


@dataclass(frozen=True)
class Trouble:
    """What goes wrong: for every request, for every second one, or for half of the keys."""

    name: str
    behaviour: Behaviour
    how_often: str = "always"
    is_slow: bool = False

    def begin(self, stage: Stage, requests: int) -> None:
        """Make it so."""
        script = stage.openrouter.script
        if self.how_often == "every second":
            script.enqueue(self.behaviour, Behaviour(), times=4 * requests)
        for key in KEYS[::2] if self.how_often == "half of the keys" else ():
            script.always(self.behaviour, key=key)
        if self.how_often == "always":
            script.always(self.behaviour)


DAY = (
    Trouble("half of the keys refused", Behaviour(error="401_bad_key"), "half of the keys"),
    Trouble("429 storm", Behaviour(error="429_upstream_no_hint")),
    Trouble("500s, every second", Behaviour(error="503_documented"), "every second"),
    Trouble("errors first in a stream", Behaviour(error="502_documented", error_after=0)),
    Trouble("resets", Behaviour(cut="rst")),
    Trouble("stalls", Behaviour(stall_after=0), is_slow=True),
    Trouble("slow first byte", Behaviour(delay_headers=60), is_slow=True),
)


@dataclass
class Report:
    """What came of one day: the share of good answers by trouble, the breaker's steps, and the money."""

    success: dict[str, float] = field(default_factory=dict)
    served: int = 0
    billed: list[Entry] = field(default_factory=list)
    charged: Decimal = Decimal(0)
    most_charges: int = 0
    steps: dict[str, float] = field(default_factory=dict)
    state: float = 0.0

    @property
    def cost(self) -> Decimal:
        """Return what the providers have billed for the answers that they completed."""
        return sum((entry.cost or Decimal(0) for entry in self.billed), Decimal(0))


async def live(mongodb_uri: str, way: str, *, requests: int, at_once: int) -> Report:
    """Live through one day, and return what came of it."""
    report = Report()
    async with day_begun(mongodb_uri, WAYS[way]) as (stage, user, key):
        model = "both" if way == "with fallbacks" else "alone"
        for trouble in DAY:
            trouble.begin(stage, requests)
            asked = f"{model}, impatient" if trouble.is_slow else model
            good = sum(await load(stage, key, asked, requests=requests, at_once=at_once))
            stage.openrouter.script.clear()
            report.success[trouble.name] = good / requests
            report.served += good + await recover(stage, key, model)
        await stage.gateway.settled()
        await stage.assert_balanced(user)
        await judge(stage, user, report)
    return report


@asynccontextmanager
async def day_begun(
    mongodb_uri: str, resilience: Mapping[str, Any]
) -> AsyncIterator[tuple[Stage, User, str]]:
    async with staged(
        mongodb_uri,
        fallbacks=FALLBACKS,
        resilience=resilience,
        timeouts=PATIENCE,
        provider_keys={"openrouter": KEYS},
    ) as stage:
        user = await stage.gateway.user(Role.PREMIUM, usageLimits=WIDE)
        yield stage, user, await stage.gateway.key(user)


async def load(stage: Stage, key: str, model: str, *, requests: int, at_once: int) -> list[bool]:
    """Ask so often, some at once; say of each answer whether it was a whole one."""
    turns = asyncio.Semaphore(at_once)

    async def one(number: int) -> bool:
        async with turns:
            response = await stage.gateway.chat(key, ask(model, f"request {number}", stream=True))
            return response.status_code == 200 and response.text.endswith("data: [DONE]\n\n")

    return await asyncio.gather(*(one(number) for number in range(requests)))


async def recover(stage: Stage, key: str, model: str) -> int:
    """Ask until the provider that was in trouble serves again; return how many were served meanwhile."""
    for asked in range(1, 200):
        response = await stage.gateway.chat(key, ask(model, "again", stream=True))
        assert response.status_code == 200, response.text
        if response.headers["x-aipasta-provider"] == "openrouter":
            return asked
        await asyncio.sleep(0.05)
    raise AssertionError("the breaker never closed")


async def judge(stage: Stage, user: User, report: Report) -> None:
    """Compare our events with the providers' books, and read the breaker's steps from /metrics."""
    events = [event for event in await stage.gateway.events() if event["userId"] == str(user.id)]
    good = [event for event in events if event["outcome"] == "completed"]
    report.charged = sum((event["costUsd"].to_decimal() for event in good), Decimal(0))
    report.most_charges = max(
        sum(attempt["outcome"] == "completed" for attempt in event["attempts"]) for event in events
    )
    books = [*stage.openrouter.books, *stage.huggingface.books]
    report.billed = [entry for entry in books if entry.state == "completed"]
    for family in families((await stage.gateway.http.get("/metrics")).text):
        for sample in family.samples:
            if sample.labels.get("provider") != "openrouter" or sample.labels.get("model") != OSS:
                continue
            if sample.name == "aipasta_breaker_changes_total":
                report.steps[sample.labels["state"]] = sample.value
            elif sample.name == "aipasta_breaker_state":
                report.state = sample.value


async def live_all(mongodb_uri: str, *, requests: int, at_once: int) -> dict[str, Report]:
    """Live through the day in every way, each on a database of its own."""
    reports = {}
    for number, way in enumerate(WAYS):
        uri = re.sub(r"/(\w+)\?", rf"/\1_{number}?", mongodb_uri)
        reports[way] = await live(uri, way, requests=requests, at_once=at_once)
    return reports


def table(reports: Mapping[str, Report]) -> str:
    """Print the day: how many of the callers' requests succeeded, in every way."""
    lines = [f"{'callers served':26}" + "".join(f"{way:>16}" for way in reports)]
    for trouble in DAY:
        shares = "".join(f"{report.success[trouble.name]:>16.0%}" for report in reports.values())
        lines.append(f"{trouble.name:26}{shares}")
    lines.append(
        f"{'billed by providers, USD':26}" + "".join(f"{report.cost:>16f}" for report in reports.values())
    )
    lines.append(
        f"{'charged to callers, USD':26}" + "".join(f"{report.charged:>16f}" for report in reports.values())
    )
    steps = reports["with fallbacks"].steps
    return "\n".join(
        [*lines, f"breaker: {', '.join(f'{int(count)} x {step}' for step, count in steps.items())}"]
    )


def main() -> None:
    """Run it by hand, on a database of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.bad_day", description=__doc__)
    parser.add_argument("--requests", type=int, default=400, help="requests in each trouble")
    parser.add_argument("--at-once", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, embedded_mongod(Path(folder)) as mongod:
        day = live_all(mongod.uri, requests=options.requests, at_once=options.at_once)
        sys.stdout.write(table(asyncio.run(day)) + "\n")


if __name__ == "__main__":
    main()
