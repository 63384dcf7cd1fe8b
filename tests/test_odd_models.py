"""OptimizerMonitor on models and optimizers that are not the usual: each trains on, and what can be known is logged."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader, TensorDataset

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.monitoring.step_hooks import with_hooks
from lightning_adam.statistics import copy_parameters, read_optimizer, take_snapshot
from tests.digits import Digits, digits_loader, trainer
from tests.test_clipping import scaled_half
from tests.test_optimizer_monitor import matrices, row_names


def scalars(logdir: Path) -> dict[str, list[tuple[int, float]]]:
    """All scalar series."""
    events = EventAccumulator(str(logdir), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def fit(tmp_path: Path, module: L.LightningModule, loader: Any = None, **options: Any) -> Path:
    """Six steps, each logged; nothing may have failed."""
    monitor = options.pop("monitor", None) or OptimizerMonitor(1)
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    trainer(max_steps=6, logger=logger, callbacks=[monitor], **options).fit(module, loader or digits_loader())
    assert not monitor.failures
    return Path(logger.log_dir)


class Words(L.LightningModule):
    """An embedding with sparse gradients, tied or not to the output layer, and a head."""

    def __init__(self, optimizer: Any, sparse: bool = True, tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 8, sparse=sparse)
        self.head = nn.Linear(8, 50, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        self.make, self.sparse = optimizer, sparse

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Predict the next word."""
        return nn.functional.cross_entropy(self.head(self.embed(batch[0])), (batch[0] + 1) % 50)

    def train_dataloader(self) -> DataLoader[Any]:
        """Few of the words."""
        return DataLoader(TensorDataset(torch.arange(96) % 10), 16)

    def configure_optimizers(self) -> Any:
        """Only the embedding where its gradients are sparse."""
        return self.make(self.embed.parameters() if self.sparse else self.parameters())


@pytest.mark.parametrize("kind", [torch.optim.SparseAdam, torch.optim.SGD])
def test_sparse_gradients(tmp_path: Path, kind: Any) -> None:
    """Rows that a batch does not have do not move; the step is the measured one."""
    module = Words(lambda parameters: kind(parameters, lr=0.1))
    logged = matrices(fit(tmp_path, module, module.train_dataloader()))

    assert (logged["gradient_norm"][5] > 0).all()
    assert (logged["step_size_rms"][5] > 0).all()
    assert np.isfinite(logged["first_moment_rms"][5]).all() == (kind is torch.optim.SparseAdam)


def test_sparse_step_is_measured() -> None:
    """SparseAdam moves ten of fifty rows: the rms is over all elements."""
    table = nn.Embedding(50, 8, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.1)
    table(torch.arange(10)).square().sum().backward()
    before, start = copy_parameters(optimizer), table.weight.detach().clone()
    optimizer.step()

    snapshot = take_snapshot(0, read_optimizer(optimizer, {}, before))
    moved = (table.weight.detach() - start).double()
    assert snapshot.column("step_size_rms")[0] == pytest.approx(float(moved.square().mean().sqrt()), rel=1e-5)
    assert snapshot.column("zero_gradient_share")[0] == pytest.approx(0.8)


def test_tied_weights_are_one_row(tmp_path: Path) -> None:
    """The embedding that is also the output layer is read once."""
    module = Words(lambda parameters: torch.optim.AdamW(parameters), sparse=False, tied=True)

    assert row_names(fit(tmp_path, module, module.train_dataloader())) == ["embed.weight"]


def test_compiled_module_keeps_its_names(tmp_path: Path) -> None:
    """``torch.compile`` puts a prefix before every name; the log has the user's own."""
    module = Digits()
    compiled = torch.compile(module, backend="eager")

    assert row_names(fit(tmp_path, compiled)) == ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]  # type: ignore[arg-type]


def test_parameters_without_gradient_are_left_out(tmp_path: Path) -> None:
    """Frozen ones, and ones that the loss does not reach."""

    class Unused(Digits):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(3, 3)
            self.net[0].bias.requires_grad_(False)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    assert row_names(fit(tmp_path, Unused())) == ["net.0.weight", "net.2.weight", "net.2.bias"]


