"""The bodies of /api/auth."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints
from pydantic.networks import validate_email

from admin_api.auth.common_passwords import COMMON_PASSWORDS
from admin_api.validation import Schema
from proxy import security

MIN_PASSWORD_LENGTH = 8


def _password(value: str) -> str:
    if not security.is_acceptable_password_size(value):
        raise ValueError(f"must have at most {security.MAX_PASSWORD_BYTES} bytes and no NUL")
    if len(value) < MIN_PASSWORD_LENGTH:
        raise ValueError(f"must have at least {MIN_PASSWORD_LENGTH} characters")
    if value.lower() in COMMON_PASSWORDS:
        raise ValueError("is among the most common passwords; choose another")
    return value


def _email(value: str) -> str:
    return validate_email(value)[1].lower()


def _name(value: str) -> str:
    if any(not character.isprintable() for character in value):
        raise ValueError("must not contain control characters")
    return value


Name = Annotated[str, Field(min_length=2, max_length=50), AfterValidator(_name)]
Email = Annotated[str, Field(max_length=254), AfterValidator(_email)]
NewPassword = Annotated[str, StringConstraints(strip_whitespace=False), AfterValidator(_password)]


class Registration(Schema):
    """A new account."""

    name: Name
    email: Email
    password: NewPassword


class Credentials(Schema):
    """Who signs in, and how he proves it."""

    email: Annotated[str, Field(min_length=1, max_length=254)]
    password: Annotated[str, StringConstraints(strip_whitespace=False), Field(min_length=1)]
