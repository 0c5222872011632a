"""The only reader of config.yaml, of `.env` and of the environment; everything after it is a frozen value.

config.yaml comes first and the environment over it. An unknown key or a bad value stops the start with one line
that names it; unknown environment variables do not, since an environment belongs to more than one program.
Secrets come from the environment alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

import yaml
from dotenv import dotenv_values
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from proxy.addresses import MailServer, Network, Origin, WebAddress, comma_separated
from proxy.bounds import Bounds
from proxy.core.routing import Member
from proxy.limits import Limits
from proxy.own_secret import MIN_SECRET_LENGTH, is_weak, own_secret
from proxy.rates import RateLimits
from proxy.routes import Fallback, Resilience, Timeouts, routes_of
from proxy.token_keys import TokenKeys


class SettingsError(Exception):
    """The configuration cannot be used; the message is one line that names the key."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ChatSection(_Section):
    """The playground's conversations."""

    context_messages: int = Field(default=20, ge=0, le=200)
    max_output_tokens: int = Field(default=4_000, ge=1)
    session_days: int | None = Field(default=None, ge=1, le=36_500)
    attachment_bytes: int = Field(default=8 * 2**20, ge=0, le=12 * 2**20)


class ProviderSettings(_Section):
    """One provider: which plugin speaks to it, where it is, and which environment variable holds its keys."""

    plugin: str
    base_url: str = ""
    api_key_env: str | None = None
    tier: Literal["free", "paid", "by_price"] = "by_price"
    enabled: bool = True
    timeouts: Timeouts = Timeouts()
    app_url: str | None = None
    app_title: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/")


_OPENROUTER = ProviderSettings(
    plugin="openrouter", base_url="https://openrouter.ai/api/v1", api_key_env="OPENROUTER_API_KEY"
)
_HUGGINGFACE = ProviderSettings(
    plugin="huggingface",
    base_url="https://router.huggingface.co/v1",
    api_key_env="HUGGINGFACE_API_KEY",
    tier="free",
)
_FROM_FILE_ONLY = frozenset(
    {"limits", "connections", "rate_limits", "chat", "providers", "aliases", "fallbacks", "resilience"}
)
_SECRETS = frozenset(
    {"jwt_secret", "jwt_accepted_secrets", "admin_password", "mongodb_uri", "smtp_url", "metrics_token"}
)


