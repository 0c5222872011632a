"""The bodies of /api/chat."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from admin_api.schema import Schema

MOST_ATTACHMENTS = 10
MOST_TOKENS = 1_000_000
_SESSION = re.compile(r"[0-9a-fA-F]{24}|(?:local_session_|chat_)[0-9a-zA-Z_]+|local_fallback")
_DATA_URL = re.compile(r"data:(image/(?:png|jpeg|gif|webp));base64,(.*)", re.DOTALL)

ImageType = Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
Title = Annotated[str, Field(min_length=1, max_length=200)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(ge=0, le=1)]
MaxTokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


def _session_id(value: str) -> str:
    if _SESSION.fullmatch(value) is None:
        raise ValueError("must be the id of a session, local_session_..., local_fallback, chat_... or null")
    return value


def _web_address(value: str) -> str:
    if not value.startswith(("https://", "http://", "data:image/")):
        raise ValueError("must start with https://, http:// or data:image/")
    return value


class Options(Schema):
    """What a request asks of the model; what it is silent about, the session's settings say."""

    temperature: Temperature | None = None
    max_tokens: MaxTokens | None = None
    top_p: TopP | None = None
    top_k: Annotated[int, Field(ge=0, le=1000)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None


class Attachment(Schema):
    """A picture: where it is, or its bytes in base64 with their type. Only the provider ever fetches a `url`."""

    type: Literal["image"]
    url: Annotated[str, AfterValidator(_web_address)] | None = None
    data: str | None = None
    name: Annotated[str, Field(max_length=255)] | None = None
    mimeType: ImageType | None = None

    @model_validator(mode="after")
    def _is_one_picture(self) -> Self:
        if (self.url is None) == (self.data is None):
            raise ValueError("give either url or data")
        if self.url is not None and not self.url.startswith("data:"):
            if len(self.url) > 2048:  # noqa: PLR2004  longer than any provider takes
                raise ValueError("url must have at most 2048 characters")
            return self
        mime_type, data = self.inline() or (None, "")
        if mime_type is None:
            raise ValueError("data needs a mimeType of image/png, image/jpeg, image/gif or image/webp")
        try:
            decoded = b64decode(data, validate=True)
        except binascii.Error as exc:
            raise ValueError("data must be base64") from exc
        if not decoded:
            raise ValueError("data must not be empty")
        return self

    def inline(self) -> tuple[str, str] | None:
        """Return type and base64 of a picture that came with the request; `None` when only its address did."""
        if self.data is not None:
            return None if self.mimeType is None else (self.mimeType, self.data)
        found = _DATA_URL.fullmatch(self.url or "")
        return None if found is None else (found[1], found[2])


class ChatWish(Schema):
    """A message to a model."""

    message: Annotated[str, Field(min_length=1, max_length=10_000)]
    modelId: Annotated[str, Field(min_length=1, max_length=256)]
    sessionId: Annotated[str, Field(max_length=200), AfterValidator(_session_id)] | None = None
    options: Options | None = None
    attachments: Annotated[list[Attachment], Field(max_length=MOST_ATTACHMENTS)] | None = None
    stream: bool = False


class NewSession(Schema):
    """A session to begin."""

    title: Title | None = None
    modelId: Annotated[str, Field(min_length=1, max_length=256)] | None = None


class SettingsChange(Schema):
    """Settings to change; `null` leaves one to the provider again."""

    temperature: Temperature | None = None
    maxTokens: MaxTokens | None = None
    topP: TopP | None = None


class SessionChange(Schema):
    """What to change about a session."""

    title: Title | None = None
    settings: SettingsChange | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.title is None and self.settings is None:
            raise ValueError("name a title or settings")
        return self
