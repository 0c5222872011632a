"""A problem that the operator can mend is one line and exit status 1, never a stack trace."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from pydantic import ValidationError
from pymongo.errors import PyMongoError

from plugins.registry import PluginError
from proxy.database import DatabaseError, is_outage
from proxy.errors import GatewayError
from proxy.metering.journal import JournalError
from proxy.mongod import MongodError
from proxy.settings import SettingsError

P = ParamSpec("P")
_MOST_SAID = 300


def reporting(command: Callable[P, int]) -> Callable[P, int]:
    """Make a command say in one line what the operator can mend."""

    @functools.wraps(command)
    def reported(*args: P.args, **options: P.kwargs) -> int:
        try:
            return command(*args, **options)
        except (SettingsError, MongodError, DatabaseError, JournalError, PluginError, GatewayError) as exc:
            print(f"error: {exc}", file=sys.stderr)
        except PyMongoError as exc:
            what = "the database went away" if is_outage(exc) else "the database refuses what is needed"
            print(f"error: {what}: {' '.join(str(exc).split())[:_MOST_SAID]}", file=sys.stderr)
        except ValidationError as exc:
            reasons = ", ".join(item["msg"].removeprefix("Value error, ") for item in exc.errors())
            print(f"error: {reasons}", file=sys.stderr)
        return 1

    return reported
