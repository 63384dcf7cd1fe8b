"""The sixteenth round's healthy models without labels: codes, rivals, noise, flows, and pairs of views."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader, default_collate

from tests.benchmarks.preflight.data import generator, loader
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.sojourners_parts import ByHand, System, batches, dense, glyphs, scaled, small_net


def plain(size: int = 32) -> DataLoader[Any]:
    """Glyphs without what they are."""
    return batches(list(scaled(glyphs()[0])), size)


class Coder(System):
    """A variational coder of the glyphs; the KL's share rises over the first steps."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 16, 4, 2, 1), nn.SiLU(), nn.Flatten(), nn.Linear(784, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 784), nn.SiLU(), nn.Unflatten(1, (16, 7, 7)))
        self.paint = nn.ConvTranspose2d(16, 1, 4, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What comes back, mean, log variance."""
        mu, logvar = self.encoder(x).chunk(2, -1)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        return self.paint(self.decoder(z)), mu, logvar

    def share(self) -> float:
        """Of the KL term."""
        return min(1.0, self.global_step / 200) * 0.5

    def compute(self, batch: Any) -> Tensor:
        """Both parts, by the sample."""
        back, mu, logvar = self(batch)
        kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(-1).mean()
        reconstruction = F.mse_loss(back, batch, reduction="none").sum((1, 2, 3)).mean()
        self.log_dict({"kl": kl, "reconstruction": reconstruction})
        return reconstruction + self.share() * kl


@healthy
def coder_whose_prior_comes_slowly() -> Built:
    """β rises from nought."""
    return Coder(), plain()


class Quantised(System):
    """A code book with straight-through gradients and a commitment (van den Oord et al. 2017, eq. 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 8, 3, 1, 1))
        self.decoder = nn.Sequential(nn.Conv2d(8, 16, 3, 1, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1))
        self.codes = nn.Parameter(0.5 * torch.randn(32, 8))

    def pick(self, z: Tensor) -> Tensor:
        """The nearest code of each place."""
        flat = z.permute(0, 2, 3, 1)
        return self.codes[torch.cdist(flat.flatten(0, 2), self.codes).argmin(-1)].view(flat.shape).permute(0, 3, 1, 2)

    def compute(self, batch: Any) -> Tensor:
        """Picture, codes, commitment."""
        z = self.encoder(batch)
        near = self.pick(z)
        back = self.decoder(z + (near - z).detach())
        return F.mse_loss(back, batch) + F.mse_loss(near, z.detach()) + 0.25 * F.mse_loss(z, near.detach())


@healthy
def code_book_straight_through() -> Built:
    """32 codes."""
    return Quantised(), plain()


