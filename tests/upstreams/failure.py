"""A failure is an answer instead of a generation: status, headers and a body that is JSON or text.

`named` takes them from fixtures/openrouter_errors.json and fixtures/hf_errors.json by their keys.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

FIXTURES = Path(__file__).parent / "fixtures"
_JSON = MappingProxyType({"content-type": "application/json"})


@dataclass(frozen=True, slots=True)
class Failure:
    """One error answer, as it goes on the wire."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=lambda: _JSON)
    name: str = "custom"

    def encoded(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()

    def with_headers(self, headers: Mapping[str, str]) -> "Failure":
        return replace(
            self, headers={**self.headers, **{name.lower(): text for name, text in headers.items()}}
        )

    @property
    def message(self) -> str:
        """The text for a person, wherever this shape keeps it."""
        if not isinstance(self.body, dict):
            return str(self.body)
        error = self.body.get("error", self.body)
        if not isinstance(error, dict):
            return str(error)
        return str(error.get("message") or error.get("detail") or error)

    @property
    def error(self) -> Any:
        """The value of an `error` key that says this in the middle of a stream."""
        return self.body.get("error", self.body) if isinstance(self.body, dict) else self.body


@cache
def catalogue(file: str) -> Mapping[str, Failure]:
    """Every failure of one fixture file by its name."""
    entries = json.loads((FIXTURES / file).read_text(encoding="utf-8"))
    return {
        name: Failure(entry["status"], entry["body"], entry["headers"], name)
        for name, entry in entries.items()
    }


def named(file: str, name: str) -> Failure:
    """Return the named failure; an unknown name is a KeyError that lists the known ones."""
    known = catalogue(file)
    if name not in known:
        msg = f"no error {name!r} in {file}; known: {', '.join(sorted(known))}"
        raise KeyError(msg)
    return known[name]
