#!/bin/sh
# Finds a Python that can build .venv, or says in one line what to install; the rest is tools/environment.py.
# Usage: tools/bootstrap.sh run|dev
set -eu

# 10: too old; 11: no venv; anything else: it does not run (a version manager's shim may exist and fail).
probe='
import sys
if sys.version_info < (3, 11): sys.exit(10)
try:
    import ensurepip, ssl, venv
except ImportError:
    sys.exit(11)
'
without_venv=
for name in ${PYTHON:-python3.13 python3.12 python3.11 python3.14 python3 python}; do
    status=0
    "$name" -c "$probe" >/dev/null 2>&1 || status=$?
    if [ "$status" -eq 0 ]; then
        exec "$name" "$(dirname "$0")/environment.py" "$@"
    fi
    if [ "$status" -eq 11 ]; then
        without_venv=${without_venv:-$name}
    fi
done

if [ -n "$without_venv" ]; then
    version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "aipasta: $without_venv has no venv module; install it (Debian, Ubuntu: apt-get install python$version-venv)" >&2
else
    echo "aipasta: no Python 3.11 or newer found; install one (Debian, Ubuntu: apt-get install python3 python3-venv)" \
        "or name it: make PYTHON=/path/to/python3" >&2
fi
exit 1
