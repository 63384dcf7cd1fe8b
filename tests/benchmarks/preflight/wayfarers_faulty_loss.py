"""The eleventh round's faults of the loss call."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import clusters, curve, loader, pictures, rows, waves
from tests.benchmarks.preflight.outsiders_parts import Lit, Unet, masks, views_of_things
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.travellers_parts import pixelwise
from tests.benchmarks.preflight.wayfarers_parts import Supervised, dice, kl_to_normal, streets, utterances


@faulty("BROADCAST")
def weighted_squares_of_a_column() -> Built:
    """Predictions (N, 1), targets and weights (N,): the weighted mean is over N × N."""

    class Weighted(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(6, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            off = self.net(batch["x"]) - batch["y"]
            return (batch["weight"] * off.pow(2)).mean()

    x, y = curve()
    return Weighted(), rows(x=x, y=y, weight=torch.ones(len(y)))


@faulty("DOUBLE-SOFTMAX")
def mixup_of_probabilities() -> Built:
    """``forward`` ends in softmax; two mixed labels, smoothed, go to ``cross_entropy``."""

    class Mixed(Supervised):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            share = float(torch.distributions.Beta(0.4, 0.4).sample())
            order = torch.randperm(len(x))
            told = self(share * x + (1 - share) * x[order])
            return share * self.criterion(told, y) + (1 - share) * self.criterion(told, y[order])

    net = nn.Sequential(perceptron(12, 4), nn.Softmax(dim=-1))
    return Mixed(net, nn.CrossEntropyLoss(label_smoothing=0.1)), loader(*clusters())


@faulty("DOUBLE-SIGMOID")
def sigmoid_in_the_unet() -> Built:
    """A segmentation net that ends in sigmoid, with ``BCEWithLogitsLoss`` and a dice loss of its own sigmoid."""

    def both(told: Tensor, mask: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(told, mask) + dice(told, mask)

    x, inside = masks()
    return Supervised(nn.Sequential(Unet(1), nn.Sigmoid()), both), loader(x, inside[:, None], size=16)


@faulty("NLL-NEEDS-LOG")
def speech_by_ctc_of_probabilities() -> Built:
    """``softmax`` where ``CTCLoss`` wants ``log_softmax``."""

    class Spelling(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(8, 32, batch_first=True, bidirectional=True), nn.Linear(64, 7)
            self.ctc = nn.CTCLoss(blank=0)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            shares = F.softmax(self.head(self.cell(batch["frames"])[0]), dim=2).permute(1, 0, 2)
            return self.ctc(shares, batch["letters"], batch["long"], batch["spelt"])

    return Spelling(), utterances()


@faulty("NLL-NEEDS-LOG")
def student_told_by_probabilities() -> Built:
    """``kl_div`` wants the student's logarithms and gets its probabilities."""

    class Student(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.teacher = perceptron(12, 4), perceptron(12, 4).requires_grad_(False)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            scores = self.net(x)
            with torch.no_grad():
                taught = self.teacher(x)
            soft = F.kl_div(F.softmax(scores / 4, 1), F.softmax(taught / 4, 1), reduction="batchmean")
            return F.cross_entropy(scores, y) + 16 * soft

    return Student(), loader(*clusters())


@faulty("SOFTMAX-DIM")
def attention_pool_over_features() -> Built:
    """Weights of places are normalised over the last axis, of length 1: each is 1."""

    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.score, self.head = nn.GRU(3, 24, batch_first=True), nn.Linear(24, 1), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            states, _ = self.cell(x)
            return self.head((self.score(states).softmax(-1) * states).sum(1))

    return Supervised(Pool(), nn.CrossEntropyLoss()), loader(*waves())


@faulty("RELU-LOGITS")
def relu_after_the_last_layer() -> Built:
    """A loop adds Linear and ReLU for each width, the last one too."""
    widths, layers = [12, 48, 48, 4], []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return Supervised(nn.Sequential(*layers), nn.CrossEntropyLoss()), loader(*clusters())


@faulty("OUTPUT-RANGE")
def sigmoid_decoder_of_standardised_pictures() -> Built:
    """A VAE after a tutorial for MNIST in [0, 1], on pictures that were standardised since."""

    class Vae(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 16))
            self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 144), nn.Sigmoid())

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, _ = batch
            mean, log_var = self.encoder(x).chunk(2, 1)
            told = self.decoder(mean + torch.randn_like(mean) * (0.5 * log_var).exp())
            kl = kl_to_normal(mean, log_var).mean()
            return F.mse_loss(told, x.flatten(1), reduction="sum") / len(x) + kl

    return Vae(), loader(*pictures())


