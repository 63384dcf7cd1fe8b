"""More healthy models: losses, optimizers and schedules of other kinds."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import lightning_adam as la
from tests.benchmarks.preflight.data import chains, clusters, curve, generator, loader, pictures
from tests.benchmarks.preflight.parts import Built, Learner, Stepped, Words, adam, convnet, next_word, perceptron, sgd
from tests.benchmarks.preflight.register import healthy


@healthy
def actor_and_critic() -> Built:
    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.actor, self.critic = perceptron(6, 3), perceptron(6, 1)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            state, action, gain = batch
            worth = self.critic(state).squeeze(1)
            for optimizer, loss in zip(
                self.optimizers(),
                (
                    -(F.log_softmax(self.actor(state), 1)[range(len(action)), action] * (gain - worth).detach()).mean(),
                    F.mse_loss(worth, gain),
                ),
                strict=True,
            ):
                optimizer.zero_grad()
                self.manual_backward(loss)
                self.clip_gradients(optimizer, gradient_clip_val=1.0)
                optimizer.step()
            for schedule in self.lr_schedulers():
                schedule.step()

        def configure_optimizers(self) -> Any:
            made = [torch.optim.Adam(part.parameters(), 3e-4) for part in (self.actor, self.critic)]
            return made, [torch.optim.lr_scheduler.StepLR(o, 1000) for o in made]

    x, y = curve()
    return Model(), loader(x, torch.randint(0, 3, (960,), generator=generator()), y)


@healthy
def warmup_then_cosine() -> Built:
    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / 2000)))

    def schedule(optimizer: Any) -> Any:
        return {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, rate), "interval": "step"}

    return Learner(perceptron(12, 4), F.cross_entropy, adam(3e-3), schedule), loader(*clusters())


@healthy
def cosine_by_epoch() -> Built:
    def schedule(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)

    return (
        Learner(convnet(norm=True), F.cross_entropy, sgd(0.05), schedule),
        loader(*pictures()),
        {"trainer": L.Trainer(max_epochs=10, logger=False)},
    )


@healthy
def quantiles() -> Built:
    def pinball(output: Tensor, target: Tensor) -> Tensor:
        levels = torch.tensor([0.1, 0.5, 0.9])
        off = target[:, None] - output
        return torch.maximum(levels * off, (levels - 1) * off).mean()

    return Learner(perceptron(6, 3), pinball), loader(*curve())


@healthy
def mean_and_variance() -> Built:
    def likelihood(output: Tensor, target: Tensor) -> Tensor:
        return F.gaussian_nll_loss(output[:, 0], target, F.softplus(output[:, 1]) + 1e-4)

    return Learner(perceptron(6, 2), likelihood), loader(*curve())


@healthy
def distillation() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        x, y = batch
        own, taught = model.student(x), model.teacher(x)
        soft = F.kl_div(F.log_softmax(own / 2, 1), F.softmax(taught / 2, 1), reduction="batchmean")
        return F.cross_entropy(own, y) + 4 * soft

    return Stepped(step, student=perceptron(12, 4), teacher=perceptron(12, 4, 96).requires_grad_(False).eval()), loader(
        *clusters()
    )


@healthy
def focal_on_rare() -> Built:
    def focal(output: Tensor, target: Tensor) -> Tensor:
        each = F.binary_cross_entropy_with_logits(output.squeeze(1), target, reduction="none")
        return ((1 - torch.exp(-each)) ** 2 * each).mean()

    x, _ = clusters()
    return Learner(perceptron(12, 1), focal), loader(x, (x[:, 0] > 2.1).float(), size=64)


@healthy
def module_of_data() -> Built:
    class Data(L.LightningDataModule):
        def setup(self, stage: str) -> None:
            self.rows = TensorDataset(*clusters())

        def train_dataloader(self) -> Any:
            return DataLoader(self.rows, batch_size=32, shuffle=True)

    return Learner(perceptron(12, 4), F.cross_entropy), Data()


@healthy
def with_the_helper() -> Built:
    class Model(Learner):
        def configure_optimizers(self) -> Any:
            return la.configure_optimizers(self, "adamw", lr=2e-3)

    return Model(Words(), next_word), loader(chains()[:, :-1].contiguous(), chains()[:, 1:].contiguous(), size=16)


@healthy
def sines() -> Built:
    """SIREN: a picture as a function of its coordinates."""

    class Sine(nn.Module):
        def __init__(self, inputs: int, outputs: int, first: bool) -> None:
            super().__init__()
            self.layer = nn.Linear(inputs, outputs)
            nn.init.uniform_(
                self.layer.weight,
                *((-1 / inputs, 1 / inputs) if first else (-math.sqrt(6 / inputs) / 30, math.sqrt(6 / inputs) / 30)),
            )

        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(30 * self.layer(x))

    x = torch.rand(960, 2, generator=generator()) * 2 - 1
    y = (torch.sin(6 * x[:, :1]) * torch.cos(5 * x[:, 1:])) * 0.5
    return Learner(nn.Sequential(Sine(2, 48, True), Sine(48, 48, False), nn.Linear(48, 1)), F.mse_loss, adam(1e-3)), loader(
        x, y
    )


@healthy
def deep_residual() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(12, 32), nn.Linear(32, 4)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)) for _ in range(12)
            )
            for block in self.blocks:
                nn.init.zeros_(block[3].weight)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            for block in self.blocks:
                x = x + block(x)
            return self.last(x)

    return Learner(Net(), F.cross_entropy), loader(*clusters())


@healthy
def sigmoid_and_bce() -> Built:
    x, y = clusters()
    return Learner(nn.Sequential(perceptron(12, 1), nn.Sigmoid(), nn.Flatten(0)), nn.BCELoss()), loader(x, (y > 1).float())


@healthy
def counts() -> Built:
    x, y = curve()
    return Learner(nn.Sequential(perceptron(6, 1), nn.Flatten(0)), nn.PoissonNLLLoss()), loader(
        x, torch.poisson(y.clamp(-2, 2).exp(), generator=generator())
    )


@healthy
def few_classes_per_batch() -> Built:
    """Metric learning draws four classes of twenty for each batch."""

    def step(model: Any, batch: Any) -> Tensor:
        z = F.normalize(model.net(batch[0]), dim=1)
        same = batch[1][:, None] == batch[1][None]
        logs = F.log_softmax((z @ z.T / 0.2).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9), 1)
        return -(logs * same).sum() / same.sum()

    x, y = clusters(1280, classes=20)
    g = generator()
    places = [torch.where(y == c)[0] for c in range(20)]
    batches = [
        torch.cat(
            [places[c][torch.randint(len(places[c]), (8,), generator=g)] for c in torch.randperm(20, generator=g)[:8]]
        ).tolist()
        for _ in range(30)
    ]
    return Stepped(step, net=perceptron(12, 8)), DataLoader(TensorDataset(x, y), batch_sampler=batches)


@healthy
def translation() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        source, target = batch
        given, wanted = target[:, :-1], target[:, 1:]
        mask = nn.Transformer.generate_square_subsequent_mask(given.shape[1])
        out = model.head(model.net(model.table(source), model.table(given), tgt_mask=mask))
        return F.cross_entropy(out.flatten(0, 1), wanted.flatten(), ignore_index=0)

    return Stepped(
        step,
        table=nn.Embedding(24, 32),
        head=nn.Linear(32, 24),
        net=nn.Transformer(32, 4, 1, 1, 64, dropout=0.1, batch_first=True),
    ), loader(chains(), chains().flip(1).contiguous(), size=16)


@healthy
def mixed_and_smoothed() -> Built:
    class Model(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            order, share = torch.randperm(len(x)), 0.7
            soft = share * F.one_hot(y, 4).float() + (1 - share) * F.one_hot(y[order], 4).float()
            return F.cross_entropy(self(share * x + (1 - share) * x[order]), soft, label_smoothing=0.1)

    return Model(convnet(), F.cross_entropy), loader(*pictures())


@healthy
def accumulates_by_hand() -> Built:
    class Model(Learner):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            optimizer = self.optimizers()
            self.manual_backward(self.loss_of(self(batch[0]), batch[1]) / 4)
            if (batch_idx + 1) % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()

    return Model(perceptron(12, 4), F.cross_entropy), loader(*clusters())


@healthy
def missing_targets() -> Built:
    def masked(output: Tensor, target: Tensor) -> Tensor:
        there = ~torch.isnan(target)
        return F.mse_loss(output[there], target[there])

    x, y = curve()
    both = torch.stack([y, y.roll(1)], 1)
    both[torch.rand(both.shape, generator=generator()) < 0.2] = math.nan
    return Learner(perceptron(6, 2), masked), loader(x, both)


@healthy
def rare_drawn_more_often() -> Built:
    x, _ = clusters()
    y = (x[:, 0] > 1.8).long()
    weights = torch.where(y == 1, 10.0, 1.0)
    data = DataLoader(TensorDataset(x, y), batch_size=32, sampler=WeightedRandomSampler(weights.tolist(), 960))
    return Learner(perceptron(12, 2), F.cross_entropy), data


@healthy
def fine_tuning_slowly() -> Built:
    net = perceptron(12, 4, 64)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    x, y = clusters()
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return Learner(net, F.cross_entropy, adam(2e-5)), loader(x, y)


@healthy
def learnt_prompt() -> Built:
    def step(model: Any, batch: Any) -> Tensor:
        x = torch.cat([model.prompt.expand(len(batch[0]), -1, -1), model.body.table(batch[0])], 1)
        for block in model.body.blocks:
            x = block(x)
        return F.cross_entropy(model.head(x[:, -1]), batch[1])

    tokens = chains()
    return Stepped(
        step, body=Words().requires_grad_(False), prompt=nn.Parameter(torch.randn(1, 4, 32) * 0.02), head=nn.Linear(32, 2)
    ), loader(tokens, (tokens[:, -1] > 12).long(), size=16)
