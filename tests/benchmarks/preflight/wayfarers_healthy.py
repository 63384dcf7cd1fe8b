"""An eleventh round of healthy cases: what people rightly do with Lightning; supervised and with two losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from tests.benchmarks.preflight.data import chains, clusters, curve, generator, loader, pictures, rows, waves
from tests.benchmarks.preflight.outsiders_parts import Lit, Unet, masks
from tests.benchmarks.preflight.parts import Built, Recurrent, convnet, perceptron
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.travellers_parts import pixelwise, subjects
from tests.benchmarks.preflight.wayfarers_parts import (
    Backbone,
    Points,
    Reader,
    Supervised,
    Translator,
    dice,
    houses,
    reviews,
    streets,
    translations,
    utterances,
)


@healthy
def metrics_of_torchmetrics() -> Built:
    """A collection as a submodule, updated in the step, with smoothed labels."""

    class Measured(Supervised):
        def __init__(self) -> None:
            super().__init__(perceptron(12, 4), nn.CrossEntropyLoss(label_smoothing=0.1))
            accuracy = torchmetrics.classification.MulticlassAccuracy(4)
            self.metrics = torchmetrics.MetricCollection({"acc": accuracy}, prefix="train/")

        def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
            x, y = batch
            scores = self(x)
            self.log_dict(self.metrics(scores.softmax(1), y), on_step=True, on_epoch=True)
            return {"loss": self.criterion(scores, y), "preds": scores.argmax(1)}

    return Measured(), Points()


@healthy
def mixup_with_shares() -> Built:
    """Pictures and one-hot labels mixed in ``on_after_batch_transfer``; cross entropy of shares."""

    class Mixed(Supervised):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            x, y = batch
            share, order = torch.distributions.Beta(0.4, 0.4).sample(), torch.randperm(len(x))
            hot = F.one_hot(y, 4).float()
            return share * x + (1 - share) * x[order], share * hot + (1 - share) * hot[order]

    return Mixed(convnet(norm=True), nn.CrossEntropyLoss()), loader(*pictures())


@healthy
def streets_with_a_void_frame() -> Built:
    """Segmentation with ``ignore_index=255`` and weights for the classes."""
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.8, 1.5]), ignore_index=255)
    return Supervised(pixelwise(3, 3), loss), loader(*streets(), size=16)


@healthy
def dice_beside_cross_entropy() -> Built:
    """Half of each, on scores."""

    def both(told: Tensor, mask: Tensor) -> Tensor:
        return 0.5 * F.binary_cross_entropy_with_logits(told, mask) + 0.5 * dice(told, mask)

    x, inside = masks()
    return Supervised(Unet(1), both), loader(x, inside[:, None], size=16)


@healthy
def letters_by_ctc() -> Built:
    """A bidirectional GRU, log-shares of (time, batch, letters), and lengths."""

    class Spelling(Lit):
        lr = 3e-3

        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(8, 32, batch_first=True, bidirectional=True), nn.Linear(64, 7)
            self.ctc = nn.CTCLoss(blank=0, zero_infinity=True)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(
                batch["frames"], batch["long"], batch_first=True, enforce_sorted=False
            )
            states, _ = nn.utils.rnn.pad_packed_sequence(self.cell(packed)[0], batch_first=True)
            shares = self.head(states).log_softmax(-1).transpose(0, 1)
            return self.ctc(shares, batch["letters"], batch["long"], batch["spelt"])

    return Spelling(), utterances()


@healthy
def bert_of_hugging_face() -> Built:
    """A tiny BertForSequenceClassification: dict batches, and the loss comes with the output."""
    from transformers import BertConfig, BertForSequenceClassification

    class Bert(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
            self.model = BertForSequenceClassification(
                BertConfig(vocab_size=60, num_labels=3, max_position_embeddings=32, **sizes)
            )

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            loss = self.model(**batch).loss
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            decayed = [p for p in self.parameters() if p.dim() > 1]
            rest = [p for p in self.parameters() if p.dim() <= 1]
            groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
            return torch.optim.AdamW(groups, lr=5e-4)

    return Bert(), rows(**reviews())


@healthy
def gpt_of_hugging_face() -> Built:
    """GPT-2 shifts the labels itself: they are the input's tokens, -100 at the padding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    class Gpt(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.model = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_positions=32, n_embd=32, n_layer=2, n_head=4))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            return self.model(batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss

    data = reviews()
    return Gpt(), rows(input_ids=data["input_ids"], attention_mask=data["attention_mask"])


