"""A `.venv` counts as installed only when its stamp holds the hash of the lock files it was built from.

Run by tools/bootstrap.sh with the system's Python, so the standard library is all there is. `run` installs
what the gateway needs, after looking at what else the machine lacks; `dev` adds what the tests need.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {"run": ("requirements.lock",), "dev": ("requirements.lock", "requirements-dev.lock")}
MONGOD_LIBRARIES = ("libcurl.so.4", "libssl.so.3", "libcrypto.so.3", "liblzma.so.5")
MONGOD_GLIBC = (2, 34)
OR_MONGODB_URI = "or set MONGODB_URI to a MongoDB of your own"


class Refusal(Exception):
    """Something that the machine lacks, and what to do about it, in one line."""


def setting(name: str, default: str, *, root: Path = ROOT) -> str:
    """Guess a setting before anything is installed that could parse YAML: environment, .env, config.yaml."""
    if name in os.environ:
        return os.environ[name]
    dotenv = re.compile(rf"^[ \t]*(?:export[ \t]+)?{name}[ \t]*=[ \t]*([^\s#]+)", re.MULTILINE)
    yaml = re.compile(rf"^{name.lower()}[ \t]*:[ \t]*([^\s#]+)", re.MULTILINE)
    for path, pattern in (
        (root / ".env", dotenv),
        (root / os.environ.get("CONFIG_FILE", "config.yaml"), yaml),
    ):
        found = pattern.search(path.read_text("utf-8", "replace")) if path.is_file() else None
        if found:
            return found[1].strip("'\"")
    return default


def check_mongod_can_run() -> None:
    """Refuse where the MongoDB that we install could not start, unless it is not going to be used."""
    if setting("MONGODB_URI", "") or shutil.which("mongod"):
        return
    machine = platform.machine()
    if sys.platform != "linux" or machine not in {"x86_64", "aarch64"}:
        raise Refusal(
            f"no MongoDB to embed for {sys.platform} on {machine}: install mongod, {OR_MONGODB_URI}"
        )
    check_processor(machine, Path("/proc/cpuinfo").read_text("utf-8"))
    check_glibc()
    for library in MONGOD_LIBRARIES:
        check_library(library)


def check_processor(machine: str, cpuinfo: str) -> None:
    """Refuse a processor on which mongod dies of an illegal instruction."""
    flag, meaning = {"x86_64": ("avx", "AVX"), "aarch64": ("atomics", "ARMv8.2-A")}[machine]
    listed = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    if listed and flag not in listed[1].split():
        raise Refusal(
            f"this processor lacks {meaning}, which MongoDB needs: choose another machine type, {OR_MONGODB_URI}"
        )


def check_glibc() -> None:
    """Refuse a C library older than the one mongod is linked against."""
    version = platform.libc_ver()[1]
    if platform.libc_ver()[0] != "glibc" or tuple(map(int, version.split(".")[:2])) < MONGOD_GLIBC:
        needed = ".".join(map(str, MONGOD_GLIBC))
        raise Refusal(
            f"MongoDB needs glibc {needed} or newer, here is {version or 'none'}: use a newer Linux, {OR_MONGODB_URI}"
        )


def check_library(library: str) -> None:
    """Refuse a machine whose own loader, the one that mongod will be given, does not find the library."""
    # ctypes would search where Python's own build says; and mongod is not given our LD_LIBRARY_PATH either.
    trial = subprocess.run(
        ["/bin/sh", "-c", ":"], env={"LD_PRELOAD": library}, stderr=subprocess.PIPE, check=False
    )
    if library.encode() in trial.stderr:
        package = {"libcurl.so.4": "libcurl4", "liblzma.so.5": "liblzma5"}.get(library, "libssl3")
        raise Refusal(
            f"{library} is missing, MongoDB needs it: apt-get install {package} (dnf: libcurl openssl-libs xz-libs), {OR_MONGODB_URI}"
        )


def check_port_is_free() -> None:
    """Refuse when somebody already listens where the gateway is going to."""
    host, port = setting("HOST", "127.0.0.1"), setting("PORT", "5000")
    if not port.isdecimal():
        return  # the gateway's own settings say what is wrong with it
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if setting("REUSE_PORT", "").lower() in {"1", "on", "t", "true", "y", "yes"}:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise Refusal(
                    f"port {port} is taken: stop what listens there, or choose another (make run PORT={int(port) + 1})"
                ) from exc
            if exc.errno == errno.EACCES:
                raise Refusal(
                    f"port {port} needs privileges: choose one above 1023 (make run PORT=5000)"
                ) from exc


def ensure_installed(root: Path, locks: tuple[str, ...]) -> None:
    """Make .venv hold exactly the locked packages; a second caller waits, an interrupted one leaves no stamp."""
    venv, stamp = root / ".venv", root / ".venv" / "installed.json"
    wanted = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in locks}
    with (root / ".venv.lock").open("w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another installation of .venv")
            fcntl.flock(guard, fcntl.LOCK_EX)
        installed = read_stamp(venv, stamp)
        if wanted.items() <= installed.items():
            return
        stamp.unlink(missing_ok=True)
        # What is there may stay only if nothing of it was locked differently.
        if not installed or any(wanted.get(name, digest) != digest for name, digest in installed.items()):
            say("creating .venv")
            # The real path: a Python inside this very .venv cannot clear it.
            run(guard.fileno(), os.path.realpath(sys.executable), "-m", "venv", "--clear", str(venv))
        say(f"installing {locks[-1]} (the first time: up to a minute or two)")
        install(guard.fileno(), venv, root / locks[-1], uv_of(root / LOCKS["dev"][-1]))
        partial = stamp.with_suffix(".partial")
        partial.write_text(json.dumps(wanted))
        partial.replace(stamp)


def uv_of(lock: Path) -> str:
    """Return the lines of a lock that name uv; nothing where it has none."""
    found = re.search(r"^uv==(?:.*\\\n)*.*\n", lock.read_text(), re.MULTILINE) if lock.is_file() else None
    return found[0] if found else ""


def install(guard: int, venv: Path, lock: Path, uv: str) -> None:
    """Install what a lock holds with uv, in a twentieth of pip's time, or with pip where uv would not find it."""
    pip = f"{venv}/bin/python", "-m", "pip", "-qq", "--disable-pip-version-check", "--no-input"
    # The lock is complete. Resolved again, an older pip takes `coverage[toml]`, which a package asks for,
    # for a thing apart from the locked `coverage`, and refuses its newest version for having no hash.
    exactly = "install", "--require-hashes", "--no-deps"
    if uv and not has_own_index(pip):
        with tempfile.TemporaryDirectory(prefix="aipasta-") as folder:
            pinned = Path(folder) / "uv.lock"
            pinned.write_text(uv)
            try:
                run(guard, *pip, *exactly, "--target", folder, "--requirement", str(pinned))
                # Compiled here once, on all cores; else each process that is started first does it for itself.
                how = "--compile-bytecode", "--quiet", "--python", f"{venv}/bin/python"
                run(guard, f"{folder}/bin/uv", "pip", *exactly, *how, "--requirement", str(lock))
            except Refusal:
                say("uv could not, so pip tries, which knows other proxies and certificates")
            else:
                return
    run(guard, *pip, *exactly, "--requirement", str(lock))


