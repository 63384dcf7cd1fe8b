"""OptimizerMonitor: what it logs is what the optimizer did, and it changes nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from torch import Tensor, nn

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.statistics import QUANTITIES, copy_parameters, read_optimizer, take_snapshot
from tests.adam_reference import ReferenceAdam
from tests.digits import Digits, digits_loader, trainer


class Recorder(L.Callback):
    """Keeps gradients (as the optimizer used them), learning rates and parameters of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen to the raw optimizer."""
        self.module = pl_module
        trainer.optimizers[0].register_step_post_hook(self._after)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """Parameters before the step."""
        self.before = {n: p.detach().double().clone() for n, p in pl_module.named_parameters()}

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        named = dict(self.module.named_parameters())
        decay = {id(p): g["lr"] * g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
        self.steps.append(
            {
                "lr": optimizer.param_groups[0]["lr"],
                "gradients": {n: p.grad.double().numpy().copy() for n, p in named.items() if p.grad is not None},
                "moved": {n: (p.detach().double() - self.before[n] * (1 - decay[id(p)])).numpy() for n, p in named.items()},
                "norms": {n: float(p.detach().double().norm()) for n, p in named.items()},
            }
        )


def matrices(logdir: Path) -> dict[str, dict[int, np.ndarray[Any, Any]]]:
    """``adam_matrix/*`` by quantity and step, read with TensorBoard's own reader."""
    events = EventAccumulator(str(logdir), size_guidance={"tensors": 0}).Reload()
    return {
        tag.removeprefix("adam_matrix/"): {e.step: tensor_util.make_ndarray(e.tensor_proto) for e in events.Tensors(tag)}
        for tag in events.Tags()["tensors"]
        if tag.startswith("adam_matrix/")
    }


def row_names(logdir: Path) -> list[str]:
    """The tensors' names, from the first event's plugin content."""
    events = EventAccumulator(str(logdir)).Reload()
    content = events.SummaryMetadata("adam_matrix/step_size_rms").plugin_data.content
    rows: list[str] = json.loads(content)["rows"]
    return rows


def fit_logged(tmp_path: Path, module: Digits, **options: Any) -> tuple[Path, Recorder]:
    """Train with the monitor at every second step."""
    recorder, logger = Recorder(), TensorBoardLogger(tmp_path, name="", version="run")
    callbacks = [recorder, OptimizerMonitor(every_n_steps=2)]
    trainer(**{"max_steps": 12, "logger": logger, "callbacks": callbacks, **options}).fit(module, digits_loader())
    return Path(logger.log_dir), recorder


def test_logged_quantities_agree_with_a_float64_replay(tmp_path: Path) -> None:
    """Every quantity of every tensor equals Adam replayed in float64 on the same gradients, to 1e-4."""
    logdir, recorder = fit_logged(tmp_path, Digits(betas=(0.9, 0.95), weight_decay=0.1, warmup=4, clip=0.5))
    logged, names = matrices(logdir), row_names(logdir)

    replay = {name: ReferenceAdam(0.9, 0.95, 1e-8) for name in names}
    for step, seen in enumerate(recorder.steps):
        expected = {n: replay[n].step(seen["gradients"][n], seen["lr"]) for n in names}
        for quantity in set(QUANTITIES) - {"update_ratio"} if step % 2 else ():
            want = [expected[n][quantity] for n in names]
            assert logged[quantity][step] == pytest.approx(want, rel=1e-4), quantity
    assert sorted(logged["step_size_rms"]) == [1, 3, 5, 7, 9, 11]
    assert sorted(names) == ["net.0.bias", "net.0.weight", "net.2.bias", "net.2.weight"]


def test_logged_step_is_the_measured_change_of_the_weights(tmp_path: Path) -> None:
    """step_size_rms and update_ratio equal what the parameters really did, decay told apart."""
    logdir, recorder = fit_logged(tmp_path, Digits(weight_decay=0.1, warmup=6))
    logged, names = matrices(logdir), row_names(logdir)

    for step in logged["step_size_rms"]:
        moved, norms = recorder.steps[step]["moved"], recorder.steps[step]["norms"]
        want = [np.sqrt(np.mean(moved[n] ** 2)) for n in names]
        ratios = [np.linalg.norm(moved[n]) / norms[n] for n in names]
        assert logged["step_size_rms"][step] == pytest.approx(want, rel=2e-4)
        assert logged["update_ratio"][step] == pytest.approx(ratios, rel=2e-4)


def test_eight_bit_steps_are_measured(tmp_path: Path) -> None:
    """bitsandbytes' step is measured from the parameters, and its 8-bit moments are dequantised."""
    logdir, recorder = fit_logged(tmp_path, Digits(optimizer="adamw8bit", weight_decay=0.01))
    logged, names = matrices(logdir), row_names(logdir)

    last, big = 11, names.index("net.0.weight")
    want = np.sqrt(np.mean(recorder.steps[last]["moved"]["net.0.weight"] ** 2))
    assert logged["step_size_rms"][last][big] == pytest.approx(want, rel=1e-4)
    reference = ReferenceAdam(0.9, 0.999, 1e-8)
    for seen in recorder.steps:
        expected = reference.step(seen["gradients"]["net.0.weight"], seen["lr"])
    assert logged["first_moment_rms"][last][big] == pytest.approx(expected["first_moment_rms"], rel=0.1)
    assert logged["second_moment_rms"][last][big] == pytest.approx(expected["second_moment_rms"], rel=0.1)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_weights_are_bit_for_bit_those_without_monitors(tmp_path: Path, optimizer: str) -> None:
    """Monitors change nothing."""
    bare, watched = Digits(optimizer=optimizer), Digits(optimizer=optimizer)

    trainer(max_steps=15).fit(bare, digits_loader())
    callbacks = [OptimizerMonitor(1), DivergenceMonitor()]
    logger = TensorBoardLogger(tmp_path)
    trainer(max_steps=15, logger=logger, callbacks=callbacks, log_every_n_steps=1).fit(watched, digits_loader())

    for one, other in zip(bare.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one, other)


def test_three_layers_are_in_the_event_file(tmp_path: Path) -> None:
    """Headline scalars, pictures and words, and the matrix are read back by TensorBoard's own reader."""
    logdir, _ = fit_logged(tmp_path, Digits(), max_steps=20)

    tags = EventAccumulator(str(logdir)).Reload().Tags()
    every = {tag for kind in ("scalars", "tensors", "images", "histograms") for tag in tags[kind]}
    assert {
        "adam/log10_lr",
        "adam/log10_update_ratio_p10",
        "adam/log10_update_ratio_p50",
        "adam/log10_update_ratio_p90",
        "adam/log10_step_size_rms",
        "adam/log10_effective_lr_p50",
        "adam/log10_first_moment_rms",
        "adam/log10_second_moment_rms",
        "adam/log10_gradient_norm",
        "adam/signal_to_noise",
        "adam/clipped_steps_total",
        "adam.dist/log10_step_size",
        "adam.dist/log10_effective_lr",
        "adam.dist/update_ratio_heatmap",
        "adam.groups/log10_lr/no_decay",
        "adam.tensors/update_ratio/net.0.weight",
    } <= every
    assert {f"adam_matrix/{quantity}" for quantity in QUANTITIES} <= every


LIMIT = 0.38
"""A total norm that some of the first steps on the digits are over, and some are not."""


def test_clipped_steps_are_counted(tmp_path: Path) -> None:
    """The total is the number of steps whose norm was over the limit; the norms before and after say which."""
    logger = TensorBoardLogger(str(tmp_path))
    trainer(max_steps=20, logger=logger, callbacks=[OptimizerMonitor(1)]).fit(Digits(clip=LIMIT), digits_loader())
    events = EventAccumulator(logger.log_dir).Reload()

    def series(tag: str) -> list[float]:
        return [event.value for event in events.Scalars(tag)]

    over = [10**norm > LIMIT for norm in series("adam/log10_gradient_norm")]
    assert 0 < sum(over) < 20
    assert series("adam.clip/clipped") == [float(one) for one in over]
    assert series("adam/clipped_steps_total") == list(np.cumsum(over))
    assert max(series("adam.clip/log10_norm_after")) == pytest.approx(math.log10(LIMIT), abs=1e-4)


def test_learning_rate_is_the_one_the_step_used(tmp_path: Path) -> None:
    """During warmup adam/log10_lr is this step's rate, not the next one's."""
    logdir, _ = fit_logged(tmp_path, Digits(lr=1e-2, warmup=10, schedule="constant"))

    rates = [10**e.value for e in EventAccumulator(str(logdir)).Reload().Scalars("adam/log10_lr")]
    assert rates == pytest.approx([2e-3, 4e-3, 6e-3, 8e-3, 1e-2, 1e-2], rel=1e-5)


def test_other_loggers_get_the_scalars(tmp_path: Path) -> None:
    """A CSV logger has no histograms: it gets the headline scalars."""
    logger = CSVLogger(tmp_path)
    trainer(max_steps=4, logger=logger, callbacks=[OptimizerMonitor(2)]).fit(Digits(), digits_loader())
    logger.save()

    header = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "adam/log10_step_size_rms" in header


def test_trains_without_any_logger() -> None:
    """No logger is no reason to fail."""
    module = Digits()
    trainer(max_steps=4, callbacks=[OptimizerMonitor(1), DivergenceMonitor()]).fit(module, digits_loader())

    assert module.seen == 4


def test_accumulated_steps_are_logged_once(tmp_path: Path) -> None:
    """With four batches a step, three steps give three points."""
    logdir, _ = fit_logged(tmp_path, Digits(), accumulate_grad_batches=4, max_steps=6)

    assert sorted(matrices(logdir)["step_size_rms"]) == [1, 3, 5]


def test_skipped_fp16_step_is_not_logged(tmp_path: Path) -> None:
    """A step that the GradScaler skips leaves no point."""
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    module = Digits(poison=(3,), poison_factor=math.inf)
    logdir, _ = fit_logged(tmp_path, module, plugins=[plugin], max_steps=8)

    assert sorted(matrices(logdir)["step_size_rms"]) == [1, 5, 7]


class Pair(L.LightningModule):
    """Two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.one, self.two = nn.Linear(64, 10), nn.Linear(64, 10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Each optimizer has its own loss."""
        images, labels = batch
        for optimizer, layer in zip(self.optimizers(), (self.one, self.two), strict=True):  # type: ignore[arg-type]
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(layer(images), labels))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        """Plain torch optimizers: the monitors need nothing of ours."""
        return [
            torch.optim.AdamW(self.one.parameters(), lr=1e-3),
            torch.optim.Adam(self.two.parameters(), lr=1e-2),
        ]


def test_several_optimizers_get_a_prefix_each(tmp_path: Path) -> None:
    """In manual optimization with two optimizers, each has its own tags and its own learning rate."""
    logger = TensorBoardLogger(tmp_path, name="", version="pair")
    callbacks = [OptimizerMonitor(2), DivergenceMonitor()]
    trainer(max_steps=12, logger=logger, callbacks=callbacks).fit(Pair(), digits_loader())

    events = EventAccumulator(logger.log_dir).Reload()
    assert [10**e.value for e in events.Scalars("adam-AdamW/log10_lr")] == pytest.approx([1e-3] * 3, rel=1e-5)
    assert [10**e.value for e in events.Scalars("adam-Adam/log10_lr")] == pytest.approx([1e-2] * 3, rel=1e-5)


def test_a_strange_optimizer_still_gives_its_step() -> None:
    """SGD has no moments: the step is measured, what needs moments is NaN."""
    layer = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    before = copy_parameters(optimizer)
    layer(torch.ones(2, 4)).sum().backward()
    optimizer.step()

    snapshot = take_snapshot(0, read_optimizer(optimizer, {}, before))
    assert snapshot.column("step_size_rms") == pytest.approx([1.0, 1.0])
    assert np.isnan(snapshot.column("first_moment_rms")).all()


def test_wrong_interval_is_refused() -> None:
    """every_n_steps must be a positive number."""
    with pytest.raises(la.ConfigError, match="every_n_steps=0"):
        OptimizerMonitor(every_n_steps=0)


def test_hooks_are_gone_after_fit() -> None:
    """Nothing is left on the optimizer."""
    fit = trainer(max_steps=2, callbacks=[OptimizerMonitor(1), DivergenceMonitor()])
    fit.fit(Digits(), digits_loader())

    assert not fit.optimizers[0]._optimizer_step_post_hooks