class Odd(Digits):
    """With a complex and an empty parameter."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self.phase = nn.Parameter(torch.ones(10, dtype=torch.complex64))
        self.nothing = nn.Parameter(torch.zeros(0, 5))
        self.make = optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """A phase per class, and a sum over nothing."""
        logits = self.net(batch[0]) * (self.phase * (1 + 0.5j)).imag
        return nn.functional.cross_entropy(logits, batch[1]) + self.nothing.sum()

    def configure_optimizers(self) -> Any:
        """Plain torch."""
        return self.make(self.parameters(), lr=1e-2)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.RMSprop])
def test_complex_and_empty_parameters(tmp_path: Path, kind: Any) -> None:
    """A complex tensor counts as twice as many real numbers; an empty one has no row."""
    module = Odd(kind)
    logdir = fit(tmp_path, module)
    logged, names = matrices(logdir), row_names(logdir)

    assert "nothing" not in names
    row = names.index("phase")
    assert 0 < logged["step_size_rms"][5][row] < 0.2
    assert np.isfinite(logged["second_moment_rms"][5][row])


def test_complex_step_is_the_measured_one() -> None:
    """In real numbers, to 1e-5."""
    weight = nn.Parameter(torch.randn(40, dtype=torch.complex64))
    optimizer = torch.optim.Adam([weight], lr=1e-2)
    for _ in range(3):
        start = torch.view_as_real(weight.detach()).clone()
        weight.grad = torch.randn(40, dtype=torch.complex64)
        optimizer.step()

    moved = (torch.view_as_real(weight.detach()) - start).double().square().mean().sqrt()
    assert take_snapshot(0, read_optimizer(optimizer, {})).column("step_size_rms")[0] == pytest.approx(
        float(moved), rel=1e-5
    )


class Homemade(torch.optim.Optimizer):
    """Sign descent with a state that nobody knows."""

    def __init__(self, parameters: Any, lr: float = 1e-3) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        """θ ← θ - α·sign(g)."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["mystery"] = parameter.grad.clone()
                parameter.add_(parameter.grad.sign(), alpha=-group["lr"])
        return loss


def test_unknown_optimizer_is_measured_and_says_once_what_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Step sizes and gradient norms are there, moments are NaN, and one line says so."""

    class Plain(Digits):
        def configure_optimizers(self) -> Any:
            return Homemade(self.parameters(), lr=1e-3)

    with caplog.at_level(logging.INFO):
        logged = matrices(fit(tmp_path, Plain()))

    lines = [record.message for record in caplog.records if "Homemade" in record.message]
    assert len(lines) == 1
    assert "no first moment m and no second moment v" in lines[0]
    assert logged["step_size_max"][5] == pytest.approx([1e-3] * 4, rel=1e-3)
    assert (logged["gradient_norm"][5] > 0).all()
    assert np.isnan(logged["first_moment_rms"][5]).all()


class Wrapper:
    """As DeepSpeed hands its optimizers over: not torch's, with the real one inside."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.param_groups = optimizer, optimizer.param_groups


def test_wrapped_optimizers_are_found() -> None:
    """The hooks go to the optimizer inside; a wrapper without one is named in the log."""
    inner = torch.optim.AdamW([nn.Parameter(torch.ones(1))])

    assert with_hooks(inner) is inner
    assert with_hooks(Wrapper(inner)) is inner
    assert with_hooks(Wrapper(Wrapper(inner))) is inner
    assert with_hooks(object()) is None


class Overflowing(Digits):
    """Its loss overflows at some steps."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Infinite in the second, third and fourth batch."""
        loss = super().training_step(batch, batch_idx)
        return loss * float("inf") if 1 <= batch_idx <= 3 else loss


@pytest.mark.parametrize("own", [True, False])
def test_skipped_steps_are_counted_and_not_logged(tmp_path: Path, own: bool) -> None:
    """Under fp16 three of six steps overflow: no quantities there, and a counter that says three."""

    class Plain(Overflowing):
        def configure_optimizers(self) -> Any:
            return super().configure_optimizers() if own else torch.optim.AdamW(self.parameters(), lr=1e-3)

    logdir = fit(tmp_path, Plain(), plugins=[scaled_half()])
    series = scalars(logdir)

    assert series["adam.amp/skipped_steps_total"] == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 3), (5, 3)]
    assert sorted(matrices(logdir)["step_size_rms"]) == [0, 4, 5]
    assert all(np.isfinite(value) for _, value in series["adam/log10_step_size_rms"])


