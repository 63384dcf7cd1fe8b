"""The sixth round's other healthy cases: generative, contrastive, fine-tuned, ranked, and parts of odd shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import clusters, loader
from tests.benchmarks.preflight.outsiders_parts import (
    ByHand,
    Lit,
    Towers,
    masks,
    views_of_things,
)
from tests.benchmarks.preflight.parts import Built, perceptron
from tests.benchmarks.preflight.register import healthy


@healthy
def picture_and_words() -> Built:
    """CLIP (Radford et al. 2021): the likeness of all pairs, and a learnt temperature."""

    class Clip(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.towers = Towers()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            likeness = self.towers(*batch)
            which = torch.arange(len(likeness), device=self.device)
            return (F.cross_entropy(likeness, which) + F.cross_entropy(likeness.T, which)) / 2

    return Clip(), loader(*views_of_things())


@healthy
def supervised_contrast() -> Built:
    """Khosla et al. 2020, by hand: all of the same class are pulled together."""

    class SupCon(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = perceptron(12, 32), nn.Linear(32, 16)

        def contrast(self, z: Tensor, y: Tensor, temperature: float = 0.1) -> Tensor:
            z = F.normalize(z, dim=1)
            likeness = z @ z.T / temperature
            likeness = likeness - 1e9 * torch.eye(len(z), device=z.device)
            told = likeness - likeness.logsumexp(1, keepdim=True)
            same = (y[:, None] == y[None]).float().fill_diagonal_(0)
            return -((told * same).sum(1) / same.sum(1).clamp_min(1)).mean()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            both = torch.cat([x + 0.1 * torch.randn_like(x) for _ in range(2)])
            return self.contrast(self.head(self.encoder(both)), y.repeat(2))

    return SupCon(), loader(*clusters())


@healthy
def redundancy_reduced() -> Built:
    """Barlow Twins (Zbontar et al. 2021): features are correlated over the batch, in the loss alone."""

    class Twins(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(perceptron(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 24))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            a, b = (self.net(x + 0.2 * torch.randn_like(x)) for _ in range(2))
            a, b = ((z - z.mean(0)) / (z.std(0) + 1e-5) for z in (a, b))
            c = a.T @ b / len(x)
            off = c - torch.diag_embed(c.diagonal())
            return (1 - c.diagonal()).square().sum() + 5e-3 * off.square().sum()

    return Twins(), loader(*clusters(), size=64)


@healthy
def angles_with_a_margin() -> Built:
    """ArcFace (Deng et al. 2019): a scale of 16 and a margin of 0.3 make the first loss large by design."""

    class ArcFace(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.centres = perceptron(12, 16), nn.Parameter(torch.randn(4, 16))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            cosine = F.linear(F.normalize(self.body(x)), F.normalize(self.centres)).clamp(-0.999, 0.999)
            angle = torch.acos(cosine) + 0.3 * F.one_hot(y, 4)
            return F.cross_entropy(16 * torch.cos(angle), y)

    return ArcFace(), loader(*clusters())


@healthy
def pairs_of_plus_and_minus_one() -> Built:
    class Pairs(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.criterion = (
                perceptron(20, 16),
                perceptron(14, 16),
                nn.CosineEmbeddingLoss(margin=0.2),
            )

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            a, b, alike = batch
            return self.criterion(self.left(a), self.right(b), alike)

    a, b = views_of_things()
    alike = 1.0 - 2.0 * (torch.arange(len(a)) % 2)
    return Pairs(), loader(a, torch.where(alike[:, None] > 0, b, b.roll(5, 0)), alike)


@healthy
def bound_summed_over_pixels() -> Built:
    """A VAE as the tutorials have it: summed over pixels, divided by the batch, with a warm-up of the second term."""

    class Vae(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 16))
            self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 256))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[1][:, None]
            mean, log_var = self.encoder(x).chunk(2, -1)
            z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
            again = F.binary_cross_entropy_with_logits(self.decoder(z).view_as(x), x, reduction="sum") / len(x)
            far = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1).mean()
            return again + min(1.0, 0.01 + self.global_step / 1000) * far

    return Vae(), loader(*masks(), size=32)


@healthy
def choices_by_gumbel() -> Built:
    """A code of letters, drawn straight through (Jang et al. 2017)."""

    class Letters(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = perceptron(12, 4 * 6), perceptron(4 * 6, 12)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            code = F.gumbel_softmax(self.encoder(x).view(-1, 4, 6), tau=1.0, hard=True)
            return F.mse_loss(self.decoder(code.flatten(1)), x)

    return Letters(), loader(*clusters())


@healthy
def wasserstein_with_clipped_weights() -> Built:
    """WGAN (Arjovsky et al. 2017): five steps of the critic for one of the generator."""

    class Wgan(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.g, self.d = perceptron(8, 12), perceptron(12, 1)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            opt_g, opt_d = self.optimizers()
            x = batch[0]
            noise = torch.randn(len(x), 8, device=x.device)
            self.toggle_optimizer(opt_d)
            opt_d.zero_grad()
            gap = self.d(self.g(noise).detach()).mean() - self.d(x).mean()
            self.manual_backward(gap)
            opt_d.step()
            with torch.no_grad():
                for p in self.d.parameters():
                    p.clamp_(-0.2, 0.2)
            self.untoggle_optimizer(opt_d)
            self.log("gap", gap)
            if batch_idx % 5 == 4:
                self.toggle_optimizer(opt_g)
                opt_g.zero_grad()
                self.manual_backward(-self.d(self.g(noise)).mean())
                opt_g.step()
                self.untoggle_optimizer(opt_g)

        def configure_optimizers(self) -> Any:
            return [torch.optim.RMSprop(net.parameters(), lr=5e-4) for net in (self.g, self.d)]

    return Wgan(), loader(*clusters())


@healthy
def flow_matched() -> Built:
    """Lipman et al. 2023: the velocity between noise and data, at a random time."""

    class Flow(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(13, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 12))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            t, noise = torch.rand(len(x), 1, device=x.device), torch.randn_like(x)
            velocity = self.net(torch.cat([t * x + (1 - t) * noise, t], 1))
            return F.mse_loss(velocity, x - noise)

    return Flow(), loader(*clusters())
