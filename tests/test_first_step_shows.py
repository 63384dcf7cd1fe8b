"""What the making of the first loss shows the monitor: how much is dropped, one class only, targets among whole numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.monitoring.pass_signals import batch_scale
from lightning_adam.preflight.cheap import compares_with_one_class
from lightning_adam.preflight.dropouts import largest_dropped_share
from lightning_adam.preflight.graph import step_of
from tests.test_faults_without_a_word import CLASSES, FEATURES, clusters, network, trained


def dropped_by_mask(values: Tensor, share: float) -> Tensor:
    """Inverted dropout as people write it."""
    return values * (torch.rand_like(values) > share).to(values.dtype) / (1 - share)


def dropped_by_scaled_mask(values: Tensor, share: float) -> Tensor:
    return values * torch.bernoulli(torch.full_like(values, 1 - share)).div(1 - share)


WAYS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "function": F.dropout,
    "module": lambda values, share: nn.Dropout(share)(values),
    "whole channels": lambda values, share: F.dropout1d(values[:, :, None].expand(-1, -1, 4), share)[..., 0],
    "scaled mask": dropped_by_scaled_mask,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("way", WAYS)
def test_the_share_that_is_dropped_is_read_off_the_graph(way: str, share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden = nn.Linear(8, 256, dtype=dtype)(torch.randn(64, 8, dtype=dtype))
    loss = WAYS[way](hidden, share).float().square().mean()

    assert largest_dropped_share(loss) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    "loss_of",
    [
        lambda hidden: (hidden * torch.randn_like(hidden)).sum(),
        lambda hidden: (hidden * 20.0).sum(),
        lambda hidden: (hidden * F.one_hot(torch.arange(64), 256)).sum(),
        lambda hidden: (hidden * (torch.rand_like(hidden) > 0.95)).sum(),
        lambda hidden: (hidden * torch.full_like(hidden, 20.0)).sum(),
        lambda hidden: dropped_by_mask(hidden, 0.95).detach().sum() + hidden.sum(),
    ],
    ids=["noise", "number", "one-hot", "mask without a scale", "constant", "apart from the loss"],
)
def test_other_products_drop_nothing(loss_of: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)

    assert largest_dropped_share(loss_of(nn.Linear(8, 256)(torch.randn(64, 8)))) == 0.0


class DropsByFunction(L.LightningModule):
    """No Dropout layer is registered anywhere."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.first, self.last, self.share = nn.Linear(FEATURES, 64), nn.Linear(64, CLASSES), share

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        hidden = F.dropout(self.first(batch[0]).relu(), self.share, self.training)
        return F.cross_entropy(self.last(hidden), batch[1])

    def configure_optimizers(self) -> Optimizer:
        return Adam(self.parameters(), 1e-3)


@pytest.mark.parametrize(("share", "rules"), [(0.97, ["NO-LEARNING"]), (0.99, ["NO-LEARNING"]), (0.3, [])])
def test_dropout_of_nearly_all_is_named_under_a_trainer(share: float, rules: list[str], tmp_path: object) -> None:
    torch.manual_seed(0)
    batches = [clusters(step) for step in range(150)]
    data = TensorDataset(*(torch.cat(part) for part in zip(*batches, strict=True)))
    monitor = DivergenceMonitor()
    trainer = L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                        enable_model_summary=False, callbacks=[monitor], default_root_dir=str(tmp_path))  # fmt: skip
    trainer.fit(DropsByFunction(share), DataLoader(data, batch_size=64))

    found = [f for f in monitor.findings if f.severity != "info"]
    assert [f.rule for f in found] == rules
    assert all(f"Dropout leaves {1 - share:.0%}"[:-1] in f.message for f in found)
    assert all(f.evidence["dropout"] == pytest.approx(share) for f in found)


@pytest.mark.parametrize(
    ("loss_of", "is_one"),
    [
        (lambda out: F.cross_entropy(out, torch.zeros(32, dtype=torch.long)), True),
        (lambda out: F.binary_cross_entropy_with_logits(out, torch.ones(32, 5)), True),
        (lambda out: F.cross_entropy(out, torch.arange(32) % 5), False),
        (lambda out: F.cross_entropy(out[:3], torch.zeros(3, dtype=torch.long)), False),
        (lambda out: F.mse_loss(out, torch.full((32, 5), 0.7)), False),
        (lambda out: out.square().mean(), False),
    ],
    ids=["one class", "all ones", "five classes", "three examples", "a constant to regress", "no target"],
)
def test_one_class_is_what_the_loss_compares_with(loss_of: Callable[[Tensor], Tensor], is_one: bool) -> None:
    """Labels that no loss uses are nobody's fault."""
    assert compares_with_one_class(step_of(loss_of(nn.Linear(8, 5)(torch.randn(32, 8))))) is is_one


def test_one_label_that_the_loss_uses_is_a_warning_once_the_run_has_shown_no_other() -> None:
    """The loss falls to nothing, and says the less for it."""
    net = network(FEATURES, 32, CLASSES)
    found = trained(net, Adam(net.parameters(), 3e-3), 120, lambda step: clusters(step, label=2))

    assert [(f.rule, f.severity) for f in found] == [("ONE-LABEL", "warning")]
    assert "always 2" in found[0].message


