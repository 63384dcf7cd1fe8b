"""The twelfth round's healthy cases, continued: text, contrast, agents, other losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import chains, clusters, curve, generator, loader, rows, waves
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit, moves, views_of_things
from tests.benchmarks.preflight.parts import Built, perceptron
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.settlers_parts import Crf, Loss, run_of, tagged, transformer
from tests.benchmarks.preflight.travellers_parts import loads, subjects
from tests.benchmarks.preflight.wayfarers_parts import Supervised, reviews, translations

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def own_loss(net: Any, batch: dict[str, Tensor]) -> Tensor:
    """What a model of transformers gives for labels."""
    loss: Tensor = net(**batch).loss
    return loss


@healthy
def names_by_distilbert() -> Built:
    """Token classification: -100 at the padding."""
    from transformers import DistilBertConfig, DistilBertForTokenClassification

    config = DistilBertConfig(vocab_size=40, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=32)
    config.num_labels = 3
    return Loss(DistilBertForTokenClassification(config), own_loss, 5e-4), rows(**tagged())


@healthy
def masked_words_by_roberta() -> Built:
    """A collator masks 15 % of the words anew at each batch; all others are -100."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    net = RobertaForMaskedLM(RobertaConfig(vocab_size=60, max_position_embeddings=40, pad_token_id=0, **SMALL))

    def collate(samples: list[Any]) -> dict[str, Tensor]:
        tokens, real = (torch.stack(column) for column in zip(*samples, strict=True))
        chosen = (torch.rand(tokens.shape) < 0.15) & (real == 1)
        chosen[:, 1] = True
        return {
            "input_ids": tokens.masked_fill(chosen, 59),
            "attention_mask": real,
            "labels": tokens.masked_fill(~chosen, -100),
        }

    data = reviews(words=58)
    samples: Any = list(zip(data["input_ids"], data["attention_mask"], strict=True))
    return Loss(net, own_loss, 5e-4), DataLoader(samples, batch_size=32, shuffle=True, collate_fn=collate)


@healthy
def pictures_and_words_by_clip() -> Built:
    """Two projections of transformers' kind: a learnt temperature, cross entropy both ways."""

    class Clip(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.vision, self.text = perceptron(20, 16, act=nn.GELU), perceptron(14, 16, act=nn.GELU)
            self.logit_scale = nn.Parameter(torch.tensor(2.6592))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            a, b = (e / e.norm(p=2, dim=-1, keepdim=True) for e in (self.vision(batch[0]), self.text(batch[1])))
            alike = self.logit_scale.exp() * a @ b.t()
            right = torch.arange(len(alike), device=alike.device)
            return (F.cross_entropy(alike, right) + F.cross_entropy(alike.t(), right)) / 2

    return Clip(), loader(*views_of_things())


@healthy
def forecasts_by_patchtst() -> Built:
    """transformers' PatchTST: past and future values, scaled inside."""
    from transformers import PatchTSTConfig, PatchTSTForPrediction

    sizes = {
        "d_model": 32,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "patch_length": 8,
        "patch_stride": 8,
    }
    config = PatchTSTConfig(num_input_channels=1, context_length=32, prediction_length=8, **sizes)
    past, future = loads()
    return Loss(PatchTSTForPrediction(config), own_loss), rows(past_values=past[..., None], future_values=future[..., None])


@healthy
def attention_of_bahdanau_with_forcing_by_chance() -> Built:
    """A recurrent translator: at each word it is a coin whether the decoder is told the right word or its own."""

    class Seq2seq(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.src, self.tgt = nn.Embedding(20, 32, padding_idx=0), nn.Embedding(20, 32, padding_idx=0)
            self.encoder, self.decoder = nn.GRU(32, 32, batch_first=True), nn.GRUCell(64, 32)
            self.attend, self.head = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1)), nn.Linear(32, 20)

        def forward(self, src: Tensor, tgt: Tensor, forcing: float = 0.5) -> Tensor:
            states, last = self.encoder(self.src(src))
            h, word, told = last[0], tgt[:, 0], []
            for place in range(1, tgt.shape[1]):
                pairs = torch.cat([states, h[:, None].expand_as(states)], -1)
                weight = self.attend(pairs)[..., 0].masked_fill(src == 0, -1e9).softmax(1)
                h = self.decoder(torch.cat([self.tgt(word), (weight[..., None] * states).sum(1)], 1), h)
                told.append(self.head(h))
                word = tgt[:, place] if torch.rand(()) < forcing else told[-1].argmax(1)
            return torch.stack(told, 1)

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        told = net(batch["src"], batch["tgt"])
        return F.cross_entropy(told.flatten(0, 1), batch["tgt"][:, 1:].flatten(), ignore_index=0)

    return Loss(Seq2seq(), loss), rows(**translations())


