"""What is asked of a large database: every endpoint that reads, as the user who has the most, and as an admin."""

from __future__ import annotations

from dataclasses import dataclass

UNBOUNDED = frozenset({"/api/user/export"})
"""What may take longer than a page: a user's whole account, as a stream."""

_PERIODS = ("7d", "30d", "90d")


@dataclass(frozen=True, slots=True)
class Subject:
    """Ids of what there is most of."""

    user: str
    session: str
    request: str
    model: str


def of_user(subject: Subject) -> tuple[str, ...]:
    """Return what the user asks, with his token."""
    return (
        "/api/auth/me",
        "/api/auth/verify",
        "/api/auth/sessions",
        "/api/user/profile",
        *(f"/api/user/stats?period={period}" for period in _PERIODS),
        "/api/user/api-keys",
        "/api/user/favorites",
        "/api/user/export",
        "/api/chat/sessions",
        "/api/chat/sessions?limit=100",
        f"/api/chat/sessions/{subject.session}",
        "/api/chat/stats",
        "/api/models",
        f"/api/models/{subject.model}",
        "/api/models/category/text-only",
        "/api/models/providers",
        "/api/models/categories",
    )


def of_key(subject: Subject) -> tuple[str, ...]:
    """Return what is asked with his API key."""
    return ("/v1/models", f"/v1/models/{subject.model}", "/v1/key", f"/v1/requests/{subject.request}")


def of_admin(subject: Subject) -> tuple[str, ...]:
    """Return what an admin asks."""
    return (
        *(f"/api/admin/stats?period={period}" for period in _PERIODS),
        "/api/admin/users",
        "/api/admin/users?limit=100",
        "/api/admin/users?page=200",
        "/api/admin/users?search=person77",
        "/api/admin/users?search=nobody",
        "/api/admin/users?sortBy=name&sortOrder=asc",
        "/api/admin/users?sortBy=email",
        "/api/admin/users?sortBy=lastActive",
        "/api/admin/users?role=premium&status=active",
        f"/api/admin/users/{subject.user}",
        f"/api/admin/users/{subject.user}/sessions",
        "/api/admin/system",
        "/api/admin/audit",
        "/api/admin/audit?action=auth.login&page=20",
        f"/api/admin/ledger/verify?user={subject.user}",
    )


def of_nobody() -> tuple[str, ...]:
    """Return what needs no name."""
    return ("/", "/health", "/health/ready", "/metrics", "/docs", "/docs/openapi.json")
