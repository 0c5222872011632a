"""The command line of the measurements: one command for each of them."""

from __future__ import annotations

import argparse
import sys

import uvloop

from bench import report
from bench.compare import MEMORY_REQUESTS, compare
from bench.data import Size
from bench.gateways import PEERS
from bench.measure import SCENARIOS, SHORT, STREAM
from bench.overload import Crowd, overload
from bench.processes import CannotRun
from bench.profiling import profile
from bench.scale import measure_scale
from bench.scaling import measure_scaling
from bench.streams import Load, hold_streams


def main() -> int:
    """Run one measurement."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser(
        "compare", help="ours beside its peers; with any, writes bench/results.json and .md"
    )
    one.add_argument("peers", nargs="*", metavar="PEER", help=f"which of {', '.join(PEERS)}; default: none")
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--seconds", type=float, default=2.0, help="of one round")
    one.add_argument(
        "--requests", type=int, default=MEMORY_REQUESTS, help="for the memory of ours; 0: not measured"
    )
    one.add_argument("--dry", action="store_true", help="print only, and leave bench/results.* as they are")
    one.set_defaults(command=_compare)
    many = commands.add_parser("streams", help="many open streams at once")
    many.add_argument("--streams", type=int, default=1_000)
    many.add_argument("--chunks", type=int, default=200, help="of each stream")
    many.add_argument("--per-second", type=float, default=20.0, help="chunks of each stream")
    many.add_argument("--workers", type=int, default=2, help="the setting WORKERS")
    many.set_defaults(command=_streams)
    more = commands.add_parser("workers", help="what a second worker brings")
    more.add_argument("--workers", type=int, default=2)
    more.add_argument("--rounds", type=int, default=5)
    more.add_argument("--seconds", type=float, default=3.0, help="of one round")
    more.set_defaults(command=_workers)
    full = commands.add_parser("overload", help="how long a refusal takes")
    full.add_argument("--streams", type=int, default=200, help="that are open, as many as there may be")
    full.add_argument("--per-second", type=float, default=20.0, help="chunks of each stream")
    full.add_argument("--connections", type=int, default=64, help="that ask for more")
    full.add_argument("--bytes", type=int, default=2_000, help="of their prompts")
    full.set_defaults(command=_overload)
    where = commands.add_parser("profile", help="where the CPU goes")
    where.add_argument("scenarios", nargs="*", default=[SHORT, STREAM], help="names as in bench/results.md")
    where.add_argument("--seconds", type=float, default=8.0)
    where.add_argument("--lines", type=int, default=30, help="of each table")
    where.set_defaults(command=_profile)
    large = commands.add_parser("data", help="what lists and statistics cost on a large database")
    large.add_argument("--users", type=int, default=10_000)
    large.add_argument("--events", type=int, default=2_000_000)
    large.add_argument("--messages", type=int, default=100_000)
    large.set_defaults(command=_data)
    options = parser.parse_args()
    status: int = options.command(options)
    return status


def _compare(options: argparse.Namespace) -> int:
    unknown = [name for name in options.peers if name not in PEERS]
    if unknown:
        print(f"error: no such peer: {', '.join(unknown)}", file=sys.stderr)
        return 2
    work = compare(
        options.peers, rounds=options.rounds, seconds=options.seconds, memory_requests=options.requests
    )
    results = uvloop.run(work)
    if options.peers and not options.dry:
        report.write(results)
    print(report.markdown(results))
    if options.peers and not options.dry:
        print("bench/results.json and bench/results.md are written; `python -m tests.readme` quotes them")
    return 0


def _streams(options: argparse.Namespace) -> int:
    wanted = Load(options.streams, options.chunks, options.per_second, options.workers)
    print(uvloop.run(hold_streams(wanted)))
    return 0


def _workers(options: argparse.Namespace) -> int:
    try:
        print(uvloop.run(measure_scaling(options.workers, options.rounds, options.seconds)))
    except CannotRun as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


def _overload(options: argparse.Namespace) -> int:
    print(
        uvloop.run(overload(Crowd(options.streams, options.per_second, options.connections, options.bytes)))
    )
    return 0


def _profile(options: argparse.Namespace) -> int:
    known = [scenario.name for scenario in SCENARIOS]
    if unknown := [name for name in options.scenarios if name not in known]:
        print(f"error: no such scenario: {unknown[0]}; there are: {'; '.join(known)}", file=sys.stderr)
        return 2
    print(uvloop.run(profile(options.scenarios, options.seconds, options.lines)))
    return 0


def _data(options: argparse.Namespace) -> int:
    print(uvloop.run(measure_scale(Size(options.users, options.events, options.messages))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
