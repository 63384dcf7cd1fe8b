"""The eleventh round's healthy cases, continued: steps by hand, generative, contrastive, averaged, planned."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import clusters, curve, generator, loader, pictures, rows
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit, LowRank
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.wayfarers_parts import Points, Supervised, kl_to_normal, reconstruction


@healthy
def gan_with_toggled_optimizers() -> Built:
    """Lightning's example: two optimizers, toggled, fakes detached for the discriminator."""

    class Gan(ByHand):
        def __init__(self, latent: int = 8) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.generator = perceptron(latent, 12)
            self.discriminator = perceptron(12, 1, act=nn.LeakyReLU)

        def adversarial(self, scores: Tensor, real: float) -> Tensor:
            return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, real))

        def training_step(self, batch: Any, batch_idx: int) -> None:
            first, second = self.optimizers()
            z = torch.randn(len(batch[0]), self.hparams["latent"])
            self.toggle_optimizer(first)
            loss = self.adversarial(self.discriminator(self.generator(z)), 1.0)
            first.zero_grad()
            self.manual_backward(loss)
            first.step()
            self.untoggle_optimizer(first)
            self.toggle_optimizer(second)
            fake = self.adversarial(self.discriminator(self.generator(z).detach()), 0.0)
            loss = (self.adversarial(self.discriminator(batch[0]), 1.0) + fake) / 2
            second.zero_grad()
            self.manual_backward(loss)
            second.step()
            self.untoggle_optimizer(second)

        def configure_optimizers(self) -> Any:
            nets = (self.generator, self.discriminator)
            return [torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in nets], []

    return Gan(), loader(*clusters())


@healthy
def vae_with_a_warmed_up_prior() -> Built:
    """Bernoulli pictures in [0, 1], scores, and a weight of the prior that rises with ``global_step``."""

    class Vae(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 16))
            self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 144))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, _ = batch
            mean, log_var = self.encoder(x).chunk(2, 1)
            told = self.decoder(mean + torch.randn_like(mean) * torch.exp(0.5 * log_var))
            off = F.binary_cross_entropy_with_logits(told, x.flatten(1), reduction="none").sum(1)
            weight = min(1.0, self.global_step / 500)
            return (off + weight * kl_to_normal(mean, log_var)).mean()

    x, y = pictures()
    return Vae(), loader(x.sigmoid(), y)


@healthy
def two_views_of_one_picture() -> Built:
    """SimCLR: noise and flips in ``collate_fn``, every other sample of the batch is a wrong answer."""

    class Contrast(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = convnet(32), nn.Sequential(nn.ReLU(), nn.Linear(32, 16))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            (a, b), _ = batch
            z = F.normalize(self.head(self.body(torch.cat([a, b]))), dim=-1)
            alike = (z @ z.T / 0.1).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
            return F.cross_entropy(alike, torch.arange(len(z)).roll(len(a)))

    def views(samples: list[Any]) -> Any:
        x = torch.stack([s[0] for s in samples])
        two = [(x if torch.rand(()) < 0.5 else x.flip(-1)) + 0.2 * torch.randn_like(x) for _ in range(2)]
        return two, torch.stack([s[1] for s in samples])

    pairs = list(zip(*pictures(), strict=True))
    return Contrast(), DataLoader(pairs, batch_size=32, shuffle=True, collate_fn=views, drop_last=True)  # type: ignore[arg-type]


@healthy
def adapters_in_a_frozen_body() -> Built:
    """LoRA with b at zero, the head trained too; a filter hands over what is trained."""

    class Adapted(Supervised):
        def __init__(self) -> None:
            body = [LowRank(nn.Linear(12, 48)), nn.GELU(), LowRank(nn.Linear(48, 48)), nn.GELU()]
            super().__init__(nn.Sequential(*body, nn.Linear(48, 4)), nn.CrossEntropyLoss())

    return Adapted(), loader(*clusters())


@healthy
def mean_teacher_after_each_batch() -> Built:
    """A copy follows in ``on_train_batch_end``; the student is held to what it says of noisy inputs."""

    class Taught(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)
            self.teacher = copy.deepcopy(self.net).requires_grad_(False)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            scores = self.net(x + 0.1 * torch.randn_like(x))
            with torch.no_grad():
                taught = self.teacher(x + 0.1 * torch.randn_like(x)).softmax(1)
            return F.cross_entropy(scores, y) + 0.5 * F.mse_loss(scores.softmax(1), taught)

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                slow.data.lerp_(fast.data, 0.01)

    return Taught(), loader(*clusters())


@healthy
def one_cycle_over_estimated_steps() -> Built:
    """``self.trainer.estimated_stepping_batches``, interval "step"."""

    class Cycle(Supervised):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=0.05)
            total = int(self.trainer.estimated_stepping_batches)
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=total)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    trainer = L.Trainer(max_epochs=20, logger=False)
    return Cycle(perceptron(12, 4), nn.CrossEntropyLoss()), Points(), {"trainer": trainer}


