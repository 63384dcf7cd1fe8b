"""The schedule ends with the run, however its length comes to be known; nothing trains at a rate of 0 unasked."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
from lightning.pytorch.callbacks import BatchSizeFinder, ModelCheckpoint
from torch.utils.data import DataLoader

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.diagnosis import RunSignals
from tests.digits import trainer
from tests.rate_runs import EPOCH, Net, Recorder, fit, fit_all, loader

pytestmark = pytest.mark.filterwarnings("ignore:.*Checkpoint directory")


def firsts(rates: list[list[float]]) -> list[float]:
    """Of the first group."""
    return [first for first, _ in rates]


def linear(steps: int) -> list[float]:
    """From 1 down to one step before 0."""
    return [1 - k / steps for k in range(steps)]


class Sized(Net):
    """64 examples in batches whose size BatchSizeFinder may change."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.batch_size = 2

    def train_dataloader(self) -> Any:
        """In batches of the present size."""
        return DataLoader(loader(16).dataset, self.batch_size)


@pytest.mark.parametrize("mode", [pytest.param("power", marks=pytest.mark.slow), "binsearch"])
def test_batch_size_that_is_found_gives_the_length(tmp_path: Path, mode: str) -> None:
    """The callback runs after the optimizer was configured, and its trials are no run that goes on too long."""
    module = Sized(lr=1.0, schedule="linear", warmup=0)
    finder = BatchSizeFinder(mode=mode, max_trials=3, steps_per_trial=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", la.LightningAdamWarning)
        used = fit(module, False, max_epochs=3, enable_checkpointing=True, default_root_dir=tmp_path, callbacks=[finder])

    assert module.batch_size != 2
    assert firsts(used) == pytest.approx(linear(3 * -(-64 // module.batch_size)))


class Growing(Net):
    """Eight batches more in each epoch."""

    def train_dataloader(self) -> Any:
        """What has been collected up to now."""
        return loader(EPOCH * (self.current_epoch + 1))


def test_data_that_grow_stretch_the_schedule() -> None:
    """1 + 2 + 3 + 4 times eight steps: each epoch is planned to the end that its data foretell, and the last is right."""
    used = firsts(
        fit(Growing(lr=1.0, schedule="linear", warmup=0), False, max_epochs=4, reload_dataloaders_every_n_epochs=1)
    )

    foretold = [e * (e + 1) // 2 * EPOCH + (e + 1) * EPOCH * (4 - e) for e in range(4)]
    planned = [total for e, total in enumerate(foretold) for _ in range((e + 1) * EPOCH)]
    assert foretold[-1] == len(used) == 80
    assert used == pytest.approx([1 - k / total for k, total in enumerate(planned)])


def test_warmup_that_is_over_does_not_begin_again() -> None:
    """A tenth of a run that turns out longer is a longer warmup: not after it has ended."""
    module = Growing(lr=1.0, schedule="constant", warmup=0.25)
    used = firsts(fit(module, False, max_epochs=3, reload_dataloaders_every_n_epochs=1))

    assert used == pytest.approx([min(1.0, (k + 1) / 6) for k in range(48)])


@pytest.mark.parametrize("warmup", [0, 0.25])
def test_resume_of_data_that_grow_equals_one_run(warmup: float, tmp_path: Path) -> None:
    """The checkpoint was planned for what was known then, and its warmup is over; nothing is said of a change, for nobody
    changed anything."""
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    options: dict[str, Any] = {"max_epochs": 4, "reload_dataloaders_every_n_epochs": 1}
    made = {"lr": 1.0, "schedule": "linear", "warmup": warmup}
    whole = fit(Growing(**made), False, enable_checkpointing=True, callbacks=[saves], **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", la.LightningAdamWarning)
        rest = fit(Growing(**made), False, ckpt_path=tmp_path / "epoch=2.ckpt", **options)

    assert firsts(rest) == pytest.approx(firsts(whole)[48:])


class Changes(L.Callback):
    """Sets something of the trainer at a batch of the second epoch."""

    def __init__(self, name: str, value: int, batch: int) -> None:
        self.name, self.value, self.batch = name, value, batch

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """By hand."""
        if trainer.current_epoch == 1 and batch_idx == self.batch:
            owner: Any = {"max_epochs": trainer.fit_loop, "max_steps": trainer.fit_loop.epoch_loop}.get(self.name, trainer)
            setattr(owner, self.name, self.value)


@pytest.mark.parametrize(
    ("name", "value", "limits", "steps"),
    [
        ("max_epochs", 5, {"max_epochs": 3}, 40),
        ("max_steps", 30, {"max_steps": 20}, 30),
        ("accumulate_grad_batches", 2, {"max_epochs": 3}, 16),
    ],
)
@pytest.mark.parametrize("batch", [0, 4])
def test_limits_that_change_in_mid_run_change_the_plan(
    name: str, value: int, limits: dict[str, int], steps: int, batch: int
) -> None:
    """The trainer's own estimate changes: by the next step or the one after it the schedule aims at the new end."""
    steps += batch // 2 if name == "accumulate_grad_batches" else 0
    used = firsts(fit(Net(lr=1.0, schedule="linear", warmup=0), callbacks=[Changes(name, value, batch)], **limits))

    assert len(used) == steps
    assert used[EPOCH + batch + 1 :] == pytest.approx(linear(steps)[EPOCH + batch + 1 :])


@pytest.mark.parametrize("limit", [{"max_epochs": 4}, {"max_steps": 32}])
def test_second_fit_has_a_schedule_of_its_own(limit: dict[str, int]) -> None:
    """Two epochs, then two or sixteen steps more: the trainer counts on, the new optimizer's schedule does not."""
    seen = Recorder()
    run = trainer(max_epochs=2, callbacks=[seen])
    module = Net(lr=1.0, schedule="linear", warmup=0)
    run.fit(module, loader())
    if "max_steps" in limit:
        run.fit_loop.max_epochs, run.fit_loop.epoch_loop.max_steps = -1, 32
    else:
        run.fit_loop.max_epochs = 4
    run.fit(module, loader())

    assert firsts(seen.used[0]) == pytest.approx(linear(16))


def test_resumed_second_fit_keeps_its_schedule(tmp_path: Path) -> None:
    """Where it began is in the checkpoint."""
    made = {"lr": 1.0, "schedule": "linear", "warmup": 0}
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    run = trainer(max_epochs=1, callbacks=[saves], enable_checkpointing=True)
    module = Net(**made)
    run.fit(module, loader())
    run.fit_loop.max_epochs = 4
    run.fit(module, loader())
    with warnings.catch_warnings():
        warnings.simplefilter("error", la.LightningAdamWarning)
        rest = fit(Net(**made), max_epochs=4, ckpt_path=tmp_path / "epoch=2.ckpt")

    assert firsts(rest) == pytest.approx(linear(24)[16:])


class Critic(Net):
    """The head steps at every batch, the backbone at every fifth."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"lr": 1.0, "schedule": "linear", "warmup": 0, **options})
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """By hand."""
        for optimizer, every in zip(self.optimizers(), (5, 1), strict=True):  # type: ignore[arg-type]
            if batch_idx % every == 0:
                optimizer.zero_grad()
                self.manual_backward(self(batch[0]).square().mean())
                optimizer.step()

    def configure_optimizers(self) -> Any:
        """One call each."""
        return [la.configure_optimizers(self, lr=self.lr, parameters=p, **self.options) for p in ("backbone.*", "head.*")]


@pytest.mark.parametrize("limit", [{"max_steps": 144}, {"max_epochs": 3}])
def test_each_optimizer_s_share_is_measured(limit: dict[str, int]) -> None:
    """Eight steps of one, forty of the other an epoch: both schedules end with the run."""
    few, many = fit_all(Critic(), loader(40), **limit)

    assert (len(few), len(many)) == (24, 120)
    assert firsts(few)[8:] == pytest.approx(linear(24)[8:])
    assert firsts(many)[40:] == pytest.approx(linear(120)[40:])


def test_shares_are_measured_within_an_only_epoch() -> None:
    """There may be no second one: after 16, 32, … batches each knows roughly how it goes on."""
    few, many = fit_all(Critic(), loader(200), max_epochs=1)

    assert (len(few), len(many)) == (40, 200)
    assert 0 < firsts(few)[-1] < 0.1
    assert firsts(many) == pytest.approx(linear(200), abs=0.02)


@pytest.mark.parametrize("warmup", [0, 0.02])
def test_resumed_shares_are_those_that_were_measured(warmup: float, tmp_path: Path) -> None:
    """No first epoch under the wrong plan again, no other warmup than the one that is over, no word of a changed
    configuration."""
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    few, many = fit_all(Critic(warmup=warmup), loader(40), max_epochs=3, enable_checkpointing=True, callbacks=[saves])
    with warnings.catch_warnings():
        warnings.simplefilter("error", la.LightningAdamWarning)
        rest = fit_all(Critic(warmup=warmup), loader(40), max_epochs=3, ckpt_path=tmp_path / "epoch=0.ckpt")

    assert firsts(rest[0]) == pytest.approx(firsts(few)[8:])
    assert firsts(rest[1]) == pytest.approx(firsts(many)[40:])


def test_share_may_be_given() -> None:
    """total_steps= is the user's word: nothing is measured."""
    few, _ = fit_all(Critic(total_steps=100), loader(40), max_epochs=2)

    assert firsts(few) == pytest.approx(linear(100)[:16])


class Accumulates(Net):
    """Four batches for one step, by hand."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """By hand."""
        optimizer: Any = self.optimizers()
        self.manual_backward(super().training_step(batch, batch_idx) / 4)
        if batch_idx % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()


def test_accumulation_by_hand_is_measured() -> None:
    """Ten steps from forty batches; the warmup of a tenth is four steps of forty, not of a hundred and sixty."""
    used = firsts(fit(Accumulates(lr=1.0, schedule="linear", warmup=0.1), loader(40), max_epochs=4))

    assert len(used) == 40
    assert used[4:] == pytest.approx([1 - k / 36 for k in range(36)])


class Twice(Net):
    """Two steps from each batch, of which nobody could know."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """By hand."""
        optimizer: Any = self.optimizers()
        for _ in range(2):
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()


def test_run_beyond_its_plan_holds_the_last_rate_and_says_so_once() -> None:
    """Sixteen steps where eight were planned, in an epoch that is too short to measure."""
    with pytest.warns(la.LightningAdamWarning, match="beyond the 8 updates that were planned") as told:
        used = firsts(fit(Twice(lr=1.0, schedule="linear", warmup=0), max_epochs=1))

    assert used == pytest.approx([*linear(8), *[1 / 8] * 8])
    assert sum("beyond" in str(one.message) for one in told) == 1


def test_length_that_the_user_gave_is_kept() -> None:
    """total_steps= shorter than the run: the rate is 0 from there on, as asked."""
    used = firsts(fit(Net(lr=1.0, schedule="linear", warmup=0, total_steps=8), max_epochs=2))

    assert used == pytest.approx([*linear(8), *[0.0] * 8])


def test_warmup_that_no_longer_fits_is_told() -> None:
    """After BatchSizeFinder: training goes on as it was planned."""
    module = Sized(lr=1.0, schedule="constant", warmup=20)
    with pytest.warns(la.LightningAdamWarning, match="not as long as it was planned.*warmup=20"):
        used = fit(module, False, max_epochs=1, callbacks=[BatchSizeFinder(max_trials=4, steps_per_trial=1)])

    assert firsts(used) == pytest.approx([(k + 1) / 20 for k in range(len(used))])


@pytest.mark.parametrize(
    ("module", "options", "end"),
    [
        (Growing(), {"train": False, "max_epochs": 3, "reload_dataloaders_every_n_epochs": 1}, 48),
        (Accumulates(), {"train": loader(40), "max_epochs": 2}, 80),
        (Critic(), {"train": loader(40), "max_epochs": 2}, 80),
    ],
    ids=["growing", "by hand", "critic"],
)
def test_diagnosis_has_the_same_plan(module: Net, options: dict[str, Any], end: int) -> None:
    """Where the run ends on the log's axis, which counts batches: as the schedule has it, for every optimizer."""

    class Told(DivergenceMonitor):
        ends: ClassVar[dict[int, float]] = {}

        def on_record(self, position: int, record: Any) -> None:
            if isinstance(record, RunSignals):
                self.ends[position] = record.total_steps

    monitor = Told()
    monitor.ends.clear()
    fit_all(module, callbacks=[monitor], **options)

    assert list(monitor.ends.values()) == pytest.approx([end] * len(monitor.ends))


def test_after_a_run_nothing_is_held() -> None:
    """The helper's callbacks stay with the trainer; schedules and optimizers do not."""
    run = trainer(max_epochs=1)
    run.fit(Net(), loader())

    assert [vars(c)["_made"] for c in run.callbacks if type(c).__name__ == "RunPlan"] == [[]]
