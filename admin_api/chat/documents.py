"""Chat sessions and their messages as they are stored; what the original service wrote is read just as well.

The original kept `sessionId` and `messageId` as strings of its own, totals as plain numbers in dollars, and a list
of models instead of one. Reading translates; what is written has the names below. `sessionId` of a session and
`messageId` of a message repeat the document's own id, since indexes of an existing database may want them unique.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar

from beanie import DecimalAnnotation, Document, PydanticObjectId
from pydantic import BaseModel, Field, field_validator, model_validator
from pymongo import ASCENDING, DESCENDING, IndexModel

DEFAULT_TITLE = "New Chat"
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class Cost(BaseModel):
    """What something cost; `None` when nobody can tell."""

    usd: DecimalAnnotation | None = None
    inr: DecimalAnnotation | None = None


class TokenCounts(BaseModel):
    """The tokens of one exchange."""

    promptTokens: int = 0
    completionTokens: int = 0
    totalTokens: int = 0


class SessionSettings(BaseModel):
    """What a session sends where a request is silent; `None` leaves it to the provider."""

    temperature: float | None = None
    maxTokens: int | None = None
    topP: float | None = None


class AttachmentDocument(BaseModel):
    """What a message came with; `data` is base64, `size` its length."""

    type: str | None = None
    url: str | None = None
    data: str | None = None
    name: str | None = None
    mimeType: str | None = None
    size: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_original(cls, stored: Any) -> Any:
        if isinstance(stored, Mapping) and "name" not in stored:
            return {**stored, "name": stored.get("originalName") or stored.get("filename")}
        return stored


class ModelName(BaseModel):
    """Which model wrote a message."""

    id: str | None = None
    name: str | None = None
    provider: str | None = None


class ChatSession(Document):
    """A conversation. Its totals grow with every stored exchange."""

    sessionId: str | None = None
    userId: PydanticObjectId
    modelId: str | None = None
    title: str = DEFAULT_TITLE
    messageCount: int = 0
    lastActivity: datetime = _LONG_AGO
    totalTokensUsed: int = 0
    totalCost: Cost = Field(default_factory=lambda: Cost(usd=Decimal(0), inr=Decimal(0)))
    settings: SessionSettings = Field(default_factory=SessionSettings)
    metadata: dict[str, Any] = Field(default_factory=dict)
    expiresAt: datetime | None = None
    createdAt: datetime = _LONG_AGO
    updatedAt: datetime = _LONG_AGO

    class Settings:
        """Where and how it is stored."""

        name = "chatsessions"
        indexes: ClassVar = [
            IndexModel([("userId", ASCENDING), ("lastActivity", DESCENDING)], name="owner"),
            IndexModel([("userId", ASCENDING), ("sessionId", ASCENDING)], name="name"),
            IndexModel([("lastActivity", ASCENDING)], name="activity"),
            # What is left of those that are being deleted
            IndexModel([("deletedOf", ASCENDING)], sparse=True, name="deletion"),
            # The admins' statistics
            IndexModel([("createdAt", DESCENDING), ("lastActivity", ASCENDING)], name="time"),
        ]

    @model_validator(mode="before")
    @classmethod
    def _from_original(cls, stored: Any) -> Any:
        if not isinstance(stored, Mapping):
            return stored
        found = {name: value for name, value in stored.items() if value is not None}
        models = found.get("models") or [{}]
        originals = {
            "lastActivity": found.get("lastMessageAt") or found.get("updatedAt") or found.get("createdAt"),
            "totalTokensUsed": found.get("totalTokens"),
            "modelId": models[0].get("id") if isinstance(models[0], Mapping) else None,
        }
        found = {name: value for name, value in originals.items() if value is not None} | found
        if "totalCost" in found and not isinstance(found["totalCost"], Mapping | Cost):
            found["totalCost"] = {"usd": found["totalCost"]}
        return found


class ChatMessage(Document):
    """One message of a conversation; an answer names the question that it answers in `metadata.replyTo`."""

    sessionId: PydanticObjectId | str
    userId: PydanticObjectId
    messageId: str | None = None
    role: str
    content: str = ""
    modelId: str | None = None
    model: ModelName | None = None
    attachments: list[AttachmentDocument] = Field(default_factory=list)
    usage: TokenCounts | None = None
    cost: Cost | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    createdAt: datetime = _LONG_AGO

    class Settings:
        """Where and how it is stored."""

        name = "chatmessages"
        indexes: ClassVar = [
            IndexModel([("sessionId", ASCENDING), ("createdAt", ASCENDING)], name="session"),
            IndexModel([("userId", ASCENDING), ("createdAt", DESCENDING)], name="owner"),
            IndexModel(
                [("createdAt", DESCENDING), ("role", ASCENDING)], name="time"
            ),  # the admins' statistics
        ]

    @field_validator("usage", mode="before")
    @classmethod
    def _usage_from_original(cls, stored: Any) -> Any:
        if isinstance(stored, Mapping) and "inputTokens" in stored:
            return {
                "promptTokens": stored["inputTokens"] or 0,
                "completionTokens": stored.get("outputTokens") or 0,
                "totalTokens": stored.get("totalTokens") or 0,
            }
        return stored

    @field_validator("cost", mode="before")
    @classmethod
    def _cost_from_original(cls, stored: Any) -> Any:
        if isinstance(stored, Mapping) and "currency" in stored:
            return {"usd": stored.get("totalCost")}
        return stored

    @field_validator("metadata", "attachments", mode="before")
    @classmethod
    def _empty_for_null(cls, stored: Any, info: Any) -> Any:
        if stored is None:
            return {} if info.field_name == "metadata" else []
        return stored

    @model_validator(mode="after")
    def _one_model_id(self) -> ChatMessage:
        if self.modelId is None and self.model is not None:
            self.modelId = self.model.id
        return self
