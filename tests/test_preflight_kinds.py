"""Kinds of faults in no textbook shape: losses by hand, hooks, several losses and optimizers, graphs side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

import lightning_adam as la
from tests.benchmarks.preflight.data import chains, clusters, curve, generator, loader, rows, waves
from tests.benchmarks.preflight.outsiders_parts import ByHand
from tests.benchmarks.preflight.parts import Built, Stepped, Words, perceptron
from tests.test_preflight import graves

BUILDS: dict[str, tuple[str, Callable[[], Built]]] = {}
HEALTHY: dict[str, Callable[[], Built]] = {}


def sick(code: str) -> Callable[[Callable[[], Built]], Callable[[], Built]]:
    """Enter a fault under its name."""

    def enter(build: Callable[[], Built]) -> Callable[[], Built]:
        BUILDS[build.__name__] = (code, build)
        return build

    return enter


def healthy(build: Callable[[], Built]) -> Callable[[], Built]:
    """Enter what looks like a fault and is none."""
    HEALTHY[build.__name__] = build
    return build


@pytest.mark.parametrize("name", BUILDS)
def test_kind_is_named_by_its_cause(name: str) -> None:
    """Whatever the shape that it comes in."""
    L.seed_everything(0, verbose=False)
    code, build = BUILDS[name]

    assert graves(la.preflight(*build()))[:1] == [code]


@pytest.mark.parametrize("name", HEALTHY)
def test_what_looks_like_the_kind_is_let_pass(name: str) -> None:
    """The same form, and meant so."""
    L.seed_everything(0, verbose=False)

    assert graves(la.preflight(*HEALTHY[name]())) == []


# --- losses by hand


@sick("DOUBLE-SOFTMAX")
def cross_entropy_by_logsumexp_of_a_softmax() -> Built:
    """Minus the label's score, plus what normalises all of them."""

    def step(m: Any, batch: Any) -> Tensor:
        told = m.net(batch[0]).softmax(-1)
        return (told.logsumexp(1) - told.gather(1, batch[1][:, None])[:, 0]).mean()

    return Stepped(step, net=perceptron(12, 4)), loader(*clusters())


@sick("DOUBLE-SIGMOID")
def binary_cross_entropy_by_softplus_of_a_sigmoid() -> Built:
    """softplus(x) - x y is the loss of logits."""

    def step(m: Any, batch: Any) -> Tensor:
        told = torch.sigmoid(m.net(batch[0])[:, 0])
        return (F.softplus(told) - told * batch[1]).mean()

    x, y = clusters(classes=2)
    return Stepped(step, net=perceptron(12, 1)), loader(x, y.float())


@sick("LOG-OF-PROBABILITY")
def softmax_by_hand() -> Built:
    """Exponentials over their sum, and then the logarithm."""

    def step(m: Any, batch: Any) -> Tensor:
        sizes = m.net(batch[0]).exp()
        return -(sizes / sizes.sum(1, keepdim=True)).log().gather(1, batch[1][:, None]).mean()

    return Stepped(step, net=perceptron(12, 4)), loader(*clusters())


@sick("BROADCAST")
def reward_as_a_column_plus_value_as_a_row() -> Built:
    """The target of the Bellman equation is (N, N) before the loss sees it."""

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            target = batch["reward"][:, None] + 0.9 * m.slow(batch["state"]).max(1)[0]
        return F.smooth_l1_loss(m.net(batch["state"]).gather(1, batch["action"][:, None]), target)

    x, y = clusters()
    parts = {"net": perceptron(12, 4), "slow": perceptron(12, 4).requires_grad_(False)}
    return Stepped(step, **parts), rows(state=x, action=y, reward=x[:, 0])


@sick("WRONG-SIGN")
def log_probability_of_torch_is_returned() -> Built:
    """Its mean is to rise."""

    def step(m: Any, batch: Any) -> Tensor:
        mean, scale = m.net(batch[0]).unbind(1)
        return torch.distributions.Normal(mean, F.softplus(scale) + 1e-3).log_prob(batch[1]).mean()

    return Stepped(step, net=perceptron(6, 2)), loader(*curve())