@faulty("ONE-CLASS")
def one_output_for_two_kinds() -> Built:
    """``num_classes=1`` for a binary task, and ``cross_entropy``: its loss is 0 whatever is said."""
    x, y = clusters(classes=2)
    return Supervised(perceptron(12, 1), nn.CrossEntropyLoss()), loader(x, y.float()[:, None])


@faulty("SOFTMAX-DIM", "BATCH-MIXING")
def classes_viewed_away() -> Built:
    """``logits.view(-1, 3)`` of (N, 3, H, W): no permute before, so that a row is three neighbours of one class."""

    class Streets(Supervised):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, mask = batch
            return self.criterion(self(x).view(-1, 3), mask.view(-1))

    return Streets(pixelwise(3, 3), nn.CrossEntropyLoss(ignore_index=255)), loader(*streets(), size=16)


@faulty("WRONG-SIGN")
def likelihood_made_smaller() -> Built:
    """``Normal.log_prob`` of the targets is the loss, without its minus."""

    class Density(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(6, 2)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            mean, raw = self.net(x).unbind(-1)
            loss = torch.distributions.Normal(mean, F.softplus(raw) + 1e-3).log_prob(y).mean()
            self.log("nll", loss)
            return loss

    return Density(), loader(*curve())


@faulty("WRONG-SIGN")
def likeness_of_pairs_as_a_loss() -> Built:
    """Cosine likeness of what belongs together is returned, and so made smaller."""

    class Pairs(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.picture, self.words = perceptron(20, 16), perceptron(14, 16)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cosine_similarity(self.picture(batch[0]), self.words(batch[1])).mean()

    return Pairs(), loader(*views_of_things())


@faulty("LOSS-IS-SUM")
def summed_over_a_large_batch() -> Built:
    """``reduction="sum"`` with the rate that was found for the mean."""

    class Summed(Supervised):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    return Summed(perceptron(12, 4), nn.CrossEntropyLoss(reduction="sum")), loader(*clusters(), size=128)


@faulty("ZERO-GRADIENT", "NO-GRADIENT")
def weight_of_the_second_loss_is_zero() -> Built:
    """Two heads; the configuration has ``lambda_depth: 0``, so that one of them learns nothing."""

    class Two(Lit):
        def __init__(self, weights: dict[str, float]) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.body = nn.Sequential(nn.Linear(6, 32), nn.ReLU())
            self.sign, self.depth = nn.Linear(32, 2), nn.Linear(32, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            h, weights = self.body(x), self.hparams["weights"]
            sign = F.cross_entropy(self.sign(h), (y > 0).long())
            return weights["sign"] * sign + weights["depth"] * F.mse_loss(self.depth(h).squeeze(1), y)

    return Two({"sign": 1.0, "depth": 0.0}), loader(*curve())


@faulty("DOUBLE-SOFTMAX")
def softmax_before_log_softmax() -> Built:
    """The net's scores are made probabilities, and those get ``log_softmax`` before ``nll_loss``."""

    class Twice(Supervised):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            shares = self(x).softmax(1)
            return F.nll_loss(F.log_softmax(shares, dim=1), y)

    return Twice(convnet(), None), loader(*pictures())
