"""The twelfth round's faults of structure: what is trained, how it begins, and what no gradient reaches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributions, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import chains, clusters, curve, loader, pictures, rows
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit, moves
from tests.benchmarks.preflight.parts import Attention, Built, convnet, perceptron
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.settlers_parts import Crf, Loss, molecules, normalised, ratings, resnet, tagged, transformer
from tests.benchmarks.preflight.wayfarers_parts import Supervised


@faulty("NOT-REGISTERED")
def parameter_times_two_hundredths() -> Built:
    """``nn.Parameter(torch.randn(…)) * 0.02`` is no parameter but what a multiplication gave."""

    class Vit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 32, 4, 4)
            self.places = nn.Parameter(torch.randn(1, 16, 32)) * 0.02
            self.body, self.head = transformer(norm_first=True), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(self.patch(x).flatten(2).mT + self.places).mean(1))

    return Supervised(Vit(), nn.CrossEntropyLoss()), loader(*normalised())


@faulty("OPTIMIZER-MISSES")
def chain_left_out_of_the_optimizer() -> Built:
    """The tagger is handed over, the conditional random field that is its loss is not."""

    class Tagger(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.cell = nn.Embedding(40, 32, padding_idx=0), nn.GRU(32, 32, batch_first=True)
            self.head, self.crf = nn.Linear(32, 3), Crf()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.crf(self.head(self.cell(self.words(batch["input_ids"]))[0]), batch["input_ids"] % 3)

        def configure_optimizers(self) -> Any:
            parts = [*self.words.parameters(), *self.cell.parameters(), *self.head.parameters()]
            return torch.optim.Adam(parts, lr=1e-3)

    return Tagger(), rows(input_ids=tagged()["input_ids"].clamp_min(1))


@faulty("OPTIMIZER-MISSES", "OPTIMIZER-STALE")
def optimizer_made_before_the_head() -> Built:
    """``self.optimizer = Adam(self.parameters())`` stands in ``__init__`` above the head."""

    class Early(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.body = convnet(32)
            self.optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
            self.head = nn.Sequential(nn.ReLU(), nn.Linear(32, 4))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(self.body(batch[0])), batch[1])

        def configure_optimizers(self) -> Any:
            return self.optimizer

    return Early(), loader(*pictures())


@faulty("OPTIMIZER-STALE", "OPTIMIZER-MISSES")
def stem_changed_for_grey_pictures() -> Built:
    """timm: the stem takes three channels and is replaced for one, after the optimizer got the old one."""

    class Grey(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = resnet()
            self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3)
            self.net[0] = nn.Conv2d(1, 8, 3, 1, 1, bias=False)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return self.optimizer

    return Grey(), loader(*pictures())


@faulty("FROZEN")
def condition_of_freezing_turned_round() -> Built:
    """``if "head" in name: requires_grad = False`` was meant for all others: the new head stays as it was drawn."""

    class Tuned(Supervised):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(), nn.CrossEntropyLoss())
            self.net.add_module("body", convnet(32))
            self.net.add_module("act", nn.ReLU())
            self.net.add_module("head", nn.Linear(32, 4))
            for name, parameter in self.named_parameters():
                parameter.requires_grad = "head" not in name

    return Tuned(), loader(*pictures())


@faulty("FROZEN", "NO-GRADIENT")
def name_that_no_parameter_has() -> Built:
    """All is frozen but what begins with "classifier", which is called "fc" here."""

    class Tuned(Supervised):
        def __init__(self) -> None:
            super().__init__(perceptron(12, 4), nn.CrossEntropyLoss())
            self.fc = nn.Linear(4, 4)
            for name, parameter in self.named_parameters():
                parameter.requires_grad = name.startswith("classifier")

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.net(x).relu())

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    return Tuned(), loader(*clusters())


@faulty("NO-GRADIENT")
def gradients_for_a_phase_of_another_name() -> Built:
    """``set_grad_enabled(phase == "train")``, and the phase is called "training" (after torchvision's tutorial)."""

    class Phases(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = convnet(32), nn.Linear(32, 4)

        def common_step(self, batch: Any, phase: str) -> Tensor:
            with torch.set_grad_enabled(phase == "train"):
                features = self.body(batch[0])
            return F.cross_entropy(self.head(features.relu()), batch[1])

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.common_step(batch, "training")

    return Phases(), loader(*pictures())


@faulty("NO-GRADIENT")
def action_drawn_by_sample() -> Built:
    """An actor of DDPG's kind with a Gaussian: ``sample()`` cuts what ``rsample()`` keeps."""

    class Agent(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.actor, self.critic = perceptron(4, 4), perceptron(6, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            first, second = self.optimizers()
            played = F.one_hot(batch["action"] % 2, 2).float()
            q = self.critic(torch.cat([batch["obs"], played], 1))[:, 0]
            second.zero_grad()
            self.manual_backward(F.mse_loss(q, batch["reward"]))
            second.step()
            mean, log = self.actor(batch["obs"]).chunk(2, 1)
            action = distributions.Normal(mean, log.clamp(-5, 2).exp()).sample()
            first.zero_grad()
            self.manual_backward(-self.critic(torch.cat([batch["obs"], action], 1)).mean())
            first.step()

        def configure_optimizers(self) -> Any:
            nets = (self.actor, self.critic)
            return [torch.optim.Adam(net.parameters(), lr=1e-3) for net in nets], []

    return Agent(), rows(**moves())


@faulty("NO-GRADIENT")
def router_by_argmax() -> Built:
    """A mixture of experts takes the one that the router likes best, and does not weigh it: the router learns nothing."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(12, 3)
            self.experts = nn.ModuleList(perceptron(12, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            chosen = self.router(x).argmax(1)
            told = torch.stack([expert(x) for expert in self.experts], 1)
            return told[torch.arange(len(x)), chosen]

    return Supervised(Experts(), nn.CrossEntropyLoss()), loader(*clusters())


@faulty("SYMMETRIC-INIT", "ZERO-GRADIENT")
def factors_that_begin_at_zero() -> Built:
    """Matrix factorisation with both tables at zero: each factor's gradient is the other one."""

    class Factors(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.films = nn.Embedding(40, 8), nn.Embedding(30, 8)
            nn.init.zeros_(self.users.weight)
            nn.init.zeros_(self.films.weight)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            user, film, liked = batch
            return F.mse_loss((self.users(user) * self.films(film)).sum(1), liked)

    return Factors(), loader(*ratings(), size=64)


def deep(layers: int, deviation: float | None, gain: float = 1.0, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Layers of 32, drawn with a deviation or by He's rule times a gain."""
    body: list[nn.Module] = [nn.Linear(12, 32), act()]
    for _ in range(layers):
        body += [nn.Linear(32, 32), act()]
    net = nn.Sequential(*body, nn.Linear(32, 4))
    for part in net:
        if isinstance(part, nn.Linear):
            scale = deviation or gain * (2 / part.in_features) ** 0.5
            nn.init.normal_(part.weight, std=scale)
            nn.init.zeros_(part.bias)
    return net


@faulty("GRAD-VANISHING", "INIT-SCALE")
def deviation_of_a_hundredth_in_fifteen_layers() -> Built:
    """AlexNet's 0.01 in a net that is fifteen layers deep (AutoTrainer: vanishing gradients)."""
    return Supervised(deep(15, 0.01), nn.CrossEntropyLoss()), loader(*clusters())


@faulty("GRAD-EXPLODING", "INIT-SCALE", "INITIAL-LOSS")
def he_times_two_in_twenty_layers() -> Built:
    """A gain of two on top of He's rule, twenty layers, no norm (AutoTrainer: exploding gradients)."""
    return Supervised(deep(20, None, gain=2.0), nn.CrossEntropyLoss()), loader(*clusters())


@faulty("GRAD-VANISHING")
def softmax_between_layers() -> Built:
    """NeuraLint, DeepFD: softmax is every hidden layer's activation."""

    class Shares(nn.Softmax):
        def __init__(self) -> None:
            super().__init__(dim=1)

    net = nn.Sequential(
        nn.Linear(12, 48), Shares(), nn.Linear(48, 48), Shares(), nn.Linear(48, 48), Shares(), nn.Linear(48, 4)
    )
    return Supervised(net, nn.CrossEntropyLoss()), loader(*clusters())


@faulty("INIT-SCALE", "INITIAL-LOSS")
def graph_weights_by_plain_randn() -> Built:
    """A graph convolution's weight is ``nn.Parameter(torch.randn(i, o))``, and neighbours are added."""

    class Convolution(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(inputs, outputs))

        def forward(self, x: Tensor, bonds: Tensor) -> Tensor:
            return F.relu((bonds + torch.eye(len(bonds[0]))) @ x @ self.weight)

    class Gcn(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = Convolution(6, 64), Convolution(64, 64), nn.Linear(64, 3)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            h = self.second(self.first(batch["atoms"], batch["bonds"]), batch["bonds"])
            return F.cross_entropy(self.head(h.mean(1)), batch["y"])

    return Gcn(), rows(**molecules())


@faulty("INITIAL-LOSS", "INIT-SCALE")
def shared_table_of_deviation_one() -> Built:
    """``head.weight = table.weight``, and the table keeps ``nn.Embedding``'s deviation of one (minGPT before its init)."""

    class Words(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.places = nn.Embedding(24, 64), nn.Embedding(32, 64)
            self.body, self.norm = Attention(64), nn.LayerNorm(64)
            self.head = nn.Linear(64, 24, bias=False)
            self.head.weight = self.table.weight

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            tokens = batch[0]
            x = self.table(tokens[:, :-1]) + self.places.weight[: tokens.shape[1] - 1]
            scores = self.head(self.norm(self.body(x)))
            return F.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten())

    return Words(), loader(chains())


@faulty("DEAD-UNITS", "CANNOT-OVERFIT")
def dropout_of_what_should_stay() -> Built:
    """``Dropout(0.98)`` after each layer: TensorFlow's ``keep_prob``."""
    net = nn.Sequential(
        nn.Linear(12, 48), nn.ReLU(), nn.Dropout(0.98), nn.Linear(48, 48), nn.ReLU(), nn.Dropout(0.98), nn.Linear(48, 4)
    )
    return Supervised(net, nn.CrossEntropyLoss()), loader(*clusters())


@faulty("EVAL-MODE")
def everything_in_eval_from_each_epoch_on() -> Built:
    """``self.eval()`` in ``on_train_epoch_start`` was meant for a frozen teacher."""

    class Student(Supervised):
        def on_train_epoch_start(self) -> None:
            self.eval()

    net = nn.Sequential(convnet(32, norm=True), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))
    return Student(net, nn.CrossEntropyLoss()), loader(*pictures())


@faulty("UPDATE-LOST", "LR-LOW")
def weights_of_sixteen_bits_at_a_small_rate() -> Built:
    """The module itself is cast to bfloat16; steps of 1e-5 are lost in the rounding of weights of 0.1."""

    class Half(Lit):
        lr = 1e-5

        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4).to(torch.bfloat16)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0].to(torch.bfloat16)).float(), batch[1])

    return Half(), loader(*clusters())


@faulty("NO-GRADIENT")
def prediction_through_numpy() -> Built:
    """The forecast is scaled back by scikit-learn before the loss: ``.detach().numpy()`` and a new tensor."""

    def loss(net: nn.Module, batch: Any) -> Tensor:
        told = net(batch[0]).squeeze(1).detach().numpy() * 2.0 + 1.0
        return F.mse_loss(torch.tensor(told, requires_grad=True), 2.0 * batch[1] + 1.0)

    return Loss(perceptron(6, 1), loss), loader(*curve())
