"""The twelfth round's faults of the loss call: wrong or missing last activations, wrong losses, signs, axes and shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributions, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import clusters, curve, loader, pictures, rows
from tests.benchmarks.preflight.outsiders_parts import Lit, masks, moves
from tests.benchmarks.preflight.parts import Built, convnet, perceptron, sgd
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.settlers_parts import Loss, Tagger, tagged
from tests.benchmarks.preflight.travellers_parts import depths, pixelwise, subjects
from tests.benchmarks.preflight.wayfarers_parts import Reader, Supervised, kl_to_normal, reviews


@faulty("BROADCAST")
def density_of_column_and_row() -> Built:
    """``Normal(mean, deviation)`` of (N, 1), ``log_prob`` of targets of (N,): N × N densities."""

    def likelihood(net: nn.Module, batch: Any) -> Tensor:
        mean, raw = net(batch[0]).split(1, -1)
        return -distributions.Normal(mean, F.softplus(raw) + 1e-3).log_prob(batch[1]).mean()

    return Loss(perceptron(6, 2), likelihood), loader(*curve())


@faulty("BROADCAST")
def end_of_the_game_as_a_column() -> Built:
    """``reward + 0.99 * q * (1 - done)``: the buffer stores ``done`` as (N, 1), the rest as (N,)."""

    class Dqn(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.online, self.target = perceptron(4, 3), perceptron(4, 3).requires_grad_(False)
            self.target.load_state_dict(self.online.state_dict())

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            q = self.online(batch["obs"]).gather(1, batch["action"][:, None])[:, 0]
            with torch.no_grad():
                aim = batch["reward"] + 0.99 * self.target(batch["next_obs"]).amax(1) * (1 - batch["done"])
            return F.smooth_l1_loss(q, aim)

    data = moves()
    return Dqn(), rows(**{**data, "done": data["done"][:, None]})


class Vae(Lit):
    """Pictures between 0 and 1; what the decoder gives passes ``last``."""

    def __init__(self, off: Any) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 144), nn.Sigmoid())
        self.off = off

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The negative bound."""
        mean, log_var = self.encoder(batch[0]).chunk(2, 1)
        told = self.decoder(mean + torch.randn_like(mean) * (0.5 * log_var).exp())
        return (self.off(told, batch[0].flatten(1)).sum(1) + kl_to_normal(mean, log_var)).mean()


@faulty("DOUBLE-SIGMOID")
def bernoulli_takes_shares_for_logits() -> Built:
    """``Bernoulli(logits=…)`` of a decoder that ends in a sigmoid."""

    def off(told: Tensor, x: Tensor) -> Tensor:
        return -distributions.Bernoulli(logits=told).log_prob((x > 0.5).float())

    x, y = pictures()
    return Vae(off), loader(x.sigmoid(), y)


@faulty("DOUBLE-SOFTMAX")
def forward_gives_what_the_metric_wants() -> Built:
    """``forward`` ends in a softmax for AUROC, and the step smooths and weighs it in ``cross_entropy``."""

    class Opinions(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Reader()
            self.register_buffer("weight", torch.tensor([1.0, 1.2, 0.9]))

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.net(batch["input_ids"], batch["attention_mask"] == 0).softmax(-1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch), batch["labels"], weight=self.weight, label_smoothing=0.05)

    return Opinions(), rows(**reviews())


@faulty("NLL-NEEDS-LOG")
def cross_entropy_without_its_logarithm() -> Built:
    """``-(one_hot * softmax).sum(1).mean()``: the logarithm was lost."""

    def loss(scores: Tensor, y: Tensor) -> Tensor:
        return -(F.one_hot(y, 4) * scores.softmax(1)).sum(1).mean()

    return Supervised(perceptron(12, 4), loss), loader(*clusters())


@faulty("OUTPUT-RANGE", "NLL-NEEDS-LOG", "ZERO-GRADIENT")
def entropy_of_clamped_scores() -> Built:
    """DeepLocalize: the sigmoid is missing; scores are clamped into (0, 1) "against NaN"."""

    def loss(scores: Tensor, y: Tensor) -> Tensor:
        p = scores.squeeze(1).clamp(1e-7, 1 - 1e-7)
        return -(y * p.log() + (1 - y) * (1 - p).log()).mean()

    x, y = clusters(classes=2)
    return Supervised(perceptron(12, 1), loss), loader(x, y.float())


@faulty("OUTPUT-RANGE", "NON-FINITE", "NLL-NEEDS-LOG")
def poisson_rates_below_nothing() -> Built:
    """``PoissonNLLLoss(log_input=False)`` of what a linear layer gives: rates below zero."""
    x, y = curve()
    counts = torch.poisson((0.5 * y).exp() * 2)
    loss = nn.PoissonNLLLoss(log_input=False)
    return Supervised(perceptron(6, 1), lambda told, y: loss(told.squeeze(1), y)), loader(x, counts)


