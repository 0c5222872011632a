"""Tests of admin_api/validation.py."""

from __future__ import annotations

import pytest

from admin_api.schema import Schema
from admin_api.validation import (
    MAX_BODY_BYTES,
    read_body,
    read_choice,
    read_id,
    read_integer,
    read_text,
)
from proxy.errors import InvalidRequest, NotFound, PayloadTooLarge, UnsupportedMedia
from tests.admin_api.requests import request_for


class Wish(Schema):
    """What a body may say in these tests."""

    name: str
    count: int = 1


def test_a_body_is_read() -> None:
    """Blanks around texts go, what is left out has its default."""
    assert read_body(request_for(body=b'{"name": "  Asha "}'), Wish) == Wish(name="Asha", count=1)


@pytest.mark.parametrize(
    ("body", "reasons"),
    [
        (b"", "name: Field required"),
        (b"{", "the body is not valid JSON"),
        (b"NaN", "the body is not valid JSON"),
        (b'{"name": "\\ud800"}', "the body is not valid JSON"),
        (b"[]", "the body: Input should be"),
        (b'{"name": 1, "count": "2", "x": 3}', "name: Input should be a valid string"),
        (b'{"name": "a", "count": "2"}', "count: Input should be a valid integer"),
        (b'{"name": "a", "count": 2.0}', "count: Input should be a valid integer"),
        (b'{"name": "a", "count": true}', "count: Input should be a valid integer"),
        (b'{"name": {"$gt": ""}}', "name: Input should be a valid string"),
        (b'{"name": "a", "$where": "1"}', "$where: Extra inputs are not permitted"),
    ],
)
def test_everything_else_is_refused_with_its_reason(body: bytes, reasons: str) -> None:
    """Nothing is converted, nothing unknown is let through, and the message says what is wrong."""
    with pytest.raises(InvalidRequest) as raised:
        read_body(request_for(body=body), Wish)
    assert raised.value.message.startswith("Validation failed: ")
    assert reasons in raised.value.message


def test_one_message_names_every_field() -> None:
    """Whoever gets it can mend everything at once."""
    with pytest.raises(InvalidRequest) as raised:
        read_body(request_for(body=b'{"count": "2", "x": 3}'), Wish)
    assert all(f"{name}: " in raised.value.message for name in ("name", "count", "x"))


def test_large_and_encoded_bodies_are_refused() -> None:
    """A body has a bound, and comes as it is."""
    with pytest.raises(PayloadTooLarge):
        read_body(request_for(body=b" " * (MAX_BODY_BYTES + 1)), Wish)
    assert read_body(request_for(body=b'{"name":"a"}' + b" " * MAX_BODY_BYTES), Wish, limit=10**6).name == "a"
    with pytest.raises(UnsupportedMedia):
        read_body(request_for(body=b"{}", content_encoding="gzip"), Wish)


def test_query_parameters() -> None:
    """Each comes once, is no longer than it may be, and is one of what it can be."""
    assert read_text(request_for("/?q=a%20b"), "q") == "a b"
    assert read_text(request_for("/?q="), "q") == ""
    assert read_text(request_for("/"), "q") is None
    assert read_text(request_for("/?q=%FF"), "q") == "\ufffd"
    assert read_choice(request_for("/"), "sort", ("up", "down"), default="up") == "up"
    assert read_choice(request_for("/?sort=down"), "sort", ("up", "down"), default="up") == "down"
    assert read_integer(request_for("/?n=007"), "n", default=1, least=1, most=10) == 7
    for wrong in ("/?q=1&q=2", "/?q=" + "x" * 201, "/?q=%00", "/?q=a%00b"):
        with pytest.raises(InvalidRequest, match="Validation failed: q: "):
            read_text(request_for(wrong), "q")
    for wrong in ("/?sort=left", "/?sort=", "/?sort=UP"):
        with pytest.raises(InvalidRequest, match="sort: must be one of up, down"):
            read_choice(request_for(wrong), "sort", ("up", "down"), default="up")


def test_ids() -> None:
    """What cannot be an id is nobody's: 404, and the database is not asked."""
    assert str(read_id("0123456789abcdef01234567", missing="gone")) == "0123456789abcdef01234567"
    for wrong in (
        "",
        "x",
        "0123456789abcdef0123456",
        "{'$ne': 1}",
        "0123456789abcdef0123456z",
        "twelve bytes",
    ):
        with pytest.raises(NotFound, match="gone"):
            read_id(wrong, missing="gone")
