"""A sixth round of faulty cases, as strangers write them: in helpers, submodules, losses by hand, several optimizers.

Some are told anew after public reports: pytorch #1339, ReLeaSE #39, alpaca-lora #352, Lightning #6948, DeepFD's Stack
Overflow programs and threads of PyTorch's forum. The code is our own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import loader, pictures, rows, waves
from tests.benchmarks.preflight.outsiders_parts import (
    Lit,
    Seq2Seq,
    Unet,
    captions,
    lives,
    masks,
    moves,
    series,
)
from tests.benchmarks.preflight.parts import Built, perceptron
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
