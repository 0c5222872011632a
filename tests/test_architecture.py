"""The direction of imports, and the other rules of the layout that no reader should have to enforce."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("plugins", "proxy", "admin_api")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
WIRING = ("proxy.server", "proxy.asgi", "proxy.__main__", "proxy.commands")
OUTERMOST = {"proxy.background", "proxy.dispatch"}
VAGUE = {"utils", "helpers", "common", "misc", "base"}
PURE = ("proxy.core", "plugins")
IMPURE = {"sanic", "sanic_ext", "beanie", "pymongo", "os", "time", "asyncio", "httpx", "httptools", "socket"}
OUTWARD = {
    "httpx": {"proxy.connection", "proxy.pool", "proxy.relay", "proxy.transport"},
    "httptools": {"proxy.connection"},
    "aiohappyeyeballs": {"proxy.pool"},
    "aiohttp": set(),
}
"""Who may import what talks to providers; aiohttp serves the tests alone, and is not installed with the product."""
DATA_PLANE = {
    "proxy.auth",
    "proxy.background",
    "proxy.blueprint",
    "proxy.catalog",
    "proxy.completions",
    "proxy.core",
    "proxy.database",
    "proxy.documents",
    "proxy.errors",
    "proxy.call",
    "proxy.gateway",
    "proxy.indexes",
    "proxy.metering",
    "proxy.metrics",
    "proxy.request_log",
    "proxy.security",
    "proxy.settings",
    "proxy.tokens",
}
MOST_LINES = 400


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports_of(path: Path) -> tuple[str, ...]:
    """Return the modules that a file imports, those named by `from package import module` included."""
    return tuple(_imports_of(path))


def _imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module is not None
            yield node.module
            for alias in node.names:
                if (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").exists():
                    yield f"{node.module}.{alias.name}"


def is_within(module: str, packages: set[str] | tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_point_one_way(path: Path) -> None:
    """plugins.contract <- plugins and proxy <- admin_api <- proxy.server; admin_api sees no handler and no relay."""
    module = module_of(path)
    for imported in imports_of(path):
        assert not is_within(imported, ("tests", "bench")), imported
        if is_within(module, ("plugins",)):
            assert not is_within(imported, ("proxy", "admin_api")), imported
        elif is_within(module, ("proxy",)) and not is_within(module, WIRING):
            assert not is_within(imported, ("admin_api",)), imported
            if is_within(imported, ("plugins",)):
                assert (
                    is_within(
                        imported,
                        ("plugins.contract", "plugins.lenient", "plugins.registry", "plugins.values"),
                    )
                    or imported == "plugins"
                ), imported
        elif is_within(module, ("admin_api",)) and is_within(imported, ("proxy",)):
            assert is_within(imported, DATA_PLANE) or imported == "proxy", imported


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if is_within(module_of(path), PURE)], ids=module_of
)
def test_the_core_and_the_plugins_are_pure(path: Path) -> None:
    """proxy.core and plugins import nothing that does I/O or reads a clock, and never await."""
    assert not IMPURE & {imported.partition(".")[0] for imported in imports_of(path)}
    assert not any(isinstance(node, ast.AsyncFunctionDef) for node in ast.walk(tree_of(path)))


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_a_file_is_one_subject(path: Path) -> None:
    """A file opens with its law, is not called after nothing, imports at the top and stays short enough to read."""
    text = path.read_text(encoding="utf-8")
    tree = tree_of(path)
    assert ast.get_docstring(tree)
    assert path.stem not in VAGUE
    assert text.count("\n") <= MOST_LINES
    nested = [
        node.lineno
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not nested


def test_only_the_outermost_handler_catches_everything() -> None:
    """No `except Exception` and no bare `except` but those in which every request ends that fails, and every background step."""
    for path in SOURCES:
        if module_of(path) in OUTERMOST:
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ExceptHandler):
                names = {name.id for name in ast.walk(node.type or ast.Pass()) if isinstance(name, ast.Name)}
                assert node.type is not None, f"{path}:{node.lineno}"
                if isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None:
                    continue  # it cleans up and raises again
                assert not names & {"Exception", "BaseException"}, f"{path}:{node.lineno}"


@pytest.mark.parametrize("library", OUTWARD)
def test_one_way_leads_to_the_providers(library: str) -> None:
    """What talks to providers is imported by the modules of that way and by no others."""
    assert OUTWARD[library] == {
        module_of(path)
        for path in SOURCES
        if library in {imported.partition(".")[0] for imported in imports_of(path)}
    }


def test_settings_is_the_only_reader_of_the_environment() -> None:
    """os.environ and os.getenv stand in proxy/settings.py alone; to set what a library reads is no reading."""
    readers = {
        module_of(path)
        for path in SOURCES
        if re.search(r"os\.(environ(?!\[\S+\] = )|getenv)", path.read_text(encoding="utf-8"))
    }
    assert readers == {"proxy.settings"}


def test_every_package_is_listed() -> None:
    """pyproject.toml lists every package, so that an installed gateway is a whole one."""
    listed = set(
        re.findall(
            r'^    "((?:admin_api|plugins|proxy)[\w.]*)",$',
            (ROOT / "pyproject.toml").read_text(),
            re.MULTILINE,
        )
    )
    assert listed == {
        module_of(path.parent / "__init__.py") for path in SOURCES if path.name == "__init__.py"
    }
