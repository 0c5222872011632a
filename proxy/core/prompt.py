"""The size of a prompt in what can be counted without a tokenizer: never less than what a provider may count.

No tokenizer in use makes more than one token of one UTF-8 byte, so bytes bound the tokens of text. Pictures, sound
and files are counted one by one, and not by the bytes that carry them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from plugins.values import Value

_MEDIA = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "file": "file",
    "input_file": "file",
    "document": "file",
    "video_url": "file",
    "input_video": "file",
}
_TEXTS = (
    "text input_text output_text summary_text reasoning_text refusal thinking redacted_thinking reasoning message"
    " function_call function_call_output custom_tool_call custom_tool_call_output"
    " tool_use tool_result search_result document"
)
_TEXT = frozenset(_TEXTS.split())
_PAYLOADS = frozenset({*_MEDIA, "source", "file_data"})
_PARTS = ("content", "output")
_NO_PROMPT = frozenset({"model", "models", "stream", "stream_options", "metadata", "user"})


TOOL_PROMPT_TOKENS = 1024
"""More than models get told about the use of tools beyond the tools themselves: Claude 3 Opus 530, Claude 4 some 350."""


class Prompt(Value, frozen=True):
    """The bytes of a prompt's text, with tools and schemas, its messages, and its media."""

    text_bytes: int
    messages: int
    images: int = 0
    audios: int = 0
    files: int = 0


def measure(items: Iterable[Any], body: Mapping[str, Any], *, besides: frozenset[str]) -> Prompt:
    """Measure the messages or input items of a request, and all of its body but `besides`, which holds them."""
    text, count = 0, 0
    media = {"image": 0, "audio": 0, "file": 0}
    for item in items:
        count += 1
        if not isinstance(item, dict) or "role" not in item:
            text += _measure_part(item, media)
            continue
        for name, value in item.items():
            if isinstance(value, list) and name in _PARTS:
                for part in value:
                    text += _measure_part(part, media)
            else:
                text += size(value)
    # Servers put more than we know of into their chat templates (`documents`, `chat_template`).
    for name, value in body.items():
        if value is not None and name not in _NO_PROMPT and name not in besides:
            text += size(value)
    if body.get("tools") or body.get("functions"):
        # As so many bytes, none of which makes more than a token.
        text += TOOL_PROMPT_TOKENS
    return Prompt(text, count, media["image"], media["audio"], media["file"])


def size(value: object) -> int:
    """Return the UTF-8 bytes of a text, or of anything else as JSON."""
    if isinstance(value, str):
        # `isascii` is a flag on the string: the length of an ASCII prompt costs nothing, however long.
        return len(value) if value.isascii() else len(value.encode())
    return len(orjson.dumps(value))


def _measure_part(part: Any, media: dict[str, int]) -> int:
    """Return the bytes of a part's text, and count its media."""
    if not isinstance(part, dict):
        return size(part)
    medium = _medium_of(part)
    if medium is not None:
        media[medium] += 1
        # Whatever stands beside the picture may be read as text.
        return sum(size(value) for name, value in part.items() if name not in _PAYLOADS)
    # A kind that we do not know may show what stands behind an address.
    media["image"] += str(part.get("type")) not in _TEXT
    return size(part) - _carried(part, media)


def _carried(part: dict[str, Any], media: dict[str, int]) -> int:
    """Count the media inside of a part (a tool's answer may have some), and return the bytes that carry them."""
    carried = 0
    stack: list[Any] = list(part.values())
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += value
        elif isinstance(value, dict) and (medium := _medium_of(value)) is not None:
            media[medium] += 1
            carried += sum(len(orjson.dumps(value[name])) for name in _PAYLOADS & value.keys())
        elif isinstance(value, dict):
            stack += value.values()
    return carried


def _medium_of(part: dict[str, Any]) -> str | None:
    """Say which medium a part is, if it is one; a document may be plain text."""
    kind, source = part.get("type"), part.get("source")
    if not isinstance(kind, str):
        return None
    if kind == "document" and isinstance(source, dict) and source.get("type") in ("text", "content"):
        return None
    return _MEDIA.get(kind)
