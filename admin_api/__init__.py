"""The control plane: /api, the account service behind the web frontend."""

from __future__ import annotations

from beanie import Document
from sanic import Blueprint

import admin_api.admin.endpoints
import admin_api.auth.endpoints
import admin_api.chat.endpoints
import admin_api.models.endpoints
import admin_api.openapi.endpoints
import admin_api.users.endpoints
from admin_api.admin.documents import AuditRecord
from admin_api.chat.documents import ChatMessage, ChatSession


def blueprints() -> tuple[Blueprint, ...]:
    """Return every group of endpoints."""
    return (
        admin_api.auth.endpoints.blueprint,
        admin_api.users.endpoints.blueprint,
        admin_api.models.endpoints.blueprint,
        admin_api.chat.endpoints.blueprint,
        admin_api.admin.endpoints.blueprint,
        admin_api.openapi.endpoints.blueprint,
    )


def documents() -> tuple[type[Document], ...]:
    """Return the documents that nobody but the control plane reads."""
    return (AuditRecord, ChatSession, ChatMessage)
