"""The sixth round's faults of behaviour, gradients and optimizers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import chains, clusters, curve, loader, pictures, rows, waves
from tests.benchmarks.preflight.outsiders_parts import (
    ByHand,
    Causal,
    Lit,
    LowRank,
    Seq2Seq,
    Towers,
    Unet,
    captions,
    masks,
    moves,
    series,
    views_of_things,
)
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.register import faulty


@faulty("BATCH-MIXING")
def heads_before_the_batch() -> Built:
    """Attention by hand: the heads are split off by a ``view`` that takes rows of other samples."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(24, 72), nn.Linear(24, 24)

        def forward(self, x: Tensor) -> Tensor:
            n, length, width = x.shape
            q, k, v = (part.contiguous().view(4, n, length, width // 4) for part in self.qkv(x).chunk(3, -1))
            weights = (q @ k.transpose(-1, -2) / (width // 4) ** 0.5).softmax(-1)
            return x + self.out((weights @ v).transpose(0, 1).transpose(1, 2).reshape(n, length, width))

    class Reader(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.inputs, self.block, self.head = nn.Linear(3, 24), Block(), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.inputs(x)).mean(1))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    return Reader(), loader(*waves())


@faulty("BATCH-MIXING")
def embeddings_normalised_over_the_batch() -> Built:
    """``F.normalize(z, dim=0)`` in both towers of a CLIP."""

    class Clip(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.towers = Towers(dim=0)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            likeness = self.towers(*batch)
            which = torch.arange(len(likeness), device=self.device)
            return (F.cross_entropy(likeness, which) + F.cross_entropy(likeness.T, which)) / 2

    return Clip(), loader(*views_of_things())


@faulty("NOT-CAUSAL")
def forecast_with_padding_on_both_sides() -> Built:
    """A temporal convolution net is to tell the next value at each time, and sees it."""

    class Forecaster(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Causal(left=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            values = batch[0]
            return F.mse_loss(self(values[:, :-1]), values[:, 1:])

    return Forecaster(), loader(series())


@faulty("NOT-CAUSAL")
def mask_upside_down() -> Built:
    """In torch True means "may not be seen"; a lower triangle of True hides the past."""

    class Language(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.places = nn.Embedding(24, 32), nn.Embedding(32, 32)
            layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
            self.body, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, 24)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            words, wanted = batch[0][:, :-1], batch[0][:, 1:]
            length = words.shape[1]
            hidden = torch.tril(torch.ones(length, length, dtype=torch.bool), diagonal=-1)
            h = self.table(words) + self.places(torch.arange(length))
            return F.cross_entropy(self.head(self.body(h, mask=hidden)).transpose(1, 2), wanted)

    return Language(), loader(chains())


@faulty("NO-GRADIENT", "IGNORES-INPUT")
def decoder_never_hears_the_encoder() -> Built:
    """The encoder's state is computed and not handed over."""

    class Net(Seq2Seq):
        def forward(self, x: Tensor, words: Tensor) -> Tensor:
            _hidden = torch.tanh(self.encoder(x))[None]
            states, _ = self.cell(self.table(words))
            return self.head(states)

    class Captioner(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.model = Net()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, words = batch
            return F.cross_entropy(self.model(x, words[:, :-1]).flatten(0, 1), words[:, 1:].flatten(), ignore_index=0)

    return Captioner(), loader(*captions())


@faulty("NO-GRADIENT")
def first_net_behind_an_argmax() -> Built:
    """pytorch #1339: the first net chooses words, the second reads them."""

    class Two(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.chooser, self.table, self.reader = perceptron(12, 16), nn.Embedding(16, 24), perceptron(24, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            _, word = torch.max(self.chooser(batch[0]), dim=1)
            return F.cross_entropy(self.reader(self.table(word)), batch[1])

    return Two(), loader(*clusters())


@faulty("NO-GRADIENT")
def actor_taken_out_by_item() -> Built:
    """ReLeaSE #39: the policy's part of the loss is made of plain numbers; only the critic learns."""

    class ActorCritic(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.actor, self.critic = perceptron(4, 3), perceptron(4, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            value = self.critic(batch["obs"]).squeeze(-1)
            policy = torch.distributions.Categorical(logits=self.actor(batch["obs"]))
            told = policy.log_prob(batch["action"])
            gain = batch["reward"] - value.detach()
            actor = -sum(one.item() * float(g) for one, g in zip(told, gain, strict=True)) / len(gain)
            return actor + 0.5 * F.mse_loss(value, batch["reward"])

    m = moves()
    return ActorCritic(), rows(obs=m["obs"], action=m["action"], reward=m["reward"])


@faulty("ZERO-GRADIENT", "NO-GRADIENT")
def score_of_rounded_outputs() -> Built:
    """F1 as the loss, of predictions that are rounded first."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            said = torch.round(torch.sigmoid(self.net(x).squeeze(-1)))
            return 1 - 2 * (said * y).sum() / (said.sum() + y.sum() + 1e-6)

    x, y = clusters(classes=2)
    return Model(), loader(x, y.float())


@faulty("UPDATE-LOST", "NO-GRADIENT", "ZERO-GRADIENT")
def cleared_before_the_step() -> Built:
    """backward, zero_grad, step: in this order nothing is left to step on."""

    class Model(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet()

        def training_step(self, batch: Any, batch_idx: int) -> None:
            opt = self.optimizers()
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.manual_backward(loss)
            opt.zero_grad()
            opt.step()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    return Model(), loader(*pictures())


@faulty("GRAD-NOT-ZEROED")
def only_the_actor_is_cleared() -> Built:
    class ActorCritic(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.actor, self.critic = perceptron(4, 3), perceptron(4, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            first, second = self.optimizers()
            value = self.critic(batch["obs"]).squeeze(-1)
            told = F.log_softmax(self.actor(batch["obs"]), -1).gather(1, batch["action"][:, None]).squeeze(1)
            first.zero_grad()
            self.manual_backward(-(told * (batch["reward"] - value).detach()).mean())
            first.step()
            self.manual_backward(F.mse_loss(value, batch["reward"]))
            second.step()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.actor.parameters(), 1e-3), torch.optim.Adam(self.critic.parameters(), 1e-3)

    m = moves()
    return ActorCritic(), rows(obs=m["obs"], action=m["action"], reward=m["reward"])


@faulty("OPTIMIZER-MISSES")
def adapters_come_after_the_optimizer() -> Built:
    """The optimizer is made in ``__init__``, before the layers get their low-rank parts."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)
            self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3)
            for at in (0, 2):
                self.net[at] = LowRank(self.net[at])

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return self.optimizer

    return Model(), loader(*clusters())


@faulty("OPTIMIZER-STALE")
def net_made_again_in_setup() -> Built:
    """The optimizer of ``__init__`` keeps the first net's weights."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(6, 1)
            self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)

        def setup(self, stage: str) -> None:
            self.net = perceptron(6, 1, act=nn.SiLU)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.smooth_l1_loss(self.net(batch[0])[:, 0], batch[1])

        def configure_optimizers(self) -> Any:
            return self.optimizer

    return Model(), loader(*curve())


@faulty("OPTIMIZER-MISSES")
def only_what_is_decayed() -> Built:
    """Two groups were meant; the second, of norms and biases, was never handed over."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.unet = Unet()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.binary_cross_entropy_with_logits(self.unet(batch[0])[:, 0], batch[1])

        def configure_optimizers(self) -> Any:
            groups = {True: [], False: []}  # type: ignore[var-annotated]
            for _, p in self.named_parameters():
                groups[p.ndim > 1].append(p)
            return torch.optim.AdamW([{"params": groups[True], "weight_decay": 0.05}], lr=1e-3)

    return Model(), loader(*masks(), size=16)
