"""Tests of admin_api/chat/endpoints.py: every endpoint on its main path, and every refusal."""

from __future__ import annotations

from typing import Any

import httpx
from bson import ObjectId

from proxy.clock import utc_now
from proxy.core.routing import Role
from proxy.rates import RateLimits
from tests.admin_api.playground import FREE, Person, Playground, playground

PAID = "openai/gpt-4o"
NOBODYS = str(ObjectId())
ENDPOINTS = (
    ("POST", "/api/chat"),
    ("POST", "/api/chat/sessions"),
    ("GET", "/api/chat/sessions"),
    ("GET", f"/api/chat/sessions/{NOBODYS}"),
    ("PATCH", f"/api/chat/sessions/{NOBODYS}"),
    ("DELETE", f"/api/chat/sessions/{NOBODYS}"),
    ("DELETE", f"/api/chat/messages/{NOBODYS}"),
    ("GET", "/api/chat/stats"),
)


def refused(answer: httpx.Response, status: int, code: str) -> str:
    """Check a refusal's shape, and return its message."""
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, "fail", code), answer.text
    return str(body["message"])


async def begun(person: Person, **fields: Any) -> str:
    """Begin a session, and return its id."""
    answer = await person.post("/api/chat/sessions", fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["data"]["session"]["_id"])


async def talked(play: Playground) -> tuple[Person, str, list[dict[str, Any]]]:
    """Return somebody with a session of three exchanges."""
    person = await play.person()
    session = await begun(person, title="talk")
    for number in range(3):
        assert (await person.say(f"number {number}", FREE, sessionId=session)).status_code == 200
    shown = (await person.get(f"/api/chat/sessions/{session}")).json()["data"]
    return person, session, shown["messages"]


async def test_nobody_chats_without_a_token(mongodb_uri: str) -> None:
    """Every endpoint needs somebody who is signed in."""
    async with playground(mongodb_uri) as play:
        for method, path in ENDPOINTS:
            refused(await play.gateway.http.request(method, path), 401, "UNAUTHENTICATED")


async def test_a_session_begins(mongodb_uri: str) -> None:
    """A new session has every field that the frontend reads and the specification names."""
    async with playground(mongodb_uri) as play:
        person = await play.person()
        answer = await person.post("/api/chat/sessions", {"title": " My chat ", "modelId": FREE})
        assert answer.status_code == 201
        session = answer.json()["data"]["session"]
        assert session["title"] == "My chat"
        assert session["modelId"] == FREE
        assert session["_id"] == session["id"] == session["sessionId"]
        assert session["userId"] == str(person.user.id)
        assert session["lastActivity"] == session["lastMessageAt"] == session["createdAt"]
        assert session["totalCost"] == {"usd": 0, "inr": 0}
        assert (session["messageCount"], session["totalTokensUsed"], session["expiresAt"]) == (0, 0, None)
        assert session["settings"] == {"temperature": None, "maxTokens": None, "topP": None}
        plain = (await person.post("/api/chat/sessions", {})).json()["data"]["session"]
        assert (plain["title"], plain["modelId"]) == ("New Chat", None)
        wrongs: tuple[Any, ...] = (
            {"title": ""},
            {"title": "x" * 201},
            {"title": 7},
            {"modelId": ""},
            {"owner": "me"},
            {"$set": {"title": "x"}},
            [],
        )
        for wrong in wrongs:
            refused(await person.post("/api/chat/sessions", wrong), 400, "VALIDATION_ERROR")


async def test_sessions_are_listed(mongodb_uri: str) -> None:
    """The session used last comes first; pages are bounded; nobody sees another's."""
    async with playground(mongodb_uri) as play:
        person, stranger = await play.person(), await play.person()
        ids = [await begun(person, title=f"chat {number}") for number in range(5)]
        await begun(stranger, title="not yours")
        await person.say("hello", FREE, sessionId=ids[1])
        body = (await person.get("/api/chat/sessions?limit=2")).json()
        assert body["results"] == 2
        assert body["pagination"] == {"page": 1, "limit": 2, "total": 5, "totalPages": 3}
        assert [session["_id"] for session in body["data"]["sessions"]] == [ids[1], ids[4]]
        last = (await person.get("/api/chat/sessions?limit=2&page=3")).json()
        assert [session["_id"] for session in last["data"]["sessions"]] == [ids[0]]
        for query in ("page=0", "limit=101", "limit=x", "page=-1"):
            refused(await person.get(f"/api/chat/sessions?{query}"), 400, "VALIDATION_ERROR")