@healthy
def opinions_with_the_padding_hidden() -> Built:
    """An encoder of torch whose ``src_key_padding_mask`` is True where there is padding."""

    class Opinions(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Reader()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch["input_ids"], batch["attention_mask"] == 0), batch["labels"])

    return Opinions(), rows(**reviews())


@healthy
def translation_with_a_shifted_decoder() -> Built:
    """``tgt[:, :-1]`` in, ``tgt[:, 1:]`` out, a causal mask, and padding that does not count; smoothed."""

    class Translates(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Translator()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            before, after = batch["tgt"][:, :-1], batch["tgt"][:, 1:]
            mask = nn.Transformer.generate_square_subsequent_mask(before.shape[1])
            scores = self.net(batch["src"], before, mask)
            return F.cross_entropy(scores.transpose(1, 2), after, ignore_index=0, label_smoothing=0.1)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-9)
            rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / 60, (60 / (s + 1)) ** 0.5))
            return [optimizer], [{"scheduler": rise, "interval": "step"}]

    trainer = L.Trainer(max_epochs=40, logger=False)
    return Translates(), rows(**translations()), {"trainer": trainer}


@healthy
def boxes_in_lists() -> Built:
    """Detection: targets are dicts in a tuple, as many boxes as there are; the model gives its losses in training."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
            self.objects, self.boxes = nn.Conv2d(16, 1, 1), nn.Conv2d(16, 4, 1)

        def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            h = self.body(torch.stack(images))
            found, boxes = self.objects(h)[:, 0], self.boxes(h).movedim(1, -1)
            there, losses = torch.zeros_like(found), []
            for i, target in enumerate(targets):
                cells = (target["boxes"][:, :2] / 4).long()
                there[i, cells[:, 0], cells[:, 1]] = 1.0
                losses.append(F.smooth_l1_loss(boxes[i, cells[:, 0], cells[:, 1]], target["boxes"] / 16))
            weight = torch.tensor(8.0)
            objectness = F.binary_cross_entropy_with_logits(found, there, pos_weight=weight)
            return {"loss_objectness": objectness, "loss_box": torch.stack(losses).mean()}

    class Detects(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.model = Detector()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            images, targets = batch
            losses = self.model(list(images), list(targets))
            self.log_dict(losses, batch_size=len(images))
            return sum(losses.values())

    x, inside = masks()
    samples = []
    for picture, where in zip(x, inside, strict=True):
        places = where.nonzero()
        box = torch.cat([places.amin(0), places.amax(0)]).float()[None]
        samples.append((picture, {"boxes": box, "labels": torch.ones(1, dtype=torch.long)}))
    return Detects(), DataLoader(samples, batch_size=16, shuffle=True, collate_fn=lambda s: tuple(zip(*s, strict=True)))  # type: ignore[arg-type]


@healthy
def rare_kind_drawn_as_often() -> Built:
    """One in ten, with a WeightedRandomSampler that has one weight per sample."""
    x, y = clusters(classes=2)
    kept = torch.cat([torch.where(y == 0)[0], torch.where(y == 1)[0][:60]])
    x, y = x[kept], y[kept]
    sampler = WeightedRandomSampler((1 / torch.bincount(y))[y].tolist(), len(y), generator=generator())
    return Supervised(perceptron(12, 2), nn.CrossEntropyLoss()), DataLoader(
        TensorDataset(x, y), batch_size=32, sampler=sampler
    )


@healthy
def stream_without_a_length() -> Built:
    """An iterable dataset that draws waves for ever."""

    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            while True:
                x = torch.randn(16, 3)
                yield x, (x[:, 0].mean() > 0).long() + 2 * (x[-1, 1] > 0).long()

    trainer = L.Trainer(max_steps=1000, logger=False)
    return (
        Supervised(Recurrent(nn.GRU), nn.CrossEntropyLoss()),
        DataLoader(Endless(), batch_size=32),
        {"trainer": trainer},
    )


@healthy
def head_on_a_frozen_backbone() -> Built:
    """Transfer: the backbone is frozen and kept in eval by ``on_train_epoch_start``; the new head learns."""

    class Transfer(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = Backbone().requires_grad_(False)
            self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(self.backbone.num_features, 4))

        def on_train_epoch_start(self) -> None:
            self.backbone.eval()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            with torch.no_grad():
                features = self.backbone.forward_features(batch[0])
            return F.cross_entropy(self.head(features), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.head.parameters(), lr=3e-3)

    return Transfer(), loader(*pictures())


@healthy
def prices_standardised_in_the_module() -> Built:
    """Hundreds of thousands come from the loader; buffers hold their mean and deviation."""

    class Prices(Lit):
        def __init__(self, y: Tensor) -> None:
            super().__init__()
            self.net = perceptron(10, 1)
            self.register_buffer("mean", y.mean())
            self.register_buffer("deviation", y.std())

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            return F.huber_loss(self.net(x).squeeze(-1), (y - self.mean) / self.deviation)

    x, y = houses()
    return Prices(y), loader(x, y)


@healthy
def many_labels_with_weights() -> Built:
    """``BCEWithLogitsLoss`` with ``pos_weight`` over six subjects."""
    x, y = subjects()
    weight = (1 - y).sum(0) / y.sum(0)
    return Supervised(perceptron(16, 6), nn.BCEWithLogitsLoss(pos_weight=weight)), loader(x, y)


@healthy
def quantiles_of_what_will_be() -> Built:
    """Three outputs, and the pinball loss of each."""
    shares = torch.tensor([0.1, 0.5, 0.9])

    def pinball(told: Tensor, y: Tensor) -> Tensor:
        off = y[:, None] - told
        return torch.maximum(shares * off, (shares - 1) * off).mean()

    return Supervised(perceptron(6, 3), pinball), loader(*curve())


@healthy
def heads_with_learnt_weights() -> Built:
    """Two tasks weighed by their learnt uncertainty (Kendall et al. 2018)."""

    class Both(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
            self.heads = nn.ModuleDict({"sign": nn.Linear(48, 2), "value": nn.Linear(48, 1)})
            self.log_vars = nn.Parameter(torch.zeros(2))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            h = self.body(x)
            sign = F.cross_entropy(self.heads["sign"](h), (y > 0).long())
            losses = torch.stack([sign, F.mse_loss(self.heads["value"](h).squeeze(1), y)])
            return (losses * torch.exp(-self.log_vars) + self.log_vars).sum()

    return Both(), loader(*curve())


@healthy
def language_model_of_an_lstm() -> Built:
    """Tokens in chunks, states not carried over."""

    class Lstm(Lit):
        lr = 3e-3

        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell = nn.Embedding(24, 32), nn.LSTM(32, 48, 2, batch_first=True, dropout=0.2)
            self.head = nn.Linear(48, 24)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            (tokens,) = batch
            scores = self.head(self.cell(self.table(tokens[:, :-1]))[0])
            return F.cross_entropy(scores.reshape(-1, 24), tokens[:, 1:].reshape(-1))

    return Lstm(), loader(chains())


@healthy
def two_loaders_side_by_side() -> Built:
    """A dict of loaders, as CombinedLoader takes it: waves and clusters, one body each."""

    class Sides(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.waves, self.points = Recurrent(nn.GRU), perceptron(12, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            (x, y), (a, b) = batch["waves"], batch["points"]
            return F.cross_entropy(self.waves(x), y) + F.cross_entropy(self.points(a), b)

    return Sides(), {"waves": loader(*waves()), "points": loader(*clusters())}
