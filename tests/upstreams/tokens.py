"""One token is at most four UTF-8 bytes of whole characters, so a text never has more tokens than bytes.

A message costs four tokens more, an image, audio or file part 85. Tools and a response format count
as their compact JSON.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
TOKENS_PER_PART = 85


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one generation used; cached and cache_write are parts of prompt, reasoning is a part of completion."""

    prompt: int
    completion: int
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion


def split(text: str) -> list[str]:
    """Cut a text into its tokens."""
    if text.isascii():
        return [text[at : at + BYTES_PER_TOKEN] for at in range(0, len(text), BYTES_PER_TOKEN)]
    return list(_slices(text))


def _slices(text: str) -> Iterator[str]:
    token, size = "", 0
    for character in text:
        width = len(character.encode(errors="surrogatepass"))
        if size + width > BYTES_PER_TOKEN:
            yield token
            token, size = "", 0
        token += character
        size += width
    if token:
        yield token


def count(text: str) -> int:
    return -(-len(text) // BYTES_PER_TOKEN) if text.isascii() else len(split(text))


def count_json(value: Any) -> int:
    """Count a value as its compact JSON; nothing costs nothing."""
    return count(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) if value else 0


def count_content(content: Any) -> int:
    """Count a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return count(content)
    if not isinstance(content, list):
        return 0
    return sum(_count_part(part) for part in content)


def _count_part(part: Any) -> int:
    if isinstance(part, str):
        return count(part)
    if not isinstance(part, dict):
        return 0
    text = part.get("text")
    if isinstance(text, str):
        return count(text)
    nested = part.get("content", part.get("input"))
    if nested is None and part.get("type") not in ("tool_use", "tool_result"):
        return TOKENS_PER_PART
    return count_json(nested)


def text_of(content: Any) -> str:
    """Return the text of a message's content, its other parts left out."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") if isinstance(part, dict) else part for part in content)
    return "".join(part for part in parts if isinstance(part, str))