async def test_a_session_is_shown(mongodb_uri: str) -> None:
    """A session comes with its messages, the oldest first, and with the pagination inside of `data`."""
    async with playground(mongodb_uri) as play:
        person, session, messages = await talked(play)
        assert [message["content"] for message in messages[::2]] == [f"number {n}" for n in range(3)]
        assert [message["role"] for message in messages] == ["user", "assistant"] * 3
        for message in messages:
            assert message["_id"] == message["id"]
            assert message["sessionId"] == session
        assert messages[1]["model"]["name"]
        assert messages[1]["model"]["provider"] == "openrouter"
        data = (await person.get(f"/api/chat/sessions/{session}?limit=4&page=2")).json()["data"]
        assert data["pagination"] == {"page": 2, "limit": 4, "total": 6, "totalPages": 2}
        assert data["messages"] == messages[4:]
        assert data["session"]["messageCount"] == 6
        stranger = await play.person(Role.ADMIN)
        for someone, path in ((stranger, session), (person, NOBODYS), (person, "x"), (person, "%24ne")):
            words = refused(await someone.get(f"/api/chat/sessions/{path}"), 404, "NOT_FOUND")
            assert words == "Chat session not found"
        refused(await person.get(f"/api/chat/sessions/{session}?limit=0"), 400, "VALIDATION_ERROR")


async def test_a_session_changes(mongodb_uri: str) -> None:
    """Title and settings change as far as they are named, and hold for the questions that follow."""
    async with playground(mongodb_uri) as play:
        person = await play.person()
        session = await begun(person)
        path = f"/api/chat/sessions/{session}"
        first = await person.patch(path, {"settings": {"temperature": 0, "maxTokens": 50}})
        assert first.json()["data"]["session"]["settings"] == {
            "temperature": 0,
            "maxTokens": 50,
            "topP": None,
        }
        await person.say("hello", FREE, sessionId=session)
        sent = play.openrouter.books[-1].body
        assert (sent["temperature"], sent["max_tokens"]) == (0, 50)
        assert "top_p" not in sent
        second = await person.patch(path, {"title": "Better", "settings": {"maxTokens": None, "topP": 0.5}})
        changed = second.json()["data"]["session"]
        assert changed["title"] == "Better"
        assert changed["settings"] == {"temperature": 0, "maxTokens": None, "topP": 0.5}
        wrongs: tuple[Any, ...] = (
            {},
            {"title": ""},
            {"title": "x" * 201},
            {"title": None},
            {"title": ["x"]},
            {"settings": {"temperature": 2.1}},
            {"settings": {"temperature": "1"}},
            {"settings": {"maxTokens": 0}},
            {"settings": {"maxTokens": 4001}},
            {"settings": {"maxTokens": 1.5}},
            {"settings": {"topP": -0.1}},
            {"settings": {"topP": True}},
            {"settings": {"seed": 1}},
            {"userId": str(person.user.id)},
        )
        for wrong in wrongs:
            refused(await person.patch(path, wrong), 400, "VALIDATION_ERROR")
        stranger = await play.person()
        for someone, other in ((stranger, session), (person, NOBODYS), (person, "chat_1")):
            refused(await someone.patch(f"/api/chat/sessions/{other}", {"title": "mine"}), 404, "NOT_FOUND")
        shown = (await person.get(path)).json()["data"]["session"]
        assert (shown["title"], shown["settings"]) == (changed["title"], changed["settings"])


