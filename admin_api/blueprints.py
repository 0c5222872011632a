"""Every group of endpoints of the control plane."""

from __future__ import annotations

from admin_api.admin.endpoints import blueprint as admin
from admin_api.auth.endpoints import blueprint as auth
from admin_api.chat.endpoints import blueprint as chat
from admin_api.models.endpoints import blueprint as models
from admin_api.openapi.endpoints import blueprint as docs
from admin_api.users.endpoints import blueprint as users
from proxy.blueprint import Blueprint

BLUEPRINTS: tuple[Blueprint, ...] = (auth, users, models, chat, admin, docs)