def test_gradients_are_read_unscaled(tmp_path: Path) -> None:
    """The norm under fp16 is that of 32 bit, to fp16's rounding, and not 2¹⁶ times it."""
    half = scalars(fit(tmp_path / "half", Digits(clip=0.5), plugins=[scaled_half()]))
    full = scalars(fit(tmp_path / "full", Digits(clip=0.5)))

    for tag in ("adam/log10_gradient_norm", "adam.clip/log10_norm_after"):
        assert [v for _, v in half[tag]] == pytest.approx([v for _, v in full[tag]], abs=0.02)


def test_lbfgs_is_measured_over_all_its_evaluations(tmp_path: Path) -> None:
    """The step is from before the first evaluation to after the last."""

    class Ends(L.Callback):
        def __init__(self) -> None:
            self.weights: list[Tensor] = []

        def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.weights.append(pl_module.net[0].weight.detach().double().clone())

    ends, logger = Ends(), TensorBoardLogger(tmp_path, name="", version="run")
    callbacks = [OptimizerMonitor(1), ends]
    trainer(max_steps=3, logger=logger, callbacks=callbacks).fit(Digits(optimizer="lbfgs", lr=None), digits_loader())

    moved = [float((b - a).square().mean().sqrt()) for a, b in zip(ends.weights, ends.weights[1:], strict=False)]
    logged = matrices(Path(logger.log_dir))["step_size_rms"]
    assert [logged[step][0] for step in sorted(logged)][:2] == pytest.approx(moved, rel=1e-4)


def test_clipping_is_logged_where_the_rule_is_in_force(tmp_path: Path) -> None:
    """The norm that is left, and whether the step was clipped; nothing of it without a rule."""
    clipped = scalars(fit(tmp_path / "a", Digits(clip=0.1)))
    free = scalars(fit(tmp_path / "b", Digits(clip=None)))

    assert all(value == pytest.approx(-1, abs=1e-4) for _, value in clipped["adam.clip/log10_norm_after"])
    assert [value for _, value in clipped["adam.clip/clipped"]] == [1.0] * 6
    assert not any(tag.startswith("adam.clip") for tag in free)
    by_value = scalars(fit(tmp_path / "c", Digits(clip=la.ClipValue(1e-3))))
    assert "adam.clip/clipped" in by_value
    assert "adam.clip/log10_norm_after" not in by_value


@pytest.mark.parametrize("optimizer", ["lion", "schedulefree_adamw", "ranger", "muon"])
def test_measured_optimizers_train_as_without_a_monitor(tmp_path: Path, optimizer: str) -> None:
    """Copies and all: bit for bit."""
    bare, watched = Digits(optimizer=optimizer), Digits(optimizer=optimizer)
    trainer(max_steps=6).fit(bare, digits_loader())
    fit(tmp_path, watched)

    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), watched.parameters(), strict=True))


def test_a_computed_weight_is_not_asked_for() -> None:
    """Spectral norm takes a step of its power iteration whenever its weight is read; monitors read none."""
    trained = []
    for callbacks in ([], [OptimizerMonitor(1), DivergenceMonitor()]):
        module = Digits()
        module.net[0] = spectral_norm(module.net[0])
        trainer(max_steps=3, callbacks=callbacks).fit(module, digits_loader())
        trained.append(module.state_dict())

    assert trained[0].keys() == trained[1].keys()
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_rows_that_a_batch_has_not_are_no_dead_units() -> None:
    """An optimizer of its own for the embeddings, as their sparse gradients want it, is not told of dead ReLUs."""
    monitor = DivergenceMonitor()
    module = Words(lambda parameters: torch.optim.SparseAdam(parameters, lr=1e-5))
    trainer(max_steps=60, callbacks=[monitor]).fit(module, module.train_dataloader())

    assert "DEAD-PARAMETER" not in {finding.rule for finding in monitor.findings}


class Unoptimized(Digits):
    """Nothing is stepped: Lightning puts in a stand-in."""

    def configure_optimizers(self) -> None:
        """None, as one who only wants to look at a forward pass returns."""


def test_a_module_without_an_optimizer_has_nothing_to_watch_and_nothing_fails(tmp_path: Path) -> None:
    monitors = [OptimizerMonitor(every_n_steps=1), DivergenceMonitor()]
    trainer(max_steps=3, logger=TensorBoardLogger(tmp_path), callbacks=monitors).fit(Unoptimized(), digits_loader())

    assert [monitor.failures for monitor in monitors] == [frozenset(), frozenset()]
