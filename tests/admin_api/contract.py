"""The judge of answers: holds each against what the OpenAPI document promises, and remembers which it has seen."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from typing import Any

import httpx

from admin_api.openapi.document import build

# Comes with schemathesis; imported by name because not every type checker's environment has it.
jsonschema: Any = importlib.import_module("jsonschema_rs")


@dataclass
class Judge:
    """Knows one document."""

    document: dict[str, Any]
    seen: set[tuple[str, int]] = field(default_factory=set)

    @classmethod
    def of(cls, app: Any) -> Judge:
        """Judge by an application's own document."""
        return cls(build(app))

    def operation_of(self, method: str, path: str) -> str:
        """Return the documented `METHOD /path/{template}` of a request; the most literal template wins."""
        templates = [template for template in self.document["paths"] if _matches(template, path)]
        template = min(templates, key=lambda name: (name.count("{"), -len(re.sub(r"{\w+}", "", name))))
        assert method.lower() in self.document["paths"][template], f"{method} {path}"
        return f"{method} {template}"

    def check(self, response: httpx.Response) -> httpx.Response:
        """Assert that an answer is one of those that are documented, and return it."""
        path = response.request.url.raw_path.decode().partition("?")[0]
        endpoint = self.operation_of(response.request.method, path)
        method, _, template = endpoint.partition(" ")
        promised = self.document["paths"][template][method.lower()]["responses"]
        what = f"{endpoint} answered {response.status_code}: {response.text[:500]}"
        assert str(response.status_code) in promised, what
        content = promised[str(response.status_code)].get("content")
        if content is None:
            assert response.content == b"", what
        else:
            media = response.headers["content-type"].partition(";")[0]
            assert media in content, what
            if media == "application/json":
                self._validate(content[media]["schema"], response.json(), what)
        self.seen.add((endpoint, response.status_code))
        return response

    def _validate(self, schema: dict[str, Any], value: Any, what: str) -> None:
        validator = jsonschema.Draft202012Validator({**schema, "components": self.document["components"]})
        errors = [f"{list(error.instance_path)}: {error.message}" for error in validator.iter_errors(value)]
        assert not errors, f"{what}\n" + "\n".join(errors)


def _matches(template: str, path: str) -> bool:
    pattern = "".join(
        r".+" if part.startswith("{") else re.escape(part) for part in re.split(r"({\w+})", template)
    )
    return re.fullmatch(pattern, path) is not None
