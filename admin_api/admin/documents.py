"""What the admins' part of the service keeps for itself: the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document
from pydantic import Field
from pymongo import ASCENDING, DESCENDING, IndexModel


class AuditRecord(Document):
    """Who did what to whom, and from where: written once, never changed and never deleted."""

    at: datetime
    action: str
    actorId: str | None = None
    target: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)
    address: str = ""
    requestId: str = ""

    class Settings:
        """Where and how it is stored."""

        name = "auditlog"
        indexes: ClassVar = [
            # With the id, by which records of one moment are ordered: else the database sorts all that are found.
            IndexModel([("at", DESCENDING), ("_id", DESCENDING)], name="latest"),
            IndexModel([("actorId", ASCENDING), ("at", DESCENDING), ("_id", DESCENDING)], name="of_actor"),
            IndexModel([("action", ASCENDING), ("at", DESCENDING), ("_id", DESCENDING)], name="of_action"),
        ]
