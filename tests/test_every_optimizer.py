"""The conformance suite of the catalogue: every optimizer learns, and continues from a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_adam as la
from lightning_adam.cli import main
from lightning_adam.optimizers.sophia import estimate_hessian
from tests.digits import Digits, InBatches, digits_loader, trainer

NAMES = [row.name for row in la.available_optimizers()]


class WideDigits(Digits):
    """Standardised pixels, 256 hidden units: what a first attempt at this data looks like."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


def split_digits() -> tuple[DataLoader[Any], Tensor, Tensor]:
    """1,437 digits to train on, 360 to test, standardised."""
    images, labels = digits_loader(examples=1797).dataset.tensors  # type: ignore[attr-defined]
    images = (images - images.mean(0)) / (images.std(0) + 1 / 16)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1437], order[1437:]
    shuffle = torch.Generator().manual_seed(1)
    data = InBatches(images[train], labels[train])
    loader = DataLoader(data, 32, shuffle=True, generator=shuffle, collate_fn=list)
    return loader, images[test], labels[test]


THIRTY = (
    "radam", "ranger", "ranger21", "schedulefree_radam", "lion", "lion8bit", "paged_lion", "adan", "adafactor", "adamax",
    "grams", "caadam",
)  # fmt: skip
"""Epochs of those that take more than twelve, or only just reach 95 % then."""
EPOCHS = {"lbfgs": 5} | dict.fromkeys(THIRTY, 30)
BEHIND = ("ranger", "schedulefree_adamw", "schedulefree_radam")
"""Their run ends with slow weights, or averages, that are some epochs behind those that they step."""


@torch.no_grad()
def share_read(module: L.LightningModule, images: Tensor, labels: Tensor) -> float:
    """Of digits."""
    return int((module.net(images).argmax(1) == labels).sum()) / len(labels)


class UntilRead(L.Callback):
    """Ends the run after the epoch in which 95 % of unseen digits are read: the rest would show nothing more."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """With the weights that are stepped."""
        trainer.should_stop = share_read(pl_module, self.images, self.labels) >= 0.95


def is_slow(name: str) -> bool:
    """Where another stands for it: ``lion`` for those of thirty epochs, ``adamw8bit`` for what is paged or in 8 bit.

    All of them go down in ``test_descent``, and learn at the rate that ``test_suggest_lr`` has for them.
    """
    stand_ins = ("lion", "adamw8bit")
    return name not in stand_ins and (name in THIRTY or name.endswith("8bit") or name.startswith("paged_"))


LEARNERS = [pytest.param(name, marks=[pytest.mark.slow] if is_slow(name) else []) for name in NAMES]


@pytest.mark.parametrize("name", LEARNERS)
def test_reaches_95_per_cent_on_digits(name: str) -> None:
    """With its recommended settings, in twelve epochs or those of its row."""
    loader, images, labels = split_digits()
    module = WideDigits(optimizer=name, lr=None)
    until = [] if name in BEHIND else [UntilRead(images, labels)]
    trainer(max_epochs=EPOCHS.get(name, 12), callbacks=until).fit(module, loader)

    assert share_read(module, images, labels) >= 0.95


class Reseeded(L.Callback):
    """The same random numbers at the same step of either run: Sophia's noise."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """The CPU's, by the step."""
        torch.default_generator.manual_seed(trainer.global_step)  # that of all devices would keep the stack of each call


@pytest.mark.parametrize("name", NAMES)
def test_continues_from_a_checkpoint_bit_for_bit(name: str, tmp_path: Path) -> None:
    """One epoch, a checkpoint, another epoch: the same weights as two epochs in one go."""
    whole, first, second = (WideDigits(optimizer=name, lr=None, total_steps=30) for _ in range(3))
    first.load_state_dict(whole.state_dict())
    trainer(max_epochs=2, limit_train_batches=14, callbacks=[Reseeded()]).fit(whole, digits_loader())
    half = trainer(max_epochs=1, limit_train_batches=14, callbacks=[Reseeded()])
    half.fit(first, digits_loader())
    half.save_checkpoint(tmp_path / "half.ckpt")
    rest = trainer(max_epochs=2, limit_train_batches=14, callbacks=[Reseeded()])
    rest.fit(second, digits_loader(), ckpt_path=tmp_path / "half.ckpt")

    for one, other in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_row_says_where_it_comes_from(name: str) -> None:
    """Each row has a source with a year, a summary, a library and a rate."""
    row = la.optimizers.get_optimizer(name)

    assert any(part.isdigit() and len(part) == 4 for part in row.source.replace(",", " ").replace(":", " ").split())
    assert row.summary
    assert row.library in ("torch", "bitsandbytes", "pytorch_optimizer", "lightning_adam")
    assert row.lr > 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "lbfgs"])  # its history grows by the step
def test_row_tells_the_bytes_and_betas_that_the_optimizer_has(name: str) -> None:
    """Bytes of state per element of a 256 x 256 matrix, measured after real steps, and the betas of its group."""
    row = la.optimizers.get_optimizer(name)
    module = WideDigits(optimizer=name, lr=None, total_steps=9)
    module.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.Linear(256, 10))
    measured = StateSize(module.net[2].weight)
    fit = trainer(max_steps=3, callbacks=[measured])
    fit.fit(module, digits_loader())
    group = next(g for g in fit.optimizers[0].param_groups if any(p is measured.weight for p in g["params"]))

    assert measured.bytes_per_element == pytest.approx(row.state_bytes, rel=0.05)
    assert tuple(group.get("betas", ())) == (row.betas if name != "muon" else ())


class StateSize(L.Callback):
    """Bytes of one tensor's state per element while training."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """After each step."""
        self.bytes_per_element = bytes_in(trainer.optimizers[0].state[self.weight]) / self.weight.numel()


