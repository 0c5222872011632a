"""The secret that signs tokens: the operator's, judged; or in development one of our own, kept under DATA_DIR."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

MIN_SECRET_LENGTH = 32
_LEAST_VARIETY = 8
_PLACEHOLDERS = ("your-super-secret", "change", "secret", "password", "example", "default")


def is_weak(secret: str) -> bool:
    """Say whether a secret could be guessed: short, repetitive, or copied from an example."""
    is_short = len(secret) < MIN_SECRET_LENGTH or len(set(secret)) < _LEAST_VARIETY
    return is_short or secret.lower().startswith(_PLACEHOLDERS)


def own_secret(data_dir: Path) -> str:
    """Return the secret kept in a folder, making it at the first start; raise `OSError`."""
    path = data_dir / "jwt_secret"
    path.parent.mkdir(parents=True, exist_ok=True)
    return _kept(path) or _made(path)


def _kept(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def _made(path: Path) -> str:
    """Make a secret that is there as a whole or not at all, and for all who start at the same moment the same."""
    written = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    secret = secrets.token_urlsafe(48)
    try:
        with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret)
        try:
            os.link(written, path)
        except OSError:
            if kept := _kept(path):
                return kept
            written.replace(path)  # over an empty one, or where no file has two names
    finally:
        written.unlink(missing_ok=True)
    return secret
