"""Asks whether a locked package has a known vulnerability: pip-audit, over the lock files, with OSV's advisories.

pip-audit runs in an environment of its own, since it is no part of the product. Both it and the advisories come over
the network; where that ends before them, this says so, since an audit that has not looked must not look like a pass.
Exit status: 0 nothing is known, 1 something is, 2 nobody could be asked.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
from urllib.parse import urlsplit

PIP_AUDIT = "pip-audit==2.10.1"
SERVICE = "https://api.osv.dev/v1/query"
TIMEOUT_SECONDS = 10.0


def is_reachable(service: str) -> bool:
    """Say whether somebody listens at an address."""
    parts = urlsplit(service)
    try:
        with socket.create_connection((parts.hostname, parts.port or 443), timeout=TIMEOUT_SECONDS):
            return True
    except OSError:
        return False


def audit(lock_file: str, service: str) -> int:
    """Audit one lock file; its hashes make sure that it is read as it is installed."""
    options = ("--require-hashes", "--disable-pip", "--progress-spinner", "off", "--desc", "on")
    command = [sys.executable, "-m", "uv", "tool", "run", "--from", PIP_AUDIT, "pip-audit", *options]
    asking = ("--vulnerability-service", "osv", "--osv-url", service)
    return subprocess.run([*command, *asking, "--requirement", lock_file], check=False).returncode


def main() -> int:
    """Audit the lock files on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lock_files", nargs="+")
    parser.add_argument("--service", default=SERVICE, help="where OSV's advisories are")
    options = parser.parse_args()
    if not is_reachable(options.service):
        host = urlsplit(options.service).hostname
        print(f"audit: NOT DONE: the advisory service {host} cannot be reached from here", file=sys.stderr)
        return 2
    return max(audit(lock_file, options.service) for lock_file in options.lock_files)


if __name__ == "__main__":
    sys.exit(main())
