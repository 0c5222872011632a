"""Tests of bench/quota.py: what cannot be limited leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.processes import CannotRun
from bench.quota import limited


def test_nobody_is_no_process() -> None:
    """Whether for want of rights, of cgroups or of the process: it is said in one line, and no group is left."""
    with pytest.raises(CannotRun, match="no process can be limited here"), limited([0xFFFFFFF], 0.25):
        pass
    assert not list(Path("/sys/fs/cgroup").glob(f"**/bench-{os.getpid()}-*"))
