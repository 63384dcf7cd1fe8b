"""A ninth round of faulty cases, written by one who has not read the checks, in other tasks: data and the loss call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
)
from torchmetrics.functional.image import structural_similarity_index_measure

from tests.benchmarks.preflight.data import curve, generator, loader, rows
from tests.benchmarks.preflight.outsiders_parts import Lit, moves
from tests.benchmarks.preflight.parts import Built, perceptron
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.travellers_parts import (
    arms,
    batches,
    depths,
    listeners,
    loads,
    names,
    padded,
    pixelwise,
    proteins,
    subjects,
)


@faulty("DATA-NONFINITE")
def depth_with_holes() -> Built:
    """Where the sensor saw nothing it wrote NaN, and the mean goes over all pixels."""

    class Depth(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = pixelwise(), nn.L1Loss()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.criterion(self.net(batch["image"]).squeeze(1), batch["depth"])

    image, depth = depths()
    holes = torch.rand(depth.shape, generator=generator()) < 0.02
    return Depth(), rows(image=image, depth=depth.masked_fill(holes, float("nan")), size=16)


@faulty("INPUT-SCALE")
def seconds_since_1970() -> Built:
    """Purchases as (amount, time); the time as the database keeps it."""

    class Events(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(2, 24, batch_first=True), nn.Linear(24, 2)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(self.cell(batch["events"])[1][-1]), batch["stays"])

    g = generator()
    amounts, gaps = torch.randn(640, 12, generator=g), 86400 * torch.rand(640, 12, generator=g)
    events = torch.stack([amounts, 1.7e9 + gaps.cumsum(1)], -1)
    return Events(), rows(events=events, stays=(amounts.mean(1) > 0).long())


@faulty("TARGET-SCALE")
def loads_in_megawatts() -> Built:
    """The past is standardised, the future is not; Huber's loss."""

    class Forecaster(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(32, 8, width=64)

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            past, future = batch
            return F.huber_loss(self.net(past), future)

    past, future = loads()
    return Forecaster(), loader(past, 52_000 + 8_000 * future)


@faulty("SORTED")
def peoples_one_after_another() -> Built:
    """A dataset for each people, concatenated, behind a sampler of batches that goes from front to back."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(27, 24, padding_idx=0), nn.Linear(24, 5)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            letters, lengths, people = batch
            return F.cross_entropy(self.head(self.table(letters).sum(1) / lengths[:, None]), people)

    columns = names()
    parts = [TensorDataset(*(column[columns[2] == people] for column in columns)) for people in range(5)]
    data: ConcatDataset[Any] = ConcatDataset(parts)
    return Model(), DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 32, drop_last=True))


@faulty("LABEL-RANGE")
def vessels_are_255() -> Built:
    """Masks as PNG files keep them; binary cross entropy and soft Dice are added."""

    class Vessels(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.bce = pixelwise(), nn.BCEWithLogitsLoss()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            scores, mask = self.net(batch["image"]), batch["mask"]
            p = scores.sigmoid()
            dice = 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)
            return self.bce(scores, mask) + dice

    image, depth = depths()
    return Vessels(), rows(image=image, mask=255.0 * (depth[:, None] > 1.1), size=16)


@faulty("IMBALANCE")
def cracks_in_one_pixel_of_two_hundred() -> Built:
    """Two maps of scores, plain cross entropy: "no crack anywhere" is 99.5 % right."""

    class Cracks(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = pixelwise(outputs=2)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch["surface"]), batch["crack"])

    g = generator()
    crack = torch.rand(320, 16, 16, generator=g) < 0.005
    surface = torch.randn(320, 3, 16, 16, generator=g) + crack[:, None]
    return Cracks(), rows(surface=surface, crack=crack.long(), size=16)


@faulty("PADDING-COUNTS")
def nothing_is_called_helix() -> Built:
    """Chains are packed for the LSTM, and their states are padded with 0, which is a state (helix)."""

    class Tagger(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(21, 16, padding_idx=0)
            self.cell, self.head = nn.LSTM(16, 24, batch_first=True, bidirectional=True), nn.Linear(48, 3)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            packed = pack_padded_sequence(
                self.table(batch["residues"]), batch["lengths"], batch_first=True, enforce_sorted=False
            )
            read, _ = pad_packed_sequence(self.cell(packed)[0], batch_first=True)
            return F.cross_entropy(self.head(read).transpose(1, 2), batch["states"])

    return Tagger(), batches(proteins(), 16, lambda samples: padded(samples, 0))


@faulty("TARGET-IS-INPUT")
def history_holds_the_next_song() -> Built:
    """The window of what was heard was cut one place too late."""

    class Recommender(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.songs, self.cell = nn.Embedding(40, 24), nn.GRU(24, 24, batch_first=True)
            self.out = nn.Linear(24, 40)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.out(self.cell(self.songs(batch["heard"]))[1][0]), batch["next"])

    heard, following = listeners()
    return Recommender(), rows(heard=torch.cat([heard[:, 1:], following[:, None]], 1), next=following)


@faulty("DUPLICATES")
def one_buffer_for_all_samples() -> Built:
    """A stream that fills the same tensors again for each sample: when the batch is stacked, all are the last one."""

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            x, y = torch.zeros(3), torch.zeros(2)
            for angles, hand in zip(*arms(), strict=True):
                yield x.copy_(angles), y.copy_(hand)

    class Arm(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(3, 2)

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return F.mse_loss(self.net(batch[0]), batch[1])

    return Arm(), DataLoader(Stream(), batch_size=32)


@faulty("INPUT-CONSTANT")
def capital_letters_clamped() -> Built:
    """``ord(letter) - ord("a") + 1`` of capital letters is negative, and was clamped to 0 against the IndexError."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell, self.head = nn.Embedding(27, 16), nn.GRU(16, 24, batch_first=True), nn.Linear(24, 5)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(self.cell(self.table(batch["name"]))[1][0]), batch["people"])

    letters, _, people = names()
    return Model(), rows(name=(letters - 32).clamp(min=0), people=people)


@faulty("BROADCAST")
def log_probabilities_of_two_joints() -> Built:
    """tianshou #43: the joints' log-probabilities are not summed, so that (N, 1) meets (N, 2)."""

    class Critic(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.slow, self.actor = perceptron(6, 1), perceptron(6, 1).requires_grad_(False), perceptron(4, 4)
            self.actor.requires_grad_(False)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            mean, log_std = self.actor(batch["next_obs"]).chunk(2, -1)
            policy = torch.distributions.Normal(mean, log_std.exp())
            action = policy.sample()
            following = self.slow(torch.cat([batch["next_obs"], action], 1)) - 0.2 * policy.log_prob(action)
            target = batch["reward"][:, None] + 0.95 * following
            return F.mse_loss(self.q(torch.cat([batch["obs"], batch["act"]], 1)), target)

    m = moves()
    act = torch.randn(960, 2, generator=generator())
    return Critic(), rows(obs=m["obs"], next_obs=m["next_obs"], reward=m["reward"], act=act)


@faulty("BROADCAST", "BATCH-MIXING")
def slices_pooled_with_the_patients() -> Built:
    """hpa-scc #38: one answer for the whole batch, (1, 3) against (N, 3)."""

    class Patients(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.head = perceptron(16, 32), nn.Linear(32, 3)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            features = self.each(batch["slices"]).relu()
            return F.mse_loss(self.head(features.flatten(0, 1).mean(0, keepdim=True)), batch["values"])

    slices = torch.randn(480, 5, 16, generator=generator())
    return Patients(), rows(slices=slices, values=slices.mean(1)[:, :3] * 5**0.5)


@faulty("DOUBLE-SOFTMAX")
def probabilities_beside_their_loss() -> Built:
    """llama-from-scratch #5: the net returns what it calls logits, and its loss."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.linear = nn.Embedding(27, 32), nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 27))

        def forward(self, idx: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            logits = F.softmax(self.linear(self.table(idx)), dim=-1)
            return logits, F.cross_entropy(logits.view(-1, 27), targets.view(-1), ignore_index=0)

    class Speller(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.model = Net()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            _, loss = self.model(batch[0][:, :-1].contiguous(), batch[0][:, 1:].contiguous())
            return loss

    return Speller(), loader(names()[0])


@faulty("DOUBLE-SIGMOID")
def soft_margin_of_shares() -> Built:
    """``multilabel_soft_margin_loss`` takes the sigmoid for itself."""

    class Subjects(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(16, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(self.net(x))

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
            x, y = batch
            return {"loss": F.multilabel_soft_margin_loss(self(x), y)}

    return Subjects(), loader(*subjects())


@faulty("NLL-NEEDS-LOG", "OUTPUT-RANGE")
def rates_where_logarithms_are_meant() -> Built:
    """``PoissonNLLLoss`` takes the logarithm of the rate unless it is told otherwise; softplus gives the rate."""

    class Visits(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = nn.Sequential(perceptron(6, 1), nn.Softplus()), nn.PoissonNLLLoss()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.criterion(self.net(batch["clinic"])[:, 0], batch["visits"])

    x, _ = curve()
    return Visits(), rows(clinic=x, visits=torch.poisson((0.6 * x[:, 0] - 0.7).exp(), generator=generator()))


@faulty("SOFTMAX-DIM", "ONE-CLASS")
def attention_over_its_single_axis() -> Built:
    """Scores of shape (N, T, 1), and the softmax over the last axis: every weight is 1."""

    class Reader(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell = nn.Embedding(27, 16), nn.LSTM(16, 16, batch_first=True, bidirectional=True)
            self.score, self.head = nn.Linear(32, 1), nn.Linear(32, 5)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            states, _ = self.cell(self.table(batch["name"]))
            weights = F.softmax(self.score(torch.tanh(states)), dim=-1)
            return F.cross_entropy(self.head((weights * states).sum(1)), batch["people"])

    letters, _, people = names()
    return Reader(), rows(name=letters, people=people)


@faulty("OUTPUT-RANGE")
def hands_clamped_to_the_unit_square() -> Built:
    """Positions go from -2 to 2; the output was clamped as it is for pictures."""

    class Arm(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(3, 2)

        def forward(self, angles: Tensor) -> Tensor:
            return self.net(angles).clamp(0, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.smooth_l1_loss(self(batch["angles"]), batch["hand"])

    angles, hand = arms()
    return Arm(), rows(angles=angles, hand=hand)


@faulty("RELU-LOGITS")
def likes_behind_a_relu() -> Built:
    """One score for each pair of listener and song, rectified, to BCEWithLogitsLoss: no pair is below one half."""

    class Likes(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.songs = nn.EmbeddingBag(40, 16, mode="mean"), nn.Embedding(40, 16)
            self.fc1, self.fc2 = nn.Linear(32, 32), nn.Linear(32, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            pair = torch.cat([self.bag(batch["heard"]), self.songs(batch["song"])], 1)
            score = F.relu(self.fc2(F.relu(self.fc1(pair))))
            return F.binary_cross_entropy_with_logits(score, batch["liked"][:, None])

    heard, following = listeners()
    liked = torch.rand(960, generator=generator(1)) < 0.5
    song = torch.where(liked, following, (following + 17) % 40)
    return Likes(), rows(heard=heard, song=song, liked=liked.float())


@faulty("WRONG-SIGN")
def likeness_of_pictures_made_smaller() -> Built:
    """SSIM (torchmetrics) is 1 for equal pictures, and is returned as the loss."""

    class Denoiser(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = pixelwise(1, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            again = self.net(batch["noisy"])
            return structural_similarity_index_measure(again, batch["clean"], data_range=2.0)  # type: ignore[return-value]

    clean = depths()[1][:, None] - 1.0
    noisy = clean + 0.2 * torch.randn(clean.shape, generator=generator())
    return Denoiser(), rows(noisy=noisy, clean=clean, size=16)
