"""The command line: `serve`, and the few things that an operator does without a browser.

A command's module is imported when the command is given: `--help` and a wrong setting are told without a web
server, a database driver and all that is built on them.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
from types import ModuleType

from proxy import logs
from proxy.settings import SettingsError, load


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        settings = load()
    except SettingsError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    logs.configure(settings.log_level, settings.secrets())
    status: int = _import(f"proxy.commands.{options.module}").run(settings, options)
    return status


def _import(name: str) -> ModuleType:
    """Import a module without looking for garbage: a fifth of an import's CPU goes into that (0.34 of 1.7 s).

    Of 100,000 objects that a server's import makes 2,500 are garbage; what stays is not looked at again either.
    """
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m proxy", description="The AI Pasta gateway.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("serve", help="serve until SIGTERM or Ctrl-C").set_defaults(module="serve")
    commands.add_parser(
        "doctor", help="look at configuration, database, providers, clock and disk, and say what to do"
    ).set_defaults(module="doctor")
    commands.add_parser(
        "migrate", help="take over a database of the original AI Pasta backend; again does nothing"
    ).set_defaults(module="migrate")
    key = commands.add_parser("keys", help="API keys").add_subparsers(required=True, metavar="ACTION")
    make_key = key.add_parser("create", help="make a key for a user and print it")
    make_key.add_argument("--email", required=True, help="whose key it is")
    make_key.add_argument("--name", default="command line", help="what the key is called")
    make_key.add_argument(
        "--allow-ip",
        action="append",
        metavar="ADDRESS",
        help="where it may be used from: an address or a network; several times for several",
    )
    make_key.set_defaults(module="keys")
    ledger = commands.add_parser("ledger", help="the books").add_subparsers(required=True, metavar="ACTION")
    ledger.add_parser("verify", help="recompute every counter from the events").set_defaults(module="ledger")
    admin = commands.add_parser("admin", help="admins").add_subparsers(required=True, metavar="ACTION")
    make_admin = admin.add_parser("create", help="make an admin, or give an existing user the role")
    make_admin.add_argument("--email", required=True, help="who becomes an admin")
    make_admin.set_defaults(module="admin")
    return parser


if __name__ == "__main__":
    sys.exit(main())
