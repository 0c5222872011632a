"""Addresses that an operator writes in the configuration, checked when they are read."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from proxy.core.networks import read_network

_ORIGIN = re.compile(r"https?://[^/\s?#@]+/?", re.IGNORECASE)


def _origin(value: str) -> str:
    if value != "*" and _ORIGIN.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not an origin like https://app.example.com")
    return value.rstrip("/").lower()


def _web_address(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return value.rstrip("/")


def _mail_server(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise ValueError("must look like smtp://user:password@host:587 or smtps://user:password@host")
    return value


def _network(value: object) -> IPv4Network | IPv6Network:
    return read_network(str(value))


Origin = Annotated[str, AfterValidator(_origin)]
"""An origin as browsers write it: scheme, host and port in lower case and nothing behind; or `*`."""

WebAddress = Annotated[str, AfterValidator(_web_address)]
"""The address of a web page, without a slash at its end."""

MailServer = Annotated[str, AfterValidator(_mail_server)]
"""Where mails are handed in, with user and password."""

Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
"""One address or a range of them, as 10.0.0.0/8."""


def comma_separated(value: object) -> object:
    """Split a list that stands in one variable."""
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value
