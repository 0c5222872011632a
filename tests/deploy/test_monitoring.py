"""Tests of the dashboard and the alert rules: they speak of metrics that exist, and the rules do what they say."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from httpx_aiohttp import AiohttpTransport

from plugins.contract import FailureKind
from proxy.limits import Limits
from proxy.metrics import Metrics
from proxy.settings import Settings
from tests.gateway import running_gateway
from tests.server_process import free_port

PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
OF_PROMETHEUS = {"le", "instance", "job", "alertname", "alertstate"}
_SELECTOR = re.compile(r"\b((?:aipasta_|up\b)\w*)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
_BY = re.compile(r"\bby \(([^)]*)\)")


def exposed() -> dict[str, set[str]]:
    """Return the names under which Prometheus knows the gateway's metrics, with their labels."""
    series: dict[str, set[str]] = {"up": set()}
    for collector in vars(Metrics()).values():
        if not hasattr(collector, "_labelnames"):
            continue
        names = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(
            collector._type, ("",)
        )
        for suffix in names:
            series[collector._name + suffix] = set(collector._labelnames)
    return series


def rules(project: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load((project / "deploy/prometheus/rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard(project: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((project / "deploy/grafana/dashboard.json").read_text())
    return loaded


def expressions(project: Path) -> Iterator[str]:
    """Yield every expression of the dashboard and of the rules."""
    for rule in rules(project):
        yield rule["expr"]
    for panel in dashboard(project)["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def test_every_metric_and_label_exists(project: Path) -> None:
    """Dashboard and rules select metrics that the gateway exposes, by labels that those have."""
    series = exposed()
    for expression in expressions(project):
        labels = set(OF_PROMETHEUS)
        for name, matchers in _SELECTOR.findall(expression):
            assert name in series, expression
            labels |= series[name]
            assert set(_MATCHER.findall(matchers)) <= series[name] | OF_PROMETHEUS, expression
        for grouping in _BY.findall(expression):
            assert {label.strip() for label in grouping.split(",")} <= labels, expression


def test_every_metric_is_on_the_dashboard(project: Path) -> None:
    """Whatever the gateway measures can be seen."""
    text = json.dumps(dashboard(project))
    for name in exposed():
        assert name.removesuffix("_sum").removesuffix("_count").removesuffix("_bucket") in text, name


def test_the_dashboard_is_in_order(project: Path) -> None:
    """Every panel has a number of its own, says what it shows, and lies beside the others, not over them."""
    panels = dashboard(project)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"].endswith("."), panel["title"]


def test_every_rule_says_what_to_do(project: Path) -> None:
    """Each alert has a name of its own, a severity, and tells what is the matter and what to do."""
    names = [rule["alert"] for rule in rules(project)]
    assert len(set(names)) == len(names)
    for rule in rules(project):
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "description"} == set(rule["annotations"])
        assert rule["annotations"]["description"].endswith("."), rule["alert"]
    tested = (project / "deploy/prometheus/rules_test.yml").read_text()
    assert [name for name in names if name not in tested] == []


def test_the_thresholds_follow_the_settings(project: Path) -> None:
    """A catalogue is old after three turns, a gateway nearly full at four fifths; outcomes are those there are."""
    expr = {rule["alert"]: rule["expr"] for rule in rules(project)}
    turns = 3 * Settings.model_fields["catalog_refresh_seconds"].default
    assert expr["AipastaCatalogueOld"].endswith(f"> {turns}")
    assert expr["AipastaNearlyFull"].endswith(f"> {Limits().concurrent_requests * 4 // 5}")
    kinds = "|".join(re.findall(r'outcome=~"([^"]+)"', "".join(expr.values()))).split("|")
    assert set(kinds) <= set(FailureKind)


@pytest.mark.long
def test_prometheus_accepts_it(project: Path) -> None:
    """The configuration names its rules; where promtool is installed, it checks both and runs the rules' own tests."""
    folder = project / "deploy/prometheus"
    assert yaml.safe_load((folder / "prometheus.yml").read_text())["rule_files"] == ["rules.yml"]
    assert yaml.safe_load((folder / "rules_test.yml").read_text())["rule_files"] == ["rules.yml"]
    if PROMTOOL is None:
        return
    for command in (("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")):
        done = subprocess.run(
            [PROMTOOL, *command], cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_should_stay_zero_is_shown_from_the_start() -> None:
    """A counter is there before its first increase, which an alert could not see otherwise."""
    metrics = Metrics()
    metrics.expect(["openrouter"])
    text = metrics.render().decode()
    assert 'aipasta_unpriced_requests_total{provider="openrouter"} 0.0' in text
    assert 'aipasta_over_hold_requests_total{provider="openrouter"} 0.0' in text


@asynccontextmanager
async def prometheus(folder: Path, project: Path, *targets: str) -> AsyncIterator[httpx.AsyncClient]:
    """Run Prometheus with our configuration, but for the gateways' addresses and the pace, and yield a client."""
    for name in ("prometheus.yml", "rules.yml"):
        text = (project / "deploy/prometheus" / name).read_text()
        text = text.replace('["gateway:5000"]', json.dumps(targets)).replace("15s", "1s")
        (folder / name).write_text(text)
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(PROMETHEUS), *arguments, cwd=folder, stdout=output, stderr=output
        )
    try:
        async with httpx.AsyncClient(
            base_url=f"http://{address}/api/v1", transport=AiohttpTransport(trust_env=False), timeout=5
        ) as http:
            yield http
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.long
async def test_a_real_prometheus_scrapes_two_gateways(
    project: Path, mongodb_uri: str, tmp_path: Path
) -> None:
    """Where Prometheus is installed it scrapes two gateways with our configuration, and none of our alerts fires."""
    test_every_metric_and_label_exists(project)
    if PROMETHEUS is None:
        return
    async with running_gateway(mongodb_uri) as one, running_gateway(mongodb_uri) as two:
        hosts = [gateway.base_url.removeprefix("http://") for gateway in (one, two)]
        async with prometheus(tmp_path, project, *hosts) as http, asyncio.timeout(60):
            while await _value(http, "sum(up)") != 2:  # noqa: ASYNC110  Prometheus is asked
                await asyncio.sleep(0.1)
            for gateway in (one, two):
                key = await gateway.key()
                assert (await gateway.chat(key, HELLO)).status_code == 200
            while await _value(http, "sum(aipasta_requests_total)") != 2:  # noqa: ASYNC110  likewise
                await asyncio.sleep(0.1)
            loaded = (await http.get("/rules")).json()["data"]["groups"]
            found = {rule["name"]: rule for group in loaded for rule in group["rules"]}
            assert set(found) == {rule["alert"] for rule in rules(project)}
            assert {rule["health"] for rule in found.values()} <= {"ok", "unknown"}
            assert {rule["state"] for rule in found.values()} == {"inactive"}


HELLO = {"model": "demo/echo", "messages": [{"role": "user", "content": "hello there"}]}


async def _value(http: httpx.AsyncClient, query: str) -> float:
    """Ask Prometheus; 0 while it does not answer yet, or has no such series."""
    try:
        answer = await http.get("/query", params={"query": query})
    except httpx.TransportError:
        return 0.0
    result = answer.json()["data"]["result"] if answer.is_success else []
    return float(result[0]["value"][1]) if result else 0.0
