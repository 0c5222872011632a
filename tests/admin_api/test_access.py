"""Tests of admin_api/access.py."""

from __future__ import annotations

import re

import jwt
import pytest
from sanic import HTTPResponse, Request
from sanic_routing.route import Route

from admin_api import access
from admin_api.access import SignedIn, rule_of
from proxy.clock import utc_now
from proxy.core.routing import Role
from proxy.settings import ProviderSettings
from proxy.token_keys import key_id
from tests.admin_api.accounts import ORIGIN, is_good, message_of, signed_in
from tests.gateway import JWT_SECRET, PASSWORD, RunningGateway, running_gateway

RULES = {"public", "optional", "user", "admin"}


def routes_of(gateway: RunningGateway) -> list[Route]:
    """List the routes of the account service; those of HEAD call the handlers of GET, OPTIONS only lists methods."""
    return [
        route
        for route in gateway.app.router.routes
        if route.path.startswith("api/") and not route.methods <= {"HEAD", "OPTIONS"}
    ]


async def test_every_route_of_the_account_service_has_one_rule(mongodb_uri: str) -> None:
    """A handler under /api without a declared access rule does not exist."""
    async with running_gateway(mongodb_uri) as gateway:
        rules = {f"{min(route.methods)} {route.path}": rule_of(route.handler) for route in routes_of(gateway)}
        assert {name: rule for name, rule in rules.items() if rule not in RULES} == {}
        assert len([name for name in rules if " api/auth/" in name]) == 12
        assert len([name for name in rules if " api/user/" in name]) == 11


async def test_every_route_refuses_strangers(mongodb_uri: str) -> None:
    """Whatever needs a user answers 401 to nobody, and whatever needs an admin 403 to a user, before all else."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        refusals = 0
        for route in routes_of(gateway):
            rule, method = rule_of(route.handler), min(route.methods)
            path = "/" + re.sub(r"<(\w+):\w+>", r"\1", route.path)
            if rule in ("user", "admin"):
                assert message_of(await gateway.http.request(method, path), 401, "UNAUTHENTICATED"), path
                refusals += 1
            if rule == "admin":
                refused = await account.send(method, path)
                assert message_of(refused, 403, "FORBIDDEN") == "Admin access required"
        assert refusals >= 14


async def test_forged_tokens_are_refused(mongodb_uri: str) -> None:
    """Another key, algorithm or kind, missing claims, other types and whole other texts are all 401, never 500."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        claims = jwt.decode(account.token, options={"verify_signature": False})
        head = {"kid": key_id(JWT_SECRET)}
        good = jwt.encode(claims, JWT_SECRET, headers=head)
        assert await is_good(gateway, good)
        other = await signed_in(gateway)
        variants = [
            jwt.encode(claims, "another secret of enough length!!", headers=head),
            jwt.encode(claims, JWT_SECRET * 2, "HS512", headers=head),
            jwt.encode(claims, None, "none", headers=head),
            jwt.encode(claims, JWT_SECRET),
            *(
                jwt.encode({k: v for k, v in claims.items() if k != name}, JWT_SECRET, headers=head)
                for name in claims
            ),
            *(
                jwt.encode(claims, JWT_SECRET, headers={"kid": key})
                for key in ("0" * 16, "../../dev/null", "https://evil.example/k", JWT_SECRET)
            ),
            *(
                jwt.encode({**claims, **change}, JWT_SECRET, headers=head)
                for change in (
                    {"iss": "somebody"},
                    {"aud": "somebody"},
                    {"aud": [claims["aud"]]},
                    {"typ": "refresh"},
                    {"exp": 1},
                    {"exp": "soon"},
                    {"iat": claims["iat"] + 3600},
                    {"sub": "nobody"},
                    {"sub": str(other.id)},
                    {"jti": "0" * 32},
                )
            ),
            f"{good}.x",
            good[:-2],
            "a.b.c",
            "x" * 8000,
            await gateway.key(),
        ]
        for token in variants:
            assert not await is_good(gateway, token), token
        for header in ("", "Bearer", "Bearer ", "Basic abc", f"Token {good}", good, "Bearer  "):
            response = await gateway.http.get("/api/auth/me", headers={"authorization": header})
            assert message_of(response, 401), header
        lower = await gateway.http.get("/api/auth/me", headers={"authorization": f"bearer {good}"})
        assert lower.status_code == 200


