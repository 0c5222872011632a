"""The operations of /api/admin."""

from __future__ import annotations

from admin_api.admin.schemas import RoleName, UserChanges
from admin_api.admin.service import LONGEST_SEARCH, SORT_FIELDS
from admin_api.models.schemas import ModelEdit
from admin_api.openapi.models import MODEL
from admin_api.openapi.operations import LISTED, Operation, choice, paged, text, words
from admin_api.openapi.shapes import ID, MONEY, OBJECT, TIME, maybe, named
from admin_api.openapi.users import PERIOD, SIGN_IN, USER
from proxy.core.breaker import State
from proxy.core.routing import Role

_COUNT = named("Count", {"_id": str, "count": int})
_USE = {"requests": int, "tokensUsed": int, "totalCost": MONEY}
_MODEL_USE = named("ModelUse", {"modelId": str, "provider": str, **_USE})
_MESSAGE = {"_id": ID, "sessionId": maybe(str), "role": str, "modelId": maybe(str), "createdAt": TIME}
_STATISTICS = {
    "users": {
        "total": int,
        "active": int,
        "new": int,
        "byRole": [_COUNT],
        "topUsers": [
            {"_id": str, "name": maybe(str), "email": maybe(str), "role": maybe(Role), **_USE},
        ],
    },
    "sessions": {
        "total": int,
        "recent": int,
        "avgDuration": float,
        "totalTokens": int,
        "totalCost": MONEY,
        "byModel": [_MODEL_USE],
    },
    "messages": {
        "total": int,
        "recent": int,
        "avgTokens": float,
        "byRole": [_COUNT],
        "dailyActivity": [{"date": str, "messages": int, "tokens": int}],
    },
    "models": {"total": int, "byProvider": [_COUNT], "byCategory": [_COUNT], "mostUsed": [_MODEL_USE]},
    "recentActivity": [
        {**_MESSAGE, "user": maybe({"_id": ID, "name": str, "email": str, "role": Role})},
    ],
}
_ACTIVITY = {
    "totalSessions": int,
    "totalMessages": int,
    "recentSessions": [
        {
            "_id": ID,
            "title": maybe(str),
            "modelId": maybe(str),
            "messageCount": maybe(int),
            "lastActivity": maybe(TIME),
            "createdAt": maybe(TIME),
        }
    ],
    "recentMessages": [_MESSAGE],
}
_METRICS = {
    "timestamp": TIME,
    "server": {
        "uptime": float,
        "memory": {"rss": int, "peak": int},
        "cpuUsage": {"user": float, "system": float},
        "requestsInFlight": int,
        "pythonVersion": str,
        "platform": str,
    },
    "database": {
        "isConnected": bool,
        "milliseconds": float,
        "collections": dict.fromkeys(("users", "sessions", "messages", "models", "apiKeys", "events"), int),
    },
    "providers": [
        {
            "name": str,
            "models": int,
            "readAt": maybe(TIME),
            "isFresh": bool,
            "apiKeys": {"total": int, "setAside": int},
            "breakers": [{"model": str, "state": State, "seconds": float}],
        }
    ],
}
_RECORD = named(
    "AuditRecord",
    {
        "_id": ID,
        "at": TIME,
        "action": str,
        "actorId": maybe(str),
        "target": maybe(str),
        "details": OBJECT,
        "address": str,
        "requestId": str,
    },
)
_LEDGER = {
    "accounts": int,
    "events": int,
    "openHolds": int,
    "drift": int,
    "drifts": [{"userId": str, "counter": str, "what": str, "counted": int, "expected": int}],
    "next": maybe(str),
}
_USER_QUERY = {
    **paged(),
    "search": text(LONGEST_SEARCH),
    "role": choice(*words(RoleName), "any", default="any"),
    "status": choice("active", "inactive", "any", default="any"),
    "sortBy": choice(*SORT_FIELDS, default="createdAt"),
    "sortOrder": choice("asc", "desc", default="desc"),
}

OPERATIONS = (
    Operation("GET /api/admin/stats", {"period": PERIOD, "stats": _STATISTICS}, query={"period": PERIOD}),
    Operation("GET /api/admin/users", {"users": [USER]}, query=_USER_QUERY, top=LISTED),
    Operation("GET /api/admin/users/{user_id}", {"user": USER, "activity": _ACTIVITY}),
    Operation(
        "PATCH /api/admin/users/{user_id}",
        {"user": USER},
        body=UserChanges,
        has_message=True,
        also=(409,),
    ),
    Operation("DELETE /api/admin/users/{user_id}", has_message=True, also=(400, 409)),
    Operation("GET /api/admin/users/{user_id}/sessions", {"sessions": [SIGN_IN]}, top={"results": int}),
    Operation("DELETE /api/admin/users/{user_id}/sessions", has_message=True),
    Operation("GET /api/admin/system", {"metrics": _METRICS}),
    Operation(
        "GET /api/admin/ledger/verify",
        {"ledger": _LEDGER},
        query={"after": text(LONGEST_SEARCH), "user": text(LONGEST_SEARCH)},
    ),
    Operation("PATCH /api/admin/models/{model_id}", {"model": MODEL}, body=ModelEdit, has_message=True),
    Operation(
        "GET /api/admin/audit",
        {"records": [_RECORD]},
        query={**paged(), "action": text(200), "actor": text(200)},
        top=LISTED,
    ),
)