def has_own_index(pip: tuple[str, ...]) -> bool:
    """Say whether pip was told where packages come from, which uv does not ask it."""
    listed = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False).stdout
    return re.search(r"^[^=]*\.(?:index-url|no-index)=", listed, re.MULTILINE) is not None


def read_stamp(venv: Path, stamp: Path) -> dict[str, str]:
    """Return what was installed completely; nothing, when the Python that .venv was made of is gone."""
    with contextlib.suppress(OSError, ValueError):
        installed: dict[str, str] = json.loads(stamp.read_text())
        subprocess.run([venv / "bin" / "python", "-c", ""], check=True, stderr=subprocess.DEVNULL)
        return installed
    return {}


def run(guard: int, *command: str) -> None:
    """Run one step of the installation, which keeps the lock as long as it lives, even if we are killed."""
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, pass_fds=(guard,))
    except subprocess.CalledProcessError as exc:
        raise Refusal(
            f"could not build .venv (the reason stands above): {' '.join(command[1:4])} ended with {exc.returncode}"
        ) from exc


def say(line: str) -> None:
    """Tell the person at the terminal."""
    print(f"aipasta: {line}", file=sys.stderr, flush=True)


def main(purpose: str) -> int:
    """Look, install, and answer 0; or say in one line why not."""
    try:
        if purpose == "run":
            check_mongod_can_run()
            check_port_is_free()
        ensure_installed(ROOT, LOCKS[purpose])
    except Refusal as refusal:
        say(str(refusal))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