async def test_a_session_is_deleted(mongodb_uri: str) -> None:
    """A session goes with all its messages and nobody else's; what it used stays in the statistics."""
    async with playground(mongodb_uri) as play:
        person, session, _ = await talked(play)
        other = (await person.say("another", FREE)).json()["data"]["session"]["id"]
        stranger = await play.person()
        refused(await stranger.delete(f"/api/chat/sessions/{session}"), 404, "NOT_FOUND")
        await play.gateway.settled()
        used = (await person.get("/api/chat/stats")).json()["data"]["overview"]
        answer = await person.delete(f"/api/chat/sessions/{session}")
        assert (answer.status_code, answer.content) == (204, b"")
        refused(await person.delete(f"/api/chat/sessions/{session}"), 404, "NOT_FOUND")
        refused(await person.get(f"/api/chat/sessions/{session}"), 404, "NOT_FOUND")
        assert {str(m["sessionId"]) for m in await play.documents("chatmessages")} == {other}
        left = (await person.get("/api/chat/stats")).json()["data"]["overview"]
        assert left == {**used, "totalSessions": 1, "totalMessages": 2}


async def test_a_message_is_deleted(mongodb_uri: str) -> None:
    """One message goes, once, and its session counts one less."""
    async with playground(mongodb_uri) as play:
        person, session, messages = await talked(play)
        stranger = await play.person()
        path = f"/api/chat/messages/{messages[2]['_id']}"
        refused(await stranger.delete(path), 404, "NOT_FOUND")
        assert (await person.delete(path)).status_code == 204
        refused(await person.delete(path), 404, "NOT_FOUND")
        refused(await person.delete("/api/chat/messages/nonsense"), 404, "NOT_FOUND")
        data = (await person.get(f"/api/chat/sessions/{session}")).json()["data"]
        assert data["session"]["messageCount"] == 5
        assert [m["_id"] for m in data["messages"]] == [m["_id"] for m in messages if m is not messages[2]]


async def test_wrong_messages(mongodb_uri: str) -> None:
    """A body that is not a message is answered 400 in one sentence, and reaches no provider."""
    async with playground(mongodb_uri) as play:
        person = await play.person()
        fine = {"message": "hello", "modelId": FREE}
        picture = {"type": "image", "url": "https://example.com/a.png"}
        wrongs: tuple[dict[str, Any], ...] = (
            {"modelId": FREE},
            {"message": "hello"},
            {**fine, "message": "   "},
            {**fine, "message": "x" * 10_001},
            {**fine, "message": ["hello"]},
            {**fine, "modelId": ""},
            {**fine, "modelId": 4},
            {**fine, "sessionId": 12},
            {**fine, "sessionId": "nonsense"},
            {**fine, "sessionId": {"$ne": None}},
            {**fine, "sessionId": "0" * 23},
            {**fine, "stream": "yes"},
            {**fine, "surprise": 1},
            {**fine, "options": []},
            {**fine, "options": {"stop": "x"}},
            {**fine, "options": {"temperature": -0.1}},
            {**fine, "options": {"temperature": True}},
            {**fine, "options": {"max_tokens": 0}},
            {**fine, "options": {"max_tokens": 4001}},
            {**fine, "options": {"top_p": 1.1}},
            {**fine, "options": {"top_k": -1}},
            {**fine, "options": {"frequency_penalty": 3}},
            {**fine, "options": {"presence_penalty": "1"}},
            {**fine, "attachments": [{"type": "file", "url": "https://example.com/a.pdf"}]},
            {**fine, "attachments": [{"type": "image"}]},
            {**fine, "attachments": [{"type": "image", "url": "file:///etc/passwd"}]},
            {**fine, "attachments": [{"type": "image", "data": "AAAA"}]},
            {**fine, "attachments": [{"type": "image", "data": "not base64", "mimeType": "image/png"}]},
            {**fine, "attachments": [{**picture, "data": "AAAA", "mimeType": "image/png"}]},
            {**fine, "attachments": [picture] * 11},
        )
        for wrong in wrongs:
            message = refused(await person.post("/api/chat", wrong), 400, "VALIDATION_ERROR")
            assert message.startswith("Validation failed: "), message
        for content in (b"{", b"[]", b"\xff", b'"x"'):
            answer = await play.gateway.http.post("/api/chat", headers=person.headers, content=content)
            refused(answer, 400, "VALIDATION_ERROR")
        assert len(play.openrouter.books) == 0
        assert await play.documents("chatsessions") == []