def test_one_label_that_nobody_uses_stays_information() -> None:
    """Of an autoencoder whose loader has labels all the same."""
    net = network(FEATURES, 32, FEATURES)
    found = trained(net, Adam(net.parameters(), 3e-3), 120, lambda step: clusters(step, label=2),
                    lambda net, batch: F.mse_loss(net(batch[0]), batch[0]))  # fmt: skip

    assert [(f.rule, f.severity) for f in found] == [("ONE-LABEL", "info")]


class Checkpointed(nn.Module):
    """Dropout and BatchNorm in a region that is run again in its backward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(FEATURES, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 32)
        )
        self.last = nn.Linear(32, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        inner: Tensor = checkpoint(self.inner, features, use_reentrant=False, preserve_rng_state=False)
        return self.last(inner)


@pytest.mark.parametrize("is_all_inside", [False, True], ids=["a region", "the loss, too"])
def test_a_checkpointed_region_is_run_as_often_as_without_us(is_all_inside: bool) -> None:
    """Looking at what was saved there would run it once more, with other random numbers and BatchNorm's averages."""

    def loss_of(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if not is_all_inside:
            return F.cross_entropy(net(batch[0]), batch[1])
        whole: Tensor = checkpoint(
            lambda x, y: F.cross_entropy(net(x), y), *batch, use_reentrant=False, preserve_rng_state=False
        )
        return whole

    states = []
    for is_watched in (False, True):
        torch.manual_seed(0)
        net, batches = Checkpointed(), [clusters(step) for step in range(3)]
        optimizer = Adam(net.parameters(), 1e-3)
        if is_watched:
            trained(net, optimizer, 3, batches.__getitem__, loss_of)
        else:
            for batch in batches:
                optimizer.zero_grad()
                loss_of(net, batch).backward()
                optimizer.step()
        states.append(net.state_dict())

    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_ratings_of_users_and_items_are_targets() -> None:
    """A batch's only floating-point tensor is the target where whole numbers come before it, and not where it is alone."""
    users, ratings = torch.arange(40), torch.linspace(1, 5, 40)

    assert batch_scale((users, users, ratings)).target_rms == pytest.approx(float(ratings.square().mean().sqrt()), rel=0.01)
    assert math.isnan(batch_scale((ratings,)).target_rms)
    assert math.isnan(batch_scale((users, torch.ones(40))).target_rms)


class Masked(nn.Module):
    """Learns which of some random weights count (Zhou et al. 2019, arXiv:1905.01067); all begin alike."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.ones(after, before))
        self.register_buffer("weight", torch.randn(after, before) / before**0.5)

    def forward(self, values: Tensor) -> Tensor:
        return F.linear(values, self.mask * self.weight)


def filled(net: nn.Module, number: float) -> nn.Module:
    for parameter in net.parameters():
        if parameter.dim() > 1:
            nn.init.constant_(parameter, number)
    return net


@pytest.mark.parametrize(
    ("build", "rules"),
    [
        (lambda: filled(network(FEATURES, 64, CLASSES), 0.05), ["SYMMETRIC-INIT"]),
        (lambda: filled(nn.Linear(FEATURES, CLASSES), 0.05), []),
        (lambda: nn.Sequential(network(FEATURES, 64), nn.ReLU(), filled(nn.Linear(64, CLASSES), 0.01)), []),
        (lambda: nn.Sequential(Masked(FEATURES, 64), nn.ReLU(), Masked(64, CLASSES)), []),
    ],
    ids=["all layers", "logistic regression", "the head alone", "masks of fixed random weights"],
)
def test_units_that_start_alike_are_named_at_once(build: Callable[[], nn.Module], rules: list[str]) -> None:
    """Of a single layer, or under others that differ, no two units get the same gradient."""
    net = build()
    found = [f for f in trained(net, Adam(net.parameters(), 1e-2), 60) if f.severity != "info"]

    assert [f.rule for f in found] == rules
    assert all(f.step == 0 for f in found)


@pytest.mark.parametrize("times", [6.0, 1.0])
def test_a_last_layer_that_shouts_is_named_by_what_its_first_loss_costs(times: float) -> None:
    """Its weights are large in one layer only, so that no usual gain shows it; and this loss soon falls all the same."""
    net = network(FEATURES, 64, CLASSES)
    with torch.no_grad():
        net[-1].weight.mul_(times)
    found = [f for f in trained(net, Adam(net.parameters(), 3e-3), 40) if f.rule == "INIT-SCALE"]

    assert [(f.step, f.severity) for f in found] == ([(0, "info")] if times > 1 else [])
    assert all("guessing among" in f.message for f in found)


def test_values_that_come_out_far_larger_than_their_targets_are_named_too() -> None:
    net = network(FEATURES, 64, 1)
    with torch.no_grad():
        net[-1].weight.mul_(100)
    batch = torch.randn(64, FEATURES)
    found = trained(
        net, Adam(net.parameters(), 1e-3), 3, lambda _: (batch, batch[:, :1].tanh()), lambda n, b: F.mse_loss(n(b[0]), b[1])
    )

    assert [f.rule for f in found][:1] == ["INIT-SCALE"]


def test_the_ignored_label_is_read_off_the_graph_as_it_was_given() -> None:
    """Autograd hands its 64 bits out without a sign."""
    logits = nn.Linear(3, 4)(torch.randn(8, 3))
    for ignored in (-100, 2):
        main = step_of(F.cross_entropy(logits, torch.arange(8) % 4, ignore_index=ignored)).main
        assert main is not None
        assert main.options["ignore_index"] == ignored
