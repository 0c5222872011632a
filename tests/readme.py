"""The tables of README.md, made from the code: `python -m tests.readme` writes them, a test compares them."""

from __future__ import annotations

import re
from pathlib import Path

from bench import report
from proxy.metrics import Metrics
from proxy.settings import Settings

README = Path(__file__).resolve().parent.parent / "README.md"
_SECTIONS = {
    "limits",
    "connections",
    "rate_limits",
    "chat",
    "providers",
    "aliases",
    "fallbacks",
    "resilience",
    "provider_keys",
}


def settings_table() -> str:
    """List every setting with its default and meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        if name not in _SECTIONS:
            value = field.default
            shown = (
                "" if value is None else ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            )
            rows.append(f"| `{name.upper()}` | {f'`{shown}`' if shown else ''} | {field.description} |")
    return "\n".join(rows)


def metrics_table() -> str:
    """List every metric with its labels and meaning."""
    rows = ["| metric | labels | meaning |", "|---|---|---|"]
    for collector in sorted(vars(Metrics()).values(), key=lambda item: str(getattr(item, "_name", ""))):
        if hasattr(collector, "_labelnames"):
            name = collector._name + ("_total" if collector._type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in collector._labelnames)
            rows.append(f"| `{name}` | {labels} | {collector._documentation} |")
    return "\n".join(rows)


def with_tables(text: str) -> str:
    """Put the tables between their marks."""
    tables = (
        ("settings", settings_table()),
        ("metrics", metrics_table()),
        ("bench", report.summary(report.saved())),
    )
    for mark, table in tables:
        found = re.search(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", text, flags=re.DOTALL)
        assert found is not None, mark
        text = f"{text[: found.start(1)]}{table}\n{text[found.end(1) :]}"
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
