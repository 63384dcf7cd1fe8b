"""Labels that the inputs do not determine can be learnt by heart: the training loss falls, and validation's tells."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.diagnosis import StepSignals
from lightning_adam.monitoring.validation import loss_among
from tests.healthy_run import diagnose, healthy, heavy
from tests.watched_loops import batches, digits_net, loss_of

Loss = Callable[[Tensor, Tensor], Tensor]
LN10 = math.log(10)
"""What guessing among ten classes costs."""
TRAINED = 150
"""Digits, few enough to be learnt by heart in 100 steps."""


def memorises(monitor: DivergenceMonitor) -> list[str]:
    """Messages of the finding."""
    return [f.message for f in monitor.findings if f.rule == "NO-LEARNING" and f.severity == "warning"]


class Digits(L.LightningModule):
    """Logs a loss of validation under a name.

    Args:
        logs: the loss that is logged.
        name: under which it is.
    """

    def __init__(self, logs: Loss = cross_entropy, name: str = "val_loss") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
        self.logs, self.name, self.validations = logs, name, 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.validations += 1
        self.log(self.name, self.logs(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def loaders(shuffled: bool) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Of the training and of the validation data; the labels of both belong to their inputs, or do not."""
    data, order = load_digits(), torch.Generator().manual_seed(0)
    images, labels = torch.tensor(data.data / 8 - 1, dtype=torch.float32), torch.tensor(data.target)
    labels = labels[torch.randperm(len(labels), generator=order)] if shuffled else labels
    training, unseen = TensorDataset(images[:TRAINED], labels[:TRAINED]), TensorDataset(images[1000:], labels[1000:])
    return DataLoader(training, 25, shuffle=True), DataLoader(unseen, 400)


def fit(module: L.LightningModule, shuffled: bool, folder: Path | None = None, **options: Any) -> DivergenceMonitor:
    """Train for 90 steps, with a validation after every twelfth."""
    monitor = DivergenceMonitor()
    logger = False if folder is None else L.pytorch.loggers.TensorBoardLogger(folder, "", "")
    trainer = L.Trainer(
        max_steps=90, max_epochs=-1, check_val_every_n_epoch=2, callbacks=[monitor], logger=logger, accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, *loaders(shuffled))
    assert not monitor.failures
    return monitor


def told(validation: Callable[[int], float], every: int = 20, untrained: float = math.nan, **passes: Any) -> list[str]:
    """Codes over information of a classifier of ten classes whose training loss falls from 2.3 towards zero.

    Args:
        validation: its loss by the step.
        every: steps between two of them.
        untrained: its loss before the first step.
        **passes: what else the passes over all tensors show.
    """

    def change(s: StepSignals) -> StepSignals:
        known = untrained if s.step == 0 else validation(s.step) if s.step % every == 0 else math.nan
        targets = heavy(target_entropy=LN10, **passes)
        return replace(targets(s), loss=LN10 * (s.loss - 1) / 3 + 0.1, validation_loss=known)

    return [f.rule for f in diagnose(map(change, healthy())) if f.severity != "info"]


def test_validation_that_never_knew_more_than_guessing_is_no_learning() -> None:
    """It rises from there while the training loss falls."""
    assert told(lambda step: LN10 + 0.01 * step) == ["NO-LEARNING"]
    assert told(lambda step: LN10 + 0.01 * step, untrained=2.4) == ["NO-LEARNING"]


@pytest.mark.parametrize(
    "validation",
    [
        pytest.param(lambda step: LN10 + 0.02 * (step - 60) if step > 60 else 1.5, id="was better once"),
        pytest.param(lambda step: 400 * (LN10 + 0.01 * step), id="a sum over a batch"),
        pytest.param(lambda step: 0.01 * (LN10 + 0.01 * step), id="a mean of a mean"),
        pytest.param(lambda step: 2.3 + 4 * math.exp(-step / 20) + 1e-3 * step, id="falls from above"),
        pytest.param(lambda step: LN10 - 1e-4 * step, id="falls by and by"),
    ],
)
def test_other_losses_of_validation_say_nothing(validation: Callable[[int], float]) -> None:
    """Overfitting is no alarm, and a loss of another size is not compared."""
    assert told(validation) == []


def test_validation_of_another_size_shows_before_training() -> None:
    """Twice the training loss, with the same weights: 2.4 is half of what guessing costs there."""
    assert told(lambda step: 2.4 + 0.01 * step, untrained=2 * LN10) == []


@pytest.mark.parametrize(("classes", "codes"), [(9.0, ["NO-LEARNING"]), (6.0, [])])
def test_small_batches_of_many_classes_do_not_tell_what_guessing_costs(classes: float, codes: list[str]) -> None:
    """Six are seen, and the entropy, corrected for that, is that of ten: nobody knows how many more there are."""
    assert told(lambda step: LN10 + 0.01 * step, target_classes=classes) == codes