class Rivals(ByHand):
    """Two optimizers with the hinge loss; the judge's layers have spectral norms."""

    def __init__(self) -> None:
        super().__init__()
        self.painter = nn.Sequential(nn.Linear(12, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 196), nn.Tanh())
        judge = dense(196, 64, 32, 1, act=nn.SiLU)
        self.judge = nn.Sequential(*[spectral_norm(m) if isinstance(m, nn.Linear) else m for m in judge])

    def painted(self, n: int) -> Tensor:
        """Between -2 and 2."""
        return 2 * self.painter(torch.randn(n, 12, device=self.device))

    def judge_loss(self, real: Tensor) -> Tensor:
        """Hinge of both."""
        fake = self.painted(len(real)).detach()
        return F.relu(1 - self.judge(real)).mean() + F.relu(1 + self.judge(fake)).mean()

    def painter_loss(self, n: int) -> Tensor:
        """What the judge thinks."""
        return -self.judge(self.painted(n)).mean()

    def move(self, optimizer: Any, loss: Tensor) -> None:
        """One step."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """The judge, then the painter."""
        painter, judge = self.optimizers()
        real = batch.flatten(1)
        self.move(judge, self.judge_loss(real))
        self.move(painter, self.painter_loss(len(real)))

    def configure_optimizers(self) -> Any:
        """Two."""
        return [torch.optim.Adam(net.parameters(), 2e-4, (0.0, 0.9)) for net in (self.painter, self.judge)]


@healthy
def rivals_with_hinges() -> Built:
    """The judge moves first."""
    return Rivals(), plain()


@healthy
def critic_with_a_gradient_penalty() -> Built:
    """Wasserstein; the painter moves each third step (Gulrajani et al. 2017)."""

    class Penalised(Rivals):
        def __init__(self) -> None:
            super().__init__()
            self.judge = dense(196, 64, 32, 1, act=nn.SiLU)

        def judge_loss(self, real: Tensor) -> Tensor:
            fake = self.painted(len(real)).detach()
            between = torch.lerp(real, fake, torch.rand(len(real), 1)).requires_grad_()
            slope = torch.autograd.grad(self.judge(between).sum(), between, create_graph=True)[0]
            penalty = (slope.norm(dim=-1) - 1).square().mean()
            return self.judge(fake).mean() - self.judge(real).mean() + 10 * penalty

        def training_step(self, batch: Any, batch_idx: int) -> None:
            painter, judge = self.optimizers()
            self.move(judge, self.judge_loss(batch.flatten(1)))
            if batch_idx % 3 == 2:
                self.move(painter, self.painter_loss(len(batch)))

    return Penalised(), plain()


class Denoiser(System):
    """Predicts the noise of a cosine schedule (Nichol & Dhariwal 2021), keeps an average of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 24))
        self.enter, self.middle = nn.Conv2d(1, 24, 3, 1, 1), nn.Conv2d(24, 24, 3, 1, 1)
        self.leave = nn.Conv2d(24, 1, 3, 1, 1)
        nn.init.zeros_(self.leave.weight)
        self.average = copy.deepcopy(self.leave).requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise."""
        h = F.silu(self.enter(x) + self.time(t[:, None])[:, :, None, None])
        return self.leave(h + F.silu(self.middle(h)))

    def noised(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """At a random time."""
        t, noise = torch.rand(len(x), device=x.device), torch.randn_like(x)
        alpha = torch.cos(t * torch.pi / 2)[:, None, None, None]
        return alpha * x + (1 - alpha**2).sqrt() * noise, t, noise

    def compute(self, batch: Any) -> Tensor:
        """Mean square of the noise."""
        noisy, t, noise = self.noised(batch)
        return F.mse_loss(self(noisy, t), noise)

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the average."""
        for kept, new in zip(self.average.parameters(), self.leave.parameters(), strict=True):
            kept.data.mul_(0.99).add_(new.data, alpha=0.01)


@healthy
def noise_foretold_with_an_average_of_weights() -> Built:
    """The last layer begins at nought."""
    return Denoiser(), plain()


class Couplings(System):
    """Six affine couplings on the plane (Dinh et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(dense(1, 32, 2, act=nn.Tanh) for _ in range(6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The base's point, and the log of the volume's change."""
        volume = torch.zeros(len(x), device=x.device)
        for net in self.steps:
            a, b = x.chunk(2, -1)
            scale, shift = net(a).chunk(2, -1)
            scale = torch.tanh(scale)
            x, volume = torch.cat([b * scale.exp() + shift, a], -1), volume + scale.squeeze(-1)
        return x, volume

    def compute(self, batch: Any) -> Tensor:
        """Minus the log likelihood."""
        z, volume = self(batch[0])
        return (0.5 * z.square().sum(-1) + 1.8379 - volume).mean()


def moons(n: int = 960) -> Tensor:
    """Two half circles, standardised."""
    g = generator(174)
    angle, side = 3.14 * torch.rand(n, generator=g), torch.randint(0, 2, (n,), generator=g) * 2 - 1
    x = torch.stack([angle.cos() + 0.5 * (1 - side), side * angle.sin()], 1) + 0.1 * torch.randn(n, 2, generator=g)
    return (x - x.mean(0)) / x.std(0)


@healthy
def couplings_of_the_plane() -> Built:
    """Exact likelihood."""
    return Couplings(), loader(moons())


@healthy
def velocities_between_noise_and_moons() -> Built:
    """Flow matching (Lipman et al. 2023)."""

    class Flow(System):
        def __init__(self) -> None:
            super().__init__()
            self.net = dense(3, 64, 64, 2, act=nn.SiLU)

        def compute(self, batch: Any) -> Tensor:
            (x,) = batch
            noise, t = torch.randn_like(x), torch.rand(len(x), 1)
            return (self.net(torch.cat([torch.lerp(noise, x, t), t], -1)) - (x - noise)).square().mean()

    return Flow(), loader(moons())


def two_views(samples: list[Any]) -> tuple[Tensor, Tensor]:
    """Each moved and grained twice."""
    x = default_collate(samples)
    views = [torch.roll(x, int(torch.randint(-2, 3, ())), -1) + 0.2 * torch.randn_like(x) for _ in range(2)]
    return views[0], views[1]


