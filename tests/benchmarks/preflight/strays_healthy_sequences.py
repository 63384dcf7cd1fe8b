"""The fifteenth round's healthy models of words, sounds and series."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import lightning_adam as la
from tests.benchmarks.preflight.data import chains, loader, rows
from tests.benchmarks.preflight.nomads_parts import sums
from tests.benchmarks.preflight.parts import Built, Words
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.strays_parts import Task, causal, notes, spoken


@dataclass
class Output:
    """As the models of transformers return it."""

    loss: Tensor | None
    logits: Tensor


@healthy
def small_gpt_as_nanogpt_has_it() -> Built:
    """Tied tables, warmup and cosine as a ``LambdaLR`` by the step, no decay of vectors."""

    class Gpt(Task):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = Words()

        def loss(self, batch: Any) -> Tensor:
            tokens = batch[0]
            return F.cross_entropy(self.transformer(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=-1)

        def configure_optimizers(self) -> Any:
            groups = [
                {"params": [p for p in self.parameters() if p.dim() >= 2], "weight_decay": 0.1},
                {"params": [p for p in self.parameters() if p.dim() < 2], "weight_decay": 0.0},
            ]
            optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
            total = int(self.trainer.estimated_stepping_batches)

            def factor(step: int) -> float:
                if step < total // 20:
                    return (step + 1) / (total // 20 + 1)
                return 0.1 + 0.45 * (1 + math.cos(math.pi * step / total))

            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Gpt(), loader(chains())


@healthy
def labels_shifted_inside_of_the_model() -> Built:
    """``labels`` are the tokens themselves, padding at -100; the model shifts them, as transformers' do."""
    data = notes()
    data["labels"] = data["input_ids"].masked_fill(data["attention_mask"] == 0, -100)

    class Lm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.lm_head = nn.Embedding(50, 48), nn.Linear(48, 50)
            layer = nn.TransformerEncoderLayer(48, 4, 96, 0.1, "gelu", batch_first=True, norm_first=True)
            self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Output:
            hidden = self.blocks(self.words(input_ids), causal(input_ids.shape[1]), attention_mask == 0)
            logits, loss = self.lm_head(hidden), None
            if labels is not None:
                loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            return Output(loss, logits)

    class Causal(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = Lm()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.model(**batch).loss

        def configure_optimizers(self) -> Any:
            return la.configure_optimizers(self, "adamw", lr=1e-3, schedule="cosine", warmup=0.1, clip=1.0)

    return Causal(), rows(**data)


@healthy
def words_hidden_in_the_step() -> Built:
    """BERT's masking: 15 % are asked for, of which 80 % are hidden, 10 % replaced; the other labels are -100."""

    class Mlm(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = Words(25, causal=False)

        def loss(self, batch: Any) -> Tensor:
            tokens = batch[0]
            asked = torch.rand(tokens.shape) < 0.15
            labels = tokens.masked_fill(~asked, -100)
            chance = torch.rand(tokens.shape)
            x = torch.where(asked & (chance < 0.8), 24, tokens)
            x = torch.where(asked & (chance > 0.9), torch.randint_like(tokens, 24), x)
            return F.cross_entropy(self.model(x).transpose(1, 2), labels)

    return Mlm(), loader(chains())


@healthy
def encoder_and_decoder_with_masks() -> Built:
    """``nn.Transformer``: padding masked on both sides, a causal target, 0 ignored."""
    source, target = sums()

    class Translator(Task):
        lr = 5e-4

        def __init__(self) -> None:
            super().__init__()
            self.words, self.places, self.head = nn.Embedding(12, 48, 0), nn.Embedding(16, 48), nn.Linear(48, 12)
            self.core = nn.Transformer(48, 4, 1, 1, 96, 0.1, batch_first=True)

        def embed(self, tokens: Tensor) -> Tensor:
            return self.words(tokens) * math.sqrt(48) + self.places(torch.arange(tokens.shape[1]))

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            hidden = self.core(
                self.embed(source), self.embed(target), tgt_mask=causal(target.shape[1]), tgt_is_causal=True,
                src_key_padding_mask=source == 0, tgt_key_padding_mask=target == 0, memory_key_padding_mask=source == 0,
            )  # fmt: skip
            return self.head(hidden)

        def loss(self, batch: Any) -> Tensor:
            source, target = batch
            return F.cross_entropy(self(source, target[:, :-1]).transpose(1, 2), target[:, 1:], ignore_index=0)

    return Translator(), loader(source, target)


@healthy
def decoded_step_by_step() -> Built:
    """A GRU decoder that takes its own word half of the time, and the right one otherwise."""
    source, target = sums()

    class Seq2Seq(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.encoder = nn.Embedding(12, 32, padding_idx=0), nn.GRU(32, 64, batch_first=True)
            self.cell, self.out = nn.GRUCell(32, 64), nn.Linear(64, 12)

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            hidden = self.encoder(self.embed(source))[1][0]
            word, scores = target[:, 0], []
            for place in range(1, target.shape[1]):
                hidden = self.cell(self.embed(word), hidden)
                scores.append(self.out(hidden))
                word = target[:, place] if torch.rand(1).item() < 0.5 else scores[-1].argmax(1)
            return torch.stack(scores, 1)

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(*batch).flatten(0, 1), batch[1][:, 1:].flatten(), ignore_index=0)

    return Seq2Seq(), loader(source, target)


@healthy
def speech_by_ctc() -> Built:
    """A two-way LSTM, log-softmax, time first; 0 is the blank and the padding."""

    class Speech(Task):
        lr = 3e-3

        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = nn.LSTM(8, 32, batch_first=True, bidirectional=True), nn.Linear(64, 7)
            self.ctc = nn.CTCLoss(blank=0, zero_infinity=True)

        def loss(self, batch: Any) -> Tensor:
            log_probs = F.log_softmax(self.fc(self.rnn(batch["x"])[0]), dim=-1).transpose(0, 1)
            return self.ctc(log_probs, batch["label"], batch["frames"], batch["length"])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
            return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)}

    return Speech(), rows(**spoken())


