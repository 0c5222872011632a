"""Tests of admin_api/auth/schemas.py."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from admin_api.auth.schemas import Registration


def registration(**changes: object) -> Registration:
    return Registration.model_validate(
        {"name": "Asha", "email": "asha@example.com", "password": "correct horse", **changes}
    )


@pytest.mark.parametrize(
    "name",
    [
        "Åsa Öberg",
        "山田\u3000太郎",
        "مهم\u200cد",
        "ක්\u200dර",
        "O'Connor-Smith",
        "Nguyễn Văn A",
        "Иван",
        "J😀",
    ],
)
def test_names_come_in_any_script(name: str) -> None:
    """A name is what people are called, joiners, ideographic blanks and pictures included."""
    assert registration(name=f"  {name} ").name == name


@pytest.mark.parametrize(
    "name", ["", " A ", "x" * 51, "a\nb", "a\x00b", "a\u202eb", "a\u2028b", None, 5, {"$ne": ""}]
)
def test_names_that_could_deceive_are_refused(name: object) -> None:
    """Control characters, and those that turn a line around, are in nobody's name."""
    with pytest.raises(ValidationError):
        registration(name=name)


@pytest.mark.parametrize(
    "password", ["x7#kq9Lm", "почтовая лошадь", " with blanks ", "é" * 512, "a" * 1024, "😀" * 8, "a" * 73]
)
def test_any_long_enough_password_will_do(password: str) -> None:
    """Length counts, composition does not, and nothing is cut or stripped."""
    assert registration(password=password).password == password


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("7 chars", "at least 8 characters"),
        ("Password", "most common"),
        ("12345678", "most common"),
        ("a" * 1025, "at most 1024 bytes"),
        ("é" * 513, "at most 1024 bytes"),
        ("with a\x00nul", "no NUL"),
        ("ASHA@example.com", "must not be your name"),
        (12345678901, "valid string"),
        (["correct horse"], "valid string"),
        (None, "valid string"),
    ],
)
def test_bad_passwords_are_refused_with_the_reason(password: object, reason: str) -> None:
    """Too short, too long, everybody's, or public: the message says which."""
    with pytest.raises(ValidationError, match=reason):
        registration(password=password)
