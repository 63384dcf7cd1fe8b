"""An eighth round of healthy cases, in the manner of the eighth round's faults."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import chains, clusters, curve, generator, loader, pictures, rows, waves
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit, Unet, captions, lives, masks, moves, series
from tests.benchmarks.preflight.parts import Attention, Built, convnet, perceptron
from tests.benchmarks.preflight.register import healthy


@healthy
def advantages_of_two_rows() -> Built:
    """A2C with generalised returns, an entropy bonus, and a shared body."""

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
            policy, value = torch.distributions.Categorical(logits=self.policy(h)), self.value(h).flatten()
            gain = batch["reward"] - value
            actor = -(policy.log_prob(batch["action"]) * gain.detach()).mean()
            return actor + 0.5 * gain.pow(2).mean() - 0.01 * policy.entropy().mean()

    m = moves()
    return A2c(), rows(obs=m["obs"], action=m["action"], reward=m["reward"])


@healthy
def three_quantiles_at_once() -> Built:
    """(N, 3) against (N, 1): each quantile of the same value."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(6, 3)
            self.register_buffer("q", torch.tensor([0.1, 0.5, 0.9]))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            miss = batch[1][:, None] - self.net(batch[0])
            return torch.max(self.q * miss, (self.q - 1) * miss).mean()

    return Model(), loader(*curve())


