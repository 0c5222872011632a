"""Tests of proxy/security.py: keys and passwords."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from passlib.hash import bcrypt

from proxy import security


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


@pytest.mark.usefixtures("production_passwords")
def test_passwords_are_hashed_and_checked() -> None:
    """A password is good in either normal form, and only it is."""
    digest = security.hash_password("Grüße an Ása 🙂")
    assert digest.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
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
