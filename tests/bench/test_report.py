"""Tests of bench/report.py: the tables say what was measured, who is missing and what is over its budget."""

from __future__ import annotations

from typing import Any

from bench import report
from bench.measure import ALONE, LONG, MANY_KEYS, SHORT, STREAM


def rows(cpu: float | None, milliseconds: float) -> list[dict[str, Any]]:
    """Make the same figures for every scenario."""
    figures = {
        "requests": 100,
        "per_second": 10.0,
        "cpu_us": cpu,
        "cpu_us_of_rounds": [cpu] * 3,
        "mongod_us": None,
        "median_ms": milliseconds,
        "p99_ms": milliseconds,
        "first_byte_ms": milliseconds,
        "refused": 0,
    }
    names = (ALONE, SHORT, LONG, MANY_KEYS, STREAM, "stream, 1 connection")
    return [{"scenario": name, **figures} for name in names]


def gateway(cpu: float | None, milliseconds: float, **values: Any) -> dict[str, Any]:
    """Make what was found of one gateway."""
    return {
        "version": "1.2",
        "start_seconds": 1.0,
        "memory_mib": 80.0,
        "memory": None,
        "rows": rows(cpu, milliseconds),
        "failures": {},
        **values,
    }


RESULTS = {
    "date": "2026-11-25",
    "machine": "two cores",
    "rounds": 3,
    "seconds": 2.0,
    "gateways": {
        "direct": gateway(None, 0.1),
        "ours": gateway(400.0, 1.1),
        "unlogged": gateway(
            190.0, 0.9, rows=[row for row in rows(190.0, 0.9) if row["scenario"] in (SHORT, STREAM)]
        ),
        "litellm": gateway(14_000.0, 15.1),
        "portkey": gateway(
            1_000.0,
            3.1,
            rows=[row for row in rows(1_000.0, 3.1) if not row["scenario"].startswith("stream")],
            failures={STREAM: "HTTP/1.1 500", "stream, 1 connection": "HTTP/1.1 500"},
        ),
    },
    "missing": {"nginx": "nginx is not on PATH"},
}


def test_the_summary_compares() -> None:
    """Each gateway has its CPU beside ours, what it adds to the bare provider, and the reason where it has no figure."""
    text = report.summary(RESULTS)
    assert "| this gateway 1.2 | 400 us | 400 us | 1.00 ms |" in text
    assert "| LiteLLM 1.2 | 14,000 us (35 times ours) |" in text
    assert "| Portkey 1.2 | 1,000 us (2.5 times ours) | fails |" in text
    assert (
        "| `ACCESS_LOG=false`: this gateway 1.2 | 190 us (0.47 times ours) | 190 us (0.47 times ours) |  |"
        in text
    )
    assert "nginx, a bare proxy could not be measured: nginx is not on PATH." in text


def test_what_is_over_its_budget_is_marked() -> None:
    """A bound is kept at its figure, and everything above is marked."""
    found = {what: figure <= most for what, figure, most in report.budget(RESULTS)}
    assert found["CPU a chat, us"]
    assert found["a chat's share of LiteLLM's"]
    assert not found["a chat's share of Portkey's"]
    assert found["a chat's share of Portkey's, without its line in the log"]
    assert "a stream's share of LiteLLM's" in found
    assert "a stream's share of Portkey's" not in found
    assert report.markdown(RESULTS).count("**over**") == sum(not is_kept for is_kept in found.values()) > 0


def test_how_many_times_one_is_another_is_asked_round_by_round() -> None:
    """A machine that is slower in some rounds is so for both: what counts is what stands next to each other."""
    gateways = {
        name: gateway(cpu, 1.0, rows=[row | {"cpu_us_of_rounds": rounds} for row in rows(cpu, 1.0)])
        for name, cpu, rounds in (
            ("ours", 200.0, [100.0, 300.0, 200.0]),
            ("portkey", 1_300.0, [500.0, 1_500.0, 1_300.0]),
        )
    }
    results = {**RESULTS, "gateways": gateways}
    assert "| Portkey 1.2 | 1,300 us (5 times ours) |" in report.summary(results)
    budget = {what: figure for what, figure, _ in report.budget(results)}
    assert budget["a chat's share of Portkey's"] == 0.2


def test_what_was_not_measured_has_no_figure() -> None:
    """A failure is said wherever its figure would stand, and what nobody asked stays empty."""
    text = report.markdown(RESULTS)
    assert "| Portkey | 3.00 / 3.00 | fails |" in text
    assert "| `ACCESS_LOG=false`: this gateway |  |  |" in text
