"""What a provider's refusal becomes for our caller: one table, and the rule for whose words he may read.

A fault of the caller's request carries the provider's message, without addresses, and its `code` and `param`. A
fault of our account with the provider (key, credits, permissions) is our own trouble, and its text stays with us.
"""

from __future__ import annotations

import re

from plugins.contract import Failure, FailureKind
from proxy.errors import (
    ContentPolicy,
    GatewayError,
    InsufficientFunds,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    ProviderFailed,
    ProviderRateLimited,
    ProviderTimeout,
    RateLimited,
    Unauthenticated,
    Unavailable,
)

_ADDRESS = re.compile(r"(?:https?://|www\.)\S+")
_SECRET = re.compile(r"\b(?:sk|hf|aipasta)[-_][\w.*-]{4,}|\bBearer\s+\S+", re.IGNORECASE)

_CLASSES: dict[FailureKind, type[GatewayError]] = {
    FailureKind.INVALID_REQUEST: InvalidRequest,
    FailureKind.TOO_LARGE: PayloadTooLarge,
    FailureKind.CREDENTIALS: ProviderFailed,
    FailureKind.CREDITS: ProviderFailed,
    FailureKind.IN_FLIGHT_BUDGET: Unavailable,
    FailureKind.MODERATION: ContentPolicy,
    FailureKind.FORBIDDEN: ProviderFailed,
    FailureKind.NOT_FOUND: NotFound,
    FailureKind.TIMEOUT: ProviderTimeout,
    FailureKind.RATE_LIMIT: ProviderRateLimited,
    FailureKind.PROVIDER: ProviderFailed,
    FailureKind.UNREACHABLE: Unavailable,
}
_OWN_WORDS = {
    FailureKind.CREDENTIALS: "The provider {provider} refuses this gateway's account; the operator has been told.",
    FailureKind.CREDITS: "This gateway's account with the provider {provider} is exhausted; the operator has been told.",
    FailureKind.FORBIDDEN: "The provider {provider} does not allow this gateway's account to do that.",
    FailureKind.IN_FLIGHT_BUDGET: "The provider {provider} has too many of this gateway's requests in flight.",
    FailureKind.UNREACHABLE: "The provider {provider} cannot be reached.",
}
_DEFAULT_RETRY_SECONDS = 2.0

_WORD = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
# By these we speak of our caller's own key and limits; a provider that does speaks of ours.
_OURS = frozenset(kind.code for kind in (Unauthenticated, PermissionDenied, InsufficientFunds, RateLimited))


def error_for(failure: Failure, provider: str) -> GatewayError:
    """Make the error that a caller sees when `provider` has failed and nobody else could serve."""
    kind = _CLASSES[failure.kind]
    own_words = _OWN_WORDS.get(failure.kind)
    message = own_words.format(provider=provider) if own_words else clean(failure.message)
    retry_after = failure.retry_after
    if issubclass(kind, Unavailable | ProviderRateLimited) and retry_after is None:
        retry_after = _DEFAULT_RETRY_SECONDS
    caller_is_wrong = kind in (InvalidRequest, PayloadTooLarge, ContentPolicy, NotFound)
    error = kind(
        message,
        code="model_not_found" if kind is NotFound else None,
        param=_passed(failure.param) if caller_is_wrong else None,
        retry_after=retry_after,
        # Every target has been tried by now; an SDK that tries again at once only adds load.
        should_retry=None if caller_is_wrong else False,
        details={} if caller_is_wrong else {"provider": provider},
    )
    if caller_is_wrong and kind is not NotFound:
        error.shown_code = _passed(failure.code) or error.error_code
    return error


def _passed(word: str | None) -> str | None:
    """Pass on a code, or a field's name, if it is no more than that."""
    if word is None or word in _OURS or _SECRET.search(word) or not _WORD.fullmatch(word):
        return None
    return word


def clean(message: str) -> str:
    """Take addresses and anything that looks like a secret out of a provider's text."""
    return _SECRET.sub("[removed]", _ADDRESS.sub("[link]", message))