async def test_a_secret_is_changed_without_signing_anybody_out(mongodb_uri: str) -> None:
    """One gateway after the other goes over to the next secret, and a token of either is good on both; at last the old one dies."""
    last, newest = "the-last-secret-0123456789-abcdefgh", JWT_SECRET
    async with (
        running_gateway(mongodb_uri, jwt_accepted_secrets=(last,)) as changed,
        running_gateway(mongodb_uri, jwt_accepted_secrets=(newest, last)) as other,
        running_gateway(mongodb_uri) as done,
    ):
        account = await signed_in(changed)
        claims = jwt.decode(account.token, options={"verify_signature": False})
        before = jwt.encode(claims, last, headers={"kid": key_id(last)})
        for gateway in (changed, other):
            assert await is_good(gateway, account.token)
            assert await is_good(gateway, before)
        assert await is_good(done, account.token)
        assert not await is_good(done, before)
        assert await is_good(changed, before)  # it was refused, and its sign-in not ended
        refreshed = await changed.http.post(
            "/api/auth/refresh", headers={"authorization": f"Bearer {before}"}
        )
        assert await is_good(done, refreshed.json()["token"])


async def test_the_cookie_signs_in(mongodb_uri: str) -> None:
    """The cookie reads; it changes something only for a page of ours or of an allowed origin."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        cookie = {"cookie": f"jwt={account.token}"}
        assert (await gateway.http.get("/api/auth/me", headers=cookie)).status_code == 200
        expected = {
            (("origin", ORIGIN),): 200,
            (("origin", gateway.base_url),): 200,
            (("sec-fetch-site", "same-origin"),): 200,
            (("origin", ORIGIN), ("sec-fetch-site", "same-site")): 200,
            (): 401,
            (("origin", "null"),): 403,
            (("origin", "https://evil.example"),): 403,
            (("origin", f"{ORIGIN}.evil.example"),): 403,
            (("origin", "http://localhost:30001"),): 403,
            (("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")): 403,
            (("sec-fetch-site", "cross-site"),): 403,
            (("sec-fetch-site", "same-site"),): 403,
            (("sec-fetch-site", "none"),): 403,
        }
        for headers, status in expected.items():
            response = await gateway.http.patch(
                "/api/user/profile", json={"bio": "x"}, headers={**cookie, **dict(headers)}
            )
            assert response.status_code == status, headers
        evil = {"origin": "https://evil.example"}
        assert (
            await account.send("PATCH", "/api/user/profile", {"bio": "x"}, headers=evil)
        ).status_code == 200
        both = {**cookie, "authorization": "Bearer nonsense"}
        assert message_of(await gateway.http.get("/api/auth/me", headers=both), 401)


async def test_the_cookie_is_secure_in_production(mongodb_uri: str) -> None:
    """In production the cookie travels over TLS alone, for as many days as configured."""
    demo = {"demo": ProviderSettings(plugin="demo")}
    async with running_gateway(
        mongodb_uri, demo, environment="production", jwt_cookie_expires_in=2
    ) as gateway:
        body = {"name": "Asha", "email": "asha@example.com", "password": PASSWORD}
        response = await gateway.http.post("/api/auth/register", json=body)
        attributes = {part.strip().lower() for part in response.headers["set-cookie"].split(";")[1:]}
        assert attributes == {"path=/", "max-age=172800", "samesite=strict", "secure", "httponly"}


async def test_a_visitor_may_be_anybody(mongodb_uri: str) -> None:
    """Optional endpoints know who is signed in, take nobody for nobody, and refuse a bad bearer token."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway, Role.ADMIN)
        assert (await gateway.http.get("/api/models")).status_code == 200
        assert (await account.send("GET", "/api/models")).status_code == 200
        stale = {"cookie": "jwt=loggedout"}
        assert (await gateway.http.get("/api/models", headers=stale)).status_code == 200
        bad = await gateway.http.get("/api/models", headers={"authorization": "Bearer nonsense"})
        assert message_of(bad, 401)


async def test_a_user_who_is_being_deleted_is_gone(mongodb_uri: str) -> None:
    """From the moment of the mark on, his token is refused."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        await account.user.update({"$set": {"deletionRequestedAt": utc_now()}})
        refused = await account.send("GET", "/api/auth/me")
        assert message_of(refused, 401) == "The user belonging to this token does no longer exist."


@pytest.mark.parametrize(
    "rule", [access.public, access.optional, access.user, access.admin, access.refresher]
)
def test_a_rule_can_be_read_from_its_handler(rule: object) -> None:
    """Each decorator leaves its rule on the handler; a bare handler has none."""

    async def handler(_request: Request, _caller: SignedIn | None = None) -> HTTPResponse:
        return HTTPResponse()

    assert rule_of(handler) is None
    assert callable(rule)
    assert rule_of(rule(handler)) in RULES
