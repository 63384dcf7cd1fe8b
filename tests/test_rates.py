"""Whoever sets a learning rate from outside wins, for good: as under torch's schedulers, which multiply what they find."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, ExponentialLR, LinearLR

import lightning_adam as la
from lightning_adam.monitoring.actions import scale_rates
from tests.digits import trainer
from tests.rate_runs import EPOCH, Control, Net, fit, loader

pytestmark = pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")


def ours(epochs: int, **options: Any) -> Net:
    """The helper's exponential decay over so many epochs."""
    return Net(schedule="exponential", warmup=0, total_steps=epochs * EPOCH, **options)


def control(epochs: int, **options: Any) -> Control:
    """torch's: it multiplies the group's rate, whoever has set it."""
    return Control(lambda optimizer: ExponentialLR(optimizer, 0.01 ** (1 / (epochs * EPOCH))), **options)


def close(rates: Any) -> Any:
    """To seven digits."""
    return pytest.approx(torch.tensor(rates).numpy(), rel=1e-6)


class Sets(L.Callback):
    """A user who sets the rate of the last group at the beginning of some epochs."""

    def __init__(self, rates: dict[int, float]) -> None:
        self.rates = rates

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """By hand."""
        if trainer.current_epoch in self.rates:
            trainer.optimizers[0].param_groups[-1]["lr"] = self.rates[trainer.current_epoch]


class SetsAtTheEnd(Sets):
    """The same after the epoch, before its checkpoint."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """By hand."""
        super().on_train_epoch_start(trainer, pl_module)


@pytest.mark.parametrize("rates", [{2: 1e-4}, {1: 0.5, 2: 1e-3}, {2: 0.0}])
def test_rate_that_the_user_sets_holds_and_is_told_once(rates: dict[int, float]) -> None:
    """Lower, higher, twice, or none: the schedule goes on from there, and the other group is left as it was."""
    expected = fit(control(4), max_epochs=4, callbacks=[Sets(rates)])
    with pytest.warns(la.LightningAdamWarning, match="set from outside") as told:
        used = fit(ours(4), max_epochs=4, callbacks=[Sets(rates)])

    assert [last for _, last in used] == pytest.approx([last for _, last in expected], rel=1e-6)
    assert [first for first, _ in used] == pytest.approx([1e-2 * 0.01 ** (k / 32) for k in range(32)], rel=1e-6)
    assert sum("set from outside" in str(one.message) for one in told) == 1


@pytest.mark.parametrize(("kind", "epoch"), [(Sets, 2), (Sets, 1), (SetsAtTheEnd, 1)])
def test_rate_set_from_outside_survives_a_resume(tmp_path: Path, kind: type[Sets], epoch: int) -> None:
    """After, before or right before the checkpoint: the resumed run has the rates of the uninterrupted one."""
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    whole = fit(ours(4), max_epochs=4, enable_checkpointing=True, callbacks=[kind({epoch: 1e-4}), saves])
    rest = fit(ours(4), max_epochs=4, callbacks=[kind({epoch: 1e-4})], ckpt_path=tmp_path / "epoch=1.ckpt")

    assert rest == close(whole[2 * EPOCH :])


def test_resume_with_another_rate_follows_the_configuration_and_not_the_old_outsider(tmp_path: Path) -> None:
    """A base rate that was configured anew is the user's last word."""
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(ours(4), max_epochs=2, enable_checkpointing=True, callbacks=[Sets({1: 1e-4}), saves])
    with pytest.warns(la.LightningAdamWarning, match="base_lrs"):
        rest = fit(ours(4, lr=0.5), max_epochs=4, ckpt_path=tmp_path / "epoch=1.ckpt")

    assert [last for _, last in rest] == pytest.approx([0.5 * 0.01 ** (k / 32) for k in range(16, 32)], rel=1e-6)


def schedule_of(optimizer: Any) -> list[float]:
    """Ten updates' rates, with one set from outside at the second: to half of what it was, and to ten times."""
    rates = []
    for step in range(10):
        if step == 2:
            optimizer.param_groups[0]["lr"] *= optimizer.changed
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.parameter.grad = torch.ones(2, 2)
        optimizer.step()
    return rates