class Settings(BaseSettings):
    """Everything that an operator can set. Each field is also an environment variable, in capitals."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True, allow_inf_nan=False)

    host: str | None = Field(
        None, description="address to listen on; default 127.0.0.1 in development, 0.0.0.0 in production"
    )
    port: int = Field(5000, ge=1, le=65535, description="port to listen on")
    workers: int = Field(1, ge=1, le=64, description="processes that serve, one per core that they may use")
    reuse_port: bool = Field(default=False, description="let a newer gateway share the port during a drain")
    environment: Literal["development", "production"] = Field(
        "development",
        validation_alias=AliasChoices("environment", "node_env"),
        description="production refuses weak secrets and the embedded database",
    )
    data_dir: Path = Field(Path("data"), description="where the embedded database and generated secrets live")
    mongodb_uri: str | None = Field(
        None, description="MongoDB to use; without it a private mongod is started"
    )
    database: str = Field("aipasta", description="database to use when MONGODB_URI names none")
    jwt_secret: str | None = Field(
        None, description="signs tokens, at least 32 characters; made up in development"
    )
    jwt_accepted_secrets: Annotated[tuple[str, ...], NoDecode] = Field(
        (), repr=False, description="further secrets whose tokens are good, separated by commas: for a change"
    )
    jwt_expires_in: str = Field(
        "7d", pattern=r"^[1-9][0-9]{0,5}[smhd]$", description="how long a token is good, as 7d or 12h"
    )
    jwt_cookie_expires_in: int = Field(7, ge=1, description="how long the `jwt` cookie is kept, in days")
    openrouter_base_url: WebAddress | None = Field(
        None, description="where OpenRouter is, for tests and proxies"
    )
    huggingface_base_url: WebAddress | None = Field(
        None, description="where Hugging Face's router is, likewise"
    )
    allowed_origins: Annotated[tuple[Origin, ...], NoDecode] = Field(
        ("http://localhost:3000", "http://localhost:3001"), description="browser origins, separated by commas"
    )
    frontend_url: WebAddress | None = Field(
        None, description="address of the web frontend, for links in mails; in development the first origin"
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        (), description="addresses of our own proxies, as 10.0.0.0/8, whose X-Forwarded-For is believed"
    )
    smtp_url: MailServer | None = Field(
        None, repr=False, description="mail server, as smtp://user:password@host:587; smtps:// for TLS alone"
    )
    mail_from: str = Field("AI Pasta <no-reply@localhost>", description="sender of the mails")
    admin_email: str | None = Field(None, description="e-mail of the first admin, made at start")
    admin_password: str | None = Field(None, description="password of the first admin")
    # With a higher one the dearest answer would not fit the 64-bit counters of 10^-12 rupees.
    usd_inr_rate: Decimal = Field(
        Decimal(83), gt=0, le=900, decimal_places=12, description="rupees per dollar for the INR figures"
    )
    metrics_token: str | None = Field(
        None, description="Bearer token for /metrics; without it, private addresses only"
    )
    docs_enabled: bool | None = Field(
        None, description="serve /docs and /docs/openapi.json; default: in development only"
    )
    drain_seconds: float = Field(30, ge=0, description="how long running requests may go on after SIGTERM")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe level logged"
    )
    access_log: bool = Field(default=True, description="write one line per request to the log")
    reconcile_seconds: float = Field(
        60, ge=0, description="how long a cut stream's hold waits for the provider's own record of its cost"
    )
    metering: Literal["leased", "direct"] = Field(
        "leased",
        description="leased needs a disk and admits in memory; direct asks the database for every request",
    )
    catalog_refresh_seconds: float = Field(
        900, ge=1, description="how often the providers' model lists are read"
    )
    keep_alive_seconds: float = Field(15, gt=0, description="silence after which a stream gets a comment")
    limits: Limits = Limits()
    connections: Bounds = Bounds()
    rate_limits: RateLimits = RateLimits()
    chat: ChatSection = ChatSection()
    providers: dict[str, ProviderSettings] = Field(
        default_factory=lambda: {"openrouter": _OPENROUTER, "huggingface": _HUGGINGFACE}
    )
    aliases: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    fallbacks: dict[str, tuple[Fallback, ...]] = Field(default_factory=dict)
    resilience: Resilience = Resilience()
    provider_keys: dict[str, tuple[str, ...]] = Field(default_factory=dict, exclude=True, repr=False)

    _split_lists = field_validator(
        "allowed_origins", "trusted_proxies", "jwt_accepted_secrets", mode="before"
    )(comma_separated)

    @field_validator("aliases", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        if isinstance(value, dict):
            return {name: (ids,) if isinstance(ids, str) else ids for name, ids in value.items()}
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  replaced by one without the file's sections
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  likewise
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  not used here
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the environment over `.env` over the values that `load` has read from config.yaml."""
        return (_Environment(settings_cls), _DotEnv(settings_cls, env_file=".env"), init_settings)

    @property
    def is_production(self) -> bool:
        """Say whether the strict rules hold."""
        return self.environment == "production"

    def secrets(self) -> frozenset[str]:
        """Return everything that must never be shown, as it is and as it stands in URLs."""
        given = [*(getattr(self, name) for name in _SECRETS), *self.provider_keys.values()]
        found = {secret for each in given for secret in (each if isinstance(each, tuple) else (each,))}
        passwords = {urlsplit(url).password for url in (self.mongodb_uri, self.smtp_url) if url}
        known = {str(secret) for secret in found | passwords if secret}
        return frozenset(known | {unquote(secret) for secret in known})

    @property
    def serves_docs(self) -> bool:
        """Say whether everybody may read what endpoints there are."""
        return not self.is_production if self.docs_enabled is None else self.docs_enabled

    @property
    def listen_host(self) -> str:
        """Return the address to listen on."""
        return self.host or ("0.0.0.0" if self.is_production else "127.0.0.1")  # noqa: S104  asked for by ENVIRONMENT

    @property
    def token_keys(self) -> TokenKeys:
        """Return what tokens are signed with and checked against."""
        return TokenKeys.of(self.jwt_secret or "", self.jwt_accepted_secrets)

    @property
    def token_lifetime(self) -> int:
        """Return how long a token is good, in seconds."""
        number, unit = self.jwt_expires_in[:-1], self.jwt_expires_in[-1]
        return int(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]

    @property
    def longest_exchange(self) -> float:
        """Return how long the most patient provider may take for one answer, in seconds."""
        patience = [provider.timeouts.total for provider in self.enabled_providers().values()]
        patience += [each.timeouts.total or 0 for targets in self.fallbacks.values() for each in targets]
        return max(patience, default=Timeouts().total)

    @property
    def routes(self) -> dict[str, tuple[Member, ...]]:
        """Return the names that the operator has made for models, each with its targets in order."""
        return routes_of(self.aliases, self.fallbacks)

    def enabled_providers(self) -> dict[str, ProviderSettings]:
        """Return the providers to use: those that are on and have a key, or need none.

        Without any, in development, that is the built-in demo, so that the first request works at once.
        """
        enabled = {
            name: provider
            for name, provider in self.providers.items()
            if provider.enabled and (provider.api_key_env is None or self.provider_keys.get(name))
        }
        if not enabled and not self.is_production:
            return {"demo": ProviderSettings(plugin="demo")}
        return enabled


