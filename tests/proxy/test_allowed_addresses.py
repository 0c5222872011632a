"""A key may be tied to addresses: from elsewhere it opens nothing, on any route, and nothing is spent or sent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx
import pytest

from admin_api.openapi.document import routes
from proxy.auth import FRESH_SECONDS
from proxy.core.routing import Role
from tests.admin_api.accounts import signed_in
from tests.proxy.stage import MINI, Stage, ask, staged
from tests.proxy.test_errors import assert_openai_error

HOME = "127.0.0.1"
ELSEWHERE = "127.0.0.2"


async def chat(
    stage: Stage, key: str, *, address: str = HOME, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """Ask from one of this machine's addresses."""
    transport = httpx.AsyncHTTPTransport(local_address=address)
    async with httpx.AsyncClient(transport=transport, base_url=stage.gateway.base_url) as client:
        sent = {"authorization": f"Bearer {key}", **(headers or {})}
        return await client.post("/v1/chat/completions", headers=sent, json=ask(MINI))


async def test_a_key_opens_from_its_addresses_alone(mongodb_uri: str) -> None:
    """What counts is where the connection comes from, whatever the client says; nothing is spent and nothing is sent."""
    async with staged(mongodb_uri) as stage:
        user = await stage.gateway.user(Role.PREMIUM)
        key = await stage.gateway.key(user, allowedIps=[HOME, "2001:db8::/32"], totalBudget=5)
        assert (await chat(stage, key)).status_code == 200
        for headers in ({}, {"x-forwarded-for": HOME}, {"x-real-ip": HOME, "forwarded": f"for={HOME}"}):
            refused = await chat(stage, key, address=ELSEWHERE, headers=headers)
            error = assert_openai_error(refused, 403, "ip_not_allowed")
            assert error["type"] == "permission_error"
            assert error["message"] == "This API key must not be used from the address 127.0.0.2."
        free = await stage.gateway.key(user)
        assert (await chat(stage, free, address=ELSEWHERE)).status_code == 200
        assert len(await stage.events(2)) == len(stage.openrouter.books) == 2
        await stage.assert_balanced(user)


FORWARDED: tuple[tuple[list[str], int], ...] = (
    (["203.0.113.7"], 200),
    (["::ffff:203.0.113.7"], 200),
    (["198.51.100.1, 203.0.113.255"], 200),
    (["198.51.100.1", "203.0.113.9"], 200),
    (["203.0.113.7, 198.51.100.1"], 403),  # the client's own claim, left of what the proxy says
    (["203.0.114.0"], 403),
    (["2001:db8::7"], 200),
    (["[2001:db8::7]:4711"], 200),
    (["2001:db9::7"], 403),
    (["::ffff:198.51.100.1"], 403),
    (["unknown"], 403),
    ([], 403),
)


async def test_behind_proxies_the_client_counts(mongodb_uri: str) -> None:
    """Behind proxies of ours the address is the client's that they name, in whichever form it is written."""
    async with staged(mongodb_uri, trusted_proxies=("127.0.0.0/8",)) as stage:
        networks = ["203.0.113.0/24", "2001:db8::7"]
        key = await stage.gateway.key(role=Role.PREMIUM, allowedIps=networks)
        for forwarded, status in FORWARDED:
            lines = [("x-forwarded-for", each) for each in forwarded]
            headers = [("authorization", f"Bearer {key}"), *lines]
            answer = await stage.gateway.http.get("/v1/key", headers=headers)
            assert answer.status_code == status, forwarded
            if status == 200:
                assert answer.json()["allowed_ips"] == networks


async def test_every_route_of_the_data_plane_asks_where_from(mongodb_uri: str) -> None:
    """From elsewhere a key is 403 on each route under /v1, before its body, its model or its id is looked at."""
    async with staged(mongodb_uri) as stage:
        key = await stage.gateway.key(allowedIps=["203.0.113.7"])
        asked = [(method, path) for method, path, _ in routes(stage.gateway.app) if path.startswith("/v1/")]
        assert len(asked) == 8
        for method, path in asked:
            headers = {"authorization": f"Bearer {key}"}
            answer = await stage.gateway.http.request(method, path, headers=headers, content=b"{")
            assert answer.status_code == 403, path
            if path == "/v1/messages":
                assert answer.json()["error"]["type"] == "permission_error"
            else:
                assert_openai_error(answer, 403, "ip_not_allowed")
        anthropic = await stage.gateway.http.post("/v1/messages", headers={"x-api-key": key}, content=b"{")
        assert anthropic.status_code == 403
        assert not stage.openrouter.books


@pytest.mark.long
async def test_a_change_of_the_addresses_counts_within_a_second(mongodb_uri: str) -> None:
    """The owner ties a key that is in use to addresses, moves it, and frees it again; every worker follows."""
    async with staged(mongodb_uri) as stage:
        account = await signed_in(stage.gateway, Role.PREMIUM)
        made = (await account.send("POST", "/api/user/api-keys", {"name": "k"})).json()["data"]
        key, path = made["apiKey"], f"/api/user/api-keys/{made['keyInfo']['id']}"
        assert made["keyInfo"]["allowedIps"] is None
        steps: tuple[tuple[list[str] | None, int], ...] = (
            (None, 200),
            (["203.0.113.7"], 403),
            (["127.0.0.0/8"], 200),
            (["::ffff:127.0.0.1"], 200),
            (["::1"], 403),
            (None, 200),
        )
        for networks, status in steps:
            changed = await account.send("PATCH", path, {"allowedIps": networks})
            assert changed.status_code == 200, changed.text
            await asyncio.sleep(FRESH_SECONDS)
            assert (await chat(stage, key)).status_code == status, networks
