"""schemathesis finds nothing: no 500, and no answer that the OpenAPI document does not promise.

Here each operation is tried as the most that may call it; `python -m tests.fuzz` tries all as everybody, at length.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from admin_api.openapi.document import OPERATIONS
from tests.fuzz.run import run, target

SHARES = {
    "anonymous": r"^/(docs.*|health.*|metrics|api/auth/(register|login|logout|forgot-password|reset-password.*))?$",
    "user": r"^/(v1/|api/(user|auth/(me|verify|refresh|password|sessions)|models(?!/sync)|chat))",
    "admin": r"^/api/(admin|models/sync)",
}
"""By caller, the paths that he tries: every operation once, as the most that may call it."""


def test_every_operation_is_in_one_share() -> None:
    """Nothing is left out, and nothing is done twice."""
    for _, path in OPERATIONS:
        assert sum(re.search(paths, path) is not None for paths in SHARES.values()) == 1, path


@pytest.mark.long
@pytest.mark.timeout(300)  # hundreds of requests, on a machine that may be doing other things
@pytest.mark.parametrize(("caller", "paths"), SHARES.items(), ids=list(SHARES))
def test_no_answer_contradicts_the_document(
    tmp_path: Path, mongodb_uri: str, caller: str, paths: str
) -> None:
    """Right and wrong bodies, parameters and methods get an answer that is described, and never a 500."""
    with target(tmp_path, mongodb_uri) as gateway:
        status, report = run(gateway, tmp_path, caller, phases="coverage", paths=paths)
        assert status == 0, report
        assert "unhandled exception" not in gateway.server.log.read_text()
