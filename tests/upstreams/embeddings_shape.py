"""The embeddings shape answers every input with a vector that depends on its text alone; it never streams."""

import base64
import hashlib
import struct
from collections.abc import Mapping
from typing import Any

from tests.upstreams.ask import Ask, read_embeddings
from tests.upstreams.failure import Failure
from tests.upstreams.generation import Event, Generation
from tests.upstreams.responses_shape import Money

DIMENSIONS = 8


class EmbeddingsShape:
    """POST /embeddings."""

    def __init__(self, money: Money) -> None:
        self._money = money

    def read(self, body: Mapping[str, Any]) -> Ask:
        return read_embeddings(body)

    def refusal(self, failure: Failure) -> Failure:
        return failure

    def events(self, generation: Generation) -> list[Event]:
        del generation
        return []

    def error_events(self, generation: Generation, failure: Failure, *, first: bool) -> list[Event]:
        del generation, failure, first
        return []

    def body(self, generation: Generation) -> dict[str, Any]:
        asked = generation.entry.body
        given = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
        encoded = asked.get("encoding_format") == "base64"
        entries = [
            {"object": "embedding", "index": at, "embedding": embedded(str(each), encoded=encoded)}
            for at, each in enumerate(given)
        ]
        usage = {"prompt_tokens": generation.tokens.prompt, "total_tokens": generation.tokens.prompt}
        answer = {"object": "list", "data": entries, "model": generation.served.model, "id": generation.id}
        if generation.behaviour.usage == "missing":
            return answer
        return answer | {"usage": usage | self._money(generation)}


def embedded(text: str, *, encoded: bool) -> list[float] | str:
    """Return the vector of a text, as numbers or as base64 of little-endian floats."""
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    vector = [byte / 256 for byte in digest[:DIMENSIONS]]
    return base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode() if encoded else vector
