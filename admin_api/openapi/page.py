"""The documentation as one page, made from the OpenAPI document: no script, nothing from other hosts.

Every text that is put in goes through `html.escape`, though the document holds none of a stranger's.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from admin_api.openapi.shapes import Json

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 0.9em ui-monospace, monospace; }
details { border: 1px solid #8886; border-radius: 4px; margin: 0.4rem 0; padding: 0.3rem 0.7rem; }
summary { cursor: pointer; }
table { border-collapse: collapse; width: 100%; }
td, th { border-top: 1px solid #8884; padding: 0.2rem 0.6rem 0.2rem 0; text-align: left; vertical-align: top; }
.method { display: inline-block; min-width: 4.5em; font-weight: 600; }
.about { opacity: 0.75; }
"""
SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SCHEMES = {
    "token": "a token of `POST /api/auth/login`, as a bearer token",
    "cookie": "the cookie that signing in sets",
    "apiKey": "an API key, as a bearer token",
    "anthropicKey": "an API key, in the header `x-api-key`",
    "metricsToken": "METRICS_TOKEN, as a bearer token",
}


def render(document: Json) -> str:
    """Return the page."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    tags: dict[str, list[str]] = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            tags.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    contents = "".join(f'<li><a href="#{escape(tag)}">{escape(tag)}</a></li>' for tag in tags)
    sections = "".join(
        f'<section id="{escape(tag)}"><h2>{escape(tag)}</h2>{"".join(found)}</section>'
        for tag, found in tags.items()
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><h1>{title}</h1>'
        '<p>For programs: <a href="/docs/openapi.json">the same as OpenAPI 3.1</a>.</p>'
        f'<ul>{contents}<li><a href="#schemas">schemas</a></li></ul>{sections}'
        f'<section id="schemas"><h2>schemas</h2>{"".join(_schemas(document))}</section></body></html>'
    )


def _operation(method: str, path: str, operation: Json) -> str:
    body = operation.get("requestBody")
    parts = [
        f"<p>{escape(operation['summary'])}</p>",
        f'<p class="about">{escape(_access(operation["security"]))}</p>',
    ]
    rows = [
        (f"{each['name']} ({each['in']})", describe(each["schema"]), each["required"])
        for each in operation["parameters"]
    ]
    if rows:
        parts.append(_fields(rows))
    if body is not None:
        need = "" if body["required"] else ", may be left out"
        parts.append(f"<p>Body{need}: {_content(body['content'])}</p>")
    answers = "".join(
        f"<tr><td>{escape(status)}</td><td>{escape(answer['description'])}</td>"
        f"<td>{_content(answer.get('content', {}))}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    parts.append(f"<table>{answers}</table>")
    head = f'<span class="method">{escape(method.upper())}</span> <code>{escape(path)}</code>'
    return f"<details><summary>{head}</summary>{''.join(parts)}</details>"


def _access(security: list[Json]) -> str:
    ways = [_SCHEMES.get(name, name) for wanted in security for name in wanted]
    if not ways:
        return "Open to everybody."
    return f"Needs {' or '.join(ways)}." if {} not in security else f"Takes {' or '.join(ways)}, or nothing."


def _content(content: Json) -> str:
    return ", ".join(
        f"<code>{escape(media)}</code> {describe(each['schema'])}" for media, each in content.items()
    )


def _schemas(document: Json) -> Iterator[str]:
    for name, schema in document["components"]["schemas"].items():
        yield f'<details id="schema-{escape(name)}" open><summary><code>{escape(name)}</code></summary>'
        yield f"<p>{escape(schema.get('description', ''))}</p>{describe(schema)}</details>"


def describe(schema: Any) -> str:
    """Say in HTML what a JSON Schema allows; of a named one, its name as a link."""
    if not isinstance(schema, dict):
        return "anything"
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(describe(each) for each in schema[key])
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "properties" in schema:
        required = schema.get("required", ())
        return _fields(
            (name, describe(each), name in required) for name, each in schema["properties"].items()
        )
    return _plain(schema)


def _plain(schema: Json) -> str:
    kinds = schema.get("type", "anything")
    kind = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    if kind == "array":
        return f"list of {describe(schema.get('items'))}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of any names, each {describe(schema['additionalProperties'])}"
    bounds = [
        f"{word} {schema[name]}"
        for name, word in (
            ("format", ""),
            ("minimum", "from"),
            ("maximum", "to"),
            ("minLength", "at least, in characters,"),
            ("maxLength", "at most, in characters,"),
            ("pattern", "like"),
            ("default", "default"),
        )
        if name in schema
    ]
    return escape(" ".join([kind, *bounds]))


def _fields(rows: Iterable[tuple[str, str, bool]]) -> str:
    """Lay out fields: their names, what they are, and whether they must be there."""
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{what}</td><td>{'required' if is_needed else ''}</td></tr>"
        for name, what, is_needed in rows
    )
    return f"<table>{lines}</table>"
