"""The fourteenth round's faults of behaviour and of the plan."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

import lightning_adam as la
from tests.benchmarks.preflight.data import chains, clusters, curve, generator, loader, pictures, rows, waves
from tests.benchmarks.preflight.drifters_parts import Steps, dense, digits, lenet, of, opinions, run_of, tumours
from tests.benchmarks.preflight.nomads_parts import liked, resnet, tones
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit, series
from tests.benchmarks.preflight.parts import Built, Learner, Words, next_word, perceptron
from tests.benchmarks.preflight.register import faulty


@faulty("BATCH-MIXING")
def encoder_that_wants_places_first() -> Built:
    """``nn.TransformerEncoder`` without ``batch_first=True``."""

    def loss(module: Any, batch: Any) -> Tensor:
        h = module.encoder(module.table(batch["tokens"]))
        return F.cross_entropy(module.head(h.mean(1)), batch["label"])

    layer = nn.TransformerEncoderLayer(32, 2, 64, 0.0)
    parts = {"encoder": nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), "table": nn.Embedding(60, 32)}
    return Steps(loss, head=nn.Linear(32, 2), **parts), rows(**opinions())


@faulty("BATCH-MIXING")
def frames_viewed_instead_of_transposed() -> Built:
    """``view(length, batch, features)`` for an LSTM that wants places first."""

    def loss(module: Any, batch: Any) -> Tensor:
        x, y = batch
        states = module.cell(x.view(x.shape[1], x.shape[0], 3))[0]
        return F.cross_entropy(module.head(states[-1]), y)

    return Steps(loss, cell=nn.LSTM(3, 24), head=nn.Linear(24, 4)), loader(*waves())


@faulty("BATCH-MIXING")
def channels_reshaped_across_pictures() -> Built:
    """Crops of several pictures are put together by ``reshape`` of the wrong axis."""
    x, y = pictures(channels=2)

    def loss(module: Any, batch: Any) -> Tensor:
        x, y = batch
        halves = torch.cat(x.chunk(2, 3), 0).reshape(len(x), -1)
        return F.cross_entropy(module.net(halves), y)

    return Steps(loss, net=dense(288, 64, 4)), loader(x, y)


@faulty("NOT-CAUSAL")
def gpt_without_a_mask() -> Built:
    """Attention sees the word that it has to guess."""

    def loss(module: Any, batch: Any) -> Tensor:
        return next_word(module.net(batch[0][:, :-1]), batch[0][:, 1:])

    return Steps(loss, net=Words(causal=False)), loader(chains())


@faulty("NOT-CAUSAL")
def forecast_by_both_directions() -> Built:
    """A bidirectional LSTM that says the next value at each time."""

    def loss(module: Any, batch: Any) -> Tensor:
        return F.mse_loss(module.head(module.cell(batch[0][:, :-1, None])[0])[..., 0], batch[0][:, 1:])

    cell = nn.LSTM(1, 16, batch_first=True, bidirectional=True)
    return Steps(loss, cell=cell, head=nn.Linear(32, 1)), loader(series())


@faulty("IGNORES-INPUT")
def places_looked_up_for_words() -> Built:
    """``table(torch.arange(length))``: the words themselves are never read."""

    def loss(module: Any, batch: Any) -> Tensor:
        tokens = batch["tokens"]
        h = module.table(torch.arange(tokens.shape[1]).expand_as(tokens)).mean(1)
        return F.cross_entropy(module.net(h), batch["label"])

    return Steps(loss, table=nn.Embedding(60, 24), net=dense(24, 24, 2)), rows(**opinions())


class Noted(nn.Module):
    """Dropout by function, without ``training``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(30, 48), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        return self.second(F.dropout(F.relu(self.first(x)), p=0.5))


@faulty("NONDETERMINISTIC")
def dropout_by_function_that_never_stops() -> Built:
    """``F.dropout(x, p=0.5)`` has ``training=True`` by default."""
    loss = nn.BCEWithLogitsLoss()
    return Learner(Noted(), lambda o, y: loss(o[:, 0], y)), loader(*tumours())


