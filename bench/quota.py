"""A share of a core for each of some processes, as the kernel's cgroups grant it (version 1 or 2; both want root)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.processes import CannotRun

_ROOT = Path("/sys/fs/cgroup")
_PERIOD_US = 100_000
"""The kernel's own; a shorter one costs switches that are measured with the rest."""


@contextmanager
def limited(pids: Sequence[int], share: float) -> Iterator[None]:
    """Let each process use this share of a core at most; raise `CannotRun` where that cannot be had.

    They are expected to end before they are let go of.
    """
    groups: list[Path] = []
    try:
        for pid in pids:
            groups.append(_group(f"bench-{os.getpid()}-{pid}"))
            _limit(groups[-1], round(share * _PERIOD_US))
            (groups[-1] / "cgroup.procs").write_text(str(pid), encoding="ascii")
    except OSError as exc:
        _remove(groups)
        raise CannotRun(f"no process can be limited here: {exc}") from exc
    try:
        yield
    finally:
        _remove(groups)


def _group(name: str) -> Path:
    controllers = _ROOT / "cgroup.controllers"
    if controllers.exists():
        (_ROOT / "cgroup.subtree_control").write_text("+cpu", encoding="ascii")
    path = (_ROOT if controllers.exists() else _ROOT / "cpu") / name
    path.mkdir()
    return path


def _limit(group: Path, quota_us: int) -> None:
    if (group / "cpu.max").exists():
        (group / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}", encoding="ascii")
        return
    (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US), encoding="ascii")
    (group / "cpu.cfs_quota_us").write_text(str(quota_us), encoding="ascii")


def _remove(groups: Sequence[Path]) -> None:
    """Let the processes that still run be as they were, and remove what held them."""
    for group in groups:
        with suppress(OSError):
            for pid in (group / "cgroup.procs").read_text(encoding="ascii").split():
                (group.parent / "cgroup.procs").write_text(pid, encoding="ascii")
            group.rmdir()