def test_steps_that_look_too_large_are_not_blamed_for_it() -> None:
    """They are a suspicion, for the training loss falls under them: what is learnt by heart is no doing of theirs."""
    assert told(lambda step: LN10 + 0.01 * step, update_ratio_p50=0.06) == ["NO-LEARNING"]


def test_validation_that_begins_late_or_comes_twice_says_nothing() -> None:
    """What was learnt before the first one may have held then."""
    assert told(lambda step: LN10 + 0.01 * step, every=100) == []
    assert told(lambda step: LN10 + 0.01 * step if step > 120 else math.nan) == []


def test_shuffled_labels_that_are_memorises_are_no_learning() -> None:
    """The training loss is far under ln 10, validation's never was under it; nor in the check before training."""
    monitor = fit(Digits(), shuffled=True)
    (message,) = memorises(monitor)

    assert "holds for no unseen data" in message
    assert monitor.state_dict()["diagnoses"][0]["history"]["untrained_validation"] == pytest.approx(LN10, rel=0.1)


def test_right_labels_that_are_overfitted_are_none() -> None:
    """Validation's loss falls with the other one, and rises again."""
    assert memorises(fit(Digits(), shuffled=False)) == []


class Once(Digits):
    """Logs at the first of all validations alone, beside the check before training."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        if self.trainer.global_step <= 12:
            super().validation_step(batch, batch_idx)


def test_validation_that_logs_no_loss_does_not_count_the_one_before_again() -> None:
    """Lightning keeps what was logged until the end of the fit."""
    monitor = fit(Once(), shuffled=False)

    assert monitor.state_dict()["diagnoses"][0]["history"]["validated"] == 1


def test_sum_that_validation_logs_is_not_compared() -> None:
    """Of 400 examples; nothing is evaluated for it: each validation, and the check before training, has two batches."""
    module = Digits(lambda out, labels: cross_entropy(out, labels, reduction="sum"))

    assert memorises(fit(module, shuffled=True)) == []
    assert module.validations == 2 * (1 + 90 // 12)


def test_doctor_finds_it_again_in_the_log(tmp_path: Path) -> None:
    """Validation's losses stand among the recorded signals."""
    live = memorises(fit(Digits(), True, tmp_path))

    assert [f.message for _, f in la.report(tmp_path).findings if f.rule == "NO-LEARNING"] == live


def test_a_plain_loop_hands_over_what_its_validation_costs() -> None:
    """The rules know of it from the next step on."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    with la.watch(net, optimizer) as watch:
        watch.validated(torch.tensor(2.5))
        for step, (_, batch) in zip(range(9), batches(), strict=False):
            watch.loss(loss_of(net, batch)).backward()
            optimizer.step()
            if step % 3 == 2:
                watch.validated(2.0 + step / 10)
        history = watch.state_dict()["monitor"]["diagnoses"][0]["history"]

    assert history["untrained_validation"] == 2.5
    assert (history["first_validation"], history["last_validation"], history["validated"]) == (2.2, 2.5, 2)


@pytest.mark.parametrize("loss", [None, "1.0 or so", torch.ones(2)])
def test_validation_that_cost_no_number_ends_no_loop(loss: Any) -> None:
    net = digits_net()
    with la.watch(net, torch.optim.AdamW(net.parameters(), lr=1e-3)) as watch:
        watch.validated(loss)

        assert watch.failures == {"a validation's loss"}


@pytest.mark.parametrize(
    "name",
    [
        "val_loss", "val/loss", "valid_loss_epoch", "validation_loss", "eval_loss", "dev-loss", "Loss/val", "loss_val",
        "avg_val_loss", "val_total_loss", "val/nll", "val_ce", "val_bce_loss", "model/val_loss", "val_loss/dataloader_idx_0",
    ],
)  # fmt: skip
def test_names_of_validations_loss(name: str) -> None:
    """By which people log it."""
    assert loss_among({"train_loss": 0.1, "val_acc": 0.2, "loss": 0.3, name: torch.tensor(0.5)}) == 0.5


def test_other_names_are_no_loss_of_validation() -> None:
    """An accuracy, a part, one batch, the best one so far, the training's; of several loaders the lowest counts."""
    others = ("val_acc", "val_f1", "val_box_loss", "val_loss_step", "best_val_loss", "train_loss", "loss", "test_loss")

    assert math.isnan(loss_among(dict.fromkeys(others, 0.5)))
    assert loss_among({"val_loss/dataloader_idx_0": 0.7, "val_loss/dataloader_idx_1": 0.6}) == 0.6