def test_rate_lowered_in_the_warmup_is_warmed_up_from_there() -> None:
    """Half of it, and the warmup leads to half: as torch's LinearLR."""
    parameter = nn.Parameter(torch.ones(2, 2))
    reference: Any = torch.optim.AdamW([parameter], lr=1.0)
    scheduler = LinearLR(reference, 1 / 5, 1.0, 4)
    reference.register_step_post_hook(lambda o, a, k: scheduler.step())
    reference.changed, reference.parameter = 0.5, parameter
    module = nn.Linear(2, 2, bias=False)
    made: Any = la.configure_optimizers(module, lr=1.0, schedule="constant", warmup=5, total_steps=10)["optimizer"]
    made.changed, made.parameter = 0.5, module.weight

    assert schedule_of(made) == pytest.approx(schedule_of(reference))


def test_rate_raised_in_the_warmup_stays_until_the_warmup_is_over() -> None:
    """Multiplied by the rest of a warmup it would blow the run up: it is what the warmup leads to."""
    module = nn.Linear(2, 2, bias=False)
    made: Any = la.configure_optimizers(module, lr=1.0, schedule="linear", warmup=5, total_steps=10)["optimizer"]
    made.changed, made.parameter = 10.0, module.weight

    assert schedule_of(made) == pytest.approx([0.2, 0.4, 6, 6, 6, 6, 4.8, 3.6, 2.4, 1.2])


def averaging(strategy: str, epochs: int) -> StochasticWeightAveraging:
    """From the third of six epochs on."""
    return StochasticWeightAveraging(3e-3, 3, annealing_epochs=epochs, annealing_strategy=strategy)  # type: ignore[arg-type]


def with_batch_norm(module: Net) -> Net:
    """StochasticWeightAveraging appends an epoch for it."""
    module.backbone = nn.Sequential(module.backbone, nn.BatchNorm1d(8))  # type: ignore[assignment]
    return module


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("strategy", "epochs"), [("cos", 1), ("linear", 3)])
def test_stochastic_weight_averaging_replaces_the_schedule(normed: bool, strategy: str, epochs: int) -> None:
    """Its rates are those that it gives to torch's scheduler, at every step, and the schedule says that it stands aside."""
    reference: Net = Control(lambda optimizer: CosineAnnealingLR(optimizer, 6 * EPOCH))
    module = Net(schedule="cosine", warmup=0)
    reference, module = (with_batch_norm(m) for m in (reference, module)) if normed else (reference, module)
    expected = fit(reference, max_epochs=6, callbacks=[averaging(strategy, epochs)])
    with pytest.warns(la.LightningAdamWarning, match="SWALR sets the learning rate now: the schedule 'cosine' stands aside"):
        used = fit(module, max_epochs=6, callbacks=[averaging(strategy, epochs)])

    assert used == close(expected)


def test_resume_within_stochastic_weight_averaging_keeps_its_rates(tmp_path: Path) -> None:
    """Lightning restores no schedule of ours then, and the warmup must not begin again."""
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    averages = {"max_epochs": 6, "enable_checkpointing": True, "default_root_dir": tmp_path}
    module = Net(schedule="cosine", warmup=4)
    whole = fit(module, callbacks=[averaging("linear", 3), saves], **averages)
    rest = fit(module, callbacks=[averaging("linear", 3)], ckpt_path=tmp_path / "epoch=3.ckpt", **averages)

    assert rest == close(whole[4 * EPOCH :])


def test_checkpoint_of_another_scheduler_is_taken_up_at_the_optimizers_count(tmp_path: Path) -> None:
    """Here of a run that ended in StochasticWeightAveraging, resumed without it."""
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    module = Net(lr=1.0, schedule="linear", warmup=0)
    fit(module, max_epochs=6, enable_checkpointing=True, callbacks=[averaging("linear", 3), saves])
    with pytest.warns(la.LightningAdamWarning, match="another scheduler: 'linear' goes on at update 32"):
        rest = fit(module, max_epochs=6, ckpt_path=tmp_path / "epoch=3.ckpt")

    assert rest == close([[1 - k / 48] * 2 for k in range(32, 48)])


class Own(Net):
    """The helper's optimizer, with its default warmup, and torch's scheduler."""

    def configure_optimizers(self) -> Any:
        """Both, as Lightning takes them."""
        optimizer = super().configure_optimizers()["optimizer"]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": ExponentialLR(optimizer, 0.9), "interval": "step"}}


def test_scheduler_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    """Who returns torch's scheduler beside the helper's optimizer gets torch's rates, after a resume, too."""
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    expected = fit(Control(lambda optimizer: ExponentialLR(optimizer, 0.9)), max_epochs=4)
    with pytest.warns(la.LightningAdamWarning, match="ExponentialLR sets the learning rate now"):
        used = fit(Own(), max_epochs=4, enable_checkpointing=True, callbacks=[saves])

    assert used == close(expected)
    assert fit(Own(), max_epochs=4, ckpt_path=tmp_path / "epoch=1.ckpt") == close(expected[2 * EPOCH :])


