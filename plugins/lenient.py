"""JSON with half a character in it, as JavaScript servers leave it where they cut a text in the middle of an emoji.

Python's own parser reads and writes half a surrogate pair, which is slow; orjson refuses it.
"""

from __future__ import annotations

import json
from typing import Any

import orjson


def loads(body: bytes) -> Any:
    """Parse JSON; half a character becomes a question mark. Raises `ValueError`."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        if b"\\u" not in body:
            raise
    try:
        tree = json.loads(body.decode())
        return orjson.loads(json.dumps(tree, ensure_ascii=False).encode(errors="replace"))
    except RecursionError:
        raise ValueError("JSON that is nested too deep") from None


def dumps(tree: Any) -> bytes:
    """Write JSON. Raises `TypeError` for what is none, `ValueError` or `RecursionError` for what cannot be written."""
    try:
        return orjson.dumps(tree)
    except orjson.JSONEncodeError:
        return json.dumps(tree).encode()
