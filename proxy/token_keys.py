"""The secrets behind tokens, by the ids under which tokens name them: one that signs, and all that are accepted."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_LABEL = b"aipasta token key id"
_ID_LENGTH = 16


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """The secrets by their ids: the one that signs, and all whose tokens are good."""

    signing: str
    accepted: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, secret: str, others: Iterable[str] = ()) -> TokenKeys:
        """Sign with one secret, and accept the tokens of some others too."""
        return cls(key_id(secret), {key_id(each): each for each in (*others, secret)})


def key_id(secret: str) -> str:
    """Return the name of a secret that tokens carry; it says no more of the secret than any signature does."""
    return hmac.digest(secret.encode(), _LABEL, "sha256").hex()[:_ID_LENGTH]