@healthy
def tags_by_a_mask() -> Built:
    """Unreduced cross entropy, masked and averaged over what is there."""

    class Tagger(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.block, self.head = nn.Embedding(25, 24), Attention(24, causal=False), nn.Linear(24, 5)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            scores = self.head(self.block(self.table(batch["words"])))
            each = F.cross_entropy(scores.permute(0, 2, 1), batch["tags"], reduction="none")
            return (each * batch["there"]).sum() / batch["there"].sum()

    words = chains() + 1
    there = (torch.arange(17) < torch.randint(6, 18, (480, 1), generator=generator())).float()
    return Tagger(), rows(words=words * there.long(), tags=(words % 5) * there.long(), there=there, size=16)


@healthy
def least_squares_gan_with_smoothing() -> Built:
    """Mao et al. 2017; the discriminator is regularised by R1 (Mescheder et al. 2018) at every fourth step."""

    class Gan(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.g, self.d = perceptron(8, 12, act=nn.LeakyReLU), perceptron(12, 1, act=nn.LeakyReLU)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            opt_g, opt_d = self.optimizers()
            x = batch[0].requires_grad_(True)
            fake = self.g(torch.randn(len(x), 8))
            told = self.d(x)
            loss = (told - 0.9).square().mean() + self.d(fake.detach()).square().mean()
            if batch_idx % 4 == 0:
                (slope,) = torch.autograd.grad(told.sum(), x, create_graph=True)
                loss = loss + 0.5 * slope.square().sum(1).mean()
            opt_d.zero_grad()
            self.manual_backward(loss)
            opt_d.step()
            opt_g.zero_grad()
            self.manual_backward((self.d(fake) - 0.9).square().mean())
            opt_g.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in (self.g, self.d)]

    return Gan(), loader(*clusters())


@healthy
def overlap_and_focal_of_logits() -> Built:
    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.unet = Unet(norm=lambda c: nn.InstanceNorm2d(c, affine=True))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            scores, mask = self.unet(batch[0]), batch[1][:, None]
            p = scores.sigmoid()
            overlap = (2 * (p * mask).sum((1, 2, 3)) + 1) / (p.sum((1, 2, 3)) + mask.sum((1, 2, 3)) + 1)
            ce = F.binary_cross_entropy_with_logits(scores, mask, reduction="none")
            return (1 - overlap).mean() + (ce * (1 - torch.exp(-ce)).square()).mean()

    return Model(), loader(*masks(), size=8)


@healthy
def bound_with_a_learnt_prior() -> Built:
    """A conditional VAE: divergence between two Gaussians of torch, and free bits."""

    class Vae(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.posterior, self.prior, self.decoder = perceptron(24, 8), perceptron(12, 8), perceptron(16, 12)

        def gaussian(self, parameters: Tensor) -> torch.distributions.Normal:
            mean, log_std = parameters.chunk(2, -1)
            return torch.distributions.Normal(mean, log_std.clamp(-4, 2).exp())

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            seen = x + 0.5 * torch.randn_like(x)
            q, p = self.gaussian(self.posterior(torch.cat([x, seen], 1))), self.gaussian(self.prior(seen))
            far = torch.distributions.kl_divergence(q, p).clamp_min(0.05).sum(1).mean()
            return F.mse_loss(self.decoder(torch.cat([q.rsample(), seen], 1)), x, reduction="none").sum(1).mean() + far

    return Vae(), loader(*clusters())


@healthy
def attention_time_first() -> Built:
    """(T, N, C) by ``transpose``, and back."""

    class Reader(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.inputs, self.attend, self.head = nn.Linear(3, 16), nn.MultiheadAttention(16, 2), nn.Linear(16, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            turned = self.inputs(batch[0]).transpose(0, 1)
            mixed, _ = self.attend(turned, turned, turned)
            return F.cross_entropy(self.head(mixed.mean(0)), batch[1])

    return Reader(), loader(*waves())


@healthy
def gate_straight_through() -> Built:
    """Hard in the forward pass, soft in the backward one."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.left, self.right = perceptron(6, 1), perceptron(6, 1), perceptron(6, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            soft = self.gate(x).sigmoid()
            chosen = (soft > 0.5).float() + soft - soft.detach()
            return F.mse_loss((chosen * self.left(x) + (1 - chosen) * self.right(x)).squeeze(-1), y)

    return Model(), loader(*curve())


@healthy
def slow_weights_follow_in_the_step() -> Built:
    """data2vec-like: a slow copy gives the targets, and is written at the start of each step."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head = perceptron(12, 16), nn.Linear(16, 16)
            self.slow = copy.deepcopy(self.net).requires_grad_(False)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            with torch.no_grad():
                for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                    slow.mul_(0.99).add_(fast, alpha=0.01)
                wanted = F.layer_norm(self.slow(batch[0]), (16,))
            hidden = batch[0] * (torch.rand_like(batch[0]) > 0.3)
            return F.smooth_l1_loss(self.head(self.net(hidden)), wanted)

    return Model(), loader(*clusters())


@healthy
def groups_by_name_and_a_frozen_stem() -> Built:
    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = convnet(32, norm=True), nn.Linear(32, 4)
            self.backbone[0].requires_grad_(False)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(F.relu(self.backbone(batch[0]))), batch[1])

        def configure_optimizers(self) -> Any:
            named = {name: p for name, p in self.named_parameters() if p.requires_grad}
            groups = [[p for name, p in named.items() if name.startswith(key)] for key in ("backbone", "head")]
            return torch.optim.AdamW([{"params": groups[0], "lr": 1e-4}, {"params": groups[1], "lr": 1e-3}])

    return Model(), loader(*pictures())


@healthy
def cells_step_by_step() -> Built:
    class Forecaster(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.ModuleList(nn.GRUCell(size, 16) for size in (1, 16))
            self.head = nn.Linear(16, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            states = [x.new_zeros(len(x), 16) for _ in self.cells]
            for t in range(12):
                given = x[:, t, None]
                for k, cell in enumerate(self.cells):
                    states[k] = given = cell(given, states[k])
            return F.mse_loss(self.head(given).squeeze(-1), x[:, 12])

    return Forecaster(), loader(series())


@healthy
def scored_before_each_batch() -> Built:
    """In eval mode for the score, and back to training."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4))

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.eval()
            with torch.no_grad():
                self.score = (self.net(batch[0]).argmax(-1) == batch[1]).float().mean()
            self.train()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    return Model(), loader(*clusters())


@healthy
def positions_of_atoms() -> Built:
    """Forces as the negative gradient of an energy with respect to the positions (a second derivative is trained)."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.each = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 1))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            places = batch["places"].requires_grad_(True)
            gaps = (places[:, :, None] - places[:, None]).square().sum(-1) + torch.eye(5)
            energy = self.each(gaps.sqrt()[..., None]).sum((1, 2, 3)) / 2
            (slope,) = torch.autograd.grad(energy.sum(), places, create_graph=True)
            return F.mse_loss(energy, batch["energy"]) + F.mse_loss(-slope, batch["forces"])

    places = torch.randn(480, 5, 3, generator=generator()).requires_grad_(True)
    gaps = (places[:, :, None] - places[:, None]).square().sum(-1)
    energy = (torch.exp(-gaps) * (1 - torch.eye(5))).sum((1, 2))
    (slope,) = torch.autograd.grad(energy.sum(), places)
    return Model(), rows(places=places.detach(), energy=energy.detach() - energy.mean().item(), forces=-slope)


@healthy
def subjects_shuffled_in_a_buffer() -> Built:
    """The batch is made by ``collate_fn`` into a dict of lists, as long sequences of one person each."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(4, 16, batch_first=True), nn.Linear(16, 3)

        def training_step(self, batch: dict[str, list[Tensor]], batch_idx: int) -> Tensor:
            last = [self.cell(track[None])[0][0, -1] for track in batch["tracks"]]
            return F.cross_entropy(self.head(torch.stack(last)), torch.stack(batch["kinds"]))

    g = generator()
    kinds = torch.randint(0, 3, (240,), generator=g)
    tracks = [torch.randn(int(torch.randint(5, 12, (1,), generator=g)), 4, generator=g) + 0.5 * kind for kind in kinds]
    data = [{"tracks": track, "kinds": kind} for track, kind in zip(tracks, kinds, strict=True)]
    collate = lambda samples: {key: [one[key] for one in samples] for key in ("tracks", "kinds")}  # noqa: E731
    return Model(), DataLoader(data, batch_size=12, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]


@healthy
def fraud_in_one_of_twelve() -> Built:
    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = perceptron(8, 1), nn.BCEWithLogitsLoss(pos_weight=torch.tensor(8.0))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.criterion(self.net(batch["features"]).squeeze(-1), batch["fraud"])

    x = torch.randn(1920, 8, generator=generator())
    return Model(), rows(features=x, fraud=(x[:, 0] > 1.4).float(), size=64)


@healthy
def rates_of_exponential_lives() -> Built:
    """An exponential model of censored lives, by hand; a third of its losses are below 0."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(8, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, time, event = batch
            rate = self.net(x).squeeze(-1)
            return (rate.exp() * time - event * rate).mean()

    return Model(), loader(*lives())


@healthy
def warmup_by_the_step_and_cosine() -> Built:
    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
            warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=40)
            fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 360, eta_min=1e-5)
            both = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, fall], milestones=[40])
            return [optimizer], [{"scheduler": both, "interval": "step"}]

    return Model(), loader(*clusters()), {"trainer": L.Trainer(max_steps=400, logger=False)}


@healthy
def first_words_are_given() -> Built:
    """A prefix of two made of the picture, and a decoder that sees it from every place (prefix language model)."""

    class Captioner(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.prefix, self.table = nn.Linear(12, 64), nn.Embedding(24, 32)
            self.places, self.block, self.head = nn.Parameter(0.02 * torch.randn(12, 32)), Attention(32), nn.Linear(32, 24)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, words = batch
            h = torch.cat([self.prefix(x).unflatten(1, (2, 32)), self.table(words[:, :-1])], 1)
            scores = self.head(self.block(h + self.places[: h.shape[1]]))[:, 2:]
            return F.cross_entropy(scores.flatten(0, 1), words[:, 1:].flatten(), ignore_index=0)

    return Captioner(), loader(*captions())
