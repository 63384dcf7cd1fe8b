"""The helper: right by default, and clear about what is wrong."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import lightning_adam as la
from lightning_adam.planning import plan
from tests.digits import Digits, digits_loader, trainer


class Rates(L.Callback):
    """The learning rate that each real step used."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen to the first optimizer."""
        self.used: list[float] = []
        self.starts_with = copy.deepcopy(trainer.optimizers[0].state_dict()["state"])
        trainer.optimizers[0].register_step_post_hook(lambda o, a, k: self.used.append(o.param_groups[0]["lr"]))


def rates(module: L.LightningModule, loader: Any = None, val_loader: Any = None, **options: Any) -> list[float]:
    """Train, and tell the learning rates used."""
    seen = Rates()
    fit = trainer(**{**options, "callbacks": [*options.get("callbacks", []), seen]})
    fit.fit(module, digits_loader() if loader is None else loader, val_loader)
    return seen.used


def test_default_call_trains_well() -> None:
    """la.configure_optimizers(self) alone brings the digits to 95 % within thirty epochs."""
    module = Digits()
    module.options = {"lr": None}
    trainer(max_epochs=30).fit(module, digits_loader())

    images, labels = digits_loader().dataset.tensors  # type: ignore[attr-defined]
    assert (module.net(images).argmax(1) == labels).float().mean() > 0.95


def test_warmup_and_cosine_reach_the_optimizer() -> None:
    """Two of ten steps warm up, the rest is a cosine; the first step already moves."""
    used = rates(Digits(lr=1.0, warmup=0.2), max_steps=10)

    cosine = [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert used == pytest.approx([0.5, 1.0, *cosine])


@pytest.mark.parametrize(("warmup", "steps"), [(0.25, 14), (7, 7), ("1ep", 28), ("50%", 28)])
def test_durations_read_the_same_everywhere(warmup: Any, steps: int) -> None:
    """Fraction, steps, epochs and per cent of a run of two epochs of 28 steps."""
    used = rates(Digits(lr=1.0, warmup=warmup, schedule="constant"), max_epochs=2)

    assert used.index(1.0) == steps - 1


def test_accumulation_is_counted_right() -> None:
    """28 batches with four a step are seven steps: the linear schedule ends with the run."""
    used = rates(Digits(lr=1.0, warmup=0, schedule="linear"), max_epochs=1, accumulate_grad_batches=4)

    assert used == pytest.approx([1 - k / 7 for k in range(7)])


def test_accumulation_that_changes_is_counted_right() -> None:
    """One batch a step in the first epoch, four in the second: 28 + 7 steps, where Lightning estimates 56."""
    grow = GradientAccumulationScheduler({0: 1, 1: 4})
    used = rates(Digits(lr=1.0, warmup=0, schedule="linear"), max_epochs=2, callbacks=[grow])

    assert used == pytest.approx([1 - k / 35 for k in range(35)])


def test_skipped_steps_consume_no_warmup() -> None:
    """The GradScaler skips the first three steps (Lightning #5558): warmup starts with the first real one."""
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu", init_scale=16.0))
    module = Digits(lr=1.0, warmup=4, schedule="constant", poison=(0, 1, 2), poison_factor=math.inf)

    assert rates(module, max_steps=8, plugins=[plugin]) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


class ByHand(Digits):
    """Manual optimization that never steps a scheduler."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Backward and step by hand."""
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def test_schedule_runs_in_manual_optimization() -> None:
    """Lightning steps no scheduler there: the optimizer does."""
    assert rates(ByHand(lr=1.0, warmup=4, schedule="constant"), max_steps=5) == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    """Weights, moments and learning rates after a resume are bit for bit those of one run."""
    whole, first, second = Digits(warmup=5), Digits(warmup=5), Digits(warmup=5)
    all_rates = rates(whole, max_epochs=2)

    half = trainer(max_epochs=2, limit_train_batches=28, callbacks=[StopAfter(28)])
    half.fit(first, digits_loader())
    half.save_checkpoint(tmp_path / "half.ckpt")
    seen = Rates()
    rest = trainer(max_epochs=2, callbacks=[seen])
    rest.fit(second, digits_loader(), ckpt_path=tmp_path / "half.ckpt")

    assert seen.used == all_rates[28:]
    assert all(float(state["step"]) == 28 for state in seen.starts_with.values())
    for one, other in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


class StopAfter(L.Callback):
    """Ends the run after so many steps, at the end of an epoch."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask the trainer to stop."""
        trainer.should_stop = trainer.global_step >= self.steps


def test_groups_have_names_that_learning_rate_monitor_shows(tmp_path: Path) -> None:
    """Vectors do not decay; both groups are logged under their names."""
    logger = CSVLogger(tmp_path)
    module = Digits(weight_decay=0.1)
    fit = trainer(max_steps=2, logger=logger, log_every_n_steps=1, callbacks=[LearningRateMonitor()])
    fit.fit(module, digits_loader())
    logger.save()

    groups = fit.optimizers[0].param_groups
    assert {g["name"]: g["weight_decay"] for g in groups} == {"decay": 0.1, "no_decay": 0.0}
    assert groups[1]["adam_names"] == ["net.0.bias", "net.2.bias"]
    assert "lr/decay" in (Path(logger.log_dir) / "metrics.csv").read_text()


def test_overrides_by_name_make_a_group_of_their_own() -> None:
    """A pattern's options hold for what it matches."""
    module = nn.ModuleDict({"embed": nn.Embedding(3, 2), "head": nn.Linear(2, 3)})
    made = la.configure_optimizers(module, total_steps=10, warmup=0, param_groups={"embed*": {"lr": 1e-5}})

    assert {g["name"]: g["lr"] for g in made["optimizer"].param_groups} == {
        "decay:embed*": 1e-5,
        "decay": 1e-3,
        "no_decay": 1e-3,
    }


def test_frozen_left_out_and_tied_once() -> None:
    """What does not train is not in the optimizer; a shared weight is there once."""
    one, two, frozen = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2)
    two.weight = one.weight
    frozen.requires_grad_(False)
    made = la.configure_optimizers(nn.ModuleList([one, two, frozen]), total_steps=10)

    assert [g["adam_names"] for g in made["optimizer"].param_groups] == [["0.weight"]]


