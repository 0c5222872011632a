"""The documents that both planes read, with their indexes and queries. Field names are those of the wire.

The collections keep the names and the camelCase of the original AI Pasta database, so that one can be taken
over.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from beanie import DecimalAnnotation, Document, PydanticObjectId
from pydantic import BaseModel, Field
from pymongo import ASCENDING, DESCENDING, IndexModel

from proxy.core.pricing import CostSource
from proxy.core.routing import Role

EVENTS = "usageevents"
REVISIONS = "revisions"
"""Numbers that rise when something was changed that other processes keep in memory."""

ACCOUNTS = "accounts"
"""Counters and holds, one document per user, written by `proxy.metering` alone and not through Beanie."""


class Outcome(StrEnum):
    """How a request that reached a provider ended."""

    COMPLETED = "completed"
    CLIENT_GONE = "client_gone"
    UPSTREAM_ERROR = "upstream_error"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    UNKNOWN = "unknown"


class Notifications(BaseModel):
    """Which messages a user wants."""

    email: bool = True
    push: bool = False
    marketing: bool = False


class Preferences(BaseModel):
    """How a user wants the playground to be."""

    theme: str = "auto"
    language: str = "en"
    favoriteModels: list[str] = Field(default_factory=list)
    notifications: Notifications = Field(default_factory=Notifications)


class UsageLimitOverrides(BaseModel):
    """Limits that an admin has set for one user; `None` means the role's."""

    dailyRequests: int | None = None
    monthlyRequests: int | None = None
    monthlyTokens: int | None = None


class UserStats(BaseModel):
    """What is counted at sign-in; the totals of use come from the usage events."""

    lastActive: datetime | None = None
    loginCount: int = 0


class PasswordReset(BaseModel):
    """The reset that a user has asked for last: the hash of its token, which was mailed to him."""

    digest: str
    expiresAt: datetime


class User(Document):
    """A person with an account; `deletionRequestedAt` means that the rest of it is about to go.

    `signOuts` is how often all his sign-ins were ended.
    """

    name: str
    email: str
    password: str | None = None
    passwordChangedAt: datetime | None = None
    passwordReset: PasswordReset | None = None
    deletionRequestedAt: datetime | None = None
    signOuts: int = 0
    role: Role = Role.USER
    isActive: bool = True
    bio: str = ""
    preferences: Preferences = Field(default_factory=Preferences)
    usageLimits: UsageLimitOverrides = Field(default_factory=UsageLimitOverrides)
    stats: UserStats = Field(default_factory=UserStats)
    createdAt: datetime
    updatedAt: datetime

    class Settings:
        """Where and how it is stored."""

        name = "users"
        indexes: ClassVar = [
            IndexModel([("email", ASCENDING)], unique=True, name="email"),
            IndexModel([("passwordReset.digest", ASCENDING)], sparse=True, name="reset"),
            IndexModel([("createdAt", DESCENDING), ("_id", DESCENDING)], name="time"),
            IndexModel([("stats.lastActive", DESCENDING), ("_id", DESCENDING)], name="activity"),
            IndexModel([("role", ASCENDING), ("createdAt", DESCENDING)], name="role"),
            IndexModel([("name", ASCENDING), ("_id", ASCENDING)], name="called"),
            IndexModel(
                [("deletionRequestedAt", ASCENDING)],
                partialFilterExpression={"deletionRequestedAt": {"$type": "date"}},
                name="deletion",
            ),
        ]


class ApiKeyDocument(Document):
    """An API key: its hash, its last four characters, and what it may do."""

    userId: PydanticObjectId
    name: str
    digest: str
    lastFour: str
    permissions: list[str] = Field(default_factory=lambda: ["chat", "models"])
    allowedModels: list[str] | None = None
    allowedIps: list[str] | None = None
    dailyBudget: DecimalAnnotation | None = None
    weeklyBudget: DecimalAnnotation | None = None
    monthlyBudget: DecimalAnnotation | None = None
    totalBudget: DecimalAnnotation | None = None
    requestsPerMinute: int | None = None
    tokensPerMinute: int | None = None
    concurrentRequests: int | None = None
    onDisconnect: str = "auto"
    isActive: bool = True
    slot: int | None = None
    expiresAt: datetime | None = None
    lastUsed: datetime | None = None
    createdAt: datetime

    class Settings:
        """Where and how it is stored."""

        name = "apikeys"
        indexes: ClassVar = [
            IndexModel([("digest", ASCENDING)], unique=True, name="digest"),
            # An owner's list: first those that have a place
            IndexModel(
                [("userId", ASCENDING), ("slot", DESCENDING), ("createdAt", DESCENDING)], name="places"
            ),
            # An active key occupies one of its owner's numbered places, so that no race can make one too many.
            IndexModel(
                [("userId", ASCENDING), ("slot", ASCENDING)],
                unique=True,
                partialFilterExpression={"slot": {"$type": "number"}},
                name="slot",
            ),
        ]


