"""The operations of /api/auth."""

from __future__ import annotations

from typing import Any

from admin_api.auth.schemas import (
    Credentials,
    ForgottenPassword,
    NewPasswordOnly,
    PasswordChange,
    Registration,
)
from admin_api.openapi.operations import Operation
from admin_api.openapi.users import SIGN_IN, USER


def _with_token(endpoint: str, **more: Any) -> Operation:
    """Describe an operation that signs somebody in."""
    return Operation(endpoint, {"user": USER}, has_message=True, top={"token": str}, **more)


OPERATIONS = (
    _with_token("POST /api/auth/register", status=201, body=Registration),
    _with_token("POST /api/auth/login", body=Credentials, also=(401,)),
    Operation("POST /api/auth/logout", has_message=True),
    Operation("GET /api/auth/me", {"user": USER}),
    _with_token("PATCH /api/auth/password", body=PasswordChange),
    Operation("POST /api/auth/forgot-password", body=ForgottenPassword, has_message=True),
    _with_token("PATCH /api/auth/reset-password/{token}", body=NewPasswordOnly),
    Operation("GET /api/auth/verify", {"user": USER}, has_message=True),
    _with_token("POST /api/auth/refresh"),
    Operation("GET /api/auth/sessions", {"sessions": [SIGN_IN]}, top={"results": int}),
    Operation("DELETE /api/auth/sessions", has_message=True),
    Operation("DELETE /api/auth/sessions/{sign_in_id}", has_message=True),
)