def test_schedule_within_another_scheduler_goes_on() -> None:
    """A ChainedScheduler that holds it has not replaced it."""

    class Held(Net):
        def configure_optimizers(self) -> Any:
            made = super().configure_optimizers()
            held = ChainedScheduler([made["lr_scheduler"]["scheduler"]], made["optimizer"])
            return {"optimizer": made["optimizer"], "lr_scheduler": {"scheduler": held, "interval": "step"}}

    with warnings.catch_warnings():
        warnings.simplefilter("error", la.LightningAdamWarning)
        used = fit(Held(schedule="exponential", warmup=0), max_epochs=2)

    assert used == close(fit(control(2), max_epochs=2))


@pytest.mark.parametrize("align", [True, False])
def test_backbone_finetuning_raises_its_rate_every_epoch(align: bool) -> None:
    """The backbone joins at a tenth of the head's rate, grows by half each epoch, and decays as the schedule does."""

    def callback() -> BackboneFinetuning:
        return BackboneFinetuning(1, lambda epoch: 1.5, backbone_initial_ratio_lr=0.1, should_align=align)

    expected = fit(control(6), max_epochs=6, callbacks=[callback()])
    used = fit(ours(6), max_epochs=6, callbacks=[callback()])

    assert used == close(expected)


class Unfreezes(BaseFinetuning):
    """Adds the backbone with a rate of its own in the second epoch."""

    def freeze_before_training(self, pl_module: Any) -> None:
        """All but the head."""
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        """As Lightning's documentation has it."""
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=5e-3)


def test_group_of_a_finetuning_callback_begins_with_its_rate() -> None:
    """Not with that rate times what the schedule has already come down by."""
    expected = fit(control(3), max_epochs=3, callbacks=[Unfreezes()])

    assert fit(ours(3), max_epochs=3, callbacks=[Unfreezes()]) == close(expected)


def test_finetuning_resumes_with_the_rates_of_one_run(tmp_path: Path) -> None:
    """The callback brings its groups back before the optimizer's state is loaded."""
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    whole = fit(ours(4), max_epochs=4, enable_checkpointing=True, callbacks=[Unfreezes(), saves])
    with warnings.catch_warnings():
        warnings.simplefilter("error", la.LightningAdamWarning)
        rest = fit(ours(4), max_epochs=4, callbacks=[Unfreezes()], ckpt_path=tmp_path / "epoch=1.ckpt")

    assert rest == close(whole[2 * EPOCH :])


def finder() -> LearningRateFinder:
    """A search of twelve steps."""
    return LearningRateFinder(1e-4, 1e-1, num_training_steps=20, early_stop_threshold=None)


KEEPS_WHAT_IT_FOUND = tuple(int(part) for part in L.__version__.split(".")[:3] if part.isdigit()) >= (2, 5, 3)
"""Up to 2.5.2 Lightning's own callback forgets the rate that it has found: plain torch trains with the old one, too."""
finder_keeps = pytest.mark.skipif(not KEEPS_WHAT_IT_FOUND, reason="this Lightning's finder forgets what it has found")


@finder_keeps
@pytest.mark.filterwarnings("ignore:.*num_workers")
def test_rate_of_the_finder_callback_is_the_run_s(tmp_path: Path) -> None:
    """The search is none of the schedule's business; then it goes on from what was found, as torch's does."""
    options: dict[str, Any] = {"max_epochs": 3, "enable_checkpointing": True, "default_root_dir": tmp_path}
    reference, module = control(3), ours(3, weight_decay=1e-2)
    expected = fit(reference, callbacks=[finder()], **options)
    with pytest.warns(la.LightningAdamWarning, match="set from outside, from 0.01 to .* at update 0") as told:
        used = fit(module, callbacks=[finder()], **options)

    assert sum(one.category is la.LightningAdamWarning for one in told) == 1
    assert expected == close([[reference.lr * 0.01 ** (k / 24)] * 2 for k in range(24)])
    assert used == close([[module.lr * 0.01 ** (k / 24)] * 2 for k in range(24)])
    assert module.lr != 1e-2


