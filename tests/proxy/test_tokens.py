"""Tests of proxy/tokens.py: one exact form of token, and what happens when its secret is changed."""

from __future__ import annotations

import hmac
import itertools
import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from proxy import tokens
from proxy.token_keys import TokenKeys, key_id
from proxy.tokens import ExpiredToken, InvalidToken, TokenClaims

SECRET = "0123456789abcdef0123456789abcdef-for-tests"
OLD = "fedcba9876543210fedcba9876543210-for-tests"
KEYS = TokenKeys.of(SECRET, [OLD])
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ISSUED = int(NOW.timestamp())
CLAIMS = TokenClaims("user", "session", ISSUED)
HEADER = {"alg": "HS256", "typ": "JWT", "kid": key_id(SECRET)}
PAYLOAD = {
    "sub": "u",
    "jti": "s",
    "iat": ISSUED,
    "exp": ISSUED + 60,
    "iss": "aipasta",
    "aud": "aipasta:api",
    "typ": "access",
}


def test_a_token_says_whose_it_is() -> None:
    """A token is good for its lifetime, to the second, and names its secret and whom it is for."""
    token = tokens.issue(CLAIMS, KEYS, 60)
    assert jwt.get_unverified_header(token) == HEADER
    assert jwt.decode(token, options={"verify_signature": False})["aud"] == "aipasta:api"
    assert tokens.read(token, KEYS, now=NOW) == CLAIMS
    assert tokens.read(token, KEYS, now=NOW + timedelta(seconds=59)) == CLAIMS
    with pytest.raises(ExpiredToken):
        tokens.read(token, KEYS, now=NOW + timedelta(seconds=60))


def test_a_secret_can_be_changed_while_its_tokens_are_good() -> None:
    """First the next secret is accepted, then it signs and the last one is accepted, then that is gone."""
    before = TokenKeys.of(OLD)
    prepared = TokenKeys.of(OLD, [SECRET])
    changed = TokenKeys.of(SECRET, [OLD])
    after = TokenKeys.of(SECRET)
    steps = (before, prepared, changed, after)
    for step, following in itertools.pairwise(steps):
        assert tokens.read(tokens.issue(CLAIMS, step, 60), following, now=NOW) == CLAIMS
    # Gateways that have made a step work beside those that have not yet.
    assert tokens.read(tokens.issue(CLAIMS, changed, 60), prepared, now=NOW) == CLAIMS
    for gone, keys in ((before, after), (changed, before)):
        with pytest.raises(InvalidToken, match="not accepted"):
            tokens.read(tokens.issue(CLAIMS, gone, 60), keys, now=NOW)


def test_tokens_from_before_there_were_key_ids_are_good_until_they_expire() -> None:
    """An upgrade signs nobody out: their exact form, without `kid` and `aud`, is good under JWT_SECRET alone."""
    claims = {name: value for name, value in PAYLOAD.items() if name != "aud"}
    token = jwt.encode(claims, SECRET, "HS256")
    assert tokens.read(token, KEYS, now=NOW).user_id == "u"
    with pytest.raises(ExpiredToken):
        tokens.read(token, KEYS, now=NOW + timedelta(seconds=60))
    with pytest.raises(InvalidToken):
        tokens.read(jwt.encode(claims, OLD, "HS256"), KEYS, now=NOW)