def bytes_in(state: Any) -> int:
    """Bytes of all tensors in a state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    values = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return sum(bytes_in(value) for value in values)


def test_catalogue_prints_as_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    """``lightning-adam optimizers`` has every name; ``--json`` is JSON."""
    assert main(["optimizers"]) == 0
    table = capsys.readouterr().out
    assert main(["optimizers", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)

    assert [row["name"] for row in rows] == NAMES
    assert all(name in table for name in NAMES)


def test_muon_takes_hidden_matrices_only() -> None:
    """Embeddings, the last matrix and vectors go to AdamW."""
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = la.configure_optimizers(module, "muon", total_steps=9)["optimizer"]
    muon = [n for g in optimizer.param_groups if g["muon"] for n in g["adam_names"]]

    assert muon == ["1.weight", "2.weight"]


def test_embeddings_keep_32_bit_state() -> None:
    """bitsandbytes' own advice for 8-bit optimizers; other large matrices are quantised."""
    module = nn.ModuleDict({"embed": nn.Embedding(100, 64), "head": nn.Linear(64, 100)})
    optimizer = la.configure_optimizers(module, "adamw8bit", total_steps=9)["optimizer"]
    module["head"](module["embed"](torch.arange(50))).square().mean().backward()
    optimizer.step()

    assert optimizer.state[module["embed"].weight]["state1"].dtype == torch.float32
    assert optimizer.state[module["head"].weight]["state1"].dtype == torch.uint8


def test_schedule_free_validates_the_averaged_weights() -> None:
    """In validation the weights are x = y + (1-1/beta1)(z-y) of the paper, and training goes on from y."""

    class Validates(WideDigits):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.mode = self.trainer.optimizers[0].param_groups[0]["train_mode"]
            self.seen = self.net[0].weight.detach().clone()

        def on_validation_start(self) -> None:
            self.before = self.net[0].weight.detach().clone()

    module = Validates(optimizer="schedulefree_adamw", lr=None)
    trainer(max_epochs=2, num_sanity_val_steps=0).fit(module, digits_loader(), digits_loader())

    optimizer = module.trainer.optimizers[0]
    assert module.mode is False
    assert optimizer.param_groups[0]["train_mode"] is False
    torch.testing.assert_close(module.seen, module.net[0].weight.detach(), rtol=1e-4, atol=1e-5)


def test_helper_called_twice_attaches_one_companion() -> None:
    """A second fit leaves no growing list of callbacks."""
    fit = trainer(max_epochs=1, callbacks=[])
    fit.fit(WideDigits(optimizer="adamz"), digits_loader())
    count = len(fit.callbacks)
    fit.fit_loop.max_epochs = 2
    fit.fit(WideDigits(optimizer="adamz"), digits_loader())

    assert len(fit.callbacks) == count
    assert [type(c).__name__ for c in fit.callbacks].count("LossForAdamZ") == 1


def test_hutchinson_estimate_is_exact_for_a_diagonal_hessian() -> None:
    """For loss = sum(a·x²)/2 the Hessian is diag(a), and z·Hz = a·z² has mean a."""
    torch.manual_seed(0)
    curvature = torch.tensor([1.0, 10.0, 100.0])
    x = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([x])
    estimates = torch.stack([estimate_hessian(optimizer, (curvature * x**2).sum() / 2)[0] for _ in range(4000)])

    torch.testing.assert_close(estimates.mean(0), curvature, rtol=0.1, atol=0)


def test_fused_kernels_by_default_and_foreach_under_fp16() -> None:
    """On a CPU in 32 bit torch's fused AdamW; under 16-mixed not, where Lightning would leave unscaling to the kernel."""
    from tests.test_clipping import scaled_half

    plain, half = trainer(max_steps=1), trainer(max_steps=1, plugins=[scaled_half()])
    plain.fit(Digits(), digits_loader())
    half.fit(Digits(), digits_loader())

    assert plain.optimizers[0].defaults["fused"] is True
    assert half.optimizers[0].defaults["fused"] is False
