"""The operations of /api/chat, and how sessions and messages look."""

from __future__ import annotations

from admin_api.chat.schemas import ChatWish, NewSession, SessionChange
from admin_api.openapi.operations import EVENTS, JSON, LISTED, PAGINATION, Operation, paged
from admin_api.openapi.shapes import ID, MONEY, OBJECT, TIME, maybe, named, one_of

SESSION = named(
    "ChatSession",
    {
        "_id": ID,
        "id": ID,
        "sessionId": str,
        "userId": ID,
        "modelId": maybe(str),
        "title": str,
        "messageCount": int,
        "lastActivity": TIME,
        "lastMessageAt": TIME,
        "totalTokensUsed": int,
        "totalCost": MONEY,
        "settings": {"temperature": maybe(float), "maxTokens": maybe(int), "topP": maybe(float)},
        "metadata": OBJECT,
        "expiresAt": maybe(TIME),
        "createdAt": TIME,
        "updatedAt": TIME,
    },
)
MESSAGE = named(
    "ChatMessage",
    {
        "_id": ID,
        "id": ID,
        "messageId": str,
        "sessionId": ID,
        "role": one_of("user", "assistant", "system"),
        "content": str,
        "modelId": maybe(str),
        "model": maybe({"id": maybe(str), "name": maybe(str), "provider": maybe(str)}),
        "attachments": [
            {
                "type": maybe(str),
                "url": maybe(str),
                "name": maybe(str),
                "mimeType": maybe(str),
                "size": maybe(int),
            }
        ],
        "usage": maybe(
            {
                "promptTokens": int,
                "completionTokens": int,
                "totalTokens": int,
                "prompt_tokens": int,
                "completion_tokens": int,
                "total_tokens": int,
            }
        ),
        "cost": maybe({"usd": maybe(float), "inr": maybe(float)}),
        "metadata": OBJECT,
        "createdAt": TIME,
    },
)
_EXCHANGE = {
    "session": {"id": ID, "_id": ID, "title": str},
    "userMessage": MESSAGE,
    "aiMessage": MESSAGE,
    "user": maybe({"credits": int, "tokens": {"balance": int, "used": int}}),
}
_STATISTICS = {
    "overview": {
        "totalSessions": int,
        "totalMessages": int,
        "totalTokens": int,
        "totalCostUSD": float,
        "totalCostINR": float,
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
        }
    ],
}

OPERATIONS = (
    Operation("POST /api/chat", _EXCHANGE, body=ChatWish, media=(JSON, EVENTS), also=(402, 403, 404, 502)),
    Operation("POST /api/chat/sessions", {"session": SESSION}, status=201, body=NewSession, has_message=True),
    Operation("GET /api/chat/sessions", {"sessions": [SESSION]}, query=paged(), top=LISTED),
    Operation(
        "GET /api/chat/sessions/{session_id}",
        {"session": SESSION, "messages": [MESSAGE], "pagination": PAGINATION},
        query=paged(50),
    ),
    Operation("PATCH /api/chat/sessions/{session_id}", {"session": SESSION}, body=SessionChange),
    Operation("DELETE /api/chat/sessions/{session_id}", status=204),
    Operation("DELETE /api/chat/messages/{message_id}", status=204),
    Operation("GET /api/chat/stats", _STATISTICS),
)
