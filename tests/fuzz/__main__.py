"""The longer run by hand: `python -m tests.fuzz --examples 100`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from proxy.mongod import embedded_mongod
from tests.fuzz.run import CALLERS, run, target


def main() -> int:
    """Try everything as everybody; print the reports, and return 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="cases for each operation at most")
    parser.add_argument("--callers", nargs="+", choices=CALLERS, default=CALLERS)
    parser.add_argument("--phases", default="examples,coverage,fuzzing,stateful")
    options = parser.parse_args()
    worst = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with embedded_mongod(folder / "mongodb") as mongod, target(folder, mongod.uri) as gateway:
            for caller in options.callers:
                status, report = run(
                    gateway, folder, caller, examples=options.examples, phases=options.phases
                )
                sys.stdout.write(f"{caller}\n{report}\n")
                worst = max(worst, status)
            errors = [line for line in gateway.server.log.read_text().splitlines() if "unhandled" in line]
            sys.stdout.write("\n".join(errors))
    return worst


if __name__ == "__main__":
    sys.exit(main())
