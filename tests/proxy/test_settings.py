"""Tests of proxy/settings.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.settings import SettingsError, load
from tests.gateway import JWT_SECRET

PRODUCTION = {
    "ENVIRONMENT": "production",
    "JWT_SECRET": JWT_SECRET,
    "MONGODB_URI": "mongodb://localhost/aipasta",
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a config.yaml to write, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    return tmp_path / "config.yaml"


def test_lists_come_from_either_place(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Origins and trusted proxies are a list in the file and separated by commas in the environment."""
    config.write_text("trusted_proxies: [10.0.0.0/8]\nallowed_origins: ['https://App.example.com/']\n")
    settings = load()
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8"]
    assert settings.allowed_origins == ("https://app.example.com",)
    monkeypatch.setenv("TRUSTED_PROXIES", "192.0.2.1, ::1")
    assert [str(network) for network in load().trusted_proxies] == ["192.0.2.1/32", "::1/128"]


def test_rate_limits_come_from_the_file_alone(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not named keeps its default, and an unknown name stops the start."""
    config.write_text("rate_limits:\n  auth: {requests: 3}\n")
    monkeypatch.setenv("RATE_LIMITS", "{}")
    limits = load().rate_limits
    assert (limits.auth.requests, limits.api.requests) == (3, 100)
    config.write_text("rate_limits:\n  login: {requests: 3}\n")
    with pytest.raises(SettingsError, match=r"rate_limits\.login"):
        load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALLOWED_ORIGINS", "app.example.com"),
        ("ALLOWED_ORIGINS", "null"),
        ("TRUSTED_PROXIES", "balancer"),
        ("FRONTEND_URL", "app.example.com"),
        ("SMTP_URL", "user:s3cret-word@mail.example.com"),
    ],
)
@pytest.mark.usefixtures("config")
def test_a_bad_address_stops_the_start(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the setting, and never shows a secret."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as raised:
        load()
    assert "s3cret-word" not in str(raised.value)


@pytest.mark.usefixtures("config")
def test_mails_of_production_need_to_know_the_frontend(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mail server and without an address to link to, production does not start."""
    for name, value in {**PRODUCTION, "SMTP_URL": "smtp://user:s3cret-word@mail.example.com"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="FRONTEND_URL"):
        load()
    monkeypatch.setenv("FRONTEND_URL", "https://app.example.com/")
    settings = load()
    assert settings.frontend_url == "https://app.example.com"
    assert "s3cret-word" not in repr(settings)
