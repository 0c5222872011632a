"""Tests of proxy/security.py: keys, passwords and tokens."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from passlib.hash import bcrypt

from proxy import security
from proxy.security import ExpiredToken, InvalidToken, TokenClaims

SECRET = "0123456789abcdef0123456789abcdef-for-tests"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
CLAIMS = TokenClaims("user", "session", int(NOW.timestamp()))


def test_a_new_key_is_well_formed_and_stored_as_a_hash() -> None:
    """A key has a prefix, 190 random bits and a checksum; what is stored does not hold it."""
    key, other = security.new_api_key(), security.new_api_key()
    assert key.secret != other.secret
    assert key.secret.startswith("aipasta_")
    assert len(key.secret) == 8 + 32 + 6
    assert security.is_well_formed_key(key.secret)
    assert (key.digest, key.last_four) == (security.key_digest(key.secret), key.secret[-4:])
    assert len(key.digest) == 64
    assert key.secret[8:] not in key.digest


@given(position=st.integers(0, 45), character=st.characters(codec="utf-8"))
def test_one_wrong_character_is_noticed(position: int, character: str) -> None:
    """A key with any one character changed, to whatever, is not a key."""
    key = security.new_api_key().secret
    changed = key[:position] + character + key[position + 1 :]
    assert security.is_well_formed_key(changed) is (changed == key)


@given(st.text())
def test_no_text_breaks_the_check(text: str) -> None:
    """Any text at all is judged, also with a key's prefix and length."""
    assert not security.is_well_formed_key(text)
    assert not security.is_well_formed_key(("aipasta_" + text * 40)[:46])


def test_passwords_are_hashed_and_checked() -> None:
    """A password is good in either normal form, and only it is."""
    digest = security.hash_password("Grüße an Ása 🙂")
    assert digest.startswith("$argon2id$")
    assert security.verify_password("Gru\u0308ße an A\u0301sa 🙂", digest) == (True, None)
    assert security.verify_password("Grusse an Asa", digest) == (False, None)
    assert security.verify_password("x", None) == (False, None)
    assert security.verify_password("x", "no hash at all") == (False, None)


def test_bcrypt_hashes_of_an_old_database_are_accepted_and_replaced() -> None:
    """An old hash lets its owner in, also with a password that bcrypt cut at 72 bytes, and is replaced by a better one."""
    long = "p" * 100
    for password, hashed in (("old secret", "old secret"), (long, long[:72])):
        matches, better = security.verify_password(password, bcrypt.using(rounds=4).hash(hashed))
        assert matches
        assert better is not None
        assert security.verify_password(password, better) == (True, None)
    assert security.verify_password("wrong", bcrypt.using(rounds=4).hash("right")) == (False, None)


@pytest.mark.parametrize(
    ("password", "fits"), [("x" * 1024, True), ("x" * 1025, False), ("é" * 513, False), ("a\x00b", False)]
)
def test_which_passwords_can_be_hashed(password: str, fits: bool) -> None:  # noqa: FBT001  the expected answer
    """A password has at most 1,024 bytes and no NUL; longer ones are refused without work on them."""
    assert security.is_acceptable_password_size(password) is fits
    if not fits:
        assert security.verify_password(password, security.hash_password("x")) == (False, None)


def test_a_token_says_whose_it_is() -> None:
    """A token is good for its lifetime, to the second."""
    token = security.issue_token(CLAIMS, SECRET, 60)
    assert security.read_token(token, SECRET, now=NOW) == CLAIMS
    assert security.read_token(token, SECRET, now=NOW + timedelta(seconds=59)) == CLAIMS
    with pytest.raises(ExpiredToken):
        security.read_token(token, SECRET, now=NOW + timedelta(seconds=60))