class _Environment(EnvSettingsSource):
    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        if field_name in _FROM_FILE_ONLY | {"provider_keys"}:
            return None, field_name, False
        return super().get_field_value(field, field_name)


class _DotEnv(_Environment, DotEnvSettingsSource):
    pass


def load(config_file: Path | None = None) -> Settings:
    """Read the configuration; raise `SettingsError` with one line that names what is wrong.

    `config_file` defaults to `CONFIG_FILE`, then to config.yaml in the working folder, which may be missing.
    """
    # An empty variable counts as none, here as everywhere: compose files pass on what nobody has set.
    variables = {**dotenv_values(".env"), **{name: value for name, value in os.environ.items() if value}}
    named = variables.get("CONFIG_FILE")
    path = config_file or (Path(named) if named else None)
    values = _read_file(path or Path("config.yaml"), must_exist=path is not None)
    try:
        settings = Settings(**values)
        settings = _with_environment(settings, variables)
    except ValidationError as exc:
        raise SettingsError(_one_line(exc)) from exc
    _check(settings)
    return (
        settings if settings.jwt_secret else settings.model_copy(update={"jwt_secret": _own_secret(settings)})
    )


def _read_file(path: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        if must_exist:
            raise SettingsError(f"CONFIG_FILE: there is no file {path}") from exc
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise SettingsError(f"{path}: cannot be read: {' '.join(str(exc).split())}") from exc
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: must be a mapping of settings")
    for key in values:
        if key in _SECRETS:
            raise SettingsError(
                f"{path}: {key}: secrets belong in the environment ({str(key).upper()}), not in this file"
            )
        if key not in Settings.model_fields or key == "provider_keys":
            raise SettingsError(f"{path}: {key}: there is no such setting")
    return values


def _with_environment(settings: Settings, variables: Mapping[str, str | None]) -> Settings:
    """Add what depends on other settings: the providers' keys by the names of their variables, and their URLs."""
    providers, keys = dict(settings.providers), {}
    for name, url in (
        ("openrouter", settings.openrouter_base_url),
        ("huggingface", settings.huggingface_base_url),
    ):
        if url and name in providers:
            values = {**providers[name].model_dump(), "base_url": url}
            providers[name] = ProviderSettings.model_validate(values)
    for name, provider in providers.items():
        if provider.api_key_env is not None:
            keys[name] = tuple(
                key.strip() for key in (variables.get(provider.api_key_env) or "").split(",") if key.strip()
            )
    return settings.model_copy(update={"providers": providers, "provider_keys": keys})


def _check(settings: Settings) -> None:
    for name in settings.providers:
        if "/" in name or not name:
            raise SettingsError(
                f"providers: {name!r}: a provider's name is a prefix of model ids and has no slash"
            )
    for name in settings.aliases.keys() & settings.fallbacks.keys():
        raise SettingsError(f"fallbacks: {name!r}: the name stands in `aliases` too")
    if bool(settings.admin_email) != bool(settings.admin_password):
        raise SettingsError("ADMIN_EMAIL and ADMIN_PASSWORD: set both or neither")
    if settings.is_production:
        _check_production(settings)


def _check_production(settings: Settings) -> None:
    """Refuse what is good enough for a machine of one's own, and for nobody else's."""
    signing = () if settings.jwt_secret is None else (settings.jwt_secret,)
    for name, given in (("JWT_SECRET", signing), ("JWT_ACCEPTED_SECRETS", settings.jwt_accepted_secrets)):
        if any(map(is_weak, given)):
            raise SettingsError(f"{name}: must be random and have at least {MIN_SECRET_LENGTH} characters")
    for name in ("jwt_secret", "mongodb_uri"):
        if not getattr(settings, name):
            raise SettingsError(f"{name.upper()}: must be set in production")
    if settings.smtp_url and not settings.frontend_url:
        raise SettingsError("FRONTEND_URL: must be set in production when SMTP_URL is: mails link to it")
    if settings.log_level == "debug":
        raise SettingsError("LOG_LEVEL: debug shows what users send and store; it is not for production")
    if "*" in settings.allowed_origins:
        raise SettingsError("ALLOWED_ORIGINS: must name exact origins in production, not *")


def _own_secret(settings: Settings) -> str:
    try:
        return own_secret(settings.data_dir)
    except OSError as exc:
        raise SettingsError(f"DATA_DIR: {settings.data_dir} cannot be written: {exc.strerror}") from exc


def _one_line(error: ValidationError) -> str:
    """Name every wrong setting with its reason, the environment's ones as the operator spells them."""
    reasons = []
    for item in error.errors():
        location = ".".join(str(part) for part in item["loc"])
        name = location if item["loc"][0] in _FROM_FILE_ONLY else location.upper()
        reasons.append(f"{name}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(reasons)
