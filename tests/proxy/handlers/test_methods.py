"""Tests of proxy/handlers/methods.py."""

from __future__ import annotations

import pytest

from tests.gateway import running_gateway

PATHS = {"/": "GET", "/v1/models": "GET", "/api/auth/me": "GET", "/v1/chat/completions": "POST"}


async def test_options_and_405_list_what_a_path_allows(mongodb_uri: str) -> None:
    """OPTIONS answers 204 and a method that a path has not answers 405; both name the methods that it has."""
    async with running_gateway(mongodb_uri) as gateway:
        for path, method in PATHS.items():
            allowed = {method, "OPTIONS"} | ({"HEAD"} if method == "GET" else set())
            for answer in (
                await gateway.http.options(path),
                await gateway.http.request("TRACE", path),
                await gateway.http.request("BREW", path),
            ):
                assert set(answer.headers["allow"].split(", ")) == allowed
                assert answer.status_code == (204 if answer.request.method == "OPTIONS" else 405)


@pytest.mark.parametrize("path", ["/", "/v1/models", "/api/auth/me", "/nowhere"])
async def test_head_answers_as_get_without_a_body(mongodb_uri: str, path: str) -> None:
    """HEAD has the status and the length of GET, and nothing else."""
    async with running_gateway(mongodb_uri) as gateway:
        whole, head = await gateway.http.get(path), await gateway.http.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b"")
        assert head.headers["content-length"] == str(len(whole.content)) or path == "/nowhere"
