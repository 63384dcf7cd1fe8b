"""A compiled library: kept where nobody else can write, and loaded only if it is what was built here.

Folder and file are judged as sshd judges a user's keys (StrictModes in sshd_config(5)). The library's name carries the
digest of its content, so that one which was cut off or changed is built anew; a new one is tried in a process of its own
before it is kept. Where it cannot be kept, it is built in a temporary folder, which is gone as soon as it is loaded.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import hashlib
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LOG = logging.getLogger("lightning_adam")

PATIENCE = 0.1
"""Seconds that who asks first waits: what is in the cache is there by then. No training waits for a build of four seconds,
or for a compiler that hangs: its first passes are computed in plain torch."""
BUILD_SECONDS, TRIAL_SECONDS = 60.0, 20.0
MOST_SAID = 1 << 16
"""Bytes of what a command says that are listened to."""
DIGITS = 20
"""Of each digest in the library's name."""


@dataclass(frozen=True)
class Recipe:
    """What is built.

    Attributes:
        source: the one file.
        compiler: path of a C++ compiler.
        flags: for it.
        processor: what the library depends on beside them.
        symbols: what the library must have.
        trial: Python code that ends with an error unless the library at ``sys.argv[1]`` works.
    """

    source: Path
    compiler: str
    flags: Sequence[str]
    processor: str
    symbols: Sequence[str]
    trial: str

    def digest(self) -> str:
        """Of all that the library depends on, the compiler's version included."""
        version = run([self.compiler, "--version"], TRIAL_SECONDS)
        parts = (self.source.read_bytes(), version, " ".join(self.flags).encode(), self.processor.encode())
        return hashlib.sha256(b"|".join(parts)).hexdigest()[:DIGITS]


class Untrusted(OSError):
    """Somebody else may have written it."""


class Loading:
    """What a background thread obtains. Who asks waits for it, but not for long, and only once.

    Args:
        obtain: may take its time; its result is ``value()`` from then on, None until then.
    """

    def __init__(self, obtain: Callable[[], ctypes.CDLL | None]) -> None:
        self._obtain = obtain
        self._library: ctypes.CDLL | None = None
        self._done, self._patience = threading.Event(), PATIENCE
        try:
            threading.Thread(target=self._run, name="lightning-adam-build", daemon=True).start()
        except RuntimeError:  # no thread is to be had
            self._done.set()

    def value(self) -> ctypes.CDLL | None:
        """The library, or None while it is not there."""
        if not self._done.is_set():
            patience, self._patience = self._patience, 0.0
            self._done.wait(patience)
        return self._library

    def _run(self) -> None:
        try:
            self._library = self._obtain()
        finally:
            self._done.set()


def obtain(recipe: Recipe) -> ctypes.CDLL | None:
    """From the cache, or built; None where neither can be had. What is not as it should be is told in one line."""
    troubles: list[str] = []
    library = None
    try:
        library = _in_cache(recipe, troubles) or _in_passing(recipe)
    except Exception as error:  # whatever systems, compilers and the loader come up with: eager torch does the same
        troubles.append(_in_words(error))
    if troubles and not _is_ending.is_set():
        outcome = "statistics are computed in plain torch, slower" if library is None else "it is built anew"
        LOG.warning("The compiled statistics: %s; %s.", "; ".join(troubles), outcome)
    return library


def _in_cache(recipe: Recipe, troubles: list[str]) -> ctypes.CDLL | None:
    """Kept from another time, or built and kept; None where it cannot be kept."""
    name = f"kernel-{recipe.digest()}"
    try:
        folder = cache_folder()
        return _cached_library(recipe, folder, name, troubles) or _build_and_cache(recipe, folder, name)
    except subprocess.TimeoutExpired:
        raise  # it would not be quicker elsewhere
    except Untrusted as error:
        troubles.append(_in_words(error))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        LOG.debug("The compiled statistics cannot be kept: %s", _in_words(error))
    return None


