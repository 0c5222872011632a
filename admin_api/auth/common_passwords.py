"""The passwords that everybody tries first: the 5,000 most frequent of at least eight characters, lower-case."""

from __future__ import annotations

from importlib.resources import files

COMMON_PASSWORDS = frozenset(
    files("admin_api.auth").joinpath("common_passwords.txt").read_text(encoding="utf-8").split()
)