class Restored(Lit):
    """The best weights so far are loaded at the start of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = lenet()
        self.best = {name: value.clone() for name, value in self.net.state_dict().items()}

    def on_train_batch_start(self, *_: Any) -> None:
        """``best`` is never renewed."""
        self.net.load_state_dict(self.best)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(self.net(batch[0]), batch[1])


@faulty("UPDATE-LOST")
def best_weights_restored_each_batch() -> Built:
    """Nothing that is learnt stays."""
    return Restored(), loader(*digits())


class Closed(Lit):
    """``optimizer_step`` is overridden for a warmup, and the step itself was forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(12, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Sets the rate, calls the closure, and that is all."""
        for group in optimizer.param_groups:
            group["lr"] = min(1.0, (self.trainer.global_step + 1) / 500) * 1e-3
        optimizer_closure()


@faulty("UPDATE-LOST")
def step_forgotten_in_its_override() -> Built:
    """``optimizer.step(closure=optimizer_closure)`` is missing."""
    return Closed(), loader(*clusters())


class NoStep(ByHand):
    """Manual optimization without ``step()``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = resnet()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Clears, goes backward, and that is all."""
        self.optimizers().zero_grad()
        self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))


@faulty("UPDATE-LOST")
def backward_without_a_step() -> Built:
    """The weights never change."""
    return NoStep(), loader(*digits())


@faulty("SCHEDULE-COLLAPSED")
def every_epoch_meant_every_step_done() -> Built:
    """``ExponentialLR(gamma=0.95)`` with ``interval="step"``."""

    def schedule(optimizer: Any) -> Any:
        return {"scheduler": lr_scheduler.ExponentialLR(optimizer, 0.95), "interval": "step"}

    return Learner(resnet(), F.cross_entropy, schedule=schedule), loader(*digits()), run_of(30)


@faulty("SCHEDULE-COLLAPSED")
def decays_at_steps_for_epochs() -> Built:
    """Milestones of 30 and 60 epochs are counted in steps."""

    class Module(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.net = lenet()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            optimizer = self.optimizers()
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.lr_schedulers().step()
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
            return [optimizer], [lr_scheduler.MultiStepLR(optimizer, [30, 60, 80], 0.1)]

    return Module(), loader(*digits()), run_of(90)


@faulty("SCHEDULE-NEVER-ARRIVES")
def one_cycle_of_steps_by_epochs() -> Built:
    """``OneCycleLR`` over all steps, stepped once an epoch: it stays at a twenty-fifth."""

    class Module(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = resnet()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            steps = self.trainer.estimated_stepping_batches
            return [optimizer], [lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=int(steps))]

    return Module(), loader(*digits()), run_of(10)


@faulty("SCHEDULE-NEVER-ARRIVES")
def warmup_of_a_paper_in_a_short_run() -> Built:
    """Four thousand steps of warmup, from a paper; the run has six hundred."""

    class Module(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Words()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return next_word(self.net(batch[0][:, :-1]), batch[0][:, 1:])

        def configure_optimizers(self) -> Any:
            return la.configure_optimizers(self, "adamw", lr=1e-3, schedule="cosine", warmup=4000, total_steps=5000)

    return Module(), loader(chains()), run_of(40)


@faulty("LR-HIGH", "PROBE-DIVERGES")
def adam_at_a_tenth_for_a_perceptron() -> Built:
    """Adam at 0.1 for a perceptron of three hidden layers."""
    net = dense(64, 128, 128, 128, 10)
    return Learner(net, F.cross_entropy, of(torch.optim.Adam, lr=0.1)), loader(*digits())


@faulty("LR-HIGH", "PROBE-DIVERGES")
def regression_by_sgd_at_ten() -> Built:
    """A rate of 10 for a regression."""
    x, y = curve()
    made = of(torch.optim.SGD, lr=10.0)
    return Learner(perceptron(6, 1), lambda o, t: F.mse_loss(o[:, 0], t), made), loader(x, y)


@faulty("LR-HIGH", "PROBE-DIVERGES")
def rate_of_adamw_for_lion() -> Built:
    """Lion at 0.03 for a language model."""

    class Module(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Words()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return next_word(self.net(batch[0][:, :-1]), batch[0][:, 1:])

        def configure_optimizers(self) -> Any:
            return la.configure_optimizers(self, "lion", lr=0.03, schedule="constant")

    return Module(), loader(chains()), run_of(40)


@faulty("LR-LOW")
def ten_to_the_minus_seven() -> Built:
    """A rate for the last epochs of a fine-tuning, for a net that starts from nothing."""
    return Learner(resnet(), F.cross_entropy, of(torch.optim.AdamW, lr=1e-7)), loader(*digits()), run_of(10)


@faulty("LR-LOW")
def sgd_at_a_rate_of_adam() -> Built:
    """Plain SGD at 1e-5 for factors of users and things."""

    def loss(module: Any, batch: Any) -> Tensor:
        who, what, stars = batch
        return F.mse_loss(3.4 + (module.user(who) * module.thing(what)).sum(1), stars)

    parts = {"user": nn.Embedding(60, 8), "thing": nn.Embedding(40, 8)}
    for table in parts.values():
        nn.init.normal_(table.weight, std=0.1)
    return Steps(loss, of(torch.optim.SGD, lr=1e-5), **parts), loader(*liked(), size=64), run_of(20)


@faulty("EPS-HIGH")
def epsilon_of_ten() -> Built:
    """``eps=10`` for a misread page."""
    return Learner(lenet(), F.cross_entropy, of(torch.optim.Adam, lr=1e-3, eps=10.0)), loader(*digits())


@faulty("CLIP-ALWAYS")
def clipped_away_under_sgd() -> Built:
    """``gradient_clip_val=1e-4`` and SGD."""
    made = of(torch.optim.SGD, lr=0.05, momentum=0.9)
    return Learner(resnet(), F.cross_entropy, made), loader(*digits()), run_of(10, gradient_clip_val=1e-4)


@faulty("INPUT-SCALE", "IGNORES-INPUT")
def sound_scaled_to_nothing() -> Built:
    """The wave is divided by 32,768 though it was between −1 and 1 already; a large bias drowns it."""
    x, y = tones()
    net = nn.Sequential(
        nn.Unflatten(1, (1, 512)), nn.Conv1d(1, 16, 16, stride=4), nn.ReLU(), nn.AdaptiveMaxPool1d(4), nn.Flatten(),
        nn.Linear(64, 5),
    )  # fmt: skip
    return Learner(net, F.cross_entropy), loader(x / 32768, y)


@faulty("ZERO-GRADIENT", "DEAD-UNITS", "CANNOT-OVERFIT")
def everything_through_a_unit_of_sign() -> Built:
    """A bottleneck of one unit behind a hard threshold: twelve columns become nought or one."""
    x, y = clusters()
    net = nn.Sequential(nn.Linear(12, 1), nn.Hardtanh(0.0, 1e-3), nn.Linear(1, 4))
    return Learner(net, F.cross_entropy), loader(x, y)


@faulty("BATCH-MIXING", "SOFTMAX-DIM")
def normalised_by_the_whole_batch() -> Built:
    """``softmax(dim=0)`` of attention's weights: samples compete with one another."""
    x, y = waves()

    def loss(module: Any, batch: Any) -> Tensor:
        h = torch.tanh(module.inside(batch[0]))
        weight = torch.softmax(module.score(h), dim=0)
        return F.cross_entropy(module.head((weight * h).sum(1)), batch[1])

    g = generator()
    order = torch.randperm(len(x), generator=g)
    parts = {"inside": nn.Linear(3, 24), "score": nn.Linear(24, 1), "head": nn.Linear(24, 4)}
    return Steps(loss, of(torch.optim.Adam, lr=3e-3), **parts), loader(x[order], y[order])
