"""A sixth round of healthy cases, as strangers write them: agents, forecasts, survival, sequences, pictures."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, IterableDataset

from tests.benchmarks.preflight.data import chains, clusters, generator, loader, pictures, rows
from tests.benchmarks.preflight.newcomers_parts import Stream
from tests.benchmarks.preflight.outsiders_parts import (
    ByHand,
    Causal,
    Lit,
    Seq2Seq,
    Unet,
    captions,
    cox,
    lives,
    masks,
    moves,
    series,
    tracks,
)
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.register import healthy


class _Replay(IterableDataset[dict[str, Tensor]]):
    """Draws from what was remembered, for ever."""

    def __init__(self, memory: dict[str, Tensor], size: int) -> None:
        self.memory, self.size = memory, size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        count = len(self.memory["obs"])
        while True:
            drawn = torch.randint(0, count, (self.size,))
            yield {name: column[drawn] for name, column in self.memory.items()}


@healthy
def double_dqn_with_replay() -> Built:
    """Its target net follows slowly, and its buffer never ends (van Hasselt et al. 2016)."""

    class Dqn(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.q = perceptron(4, 3)
            self.target = copy.deepcopy(self.q).requires_grad_(False)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            with torch.no_grad():
                for slow, fast in zip(self.target.parameters(), self.q.parameters(), strict=True):
                    slow.lerp_(fast, 0.01)
                best = self.q(batch["next_obs"]).argmax(1, keepdim=True)
                wanted = batch["reward"] + 0.9 * (1 - batch["done"]) * self.target(batch["next_obs"]).gather(
                    1, best
                ).squeeze(1)
            return F.smooth_l1_loss(self.q(batch["obs"]).gather(1, batch["action"][:, None]).squeeze(1), wanted)

    return Dqn(), DataLoader(_Replay(moves(), 32), batch_size=None)


@healthy
def soft_actor_critic() -> Built:
    """Three optimizers by hand: critic, actor, temperature (Haarnoja et al. 2018)."""

    class Sac(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.actor, self.critic, self.log_alpha = perceptron(4, 4), perceptron(6, 1), nn.Parameter(torch.zeros(()))
            self.slow = copy.deepcopy(self.critic).requires_grad_(False)

        def act(self, obs: Tensor) -> tuple[Tensor, Tensor]:
            mean, log_std = self.actor(obs).chunk(2, -1)
            policy = torch.distributions.Normal(mean, log_std.clamp(-5, 1).exp())
            drawn = policy.rsample()
            return torch.tanh(drawn), (policy.log_prob(drawn) - 2 * (0.6931 - drawn - F.softplus(-2 * drawn))).sum(-1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            critic, actor, temperature = self.optimizers()
            with torch.no_grad():
                following, told = self.act(batch["next_obs"])
                value = self.slow(torch.cat([batch["next_obs"], following], -1)).squeeze(-1) - self.log_alpha.exp() * told
                wanted = batch["reward"] + 0.9 * (1 - batch["done"]) * value
            error = F.mse_loss(self.critic(torch.cat([batch["obs"], batch["push"]], -1)).squeeze(-1), wanted)
            critic.zero_grad()
            self.manual_backward(error)
            critic.step()
            action, told = self.act(batch["obs"])
            gain = self.critic(torch.cat([batch["obs"], action], -1)).squeeze(-1)
            actor.zero_grad()
            self.manual_backward((self.log_alpha.exp().detach() * told - gain).mean())
            actor.step()
            temperature.zero_grad()
            self.manual_backward(-(self.log_alpha.exp() * (told.detach() - 2.0)).mean())
            temperature.step()
            self.log("critic_loss", error)

        def configure_optimizers(self) -> Any:
            parts = (self.critic.parameters(), self.actor.parameters(), [self.log_alpha])
            return [torch.optim.Adam(part, lr=3e-4) for part in parts]

    m = moves()
    m["push"] = torch.tanh(torch.randn(len(m["obs"]), 2, generator=generator(1)))
    return Sac(), rows(**m)


@healthy
def policy_with_baseline() -> Built:
    """REINFORCE of normalised returns, with a bonus for entropy."""

    class Policy(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(4, 3, act=nn.Tanh)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            policy = torch.distributions.Categorical(logits=self.net(batch["obs"]))
            gain = (batch["reward"] - batch["reward"].mean()) / (batch["reward"].std() + 1e-6)
            return -(policy.log_prob(batch["action"]) * gain).mean() - 0.01 * policy.entropy().mean()

    m = moves()
    return Policy(), rows(obs=m["obs"], action=m["action"], reward=m["reward"])


@healthy
def cox_by_hand() -> Built:
    class Survival(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(8, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, time, event = batch
            return cox(self.net(x).squeeze(-1), time, event)

    return Survival(), loader(*lives())


@healthy
def hazard_in_ten_intervals() -> Built:
    """Discrete time (Gensheimer and Narasimhan 2019): a logit for each interval that a patient entered."""

    class Survival(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(8, 10)
            self.register_buffer("edges", torch.linspace(0, 2, 10))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, time, event = batch
            last = torch.bucketize(time, self.edges[1:-1])
            at = torch.arange(10, device=x.device)
            entered, died = (at <= last[:, None]).float(), (at == last[:, None]) * event[:, None]
            each = F.binary_cross_entropy_with_logits(self.net(x), died, reduction="none")
            return (each * entered).sum() / entered.sum()

    return Survival(), loader(*lives())


@healthy
def captions_with_forced_words() -> Built:
    class Captioner(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.criterion = Seq2Seq(), nn.CrossEntropyLoss(ignore_index=0, label_smoothing=0.1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, words = batch
            scores = self.model(x, words[:, :-1])
            return self.criterion(scores.reshape(-1, scores.shape[-1]), words[:, 1:].reshape(-1))

    return Captioner(), loader(*captions())


@healthy
def attention_word_by_word() -> Built:
    """Bahdanau et al. 2015 in a loop over time; half of the words that it is fed are its own."""

    class Translator(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.encoder = nn.Embedding(24, 32), nn.GRU(32, 16, batch_first=True, bidirectional=True)
            self.energy, self.cell, self.head = nn.Linear(64, 1), nn.GRUCell(64, 32), nn.Linear(64, 24)

        def decode(self, memory: Tensor, state: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
            tired = torch.cat([memory, state[:, None].expand(-1, memory.shape[1], -1)], -1)
            weights = self.energy(torch.tanh(tired)).softmax(1)
            context = (weights * memory).sum(1)
            state = self.cell(torch.cat([self.table(word), context], -1), state)
            return self.head(torch.cat([state, context], -1)), state

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            source = batch[0]
            target = source.flip(1)
            memory, last = self.encoder(self.table(source))
            state, word, losses = torch.cat([last[0], last[1]], -1), torch.zeros_like(source[:, 0]), []
            for t in range(target.shape[1]):
                scores, state = self.decode(memory, state, word)
                losses.append(F.cross_entropy(scores, target[:, t]))
                word = target[:, t] if torch.rand(()) < 0.5 else scores.argmax(-1)
            return torch.stack(losses).mean()

    return Translator(), loader(chains(length=8))


@healthy
def forecast_at_each_time() -> Built:
    """A causal convolution net over values, not words."""

    class Forecaster(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Causal()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            values = batch[0]
            return F.mse_loss(self(values[:, :-1]), values[:, 1:])

    return Forecaster(), loader(series())


@healthy
def windows_normalised_inside() -> Built:
    """Raw sales in hundreds; each window's mean and size are taken out and put back (RevIN, Kim et al. 2022)."""

    class Forecaster(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(24, 4)

        def forward(self, past: Tensor) -> Tensor:
            mean, size = past.mean(1, keepdim=True), past.std(1, keepdim=True) + 1e-5
            return self.net((past - mean) / size) * size + mean

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            past, following = batch
            size = past.std(1, keepdim=True) + 1e-5
            return F.l1_loss(self(past) / size, following / size)

    x = 300 + 80 * series(length=28)
    return Forecaster(), loader(x[:, :24], x[:, 24:])


@healthy
def recurrent_likelihood_of_counts() -> Built:
    """DeepAR (Salinas et al. 2020): a negative binomial at each time, scaled by the series' own mean."""

    class DeepAr(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(1, 24, num_layers=2, batch_first=True), nn.Linear(24, 2)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            counts = batch[0]
            scale = 1 + counts.mean(1, keepdim=True)
            states, _ = self.cell((counts[:, :-1] / scale)[..., None])
            mean, spread = F.softplus(self.head(states)).unbind(-1)
            mean, spread = mean * scale + 1e-4, spread + 1e-2
            told = torch.distributions.NegativeBinomial(1 / spread, logits=torch.log(mean * spread))
            return -told.log_prob(counts[:, 1:]).mean()

    return DeepAr(), loader(torch.poisson(torch.exp(1 + series()), generator=generator()))


@healthy
def packed_sequences() -> Built:
    """A stream of sequences of many lengths, padded by ``collate_fn`` and packed for the LSTM."""

    def collate(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
        sequences, kinds = zip(*samples, strict=True)
        lengths = torch.tensor([len(s) for s in sequences])
        return pad_sequence(list(sequences), batch_first=True), lengths, torch.tensor(kinds)

    class Reader(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(5, 24, batch_first=True, bidirectional=True), nn.Linear(48, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, lengths, kinds = batch
            packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            _, (last, _) = self.cell(packed)
            return F.cross_entropy(self.head(torch.cat([last[0], last[1]], -1)), kinds)

    return Reader(), DataLoader(Stream(lambda: iter(list(tracks()))), batch_size=16, collate_fn=collate)


@healthy
def speech_in_a_stack_of_convolutions() -> Built:
    """CTC over (time, batch, class), lengths shortened by the strides."""

    class Speech(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.front = nn.Sequential(nn.Conv1d(6, 32, 3, 2, 1), nn.BatchNorm1d(32), nn.ReLU())
            self.cell, self.head = nn.GRU(32, 24, bidirectional=True), nn.Linear(48, 8)
            self.ctc = nn.CTCLoss(zero_infinity=True)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            h = self.front(batch["sound"].transpose(1, 2)).permute(2, 0, 1)
            told = self.head(self.cell(h)[0]).log_softmax(-1)
            return self.ctc(told, batch["text"], (batch["frames"] + 1) // 2, batch["letters"])

    g = generator()
    text = torch.randint(1, 8, (320, 4), generator=g)
    sound = torch.eye(8)[text].repeat_interleave(8, 1)[..., :6] + 0.3 * torch.randn(320, 32, 6, generator=g)
    frames, letters = torch.full((320,), 32), torch.full((320,), 4)
    return Speech(), rows(sound=sound, text=text, frames=frames, letters=letters, size=16)


@healthy
def boxes_as_torchvision_gives_them() -> Built:
    """Lists of pictures of several sizes and of dicts of boxes; the net returns a dict of losses."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
            self.heat, self.size = nn.Conv2d(16, 1, 1), nn.Conv2d(16, 2, 1)
            nn.init.constant_(self.heat.bias, -3.0)

        def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            heats, sizes = [], []
            for image, target in zip(images, targets, strict=True):
                h = self.body(image[None])
                wanted = torch.zeros_like(h[:, :1])
                middle = ((target["boxes"][:, :2] + target["boxes"][:, 2:]) / 8).long().clamp_max(h.shape[-1] - 1)
                wanted[0, 0, middle[:, 1], middle[:, 0]] = 1.0
                heats.append(F.binary_cross_entropy_with_logits(self.heat(h), wanted, pos_weight=torch.tensor(5.0)))
                told = self.size(h)[0, :, middle[:, 1], middle[:, 0]].T
                sizes.append(F.l1_loss(told, (target["boxes"][:, 2:] - target["boxes"][:, :2]) / 8))
            return {"heat": torch.stack(heats).mean(), "size": torch.stack(sizes).mean()}

    def scene(g: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        side = int(torch.randint(5, 8, (1,), generator=g)) * 4
        corner = torch.randint(0, side - 9, (2,), generator=g)
        span = torch.randint(4, 9, (2,), generator=g)
        image = 0.3 * torch.randn(1, side, side, generator=g)
        image[:, corner[1] : corner[1] + span[1], corner[0] : corner[0] + span[0]] += 1.0
        return image, {"boxes": torch.cat([corner, corner + span]).float()[None], "labels": torch.ones(1, dtype=torch.long)}

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.model = Detector()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            losses = self.model(*batch)
            self.log_dict({f"loss_{name}": value for name, value in losses.items()})
            return sum(losses.values())  # type: ignore[return-value]

    g = generator()
    data = [scene(g) for _ in range(200)]
    collate = lambda samples: tuple(map(list, zip(*samples, strict=True)))  # noqa: E731
    return Model(), DataLoader(data, batch_size=8, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]


@healthy
def deep_supervision_and_void() -> Built:
    """Two maps, the coarse one resized and weighed by 0.4; the border is 255 and does not count."""

    class Segmenter(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.unet, self.aux = Unet(2), nn.Sequential(nn.Conv2d(1, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
            self.criterion = nn.CrossEntropyLoss(ignore_index=255, weight=torch.tensor([0.5, 1.5]))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            image, mask = batch["image"], batch["mask"]
            coarse = F.interpolate(self.aux(image), mask.shape[-2:], mode="bilinear", align_corners=False)
            main = self.unet(image)
            return {"loss": self.criterion(main, mask) + 0.4 * self.criterion(coarse, mask), "logits": main.detach()}

    x, y = masks()
    y = F.pad(y[:, 1:-1, 1:-1].long(), (1, 1, 1, 1), value=255)
    return Segmenter(), rows(image=x, mask=y, size=8)


@healthy
def labelled_and_unlabelled_side_by_side() -> Built:
    """Mean teacher (Tarvainen and Valpola 2017) on a CombinedLoader; the slow copy stays in eval mode."""

    class MeanTeacher(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.student = convnet(norm=True)
            self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()

        def on_train_start(self) -> None:
            self.teacher.eval()

        def on_train_batch_end(self, *_: Any) -> None:
            for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                slow.data.lerp_(fast.data, 0.05)

        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            x, y = batch["labelled"]
            bare = batch["bare"][0]
            with torch.no_grad():
                wanted = self.teacher(bare + 0.1 * torch.randn_like(bare)).softmax(-1)
            told = self.student(bare + 0.1 * torch.randn_like(bare)).softmax(-1)
            return F.cross_entropy(self.student(x), y) + 0.5 * F.mse_loss(told, wanted)

    x, y = pictures()
    return MeanTeacher(), CombinedLoader({"labelled": loader(x[:320], y[:320]), "bare": loader(x[320:])}, "max_size_cycle")


class _Sample(NamedTuple):
    """What a batch is."""

    features: Tensor
    kind: Tensor
    weight: Tensor


@healthy
def named_tuple_with_weights() -> Built:
    """Each sample counts for as much as it is said to."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)

        def training_step(self, batch: _Sample, batch_idx: int) -> Tensor:
            each = F.cross_entropy(self.net(batch.features), batch.kind, reduction="none")
            return (each * batch.weight).sum() / batch.weight.sum()

    x, y = clusters()
    weight = 0.5 + torch.rand(len(y), generator=generator())
    data = [_Sample(*row) for row in zip(x, y, weight, strict=True)]
    return Model(), DataLoader(data, batch_size=32, shuffle=True)  # type: ignore[arg-type]


@healthy
def trained_against_an_adversary() -> Built:
    """FGSM (Goodfellow et al. 2015): the batch is moved along the gradient of its own loss first."""

    class Robust(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            near = x.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(F.cross_entropy(self.net(near), y), near)
            return 0.5 * F.cross_entropy(self.net(x), y) + 0.5 * F.cross_entropy(self.net(x + 0.05 * slope.sign()), y)

    return Robust(), loader(*pictures())


@healthy
def sharpness_aware_by_hand() -> Built:
    """SAM (Foret et al. 2021): up, a second gradient, back, and then the step."""

    class Sam(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            opt = self.optimizers()
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
            size = torch.stack([p.grad.norm() for p in self.net.parameters()]).norm()
            moved = [0.05 * p.grad / (size + 1e-12) for p in self.net.parameters()]
            with torch.no_grad():
                for p, by in zip(self.net.parameters(), moved, strict=True):
                    p.add_(by)
            opt.zero_grad()
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.manual_backward(loss)
            with torch.no_grad():
                for p, by in zip(self.net.parameters(), moved, strict=True):
                    p.sub_(by)
            opt.step()
            opt.zero_grad()
            self.log("loss", loss)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    return Sam(), loader(*clusters())


@healthy
def schedule_called_by_hand() -> Built:
    """Two optimizers, one schedule, stepped inside the step; sparse gradients for the table (SparseAdam)."""

    class Model(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.body = nn.EmbeddingBag(24, 16, sparse=True), perceptron(16, 2)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            sparse, dense = self.optimizers()
            words, y = batch
            sparse.zero_grad()
            dense.zero_grad()
            self.manual_backward(F.cross_entropy(self.body(self.table(words)), y))
            sparse.step()
            dense.step()
            self.lr_schedulers().step()

        def configure_optimizers(self) -> Any:
            dense = torch.optim.AdamW(self.body.parameters(), lr=2e-3)
            cosine = torch.optim.lr_scheduler.CosineAnnealingLR(dense, 600)
            return [torch.optim.SparseAdam(self.table.parameters(), lr=2e-3), dense], [cosine]

    words = chains()
    y = (words.float().mean(1) > words.float().mean()).long()
    return Model(), loader(words, y), {"trainer": L.Trainer(max_epochs=40, logger=False)}
