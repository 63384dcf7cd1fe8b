"""la.watch: the monitors in a plain loop say what they say under a Trainer, bit for bit."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import weakref
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.diagnosis import Finding
from tests.digits import Digits, digits_loader, trainer
from tests.watched_loops import EVERY, STEPS, ByHand, batches, digits_net, events, loss_of, signals


def under_a_trainer(folder: Path, module: Digits, **options: Any) -> list[Finding]:
    """Train it; the findings."""
    monitor = DivergenceMonitor()
    logger = TensorBoardLogger(folder, name="", version="trainer")
    callbacks = [OptimizerMonitor(), monitor]
    trainer(max_steps=STEPS, log_every_n_steps=EVERY, logger=logger, callbacks=callbacks, **options).fit(
        module, digits_loader()
    )
    assert monitor.failures == set()
    return monitor.findings


def in_a_loop(folder: Path, module: Digits, accumulate: int = 1, scaler: Any = None, **options: Any) -> list[Finding]:
    """The same training by hand."""
    optimizer = module.make_optimizer()
    log_dir = folder / "loop"
    with la.watch(
        module,
        optimizer,
        log_dir=log_dir,
        total_steps=STEPS,
        steps_per_epoch=28 // accumulate,
        every_n_steps=EVERY,
        accumulation=accumulate,
        scaler=scaler,
        **options,
    ) as watch:
        taken, drawn = 0, 0
        for index, batch in batches():
            with torch.autocast("cpu", torch.float16, enabled=scaler is not None):
                loss = module.training_step(batch, index) / accumulate
            loss = loss if scaler is None else scaler.scale(loss)
            watch.loss(loss, batch=batch, batch_index=index).backward()
            drawn += 1
            if drawn % accumulate and index != 27:
                continue
            drawn = 0
            _step(optimizer, scaler)
            optimizer.zero_grad()
            taken += 1
            if taken == STEPS:
                break
    assert watch.failures == set()
    return watch.findings


def _step(optimizer: Any, scaler: Any) -> None:
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


CASES: dict[str, tuple[dict[str, Any], int, bool]] = {
    "healthy": ({}, 1, False),
    "a NaN": ({"poison": (40,)}, 1, False),
    "a rate too high": ({"lr": 1.0, "warmup": 0}, 1, False),
    "accumulated": ({}, 4, False),
    "fp16": ({"fused": False}, 1, True),
    "no Adam": ({"optimizer": "lion", "lr": 1e-3}, 1, False),
    "16-bit state": ({"optimizer": "adamw8bit"}, 1, False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_plain_loop_writes_what_a_trainer_writes(case: str, tmp_path: Path) -> None:
    """Equal tags, equal values at equal steps, equal findings."""
    options, accumulate, half = CASES[case]
    extra: dict[str, Any] = {"accumulate_grad_batches": accumulate}
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0) if half else None
    if half:
        plugin = MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu", init_scale=16.0))
        extra["plugins"] = [plugin]
    found = under_a_trainer(tmp_path, ByHand(**options), **extra)
    again = in_a_loop(tmp_path, ByHand(**options), accumulate, scaler)

    assert repr(again) == repr(found)
    trained, looped = events(tmp_path / "trainer"), events(tmp_path / "loop")
    assert set(looped) == set(trained)
    assert {tag for tag in trained if looped[tag] != trained[tag]} == set()


class PlainAdamW(ByHand):
    """torch's own optimizer: nothing of ours but the monitors."""

    def make_optimizer(self) -> Any:
        """Without a schedule."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)

    def configure_optimizers(self) -> Any:
        """The same."""
        return self.make_optimizer()


def test_any_optimizer_and_clipping_by_hand_are_seen_as_under_a_trainer(tmp_path: Path) -> None:
    """With ``before_clipping`` and ``clip_norm``, a loop that clips by hand writes what ``gradient_clip_val`` gives."""
    found = under_a_trainer(tmp_path, PlainAdamW(), gradient_clip_val=0.2)
    module = PlainAdamW()
    optimizer = module.make_optimizer()
    options: dict[str, Any] = {"total_steps": STEPS, "steps_per_epoch": 28, "every_n_steps": EVERY, "clip_norm": 0.2}
    with la.watch(module, optimizer, log_dir=tmp_path / "loop", **options) as watch:
        for (index, batch), _ in zip(batches(), range(STEPS), strict=False):
            optimizer.zero_grad()
            watch.loss(module.training_step(batch, index), batch=batch, batch_index=index).backward()
            watch.before_clipping()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 0.2)
            optimizer.step()

    assert repr(watch.findings) == repr(found)
    trained, looped = events(tmp_path / "trainer"), events(tmp_path / "loop")
    assert set(looped) == set(trained)
    assert {tag for tag in trained if looped[tag] != trained[tag]} == set()
    assert any(step.clip_coefficient < 1 for step in signals(tmp_path / "loop"))


def test_a_closure_is_no_obstacle(tmp_path: Path) -> None:
    """The gradients are computed inside ``optimizer.step``: losses and norms are this step's all the same."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    losses: list[float] = []
    norms: list[float] = []
    with la.watch(net, optimizer, log_dir=tmp_path, every_n_steps=1) as watch:
        for (_, batch), _ in zip(batches(), range(15), strict=False):

            def closure(batch: Any = batch) -> Tensor:
                optimizer.zero_grad()
                loss = watch.loss(loss_of(net, batch))
                loss.backward()
                losses.append(loss.item())
                norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in net.parameters()])))
                return loss

            optimizer.step(closure)

    steps = signals(tmp_path)
    assert [step.loss for step in steps] == pytest.approx(losses, rel=1e-5)
    assert [step.gradient_norm for step in steps] == pytest.approx(norms, rel=1e-5)
    assert all(step.heavy is not None and step.heavy.update_ratio_p50 > 0 for step in steps[:10])