def test_config_carries_the_same_arguments() -> None:
    """A dataclass does what the arguments do."""
    config = la.OptimizerConfig("adam", lr=0.5, schedule="constant", warmup=0, total_steps=5, options={"amsgrad": True})
    made = la.configure_optimizers(nn.Linear(2, 2), config)

    assert type(made["optimizer"]).__name__ == "Adam"
    assert made["optimizer"].defaults["amsgrad"] is True
    assert made["lr_scheduler"]["scheduler"].get_last_lr() == [0.5, 0.5]


WRONG = [
    ({"optimizer": "adamww"}, "Did you mean 'adamw'"),
    ({"lr": -1e-3}, "lr=-0.001"),
    ({"lr": "3e-4"}, "YAML"),
    ({"lr": float("nan")}, "lr=nan"),
    ({"betas": (0.9, 1.0)}, "beta2 is 1.0"),
    ({"betas": (0.9,)}, "two numbers"),
    ({"eps": 0.0}, "eps=0.0"),
    ({"weight_decay": -0.1}, "weight_decay=-0.1"),
    ({"schedule": "cosin"}, "Did you mean 'cosine'"),
    ({"warmup": 101}, "the run has 100"),
    ({"warmup": 1.5}, "fraction of the run"),
    ({"warmup": "5 epochs"}, "'2ep'"),
    ({"decay": 10}, "belongs to the wsd schedules"),
    ({"schedule": "polynomial", "schedule_options": {"powr": 1.0}}, "Did you mean 'power'"),
    ({"preset": "gtp"}, "Did you mean 'gpt'"),
    ({"layer_decay": 1.5}, "layer_decay=1.5"),
    ({"optimizer": "lbfgs", "weight_decay": 0.1}, "lbfgs has no weight decay"),
    ({"optimizer": "sgd", "betas": (0.9, 0.95)}, "sgd takes no option 'betas'"),
    ({"optimizer": "schedulefree_adamw", "schedule": "cosine"}, "in place of a schedule"),
    ({"optimizer": "lbfgs", "layer_decay": 0.5}, "one group only"),
    ({"optimizer": "caadam", "scaling": "additiv"}, "Did you mean 'additive'"),
    ({"param_groups": {"w*": {"lr": 1.0}, "*t": {"lr": 2.0}}}, "matches both"),
    ({"clip": la.ClipNorm}, "give a total norm"),
    ({"schedule": "wsd", "warmup": 60, "decay": 60}, "longer than the run"),
    ({"clip": -1.0}, "max_norm=-1.0"),
    ({"clip": "norm"}, "clip='norm'"),
    ({"param_groups": {"embd*": {"lr": 1.0}}}, "matches no trainable parameter"),
    ({"amsgard": True}, "Did you mean 'amsgrad'"),
    ({"shedule": "cosine"}, "Did you mean 'schedule'"),
    ({"wieght_decay": 0.1}, "Did you mean 'weight_decay'"),
    ({"min_lr": 3.0}, "fraction of lr"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_argument_is_named_with_its_remedy(arguments: dict[str, Any], message: str) -> None:
    """Every wrong argument fails at once with a message worth reading."""
    with pytest.raises(la.ConfigError, match=message.replace("(", r"\(")):
        la.configure_optimizers(nn.Linear(2, 2), **{"total_steps": 100, **arguments})


class Lazy(Digits):
    """Its first layer takes its size from the first batch."""

    def __init__(self, look: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, 10))
        self.look = look

    def setup(self, stage: str) -> None:
        """What the message says to do."""
        if self.look:
            with torch.no_grad():
                self.net(torch.zeros(1, 64))


def test_lazy_parameter_is_named_with_its_remedy() -> None:
    """It has no shape yet; after one batch in setup() the module trains."""
    with pytest.raises(la.ConfigError, match=r"net\.0\.weight is lazy.*one batch.*setup\(\).*nn\.Linear"):
        trainer(max_steps=1).fit(Lazy(look=False), digits_loader())

    assert len(rates(Lazy(look=True), max_steps=2)) == 2


def test_clipping_twice_is_refused() -> None:
    """Trainer and helper both told to clip: say so and stop."""
    with pytest.raises(la.ConfigError, match="clipped twice"):
        trainer(max_steps=2, gradient_clip_val=1.0).fit(Digits(clip=1.0), digits_loader())


def test_trainer_may_clip_alone() -> None:
    """Without clip= the trainer's clipping stands."""
    module = Digits()
    fit = trainer(max_steps=2, gradient_clip_val=1.0)
    fit.fit(module, digits_loader())

    assert fit.optimizers[0].adam_rule is None


class Stream(IterableDataset[Any]):
    """Data of unknown length."""

    def __iter__(self) -> Any:
        yield from digits_loader().dataset


@pytest.mark.parametrize("options", [{"max_epochs": 3}, {"max_epochs": -1, "max_time": "00:00:01:00"}])
def test_unknown_run_length_says_what_to_pass(options: dict[str, Any]) -> None:
    """An iterable without length, or a time limit, is no run length."""
    loader = DataLoader(Stream(), 64) if options["max_epochs"] > 0 else digits_loader()
    with pytest.raises(la.ConfigError, match=r"Pass total_steps=\.\.\., or Trainer\(max_steps"):
        trainer(**options).fit(Digits(), loader)


def test_unknown_run_length_is_no_matter_when_nothing_decays() -> None:
    """A constant rate with warmup in steps needs no length."""
    used = rates(Digits(lr=1.0, schedule="constant", warmup=2), DataLoader(Stream(), 64), max_epochs=1)

    assert used[:3] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("none", [0, 0.0, "0%"])
def test_no_warmup_needs_no_length_however_it_is_written(none: float | str) -> None:
    config = la.OptimizerConfig(schedule="constant", warmup=none)

    assert plan(config, None).warmup == 0


def test_unknown_run_length_is_blamed_on_the_warmup_where_nothing_else_needs_it() -> None:
    with pytest.raises(la.ConfigError, match=r"warmup=0\.05 is a share of it.*give warmup in steps, such as 500"):
        trainer(max_epochs=1).fit(Digits(schedule="constant"), DataLoader(Stream(), 64))


@pytest.mark.parametrize("options", [{"fast_dev_run": True}, {"limit_train_batches": 0}])
@pytest.mark.parametrize("durations", [{"warmup": 500}, {"preset": "vit"}, {"schedule": "wsd", "decay": 99}])
def test_no_duration_is_too_long_where_only_the_program_is_tried(options: dict[str, Any], durations: dict[str, Any]) -> None:
    """``fast_dev_run`` has one step, whatever the real run will have."""
    fit = trainer(max_epochs=20, **options)
    fit.fit(Digits(**durations), digits_loader())

    assert fit.global_step == ("fast_dev_run" in options)


def test_without_a_trainer_the_message_says_so() -> None:
    """A plain module has no trainer to ask."""
    with pytest.raises(la.ConfigError, match="no trainer is attached"):
        la.configure_optimizers(nn.Linear(2, 2))


def test_plain_loop_needs_nothing_else() -> None:
    """Optimizer, schedule and clipping work without Lightning."""
    module = nn.Linear(2, 1)
    made = la.configure_optimizers(module, lr=0.1, total_steps=4, warmup=0, schedule="linear", clip=0.5)
    for _ in range(4):
        module(torch.ones(8, 2)).square().sum().backward()
        made["optimizer"].step()
        made["optimizer"].zero_grad()

    assert made["lr_scheduler"]["scheduler"].get_last_lr() == [0.0, 0.0]
