"""`make run` on a strange machine: what it lacks is said in one line, and a half-built .venv never counts."""

from __future__ import annotations

import platform
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tools import environment
from tools.environment import Refusal

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")
MAKE = shutil.which("make") or "make"
PYTHONS = {
    "shim": "exit 127",
    "too old": "exit 10",
    "no venv": "case $2 in *import*sys*print*) echo 3.12 ;; *) exit 11 ;; esac",
    "good": 'case $1 in -c) exit 0 ;; *) echo "$0 $@" ;; esac',
}


def bootstrap(machine: Path, **names: str) -> subprocess.CompletedProcess[str]:
    """Run bootstrap.sh where only the named Pythons exist."""
    machine.mkdir()
    for name, kind in names.items():
        (machine / name.replace("_", ".")).write_text(f"#!/bin/sh\n{PYTHONS[kind]}\n")
        (machine / name.replace("_", ".")).chmod(0o755)
    (machine / "dirname").symlink_to(shutil.which("dirname") or "")
    return subprocess.run(
        ["/bin/sh", str(ROOT / "tools" / "bootstrap.sh"), "dev"],
        env={"PATH": str(machine)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with nothing to install, so that no network is needed."""
    for name in LOCKS:
        (tmp_path / name).touch()
    return tmp_path


def build(project: Path, *locks: str) -> subprocess.Popen[bytes]:
    """Have another process install."""
    program = (
        "import sys; from pathlib import Path; from tools.environment import ensure_installed;"
        "ensure_installed(Path(sys.argv[1]), tuple(sys.argv[2:]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, str(project), *locks], cwd=ROOT, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize(
    "name", ["python3_11", "python3_12", "python3_13", "python3_14", "python3", "python"]
)
def test_python_is_found_under_any_of_its_names(tmp_path: Path, name: str) -> None:
    """One good Python is enough, whatever it is called."""
    found = bootstrap(tmp_path / "bin", **{name: "good"})
    assert found.stdout.split()[0].endswith("/" + name.replace("_", "."))
    assert found.stdout.split()[-1] == "dev"


def test_python_that_does_not_run_or_is_too_old_is_passed_over(tmp_path: Path) -> None:
    """A shim without a Python behind it, and an old Python, do not hide the good one."""
    found = bootstrap(
        tmp_path / "bin", python3_13="shim", python3_11="no venv", python3="too old", python="good"
    )
    assert found.stdout.split()[0].endswith("/python")


def test_missing_python_is_told_in_one_line(tmp_path: Path) -> None:
    """Without any Python 3.11, the line says which packages to install."""
    refused = bootstrap(tmp_path / "bin", python3_13="shim", python3="too old")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "no Python 3.11 or newer" in refused.stderr
    assert "apt-get install python3 python3-venv" in refused.stderr


def test_missing_venv_module_is_told_in_one_line(tmp_path: Path) -> None:
    """Debian splits venv off: the line names the package for this very Python."""
    refused = bootstrap(tmp_path / "bin", python3="no venv")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "apt-get install python3.12-venv" in refused.stderr


@pytest.mark.long
def test_installs_once_and_again_when_the_lock_has_changed(project: Path) -> None:
    """The stamp is the lock's hash: nothing happens while it fits, all is built anew when it does not."""
    environment.ensure_installed(project, LOCKS[:1])
    stamp = project / ".venv" / "installed.json"
    leftover = project / ".venv" / "leftover"
    leftover.touch()
    first = stamp.stat()
    environment.ensure_installed(project, LOCKS[:1])
    assert stamp.stat() == first

    environment.ensure_installed(project, LOCKS)
    assert leftover.exists(), "what the tests need is added to what is there"
    environment.ensure_installed(project, LOCKS[:1])
    assert set(environment.read_stamp(project / ".venv", stamp)) == set(LOCKS)

    (project / LOCKS[0]).write_text("# another version\n")
    environment.ensure_installed(project, LOCKS[:1])
    assert not leftover.exists(), "a package that is no longer locked must not stay"
    assert set(environment.read_stamp(project / ".venv", stamp)) == set(LOCKS[:1])


@pytest.mark.long
def test_two_at_once_build_one_environment(project: Path) -> None:
    """The second of two installations waits for the first and finds nothing left to do."""
    builders = [build(project, LOCKS[0]) for _ in range(2)]
    told = [builder.communicate(timeout=60)[1].decode() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0], told
    assert sorted(lines.count("\n") for lines in told) == [1, 2]


@pytest.mark.long
def test_killed_installation_leaves_nothing_that_counts(project: Path) -> None:
    """After kill -9 in the middle, there is no stamp, and the next installation starts over."""
    builder = build(project, LOCKS[0])
    assert builder.stderr
    assert builder.stderr.readline() == b"aipasta: creating .venv\n"
    builder.kill()
    builder.communicate(timeout=60)
    assert not (project / ".venv" / "installed.json").exists()
    environment.ensure_installed(project, LOCKS[:1])
    subprocess.run([project / ".venv" / "bin" / "python", "-m", "pip", "--version"], check=True)


@pytest.mark.long
def test_failed_installation_is_told_and_does_not_count(project: Path) -> None:
    """What cannot be installed ends in one line of ours below pip's own, and without a stamp."""
    (project / LOCKS[0]).write_text(f"--no-index\nno-such-thing==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(Refusal, match=r"could not build \.venv"):
        environment.ensure_installed(project, LOCKS[:1])
    assert not (project / ".venv" / "installed.json").exists()


@pytest.mark.long
def test_pip_installs_where_uv_cannot(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A uv that is not to be had is told, and what was to be installed is installed all the same."""
    (project / LOCKS[1]).write_text(f"uv==0.0.0 \\\n    --hash=sha256:{'0' * 64}\n")
    environment.ensure_installed(project, LOCKS[:1])
    assert "uv could not, so pip tries" in capfd.readouterr().err
    assert environment.read_stamp(project / ".venv", project / ".venv" / "installed.json")


def test_uv_is_the_one_that_is_locked() -> None:
    """The lines that pin uv, with its hashes, are taken from the lock as they stand, and nothing else."""
    pinned = environment.uv_of(ROOT / LOCKS[1])
    assert re.fullmatch(r"uv==[\d.]+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", pinned)
    assert environment.uv_of(ROOT / LOCKS[0]) == environment.uv_of(ROOT / "no.lock") == ""


@pytest.mark.parametrize(
    ("name", "value", "has_own"),
    [
        ("PIP_INDEX_URL", "http://packages.example/simple", True),
        ("PIP_NO_INDEX", "1", True),
        ("PIP_TIMEOUT", "9", False),
    ],
)
def test_who_told_pip_where_packages_are_gets_pip(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, *, has_own: bool
) -> None:
    """uv reads no configuration of pip, so it is not asked where there is one that matters."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv(name, value)
    assert environment.has_own_index((sys.executable, "-m", "pip")) is has_own


def test_environment_whose_python_is_gone_does_not_count(tmp_path: Path) -> None:
    """An upgrade of the system's Python can leave .venv without an interpreter: it is built anew."""
    (tmp_path / "installed.json").write_text('{"requirements.lock": "1"}')
    assert environment.read_stamp(tmp_path, tmp_path / "installed.json") == {}


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "is_refused"),
    [
        ("x86_64", "processor : 0\nflags\t\t: fpu sse4_2 avx avx2\n", False),
        ("x86_64", "processor : 0\nflags\t\t: fpu sse4_2 avx512_fake\n", True),
        ("aarch64", "processor : 0\nFeatures\t: fp asimd crc32 atomics dcpop\n", False),
        ("aarch64", "processor : 0\nFeatures\t: fp asimd crc32\n", True),
        ("x86_64", "a virtual machine that lists nothing", False),
    ],
)
def test_processor_without_what_mongod_needs_is_refused(
    machine: str, cpuinfo: str, *, is_refused: bool
) -> None:
    """An old processor is told before mongod dies on it; one that tells nothing is tried."""
    if is_refused:
        with pytest.raises(Refusal, match=r"this processor lacks A.*or set MONGODB_URI"):
            environment.check_processor(machine, cpuinfo)
    else:
        environment.check_processor(machine, cpuinfo)


def test_library_that_the_loader_does_not_find_is_refused() -> None:
    """The machine's own loader is asked, and the line names the package."""
    environment.check_library("libc.so.6")
    with pytest.raises(Refusal, match=r"libnone\.so\.4 is missing.*apt-get install"):
        environment.check_library("libnone.so.4")


@pytest.mark.parametrize(
    ("libc", "is_refused"), [(("glibc", "2.34"), False), (("glibc", "2.31"), True), (("", ""), True)]
)
def test_old_c_library_is_refused(
    monkeypatch: pytest.MonkeyPatch, libc: tuple[str, str], *, is_refused: bool
) -> None:
    """Neither an old glibc nor musl can run the MongoDB that we would install."""
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    if is_refused:
        with pytest.raises(Refusal, match=r"needs glibc 2\.34 or newer"):
            environment.check_glibc()
    else:
        environment.check_glibc()


def test_machine_needs_nothing_for_mongod_when_there_is_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """With MONGODB_URI, or a mongod of its own, any machine will do."""
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.delenv("MONGODB_URI", raising=False)
    with pytest.raises(Refusal, match=r"riscv64.*set MONGODB_URI"):
        environment.check_mongod_can_run()
    monkeypatch.setenv("MONGODB_URI", "mongodb://db.example/aipasta")
    environment.check_mongod_can_run()
    monkeypatch.delenv("MONGODB_URI")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    environment.check_mongod_can_run()


def test_taken_port_is_refused_and_another_proposed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the port and the command that avoids it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("PORT", str(port))
        with pytest.raises(Refusal, match=rf"port {port} is taken.*make run PORT={port + 1}"):
            environment.check_port_is_free()
        assert environment.main("run") == 1
        assert capsys.readouterr().err.count("\n") == 1
    environment.check_port_is_free()


def test_port_of_an_older_gateway_is_shared_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With REUSE_PORT a newer version starts beside the one that it takes over from; beside no other program."""
    monkeypatch.setenv("REUSE_PORT", "true")
    for is_ours in (True, False):
        with socket.create_server(("127.0.0.1", 0), reuse_port=is_ours) as other:
            monkeypatch.setenv("PORT", str(other.getsockname()[1]))
            if is_ours:
                environment.check_port_is_free()
                continue
            with pytest.raises(Refusal, match="is taken"):
                environment.check_port_is_free()


def test_settings_are_guessed_in_the_gateway_s_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment wins over .env, and .env over config.yaml."""
    monkeypatch.delenv("PORT", raising=False)
    assert environment.setting("PORT", "5000", root=tmp_path) == "5000"
    (tmp_path / "config.yaml").write_text("limits:\n  port: 1\nport: 5001  # ours\n")
    assert environment.setting("PORT", "5000", root=tmp_path) == "5001"
    (tmp_path / ".env").write_text("# PORT=1\nTRANSPORT=1\nexport PORT='5002'\n")
    assert environment.setting("PORT", "5000", root=tmp_path) == "5002"
    monkeypatch.setenv("PORT", "5003")
    assert environment.setting("PORT", "5000", root=tmp_path) == "5003"


def test_empty_mongodb_uri_in_dotenv_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An .env copied from the example, with its values left empty, does not swallow the next line."""
    monkeypatch.delenv("MONGODB_URI", raising=False)
    (tmp_path / ".env").write_text("MONGODB_URI=\nPORT=5002\n")
    assert environment.setting("MONGODB_URI", "", root=tmp_path) == ""


@pytest.mark.parametrize("name", LOCKS)
def test_lock_names_versions_and_hashes_only(name: str) -> None:
    """A lock says what, never where from: no address, no path, no option but --hash."""
    for line in (ROOT / name).read_text().splitlines():
        assert re.fullmatch(
            r"# This file was autogenerated by uv via the following command:|#    make lock"
            r"|[a-z0-9-]+==[\w.]+( ; [\w\s.'()<>=!]+)? \\"
            r"|    --hash=sha256:[0-9a-f]{64}( \\)?",
            line,
        ), line


def test_locks_agree_and_hold_everything_that_is_declared() -> None:
    """The development lock contains the other one; setuptools, which sanic imports, is in both."""
    pins = [
        dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE)) for name in LOCKS
    ]
    assert pins[0].items() <= pins[1].items()
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for group, locked in (
        (declared["project"]["dependencies"], pins[0]),
        (declared["dependency-groups"]["dev"], pins[1]),
    ):
        for requirement in group:
            assert re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() in locked
    assert "passlib" not in pins[1], "libpass installs under the same name"


def test_every_task_has_a_sentence() -> None:
    """`make` alone lists every task that the Makefile has."""
    listed = subprocess.run([MAKE, "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    for task in phony[1].split():
        assert re.search(rf"^make {task}\s+\w+ \w+", listed, re.MULTILINE), task
