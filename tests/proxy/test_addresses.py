"""Tests of proxy/addresses.py."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from proxy.addresses import MailServer, Network, Origin, WebAddress


def test_origins_are_as_browsers_write_them() -> None:
    """Case and a closing slash do not matter to the operator, so they must not matter here."""
    origin: TypeAdapter[str] = TypeAdapter(Origin)
    assert origin.validate_python("HTTPS://App.Example.com:8443/") == "https://app.example.com:8443"
    assert origin.validate_python("*") == "*"
    for wrong in (
        "app.example.com",
        "https://",
        "https://a.example/path",
        "null",
        "https://a b",
        "https://u@a.example",
    ):
        with pytest.raises(ValidationError):
            origin.validate_python(wrong)


def test_the_frontends_address() -> None:
    """It is a web address, and links are built without a double slash."""
    address: TypeAdapter[str] = TypeAdapter(WebAddress)
    assert address.validate_python("https://app.example.com/x/") == "https://app.example.com/x"
    with pytest.raises(ValidationError):
        address.validate_python("javascript:alert(1)")


def test_mail_servers() -> None:
    """Only SMTP, in the clear or over TLS, and never without a host."""
    server: TypeAdapter[str] = TypeAdapter(MailServer)
    for good in ("smtp://localhost:25", "smtps://user:p%40ss@mail.example.com"):
        assert server.validate_python(good) == good
    for wrong in ("mail.example.com", "http://mail.example.com", "smtp://", "smtp:mail.example.com"):
        with pytest.raises(ValidationError):
            server.validate_python(wrong)


def test_networks() -> None:
    """One address is a network too; host bits and words are mistakes."""
    network: TypeAdapter[object] = TypeAdapter(Network)
    assert [str(network.validate_python(text)) for text in ("10.0.0.0/8", "::1", "192.0.2.7")] == [
        "10.0.0.0/8",
        "::1/128",
        "192.0.2.7/32",
    ]
    for wrong in ("10.0.0.1/8", "balancer", "10.0.0.0/33"):
        with pytest.raises(ValidationError):
            network.validate_python(wrong)
