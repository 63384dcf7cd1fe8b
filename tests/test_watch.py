"""la.watch: the monitors in a plain loop say what they say under a Trainer, bit for bit."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.diagnosis import Finding, RunSignals, StepSignals, decode
from tests.digits import Digits, digits_loader, trainer

STEPS, EVERY = 60, 10


def batches() -> Iterator[tuple[int, Any]]:
    """Epoch after epoch, as a Trainer draws them."""
    while True:
        yield from enumerate(digits_loader())


def events(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """Everything of ours in an event file: scalars, histograms, tensors and pictures by tag."""
    found = EventAccumulator(
        str(folder), size_guidance=dict.fromkeys(("scalars", "tensors", "images", "histograms"), 0)
    ).Reload()
    read: dict[str, Any] = {"scalars": found.Scalars, "tensors": found.Tensors, "images": found.Images}
    read["histograms"] = found.Histograms
    tags = found.Tags()
    return {
        tag: [(e.step, _records(e) if tag == "adam_signals" else _content(e)) for e in read[kind](tag)]
        for kind in read
        for tag in tags[kind]
        if tag.startswith("adam")
    }


def _records(event: Any) -> list[str]:
    """Of the rules' signals, but for who trains."""
    records = decode(event.tensor_proto.string_val[0])
    return [repr(replace(r, mode="") if isinstance(r, RunSignals) else r) for r in records]


def _content(event: Any) -> Any:
    for name in ("value", "encoded_image_string", "histogram_value"):
        if hasattr(event, name):
            return repr(getattr(event, name))
    return event.tensor_proto.SerializeToString()


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


class ByHand(Digits):
    """Digits whose optimizer can be made without a trainer."""

    def make_optimizer(self) -> Any:
        """As ``configure_optimizers`` under a Trainer of STEPS steps."""
        return la.configure_optimizers(self, **{"lr": 3e-3, "total_steps": STEPS, **self.options})["optimizer"]


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


def digits_net() -> nn.Sequential:
    """A small classifier, always the same."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def loss_of(net: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy."""
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


def signals(folder: Path, prefix: str = "adam") -> list[StepSignals]:
    """What the rules saw."""
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload().Tensors(f"{prefix}_signals")
    records = [record for event in found for record in decode(event.tensor_proto.string_val[0])]
    return [record for record in records if isinstance(record, StepSignals)]


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


@pytest.mark.parametrize("hand_over_scaled", [True, False])
def test_a_loss_may_be_handed_over_scaled_or_not(hand_over_scaled: bool, tmp_path: Path) -> None:
    """The signal is the loss itself; the gradient norm is without the scale, and the scale is a signal."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    losses = []
    with la.watch(net, optimizer, log_dir=tmp_path, scaler=scaler) as watch:
        for (_, batch), _ in zip(batches(), range(12), strict=False):
            optimizer.zero_grad()
            loss = loss_of(net, batch)
            losses.append(loss.item())
            scaled = scaler.scale(loss) if hand_over_scaled else scaler.scale(watch.loss(loss))
            (watch.loss(scaled) if hand_over_scaled else scaled).backward()
            scaler.step(optimizer)
            scaler.update()

    steps = signals(tmp_path)
    assert [step.loss for step in steps] == pytest.approx(losses, rel=1e-5)
    assert steps[0].gradient_norm < 10
    assert steps[0].scale == 1024.0


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_the_scaler_leaves_out_is_told(fused: bool, tmp_path: Path) -> None:
    """It is a step of the log's axis, its loss is its own, and the next step's loss is not mixed with it."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    losses = []
    with la.watch(net, optimizer, log_dir=tmp_path, scaler=scaler) as watch:
        for (_, batch), step in zip(batches(), range(12), strict=False):
            optimizer.zero_grad()
            loss = loss_of(net, batch) * (math.inf if step == 5 else 1.0)
            losses.append(loss.item())
            watch.loss(scaler.scale(loss)).backward()
            scaler.step(optimizer)
            scaler.update()

    steps = signals(tmp_path)
    assert [step.step for step in steps] == list(range(12))
    assert [step.step for step in steps if step.skipped] == [5]
    assert [step.loss for step in steps] == pytest.approx(losses, rel=1e-5)


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


