"""A sixth round of faulty cases, as strangers write them: in helpers, submodules, losses by hand, several optimizers.

Some are told anew after public reports: pytorch #1339, ReLeaSE #39, alpaca-lora #352, Lightning #6948, DeepFD's Stack
Overflow programs and threads of PyTorch's forum. The code is our own.
"""

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
    lives,
    masks,
    moves,
    series,
    views_of_things,
)
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.register import faulty


@faulty("BROADCAST")
def mask_without_its_channel() -> Built:
    """Soft Dice of (N, 1, H, W) and (N, H, W)."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.unet = Unet()

        def dice(self, logits: Tensor, mask: Tensor) -> Tensor:
            p = logits.sigmoid()
            return 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            image, mask = batch
            return self.dice(self.unet(image), mask)

    return Model(), loader(*masks(), size=16)


@faulty("BROADCAST")
def action_keeps_its_column() -> Built:
    """``gather`` gives (N, 1), the target of the Bellman equation is (N,)."""

    class Dqn(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.target = perceptron(4, 3), perceptron(4, 3)
            self.target.load_state_dict(self.q.state_dict())
            self.target.requires_grad_(False)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            chosen = self.q(batch["obs"]).gather(1, batch["action"][:, None])
            with torch.no_grad():
                best = self.target(batch["next_obs"]).max(1).values
                wanted = batch["reward"] + 0.9 * best * (1 - batch["done"])
            return F.smooth_l1_loss(chosen, wanted)

    return Dqn(), rows(**moves())


@faulty("BROADCAST")
def risk_as_a_column() -> Built:
    """Cox's likelihood by hand: the scores keep their last axis."""

    class Survival(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, time, event = batch
            order = time.argsort(descending=True)
            risk, event = self(x)[order], event[order]
            return -((risk - torch.logcumsumexp(risk, 0)) * event).mean()

    return Survival(), loader(*lives())


@faulty("DOUBLE-SOFTMAX")
def decoder_gives_probabilities() -> Built:
    """Teacher forcing; the criterion is an attribute, and ignores the padding."""

    class Captioner(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.model = Seq2Seq(last=nn.Softmax(dim=-1))
            self.criterion = nn.CrossEntropyLoss(ignore_index=0)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, words = batch
            scores = self.model(x, words[:, :-1])
            return self.criterion(scores.reshape(-1, scores.shape[-1]), words[:, 1:].reshape(-1))

    return Captioner(), loader(*captions())


@faulty("DOUBLE-SIGMOID")
def focal_loss_of_probabilities() -> Built:
    """A focal loss by hand (Lin et al. 2017) that squashes for itself; the net has done so already."""

    def focal(scores: Tensor, y: Tensor, gamma: float = 2.0) -> Tensor:
        ce = F.binary_cross_entropy_with_logits(scores, y, reduction="none")
        return (ce * (1 - torch.exp(-ce)) ** gamma).mean()

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.unet = Unet()

        def forward(self, x: Tensor) -> Tensor:
            return self.unet(x).squeeze(1).sigmoid()

        def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
            loss = focal(self(batch[0]), batch[1])
            return {"loss": loss, "size": batch[1].mean()}

    return Model(), loader(*masks(), size=16)


@faulty("NLL-NEEDS-LOG")
def pixels_by_nll() -> Built:
    """NLLLoss over a map of softmax."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.unet, self.criterion = Unet(2), nn.NLLLoss(weight=torch.tensor([1.0, 2.0]))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            maps = F.softmax(self.unet(batch[0]), dim=1)
            return self.criterion(maps, batch[1].long())

    return Model(), loader(*masks(), size=16)


@faulty("SOFTMAX-DIM", "BATCH-MIXING")
def attention_over_the_wrong_axis() -> Built:
    """Weights of the times are normalised over the batch, which comes second here."""

    class Reader(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.energy, self.head = nn.LSTM(3, 24), nn.Linear(24, 1), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            states, _ = self.cell(x.transpose(0, 1))
            weights = torch.softmax(self.energy(states).squeeze(-1), dim=1)
            return self.head((weights[..., None] * states).sum(0))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    return Reader(), loader(*waves())


@faulty("OUTPUT-RANGE")
def decoder_ends_in_a_sigmoid() -> Built:
    """Standardised pictures, and a decoder made for pictures between 0 and 1."""

    class Autoencoder(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 16))
            self.decoder = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 144), nn.Sigmoid())

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            again = self.decoder(self.encoder(x)).view_as(x)
            return F.mse_loss(again, x)

    x, y = pictures()
    return Autoencoder(), loader((x - x.mean()) / x.std(), y)


@faulty("OUTPUT-RANGE", "RELU-LOGITS")
def returns_through_a_relu() -> Built:
    """Tomorrow's change is negative on half of the days."""

    class Forecaster(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            past, following = batch
            _, last = self.cell(past[..., None])
            forecast = F.relu(self.head(last[-1])).squeeze(-1)
            return F.l1_loss(forecast, following)

    x = series()
    return Forecaster(), loader(x[:, :-1], x[:, -1] - x[:, -2])


@faulty("WRONG-SIGN")
def likelihood_of_survival_maximised_wrongly() -> Built:
    """Cox's partial likelihood is to rise; here it falls."""

    def partial(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
        order = torch.argsort(time, descending=True)
        hazard = risk[order]
        return ((hazard - torch.logcumsumexp(hazard, 0)) * event[order]).sum() / event.sum().clamp_min(1)

    class Survival(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(8, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, time, event = batch
            return partial(self.net(x).squeeze(-1), time, event)

    return Survival(), loader(*lives())


@faulty("WRONG-SIGN")
def policy_climbs_down() -> Built:
    """REINFORCE (Williams 1992) on returns that are all positive, without its minus."""

    class Policy(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(4, 3)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            policy = torch.distributions.Categorical(logits=self.net(batch["obs"]))
            return (policy.log_prob(batch["action"]) * batch["returns"]).mean()

    m = moves()
    return Policy(), rows(obs=m["obs"], action=m["action"], returns=m["reward"] + 1.5)


@faulty("LOG-OF-PROBABILITY")
def ranking_by_log_of_sigmoid() -> Built:
    """Bayesian personalised ranking as many write it."""

    class Recommender(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(60, 16), nn.Embedding(80, 16)

        def score(self, user: Tensor, item: Tensor) -> Tensor:
            return (self.users(user) * self.items(item)).sum(-1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            user, taken, other = batch
            return -torch.log(torch.sigmoid(self.score(user, taken) - self.score(user, other))).mean()

    g = torch.Generator().manual_seed(0)
    user = torch.randint(0, 60, (960,), generator=g)
    taken = (user + torch.randint(0, 10, (960,), generator=g)) % 80
    return Recommender(), loader(user, taken, torch.randint(0, 80, (960,), generator=g))


@faulty("LOSS-IS-SUM")
def summed_over_all_pixels() -> Built:
    """``reduction="sum"`` of 16 × 256 pixels, under SGD."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.unet, self.criterion = Unet(norm=lambda c: nn.GroupNorm(4, c)), nn.BCEWithLogitsLoss(reduction="sum")

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.criterion(self.unet(batch[0])[:, 0], batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-2, momentum=0.9)

    return Model(), loader(*masks(), size=16)


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
