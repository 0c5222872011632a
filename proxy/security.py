"""API keys and passwords as pure functions; randomness is the system's own.

An API key is `aipasta_` + 32 base-62 characters + 6 characters of CRC-32 over them. The checksum lets a typing
error and a scanner's guess be refused without a look at the database; only the SHA-256 is stored, which is
enough for 190 random bits.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata
import zlib
from dataclasses import dataclass

from passlib.context import CryptContext
from passlib.exc import PasswordValueError

KEY_PREFIX = "aipasta_"
MAX_PASSWORD_BYTES = 1_024
_BODY_LENGTH = 32
_CHECKSUM_LENGTH = 6
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY_LENGTH = len(KEY_PREFIX) + _BODY_LENGTH + _CHECKSUM_LENGTH
_BCRYPT_BYTES = 72
_passwords = CryptContext(schemes=["argon2", "bcrypt"], deprecated="auto")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A new API key; `secret` is shown once and never stored."""

    secret: str
    digest: str
    last_four: str


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


def _normalised(password: str) -> str:
    # The same password typed on two systems can differ in its code points (NFC against NFD).
    return unicodedata.normalize("NFC", password)


def _checksum(body: str) -> str:
    value, digits = zlib.crc32(body.encode()), []
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
