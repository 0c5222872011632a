"""What a comparison found, as tables: all of it for bench/results.md, and what README.md quotes."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.measure import ALONE, LONG, MANY_KEYS, SCENARIOS, SHORT, STREAM

JSON = Path(__file__).resolve().parent / "results.json"
MARKDOWN = JSON.with_suffix(".md")
_TITLES = {
    "direct": "no gateway",
    "ours": "this gateway",
    "unlogged": "`ACCESS_LOG=false`: this gateway",
    "litellm": "LiteLLM",
    "portkey": "Portkey",
    "nginx": "nginx, a bare proxy",
}
_TIMES_OURS = (
    ("chat", SHORT, "litellm", 30),
    ("stream", STREAM, "litellm", 60),
    ("chat", SHORT, "portkey", 5),
    ("stream", STREAM, "portkey", 5),
)
"""How many times the CPU of ours a peer is to take, and for what."""

Results = Mapping[str, Any]


def write(results: Results) -> None:
    """Write both files."""
    JSON.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    MARKDOWN.write_text(markdown(results), encoding="utf-8")


def saved() -> Results:
    """Return what the last comparison found."""
    found: Results = json.loads(JSON.read_text(encoding="utf-8"))
    return found


def summary(results: Results) -> str:
    """Write what the README quotes: CPU, times and memory of each, side by side."""
    lines = [
        f"Measured on {results['date']}: {results['machine']}.",
        "",
        "| | CPU a chat | CPU a 20-chunk stream | added, median | memory | start |",
        "|---|---|---|---|---|---|",
    ]
    for name in results["gateways"]:
        if name == "direct":
            continue
        gateway = results["gateways"][name]
        cells = (
            f"{_title(name, gateway)}",
            _with_ratio(results, name, SHORT),
            _with_ratio(results, name, STREAM),
            _added_text(results, name, ALONE, "median_ms", unit=" ms"),
            f"{_memory(gateway):.0f} MiB",
            f"{gateway['start_seconds']:.1f} s",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines + _missing(results))


def markdown(results: Results) -> str:
    """Write everything."""
    parts = ["# Benchmark", "", summary(results), "", _method(results)]
    tables: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
        ("CPU per request, in microseconds", lambda row: _number(row["cpu_us"])),
        ("CPU of mongod beside it, in microseconds", lambda row: _number(row["mongod_us"])),
        ("Requests per second", lambda row: _number(row["per_second"])),
        (
            "Latency: median / 99th percentile, in ms",
            lambda row: f"{row['median_ms']:.2f} / {row['p99_ms']:.2f}",
        ),
        ("Time to the first byte of the body: median, in ms", lambda row: f"{row['first_byte_ms']:.2f}"),
        ("Requests refused with 503", lambda row: _number(row["refused"])),
    )
    for title, cell in tables:
        parts += ["", f"## {title}", "", _table(results, cell)]
    parts += [
        "",
        "## Added latency at one connection: median / 99th percentile, in ms",
        "",
        _added_table(results),
    ]
    parts += ["", "## Budget", "", _budget(results)]
    return "\n".join(parts) + "\n"


def budget(results: Results) -> list[tuple[str, float, float]]:
    """Return what this gateway is held to: each with its figure and its bound (the figure may not be above)."""
    chat, stream = _cpu(results, "ours", SHORT), _cpu(results, "ours", STREAM)
    found = [
        ("CPU a chat, us", chat, 450),
        ("CPU a 20-chunk stream, us", stream, 700),
        ("1,000 keys against one", _cpu(results, "ours", MANY_KEYS) / chat, 1.5),
        ("a prompt of 100 KB against a short one", _cpu(results, "ours", LONG) / chat, 2),
        ("added latency at one connection, median, ms", _added(results, "ours", ALONE), 1.5),
    ]
    for name, note in (("ours", ""), ("unlogged", ", without its line in the log")):
        for what, scenario, peer, times in _TIMES_OURS:
            ratio = _ratio(results, name, peer, scenario)
            if ratio is not None:  # a peer may be missing, or fail
                found.append((f"a {what}'s share of {_TITLES[peer]}'s{note}", ratio, 1 / times))
    memory = results["gateways"]["ours"]["memory"]
    if memory is not None:
        found += [
            (f"MiB after {memory['requests']:,} requests", memory["after"], 120),
            ("MiB more per 100,000 requests", memory["per_hundred_thousand"], 2),
        ]
    return found


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"  # noqa: PLR2004  where a fraction says nothing


def _budget(results: Results) -> str:
    lines = ["| | measured | at most | |", "|---|---|---|---|"]
    for what, figure, most in budget(results):
        verdict = "" if figure <= most else "**over**"
        lines.append(f"| {what} | {_short(figure)} | {_short(most)} | {verdict} |")
    return "\n".join(lines)


def _method(results: Results) -> str:
    return (
        "CPU is user plus system time of all processes of a gateway, read from /proc; wall times on a shared machine are "
        f"worth less. Each figure is the median of {results['rounds']} rounds of {results['seconds']:g} s after a "
        "warm-up, all gateways in turns, and of three times as many where 32 connections ask something short, which three "
        "processes of this gateway answer in turn. How many times one figure is another is the median of what it is in each "
        "round. Every answer is checked. The provider is simulated and instant; this gateway has keys, limits, a budget on "
        "each key, metering and metrics on and one worker, LiteLLM has no database and no keys but the master key. No peer "
        "writes a line for each "
        "request, which this gateway does unless it is told not to. `make bench` repeats it."
    )


def _table(results: Results, cell: Callable[[Mapping[str, Any]], str]) -> str:
    names = list(results["gateways"])
    lines = [f"| | {' | '.join(_TITLES[name] for name in names)} |", f"|---{'|---' * len(names)}|"]
    for scenario in SCENARIOS:
        cells = []
        for name in names:
            row = _row(results, name, scenario.name)
            has_failed = scenario.name in results["gateways"][name]["failures"]
            cells.append("fails" if has_failed else "" if row is None else cell(row))
        lines.append(f"| {scenario.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _added_table(results: Results) -> str:
    lines = ["| | chat | stream |", "|---|---|---|"]
    for name in results["gateways"]:
        if name != "direct":
            cells = (
                _added_text(results, name, what, "median_ms", "p99_ms")
                for what in (ALONE, "stream, 1 connection")
            )
            lines.append(f"| {_TITLES[name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _added_text(results: Results, name: str, scenario: str, *what: str, unit: str = "") -> str:
    """Write what a gateway adds to the bare provider; nothing where that was not measured."""
    if scenario in results["gateways"][name]["failures"]:
        return "fails"
    if _row(results, name, scenario) is None:
        return ""
    return " / ".join(f"{_added(results, name, scenario, each):.2f}{unit}" for each in what)


def _row(results: Results, name: str, scenario: str) -> Mapping[str, Any] | None:
    rows: list[Mapping[str, Any]] = results["gateways"][name]["rows"] if name in results["gateways"] else []
    return next((row for row in rows if row["scenario"] == scenario), None)


def _cpu(results: Results, name: str, scenario: str) -> float:
    row = _row(results, name, scenario)
    return float(row["cpu_us"]) if row else 0.0


def _ratio(results: Results, name: str, other: str, scenario: str) -> float | None:
    """Return how many times the CPU of another gateway one takes: the median over rounds, each with that next to it.

    A shared machine is up to twice as slow in one minute as in the minute before, and so are both in such a round.
    """
    mine, theirs = _row(results, name, scenario), _row(results, other, scenario)
    if mine is None or theirs is None or not mine["cpu_us"] or not theirs["cpu_us"]:
        return None
    rounds = zip(mine["cpu_us_of_rounds"], theirs["cpu_us_of_rounds"], strict=True)
    return float(statistics.median(one / another for one, another in rounds))


def _added(results: Results, name: str, scenario: str, what: str = "median_ms") -> float:
    mine, bare = _row(results, name, scenario), _row(results, "direct", scenario)
    return float(mine[what] - bare[what]) if mine and bare else 0.0


def _memory(gateway: Mapping[str, Any]) -> float:
    return float(gateway["memory"]["after"] if gateway["memory"] else gateway["memory_mib"])


def _with_ratio(results: Results, name: str, scenario: str) -> str:
    if scenario in results["gateways"][name]["failures"]:
        return "fails"
    ratio = None if name == "ours" else _ratio(results, name, "ours", scenario)
    return f"{_cpu(results, name, scenario):,.0f} us" + (
        "" if ratio is None else f" ({ratio:.2g} times ours)"
    )


def _title(name: str, gateway: Mapping[str, Any]) -> str:
    return f"{_TITLES[name]} {gateway['version']}".strip()


def _missing(results: Results) -> list[str]:
    said = [
        f"{_TITLES[name]} could not be measured: {reason}." for name, reason in results["missing"].items()
    ]
    for name, gateway in results["gateways"].items():
        reasons = dict.fromkeys(gateway["failures"].values())
        said += [
            f"{_TITLES[name]} fails where the table says so: `{reason[:120]}`."
            for reason in list(reasons)[:1]
        ]
    return [line for sentence in said for line in ("", sentence)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
