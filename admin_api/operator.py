"""What the operator does at the machine itself, in the audit log."""

from __future__ import annotations

from datetime import datetime

from admin_api.admin.documents import AuditRecord

OPERATOR = "operator"
"""Stands for the address where there is none: the command line, or the configuration."""


async def record_of_operator(action: str, *, target: str, now: datetime) -> None:
    """Write one record of somebody who has not signed in."""
    await AuditRecord(at=now, action=action, target=target, address=OPERATOR).insert()
