"""Tests of proxy/handlers/system.py: what operators, load balancers and Prometheus ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.handlers.system import _is_private
from tests.gateway import running_gateway
from tests.proxy.metering.test_journal import full_disk
from tests.proxy.stage import ask


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


@pytest.mark.usefixtures("capsys")  # what is logged goes into a file otherwise, which cannot grow either
async def test_who_cannot_keep_books_is_not_ready(mongodb_uri: str, tmp_path: Path) -> None:
    """A gateway whose disk refuses its journal serves nobody, and so asks for nobody; when it is mended, it does."""
    async with running_gateway(mongodb_uri, data_dir=tmp_path) as gateway:
        assert (await gateway.http.get("/health/ready")).status_code == 200
        with full_disk(1):
            unready = await gateway.http.get("/health/ready")
            reason = "The gateway cannot keep its books; try again later."
            assert (unready.status_code, unready.json()) == (
                503,
                {"status": "UNAVAILABLE", "reason": reason},
            )
            assert (await gateway.http.get("/health")).status_code == 200
        assert (await gateway.http.get("/health/ready")).status_code == 200
        key = await gateway.key()
        assert (await gateway.chat(key, ask("demo/echo"))).status_code == 200
        assert len(await gateway.events()) == 1


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
