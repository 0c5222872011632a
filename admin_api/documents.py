"""The documents of both planes: everything that the database keeps for Beanie."""

from __future__ import annotations

from beanie import Document

from admin_api.admin.documents import AuditRecord
from admin_api.chat.documents import ChatMessage, ChatSession
from proxy.documents import SHARED

DOCUMENTS: tuple[type[Document], ...] = (*SHARED, AuditRecord, ChatSession, ChatMessage)
"""Every document that there is."""
