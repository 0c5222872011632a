"""The operations of /api/user, and how a user and his keys look."""

from __future__ import annotations

from admin_api.openapi.models import MODEL
from admin_api.openapi.operations import Operation, choice
from admin_api.openapi.shapes import ID, MONEY, OBJECT, TIME, maybe, named, one_of, raw
from admin_api.users.schemas import PERIODS, AccountDeletion, ApiKeyChanges, NewApiKey, ProfileChanges
from proxy.core.routing import Role

SIGN_IN_ID = raw({"type": "string", "pattern": "^[0-9a-f]{32}$"})
API_KEY = named(
    "ApiKey",
    {
        "id": ID,
        "name": str,
        "prefix": one_of("aipasta_"),
        "lastFour": str,
        "permissions": [one_of("chat", "models")],
        "allowedModels": maybe([str]),
        "allowedIps": maybe([str]),
        **dict.fromkeys(("dailyBudget", "weeklyBudget", "monthlyBudget", "totalBudget"), maybe(float)),
        **dict.fromkeys(("requestsPerMinute", "tokensPerMinute", "concurrentRequests"), maybe(int)),
        "onDisconnect": one_of("auto", "cancel", "drain"),
        "expiresAt": maybe(TIME),
        "lastUsed": maybe(TIME),
        "isActive": bool,
        "createdAt": TIME,
    },
)
SIGN_IN = named(
    "SignIn",
    {
        "id": SIGN_IN_ID,
        "createdAt": TIME,
        "lastUsed": TIME,
        "expiresAt": TIME,
        "userAgent": str,
        "network": str,
        "isCurrent": bool,
    },
)
USER = named(
    "User",
    {
        "_id": ID,
        "id": ID,
        "name": str,
        "email": str,
        "role": Role,
        "isActive": bool,
        "bio": str,
        "preferences": {
            "theme": one_of("light", "dark", "auto"),
            "language": str,
            "favoriteModels": [str],
            "notifications": {"email": bool, "push": bool, "marketing": bool},
        },
        "usageLimits": {"dailyRequests": int, "monthlyRequests": int, "monthlyTokens": int},
        "stats": {
            "messagesGenerated": int,
            "tokensUsed": int,
            "totalCost": MONEY,
            "lastActive": maybe(TIME),
            "loginCount": int,
        },
        "apiKeys": [API_KEY],
        "credits": int,
        "tokens": {"balance": int, "used": int},
        "createdAt": TIME,
        "updatedAt": TIME,
    },
)
PERIOD = choice(*PERIODS, default="30d")
_AMOUNTS = {"daily": int, "monthly": int, "tokens": int}
_STATISTICS = {
    "period": one_of(*PERIODS),
    "overview": {
        "totalSessions": int,
        "totalMessages": int,
        "totalRequests": int,
        "totalTokens": int,
        "promptTokens": int,
        "completionTokens": int,
        "totalCostUSD": float,
        "totalCostINR": float,
        "avgTokensPerSession": float,
        "avgMessagesPerSession": float,
    },
    "modelUsage": [
        {
            "modelId": str,
            "modelName": str,
            "provider": str,
            "count": int,
            "totalTokens": int,
            "totalCost": float,
            "totalCostINR": float,
            "avgTokensPerMessage": float,
        }
    ],
    "dailyUsage": [
        {"date": str, "messages": int, "requests": int, "tokens": int, "cost": float, "costINR": float}
    ],
    "limits": {
        **_AMOUNTS,
        "used": _AMOUNTS,
        "remaining": _AMOUNTS,
        "renewsAt": {"daily": TIME, "monthly": TIME, "tokens": TIME},
    },
}
_EXPORT = {
    "exportedAt": TIME,
    "user": USER,
    "sessions": [OBJECT],
    "messages": [OBJECT],
    "apiKeys": [API_KEY],
    "signIns": [SIGN_IN],
    "usageEvents": [OBJECT],
}

OPERATIONS = (
    Operation("GET /api/user/profile", {"user": USER}),
    Operation("PATCH /api/user/profile", {"user": USER}, body=ProfileChanges, has_message=True),
    Operation("GET /api/user/stats", _STATISTICS, query={"period": PERIOD}),
    Operation(
        "POST /api/user/favorites/{model}",
        {"favoriteModels": [str], "isFavorite": bool},
        has_message=True,
        also=(400,),
    ),
    Operation("GET /api/user/favorites", {"favoriteModels": [MODEL]}, top={"results": int}),
    Operation(
        "POST /api/user/api-keys",
        {"apiKey": str, "keyInfo": API_KEY},
        status=201,
        body=NewApiKey,
        has_message=True,
    ),
    Operation("GET /api/user/api-keys", {"apiKeys": [API_KEY]}, top={"results": int}),
    Operation(
        "PATCH /api/user/api-keys/{key_id}", {"keyInfo": API_KEY}, body=ApiKeyChanges, has_message=True
    ),
    Operation("DELETE /api/user/api-keys/{key_id}", has_message=True),
    Operation("GET /api/user/export", _EXPORT),
    Operation("DELETE /api/user/account", body=AccountDeletion, has_message=True, also=(409,)),
)
