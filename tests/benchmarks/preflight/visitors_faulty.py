"""An eighth round of faulty cases, after the seventh had been mended: what forums and issues tell, in other tasks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import chains, clusters, curve, loader, pictures, rows
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit, Unet, masks, moves
from tests.benchmarks.preflight.parts import Attention, Built, convnet, perceptron
from tests.benchmarks.preflight.register import faulty


@faulty("BROADCAST")
def advantage_of_column_and_row() -> Built:
    """A value in a column is taken from returns in a row, and squared by a power."""

    class Critic(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.value = perceptron(4, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            gap = batch["returns"] - self.value(batch["obs"])
            return 0.5 * gap.pow(2).mean()

    m = moves()
    return Critic(), rows(obs=m["obs"], returns=m["reward"])


@faulty("BROADCAST")
def quantiles_against_a_row() -> Built:
    """A pinball loss by ``torch.max``, of the median alone, whose column was kept."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(6, 1)

        def pinball(self, told: Tensor, y: Tensor, q: float = 0.5) -> Tensor:
            miss = y - told
            return torch.max(q * miss, (q - 1) * miss).mean()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.pinball(self.net(batch[0]), batch[1])

    return Model(), loader(*curve())


@faulty("DOUBLE-SOFTMAX")
def token_probabilities_to_cross_entropy() -> Built:
    """Permuted to (N, C, T) after the softmax."""

    class Tagger(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.block, self.head = nn.Embedding(24, 24), Attention(24, causal=False), nn.Linear(24, 5)

        def forward(self, words: Tensor) -> Tensor:
            return torch.softmax(self.head(self.block(self.table(words))), dim=2)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch["words"]).permute(0, 2, 1), batch["tags"])

    words = chains()
    return Tagger(), rows(words=words, tags=words % 5, size=16)


@faulty("DOUBLE-SIGMOID")
def discriminator_ends_in_a_sigmoid() -> Built:
    """A GAN by hand with BCEWithLogitsLoss."""

    class Gan(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.g, self.d = perceptron(8, 12), nn.Sequential(perceptron(12, 1), nn.Sigmoid())
            self.criterion = nn.BCEWithLogitsLoss()

        def training_step(self, batch: Any, batch_idx: int) -> None:
            opt_g, opt_d = self.optimizers()
            x = batch[0]
            one, none = torch.ones(len(x), 1), torch.zeros(len(x), 1)
            fake = self.g(torch.randn(len(x), 8))
            opt_d.zero_grad()
            self.manual_backward(self.criterion(self.d(x), one) + self.criterion(self.d(fake.detach()), none))
            opt_d.step()
            opt_g.zero_grad()
            self.manual_backward(self.criterion(self.d(fake), one))
            opt_g.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in (self.g, self.d)]

    return Gan(), loader(*clusters())


@faulty("NLL-NEEDS-LOG")
def student_and_teacher_both_probable() -> Built:
    """KLDivLoss by a helper function: softmax of both."""

    def distil(student: Tensor, teacher: Tensor, t: float = 3.0) -> Tensor:
        return nn.KLDivLoss(reduction="batchmean")(F.softmax(student / t, 1), F.softmax(teacher / t, 1)) * t * t

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.student, self.teacher = convnet(), convnet().requires_grad_(False).eval()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            with torch.no_grad():
                wanted = self.teacher(batch[0])
            return distil(self.student(batch[0]), wanted)

    return Model(), loader(*pictures())


@faulty("LOG-OF-PROBABILITY")
def entropy_by_hand() -> Built:
    """A2C whose policy is a softmax, and its logarithm is taken by hand."""

    class A2c(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.policy, self.value = (
                nn.Sequential(perceptron(4, 32), nn.Tanh()),
                nn.Linear(32, 3),
                nn.Linear(32, 1),
            )

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            h = self.body(batch["obs"])
            odds, value = torch.softmax(self.policy(h), -1), self.value(h).squeeze(-1)
            told = torch.log(odds)
            gain = (batch["reward"] - value).detach()
            actor = -(told.gather(1, batch["action"][:, None]).squeeze(1) * gain).mean()
            return actor + 0.5 * F.mse_loss(value, batch["reward"]) + 0.01 * (odds * told).sum(-1).mean()

    m = moves()
    return A2c(), rows(obs=m["obs"], action=m["action"], reward=m["reward"])


@faulty("SOFTMAX-DIM")
def log_softmax_over_the_batch() -> Built:
    """``nn.LogSoftmax(dim=0)`` at the end of a Sequential, and NLLLoss."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = nn.Sequential(perceptron(12, 4), nn.LogSoftmax(dim=0)), nn.NLLLoss()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.criterion(self.net(batch[0]), batch[1])

    return Model(), loader(*clusters())


@faulty("RELU-LOGITS")
def rectified_class_scores() -> Built:
    """A list of (layer, ReLU) pairs, the last one too."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            widths = [12, 32, 32, 4]
            layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
            self.net = nn.Sequential(*layers)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    return Model(), loader(*clusters())


@faulty("OUTPUT-RANGE")
def softplus_for_signed_targets() -> Built:
    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(perceptron(6, 1), nn.Softplus())

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.smooth_l1_loss(self.net(batch[0]).flatten(), batch[1])

    return Model(), loader(*curve())


@faulty("WRONG-SIGN")
def overlap_made_smaller() -> Built:
    """The Dice coefficient is returned where 1 minus it was meant."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.unet = Unet()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            p = self.unet(batch[0])[:, 0].sigmoid()
            return (2 * (p * batch[1]).sum() + 1) / (p.sum() + batch[1].sum() + 1)

    return Model(), loader(*masks(), size=16)


@faulty("WRONG-SIGN")
def bound_with_one_wrong_sign() -> Built:
    """The divergence of a VAE is subtracted: the code runs away."""

    class Vae(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = perceptron(12, 8), perceptron(4, 12)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            mean, log_var = self.encoder(batch[0]).chunk(2, -1)
            again = self.decoder(mean + (0.5 * log_var).exp() * torch.randn_like(mean))
            far = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1).mean()
            return F.mse_loss(again, batch[0]) - far

    return Vae(), loader(*clusters())