def _in_passing(recipe: Recipe) -> ctypes.CDLL:
    """Built in a folder that is gone afterwards: a loaded library stays in memory without its file."""
    with tempfile.TemporaryDirectory(prefix="lightning_adam-", ignore_cleanup_errors=True) as scratch:
        return _opened(_build(recipe, Path(scratch)), recipe)


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/lightning_adam``, else below ``~/.cache``; made if need be, links resolved.

    Raises:
        Untrusted: others may write to it, or to a folder above it.
        OSError: it cannot be made.
        RuntimeError: there is no home.
    """
    if not hasattr(os, "geteuid"):
        raise OSError("files have no owners here to judge by")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_adam"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = Path(os.path.realpath(folder))
    check_folder(folder)
    return folder


def check_folder(folder: Path) -> None:
    """From the root down, links resolved: what is below a folder that nobody else may enter, nobody else can change.

    Raises:
        Untrusted: one belongs to somebody else, or others may write to it; one above it may be sticky, as /tmp is.
    """
    for place in (*reversed(folder.parents), folder):
        found = place.lstat()
        is_sticky = bool(found.st_mode & stat.S_ISVTX) and place != folder
        if not stat.S_ISDIR(found.st_mode):
            raise Untrusted(f"{place} is no folder")
        _check_writers(place, found, stat.S_IWGRP | stat.S_IWOTH if not is_sticky else 0)
        if place != folder and not found.st_mode & (stat.S_IXGRP | stat.S_IXOTH):
            return _check_writers(folder, folder.lstat(), stat.S_IWGRP | stat.S_IWOTH)


def _check_writers(place: Path, found: os.stat_result, forbidden: int) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise Untrusted(f"{place} belongs to user {found.st_uid}")
    if found.st_mode & forbidden:
        raise Untrusted(f"others may write to {place}")


def _cached_library(recipe: Recipe, folder: Path, name: str, troubles: list[str]) -> ctypes.CDLL | None:
    """The first file of this name that is whole and ours; what is not is deleted."""
    for file in sorted(folder.glob(f"{name}-*.so")):
        try:
            _check_file(file)
            return _opened(file, recipe)
        except OSError as error:
            troubles.append(_in_words(error))
            file.unlink(missing_ok=True)
    return None


def _check_file(file: Path) -> None:
    """A plain file that only we may write to, and whose content is what its name says."""
    found = file.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise Untrusted(f"{file} is no plain file")
    _check_writers(file, found, stat.S_IWGRP | stat.S_IWOTH)
    if file.stem.rpartition("-")[2] != _digest(file):
        raise OSError(f"{file} is damaged")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:DIGITS]


def _build_and_cache(recipe: Recipe, folder: Path, name: str) -> ctypes.CDLL:
    """Under a name of its own first: several ranks may build at once, and one may be killed halfway."""
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder, ignore_cleanup_errors=True) as scratch:
        made = _build(recipe, Path(scratch))
        target = folder / f"{name}-{_digest(made)}.so"
        made.chmod(0o700)
        with made.open("rb") as file:
            os.fsync(file)  # a crash right after the rename would else leave an empty file under the right name
        os.replace(made, target)
    return _opened(target, recipe)


def _opened(file: Path, recipe: Recipe) -> ctypes.CDLL:
    library = ctypes.CDLL(str(file))
    if lacking := [symbol for symbol in recipe.symbols if not hasattr(library, symbol)]:
        raise OSError(f"{file} has no {', '.join(lacking)}")
    return library


def _build(recipe: Recipe, scratch: Path) -> Path:
    """Compiled, and tried in a process of its own: what crashes there does not crash the training."""
    made = scratch / "kernel.so"
    run([recipe.compiler, *recipe.flags, "-fPIC", "-shared", str(recipe.source), "-o", str(made)], BUILD_SECONDS, scratch)
    run([_python(), "-I", "-S", "-c", recipe.trial, str(made)], TRIAL_SECONDS, scratch)
    return made


def _python() -> str:
    """A frozen application has no interpreter: it would start itself."""
    if not sys.executable or getattr(sys, "frozen", False):
        raise OSError("there is no interpreter to try the compiled library with")
    return sys.executable


_running: set[subprocess.Popen[bytes]] = set()
_is_ending = threading.Event()
"""What is killed because this process ends is no trouble of anybody's."""


def run(command: Sequence[str], seconds: float, scratch: Path | None = None) -> bytes:
    """The beginning of what a command says, if it ends well and in time; with everything that it started, it is killed
    when its time is over, or when this process ends.

    Args:
        command: with its arguments.
        seconds: that it may take.
        scratch: for its temporary files.

    Raises:
        OSError: it cannot be started, or nothing is to be started any more.
        subprocess.SubprocessError: it failed, or took too long.
    """
    env = os.environ if scratch is None else {**os.environ, "TMPDIR": str(scratch)}
    if _is_ending.is_set():
        raise OSError("this process ends")
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, env=env, start_new_session=True, **pipes)  # type: ignore[call-overload]
    _running.add(process)
    timer = threading.Timer(seconds, _kill, [process])
    timer.daemon = True
    timer.start()
    try:
        with process.stdout:
            said: bytes = process.stdout.read(MOST_SAID)
        code = process.wait()
    finally:
        timer.cancel()
        _running.discard(process)
    if timer.finished.is_set() and not timer.is_alive() and code == -signal.SIGKILL:
        raise subprocess.TimeoutExpired(command, seconds)
    if code:
        raise subprocess.CalledProcessError(code, command, said)
    return said


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


@atexit.register
def _kill_all() -> None:
    _is_ending.set()
    for process in tuple(_running):
        _kill(process)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_running.clear)  # they are the parent's


def _in_words(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{error.cmd[0]} took more than {error.timeout:g} seconds"
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.output or b"").decode(errors="replace").strip().splitlines()
        return f"{error.cmd[0]} failed ({error.returncode}){': ' + said[-1][:200] if said else ''}"
    return str(error) or type(error).__name__
