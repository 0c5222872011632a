"""Tests of proxy/token_keys.py; what the ids are good for is proven in test_tokens.py."""

from __future__ import annotations

import hashlib

from proxy.token_keys import TokenKeys, key_id

SECRET = "0123456789abcdef0123456789abcdef-for-tests"
OLD = "fedcba9876543210fedcba9876543210-for-tests"


def test_one_secret_signs_and_all_are_accepted() -> None:
    """The secrets are found by their ids, and naming one twice changes nothing."""
    keys = TokenKeys.of(SECRET, [OLD, SECRET])
    assert keys.signing == key_id(SECRET)
    assert keys.accepted == {key_id(OLD): OLD, key_id(SECRET): SECRET}
    assert TokenKeys.of(SECRET).accepted == {key_id(SECRET): SECRET}


def test_the_name_of_a_secret_does_not_tell_it() -> None:
    """It is always the same, differs from that of another secret, and is no plain hash that a list could hold."""
    assert key_id(SECRET) == key_id(SECRET) != key_id(OLD)
    assert len(key_id(SECRET)) == 16
    assert key_id(SECRET) not in hashlib.sha256(SECRET.encode()).hexdigest()
    shown = repr(TokenKeys.of(SECRET, [OLD]))
    assert SECRET not in shown
    assert OLD not in shown
