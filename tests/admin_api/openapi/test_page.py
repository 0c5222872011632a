"""Tests of admin_api/openapi/page.py: the documentation for people."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from html.parser import HTMLParser

from admin_api.openapi import page
from admin_api.openapi.document import OPERATIONS, build
from proxy.settings import ProviderSettings
from tests.gateway import running_gateway

DEMO = {"demo": ProviderSettings(plugin="demo")}
VOID = {"meta"}


class Reader(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name == "href"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_the_page_is_whole_and_loads_nothing(mongodb_uri: str) -> None:
    """Every operation and schema is on it, every link leads somewhere here, and there is no script and no other host."""
    async with running_gateway(mongodb_uri, DEMO) as gateway:
        answer, same = await gateway.http.get("/docs"), await gateway.http.get("/docs/")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        text = answer.text
        assert same.text == text
        reader = Reader()
        reader.feed(text)
        assert reader.open == []
        assert not reader.names & {"script", "img", "link", "iframe", "object", "form", "base"}
        assert reader.attributes <= {"charset", "class", "content", "href", "id", "lang", "name", "open"}
        assert len(set(reader.ids)) == len(reader.ids)
        for link in reader.links:
            assert link == "/docs/openapi.json" or link.removeprefix("#") in reader.ids, link
        for method, path in OPERATIONS:
            assert f'<span class="method">{method.upper()}</span> <code>{path}</code>' in text
        for name in build(gateway.app)["components"]["schemas"]:
            assert f"schema-{name}" in reader.ids
        assert not re.search(r"https?://", text)


async def test_the_page_keeps_a_strict_policy(mongodb_uri: str) -> None:
    """Its style is allowed by its hash and by nothing else, and all the other headers are those of every answer."""
    async with running_gateway(mongodb_uri, DEMO) as gateway:
        answer = await gateway.http.get("/docs")
        style = re.search(r"<style>(.*?)</style>", answer.text, re.DOTALL)
        assert style is not None
        digest = b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
        policy = answer.headers["content-security-policy"]
        assert policy == page.SECURITY_POLICY
        assert f"style-src 'sha256-{digest}'" in policy
        assert "unsafe" not in policy
        assert policy.startswith("default-src 'none';")
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_what_is_put_in_is_escaped() -> None:
    """A name or a description with markup is shown as it is written."""
    evil = "<script>alert(1)</script>\"'&"
    schema = {
        "type": "object",
        "description": evil,
        "properties": {evil: {"type": "string", "enum": [evil], "pattern": evil}, "x": {"$ref": f"#/{evil}"}},
    }
    document = {
        "info": {"title": evil, "version": evil},
        "paths": {
            f"/{evil}": {
                "get": {
                    "summary": evil,
                    "tags": [evil],
                    "security": [],
                    "parameters": [{"name": evil, "in": "query", "required": True, "schema": schema}],
                    "responses": {"200": {"description": evil, "content": {evil: {"schema": schema}}}},
                }
            }
        },
        "components": {
            "schemas": {evil: schema, "plain": {"type": "string", "pattern": evil, "default": evil}}
        },
    }
    text = page.render(document)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    reader = Reader()
    reader.feed(text)
    assert "script" not in reader.names