def forged(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    payload = {name: value for name, value in {**PAYLOAD, **claims}.items() if value is not None}
    return jwt.encode(payload, secret, algorithm, headers={"kid": key_id(SECRET)})


def signed(header: dict[str, Any] | str, claims: str, secret: str = SECRET) -> str:
    """Sign any header and any text, as no library would."""
    head = header if isinstance(header, str) else json.dumps(header)
    parts = [urlsafe_b64encode(part.encode()).rstrip(b"=") for part in (head, claims)]
    signature = hmac.digest(secret.encode(), b".".join(parts), "sha256")
    return b".".join([*parts, urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def named(key: Any, secret: str = SECRET) -> str:
    """Sign what is good but for the name of its secret."""
    return signed({**HEADER, "kid": key}, GOOD, secret)


PUBLIC_KEY = "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAK\n-----END PUBLIC KEY-----\n"
GOOD = json.dumps(PAYLOAD, separators=(",", ":"))
WITHOUT_AUDIENCE = json.dumps({name: value for name, value in PAYLOAD.items() if name != "aud"})

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
    "no audience": forged(aud=None),
    "another audience": forged(aud="somebody"),
    "an empty audience": forged(aud=""),
    "our audience in a list": forged(aud=["aipasta:api"]),
    "our audience among others": forged(aud=["aipasta:api", "somebody"]),
    "an audience that is a number": forged(aud=5),
    "an audience that is null": signed(HEADER, GOOD.replace('"aipasta:api"', "null")),
    "two audiences": signed(HEADER, GOOD.replace('"aud":', '"aud":"somebody","aud":')),
    "an audience in another case": forged(aud="AIPASTA:API"),
    "another kind": forged(typ="reset"),
    "no kind": forged(typ=None),
    "from the future": forged(iat=ISSUED + 3600, exp=ISSUED + 7200),
    "expiry is a word": forged(exp="never"),
    "user is a number": forged(sub=5),
    "expired": forged(exp=ISSUED),
    "empty": "",
    "words": "not a token",
    "two dots": "..",
    "huge": "a." + "b" * 100_000 + ".c",
    "huge and signed": forged(sub="u" * 2_000),
    "good only later": forged(nbf=ISSUED + 3600),
    "a claim of no use": forged(role="admin"),
    "session is a number": forged(jti=7),
    "issue is true": forged(iat=True),
    "issue is a fraction": forged(iat=NOW.timestamp() + 0.5),
    "expiry is endless": forged(exp=float("inf")),
    "a public key as the secret": signed(HEADER, GOOD, PUBLIC_KEY),
    "says RS256": signed({**HEADER, "alg": "RS256"}, GOOD),
    "says none, signed": signed({**HEADER, "alg": "none"}, GOOD),
    "says nOnE": signed({**HEADER, "alg": "nOnE"}, GOOD),
    "names no secret, but an audience": signed({"alg": "HS256", "typ": "JWT"}, GOOD),
    "names a secret, but no audience": signed(HEADER, WITHOUT_AUDIENCE),
    "names a secret that nobody has": named("0" * 16),
    "names the last secret, signed with this": named(key_id(OLD)),
    "names this secret, signed with the last": named(key_id(SECRET), OLD),
    "names a secret of before": named(key_id("another-secret-0123456789"), "another-secret-0123456789"),
    "names a secret by itself": named(SECRET),
    "names a secret in capitals": named(key_id(SECRET).upper()),
    "names half a secret": named(key_id(SECRET)[:8]),
    "names a secret by its path": named("../../dev/null", ""),
    "names a secret by a file's address": named("file:///dev/null", ""),
    "names a secret by its address": named("https://evil.example/k", "x" * 32),
    "names a secret by an injection": named("x' UNION SELECT 'k"),
    "names an empty secret": named("", ""),
    "names a secret by a number": named(0),
    "names a secret by null": named(None),
    "names a secret by a list": named([key_id(SECRET)]),
    "names a secret by an object": named({"$ne": ""}),
    "names a secret by a fraction": named(1.5),
    "names two secrets": signed(json.dumps(HEADER)[:-1] + f', "kid": "{key_id(OLD)}"' + "}", GOOD, SECRET),
    "names a secret's attribute": named("__class__"),
    "names a key's address": signed({**HEADER, "jku": "https://evil.example/k"}, GOOD),
    "brings its key along": signed({**HEADER, "jwk": {"kty": "oct", "k": "AA"}}, GOOD),
    "demands an extension": signed({**HEADER, "crit": ["b64"], "b64": False}, GOOD),
    "another media type": signed({**HEADER, "typ": "at+jwt"}, GOOD),
    "no media type": signed({"alg": "HS256", "kid": key_id(SECRET)}, GOOD),
    "two users": signed(HEADER, GOOD.replace('"sub":"u"', '"sub":"v","sub":"u"')),
    "two headers": signed(
        '{"alg":"none","alg":"HS256","typ":"JWT"}', GOOD.replace('"sub":"u"', '"sub":"v"'), "x" * 32
    ),
    "claims are a list": signed(HEADER, "[]"),
    "claims are no JSON": signed(HEADER, "{"),
    "the header is a list": signed("[]", GOOD),
    "another's signature": f"{forged().rpartition('.')[0]}.{forged(sub='v').rpartition('.')[2]}",
    "another's claims": f"{forged().split('.')[0]}.{forged(sub='v').split('.')[1]}.{forged().split('.')[2]}",
    "cut": forged()[:-1],
    "not ascii": "é.é.é",
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED)
def test_a_forged_token_is_refused(token: str) -> None:
    """Whatever is wrong with a token, it is `InvalidToken`, and nothing else is raised."""
    with pytest.raises(InvalidToken):
        tokens.read(token, KEYS, now=NOW)
    for good in (forged(), signed(HEADER, GOOD), named(key_id(OLD), OLD)):
        assert tokens.read(good, KEYS, now=NOW).user_id == "u"
