"""The bodies of /api/auth."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from admin_api.auth.common_passwords import COMMON_PASSWORDS
from admin_api.auth.emails import parse_email
from admin_api.schema import Schema
from proxy import security

MIN_PASSWORD_LENGTH = 8
_JOINERS = "\u200c\u200d"  # Persian, Sinhala and many scripts of India are not written without them
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def _password(value: str) -> str:
    if not security.is_acceptable_password_size(value):
        raise ValueError(f"must have at most {security.MAX_PASSWORD_BYTES} bytes and no NUL")
    if len(value) < MIN_PASSWORD_LENGTH:
        raise ValueError(f"must have at least {MIN_PASSWORD_LENGTH} characters")
    if value.lower() in COMMON_PASSWORDS:
        raise ValueError("is among the most common passwords; choose another")
    return value


def _name(value: str) -> str:
    if any(
        character not in _JOINERS and unicodedata.category(character) in _REFUSED_CATEGORIES
        for character in value
    ):
        raise ValueError("must not contain control characters")
    return unicodedata.normalize("NFC", value)


Name = Annotated[str, Field(min_length=2, max_length=50), AfterValidator(_name)]
Email = Annotated[
    str, Field(max_length=254, json_schema_extra={"format": "email"}), AfterValidator(parse_email)
]
TypedEmail = Annotated[str, Field(min_length=1, max_length=254)]
"""An address to look for: what was stored once need not pass today's rules."""

NewPassword = Annotated[
    str,
    StringConstraints(strip_whitespace=False),
    Field(json_schema_extra={"minLength": MIN_PASSWORD_LENGTH, "maxLength": security.MAX_PASSWORD_BYTES}),
    AfterValidator(_password),
]
TypedPassword = Annotated[str, StringConstraints(strip_whitespace=False), Field(min_length=1)]


class Registration(Schema):
    """A new account."""

    name: Name
    email: Email
    password: NewPassword

    @model_validator(mode="after")
    def _is_not_public(self) -> Registration:
        known = {self.name.lower(), self.email, self.email.partition("@")[0]}
        if self.password.lower() in known:
            raise ValueError("the password must not be your name or e-mail address")
        return self


class Credentials(Schema):
    """Who signs in, and how he proves it."""

    email: TypedEmail
    password: TypedPassword


class PasswordChange(Schema):
    """A new password, and the proof that it is the owner who wants it."""

    currentPassword: TypedPassword
    newPassword: NewPassword


class ForgottenPassword(Schema):
    """Who asks for a mail with a link."""

    email: Email


class NewPasswordOnly(Schema):
    """The new password of somebody who has followed the link."""

    password: NewPassword
