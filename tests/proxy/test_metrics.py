"""Tests of proxy/metrics.py: every request is counted where it belongs, and no client makes a series of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families as families
from prometheus_client.samples import Sample

from proxy.core.routing import Role
from proxy.metrics import Metrics
from tests.proxy.stage import FREE, MINI, PLAIN, Stage, ask, staged
from tests.server_process import environment
from tests.upstreams import Behaviour


async def samples_of(stage: Stage) -> list[Sample]:
    text = (await stage.gateway.http.get("/metrics")).text
    return [sample for family in families(text) for sample in family.samples]


def value(samples: list[Sample], name: str, **labels: str) -> float:
    return sum(
        sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
    )


async def test_tokens_cost_and_endings_are_counted(mongodb_uri: str) -> None:
    """The metrics' tokens, cost and outcomes are those of the provider's books."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.enqueue(
            Behaviour(prompt_tokens=100, cached_tokens=60, completion_tokens=20, reasoning_tokens=7)
        )
        assert (await stage.gateway.chat(key, ask(MINI))).status_code == 200
        assert (await stage.gateway.chat(key, ask(MINI, stream=True))).status_code == 200
        stage.openrouter.script.enqueue(Behaviour(error="503_documented"))
        assert (await stage.gateway.chat(key, ask(MINI))).status_code == 502
        assert (await stage.gateway.chat(key, ask("nobody/knows"))).status_code == 404
        await stage.events(3)
        samples = await samples_of(stage)
        mine = {"provider": "openrouter", "model": MINI}
        books = list(stage.openrouter.books)
        assert value(samples, "aipasta_requests_total", **mine, outcome="completed") == 2
        assert value(samples, "aipasta_requests_total", **mine, outcome="upstream_error") == 1
        assert value(samples, "aipasta_api_requests_total", api="chat", outcome="completed") == 2
        assert value(samples, "aipasta_api_requests_total", api="chat", outcome="upstream_error") == 1
        assert value(samples, "aipasta_tokens_total", **mine, kind="prompt") == sum(
            entry.prompt_tokens for entry in books[:2]
        )
        assert value(samples, "aipasta_tokens_total", **mine, kind="cached") == 60
        assert value(samples, "aipasta_tokens_total", **mine, kind="reasoning") == 7
        cost = float(sum(entry.cost or 0 for entry in books))
        assert abs(value(samples, "aipasta_cost_usd_total", **mine) - cost) < 1e-12
        assert value(samples, "aipasta_errors_total", surface="v1", status="502", code="provider_error") == 1
        assert value(samples, "aipasta_errors_total", surface="v1", status="404", code="model_not_found") == 1
        assert value(samples, "aipasta_upstream_attempts_total", provider="openrouter", outcome="served") == 2
        assert value(samples, "aipasta_time_to_first_token_seconds_count", provider="openrouter") == 1
        assert value(samples, "aipasta_requests_in_flight") == 0
        assert value(samples, "aipasta_catalogue_models", provider="openrouter") > 10


async def test_an_answer_without_a_price_is_told(mongodb_uri: str) -> None:
    """A request whose cost nobody can tell shows in a metric of its own; a declared free one does not."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(role=Role.PREMIUM)
        stage.openrouter.script.enqueue(Behaviour(reported_cost="null"))
        assert (await stage.gateway.chat(key, ask("openrouter/auto"))).status_code == 200
        assert (await stage.gateway.chat(key, ask(PLAIN))).status_code == 200
        first, second = await stage.events(2)
        assert (first["costUsd"], first["costSource"]) == (None, "unknown")
        assert second["costSource"] == "declared"
        samples = await samples_of(stage)
        assert value(samples, "aipasta_unpriced_requests_total", provider="openrouter") == 1
        assert value(samples, "aipasta_unpriced_requests_total", provider="plain") == 0


async def test_no_client_makes_a_series(mongodb_uri: str) -> None:
    """Unknown models, paths, keys and odd fields leave the number of series as it is."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key()

        async def wander(number: int) -> None:
            assert (await stage.gateway.chat(key, ask(f"made/up-{number}"))).status_code == 404
            assert (await stage.gateway.chat(key, ask(f"{FREE}:made-up-{number}"))).status_code in (200, 404)
            assert (await stage.gateway.chat(f"wrong{number}", ask(FREE))).status_code == 401
            assert (await stage.gateway.http.get(f"/v1/made-up-{number}")).status_code == 404
            assert (await stage.gateway.http.get(f"/made-up-{number}")).status_code == 404
            await stage.gateway.chat(key, ask(FREE, user=f"u{number}", service_tier=f"t{number}"))

        await wander(0)
        before = len(await samples_of(stage))
        for number in range(1, 12):
            await wander(number)
        assert len(await samples_of(stage)) == before


def test_two_gateways_in_one_process_do_not_meet() -> None:
    """Each has a registry of its own."""
    one, other = Metrics(), Metrics()
    one.unpriced.labels("x").inc()
    assert b'provider="x"' in one.render()
    assert b'provider="x"' not in other.render()


def test_what_is_summed_up_first_is_what_the_library_counts() -> None:
    """Observations that are given to the library at once fall into the buckets that it chooses one by one."""
    ours, theirs = Metrics(), Metrics()
    amounts = [-1.0, 0.0, 0.01, 0.010001, 0.3, 600.0, 600.1, 1e9]
    spread = ours.spread(ours.duration.labels("x", "completed"))
    for amount in amounts:
        spread.observe(amount)
        theirs.duration.labels("x", "completed").observe(amount)
    ours.running.amount += 3
    ours.flush()
    ours.running.amount -= 2
    theirs.in_flight.inc()
    for _ in range(2):
        ours.flush()
        assert ours.render() == theirs.render()


WORKER = """
import sys
from pathlib import Path
from proxy import metrics
folder, number = Path(sys.argv[1]), int(sys.argv[2])
metrics.share(folder, number)
made = metrics.Metrics(folder)
made.unpriced.labels("x").inc()
made.spread(made.duration.labels("x", "completed")).observe(0.2)
made.running.amount += 1
made.flush()
made.ledger_drift.set(number)
print(made.render().decode())
"""


def test_workers_share_their_metrics(tmp_path: Path) -> None:
    """Counters and histograms add up over workers and their successors; gauges are those of the living."""
    text = ""
    for number in (0, 1, 1):
        command = [sys.executable, "-c", WORKER, str(tmp_path), str(number)]
        text = subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout
    samples = [sample for family in families(text) for sample in family.samples]
    assert value(samples, "aipasta_unpriced_requests_total", provider="x") == 3
    assert value(samples, "aipasta_request_seconds_count", provider="x", outcome="completed") == 3
    assert value(samples, "aipasta_request_seconds_bucket", le="0.25") == 3
    assert value(samples, "aipasta_requests_in_flight") == 2
    assert value(samples, "aipasta_ledger_drift") == 1
    assert {tuple(sorted(sample.labels)) for sample in samples if "pid" in sample.labels} == set()