@faulty("SOFTMAX-DIM")
def log_softmax_over_places() -> Built:
    """``log_softmax(dim=1)`` of (batch, place, tag), then ``NLLLoss`` of the flattened."""

    class OverPlaces(Tagger):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            shares = F.log_softmax(self.scores(batch), dim=1)
            return F.nll_loss(shares.view(-1, 3), batch["labels"].view(-1), ignore_index=-100)

    return OverPlaces(nn.GRU), rows(**tagged())


@faulty("ONE-CLASS", "SOFTMAX-DIM", "ZERO-GRADIENT")
def softmax_of_a_single_map() -> Built:
    """A segmentation net with one channel and ``activation="softmax2d"``: every pixel is 1."""
    x, inside = masks()
    net = nn.Sequential(pixelwise(1, 1), nn.Softmax2d())
    return Supervised(net, lambda told, y: F.binary_cross_entropy(told.squeeze(1), y)), loader(x, inside, size=16)


@faulty("RELU-LOGITS")
def labels_behind_a_rectifier() -> Built:
    """Each block of ``make_layer`` ends in ReLU, the last one too; ``BCEWithLogitsLoss`` over six subjects."""

    def layer(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())

    net = nn.Sequential(layer(16, 48), layer(48, 48), layer(48, 6))
    return Supervised(net, nn.BCEWithLogitsLoss()), loader(*subjects())


@faulty("OUTPUT-RANGE")
def depth_behind_relu6() -> Built:
    """Depth of up to ten metres from a net whose last activation, like all of MobileNet's, stops at six."""
    x, far = depths()
    metres = 10 * (far - far.min()) / (far.max() - far.min())
    net = nn.Sequential(pixelwise(3, 1), nn.ReLU6())
    return Supervised(net, lambda told, y: F.l1_loss(told.squeeze(1), y)), loader(x, metres, size=16)


@faulty("OUTPUT-RANGE")
def class_numbers_by_a_sigmoid() -> Built:
    """DeepFD: four classes, one output behind a sigmoid, squared error against the class's number."""
    x, y = clusters()
    net = nn.Sequential(perceptron(12, 1), nn.Sigmoid())
    return Supervised(net, lambda told, y: F.mse_loss(told.squeeze(1), y.float())), loader(x, y)


@faulty("LABEL-RANGE", "WRONG-SIGN")
def target_first_scores_second() -> Built:
    """Keras' order of arguments: ``binary_cross_entropy_with_logits(y_true, y_pred)``."""
    x, y = clusters(classes=2)
    loss = F.binary_cross_entropy_with_logits
    return Supervised(perceptron(12, 1), lambda told, y: loss(y, told.squeeze(1))), loader(x, y.float())


@faulty("WRONG-SIGN", "PROBE-DIVERGES")
def volume_subtracted_from_the_density() -> Built:
    """A coupling flow whose log-determinant enters with the wrong sign: scales grow without bound."""

    class Flow(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.nets = nn.ModuleList(perceptron(6, 12) for _ in range(4))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            a, b = batch[0].chunk(2, 1)
            volume = torch.zeros(len(a))
            for net in self.nets:
                scale, shift = net(a).chunk(2, 1)
                a, b, volume = b * scale.exp() + shift, a, volume + scale.sum(1)
            z = torch.cat([a, b], 1)
            return (0.5 * z.square().sum(1) + volume).mean()

    return Flow(), loader(*clusters())


@faulty("WRONG-SIGN")
def soft_f1_to_be_minimised() -> Built:
    """The soft F1 score itself is returned; it should be one minus it."""

    def score(told: Tensor, y: Tensor) -> Tensor:
        p = told.sigmoid()
        hit = (p * y).sum(0)
        return (2 * hit / (p.sum(0) + y.sum(0) + 1e-8)).mean()

    return Supervised(perceptron(16, 6), score), loader(*subjects())


@faulty("LOSS-IS-SUM")
def sum_over_all_tokens() -> Built:
    """``reduction="sum"`` over a batch of sentences, and SGD at 0.1."""

    class Summed(Tagger):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.scores(batch).flatten(0, 1), batch["labels"].flatten(), reduction="sum")

        def configure_optimizers(self) -> Any:
            return sgd(0.1)(self.parameters())

    return Summed(nn.LSTM), rows(**tagged())


@faulty("ONE-CLASS")
def one_channel_for_cross_entropy() -> Built:
    """``classes=1`` for foreground against background; ``CrossEntropyLoss`` takes the mask of floats for shares."""
    x, inside = masks()
    return Supervised(pixelwise(1, 1), nn.CrossEntropyLoss()), loader(x, inside[:, None], size=16)


@faulty("DOUBLE-SOFTMAX")
def share_of_shares_in_distillation() -> Built:
    """Networks end in softmax; the loss takes ``log_softmax`` of them once more beside the hard labels."""
    net = nn.Sequential(convnet(), nn.Softmax(dim=-1))

    def loss(told: Tensor, y: Tensor) -> Tensor:
        soft = F.one_hot(y, 4) * 0.8 + 0.05
        return F.kl_div(F.log_softmax(told / 2.0, 1), soft, reduction="batchmean")

    return Supervised(net, loss), loader(*pictures())
