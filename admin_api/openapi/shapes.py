"""Shapes: what a JSON value looks like, in Python's own words, and the JSON Schema that says so.

str, int, float, bool      the types; `float` takes whole numbers too
{"name": shape}            an object with exactly these fields, every one of them there
[shape]                    a list
a StrEnum                  one of its values
a pydantic model           the body that it reads
maybe(shape)               the shape, or null
one_of("a", "b")           one of these strings
named("User", shape)       the shape, under a name of its own in the document
raw({...})                 JSON Schema as it stands
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

Json = dict[str, Any]
Shape = Any
REFERENCE = "#/components/schemas/{model}"
_TYPES: dict[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True, slots=True)
class Maybe:
    """A shape that may be null."""

    shape: Shape


@dataclass(frozen=True, slots=True)
class ByName:
    """An object with fields of any name."""

    shape: Shape


@dataclass(frozen=True, slots=True)
class Named:
    """A shape with a name of its own."""

    name: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Raw:
    """JSON Schema as it stands."""

    schema: Json


def maybe(shape: Shape) -> Maybe:
    """Allow null."""
    return Maybe(shape)


def by_name(shape: Shape) -> ByName:
    """Allow fields of any name, each of this shape."""
    return ByName(shape)


def named(name: str, shape: Shape) -> Named:
    """Name a shape that stands in several places."""
    return Named(name, shape)


def one_of(*values: str) -> Raw:
    """Allow these strings alone."""
    return Raw({"type": "string", "enum": list(values)})


def raw(schema: Json) -> Raw:
    """Say it in JSON Schema."""
    return Raw(schema)


TIME = raw({"type": "string", "format": "date-time"})
ID = raw({"type": "string", "pattern": "^[0-9a-f]{24}$"})
OBJECT = raw({"type": "object"})
"""An object whose fields are not ours to promise."""

MONEY = {"usd": float, "inr": float}


@dataclass(slots=True)
class Components:
    """The named schemas of a document, collected while shapes are turned into schemas."""

    schemas: Json = field(default_factory=dict)

    def schema(self, shape: Shape) -> Json:
        """Return a shape's JSON Schema; what has a name is stored here and referred to."""
        match shape:
            case Raw():
                schema = shape.schema
            case Maybe():
                schema = {"anyOf": [self.schema(shape.shape), {"type": "null"}]}
            case ByName():
                schema = {"type": "object", "additionalProperties": self.schema(shape.shape)}
            case Named():
                schema = self._refer(shape.name, self.schema(shape.shape))
            case dict():
                schema = self._object(shape)
            case list():
                schema = {"type": "array", "items": self.schema(shape[0])}
            case type() if issubclass(shape, StrEnum):
                schema = {"type": "string", "enum": [str(value) for value in shape]}
            case type() if issubclass(shape, BaseModel):
                schema = self._model(shape)
            case _:
                schema = {"type": _TYPES[shape]}
        return schema

    def _object(self, fields: dict[str, Shape]) -> Json:
        return {
            "type": "object",
            "properties": {name: self.schema(shape) for name, shape in fields.items()},
            "required": list(fields),
            "additionalProperties": False,
        }

    def _model(self, model: type[BaseModel]) -> Json:
        schema = model.model_json_schema(ref_template=REFERENCE)
        for name, definition in schema.pop("$defs", {}).items():
            self._refer(name, definition)
        return self._refer(model.__name__, schema)

    def _refer(self, name: str, schema: Json) -> Json:
        if self.schemas.setdefault(name, schema) != schema:
            raise ValueError(f"two different schemas are called {name}")
        return {"$ref": REFERENCE.format(model=name)}
