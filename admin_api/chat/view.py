"""How sessions and messages look from outside; money becomes a JSON number here and nowhere before."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from admin_api.chat.documents import AttachmentDocument, ChatMessage, ChatSession, Cost, TokenCounts
from proxy.core.limits import UserLimits
from proxy.core.routing import Catalogue
from proxy.metering.contract import Standing
from proxy.metering.statistics import Used

NOTHING_USED = Used()


def view_session(session: ChatSession, used: Used = NOTHING_USED, *, rate: Decimal) -> dict[str, Any]:
    """Render a session; `used` is what its usage events say, which also know of calls that failed.

    An event may become readable a moment after its exchange is counted here, so the larger figure is the true one.
    """
    stored = _cost(session.totalCost, rate) or {"usd": 0.0, "inr": 0.0}
    return {
        "_id": str(session.id),
        "id": str(session.id),
        "sessionId": session.sessionId or str(session.id),
        "userId": str(session.userId),
        "modelId": session.modelId,
        "title": session.title,
        "messageCount": session.messageCount,
        "lastActivity": session.lastActivity,
        "lastMessageAt": session.lastActivity,
        "totalTokensUsed": max(session.totalTokensUsed, used.tokens),
        "totalCost": {
            "usd": max(stored["usd"] or 0.0, float(used.cost_usd)),
            "inr": max(stored["inr"] or 0.0, float(used.cost_inr)),
        },
        "settings": session.settings.model_dump(),
        "metadata": session.metadata,
        "expiresAt": session.expiresAt,
        "createdAt": session.createdAt,
        "updatedAt": session.updatedAt,
    }


def view_message(message: ChatMessage, *, session_id: str, rate: Decimal) -> dict[str, Any]:
    """Render a message; the bytes of its pictures stay here, their size and names go out."""
    return {
        "_id": str(message.id),
        "id": str(message.id),
        "messageId": message.messageId or str(message.id),
        "sessionId": session_id,
        "role": message.role,
        "content": message.content,
        "modelId": message.modelId,
        "model": None if message.model is None else message.model.model_dump(),
        "attachments": [_attachment(attachment) for attachment in message.attachments],
        "usage": _usage(message.usage),
        "cost": _cost(message.cost, rate),
        "metadata": message.metadata,
        "createdAt": message.createdAt,
    }


def view_exchange(
    session: tuple[str, str], question: ChatMessage, answer: ChatMessage, *, rate: Decimal
) -> dict[str, Any]:
    """Render what `POST /api/chat` answers with: the session's id and title, both messages."""
    session_id, title = session
    messages = [view_message(message, session_id=session_id, rate=rate) for message in (question, answer)]
    return {
        "session": {"id": session_id, "_id": session_id, "title": title},
        "userMessage": messages[0],
        "aiMessage": messages[1],
    }


def view_statistics(
    counts: tuple[int, int], used: Used, models: list[tuple[str, str, Used]], catalogue: Catalogue
) -> dict[str, Any]:
    """Render what a user has used in all chats, as his usage events say."""
    return {
        "overview": {
            "totalSessions": counts[0],
            "totalMessages": counts[1],
            "totalTokens": used.tokens,
            "totalCostUSD": float(used.cost_usd),
            "totalCostINR": float(used.cost_inr),
        },
        "modelUsage": [
            {
                "modelId": model,
                "modelName": _name(model, provider, catalogue),
                "provider": provider,
                "count": part.requests,
                "totalTokens": part.tokens,
                "totalCost": float(part.cost_usd),
                "totalCostINR": float(part.cost_inr),
            }
            for model, provider, part in models
        ],
    }


def view_balance(limits: UserLimits, standing: Standing) -> dict[str, Any]:
    """Render what a user has left: requests as credits, and tokens."""
    credits_left = min(
        limits.daily_requests - standing.daily_requests, limits.monthly_requests - standing.monthly_requests
    )
    tokens_left = limits.monthly_tokens - standing.monthly_tokens
    return {
        "credits": max(0, credits_left),
        "tokens": {"balance": max(0, tokens_left), "used": standing.monthly_tokens},
    }


def _name(model: str, provider: str, catalogue: Catalogue) -> str:
    entry = catalogue.entries.get(provider, {}).get(model)
    return model if entry is None else entry.info.name


def _attachment(attachment: AttachmentDocument) -> dict[str, Any]:
    return attachment.model_dump(exclude={"data"})


def _usage(usage: TokenCounts | None) -> Mapping[str, int] | None:
    """Render the tokens in both spellings that the frontend looks for."""
    if usage is None:
        return None
    return {
        **usage.model_dump(),
        "prompt_tokens": usage.promptTokens,
        "completion_tokens": usage.completionTokens,
        "total_tokens": usage.totalTokens,
    }


def _cost(cost: Cost | None, rate: Decimal) -> dict[str, float | None] | None:
    if cost is None:
        return None
    # The original knew dollars alone.
    inr = cost.usd * rate if cost.inr is None and cost.usd is not None else cost.inr
    return {
        "usd": None if cost.usd is None else float(cost.usd),
        "inr": None if inr is None else float(inr),
    }