@healthy
def packed_texts_and_the_last_state() -> Built:
    """``pack_padded_sequence`` by the length, unsorted; the last hidden state decides."""

    class Packed(Task):
        lr = 3e-3

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn = nn.Embedding(50, 24, padding_idx=0), nn.LSTM(24, 32, batch_first=True)
            self.drop, self.fc = nn.Dropout(0.2), nn.Linear(32, 3)

        def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(self.embed(tokens), mask.sum(1), True, enforce_sorted=False)
            return self.fc(self.drop(self.rnn(packed)[1][0][-1]))

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch["input_ids"], batch["attention_mask"]), batch["labels"])

    return Packed(), rows(**notes())


@healthy
def bags_of_words_side_by_side() -> Built:
    """``EmbeddingBag`` with offsets: a batch is one long vector, as in torchtext's tutorial."""
    data = notes()
    texts = [(row[row > 0], label) for row, label in zip(data["input_ids"], data["labels"], strict=True)]

    def collate(batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        words, labels = zip(*batch, strict=True)
        offsets = torch.tensor([0, *itertools.accumulate(len(w) for w in words[:-1])])
        return torch.stack(labels), torch.cat(words), offsets

    class Bag(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.fc = nn.EmbeddingBag(50, 32, mode="mean"), nn.Linear(32, 3)
            self.embedding.weight.data.uniform_(-0.5, 0.5)
            self.fc.bias.data.zero_()

        def loss(self, batch: Any) -> Tensor:
            label, text, offsets = batch
            return F.cross_entropy(self.fc(self.embedding(text, offsets)), label)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=5.0)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)]

    return Bag(), DataLoader(texts, 16, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
