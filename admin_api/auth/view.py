"""How a sign-in looks from outside: without anything that could be used in its place."""

from __future__ import annotations

from typing import Any

from proxy.documents import Session


def view_sign_in(session: Session, *, current: str | None) -> dict[str, Any]:
    """Render a sign-in by its newest token; `current` is the family of the token that asks."""
    return {
        "id": session.family,
        "createdAt": session.signedInAt or session.createdAt,
        "lastUsed": session.lastUsed or session.createdAt,
        "expiresAt": session.expiresAt,
        "userAgent": session.userAgent,
        "network": session.network,
        "isCurrent": session.family == current,
    }
