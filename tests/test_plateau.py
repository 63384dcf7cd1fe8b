"""The plateau schedule cuts when torch's ReduceLROnPlateau would, shown the metric after each validation."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, IterableDataset

import lightning_adam as la
from lightning_adam.plateau import plateau_mode
from tests.rate_runs import EPOCH, Net, fit, loader

VALUES = [5.0, 4.0, 4.5, 4.2, 3.0, 3.5, 3.2, 3.1, 6.0, 2.0, 9.0, 9.0]
"""What the validations of a run show, one after the other."""


class Validated(Net):
    """Logs these values as the metric that it watches."""

    def __init__(self, monitor: str = "val_loss", patience: int = 1, **options: Any) -> None:
        choices = {"patience": patience, "factor": 0.5, **options.pop("choices", {})}
        super().__init__(lr=1.0, schedule="plateau", warmup=0, monitor=monitor, schedule_options=choices, **options)
        self.shown = 0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """One batch is one validation."""
        if not self.trainer.sanity_checking:
            self.log(self.options["monitor"], VALUES[self.shown])
            self.shown += 1


class ByHand(Validated):
    """Manual optimization."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """By hand."""
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class Endless(IterableDataset[Any]):
    """Data without a length."""

    def __iter__(self) -> Any:
        while True:
            yield from loader().dataset


def cuts(every: int, steps: int, mode: str = "min", patience: int = 1, look: int = 1) -> list[float]:
    """The rates of so many steps with a validation after every so many, from torch's own scheduler."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = ReduceLROnPlateau(optimizer, mode=mode, factor=0.5, patience=patience)  # type: ignore[arg-type]
    rates, shown = [], iter(VALUES)
    for step in range(1, steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        if step % every == 0:
            value = next(shown)
            if (step // every) % look == 0:
                scheduler.step(value)
    return rates


def firsts(rates: list[list[float]]) -> list[float]:
    """Of the first group."""
    return [first for first, _ in rates]


CLOCKS: dict[str, tuple[Any, dict[str, Any], int, int]] = {
    "every epoch": (Validated, {"max_epochs": 6}, EPOCH, 6 * EPOCH),
    "every second epoch": (Validated, {"max_epochs": 9, "check_val_every_n_epoch": 2}, 2 * EPOCH, 9 * EPOCH),
    "twice an epoch": (Validated, {"max_epochs": 5, "val_check_interval": 0.5}, EPOCH // 2, 5 * EPOCH),
    "every ten batches": (
        Validated,
        {"max_epochs": 9, "val_check_interval": 10, "check_val_every_n_epoch": None},
        10,
        9 * EPOCH,
    ),
    "by hand": (ByHand, {"max_epochs": 6}, EPOCH, 6 * EPOCH),
    "endless": (Validated, {"max_steps": 60, "val_check_interval": 10}, 10, 60),
}


@pytest.mark.parametrize("name", CLOCKS)
def test_cuts_after_validations_wherever_they_are(name: str) -> None:
    """As torch's scheduler that is shown each validation once; the first, before training, is none."""
    kind, options, every, steps = CLOCKS[name]
    train = DataLoader(Endless(), 4) if name == "endless" else loader()
    used = firsts(fit(kind(), train, loader(1), **options))

    assert used == pytest.approx(cuts(every, steps))
    assert used[-1] < 1.0


@pytest.mark.parametrize(("monitor", "mode"), [("val_acc", None), ("elbo", "max"), ("val_loss", "max")])
def test_larger_may_be_better(monitor: str, mode: str | None) -> None:
    """By the metric's name, or because mode= says so."""
    used = firsts(fit(Validated(monitor, mode=mode), loader(), loader(1), max_epochs=8))

    assert used == pytest.approx(cuts(EPOCH, 8 * EPOCH, mode="max"))
    assert used != pytest.approx(cuts(EPOCH, 8 * EPOCH, mode="min"))


def test_frequency_looks_at_every_second_validation() -> None:
    """The others are not looked at."""
    module = Validated(patience=0, choices={"frequency": 2})
    used = firsts(fit(module, loader(), loader(1), max_epochs=12))

    assert used == pytest.approx(cuts(EPOCH, 12 * EPOCH, patience=0, look=2))


class Steps(ByHand):
    """Steps its scheduler itself, as Lightning's documentation has it for manual optimization."""

    def on_train_epoch_end(self) -> None:
        """With the metric of the validation."""
        scheduler: Any = self.lr_schedulers()
        scheduler.step(self.trainer.callback_metrics["val_loss"])


def test_scheduler_that_is_stepped_by_hand_is_not_stepped_twice(tmp_path: Path) -> None:
    """From the first time on, and after a resume."""
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    whole = fit(Steps(), loader(), loader(1), max_epochs=8, enable_checkpointing=True, callbacks=[saves])
    module = Steps()
    module.shown = 4
    rest = fit(module, loader(), loader(1), max_epochs=8, ckpt_path=tmp_path / "epoch=3.ckpt")

    assert firsts(whole) == pytest.approx(cuts(EPOCH, 8 * EPOCH))
    assert firsts(rest) == pytest.approx(firsts(whole)[4 * EPOCH :])


def test_training_metric_is_looked_at_after_each_epoch() -> None:
    """Without validation, or beside it."""

    class Trained(Validated):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("train_loss", VALUES[self.current_epoch], on_epoch=True, on_step=False)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            """Nothing to log."""

    for validation in (None, loader(1)):
        assert firsts(fit(Trained("train_loss"), loader(), validation, max_epochs=6)) == pytest.approx(cuts(8, 48))


@pytest.mark.parametrize("after_epoch", [True, False])
def test_what_the_plateau_remembers_survives_a_resume(tmp_path: Path, after_epoch: bool) -> None:
    """The checkpoint that is written after a validation or its epoch holds what this validation has changed."""
    saves = ModelCheckpoint(
        tmp_path, monitor="val_loss", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=after_epoch
    )
    whole = fit(Validated(), loader(), loader(1), max_epochs=8, enable_checkpointing=True, callbacks=[saves])
    module = Validated()
    module.shown = 4
    rest = fit(module, loader(), loader(1), max_epochs=8, ckpt_path=tmp_path / "epoch=3.ckpt")

    assert firsts(rest) == pytest.approx(firsts(whole)[4 * EPOCH :])
    assert firsts(whole) == pytest.approx(cuts(EPOCH, 8 * EPOCH))


def test_checkpoint_of_an_older_version_loads() -> None:
    """It knew no mode, nothing from outside, and no length but the trainer's."""
    made: Any = la.configure_optimizers(
        nn.Linear(2, 2), lr=1.0, schedule="plateau", warmup=0, total_steps=9, monitor="val_acc"
    )["lr_scheduler"]["scheduler"]
    plateau = ReduceLROnPlateau(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0), factor=0.1, patience=10)
    plateau.step(0.5)
    old = {"updates": 3, "name": "plateau", "warmup": 0, "decay": 0, "total": 9.0, "min_factor": 0.0}
    old |= {"options": {"factor": 0.1, "patience": 10}, "base_lrs": [1.0, 1.0]}
    with warnings.catch_warnings():
        warnings.simplefilter("error", la.LightningAdamWarning)
        made.load_state_dict({**old, "plateau": plateau.state_dict(), "cut": 0.1})

    assert made.last_epoch == 3
    assert made.get_last_lr() == pytest.approx([0.1, 0.1])


RISE = "val_acc acc val/accuracy ValAccuracy val_MulticlassAccuracy valid_auc BinaryAUROC f1 val_f1_macro macro_F1Score"
RISE += " precision val_recall_epoch mIoU val_iou_3 JaccardIndex map val/mAP50 val_mAP@0.5 psnr SSIM bleu4 rougeL1 top5_acc"
RISE += " valacc ndcg@10"
FALL = "loss val_loss valLoss trainloss error_rate val_err mse RMSE val/MeanSquaredError mae perplexity val_ppl wer cer nll"
FALL += " cross_entropy val_crossentropy acc_loss f1_error val/KLDivergence fid"


@pytest.mark.parametrize(
    ("name", "mode"), [*((name, "max") for name in RISE.split()), *((name, "min") for name in FALL.split())]
)
def test_names_tell_which_way_is_better(name: str, mode: str) -> None:
    """As people log them."""
    assert plateau_mode(name) == mode


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"monitor": "elbo"}, "monitor='elbo': .*Pass mode='min'.*or mode='max'"),
    ({"monitor": "power"}, "does not tell"),
    ({"monitor": "val_heatmap"}, "does not tell"),
    ({"mode": "maximum"}, "mode='maximum'"),
    ({"schedule_options": {"mode": "max"}}, "an argument of its own: mode='max'"),
    ({"schedule_options": {"factor": 1.5}}, "factor=1.5"),
    ({"schedule_options": {"patience": -1}}, "patience=-1"),
    ({"schedule_options": {"frequency": 0}}, "frequency=0"),
    ({"schedule": "cosine", "mode": "max"}, "mode='max' belongs to schedule='plateau'"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_wrong_argument_is_refused(arguments: dict[str, Any], message: str) -> None:
    """At configuration time, with what to write."""
    with pytest.raises(la.ConfigError, match=message):
        la.configure_optimizers(nn.Linear(2, 2), **{"schedule": "plateau", "total_steps": 9, "warmup": 0, **arguments})


@pytest.mark.parametrize("options", [{}, {"limit_val_batches": 0}])
def test_run_without_validation_is_refused(options: dict[str, Any]) -> None:
    """No loader, or none of it: a metric of validation will never come."""
    with pytest.raises(la.ConfigError, match="monitor='val_loss', and this run has no validation"):
        fit(Validated(), loader(), loader(1) if options else None, max_epochs=1, **options)


def test_metric_that_is_never_logged_is_told_at_the_first_validation() -> None:
    """With what there is instead."""

    class Other(Validated):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("valid_loss", 1.0)

    with pytest.raises(la.ConfigError, match=r"monitor='val_loss', which was not logged up to here \(logged: valid_loss\)"):
        fit(Other(), loader(), loader(1), max_epochs=4)