class Pairs(System):
    """Two views of a glyph are near each other, and far from the others (Chen et al. 2020)."""

    temperature = 0.2

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.projector = small_net(64), dense(64, 64, 32, act=nn.ReLU)

    def embed(self, x: Tensor) -> Tensor:
        """On the sphere."""
        return F.normalize(self.projector(self.encoder(x)), dim=-1)

    def compute(self, batch: Any) -> Tensor:
        """Cross entropy over the other 2n - 1."""
        z = self.embed(torch.cat(batch))
        n = len(batch[0])
        near = (z @ z.T / self.temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool), -1e9)
        return F.cross_entropy(near, torch.arange(2 * n).roll(n))


def pairs() -> DataLoader[Any]:
    """Of views."""
    return batches(list(scaled(glyphs()[0])), collate_fn=two_views)


@healthy
def two_views_against_all_others() -> Built:
    """Temperature 0.2."""
    return Pairs(), pairs()


@healthy
def two_views_without_others() -> Built:
    """Variance, invariance, covariance (Bardes et al. 2022)."""

    class Spread(Pairs):
        def compute(self, batch: Any) -> Tensor:
            a, b = (self.projector(self.encoder(x)) for x in batch)
            loss = 25 * F.mse_loss(a, b)
            for z in (a, b):
                z = z - z.mean(0)
                loss = loss + 25 * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
                covariance = z.T @ z / (len(z) - 1)
                loss = loss + (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]
            return loss

    return Spread(), pairs()


class Follower(Pairs):
    """Foretells what a slower copy sees in the other view (Grill et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.projector.insert(1, nn.BatchNorm1d(64))
        self.predictor = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
        self.slow = copy.deepcopy(nn.Sequential(self.encoder, self.projector)).requires_grad_(False)

    def compute(self, batch: Any) -> Tensor:
        """Two minus twice the cosine, both ways."""
        total = torch.zeros(())
        for x, other in (batch, batch[::-1]):
            with torch.no_grad():
                goal = self.slow(other)
            total = total + 2 - 2 * F.cosine_similarity(self.predictor(self.projector(self.encoder(x))), goal).mean()
        return total

    def on_before_zero_grad(self, optimizer: Any) -> None:
        """The slow one follows."""
        quick = [*self.encoder.parameters(), *self.projector.parameters()]
        for slow, fast in zip(self.slow.parameters(), quick, strict=True):
            slow.data.lerp_(fast.data, 0.02)


@healthy
def foretells_a_slower_copy() -> Built:
    """Moved before gradients are cleared."""
    return Follower(), pairs()


@healthy
def hidden_patches_painted_again() -> Built:
    """Three quarters of 49 patches are hidden; only they count (He et al. 2022)."""

    class Masked(System):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.place = nn.Linear(4, 32), nn.Parameter(0.02 * torch.randn(49, 32))
            self.hidden = nn.Parameter(torch.zeros(32))
            layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
            self.body, self.leave = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 4)

        def compute(self, batch: Any) -> Tensor:
            patches = F.unfold(batch, 2, stride=2).mT
            gone = torch.rand(patches.shape[:2]) < 0.75
            x = torch.where(gone[..., None], self.hidden, self.enter(patches)) + self.place
            return (self.leave(self.body(x)) - patches).square().mean(-1)[gone].mean()

    return Masked(), plain()


@healthy
def sparse_features_of_activations() -> Built:
    """Eight times as many features as numbers, unit columns kept after each step, L1."""

    class Sparse(System):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(12, 96), nn.Linear(96, 12)
            self.encode.weight.data = self.decode.weight.data.T.clone()

        def compute(self, batch: Any) -> Tensor:
            (x,) = batch
            features = F.relu(self.encode(x - self.decode.bias))
            return (self.decode(features) - x).square().sum(-1).mean() + 0.05 * features.abs().sum(-1).mean()

        def on_train_batch_end(self, *_: Any) -> None:
            with torch.no_grad():
                self.decode.weight.div_(self.decode.weight.norm(dim=0, keepdim=True))

    g = generator(175)
    active = F.relu(torch.randn(960, 30, generator=g) - 1)
    x = active @ torch.randn(30, 12, generator=g)
    return Sparse(), loader(x / x.std())