@finder_keeps
def test_rate_that_was_found_is_what_the_warmup_leads_to(tmp_path: Path) -> None:
    """As callback and through Tuner: four steps up to it."""
    options: dict[str, Any] = {"max_epochs": 2, "enable_checkpointing": True, "default_root_dir": tmp_path}
    called, tuned = (Net(schedule="constant", warmup=4, total_steps=16) for _ in range(2))
    used = fit(called, callbacks=[finder()], **options)
    found = Tuner(trainer(**options)).lr_find(tuned, loader(), min_lr=1e-4, max_lr=1e-1, num_training=20)

    warmup = [min(1.0, (k + 1) / 4) for k in range(16)]
    assert used == close([[called.lr * f] * 2 for f in warmup])
    assert found is not None and tuned.lr == found.suggestion() != 1e-2
    assert fit(tuned, **options) == close([[tuned.lr * f] * 2 for f in warmup])


def test_search_goes_through_the_finders_own_rates(tmp_path: Path) -> None:
    """The schedule does not touch them: the losses are those of plain torch's optimizer with the same groups."""

    class Noted(Net):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.options.setdefault("noted", []).append(float(optimizer.param_groups[0]["lr"]))

        def configure_optimizers(self) -> Any:
            return la.configure_optimizers(self, lr=self.lr, schedule="cosine", warmup=3)

    module = Noted()
    Tuner(trainer(max_epochs=3, enable_checkpointing=True, default_root_dir=tmp_path)).lr_find(
        module, loader(), min_lr=1e-4, max_lr=1e-1, num_training=20, early_stop_threshold=None
    )

    ladder = [1e-4, *(1e-4 * 1000 ** ((k + 1) / 20) for k in range(1, 20))]
    assert module.options["noted"] == pytest.approx(ladder)


def test_accumulation_that_changes_ends_with_the_run() -> None:
    """GradientAccumulationScheduler: eight updates, then four an epoch, on torch's cosine over twelve."""
    grows = {"max_epochs": 2, "callbacks": [GradientAccumulationScheduler({1: 2})]}
    expected = fit(Control(lambda optimizer: CosineAnnealingLR(optimizer, 12)), **grows)

    assert fit(Net(schedule="cosine", warmup=0), **grows) == close(expected)


@pytest.mark.parametrize("name", ["WeightAveraging", "EMAWeightAveraging"])
def test_weight_averaging_leaves_rates_alone(name: str) -> None:
    """It averages, no more: the rates are those of torch's cosine, and nothing is said."""
    kind: Any = getattr(lightning_callbacks, name, None)
    if kind is None:
        pytest.skip("this Lightning has none")
    expected = fit(Control(lambda optimizer: CosineAnnealingLR(optimizer, 16)), max_epochs=2, callbacks=[kind()])
    with warnings.catch_warnings():
        warnings.simplefilter("error", la.LightningAdamWarning)
        used = fit(Net(schedule="cosine", warmup=0), max_epochs=2, callbacks=[kind()])

    assert used == close(expected)


def test_scaled_rates_are_no_outsiders() -> None:
    """What an action of DivergenceMonitor lowers together with the base rates stays lowered, and is not told twice."""

    class Run:
        def __init__(self, optimizer: Any) -> None:
            self.optimizers = [optimizer]

        def schedulers(self) -> Any:
            return ()

    module = nn.Linear(2, 2, bias=False)
    made: Any = la.configure_optimizers(module, lr=1.0, schedule="linear", warmup=0, total_steps=4)["optimizer"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", la.LightningAdamWarning)
        rates = []
        for step in range(4):
            if step == 2:
                scale_rates(Run(made), 0.3)  # type: ignore[arg-type]
            rates.append(made.param_groups[0]["lr"])
            module.weight.grad = torch.ones(2, 2)
            made.step()

    assert rates == pytest.approx([1.0, 0.75, 0.3 * 0.5, 0.3 * 0.25])


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "adamz", "muon"])
def test_distributed_loading_counts_no_step(name: str) -> None:
    """torch's set_optimizer_state_dict makes the state with a step of zeros: no update, and none of the rule's."""

    def make() -> Any:
        module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        clip = la.ClipPercentile(10)
        return module, la.configure_optimizers(module, name, warmup=4, total_steps=10, clip=clip)["optimizer"]

    trained, optimizer = make()
    trained(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    fresh, loaded = make()
    before = [p.detach().clone() for p in fresh.parameters()]
    set_optimizer_state_dict(fresh, loaded, get_optimizer_state_dict(trained, optimizer))

    assert loaded.adam_schedule.last_epoch == 0
    assert repr(loaded.adam_rule.state_dict()) == repr(optimizer.adam_rule.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(before, fresh.parameters(), strict=True))