def adversaries(folder: Path, steps: int = 40) -> la.integrations.Watch:
    """A generator and a discriminator, whose rate is hopeless."""
    generator, discriminator = nn.Linear(64, 64), digits_net()
    both = nn.ModuleDict({"generator": generator, "discriminator": discriminator})
    optimizers = [
        torch.optim.Adam(generator.parameters(), lr=1e-3),
        torch.optim.Adam(discriminator.parameters(), lr=1.0),
    ]
    with la.watch(both, optimizers, log_dir=folder, every_n_steps=5) as watch:
        for (_, batch), _ in zip(batches(), range(steps), strict=False):
            for net, optimizer in zip((generator, discriminator), optimizers, strict=True):
                optimizer.zero_grad()
                watch.loss(net(batch[0]).square().mean()).backward()
                optimizer.step()
    return watch


def test_several_optimizers_count_their_own_steps_and_the_sick_one_is_named(tmp_path: Path) -> None:
    """Each has its tags, its losses, and its findings."""
    watch = adversaries(tmp_path)

    assert {finding.optimizer for finding in watch.findings if finding.severity != "info"} == {"adam-Adam-1"}
    for prefix in ("adam-Adam", "adam-Adam-1"):
        assert [step.step for step in signals(tmp_path, prefix)] == list(range(40))
    assert not [step for step in signals(tmp_path, "adam-Adam") if step.loss > 10]


