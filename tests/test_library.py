"""The compiled library: whoever writes to its place, whatever lies there, whatever the compiler does, training goes on."""

from __future__ import annotations

import logging
import os
import shlex
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_adam.statistics import kernel, library

TINY = """
extern "C" int lightning_adam_reduce() { return 0; }
extern "C" int lightning_adam_quantiles(void*, void*, long, void*, int, int, double* out) { *out = 2; return 0; }
static char much[200000] = {1}; extern "C" char* lightning_adam_much() { return much; }
"""
"""A source that passes the kernel's trial, and takes a tenth of a second to build."""
REAL = kernel._compiler() or ""
pytestmark = pytest.mark.skipif(not REAL or os.name != "posix", reason="needs a compiler and POSIX's owners of files")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a library that is built quickly."""
    place = tmp_path_factory.mktemp("source") / "tiny.cpp"
    place.write_text(TINY)
    return place


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that was built and kept."""
    home = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        patch.setattr(kernel, "SOURCE", source)
        assert library.obtain(recipe()) is not None
    (file,) = (home / "lightning_adam").iterdir()
    return file


@pytest.fixture
def cache(built: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own with a good library; the process begins without one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "lightning_adam"
    folder.mkdir(mode=0o700)
    (folder / built.name).write_bytes(built.read_bytes())
    (folder / built.name).chmod(0o700)
    return folder / built.name


@pytest.fixture(autouse=True)
def unloaded(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test loads for itself."""
    monkeypatch.setattr(kernel, "SOURCE", source)
    kernel._loading.cache_clear()
    yield
    kernel._loading.cache_clear()


def recipe(compiler: str = REAL) -> library.Recipe:
    """The kernel's."""
    return library.Recipe(kernel.SOURCE, compiler, kernel.FLAGS, kernel._processor(), kernel.SYMBOLS, kernel.TRIAL)


def script(place: Path, body: str) -> str:
    """A compiler that tells its version and then does this; ``$out`` is what it should write."""
    place.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec echo 1\nfor out; do :; done\n{body}\n')
    place.chmod(0o755)
    return str(place)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was told."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_good_library_is_loaded_as_it_is(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is built, nothing told."""
    before = cache.stat()
    loaded = library.obtain(recipe())

    assert loaded is not None and loaded._name == str(cache)
    assert cache.stat().st_mtime_ns == before.st_mtime_ns
    assert lines(caplog) == []


def _zeroed(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:4096] + bytes(26000) + content[30096:])


def _a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _a_link(file: Path) -> None:
    other = file.rename(file.with_suffix(".elsewhere"))
    file.symlink_to(other)


def _of_somebody_else(file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(file, 65534, 65534)


def _without_symbols(file: Path) -> None:
    """Its name even carries the right digest."""
    subprocess.run([REAL, "-x", "c++", "-shared", "-fPIC", "-", "-o", str(file)], input=b"int other;", check=True)
    file.chmod(0o700)
    file.rename(file.with_name(f"{file.stem.rpartition('-')[0]}-{library._digest(file)}.so"))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut off": lambda file: os.truncate(file, 20_000),
    "empty": lambda file: os.truncate(file, 0),
    "pages of zeros": _zeroed,
    "one bit": lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?"),
    "writable by others": lambda file: file.chmod(0o702),
    "writable by a group": lambda file: file.chmod(0o720),
    "a pipe": _a_pipe,
    "a link": _a_link,
    "of somebody else": _of_somebody_else,
    "without our symbols": _without_symbols,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_what_was_built_here_is_built_anew(
    damage: str, cache: Path, built: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With one line; the next start finds a good one."""
    DAMAGES[damage](cache)
    loaded = library.obtain(recipe())

    assert loaded is not None and all(hasattr(loaded, symbol) for symbol in kernel.SYMBOLS)
    assert len(lines(caplog)) == 1 and "built anew" in lines(caplog)[0]
    assert cache.read_bytes() == built.read_bytes() and stat.S_ISREG(cache.lstat().st_mode)
    caplog.clear()
    assert library.obtain(recipe()) is not None
    assert lines(caplog) == []


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_cache_that_others_may_write_to_is_not_used(mode: int, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What lies there may be theirs, even if it looks right."""
    cache.parent.chmod(mode)
    loaded = library.obtain(recipe())

    assert loaded is not None and not loaded._name.startswith(str(cache.parent))
    assert len(lines(caplog)) == 1 and str(cache.parent) in lines(caplog)[0]


@pytest.mark.parametrize("mode, trusted", [(0o777, False), (0o775, False), (0o1777, True), (0o755, True), (0o700, True)])
def test_a_folder_above_may_be_sticky_and_nothing_else(mode: int, trusted: bool, tmp_path: Path) -> None:
    """Where others may rename folders, the one that was checked may be another when it is used."""
    below = tmp_path / "above" / "cache"
    below.mkdir(parents=True, mode=0o700)
    tmp_path.chmod(0o755)
    (tmp_path / "above").chmod(mode)
    closed = any(not place.stat().st_mode & 0o011 for place in tmp_path.parents)
    if trusted or closed:
        library.check_folder(below)
    else:
        with pytest.raises(library.Untrusted, match=r"others may write to .*above"):
            library.check_folder(below)


@pytest.mark.skipif(os.name == "posix" and os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_somebody_else_is_not_used(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A cache below /tmp is made by whoever comes first."""
    os.chown(cache.parent, 65534, 65534)
    loaded = library.obtain(recipe())

    assert loaded is not None and not loaded._name.startswith(str(cache.parent))
    assert "belongs to user 65534" in lines(caplog)[0]


@pytest.mark.parametrize("home", ["none", "read-only", "full"])
def test_where_nothing_can_be_kept_it_is_built_and_forgotten(
    home: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of no use to the next start, and nothing is left behind."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    def no_space(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("XDG_CACHE_HOME", {"none": "", "read-only": "/proc", "full": str(tmp_path / "full")}[home])
    monkeypatch.setattr(Path, "home", no_home)
    if home == "full":
        monkeypatch.setattr(os, "fsync", no_space)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    assert library.obtain(recipe()) is not None
    assert list((tmp_path / "tmp").iterdir()) == []
    assert [place for place in tmp_path.rglob("*") if place.is_file()] == []
    assert lines(caplog) == []


COMPILERS = {
    "writes words": 'echo rubbish > "$out"',
    "writes nothing": "exit 0",
    "fails": "echo 'out of memory' >&2; exit 1",
    "writes a library without our functions": f'echo "int other;" | {shlex.quote(REAL)} -x c++ -shared -fPIC - -o "$out"',
    "writes a library that crashes": (
        'echo "extern \\"C\\" { int lightning_adam_reduce; int lightning_adam_quantiles() { return *(volatile int*)0; } }" '
        f'| {shlex.quote(REAL)} -x c++ -shared -fPIC - -o "$out"'
    ),
    "writes a library that reckons wrong": (
        'echo "extern \\"C\\" { int lightning_adam_reduce; int lightning_adam_quantiles() { return 0; } }" '
        f'| {shlex.quote(REAL)} -x c++ -shared -fPIC - -o "$out"'
    ),
}


@pytest.mark.parametrize("kind", COMPILERS)
def test_a_compiler_that_does_not_do_its_work_leaves_eager_torch(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, nothing kept; what crashes does so in a process of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert library.obtain(recipe(script(tmp_path / "c++", COMPILERS[kind]))) is None
    assert len(lines(caplog)) == 1 and "plain torch" in lines(caplog)[0]
    assert list((tmp_path / "lightning_adam").iterdir()) == []


@pytest.mark.parametrize("where", ["--version", "build"])
def test_a_compiler_that_hangs_is_not_waited_for(
    where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The start goes on without it; when its time is over it is killed, with what it started."""
    mark = f"{tmp_path.name}-{where}"
    hanging = tmp_path / "c++"
    hanging.write_text(
        f"#!/bin/sh\n[ {where} = build ] && [ $1 = --version ] && exit 0\nsleep 300.{os.getpid()}; : {mark}\n"
    )
    hanging.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernel, "_compiler", lambda: str(hanging))
    for name, seconds in (("PATIENCE", 0.2), ("BUILD_SECONDS", 3.0), ("TRIAL_SECONDS", 3.0)):
        monkeypatch.setattr(library, name, seconds)
    began = time.monotonic()

    assert kernel.load() is None and kernel.load() is None
    assert time.monotonic() - began < 2.7  # on a busy machine a short wait may be a second
    kernel._loading(str(hanging))._done.wait(20)
    assert kernel.load() is None
    assert len(lines(caplog)) == 1 and "took more than 3 seconds" in lines(caplog)[0]
    assert not library._running and f"sleep 300.{os.getpid()}" not in _processes()


def _processes() -> str:
    """Command lines of all that run."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(place.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has ended
    return "\n".join(found)


def test_a_library_that_comes_late_is_used_from_then_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A slow compiler delays the statistics' speed, not the training."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    slow = script(tmp_path / "c++", f'sleep 0.5; exec {shlex.quote(REAL)} "$@"')
    monkeypatch.setattr(kernel, "_compiler", lambda: slow)
    monkeypatch.setattr(library, "PATIENCE", 0.05)

    assert kernel.load() is None
    kernel._loading(slow)._done.wait(60)
    assert kernel.load() is not None


@pytest.mark.slow
def test_two_processes_that_build_at_once_both_have_it(tmp_path: Path) -> None:
    """Ranks of one machine start together: one file is left, and nothing half-built."""
    code = "from lightning_adam.statistics import kernel, library; library.PATIENCE = 90; print(kernel.load() is not None)"
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]

    assert [rank.communicate(timeout=120)[0].strip() for rank in ranks] == ["True", "True"]
    assert [file.suffix for file in (tmp_path / "lightning_adam").iterdir()] == [".so"]


def test_a_forked_process_loads_for_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The thread that builds does not live in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    slow = script(tmp_path / "c++", f'sleep 0.3; exec {shlex.quote(REAL)} "$@"')
    monkeypatch.setattr(kernel, "_compiler", lambda: slow)
    monkeypatch.setattr(library, "PATIENCE", 0.01)
    kernel.load()
    child = os.fork()
    if child == 0:
        library.PATIENCE = 60.0
        os._exit(0 if kernel.load() is not None else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    kernel._loading(slow)._done.wait(60)


def test_a_run_that_ends_before_the_build_leaves_no_word_and_no_process(tmp_path: Path) -> None:
    """The compiler is killed with it, which is nobody's trouble, and is not started once more."""
    lingers = "import atexit, time; atexit.register(time.sleep, 1)"  # so that the thread that builds could say it
    code = f"{lingers}; from lightning_adam.statistics import kernel; kernel.load(); time.sleep(1)"
    env = {**os.environ, "CXX": script(tmp_path / "slow", "sleep 30"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)

    assert "compiled statistics" not in ended.stdout + ended.stderr
    assert str(tmp_path) not in _processes()
