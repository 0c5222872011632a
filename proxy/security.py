"""API keys, passwords and tokens as pure functions: time and randomness are arguments or the system's own source.

An API key is `aipasta_` + 32 base-62 characters + 6 characters of CRC-32 over them. The checksum lets a typing
error and a scanner's guess be refused without a look at the database; only the SHA-256 is stored, which is
enough for 190 random bits.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import unicodedata
import zlib
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from datetime import datetime, timedelta

import jwt
from jwt.types import Options
from passlib.context import CryptContext
from passlib.exc import PasswordValueError

KEY_PREFIX = "aipasta_"
MAX_PASSWORD_BYTES = 1_024
_BODY_LENGTH = 32
_CHECKSUM_LENGTH = 6
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ALGORITHM = "HS256"
_ISSUER = "aipasta"
_HEADER = {"alg": _ALGORITHM, "typ": "JWT"}
_CLAIMS = ["exp", "iat", "iss", "jti", "sub", "typ"]
_LONGEST_TOKEN = 1_024
_KEY_LENGTH = len(KEY_PREFIX) + _BODY_LENGTH + _CHECKSUM_LENGTH
_BCRYPT_BYTES = 72
_passwords = CryptContext(schemes=["argon2", "bcrypt"], deprecated="auto")


class InvalidToken(Exception):
    """The token is not one of ours, or no longer."""


class ExpiredToken(InvalidToken):
    """The token was good once."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A new API key; `secret` is shown once and never stored."""

    secret: str
    digest: str
    last_four: str


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a valid token says: whose it is, and which server-side session it belongs to."""

    user_id: str
    session_id: str
    issued_at: int


def new_api_key() -> ApiKey:
    """Make a key from 190 bits of the system's randomness."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_BODY_LENGTH))
    secret = f"{KEY_PREFIX}{body}{_checksum(body)}"
    return ApiKey(secret, key_digest(secret), secret[-4:])


def is_well_formed_key(secret: str) -> bool:
    """Say whether a string can be one of our keys at all."""
    if len(secret) != _KEY_LENGTH or not secret.startswith(KEY_PREFIX):
        return False
    body, checksum = secret[len(KEY_PREFIX) : -_CHECKSUM_LENGTH], secret[-_CHECKSUM_LENGTH:]
    # `compare_digest` raises for text that is not ASCII.
    return secret.isascii() and hmac.compare_digest(_checksum(body), checksum)


def shown_of_key(authorization: str | None) -> str | None:
    """Return what may be shown of the API key in a header: its last four characters, if it has a key's shape."""
    secret = (authorization or "")[-_KEY_LENGTH:]
    return (
        secret[-4:] if secret.startswith(KEY_PREFIX) and secret.isascii() and secret[-4:].isalnum() else None
    )


def key_digest(secret: str) -> str:
    """Return what is stored of a key, and what it is looked up by."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_acceptable_password_size(password: str) -> bool:
    """Say whether a password can be hashed: not too long, and without a NUL, which bcrypt cannot hold."""
    return len(password.encode()) <= MAX_PASSWORD_BYTES and "\x00" not in password


def hash_password(password: str) -> str:
    """Hash with argon2id. Takes about a quarter of a second of CPU: never call it on the event loop."""
    return str(_passwords.hash(_normalised(password)))


def verify_password(password: str, digest: str | None) -> tuple[bool, str | None]:
    """Check a password; the second value is a better hash to store, when the stored one is of an old kind.

    Without a digest (an unknown user) the same work is done, so that the time tells nothing. Never call it on
    the event loop.
    """
    if digest is None or not is_acceptable_password_size(password):
        _passwords.dummy_verify()
        return False, None
    try:
        if digest.startswith("$2"):
            # The hashes of a taken-over database: bcrypt saw the first 72 bytes, not normalised. The library
            # raises where the original silently cut.
            matches = bool(_passwords.verify(password.encode()[:_BCRYPT_BYTES], digest))
            return matches, hash_password(password) if matches else None
        matches, replacement = _passwords.verify_and_update(_normalised(password), digest)
    except (ValueError, PasswordValueError):
        return False, None
    return bool(matches), str(replacement) if replacement else None


def issue_token(claims: TokenClaims, secret: str, lifetime: int) -> str:
    """Sign a token that is good for `lifetime` seconds from `claims.issued_at`."""
    payload = {
        "sub": claims.user_id,
        "jti": claims.session_id,
        "iat": claims.issued_at,
        "exp": claims.issued_at + lifetime,
        "iss": _ISSUER,
        "typ": "access",
    }
    return jwt.encode(payload, secret, algorithm=_ALGORITHM)


def read_token(token: str, secret: str, *, now: datetime) -> TokenClaims:
    """Check that a token is one that we would issue; raise `InvalidToken`, or `ExpiredToken`.

    It has exactly our header and our claims, each once: nothing in it is ours to interpret beyond that.
    """
    if len(token) > _LONGEST_TOKEN:
        raise InvalidToken("longer than any of ours")
    options: Options = {"require": _CLAIMS, "verify_exp": False, "verify_iat": False}
    try:
        decoded = jwt.decode_complete(token, secret, algorithms=[_ALGORITHM], issuer=_ISSUER, options=options)
        names = json.loads(urlsafe_b64decode(token.split(".")[1] + "=="), object_pairs_hook=_names)
    except (jwt.InvalidTokenError, ValueError) as exc:
        raise InvalidToken(str(exc)) from exc
    payload = decoded["payload"]
    issued, expires = payload["iat"], payload["exp"]
    if decoded["header"] != _HEADER or names != _CLAIMS or payload["typ"] != "access":
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


def _normalised(password: str) -> str:
    # The same password typed on two systems can differ in its code points (NFC against NFD).
    return unicodedata.normalize("NFC", password)


def _checksum(body: str) -> str:
    value, digits = zlib.crc32(body.encode()), []
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
