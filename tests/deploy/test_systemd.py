"""Tests of deploy/aipasta.service: read, compared with the settings, and verified by systemd where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.deploy.test_container import DRAIN_SECONDS, KNOWN, LAST_SECONDS

SYSTEMD_ANALYZE = shutil.which("systemd-analyze")
MOST_EXPOSURE = 2.0
"""On the scale of `systemd-analyze security`, whose worst is 10."""


@pytest.fixture
def unit(project: Path) -> dict[str, list[str]]:
    """Return the values of every directive."""
    found = defaultdict(list)
    for line in (project / "deploy/aipasta.service").read_text().splitlines():
        name, mark, value = line.partition("=")
        if mark and not line.startswith("#"):
            found[name].append(value)
    return found


def test_it_ends_in_order(unit: dict[str, list[str]]) -> None:
    """SIGTERM goes to the gateway alone, which has the time it needs, and it comes back whatever ends it."""
    assert unit["KillMode"] == ["mixed"]
    assert unit["KillSignal"] == ["SIGTERM"]
    assert float(unit["TimeoutStopSec"][0]) > LAST_SECONDS
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"]


def test_its_settings_and_paths_agree(unit: dict[str, list[str]], project: Path) -> None:
    """Its variables are settings, its journal lies in its state directory, and it runs this project's command."""
    variables = dict(pair.split("=") for pair in unit["Environment"][0].split())
    assert set(variables) - {"PYTHONUNBUFFERED"} <= KNOWN
    assert variables["DATA_DIR"] == f"/var/lib/{unit['StateDirectory'][0]}"
    assert float(variables["DRAIN_SECONDS"]) == DRAIN_SECONDS
    command = unit["ExecStart"][0].split()
    assert command == [f"{unit['WorkingDirectory'][0]}/.venv/bin/python", "-m", "proxy", "serve"]
    assert unit["Documentation"] == [f"file://{unit['WorkingDirectory'][0]}/README.md"]
    assert int(unit["LimitNOFILE"][0]) >= 65_536
    assert (project / "README.md").exists()


def test_it_has_no_rights(unit: dict[str, list[str]], project: Path, tmp_path: Path) -> None:
    """It may write to its state directory alone; where systemd is installed, it verifies the unit and rates it."""
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["CapabilityBoundingSet"] == [""]
    assert "ReadWritePaths" not in unit
    if SYSTEMD_ANALYZE is None:
        return
    copy = tmp_path / "aipasta.service"
    text = (project / "deploy/aipasta.service").read_text()
    copy.write_text(text.replace("/opt/aipasta/.venv/bin/python", sys.executable))
    # It looks at the units around ours as well, and may have something to say about those.
    assert copy.name not in _systemd_analyze("verify", str(copy))
    rating = re.search(
        r"exposure level for \S+ ([\d.]+)", _systemd_analyze("security", "--offline=true", str(copy))
    )
    assert rating is not None
    assert float(rating[1]) <= MOST_EXPOSURE


def _systemd_analyze(*arguments: str) -> str:
    done = subprocess.run(
        [str(SYSTEMD_ANALYZE), "--no-pager", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
