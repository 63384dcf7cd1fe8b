"""Log folders for the Adam tab: a real training run, made-up ones with known numbers, and broken ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.statistics import COLUMNS, LOG10_EDGES, QUANTITIES, Snapshot
from lightning_adam.tensorboard import TensorBoardWriter
from tests.digits import Digits, digits_loader, trainer

EVIL = "blocks.0.<script>document.title='broken'</script>.weight"
NAMES = ["embed.weight", *(f"blocks.{i}.{n}" for i in range(3) for n in ("a.weight", "b.weight", "c.bias")), EVIL]
ELEMENTS = 65_536
"""Of each tensor."""
FINDING = {
    "rule": "LR-HIGH",
    "severity": "warning",
    "step": 60,
    "message": "Steps are <b>too large</b>.",
    "evidence": {"update ratio": 0.25, "loss": math.nan},
    "parameters": [EVIL],
    "remedy": "Divide the learning rate by 3.",
}


class LoggedDigits(Digits):
    """Digits that log their loss as users do."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """The loss, logged."""
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss)
        return loss


def train(logdir: Path, name: str = "trained", is_watched: bool = True) -> Path:
    """Twenty steps of the digits with both monitors, or without the one that watches; the loss is NaN at step 15."""
    logger = TensorBoardLogger(logdir, name="", version=name)
    monitors = [OptimizerMonitor(), *([DivergenceMonitor()] if is_watched else [])]
    fit = trainer(max_steps=20, logger=logger, callbacks=monitors, log_every_n_steps=1)
    fit.fit(LoggedDigits(poison=(15,)), digits_loader())
    logger.experiment.close()
    return logdir / name


def table(step: int, tensors: int = len(NAMES)) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 [n_tensors, n_columns] with a different value everywhere; update ratios around 1e-3."""
    rows, columns = np.arange(tensors)[:, None], np.arange(len(COLUMNS))[None, :]
    return (10.0 ** (-3 + 0.11 * np.sin(rows + step / 9) + 0.013 * columns)).astype(np.float32)


def own_histograms(step: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """int32 [n_tensors, 2, n_bins]: a hill of 4,000 elements, at another place in each tensor and at each step."""
    rows, bins = np.arange(len(NAMES))[:, None, None], np.arange(len(LOG10_EDGES) - 1)
    middle = np.array([30, 40])[:, None] + rows + step // 50
    return np.maximum(0, 1000 - 250 * np.abs(bins - middle)).astype(np.int32)


CONFIG = """**AdamW**

| group | tensors | parameters | lr | weight decay | betas | eps |
|---|---:|---:|---:|---:|---|---:|
| all | 11 | 11 | {lr} | 0.0 | (0.9, 0.999) | 1e-08 |

schedule: cosine, warmup 5 steps (0.1 epochs), decay 195 steps (0.9 epochs), in all 200 steps (1 epochs)
"""


def write(run: Path, steps: range, bad: bool = False, finding: bool = True, lr: float = 1e-3) -> Path:
    """A made-up run: ``table`` at every step; where ``bad``, NaN, infinity and exact zeros in the first three rows."""
    counts = np.arange(len(LOG10_EDGES) - 1, dtype=np.int64)
    with SummaryWriter(str(run)) as files:
        writer = TensorBoardWriter(files)
        writer.write_text("adam/config", CONFIG.format(lr=lr), 0)
        for step in steps:
            values = table(step)
            if bad:
                values[0], values[1], values[2] = np.nan, np.inf, 0.0
            loss = math.nan if bad and step % 20 == 0 else 3 * math.exp(-step / 50)
            scalars = {"adam/log10_lr": -3.0 - step / 100, "adam/log10_gradient_norm": 0.1, "train_loss": loss}
            sizes, groups = [ELEMENTS] * len(NAMES), ["all"] * len(NAMES)
            own = own_histograms(step)
            shot = Snapshot(step, NAMES, groups, sizes, {"all": 1e-3}, values, counts, counts, histograms=own)
            writer.write_snapshot(step, scalars, shot)
        if finding:
            writer.write_events(60, [FINDING])
    return run


def write_two_optimizers(run: Path) -> None:
    """A made-up run of two optimizers, of which the second one's rate is too high."""
    counts = np.arange(len(LOG10_EDGES) - 1, dtype=np.int64)
    with SummaryWriter(str(run)) as files:
        for prefix, lr in (("adam-generator", 1e-3), ("adam-judge", 0.3)):
            writer = TensorBoardWriter(files, prefix)
            writer.write_text(f"{prefix}/config", CONFIG.format(lr=lr), 0)
            for step in range(0, 100, 10):
                shot = Snapshot(step, NAMES, ["all"] * len(NAMES), [ELEMENTS] * len(NAMES), {}, table(step), counts, counts)
                writer.write_snapshot(step, {f"{prefix}/findings_total": 0.0, f"{prefix}/log10_lr": math.log10(lr)}, shot)
        writer.write_events(60, [FINDING])


def update_ratio(run_steps: range, name: str, step: int) -> float:
    """What ``write`` wrote."""
    assert step in run_steps
    return float(table(step)[NAMES.index(name), QUANTITIES.index("update_ratio")])


def write_foreign(run: Path) -> None:
    """A run that only has a loss."""
    with SummaryWriter(str(run)) as files:
        files.add_scalar("loss", 1.0, 0)


def write_truncated(run: Path) -> None:
    """A run killed while it wrote: the last record is cut."""
    write(run, range(0, 100, 10))
    file = next(run.glob("events*"))
    file.write_bytes(file.read_bytes()[:-4000])


def write_nonsense(run: Path) -> None:
    """Our tags with contents that are not ours: no JSON, no list, rows of changing length."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.util import tensor_util

    from lightning_adam.tensorboard.writer import plugin_metadata

    with SummaryWriter(str(run)) as files:
        for step in range(4):
            row = tensor_util.make_tensor_proto(np.ones(step + 1, np.float32))
            text = TensorProto(
                dtype="DT_STRING", string_val=[b"{'no JSON'", b'{"no": "list"}', b'[1, {"step": null}]'][step % 3 :]
            )
            for tag, tensor in (("adam_matrix/update_ratio", row), ("adam_events", text)):
                value = Summary.Value(tag=tag, metadata=plugin_metadata(tag, "no JSON"), tensor=tensor)
                files._get_file_writer().add_summary(Summary(value=[value]), step)
