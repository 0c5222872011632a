"""The tokens of the account service: one exact form, signed with one secret, accepted under that and a few others.

A token names its secret by an id (`kid`), so that the secret can be changed while tokens of the last one are still
good. The id is looked up among those that are accepted, and nothing else is done with it. All functions are pure:
time is an argument.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import jwt
from jwt.types import Options

from proxy.token_keys import TokenKeys

_ALGORITHM = "HS256"
_ISSUER = "aipasta"
_AUDIENCE = "aipasta:api"
_HEADER = {"alg": _ALGORITHM, "typ": "JWT"}
_CLAIMS = ["aud", "exp", "iat", "iss", "jti", "sub", "typ"]
_CLAIMS_BEFORE_KEY_IDS = ["exp", "iat", "iss", "jti", "sub", "typ"]
"""Of tokens from before there were key ids: good until they expire, so that an upgrade signs nobody out."""

_LONGEST = 1_024


class InvalidToken(Exception):
    """The token is not one of ours, or no longer."""


class ExpiredToken(InvalidToken):
    """The token was good once."""


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a valid token says: whose it is, and which server-side session it belongs to."""

    user_id: str
    session_id: str
    issued_at: int


def issue(claims: TokenClaims, keys: TokenKeys, lifetime: int) -> str:
    """Sign a token that is good for `lifetime` seconds from `claims.issued_at`."""
    payload = {
        "sub": claims.user_id,
        "jti": claims.session_id,
        "iat": claims.issued_at,
        "exp": claims.issued_at + lifetime,
        "iss": _ISSUER,
        "aud": _AUDIENCE,
        "typ": "access",
    }
    headers = {"kid": keys.signing}
    return jwt.encode(payload, keys.accepted[keys.signing], algorithm=_ALGORITHM, headers=headers)


def read(token: str, keys: TokenKeys, *, now: datetime) -> TokenClaims:
    """Check that a token is one that we would issue; raise `InvalidToken`, or `ExpiredToken`.

    It has exactly our header and our claims, each once: nothing in it is ours to interpret beyond that.
    """
    if len(token) > _LONGEST:
        raise InvalidToken("longer than any of ours")
    try:
        key = jwt.get_unverified_header(token).get("kid")
        expected = _CLAIMS if key is not None else _CLAIMS_BEFORE_KEY_IDS
        options: Options = {"require": expected, "strict_aud": True, "verify_exp": False, "verify_iat": False}
        decoded = jwt.decode_complete(
            token,
            _secret(key, keys),
            algorithms=[_ALGORITHM],
            issuer=_ISSUER,
            audience=_AUDIENCE if "aud" in expected else None,
            options=options,
        )
        names = json.loads(urlsafe_b64decode(token.split(".")[1] + "=="), object_pairs_hook=_names)
    except (jwt.InvalidTokenError, ValueError) as exc:
        raise InvalidToken(str(exc)) from exc
    if decoded["header"] != (_HEADER if key is None else {**_HEADER, "kid": key}) or names != expected:
        raise InvalidToken("not of our form")
    return _claims_of(decoded["payload"], now)


def _secret(key: str | None, keys: TokenKeys) -> str:
    """Find the secret that a token says to be signed with; one that does not say so is good under the newest alone."""
    secret = keys.accepted.get(keys.signing if key is None else key)
    if secret is None:
        raise InvalidToken("signed with a secret that is not accepted")
    return secret


def _claims_of(payload: Mapping[str, Any], now: datetime) -> TokenClaims:
    issued, expires = payload["iat"], payload["exp"]
    if payload["typ"] != "access":
        raise InvalidToken("wrong kind of token")
    if type(issued) is not int or type(expires) is not int:
        raise InvalidToken("times are whole seconds")
    if issued > (now + timedelta(seconds=60)).timestamp():
        raise InvalidToken("issued in the future")
    if expires <= now.timestamp():
        raise ExpiredToken("expired")
    return TokenClaims(payload["sub"], payload["jti"], issued)


def _names(pairs: list[tuple[str, object]]) -> list[str]:
    # A parser that keeps the last of two claims of one name would agree with us on neither.
    return sorted(name for name, _ in pairs)
