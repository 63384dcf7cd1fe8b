"""Each tool in an environment of its own, under a cache folder, on top of the packages that run the benchmark."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_adam" / "peers"


class NotInstalled(Exception):
    """What pip said last."""


def interpreter(name: str, requirements: tuple[str, ...]) -> Path:
    """The Python in which ``requirements`` are installed; without them, ours.

    Their dependencies are not installed but shared with us: torch alone would be gigabytes for each tool, and another
    version of it would compare two torches.
    """
    if not requirements:
        return Path(sys.executable)
    home = CACHE / name
    done = home / "installed"
    if not (done.exists() and done.read_text() == " ".join(requirements)):
        _make(home, requirements)
        done.write_text(" ".join(requirements))
    return home / "bin" / "python"


def _make(home: Path, requirements: tuple[str, ...]) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", home], check=True)
    python = home / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.check_output([python, "-c", where], text=True).strip())
    (packages / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", *requirements]
    said = subprocess.run(pip, capture_output=True, text=True)
    if said.returncode:
        raise NotInstalled((said.stderr or said.stdout).strip().splitlines()[-1])