def test_an_interrupted_loop_goes_on_from_its_state(tmp_path: Path) -> None:
    """Counters, history and steps of a checkpoint: what an uninterrupted one sees."""

    def steps(number: int, net: nn.Module, optimizer: Any, state: Any, skip: int = 0) -> la.integrations.Watch:
        with la.watch(net, optimizer, total_steps=60) as watch:
            if state is not None:
                watch.load_state_dict(state)
            for (_, batch), step in zip(batches(), range(skip + number), strict=False):
                if step >= skip:
                    optimizer.zero_grad()
                    watch.loss(loss_of(net, batch) * (math.nan if step == 50 else 1.0)).backward()
                    optimizer.step()
        return watch

    whole_net, net = digits_net(), digits_net()
    whole = steps(60, whole_net, torch.optim.AdamW(whole_net.parameters()), None)
    optimizer = torch.optim.AdamW(net.parameters())
    stored = torch.save(steps(30, net, optimizer, None).state_dict(), tmp_path / "watch.pt")
    assert stored is None
    rest = steps(30, net, optimizer, torch.load(tmp_path / "watch.pt", weights_only=True), skip=30)

    assert [(f.rule, f.step) for f in whole.findings] == [("NON-FINITE", 50)]
    assert repr(rest.findings) == repr(whole.findings)


def test_nothing_of_the_loop_is_held_after_it() -> None:
    """Module, optimizer and batch are free; the findings stay."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters())
    batch = next(iter(digits_loader()))
    with la.watch(net, optimizer) as watch:
        watch.loss(loss_of(net, batch) * math.nan, batch=batch).backward()
        optimizer.step()
    seen = [weakref.ref(thing) for thing in (net, optimizer, batch[0])]
    del net, optimizer, batch
    gc.collect()

    assert [ref() for ref in seen] == [None, None, None]
    assert [finding.rule for finding in watch.findings] == ["NON-FINITE"]


def test_hooks_are_gone_and_files_closed_when_the_loop_breaks(tmp_path: Path) -> None:
    """The context manager closes, whatever happens inside."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters())
    batch = next(iter(digits_loader()))
    with pytest.raises(RuntimeError, match="pulled"), la.watch(net, optimizer, log_dir=tmp_path):
        loss_of(net, batch).backward()
        optimizer.step()
        raise RuntimeError("the cable was pulled")

    assert not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_step_pre_hooks
    assert len(signals(tmp_path)) == 1


def test_under_fabric_names_and_findings_are_those_of_the_plain_loop(tmp_path: Path) -> None:
    """Fabric wraps module and optimizer."""
    fabric = L.Fabric(accelerator="cpu", devices=1)
    net, optimizer = fabric.setup(inner := digits_net(), torch.optim.AdamW(inner.parameters()))
    with la.watch(net, optimizer, log_dir=tmp_path, every_n_steps=1) as watch:
        for (_, batch), step in zip(batches(), range(12), strict=False):
            optimizer.zero_grad()
            fabric.backward(watch.loss(loss_of(net, batch) * (math.nan if step == 10 else 1.0)))
            optimizer.step()

    assert [(f.rule, f.step) for f in watch.findings] == [("NON-FINITE", 10)]
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"]
    assert "adam.tensors/update_ratio/0.weight" in tags


def test_numbers_of_numpy_and_a_norm_that_clips_nothing_are_taken() -> None:
    for norm in (0, math.inf):
        options: dict[str, Any] = {"total_steps": np.int64(9), "steps_per_epoch": np.float32(3), "first_step": np.int64(0)}
        net = nn.Linear(2, 1)
        with la.watch(net, torch.optim.Adam(net.parameters()), clip_norm=norm, **options) as watch:
            watch.loss(net(torch.ones(4, 2)).square().mean()).backward()
        assert watch.findings == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps=0"),
        ({"accumulation": 1.5}, "accumulation=1.5"),
        ({"total_steps": -3}, "total_steps=-3"),
        ({"total_steps": 10**400}, "total_steps=1000*: give a positive whole number"),
        ({"first_step": None}, "first_step=None: give a whole number of 0 or more"),
        ({"steps_per_epoch": "10"}, "steps_per_epoch='10': give a finite number above 0"),
        ({"clip_norm": float("nan")}, "clip_norm=nan: give a finite number above 0"),
        ({"scaler": 1024.0}, "scaler=1024.0: give the torch.amp.GradScaler"),
        ({"log_dir": True}, "log_dir=True: give a folder"),
        ({"logits": 3}, r"logits=3: give a list of globs, such as logits=\['head'\]"),
        ({"on_divergence": "rolback"}, "Did you mean 'rollback'"),
        ({"granularity": "paramter"}, "Did you mean 'parameter'"),
        ({"include": "net.0.wieght"}, "matches no parameter"),
        ({"writer": object(), "log_dir": "x"}, "give one of them"),
        ({"writer": 3}, "writer"),
        ({"optimizers": {}}, "optimizers: got dict"),
        ({"optimizers": []}, "optimizers: got nothing"),
        ({"module": [1]}, r"module=\[1\]: give the network"),
    ],
)
def test_wrong_arguments_are_named_at_once(arguments: dict[str, Any], message: str) -> None:
    """Before a step is taken."""
    net = digits_net()
    given: dict[str, Any] = {"module": net, "optimizers": torch.optim.AdamW(net.parameters()), **arguments}
    with pytest.raises(la.ConfigError, match=message):
        la.watch(given.pop("module"), given.pop("optimizers"), **given)