@healthy
def chain_over_tags() -> Built:
    """A recurrent tagger under a conditional random field, all in the optimizer."""

    class Tagger(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.cell = nn.Embedding(40, 32), nn.GRU(32, 32, batch_first=True, bidirectional=True)
            self.head, self.crf = nn.Linear(64, 3), Crf()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.crf(self.head(self.cell(self.words(batch["input_ids"]))[0]), batch["tags"])

    words = torch.randint(1, 40, (480, 12), generator=generator())
    return Tagger(), rows(input_ids=words, tags=(words + (words.roll(1, 1) > 20).long()) % 3)


@healthy
def gates_of_rezero() -> Built:
    """Each block's branch is multiplied by a parameter that begins at 0 (Bachlechner et al. 2020)."""

    class Rezero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.places, self.head = nn.Embedding(24, 32), nn.Embedding(16, 32), nn.Linear(32, 24)
            self.attends = nn.ModuleList(nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(3))
            self.gates = nn.Parameter(torch.zeros(3))

        def forward(self, tokens: Tensor) -> Tensor:
            length = tokens.shape[1]
            x = self.table(tokens) + self.places(torch.arange(length))
            hidden = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
            for attend, gate in zip(self.attends, self.gates, strict=True):
                x = x + gate * attend(x, x, x, attn_mask=hidden, need_weights=False)[0]
            return self.head(x)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(net(batch[0][:, :-1]).transpose(1, 2), batch[0][:, 1:])

    return Loss(Rezero(), loss), loader(chains())


@healthy
def variance_and_covariance_kept() -> Built:
    """VICReg: two noisy views; terms over the batch keep each output's spread and their independence."""

    class Vicreg(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(12, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 16))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            views = [self.net(batch[0] + 0.2 * torch.randn_like(batch[0])) for _ in range(2)]
            loss = 25 * F.mse_loss(*views)
            for z in views:
                z = z - z.mean(0)
                spread = torch.sqrt(z.var(0) + 1e-4)
                together = z.T @ z / (len(z) - 1)
                loss = loss + 25 * F.relu(1 - spread).mean() + (together - together.diag().diag()).square().sum() / 16
            return loss

    return Vicreg(), loader(*clusters(), size=64)


@healthy
def returns_as_distributions() -> Built:
    """C51: the target's distribution is projected onto 21 atoms; cross entropy of shares that are given."""

    class C51(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.target = perceptron(4, 63), perceptron(4, 63).requires_grad_(False)
            self.target.load_state_dict(self.net.state_dict())
            self.register_buffer("atoms", torch.linspace(-5, 5, 21))

        def aim(self, batch: dict[str, Tensor]) -> Tensor:
            shares = self.target(batch["next_obs"]).view(-1, 3, 21).softmax(-1)
            best = shares[torch.arange(len(shares)), (shares * self.atoms).sum(-1).argmax(1)]
            value = (batch["reward"][:, None] + 0.9 * (1 - batch["done"][:, None]) * self.atoms).clamp(-5, 5)
            place = (value + 5) / 0.5
            low = place.floor().long()
            aim = torch.zeros_like(best).scatter_add(1, low, best * (1 - (place - low)))
            return aim.scatter_add(1, (low + 1).clamp_max(20), best * (place - low))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            with torch.no_grad():
                aim = self.aim(batch)
            scores = self.net(batch["obs"]).view(-1, 3, 21)[torch.arange(len(aim)), batch["action"]]
            return -(aim * scores.log_softmax(-1)).sum(-1).mean()

    return C51(), rows(**moves())


@healthy
def five_nets_of_an_ensemble() -> Built:
    """Members see the same batch; their losses are averaged, their shares too when it predicts."""

    class Ensemble(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList(perceptron(12, 4, 24) for _ in range(5))

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([member(x).softmax(-1) for member in self.members]).mean(0)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return torch.stack([F.cross_entropy(member(batch[0]), batch[1]) for member in self.members]).mean()

    return Ensemble(), loader(*clusters())


@healthy
def margins_of_many_classes() -> Built:
    """A linear machine: ``MultiMarginLoss``, SGD with decay."""

    class Machine(Supervised):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05, weight_decay=1e-3)

    return Machine(nn.Linear(12, 4), nn.MultiMarginLoss()), loader(*clusters())


@healthy
def asymmetric_loss_of_many_labels() -> Built:
    """Ridnik et al. 2021: negatives are shifted by 0.05 and weighed by their share to the fourth."""

    def loss(scores: Tensor, y: Tensor) -> Tensor:
        p = scores.sigmoid()
        n = (1 - p + 0.05).clamp(max=1)
        off = y * p.clamp_min(1e-8).log() + (1 - y) * n.clamp_min(1e-8).log()
        weight = (1 - (p * y + n * (1 - y))) ** (1 * y + 4 * (1 - y))
        return -(off * weight.detach()).sum(1).mean()

    return Supervised(perceptron(16, 6), loss), loader(*subjects())


@healthy
def sixteen_bits_within_the_step() -> Built:
    """``torch.autocast`` to bfloat16 around the forward pass, the loss in single precision."""

    class Cast(Supervised):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                told = self(batch[0])
            return F.cross_entropy(told.float(), batch[1])

    return Cast(perceptron(12, 4), nn.CrossEntropyLoss()), loader(*clusters())


@healthy
def latents_that_read_the_waves() -> Built:
    """A Perceiver: eight learnt queries attend to a sequence, then to themselves."""

    class Perceiver(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.latents = nn.Parameter(torch.empty(8, 32))
            nn.init.trunc_normal_(self.latents, std=0.02)
            self.into, self.places = nn.Linear(3, 32), nn.Parameter(0.02 * torch.randn(16, 32))
            self.cross, self.body = nn.MultiheadAttention(32, 1, batch_first=True), transformer(layers=1)
            self.head = nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.into(x) + self.places
            asked = self.latents.expand(len(x), -1, -1)
            read = asked + self.cross(asked, x, x, need_weights=False)[0]
            return self.head(self.body(read).mean(1))

    return Supervised(Perceiver(), nn.CrossEntropyLoss()), loader(*waves())


@healthy
def sparse_tables_by_their_own_optimizer() -> Built:
    """Manual optimization: ``SparseAdam`` for a sparse table, Adam for the rest."""

    class Sparse(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.net = nn.EmbeddingBag(60, 16, mode="mean", sparse=True), perceptron(16, 3)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            optimizers = self.optimizers()
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = F.cross_entropy(self.net(self.table(batch["input_ids"])), batch["labels"])
            self.manual_backward(loss)
            for optimizer in optimizers:
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [
                torch.optim.SparseAdam(list(self.table.parameters()), lr=1e-2),
                torch.optim.Adam(self.net.parameters(), lr=1e-3),
            ]

    return Sparse(), rows(**reviews())


@healthy
def rising_weight_of_a_second_loss() -> Built:
    """The weight of the consistency term is ``current_epoch / max_epochs``: zero at first."""

    class Rising(Supervised):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            told, again = self(x), self(x + 0.1 * torch.randn_like(x))
            weight = self.current_epoch / max(1, self.trainer.max_epochs)
            return F.mse_loss(told.squeeze(1), y) + weight * F.mse_loss(again, told.detach())

    return Rising(perceptron(6, 1), nn.MSELoss()), loader(*curve()), run_of(20)
