"""What is installed: one top-level module, with the callbacks inside, and quick to import."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the checkout (setuptools leaves a build folder behind)."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    command = f"tar -C {ROOT} --exclude=.venv --exclude=.git --exclude=runs --exclude=build -cf - . | tar -C {source} -xf -"
    subprocess.run(command, shell=True, check=True)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def python(code: str, path: Path) -> str:
    """What a fresh interpreter prints that finds our package in ``path`` only."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    run = subprocess.run([sys.executable, "-c", code], cwd=path, env=environment, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_wheel_has_one_top_level_module(wheel: Path) -> None:
    """Nothing but lightning_adam, with its typing marker and the licence."""
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"lightning_adam"}
    assert "lightning_adam/py.typed" in names
    assert "lightning_adam/statistics/kernel.cpp" in names
    assert "lightning_adam/callbacks/optimizer_monitor.py" in names
    assert "lightning_adam/tensorboard/tab/static/index.js" in names


def test_installed_wheel_imports_its_callbacks(wheel: Path, tmp_path: Path) -> None:
    """In an environment that has the dependencies and the wheel, but not the checkout."""
    installed = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(installed), str(wheel)]
    subprocess.run(pip, check=True)

    assert python("import lightning_adam.callbacks as c; print(c.__file__)", installed).startswith(str(installed))
    assert sorted(p.name for p in installed.iterdir() if "dist-info" not in p.name) == ["bin", "lightning_adam"]


def test_link_shows_type_checkers_the_callbacks() -> None:
    """lightning_adam/callbacks is callbacks/, not a copy."""
    assert (ROOT / "lightning_adam/callbacks").samefile(ROOT / "callbacks")


def test_import_is_light() -> None:
    """Importing the package loads no bitsandbytes, Lightning or TensorBoard, and prints nothing."""
    heavy = "{'bitsandbytes', 'pytorch_optimizer', 'lightning', 'tensorboard'}"

    assert python(f"import sys, lightning_adam; print({heavy} & set(sys.modules))", ROOT) == "set()"


@pytest.mark.slow
def test_eight_bit_optimizer_prints_nothing() -> None:
    """bitsandbytes' line about kernels is kept from the user."""
    code = "import torch, lightning_adam as la; la.configure_optimizers(torch.nn.Linear(2, 2), 'adamw8bit', total_steps=9)"

    assert python(code, ROOT) == ""
