"""The tenth round's faults of the loss call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import clusters, curve, loader, rows
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit
from tests.benchmarks.preflight.parts import Built, perceptron
from tests.benchmarks.preflight.pilgrims_parts import Player, beats, boards, cooked, flat_conv, hands, swings, voices
from tests.benchmarks.preflight.register import faulty


@faulty("BROADCAST")
def width_in_a_column_value_in_a_row() -> Built:
    """A Gaussian by hand: mean and width are (N, 1), what was measured is (N,)."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(6, 2)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            mean, log_var = self.net(batch["x"]).split(1, dim=1)
            return 0.5 * (log_var + (batch["y"] - mean) ** 2 / log_var.exp()).mean()

    x, y = curve()
    return Model(), rows(x=x, y=y)


@faulty("BROADCAST")
def who_wins_in_a_column() -> Built:
    """The policy's part is right; the value keeps its column, and ``smooth_l1_loss`` is the second of two terms."""

    class Chooser(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.policy, self.value = perceptron(50, 25), perceptron(50, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            x = batch["stones"].flatten(1)
            value = self.value(x).tanh()
            return F.cross_entropy(self.policy(x), batch["tried"]) + 0.5 * F.smooth_l1_loss(value, batch["won"])

    return Chooser(), rows(**boards())


@faulty("DOUBLE-SOFTMAX")
def policy_is_a_softmax_already() -> Built:
    """Cross entropy with shares as targets takes scores all the same."""

    class Zero(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.player, self.policy_loss, self.value_loss = Player(), nn.CrossEntropyLoss(), nn.MSELoss()

        def forward(self, stones: Tensor) -> tuple[Tensor, Tensor]:
            scores, value = self.player(stones)
            return nn.functional.softmax(scores, dim=1), value

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            policy, value = self(batch["stones"])
            return self.policy_loss(policy, batch["tried"]) + self.value_loss(value, batch["won"])

    return Zero(), rows(**boards())


@faulty("DOUBLE-SIGMOID")
def pairs_squashed_twice() -> Built:
    """Negative sampling by ``logsigmoid`` of what is a sigmoid already."""

    class Pairs(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.dish = nn.EmbeddingBag(50, 16)
            self.kitchen = nn.Embedding(4, 16)

        def match(self, dish: Tensor, kitchen: Tensor) -> Tensor:
            return torch.sigmoid((dish * self.kitchen(kitchen)).sum(1))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            dish, other = self.dish(batch["ingredients"], batch["begins"]), (batch["kitchen"] + 1) % 4
            right, wrong = self.match(dish, batch["kitchen"]), self.match(dish, other)
            return -(F.logsigmoid(right) + F.logsigmoid(-wrong)).mean()

    return Pairs(), cooked()


@faulty("NLL-NEEDS-LOG")
def scores_of_sorted_cards_to_nll() -> Built:
    """(N, C, T) without a log-softmax; ``NLLLoss`` sinks without end."""

    class Sorter(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell = nn.Embedding(21, 24), nn.GRU(24, 32, batch_first=True, bidirectional=True)
            self.head, self.criterion = nn.Linear(64, 21), nn.NLLLoss()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return self.criterion(self.head(self.cell(self.table(batch[0]))[0]).permute(0, 2, 1), batch[1])

    return Sorter(), loader(*hands())


@faulty("SOFTMAX-DIM", "BATCH-MIXING")
def experts_chosen_over_the_batch() -> Built:
    """A mixture's gates (N, E) by ``softmax(dim=0)``: each expert divides itself among the samples."""

    class Mixture(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts = nn.Linear(6, 4), nn.ModuleList(perceptron(6, 1, 24) for _ in range(4))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            gates = self.gate(batch[0]).softmax(dim=0)
            each = torch.cat([expert(batch[0]) for expert in self.experts], 1)
            return F.mse_loss((gates * each).sum(1), batch[1])

    return Mixture(), loader(*curve())


@faulty("OUTPUT-RANGE")
def next_states_of_length_one() -> Built:
    """``F.normalize`` at the end, where angle and speed are of any length."""

    class Pendulum(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(2, 2)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            path = batch[0]
            return F.mse_loss(F.normalize(self.net(path[:, :-1]), dim=-1), path[:, 1:])

    return Pendulum(), loader(2 * swings())


@faulty("RELU-LOGITS")
def policy_behind_a_relu() -> Built:
    """``Categorical(logits=relu(...))``: what is worse than nothing cannot be said."""

    class Clone(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(50, 48), nn.Linear(48, 25)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            h = F.relu(self.fc1(batch["stones"].flatten(1)))
            policy = torch.distributions.Categorical(logits=F.relu(self.fc2(h)))
            return -policy.log_prob(batch["played"]).mean()

    b = boards()
    return Clone(), rows(stones=b["stones"], played=b["tried"].argmax(1))


@faulty("ONE-CLASS")
def probability_by_softmax_of_one() -> Built:
    """One output, softmax, BCELoss: every heartbeat is early with probability 1."""

    class Early(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = nn.Sequential(flat_conv(1), nn.Softmax(dim=1)), nn.BCELoss()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.criterion(self.net(batch["lead"]), batch["early"][:, None])

    x, kind = beats()
    return Early(), rows(lead=x, early=(kind == 1).float())


@faulty("WRONG-SIGN")
def separation_made_worse() -> Built:
    """The scale-invariant ratio of signal to distortion is to rise, and is returned as the loss."""

    class Separator(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv1d(1, 16, 9, padding=4), nn.ReLU(), nn.Conv1d(16, 2, 9, padding=4))

        def ratio(self, told: Tensor, true: Tensor) -> Tensor:
            scale = (told * true).sum(-1, keepdim=True) / true.square().sum(-1, keepdim=True)
            signal = scale * true
            return 10 * torch.log10(signal.square().sum(-1) / (told - signal).square().sum(-1) + 1e-8)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            mixed, both = batch
            return self.ratio(self.net(mixed[:, None]), both).mean()

    return Separator(), loader(*voices())


@faulty("LOG-OF-PROBABILITY")
def minimax_by_logarithms_of_shares() -> Built:
    """Goodfellow et al. 2014 as it is printed: log D + log(1 - D) of a sigmoid, by hand."""

    class Gan(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.g, self.d = perceptron(8, 12), nn.Sequential(perceptron(12, 1), nn.Sigmoid())

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            opt_g, opt_d = self.optimizers()
            fake = self.g(torch.randn(len(batch[0]), 8))
            opt_d.zero_grad()
            self.manual_backward(-(torch.log(self.d(batch[0])) + torch.log(1 - self.d(fake.detach()))).mean())
            opt_d.step()
            opt_g.zero_grad()
            self.manual_backward(-torch.log(self.d(fake)).mean())
            opt_g.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in (self.g, self.d)]

    return Gan(), loader(clusters()[0])