@sick("OUTPUT-RANGE")
def mean_of_a_gaussian_behind_a_relu() -> Built:
    """Half of the targets are below 0."""

    def step(m: Any, batch: Any) -> Tensor:
        mean, scale = m.net(batch[0]).unbind(1)
        return F.gaussian_nll_loss(mean.relu(), batch[1], F.softplus(scale) + 1e-3)

    return Stepped(step, net=perceptron(6, 2)), loader(*curve())


@sick("TARGET-SCALE")
def raw_prices_beside_a_loss_of_classes() -> Built:
    """The loss of the prices comes first."""

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        price, kind = m.net(batch["x"]).split([1, 4], 1)
        return F.smooth_l1_loss(price[:, 0], batch["price"]) + F.cross_entropy(kind, batch["kind"])

    x, y = clusters()
    return Stepped(step, net=perceptron(12, 5)), rows(x=x, kind=y, price=3e5 + 4e4 * x[:, 0])


# --- whose target, whose output


@sick("BATCH-MIXING")
def labels_in_another_order_than_time_first_outputs() -> Built:
    """(T, N, C) and (N, T), both flattened."""

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        states, _ = m.cell(m.table(batch["words"].T))
        return F.cross_entropy(m.head(states).flatten(0, 1), batch["tags"].flatten())

    words = chains()
    parts = {"table": nn.Embedding(24, 16), "cell": nn.GRU(16, 24), "head": nn.Linear(24, 5)}
    return Stepped(step, **parts), rows(words=words, tags=words % 5, size=16)


@healthy
def mixed_on_purpose() -> Built:
    """Pairs of samples and of their labels (Zhang et al. 2018), by shares of which some are next to nothing."""

    def step(m: Any, batch: Any) -> Tensor:
        share, order = float(torch.distributions.Beta(0.2, 0.2).sample()), torch.randperm(len(batch[0]))
        told = m.net(share * batch[0] + (1 - share) * batch[0][order])
        return share * F.cross_entropy(told, batch[1]) + (1 - share) * F.cross_entropy(told, batch[1][order])

    return Stepped(step, net=perceptron(12, 4)), loader(*clusters())


def rings(items: list[tuple[Tensor, Tensor]], is_shifted: bool) -> dict[str, Tensor]:
    """Small graphs side by side: nodes, edges, and which graph each node belongs to."""
    counts = torch.tensor([len(x) for x, _ in items])
    begins = torch.cumsum(counts, 0) - counts
    edges = [torch.stack([torch.arange(n), (torch.arange(n) + 1) % n]) for n in counts]
    first = 0 if is_shifted else 1
    shifted = [(edge + begin + first) % counts.sum() for edge, begin in zip(edges, begins, strict=True)]
    owners = torch.arange(len(items)).repeat_interleave(counts)
    return {
        "x": torch.cat([x for x, _ in items]), "edge_index": torch.cat(shifted, 1), "batch": owners,
        "y": torch.stack([y for _, y in items]),
    }  # fmt: skip


def graphs(is_shifted: bool) -> Built:
    """A layer that adds up what the neighbours say, and a mean over each graph."""

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        h, (sender, receiver), owners = m.first(batch["x"]).relu(), batch["edge_index"], batch["batch"]
        h = (h + torch.zeros_like(h).index_add(0, receiver, m.second(h)[sender])).relu()
        count = len(batch["y"])
        pooled = torch.zeros(count, 24).index_add(0, owners, h) / torch.bincount(owners, minlength=count)[:, None]
        return F.cross_entropy(m.head(pooled), batch["y"])

    g = generator()
    xs = [torch.randn(int(n), 5, generator=g) for n in torch.randint(4, 9, (320,), generator=g)]
    data = [(x, (x[:, 0].mean() > 0).long()) for x in xs]
    parts = {"first": nn.Linear(5, 24), "second": nn.Linear(24, 24), "head": nn.Linear(24, 2)}
    read = DataLoader(data, batch_size=16, shuffle=True, collate_fn=lambda items: rings(items, is_shifted))  # type: ignore[arg-type]
    return Stepped(step, **parts), read


@sick("BATCH-MIXING")
def edges_that_lie_one_node_too_far() -> Built:
    """Each graph's last edge leads into the next graph."""
    return graphs(is_shifted=False)


