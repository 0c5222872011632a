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
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text(encoding="ascii").strip()
    secret = secrets.token_urlsafe(48)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret)
    return secret