@healthy
def plateau_of_the_validation_loss() -> Built:
    """ReduceLROnPlateau monitors "val/loss"; SGD with momentum and Nesterov."""

    class Waits(Supervised):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, nesterov=True)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3, factor=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss"}}

    trainer = L.Trainer(max_epochs=30, logger=False)
    return Waits(perceptron(12, 4), nn.CrossEntropyLoss()), Points(), {"trainer": trainer}


@healthy
def accumulated_by_hand() -> Built:
    """Manual optimization over four batches, clipped, with a scheduler that the step steps."""

    class Hand(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet(norm=True)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer, schedule = self.optimizers(), self.lr_schedulers()
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]) / 4)
            if (batch_idx + 1) % 4 == 0:
                self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200)]

    return Hand(), loader(*pictures(), size=16), {"trainer": L.Trainer(max_epochs=20, logger=False)}


@healthy
def triples_by_a_margin() -> Built:
    """An anchor, one of its kind and one of another."""

    class Triplet(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss = perceptron(12, 16), nn.TripletMarginLoss(margin=1.0)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.loss(*(F.normalize(self.net(x)) for x in batch))

    x, y = clusters()
    g = generator()
    alike = [x[y == k][torch.randint(0, int((y == k).sum()), (1,), generator=g)][0] for k in y.tolist()]
    other = [x[y != k][torch.randint(0, int((y != k).sum()), (1,), generator=g)][0] for k in y.tolist()]
    return Triplet(), loader(x, torch.stack(alike), torch.stack(other))


@healthy
def masked_patches_restored() -> Built:
    """A masked autoencoder: three quarters of the patches are left out, and only those are compared."""

    class Masked(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(9, 32), nn.Linear(32, 9)
            self.places, self.blank = nn.Parameter(0.02 * torch.randn(16, 32)), nn.Parameter(torch.zeros(32))
            layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            patches = F.unfold(batch[0], 3, stride=3).transpose(1, 2)
            hidden = torch.rand(patches.shape[:2]).argsort(1) < 12
            x = torch.where(hidden[..., None], self.blank, self.into(patches)) + self.places
            return F.mse_loss(self.out(self.encoder(x))[hidden], patches[hidden])

    return Masked(), loader(*pictures())


@healthy
def noise_told_from_a_noisy_picture() -> Built:
    """Diffusion (Ho et al. 2020): a time for each sample, and the noise is the target."""

    class Denoiser(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.time, self.into = nn.Embedding(50, 16), nn.Conv2d(1, 16, 3, padding=1)
            self.net = nn.Sequential(nn.SiLU(), nn.Conv2d(16, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1))
            self.register_buffer("kept", torch.cumprod(1 - torch.linspace(1e-3, 0.1, 50), 0))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            t, noise = torch.randint(0, 50, (len(x),)), torch.randn_like(x)
            kept = self.kept[t].view(-1, 1, 1, 1)
            noisy = kept.sqrt() * x + (1 - kept).sqrt() * noise
            told = self.net(self.into(noisy) + self.time(t)[:, :, None, None])
            return F.mse_loss(told, noise)

    return Denoiser(), loader(*pictures())


class Graph(NamedTuple):
    """Nodes of all graphs in a row, their edges, whose they are, and each graph's kind."""

    x: Tensor
    edges: Tensor
    graph: Tensor
    y: Tensor


@healthy
def graphs_in_one_row() -> Built:
    """Mean of neighbours by ``index_add``, then the mean of each graph's nodes."""

    class Gnn(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(8, 32), nn.Linear(64, 32), nn.Linear(32, 3)

        def training_step(self, batch: Graph, batch_idx: int) -> Tensor:
            h = F.relu(self.first(batch.x))
            near = torch.zeros_like(h).index_add(0, batch.edges[1], h[batch.edges[0]]) / 2
            h = F.relu(self.second(torch.cat([h, near], 1)))
            count = torch.bincount(batch.graph, minlength=len(batch.y))[:, None]
            pooled = torch.zeros(len(batch.y), 32).index_add(0, batch.graph, h) / count
            return F.cross_entropy(self.head(pooled), batch.y)

    def rings(samples: list[Any]) -> Graph:
        sizes = torch.tensor([len(x) for x, _ in samples])
        begins = (sizes.cumsum(0) - sizes).tolist()
        edges = []
        for begin, size in zip(begins, sizes.tolist(), strict=True):
            ring = torch.arange(size)
            edges += [torch.stack([ring, ring.roll(1)]) + begin, torch.stack([ring.roll(1), ring]) + begin]
        graph = torch.arange(len(samples)).repeat_interleave(sizes)
        return Graph(torch.cat([x for x, _ in samples]), torch.cat(edges, 1), graph, torch.tensor([y for _, y in samples]))

    g = generator()
    kinds = torch.randint(0, 3, (480,), generator=g).tolist()
    data = [(torch.randn(5 + i % 4, 8, generator=g) + torch.eye(8)[k], k) for i, k in enumerate(kinds)]
    return Gnn(), DataLoader(data, batch_size=32, shuffle=True, collate_fn=rings)  # type: ignore[arg-type]


@healthy
def faces_by_angles() -> Built:
    """ArcFace: cosines times 30, a margin for the right one: the loss begins far above ln C."""

    class Arc(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.centres = perceptron(12, 16), nn.Parameter(torch.empty(4, 16))
            nn.init.xavier_uniform_(self.centres)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            cosine = F.normalize(self.net(x)) @ F.normalize(self.centres).T
            angle = torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))
            return F.cross_entropy(30 * torch.cos(angle + 0.3 * F.one_hot(y, 4)), y)

    return Arc(), loader(*clusters())


@healthy
def equation_in_the_loss() -> Built:
    """A physics-informed net: u'' = -u between given ends; second derivatives by ``autograd.grad``."""

    class Physics(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            x = batch["inside"].requires_grad_()
            u = self.net(x)
            (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
            return (bend + u).square().mean() + 10 * F.mse_loss(self.net(batch["end"]), batch["value"])

    inside = 3 * torch.rand(640, 1, generator=generator())
    end = torch.tensor([[0.0], [3.0]]).repeat(320, 1)
    return Physics(), rows(inside=inside, end=end, value=end.sin())


@healthy
def vae_of_squares() -> Built:
    """Squares added over a picture beside the prior: a loss of a hundred at the start."""

    class Vae(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 16))
            self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 144))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            mean, log_var = self.encoder(batch[0]).chunk(2, 1)
            told = self.decoder(torch.distributions.Normal(mean, (0.5 * log_var).exp()).rsample())
            return reconstruction(told, batch[0].flatten(1)) + kl_to_normal(mean, log_var).mean()

    return Vae(), loader(*pictures())


@healthy
def body_slower_than_the_head() -> Built:
    """Two groups of rates, a lazy layer that is known after its first batch, and ExponentialLR per epoch."""

    class Groups(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
            self.head = nn.LazyLinear(4)
            self.head(self.body(torch.zeros(1, 1, 12, 12)))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(self.body(batch[0])), batch[1])

        def configure_optimizers(self) -> Any:
            groups = [{"params": self.body.parameters(), "lr": 2e-4}, {"params": self.head.parameters()}]
            optimizer = torch.optim.Adam(groups, lr=2e-3)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)]

    return Groups(), loader(*pictures()), {"trainer": L.Trainer(max_epochs=30, logger=False)}


@healthy
def mean_and_deviation_of_each() -> Built:
    """``GaussianNLLLoss`` with a variance by softplus."""

    class Density(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss = perceptron(6, 2), nn.GaussianNLLLoss()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            mean, raw = self.net(batch[0]).unbind(-1)
            return self.loss(mean, batch[1], F.softplus(raw) + 1e-3)

    return Density(), loader(*curve())
