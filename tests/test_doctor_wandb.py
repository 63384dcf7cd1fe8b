"""The doctor reads W&B's offline runs, and the monitors' files in them."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_adam.doctor import UnusableLog, report
from lightning_adam.doctor.offline import read_offline
from lightning_adam.doctor.sources import read_runs
from tests.live_runs import OFFLINE, Live, assert_as_live, judged


@contextmanager
def offline_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A real run of W&B without a network."""
    wandb = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    folder.mkdir(exist_ok=True)
    run = wandb.init(dir=folder, project="test")
    yield run
    run.finish()
    wandb.teardown()  # its process writes to the end of the file a little later than finish() returns


def log(run: Any, **columns: Sequence[float]) -> None:
    """As Lightning's WandbLogger logs, every ten steps; a picture, too."""
    import wandb

    for index, row in enumerate(zip(*columns.values(), strict=True)):
        picture = wandb.Histogram(list(range(64)))
        run.log({"trainer/global_step": 10 * index, **dict(zip(columns, row, strict=True)), "picture": picture})


def test_offline_run_of_wandb_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every scalar at the trainer's step, NaN included, many blocks long; ``latest-run`` is the same run, not another."""
    losses = [*(2 / (step + 1) for step in range(200)), math.nan]
    with offline_run(tmp_path, monkeypatch) as run:
        log(run, train_loss=losses)
    (read,) = read_runs(tmp_path)

    assert read.name == f"wandb/{Path(run.dir).parent.name}"
    assert read.notes == []
    assert read.scalars["train_loss"].steps.tolist() == list(range(0, 2010, 10))
    np.testing.assert_allclose(read.scalars["train_loss"].values, losses)
    assert [finding.rule for finding in judged(tmp_path).findings] == ["NON-FINITE"]
    assert "".join(capfd.readouterr()) == ""


def test_files_of_a_wandb_run_belong_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sick: Live) -> None:
    """Scalars from its own file, the judgement from the files in ``files``: one run, also where its file is named."""
    with offline_run(tmp_path, monkeypatch) as run:
        log(run, train_loss=(1.0, 0.5), val_accuracy=(0.5, 0.6))
        sick.leave(Path(run.dir))
    (place,) = tmp_path.glob("wandb/offline-run-*/*.wandb")

    for asked in (tmp_path, place.parent, place):
        assert "val_accuracy" in read_runs(asked)[0].scalars
        assert_as_live(judged(asked), sick)


def test_count_in_a_wandb_run_is_not_health(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older versions' mere count again; files of several runs in one folder are several runs."""
    with offline_run(tmp_path, monkeypatch) as run:
        log(run, **{"train_loss": (1.0, 0.5, 0.4), "adam/findings_total": (0.0, 0.0, 1.0)})
    (place,) = tmp_path.glob("wandb/offline-run-*/*.wandb")

    assert [(finding.rule, finding.step) for finding in judged(tmp_path).findings] == [("FINDINGS-UNREAD", 20)]
    (tmp_path / "kept").mkdir()
    for name in ("a", "b"):
        shutil.copy(place, tmp_path / f"kept/{name}.wandb")
    assert [run.name for run in report(tmp_path / "kept").runs] == ["a", "b"]


def test_damaged_wandb_file_gives_what_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed run's last record, a wrong byte in the middle: most is there, and a note; what is no such file, is said."""
    with offline_run(tmp_path, monkeypatch) as run:
        log(run, train_loss=[1.0] * 200)
    (place,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    whole = place.read_bytes()
    flipped = bytearray(whole)
    flipped[5 * 32768 + 20] ^= 0x55  # in a record that began in the block before
    for content, note in ((whole[:-5000], "cut off"), (flipped, "1 damaged block"), (whole + bytes(100), "cut off")):
        place.write_bytes(content)
        read = read_offline(place, "run")

        assert 120 < len(read.scalars["train_loss"].steps) <= 200
        assert [note in told for told in read.notes] == [True]
    place.write_bytes(b"something else")
    with pytest.raises(UnusableLog, match="wandb sync"):
        report(tmp_path)


def test_without_wandb_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sick: Live) -> None:
    """No wandb to read its file with: an error with the commands where nothing else is there, else a note."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    place = tmp_path / "wandb" / OFFLINE
    place.mkdir(parents=True)
    (place / "run-abc123.wandb").write_bytes(b":W&B\xe1\xbe\x00")
    with pytest.raises(UnusableLog, match=r"pip install wandb, or `wandb sync .*` and export the run's history as CSV"):
        report(tmp_path)
    sick.leave(place / "files")
    run = judged(tmp_path)

    assert_as_live(run, sick)
    assert [f"wandb sync {place}" in note for note in run.notes] == [True]