class Session(Document):
    """One token of a sign-in: good while this exists and has not been replaced by a refresh.

    `signOuts` is the user's as he signed in; with another number of them the token is not good any more.
    `family` is the same for all tokens of one sign-in, which ends at `signInEndsAt` however often it is refreshed.
    `network` and `userAgent` say from where it was used last, as far as that may be kept.
    """

    id: str  # type: ignore[assignment]  # Beanie's default is an ObjectId; ours is 128 random bits
    userId: PydanticObjectId
    family: str = ""
    signOuts: int = 0
    createdAt: datetime
    expiresAt: datetime
    signedInAt: datetime | None = None
    signInEndsAt: datetime | None = None
    lastUsed: datetime | None = None
    network: str = ""
    userAgent: str = ""
    replacedAt: datetime | None = None
    replacedBy: str | None = None

    class Settings:
        """Where and how it is stored."""

        name = "sessions"
        indexes: ClassVar = [
            IndexModel([("userId", ASCENDING)], name="owner"),
            # The only collection that the database may clean up by itself: an expired session is worth nothing.
            IndexModel([("expiresAt", ASCENDING)], expireAfterSeconds=0, name="expiry"),
        ]


class Tokens(BaseModel):
    """What was counted; `cached` and `cacheWrite` are parts of `prompt`, `reasoning` of `completion`.

    The others are stored where there are any: parts of `cacheWrite`, of `prompt`, and two of `completion`.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    cacheWrite: int = 0
    reasoning: int = 0
    cacheWrite1h: int = 0
    audio: int = 0
    audioOutput: int = 0
    imageOutput: int = 0


class Attempt(BaseModel):
    """One request to one provider within a caller's request."""

    provider: str
    model: str
    outcome: str
    status: int | None = None
    generationId: str | None = None
    startedAt: datetime
    milliseconds: int
    costUsd: DecimalAnnotation | None = None


class UsageEvent(Document):
    """What one request used: written once, never changed. A correction is a new event that refers to it."""

    id: str  # type: ignore[assignment]  # our request id, so that a second insert of the same is a no-op
    kind: str = "usage"
    refersTo: str | None = None
    at: datetime
    userId: str
    keyId: str | None = None
    sessionId: str | None = None
    provider: str
    requestedModel: str
    model: str
    servedModel: str | None = None
    backing: str | None = None
    generationId: str | None = None
    stream: bool
    outcome: Outcome
    tokens: Tokens
    costUsd: DecimalAnnotation | None = None
    costPico: int = 0
    costInrPico: int = 0
    costInr: DecimalAnnotation | None = None
    usdInrRate: DecimalAnnotation
    priceVersion: str | None = None
    price: dict[str, str] | None = None
    journal: str | None = None
    offset: int | None = None
    costSource: CostSource
    estimated: bool = False
    requests: int = 1
    overHold: bool = False
    firstTokenMs: int | None = None
    totalMs: int
    attempts: list[Attempt] = Field(default_factory=list)
    windows: dict[str, int] = Field(default_factory=dict)

    class Settings:
        """Where and how it is stored."""

        name = EVENTS
        indexes: ClassVar = [
            IndexModel([("userId", ASCENDING), ("at", DESCENDING)], name="user"),
            IndexModel([("keyId", ASCENDING), ("at", DESCENDING)], name="key"),
            IndexModel([("at", DESCENDING)], name="time"),
            # Partial: what comes through /v1 belongs to no session, and is most of what comes.
            IndexModel(
                [("sessionId", ASCENDING)], name="session", partialFilterExpression={"sessionId": {"$gt": ""}}
            ),
        ]


class PriceOverride(BaseModel):
    """A price that an admin has set for a model, in USD per token."""

    prompt: DecimalAnnotation
    completion: DecimalAnnotation


class AIModel(Document):
    """A model of one provider: the provider's record, and what an admin has decided about it."""

    id: str  # type: ignore[assignment]  # "<provider>/<model id>", so that two providers may have one id
    modelId: str
    provider: str
    record: dict[str, Any]
    source: str = ""
    isAvailable: bool = True
    status: str = "active"
    priceOverride: PriceOverride | None = None
    isListed: bool = True
    fetchedAt: datetime

    class Settings:
        """Where and how it is stored."""

        name = "aimodels"
        indexes: ClassVar = [IndexModel([("provider", ASCENDING), ("modelId", ASCENDING)], name="model")]


SHARED: list[type[Document]] = [User, ApiKeyDocument, Session, UsageEvent, AIModel]
