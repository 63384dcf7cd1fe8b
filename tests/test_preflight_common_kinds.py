"""Kinds of faults that public collections have most of, and what looks like them in healthy models."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import chains, clusters, generator, loader, pictures
from tests.benchmarks.preflight.parts import Built, Learner, Stepped, convnet, perceptron, sgd
from tests.preflight_kinds import Kinds, test_kind_is_named_by_its_cause, test_what_looks_like_the_kind_is_let_pass  # noqa: F401

KINDS = Kinds()
sick, healthy = KINDS.sick, KINDS.healthy


@sick("PADDING-COUNTS")
def padding_behind_a_shifted_label() -> Built:
    """The first token is given, so labels are one place shorter than what the batch has."""
    tokens = chains() + 1
    real = torch.arange(17) < torch.randint(6, 18, (len(tokens), 1), generator=generator())

    def step(m: Any, batch: Any) -> Tensor:
        x, y = batch[0][:, :-1], batch[0][:, 1:]
        return F.cross_entropy(m.head(m.gru(m.words(x))[0]).flatten(0, 1), y.flatten())

    parts = {"words": nn.Embedding(25, 24), "gru": nn.GRU(24, 24, batch_first=True), "head": nn.Linear(24, 25)}
    return Stepped(step, **parts), loader(tokens * real)


def shares(axis: int) -> Built:
    """Exponentials over their sum along ``axis``, and the logarithm of the right class's share."""

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        share = logits.exp() / logits.exp().sum(axis, keepdim=True)
        return -(F.one_hot(y, 4) * torch.log(share + 1e-9)).sum(1).mean()

    return Learner(perceptron(12, 4), loss), loader(*clusters())


@sick("SOFTMAX-DIM")
def shares_of_the_batch_by_hand() -> Built:
    """Each class shares itself out over the samples."""
    return shares(0)


@healthy
def shares_of_the_classes_by_hand() -> Built:
    """Each sample shares itself out over the classes."""
    return shares(1)


def softmax_and_binary_loss(labels: Tensor) -> Built:
    """Four clusters, a softmax at the end, and ``BCELoss``."""
    return Learner(nn.Sequential(perceptron(12, 4), nn.Softmax(1)), F.binary_cross_entropy), loader(clusters()[0], labels)


@sick("OUTPUT-RANGE")
def several_labels_under_a_softmax() -> Built:
    """Half of the labels hold of each sample."""
    return softmax_and_binary_loss((clusters()[0][:, :4] > 0).float())


@healthy
def one_label_under_a_softmax_and_binary_loss() -> Built:
    """Keras' ``binary_crossentropy`` of one-hot labels: no good idea, but it learns."""
    return softmax_and_binary_loss(F.one_hot(clusters()[1], 4).float())


@sick("UPDATE-LOST")
def weights_put_back_before_each_batch() -> Built:
    """Each epoch was to begin with the same weights; each batch does."""

    class Back(Learner):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            with torch.no_grad():
                for weight, first in zip(self.net.parameters(), self.first, strict=True):
                    weight.copy_(first)

    module = Back(perceptron(12, 4), F.cross_entropy)
    module.first = [weight.detach().clone() for weight in module.net.parameters()]
    return module, loader(*clusters())


@healthy
def hook_before_each_batch_that_counts() -> Built:
    """It draws nothing and moves nothing."""

    class Counting(Learner):
        seen = 0

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.seen += 1

    return Counting(perceptron(12, 4), F.cross_entropy), loader(*clusters())


@sick("LR-LOW")
def sgd_that_moves_nothing_in_its_run() -> Built:
    """Three hundred steps of a hundred-thousandth."""
    trainer = L.Trainer(max_epochs=10, logger=False)
    return Learner(perceptron(12, 4), F.cross_entropy, sgd(3e-5, momentum=0.0)), loader(*clusters()), {"trainer": trainer}


@sick("LR-HIGH")
def sgd_that_throws_the_weights_away() -> Built:
    """The loss is first many times as large, and then stands above its start."""
    return Learner(convnet(), F.cross_entropy, sgd(10.0, momentum=0.0)), loader(*pictures())


@sick("SYMMETRIC-INIT")
def all_weights_at_nought_and_biases_drawn() -> Built:
    """The last layer's biases get a gradient, and its units are one unit."""
    net = perceptron(12, 4)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.weight)
    return Learner(net, F.cross_entropy, sgd(0.01)), loader(*clusters())


@sick("DUPLICATES")
def eight_pictures_of_few_grey_levels() -> Built:
    """Sixteen levels at each of 144 pixels: chance makes no two of them alike."""
    x, y = pictures()
    drawn = torch.randint(0, 8, (640,), generator=generator())
    return Learner(convnet(), F.cross_entropy), loader((4 * x).round().clamp(-8, 7)[drawn] / 4, y[drawn])


@healthy
def pictures_with_a_black_corner_reproduced() -> Built:
    """The first pixel is always 0, which does not fall from sample to sample."""
    x, _ = pictures()
    x[..., 0, 0] = 0
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 144))
    return Stepped(lambda m, batch: F.mse_loss(m.net(batch[0]), batch[0].flatten(1)), net=net), loader(x)


@healthy
def noam_with_a_rate_of_one() -> Built:
    """The schedule's factor is the rate, and its peak is 0.004."""

    def noam(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        def rate(step: int) -> float:
            return float(512**-0.5 * min((step + 1) ** -0.5, (step + 1) * 100**-1.5))

        return {"scheduler": lr_scheduler.LambdaLR(optimizer, rate), "interval": "step"}

    module = Learner(perceptron(12, 4), F.cross_entropy, lambda p: torch.optim.Adam(p, lr=1.0, betas=(0.9, 0.98)), noam)
    return module, loader(*clusters()), {"trainer": L.Trainer(max_epochs=20, logger=False)}


@healthy
def one_graph_again_and_again() -> Built:
    """All of the data is one graph, which a list holds once for each step of an epoch."""
    x, y = clusters(120)
    edges = torch.randint(0, 120, (2, 400), generator=generator())

    def step(m: Any, batch: Any) -> Tensor:
        x, edges, y = batch
        h = m.first(x).relu()
        return F.cross_entropy(m.last(h + torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]) / 8), y)

    return Stepped(step, first=nn.Linear(12, 24), last=nn.Linear(24, 4)), DataLoader([(x, edges, y)] * 16, batch_size=None)


@healthy
def logarithms_of_counts_are_told() -> Built:
    """The batch has counts up to thousands, and the step compares with their logarithms."""
    x = torch.randn(960, 6, generator=generator())
    count = torch.exp(4 + x[:, 0] + 0.5 * x[:, 1]).round() + 1

    def step(m: Any, batch: Any) -> Tensor:
        return ((m.net(batch[0])[:, 0] - batch[1].log()) ** 2).mean()

    return Stepped(step, net=perceptron(6, 1)), loader(x, count)