def sick(watch_options: dict[str, Any], folder: Path) -> tuple[nn.Module, la.integrations.Watch]:
    """A NaN loss at step 40 of 80; a loop that looks at should_stop."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    with la.watch(net, optimizer, log_dir=folder, **watch_options) as watch:
        for (_, batch), step in zip(batches(), range(80), strict=False):
            optimizer.zero_grad()
            watch.loss(loss_of(net, batch) * (math.nan if step == 40 else 1.0)).backward()
            optimizer.step()
            if watch.should_stop:
                break
    return net, watch


def test_stop_asks_the_loop_to_end(tmp_path: Path) -> None:
    """It saves weights and moments first."""
    _, watch = sick({"on_divergence": "stop"}, tmp_path)

    saved = torch.load(tmp_path / "adam_stopped_step_41.pt", weights_only=True)
    assert saved["step"] == 41
    assert set(saved["module"]) == set(digits_net().state_dict())
    assert "stop: asked the loop to stop at step 41" in watch.summary()


@pytest.mark.parametrize("action", ["rollback", "skip_step"])
def test_an_action_saves_the_weights(action: str, tmp_path: Path) -> None:
    """In the step that has the NaN; the weights are finite to the end."""
    net, watch = sick({"on_divergence": action}, tmp_path)

    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())
    assert next((f.evidence["action"], f.step) for f in watch.findings if "action" in f.evidence) == (action, 40)


def test_raise_on_raises_out_of_the_step(tmp_path: Path) -> None:
    """For tests and CI."""
    with pytest.raises(RuntimeError, match=r"\[NON-FINITE\] step 40"):
        sick({"raise_on": "critical"}, tmp_path)


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps=0"),
        ({"accumulation": 1.5}, "accumulation=1.5"),
        ({"total_steps": -3}, "total_steps=-3"),
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


def test_a_lowered_rate_stays_low_under_a_scheduler_of_torchs(tmp_path: Path) -> None:
    """The watch is told of it."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    with la.watch(net, optimizer, schedulers=scheduler, on_divergence="reduce_lr", max_actions=1) as watch:
        for (_, batch), _ in zip(batches(), range(10), strict=False):
            optimizer.zero_grad()
            watch.loss(loss_of(net, batch)).backward()
            optimizer.step()
            scheduler.step()

    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3)


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


def test_skips_are_counted_once_where_the_loop_clips_by_hand(tmp_path: Path) -> None:
    """Also the last step's, which no loss follows."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, foreach=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    with la.watch(net, optimizer, log_dir=tmp_path, scaler=scaler, every_n_steps=1) as watch:
        for (_, batch), step in zip(batches(), range(12), strict=False):
            optimizer.zero_grad()
            loss = loss_of(net, batch) * (math.inf if step in (5, 11) else 1.0)
            watch.loss(scaler.scale(loss)).backward()
            scaler.unscale_(optimizer)
            watch.before_clipping()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()

    assert [(step.step, step.skipped) for step in signals(tmp_path)] == [(k, k in (5, 11)) for k in range(12)]
    totals = EventAccumulator(str(tmp_path)).Reload().Scalars("adam.amp/skipped_steps_total")
    assert totals[-1].value == 2


@pytest.mark.parametrize("combine", [lambda s, loss: s(loss) / 2, lambda s, loss: sum(s([loss, loss])) / 4])
def test_a_scaled_loss_is_known_though_it_is_divided_or_summed_afterwards(combine: Any, tmp_path: Path) -> None:
    """Scaling need not be the last operation."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    batch = next(iter(digits_loader()))
    with la.watch(net, optimizer, log_dir=tmp_path, scaler=scaler) as watch:
        loss = loss_of(net, batch)
        watch.loss(combine(scaler.scale, loss)).backward()
        scaler.step(optimizer)

    assert signals(tmp_path)[0].loss == pytest.approx(loss.item() / 2, rel=1e-5)


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


def test_one_nan_is_answered_by_one_rollback() -> None:
    """The state counts fewer updates after it: that is no lost state."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    with la.watch(net, optimizer, on_divergence="rollback") as watch:
        for (_, batch), step in zip(batches(), range(130), strict=False):
            optimizer.zero_grad()
            watch.loss(loss_of(net, batch) * (math.nan if step == 60 else 1.0)).backward()
            optimizer.step()

    assert [f.step for f in watch.findings if "action" in f.evidence] == [60]
    assert [f.rule for f in watch.findings if f.severity == "critical"] == ["NON-FINITE"]


def test_rollback_goes_back_behind_no_group_that_was_added() -> None:
    """A state that lacks it would not load: the next one that has it is kept at once."""
    net = digits_net()
    optimizer = torch.optim.AdamW(net[0].parameters(), lr=1e-3)
    with la.watch(net, optimizer, on_divergence="rollback") as watch:
        for (_, batch), step in zip(batches(), range(80), strict=False):
            if step == 30:
                optimizer.add_param_group({"params": list(net[2].parameters())})
            optimizer.zero_grad()
            watch.loss(loss_of(net, batch) * (math.nan if step == 45 else 1.0)).backward()
            optimizer.step()

    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())
    assert "weights and moments of step 30" in watch.summary()


def test_after_closing_it_says_whether_it_stopped_and_what_failed(tmp_path: Path) -> None:
    """A loop may look at it after the ``with``."""
    _, watch = sick({"on_divergence": "stop"}, tmp_path)

    assert watch.should_stop
    assert watch.failures == set()


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