def test_a_refused_watch_leaves_nothing_on_the_optimizer(tmp_path: Path) -> None:
    """The user mends the argument and goes on."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters())
    for wrong in ({"include": "nope*"}, {"logits": ["nope*"]}):
        with pytest.raises(la.ConfigError, match="matches no"):
            la.watch(net, optimizer, log_dir=tmp_path / "wrong", **wrong)
    assert not optimizer._optimizer_step_post_hooks

    batch = next(iter(digits_loader()))
    with la.watch(net, optimizer, log_dir=tmp_path / "right") as watch:
        watch.loss(loss_of(net, batch)).backward()
        optimizer.step()
    assert len(signals(tmp_path / "right")) == 1


def test_several_optimizers_clipped_by_hand_have_one_record_each_per_step(tmp_path: Path) -> None:
    """``before_clipping()`` announces the gradients of all."""
    one, two = digits_net(), digits_net()
    optimizers = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (one, two)]
    norms: list[float] = []
    with la.watch(nn.ModuleList([one, two]), optimizers, log_dir=tmp_path) as watch:
        for (_, batch), _ in zip(batches(), range(12), strict=False):
            for optimizer in optimizers:
                optimizer.zero_grad()
            watch.loss(loss_of(one, batch) + 10 * loss_of(two, batch)).backward()
            norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in two.parameters()])))
            watch.before_clipping()
            torch.nn.utils.clip_grad_norm_([*one.parameters(), *two.parameters()], 0.1)
            for optimizer in optimizers:
                optimizer.step()

    for prefix in ("adam-Adam", "adam-Adam-1"):
        assert [(step.step, step.skipped) for step in signals(tmp_path, prefix)] == [(k, False) for k in range(12)]
    assert [step.gradient_norm for step in signals(tmp_path, "adam-Adam-1")] == pytest.approx(norms, rel=1e-5)


@pytest.mark.parametrize("loss", [3.0, None, torch.tensor(2)])
def test_what_is_no_loss_does_not_end_the_training(loss: Any) -> None:
    """It is told once; the next loss is the next step's alone."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters())
    batch = next(iter(digits_loader()))
    with la.watch(net, optimizer) as watch:
        assert watch.loss(loss) is loss
        given = loss_of(net, batch).square()
        given.backward()
        watch.loss(given)
        optimizer.step()


def test_a_copy_of_the_watched_module_is_no_copy_of_the_monitor() -> None:
    """Averaged models copy the module with its hooks, in the middle of a run."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters())
    batch = next(iter(digits_loader()))
    with la.watch(net, optimizer, logits=["2"]) as watch:
        watch.loss(loss_of(net, batch)).backward()
        averaged = pickle.loads(pickle.dumps(copy.deepcopy(net)))
        averaged(batch[0] * 1e6)
        optimizer.step()
        net(batch[0][:0])  # a batch without rows

    assert watch.failures == set()
    assert watch.findings == []
