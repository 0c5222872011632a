"""What the product is made of: locked to the byte, from nowhere in particular, and without what nobody maintains."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import passlib
import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
PINNED = re.compile(r"([A-Za-z0-9._-]+)==([^ ;\\]+)")
DEAD = ("motor", "passlib", "python-jose", "sanic-jwt")
"""Abandoned, or replaced here by what is not."""


def entries(lock: str) -> list[str]:
    """Return the locked requirements of a file, each with its hashes on one line."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def pins(lock: str) -> dict[str, str]:
    found = {}
    for entry in entries(lock):
        match = PINNED.match(entry)
        assert match is not None, entry
        found[match[1].lower()] = match[2]
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_with_hashes(lock: str) -> None:
    """Each has one exact version and the hashes of its files, and nothing else is in the file."""
    assert len(entries(lock)) > 30
    for entry in entries(lock):
        assert PINNED.match(entry), entry
        assert HASH.search(entry), entry
        rest = PINNED.sub("", HASH.sub("", entry), count=1).strip()
        assert rest == "" or rest.startswith(";"), entry


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_file_says_where_packages_come_from(lock: str) -> None:
    """No URL, no index, no path: every machine uses its own source, and the hashes are what is trusted."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    for word in ("://", "--index", "--extra-index", "--find-links", "--trusted-host", " @ ", "file:", "git+"):
        assert word not in text, word


def test_both_files_lock_the_same_product() -> None:
    """The tests run with the very versions that the product is installed with."""
    product, tests = (pins(lock) for lock in LOCKS)
    assert {name: tests.get(name) for name in product} == product


@pytest.mark.parametrize("lock", LOCKS)
def test_nothing_abandoned_is_locked(lock: str) -> None:
    """In particular not passlib, which would silently overwrite the folder of libpass, its maintained fork."""
    locked = pins(lock)
    assert not set(DEAD) & locked.keys()
    assert tuple(map(int, locked["libpass"].split(".")[:2])) >= (1, 9)
    sanic = tuple(map(int, locked["sanic"].split(".")))
    assert sanic >= (25, 12, 1)


def test_passlib_is_libpass() -> None:
    """What is imported as passlib is the fork."""
    assert tuple(map(int, passlib.__version__.split(".")[:2])) >= (1, 9)
    owners = metadata.packages_distributions()["passlib"]
    assert [owner.lower() for owner in owners] == ["libpass"] * len(owners)


def test_an_audit_that_cannot_ask_says_so() -> None:
    """Without the network `make audit` fails with one plain line, and does not look like a pass."""
    command = [sys.executable, "tools/audit.py", "--service", "https://127.0.0.1:9/v1/query", *LOCKS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "audit: NOT DONE: the advisory service 127.0.0.1 cannot be reached from here\n"
