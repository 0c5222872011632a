"""Tests of proxy/handlers/system.py: what operators, load balancers and Prometheus ask."""

from __future__ import annotations

import pytest

from proxy.handlers.system import _is_private
from tests.gateway import running_gateway


async def test_the_service_describes_itself(mongodb_uri: str) -> None:
    """`/` says what this is, `/health` and `/health/ready` that it is well, with a request id on each."""
    async with running_gateway(mongodb_uri) as gateway:
        root = await gateway.http.get("/")
        assert root.json()["endpoints"]["chat"] == "/v1/chat/completions"
        health = (await gateway.http.get("/health")).json()
        assert (health["status"], health["environment"]) == ("OK", "development")
        assert health["timestamp"].endswith("Z")
        ready = await gateway.http.get("/health/ready")
        assert (ready.status_code, ready.json()) == (200, {"status": "READY"})
        assert ready.headers["x-request-id"].startswith("req_")


async def test_metrics_need_their_token(mongodb_uri: str) -> None:
    """With METRICS_TOKEN only whoever holds it sees the metrics; nothing that is sent instead breaks anything."""
    async with running_gateway(mongodb_uri, metrics_token="só-secret-ü") as gateway:
        for sent in (None, "Bearer wrong", "só-secret-", "Basic eA==", "Bearer \udcff"):
            raw = [] if sent is None else [(b"authorization", sent.encode(errors="surrogateescape"))]
            response = await gateway.http.get("/metrics", headers=raw)
            assert (response.status_code, response.json()["code"]) == (401, "UNAUTHENTICATED"), sent
        token = [(b"authorization", "Bearer só-secret-ü".encode())]
        response = await gateway.http.get("/metrics", headers=token)
        assert response.status_code == 200
        assert "aipasta_requests_in_flight 0.0" in response.text


async def test_metrics_are_open_to_this_machine(mongodb_uri: str) -> None:
    """Without a token, private peers see the metrics."""
    async with running_gateway(mongodb_uri) as gateway:
        response = await gateway.http.get("/metrics")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("address", "claim"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("::1", True),
        ("fd00::1", True),
        ("8.8.8.8", False),
        ("2001:4860:4860::8888", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_which_peers_are_private(address: str, claim: bool) -> None:  # noqa: FBT001  the expected answer
    """Loopback and private networks are private, the rest of the world and what is no address are not."""
    assert _is_private(address) is claim
