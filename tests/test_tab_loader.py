"""How TensorBoard finds the Adam tab, and the tiles that its page gets."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lightning_adam as la
from lightning_adam.tensorboard.tab.loader import KEPT_STEPS, AdamLoader
from lightning_adam.tensorboard.tab.plugin import STATIC
from lightning_adam.tensorboard.tab.tiles import Matrix, tile
from tests.tab_browser import ROOT, parse


def test_entry_module_needs_neither_torch_nor_lightning(tmp_path: Path) -> None:
    """TensorBoard imports it unprotected: it loads where torch, Lightning and NumPy raise, and none of our heavy rooms."""
    for broken in ("torch", "lightning", "pytorch_lightning", "numpy"):
        (tmp_path / f"{broken}.py").write_text("raise RuntimeError('broken environment')")
    code = "import sys, lightning_adam.tensorboard.tab.loader\n"
    code += "print(sorted(name for name in sys.modules if name.startswith('lightning')))"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    ours = ["", "._lazy", ".tensorboard", ".tensorboard.tab", ".tensorboard.tab.loader", ".tensorboard.tags"]
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str([f"lightning_adam{name}" for name in ours])


def test_entry_point_names_the_loader() -> None:
    """Nothing is to be configured: TensorBoard finds the tab by the package's entry point."""
    found = [point for point in entry_points(group="tensorboard_plugins") if point.name == "lightning_adam"]

    assert [point.load() for point in found] == [AdamLoader]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, {}),
        ({"samples_per_plugin": {"scalars": 0}}, {"scalars": 0}),
        ({"samples_per_plugin": {"lightning_adam": 50}}, {}),
    ],
)
def test_sampling_limit_is_raised_but_never_the_users(given: dict[str, Any], kept: dict[str, int]) -> None:
    """TensorBoard would keep 100 steps, or 10; what --samples_per_plugin says counts."""
    flags = SimpleNamespace(**given)
    AdamLoader().fix_flags(flags)

    ours = given.get("samples_per_plugin", {}).get("lightning_adam", KEPT_STEPS)
    assert flags.samples_per_plugin == {"lightning_adam": ours, **kept}


def test_public_names_are_there_when_asked_for() -> None:
    """Lazily imported, they are what their modules define, even where a submodule has the same name."""
    import_module("lightning_adam.describe")

    assert {name: getattr(la, name) for name in la.__all__}["Finding"] is import_module("lightning_adam.diagnosis").Finding
    assert la.describe is import_module("lightning_adam.describe").describe
    assert set(la.__all__) <= set(dir(la))
    with pytest.raises(AttributeError, match="has no attribute 'configure_optimizer'"):
        _ = la.configure_optimizer  # type: ignore[attr-defined]


def test_tile_keeps_spikes_and_nan() -> None:
    """2,000 steps on 100 columns: a spike of one step and a NaN of one step are still there, at the right columns."""
    values = np.ones((2000, 3), np.float32)
    values[777, 1], values[1201, 2] = 50.0, np.nan
    header, thinned = parse(tile(Matrix(np.arange(2000) * 5, values), 100))

    assert thinned.shape == (3, 100)
    assert thinned[1, 38] == 50.0 and math.isnan(thinned[2, 60])
    assert np.nansum(thinned) == 300 - 1 + 49
    assert (header["first"][38], header["last"][38]) == (760 * 5, 779 * 5)


def test_tile_of_few_steps_is_exact() -> None:
    """Where there is room, every logged step has its own column."""
    matrix = Matrix.stack([(20, np.array([2.0, 3.0])), (10, np.array([1.0])), (20, np.array([4.0, 5.0]))])
    header, values = parse(tile(matrix, 100))

    assert header["first"] == header["last"] == [10, 20]
    np.testing.assert_array_equal(values, [[1.0, 4.0], [np.nan, 5.0]])
    assert parse(tile(Matrix.stack([]), 100))[1].size == 0


def test_zoomed_tile_has_every_step() -> None:
    """Between two steps, thinned data comes back in full, with a neighbour on either side."""
    matrix = Matrix(np.arange(2000), np.arange(2000, dtype=np.float32)[:, None])

    assert matrix.between(100, 120).steps.tolist() == list(range(99, 122))


def test_assets_are_small_and_complete() -> None:
    """Under 500 KB, and the page asks for nothing that is not in the folder."""
    texts = {path.name: path.read_text() for path in STATIC.iterdir()}
    imported = {name for text in texts.values() for name in re.findall(r"(?:from |import\()'\./([\w.]+)'", text)}

    assert sum(len(text.encode()) for text in texts.values()) < 500_000
    assert imported | {"index.js", "style.css"} == set(texts)


def test_all_modules_are_asked_for_at_once() -> None:
    """One that is left out costs a round trip more; one that is gone, an error in the console."""
    listed = re.findall(r"'(\w+)'", re.findall(r"MODULES = \[(.*?)\];", (STATIC / "index.js").read_text(), re.DOTALL)[0])

    assert {f"{name}.js" for name in listed} | {"index.js"} == {path.name for path in STATIC.glob("*.js")}
