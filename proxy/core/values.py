"""Values that every request makes by the dozen: frozen to whoever writes code, and cheap to whoever runs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(kind: type[T]) -> type[T]:
    """Make a dataclass of a class, whose fields mypy forbids to set again.

    `frozen=True` forbids it at run time, and a value of 14 fields takes 2.7 times as long to make (measured): of a
    chat's CPU 3 % went there.
    """
    return dataclass(slots=True, unsafe_hash=True)(kind)