async def test_who_may_not(mongodb_uri: str) -> None:
    """A paid model, another's session, an unknown model and a used-up limit are each refused in their own words."""
    async with playground(mongodb_uri) as play:
        person = await play.person(usageLimits={"dailyRequests": 1})
        paywall = await person.say("hello", PAID)
        refused(paywall, 403, "PAYWALL")
        assert paywall.json()["requiredPlan"] == "premium"
        assert paywall.json()["user"] == {"credits": 1, "tokens": {"balance": 100_000, "used": 0}}
        refused(await person.say("hello", "no/such-model"), 404, "NOT_FOUND")
        others = await begun(await play.person())
        for session in (others, NOBODYS):
            refused(await person.say("hello", FREE, sessionId=session), 404, "NOT_FOUND")
        assert (await person.say("hello", FREE)).status_code == 200
        spent = await person.say("hello", FREE)
        assert "Daily request limit" in refused(spent, 429, "RATE_LIMITED")
        assert int(spent.headers["retry-after"]) > 0
        assert spent.json()["user"]["credits"] == 0
        assert len(play.openrouter.books) == 1
        assert len(await play.documents("chatsessions", userId=person.user.id)) == 1


async def test_tokens_run_out(mongodb_uri: str) -> None:
    """A month's tokens that are used up are a limit, 429, until the month ends."""
    async with playground(mongodb_uri) as play:
        person = await play.person(usageLimits={"monthlyTokens": 30})
        assert "token limit" in refused(await person.say("x" * 100, FREE), 429, "RATE_LIMITED")
        assert len(play.openrouter.books) == 0


async def test_ids_that_a_browser_makes_up(mongodb_uri: str) -> None:
    """`local_session_...`, `local_fallback` and `chat_...` mean a new session, and so does none."""
    async with playground(mongodb_uri) as play:
        person = await play.person()
        made_up = (None, "local_session_1757000000000_ab3", "local_fallback", "chat_17_x", "chat_17_x")
        for session in made_up:
            assert (await person.say("hello", FREE, sessionId=session)).status_code == 200
        assert (await person.post("/api/chat", {"message": "hello", "modelId": FREE})).status_code == 200
        sessions = await play.documents("chatsessions")
        assert len(sessions) == len(made_up) + 1
        assert {session["messageCount"] for session in sessions} == {2}


async def test_the_chat_rate_limit(mongodb_uri: str) -> None:
    """Messages are limited by user, with `Retry-After`; reading is not."""
    limits = RateLimits.model_validate({"chat": {"requests": 2, "seconds": 900}})
    async with playground(mongodb_uri, rate_limits=limits, environment="production") as play:
        person, other = await play.person(), await play.person()
        for _ in range(2):
            assert (await person.say("hello", FREE)).status_code == 200
        limited = await person.say("hello", FREE)
        refused(limited, 429, "RATE_LIMITED")
        assert int(limited.headers["retry-after"]) > 0
        assert (await other.say("hello", FREE)).status_code == 200
        assert (await person.get("/api/chat/sessions")).status_code == 200
        assert len(play.openrouter.books) == 3


async def test_times_are_those_of_the_gateway(mongodb_uri: str) -> None:
    """On a clock that stands still a question is still before its answer."""
    now = utc_now()
    async with playground(mongodb_uri, clock=lambda: now) as play:
        _, _, messages = await talked(play)
        places = {message["_id"]: place for place, message in enumerate(messages)}
        replies = [message for message in messages if message["role"] == "assistant"]
        assert len(replies) == 3
        for reply in replies:
            assert places[reply["metadata"]["replyTo"]] < places[reply["_id"]]