@healthy
def graphs_side_by_side() -> Built:
    """Each graph's edges are shifted behind the nodes of those before it."""
    return graphs(is_shifted=True)


@sick("SOFTMAX-DIM")
def attention_normalised_over_the_queries() -> Built:
    """``dim=-2`` of (samples, queries, keys)."""
    return tagging(lambda scores, values: scores.softmax(-2) @ values)


@healthy
def keys_normalised_over_places() -> Built:
    """Linear attention (Shen et al. 2021): what is summed over is what the softmax goes over."""
    return tagging(lambda scores, values: scores.softmax(-1) @ (values.softmax(1).mT @ values)[:, :1].expand(-1, 17, -1))


def tagging(mix: Callable[[Tensor, Tensor], Tensor]) -> Built:
    """A tag for each word, by one layer of attention."""

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        words = m.table(batch["words"])
        told = m.head(words + mix(m.query(words) @ words.mT / 5, words))
        return F.cross_entropy(told.flatten(0, 1), batch["tags"].flatten())

    words = chains()
    parts = {"table": nn.Embedding(24, 24), "query": nn.Linear(24, 24), "head": nn.Linear(24, 5)}
    return Stepped(step, **parts), rows(words=words, tags=(words + words.roll(1, 1)) % 5, size=16)


@sick("NOT-CAUSAL")
def one_packed_row_without_a_mask() -> Built:
    """Batches of a single long sequence have no other sample to take entries from."""
    net = Words(causal=False)
    net.places = nn.Embedding(65, 32)

    def step(m: Any, batch: Any) -> Tensor:
        return F.cross_entropy(m.net(batch[0][:, :-1]).flatten(0, 1), batch[0][:, 1:].flatten())

    return Stepped(step, net=net), loader(chains(48, 65), size=1)


@sick("TARGET-IS-INPUT")
def label_among_the_sensors() -> Built:
    """One sensor's reading at one time is the label."""
    x, y = waves()
    x[:, 3, 2] = y.float()
    cell = nn.GRU(3, 24, batch_first=True)
    return Stepped(
        lambda m, b: F.cross_entropy(m.head(m.cell(b[0])[0][:, -1]), b[1]), cell=cell, head=nn.Linear(24, 4)
    ), loader(x, y)


@healthy
def label_in_two_forms() -> Built:
    """The batch has it as numbers, too; no net gets to see them."""
    x, y = clusters()
    step = lambda m, b: F.cross_entropy(m.net(b["x"]), b["label"])  # noqa: E731
    return Stepped(step, net=perceptron(12, 4)), rows(x=x, label=y, marks=F.one_hot(y, 4).float())


# --- data


@sick("DATA-NONFINITE")
def constant_column_standardised_inside() -> Built:
    """0 / 0 in the step, of batches that are finite."""
    x, y = clusters()
    x[:, 3] = 2.0
    return Stepped(lambda m, b: F.cross_entropy(m.net((b[0] - x.mean(0)) / x.std(0)), b[1]), net=perceptron(12, 4)), loader(
        x, y
    )


@sick("LABEL-RANGE")
def speech_labels_from_nought() -> Built:
    """CTC keeps class 0 for the blank."""
    g = generator()
    y = torch.randint(0, 7, (320, 4), generator=g)
    x = F.one_hot(y.repeat_interleave(4, 1), 7).float() + 0.3 * torch.randn(320, 16, 7, generator=g)

    def step(m: Any, batch: Any) -> Tensor:
        told = m.head(m.cell(batch[0])[0]).log_softmax(-1).transpose(0, 1)
        sizes = [torch.full((len(batch[0]),), length) for length in (16, 4)]
        return F.ctc_loss(told, batch[1], *sizes)

    return Stepped(step, cell=nn.GRU(7, 24, batch_first=True), head=nn.Linear(24, 8)), loader(x, y)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Every worker reads all of it."""

    def __iter__(self) -> Any:
        return zip(*clusters(480), strict=True)


@sick("DUPLICATES")
def stream_is_not_shared_among_workers() -> Built:
    """Each batch comes once for each worker."""
    step = lambda m, b: F.cross_entropy(m.net(b[0]), b[1])  # noqa: E731
    return Stepped(step, net=perceptron(12, 4)), DataLoader(Stream(), batch_size=32, num_workers=2)


# --- parameters of one's own


@sick("NOT-REGISTERED")
def learnt_tensors_that_are_no_parameters() -> Built:
    """``requires_grad=True`` makes no parameter of a tensor."""
    module = Stepped(lambda m, b: F.cross_entropy(m.net(b[0]) * m.scale, b[1]), net=perceptron(12, 4))
    module.scale = torch.ones(4, requires_grad=True)
    return module, loader(*clusters())


@sick("INIT-SCALE")
def matrices_of_standard_normals() -> Built:
    """No layer of torch's is there."""
    parts = {f"w{k}": nn.Parameter(torch.randn(*shape)) for k, shape in enumerate([(12, 128), (128, 128), (128, 4)])}
    return Stepped(lambda m, b: F.cross_entropy((b[0] @ m.w0).relu() @ m.w1 @ m.w2, b[1]), **parts), loader(*clusters())


