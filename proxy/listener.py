"""The socket that a server listens on, alone or beside its like on the same port."""

from __future__ import annotations

import resource
import socket
from pathlib import Path

from proxy.settings import Settings, SettingsError

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTENING = "0A"
_MOST_FILES = 65_536


def listen(settings: Settings) -> socket.socket:
    """Bind the address of the settings; raise `SettingsError` when it cannot be had.

    With several workers or `REUSE_PORT` others of the same user may bind it too, and the kernel shares the
    connections out among them.
    """
    family = socket.AF_INET6 if ":" in settings.listen_host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if settings.workers > 1 or settings.reuse_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((settings.listen_host, settings.port))
    except OSError as exc:
        listener.close()
        address = f"{settings.listen_host}:{settings.port}"
        raise SettingsError(f"HOST, PORT: cannot listen on {address}: {exc.strerror}") from exc
    return listener


def check_address(settings: Settings) -> None:
    """Raise `SettingsError` when somebody else listens there already, unless `REUSE_PORT` allows it."""
    alone = settings if settings.reuse_port else settings.model_copy(update={"workers": 1})
    listen(alone).close()


def count_listeners(port: int) -> int:
    """Return how many sockets listen on a port; 0 where the kernel does not say."""
    ending = f":{port:04X}"
    lines = [
        line.split() for table in _TABLES if table.exists() for line in table.read_text().splitlines()[1:]
    ]
    return sum(fields[1].endswith(ending) and fields[3] == _LISTENING for fields in lines)


def allow_connections() -> None:
    """Let this process and its children have as many open files as may be: the usual 1,024 are few connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
