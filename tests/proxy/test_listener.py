"""Tests of proxy/listener.py: who may listen where, and beside whom."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from proxy.listener import allow_connections, check_address, count_listeners, listen
from proxy.settings import Settings, SettingsError
from tests.server_process import free_port


@pytest.fixture
def _file_limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stranger_is_noticed(workers: int) -> None:
    """Where somebody listens already nobody else starts by mistake, workers or not; with REUSE_PORT he may."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}"):
            check_address(Settings(port=port, workers=workers))
        check_address(Settings(port=port, workers=workers, reuse_port=True))


def test_workers_share_a_port() -> None:
    """Several workers bind one port, and those that listen are counted."""
    port = free_port()
    settings = Settings(port=port, workers=3)
    with ExitStack() as sockets:
        listeners = [sockets.enter_context(listen(settings)) for _ in range(3)]
        assert count_listeners(port) == 0
        for number, listener in enumerate(listeners, start=1):
            listener.listen()
            assert count_listeners(port) == number
    assert count_listeners(port) == 0


@pytest.mark.usefixtures("_file_limit")
def test_there_are_files_for_connections() -> None:
    """The usual limit on open files is raised as far as it may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    allow_connections()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft > 256