def forged(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    issued = int(NOW.timestamp())
    payload = {
        "sub": "u",
        "jti": "s",
        "iat": issued,
        "exp": issued + 60,
        "iss": "aipasta",
        "typ": "access",
        **claims,
    }
    return jwt.encode(
        {name: value for name, value in payload.items() if value is not None}, secret, algorithm
    )


def signed(header: dict[str, Any] | str, claims: str, secret: str = SECRET) -> str:
    """Sign any header and any text, as no library would."""
    head = header if isinstance(header, str) else json.dumps(header)
    parts = [urlsafe_b64encode(part.encode()).rstrip(b"=") for part in (head, claims)]
    signature = hmac.digest(secret.encode(), b".".join(parts), "sha256")
    return b".".join([*parts, urlsafe_b64encode(signature).rstrip(b"=")]).decode()


PUBLIC_KEY = "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAK\n-----END PUBLIC KEY-----\n"
GOOD = json.dumps(
    {
        "sub": "u",
        "jti": "s",
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 60,
        "iss": "aipasta",
        "typ": "access",
    },
    separators=(",", ":"),
)

FORGED = {
    "not signed": jwt.encode({"sub": "u"}, None, "none"),
    "another secret": forged("another-secret-0123456789-0123456789"),
    "another algorithm": forged(SECRET * 2, "HS512"),
    "HS384": forged(SECRET * 2, "HS384"),
    "no expiry": forged(exp=None),
    "no issue": forged(iat=None),
    "no session": forged(jti=None),
    "no user": forged(sub=None),
    "no issuer": forged(iss=None),
    "another issuer": forged(iss="evil"),
    "another kind": forged(typ="reset"),
    "no kind": forged(typ=None),
    "from the future": forged(iat=int(NOW.timestamp()) + 3600, exp=int(NOW.timestamp()) + 7200),
    "expiry is a word": forged(exp="never"),
    "user is a number": forged(sub=5),
    "audience": forged(aud="somebody"),
    "expired": forged(exp=int(NOW.timestamp())),
    "empty": "",
    "words": "not a token",
    "two dots": "..",
    "huge": "a." + "b" * 100_000 + ".c",
    "huge and signed": forged(sub="u" * 2_000),
    "good only later": forged(nbf=int(NOW.timestamp()) + 3600),
    "a claim of no use": forged(role="admin"),
    "session is a number": forged(jti=7),
    "issue is true": forged(iat=True),
    "issue is a fraction": forged(iat=NOW.timestamp() + 0.5),
    "expiry is endless": forged(exp=float("inf")),
    "a public key as the secret": signed({"alg": "HS256", "typ": "JWT"}, GOOD, PUBLIC_KEY),
    "says RS256": signed({"alg": "RS256", "typ": "JWT"}, GOOD),
    "says none, signed": signed({"alg": "none", "typ": "JWT"}, GOOD),
    "says nOnE": signed({"alg": "nOnE", "typ": "JWT"}, GOOD),
    "names a key by its path": signed({"alg": "HS256", "typ": "JWT", "kid": "../../dev/null"}, GOOD),
    "names a key by an injection": signed({"alg": "HS256", "typ": "JWT", "kid": "x' UNION SELECT 'k"}, GOOD),
    "names a key's address": signed({"alg": "HS256", "typ": "JWT", "jku": "https://evil.example/k"}, GOOD),
    "brings its key along": signed({"alg": "HS256", "typ": "JWT", "jwk": {"kty": "oct", "k": "AA"}}, GOOD),
    "demands an extension": signed({"alg": "HS256", "typ": "JWT", "crit": ["b64"], "b64": False}, GOOD),
    "another media type": signed({"alg": "HS256", "typ": "at+jwt"}, GOOD),
    "no media type": signed({"alg": "HS256"}, GOOD),
    "two users": signed({"alg": "HS256", "typ": "JWT"}, GOOD.replace('"sub":"u"', '"sub":"v","sub":"u"')),
    "two headers": signed(
        '{"alg":"none","alg":"HS256","typ":"JWT"}', GOOD.replace('"sub":"u"', '"sub":"v"'), "x" * 32
    ),
    "claims are a list": signed({"alg": "HS256", "typ": "JWT"}, "[]"),
    "claims are no JSON": signed({"alg": "HS256", "typ": "JWT"}, "{"),
    "another's signature": f"{forged().rpartition('.')[0]}.{forged(sub='v').rpartition('.')[2]}",
    "another's claims": f"{forged().split('.')[0]}.{forged(sub='v').split('.')[1]}.{forged().split('.')[2]}",
    "cut": forged()[:-1],
    "not ascii": "é.é.é",
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED)
def test_a_forged_token_is_refused(token: str) -> None:
    """Whatever is wrong with a token, it is `InvalidToken`, and nothing else is raised."""
    with pytest.raises(InvalidToken):
        security.read_token(token, SECRET, now=NOW)
    for good in (forged(), signed({"alg": "HS256", "typ": "JWT"}, GOOD)):
        assert security.read_token(good, SECRET, now=NOW).user_id == "u"
