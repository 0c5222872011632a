"""Tests of proxy/settings.py."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from proxy.core.routing import Member
from proxy.routes import Resilience
from proxy.settings import Settings, SettingsError, load
from proxy.token_keys import TokenKeys, key_id
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
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("OPENROUTER_BASE_URL", "ftp://s3cret-word"),
        ("FRONTEND_URL", "app.example.com"),
        ("SMTP_URL", "user:s3cret-word@mail.example.com"),
    ],
)
@pytest.mark.usefixtures("config")
def test_a_bad_address_stops_the_start(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the setting, and never shows a secret."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"^{name}[.0-9]*: [^;]*$") as raised:
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


def test_the_projects_file_is_the_defaults(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project's config.yaml changes nothing: it shows every default at its value."""
    monkeypatch.chdir(tmp_path)
    shown, default = load(project / "config.yaml"), load(Path("/dev/null"))
    assert shown == default.model_copy(update={"jwt_secret": shown.jwt_secret})
    written = (project / "config.yaml").read_text()
    for name in ("providers", "limits", "aliases", "port", "drain_seconds", "catalog_refresh_seconds"):
        assert f"{name}:" in written


def test_the_environment_wins_over_env_files_and_they_over_the_file(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable beats .env, .env beats config.yaml, and an empty variable counts as none."""
    config.write_text("port: 1001\ndrain_seconds: 5\nusd_inr_rate: 90.5\n")
    (config.parent / ".env").write_text(
        "PORT=1002\nDRAIN_SECONDS=6\nHUGGINGFACE_API_KEY=hf_file\nAIPASTA_OTHER=1\n"
    )
    monkeypatch.setenv("PORT", "1003")
    monkeypatch.setenv("DRAIN_SECONDS", "")
    monkeypatch.setenv("HUGGINGFACE_API_KEY", "")
    monkeypatch.setenv("CONFIG_FILE", "")
    settings = load()
    assert (settings.port, settings.drain_seconds, settings.usd_inr_rate) == (1003, 6, Decimal("90.5"))
    assert settings.provider_keys["huggingface"] == ("hf_file",)


@pytest.mark.usefixtures("config")
def test_several_keys_of_a_provider_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are split and trimmed, a provider is on when it has one, and no key shows in the settings' text."""
    assert list(load().enabled_providers()) == ["demo"]
    monkeypatch.setenv("OPENROUTER_API_KEY", " sk-or-v1-a, sk-or-v1-b ,,")
    monkeypatch.setenv("OPENROUTER_BASE_URL", "http://localhost:9/api/v1/")
    settings = load()
    assert settings.provider_keys["openrouter"] == ("sk-or-v1-a", "sk-or-v1-b")
    (provider,) = settings.enabled_providers().items()
    assert (provider[0], provider[1].base_url) == ("openrouter", "http://localhost:9/api/v1")
    assert "sk-or-v1" not in repr(settings)
    assert "sk-or-v1" not in settings.model_dump_json()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour: red", "colour: there is no such setting"),
        ("provider_keys: {x: [y]}", "provider_keys: there is no such setting"),
        ("5: x", "5: there is no such setting"),
        ("mongodb_uri: mongodb://x", "MONGODB_URI"),
        ("metrics_token: abc", "METRICS_TOKEN"),
        ("jwt_accepted_secrets: [abc]", "JWT_ACCEPTED_SECRETS"),
        ("port: 70000", "PORT"),
        ("usd_inr_rate: 0", "USD_INR_RATE"),
        ("usd_inr_rate: .nan", "USD_INR_RATE"),
        ("usd_inr_rate: 1e-13", "USD_INR_RATE"),
        (f"usd_inr_rate: '83.{'3' * 40}'", "USD_INR_RATE"),
        ("usd_inr_rate: 901", "USD_INR_RATE"),
        ("jwt_expires_in: soon", "JWT_EXPIRES_IN"),
        ("jwt_expires_in: 9999999d", "JWT_EXPIRES_IN"),
        ("jwt_expires_in: 0d", "JWT_EXPIRES_IN"),
        ("catalog_refresh_seconds: .inf", "CATALOG_REFRESH_SECONDS"),
        ("drain_seconds: .inf", "DRAIN_SECONDS"),
        ("connections: {head_seconds: .inf}", "connections.head_seconds"),
        ("providers: {x: {plugin: demo, timeouts: {total: .inf}}}", "providers.x.timeouts.total"),
        ("chat: {session_days: 10000000}", "chat.session_days"),
        ("rate_limits: {api: {requests: 1, seconds: 10000000000000}}", "rate_limits.api.seconds"),
        ("limits: {default_output_tokens: 100000000000000000000}", "limits.default_output_tokens"),
        ("limits: {image_tokens: 100000000000000000000}", "limits.image_tokens"),
        (
            "limits: {user: {daily_requests: 10000000000000000000, monthly_requests: 1, monthly_tokens: 1}}",
            "limits.user.daily_requests",
        ),
        ("limits: {user: {daily: 5}}", "limits.user.daily"),
        ("limits: 5", "limits"),
        ("providers: {'a/b': {plugin: demo}}", "'a/b'"),
        ("providers: {x: {}}", "providers.x.plugin"),
        ("providers: {x: {plugin: demo, colour: red}}", "providers.x.colour"),
        ("providers: {x: {plugin: demo, timeouts: {idle: 0}}}", "providers.x.timeouts.idle"),
        ("aliases: {x: 5}", "aliases"),
        ("fallbacks: {x: [{model: a/b, timeouts: {idle: 0}}]}", "fallbacks.x.0.timeouts.idle"),
        ("fallbacks: {x: [{model: a/b, patience: 5}]}", "fallbacks.x.0.patience"),
        ("{aliases: {x: a/b}, fallbacks: {x: [c/d]}}", "'x'"),
        ("resilience: {retries: {attempts: 0}}", "resilience.retries.attempts"),
        ("resilience: {breaker: {failure_rate: 2}}", "resilience.breaker.failure_rate"),
        ("- a", "must be a mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(config: Path, text: str, named: str) -> None:
    """One line says which key of the file is wrong, and why."""
    config.write_text(text)
    with pytest.raises(SettingsError) as raised:
        load()
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_secret_of_development_is_made_once(config: Path) -> None:
    """Without JWT_SECRET a random one is kept under DATA_DIR, readable by its owner alone."""
    first = load().jwt_secret
    assert first == load().jwt_secret
    path = config.parent / "jwt_secret"
    assert (path.read_text(), path.stat().st_mode & 0o777) == (first, 0o600)
    assert first is not None
    assert len(first) >= 48


def test_a_secret_that_was_cut_off_is_made_anew(config: Path) -> None:
    """An empty file, as a full disk leaves it, is no secret: nobody could sign in."""
    path = config.parent / "jwt_secret"
    path.touch()
    first = load().jwt_secret
    assert first == load().jwt_secret == path.read_text()
    assert len(first) >= 48
    assert [each.name for each in path.parent.iterdir() if "jwt_secret" in each.name] == ["jwt_secret"]


@pytest.mark.usefixtures("config")
def test_secrets_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """JWT_SECRET signs, those of JWT_ACCEPTED_SECRETS are accepted beside it, and none of them is ever shown."""
    assert list(load().token_keys.accepted) == [load().token_keys.signing]
    first, second = "k3J9x-Qw7Lm2Zp8Rt5Vb1Nc6Hd4Gf0Sa", "a0Sf4-Gd6Hc1Nb5Vt8Rp2Zm7Lw3Qx9Jk"
    monkeypatch.setenv("JWT_SECRET", JWT_SECRET)
    monkeypatch.setenv("JWT_ACCEPTED_SECRETS", f" {first}, {second},")
    settings = load()
    assert settings.token_keys == TokenKeys.of(JWT_SECRET, [first, second])
    assert settings.token_keys.signing == key_id(JWT_SECRET)
    assert {first, second, JWT_SECRET} <= settings.secrets()
    assert first not in repr(settings)


@pytest.mark.parametrize("name", ["ENVIRONMENT", "NODE_ENV"])
@pytest.mark.usefixtures("config")
def test_production_is_strict(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In production the start needs a strong secret, a database and exact origins; then it listens everywhere."""
    strong = {**PRODUCTION, "JWT_SECRET": "k3J9x-Qw7Lm2Zp8Rt5Vb1Nc6Hd4Gf0Sa"}
    del strong["ENVIRONMENT"]
    monkeypatch.setenv(name, "production")
    for variable, value in strong.items():
        monkeypatch.setenv(variable, value)
    assert (load().is_production, load().listen_host) == (True, "0.0.0.0")  # noqa: S104  what production means
    assert load().enabled_providers() == {}
    for variable, bad in (
        ("JWT_SECRET", ""),
        ("JWT_SECRET", "short"),
        ("JWT_SECRET", "a" * 64),
        ("JWT_SECRET", "your-super-secret-jwt-key-change-this-in-production"),
        ("MONGODB_URI", ""),
        ("ALLOWED_ORIGINS", "*"),
        ("ALLOWED_ORIGINS", "https://app.example.com,*"),
        ("JWT_SECRET", "password-password-password-password"),
        ("JWT_SECRET", "change-me-to-something-of-32-characters"),
        ("JWT_ACCEPTED_SECRETS", "short"),
        ("JWT_ACCEPTED_SECRETS", f"{strong['JWT_SECRET']},{'a' * 64}"),
        ("LOG_LEVEL", "debug"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, bad)
            with pytest.raises(SettingsError, match=variable):
                load()


def test_an_alias_is_one_id_or_many(config: Path) -> None:
    """An alias in the file names one model or several."""
    config.write_text("aliases: {fast: a/b, best: [c/d, e/f]}")
    assert load().aliases == {"fast": ("a/b",), "best": ("c/d", "e/f")}


def test_aliases_and_fallbacks_are_routes(config: Path) -> None:
    """Both are names with targets in order; a target keeps the timeouts that are its own, and counts in the longest."""
    config.write_text(
        "aliases: {fast: a/b}\nfallbacks: {best: [{model: c/d, timeouts: {first_byte: 2, total: 900}}, e/f]}"
    )
    settings = load()
    best = (Member("c/d", {"first_byte": 2, "total": 900}), Member("e/f"))
    assert settings.routes == {"fast": (Member("a/b"),), "best": best}
    assert settings.longest_exchange == 900


def test_the_files_resilience_is_the_default(project: Path) -> None:
    """What config.yaml says of retries, breakers and keys set aside is what holds without it."""
    text = (project / "config.yaml").read_text(encoding="utf-8")
    assert Resilience.model_validate(yaml.safe_load(text)["resilience"]) == Resilience()


def test_limits_belong_to_roles() -> None:
    """The specification's limits are the defaults of the roles."""
    limits = Settings().limits
    assert (limits.user.daily_requests, limits.user.monthly_requests, limits.user.monthly_tokens) == (
        50,
        1_000,
        100_000,
    )
    assert limits.premium == limits.admin
    assert limits.premium.monthly_tokens == 500_000