# --- hooks, and what is done by hand


class Hooked(Stepped):
    """SGD, so that clipping counts."""

    def __init__(self) -> None:
        super().__init__(lambda m, b: F.cross_entropy(m.net(b[0]), b[1]), net=perceptron(12, 4))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@sick("UPDATE-LOST")
def optimizer_step_that_only_calls_the_closure() -> Built:
    """Nobody steps."""

    class Model(Hooked):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            optimizer_closure()

    return Model(), loader(*clusters())


@sick("CLIP-ALWAYS")
def clipped_to_nothing_in_a_hook() -> Built:
    """The trainer knows nothing of it."""

    class Model(Hooked):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            nn.utils.clip_grad_norm_(self.parameters(), 1e-4)

    return Model(), loader(*clusters())


class Manual(ByHand):
    """One net, one optimizer, and a schedule that someone has to step."""

    lr, sign, warmup = 1e-3, 1.0, 0

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(12, 4)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        loss = self.sign * F.cross_entropy(self.net(batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=1.0)
        optimizer.step()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.net.parameters(), lr=self.lr)
        rise = lambda step: min(1.0, (step + 1) / self.warmup) if self.warmup else 0.9**step  # noqa: E731
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, rise)]


class SteppedByEpoch(Manual):
    """As Lightning's page on manual optimization has it."""

    def on_train_epoch_end(self) -> None:
        self.lr_schedulers().step()


@healthy
def by_hand_with_a_clip_and_a_schedule() -> Built:
    return SteppedByEpoch(), loader(*clusters())


@sick("SCHEDULE-NEVER-ARRIVES")
def nobody_steps_the_warmup() -> Built:
    """Under manual optimization Lightning does not."""
    module = Manual()
    module.warmup = 1000
    return module, loader(*clusters())


@sick("WRONG-SIGN")
def by_hand_with_a_minus() -> Built:
    module = SteppedByEpoch()
    module.sign = -1.0
    return module, loader(*clusters())


@sick("LR-HIGH")
def by_hand_at_a_rate_of_twenty() -> Built:
    """SGD with momentum: a hundred times too much."""

    class Model(SteppedByEpoch):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.net.parameters(), lr=20.0, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

    return Model(), loader(*clusters())


@sick("SCHEDULE-COLLAPSED")
def plateau_that_waits_for_a_loss_to_rise() -> Built:
    """``mode="max"`` of ``val_loss``."""

    class Model(Hooked):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max")
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}

    return Model(), loader(*clusters())


@sick("SCHEDULE-COLLAPSED")
def schedule_of_the_second_optimizer() -> Built:
    """The first one's is well."""

    class Pair(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = perceptron(12, 12), perceptron(12, 4)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            loss = F.cross_entropy(self.head(self.body(batch[0])), batch[1])
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for part in (*self.optimizers(), *self.lr_schedulers()):
                part.step()

        def configure_optimizers(self) -> Any:
            both = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (self.body, self.head)]
            schedules = [torch.optim.lr_scheduler.StepLR(o, size, 0.1) for o, size in zip(both, (1000, 2), strict=True)]
            return both, schedules

    return Pair(), loader(*clusters())
