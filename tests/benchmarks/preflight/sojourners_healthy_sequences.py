"""The sixteenth round's healthy models of words, sounds and series."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import generator, loader, rows
from tests.benchmarks.preflight.nomads_parts import Stream
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.sojourners_parts import (
    System,
    batches,
    chirps,
    demand,
    gauges,
    letters,
    walks,
)


def hidden(ids: Tensor, mask: Tensor) -> Tensor:
    """Labels, without what fills up."""
    return ids.masked_fill(mask == 0, -100)


class Writer(System):
    """A GPT-2 from its configuration; the model makes the loss."""

    learning_rate = 2e-3

    def __init__(self) -> None:
        super().__init__()
        config = hf.GPT2Config(vocab_size=20, n_positions=32, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
        self.model = hf.GPT2LMHeadModel(config)

    def compute(self, batch: Any) -> Tensor:
        """As the model makes it."""
        return self.model(**batch).loss


@healthy
def next_words_by_gpt() -> Built:
    """Filling is -100 in the labels."""
    data = letters()
    ids, mask = data["input_ids"], data["attention_mask"]
    return Writer(), rows(input_ids=ids, attention_mask=mask, labels=hidden(ids, mask))


@healthy
def sentences_by_bert_with_warmup() -> Built:
    """No decay of biases and norms; a linear warm-up and decay from transformers."""

    class Bert(System):
        def __init__(self) -> None:
            super().__init__()
            sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
            self.model = hf.BertForSequenceClassification(hf.BertConfig(vocab_size=20, num_labels=2, **sizes))

        def forward(self, **inputs: Tensor) -> Any:
            return self.model(**inputs)

        def compute(self, batch: Any) -> Tensor:
            return self(**batch).loss

        def configure_optimizers(self) -> Any:
            named = list(self.model.named_parameters())
            plain = ("bias", "LayerNorm.weight")
            groups = [
                {"params": [p for n, p in named if not n.endswith(plain)], "weight_decay": 0.01},
                {"params": [p for n, p in named if n.endswith(plain)], "weight_decay": 0.0},
            ]
            optimizer = torch.optim.AdamW(groups, lr=1e-3)
            total = int(self.trainer.estimated_stepping_batches)
            schedule = hf.get_linear_schedule_with_warmup(optimizer, total // 10, total)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    data = letters()
    return Bert(), rows(labels=data.pop("label"), **data)


@healthy
def sums_turned_round_by_t5() -> Built:
    """Encoder and decoder from a configuration; labels end with -100."""

    class Turner(System):
        learning_rate = 3e-3

        def __init__(self) -> None:
            super().__init__()
            config = hf.T5Config(vocab_size=20, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
            config.decoder_start_token_id = 0
            self.model = hf.T5ForConditionalGeneration(config)

        def compute(self, batch: Any) -> Tensor:
            return self.model(**batch).loss

    data = letters()
    ids, mask = data["input_ids"], data["attention_mask"]
    return Turner(), rows(input_ids=ids, attention_mask=mask, labels=hidden(ids, mask).roll(1, 1))


class Tagger(System):
    """A tag for each word by a recurrent net in both directions, packed."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 24, padding_idx=0)
        self.rnn, self.head = nn.GRU(24, 24, batch_first=True, bidirectional=True), nn.Linear(48, 3)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores of three tags."""
        packed = nn.utils.rnn.pack_padded_sequence(self.table(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.head(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=16)[0])

    def compute(self, batch: Any) -> Tensor:
        """Cross entropy over the words that are there."""
        logits = self(batch["ids"], batch["lengths"])
        return F.cross_entropy(logits.flatten(0, 1), batch["tags"].flatten(), ignore_index=-100)


def tagged() -> dict[str, Tensor]:
    """Words, how many, and for each whether the one before was smaller, larger, or there was none."""
    data = letters()
    ids, mask = data["input_ids"], data["attention_mask"]
    before = F.pad(ids[:, :-1], (1, 0))
    tags = torch.where(before == 0, 0, torch.where(ids > before, 1, 2))
    return {"ids": ids, "lengths": mask.sum(1), "tags": hidden(tags, mask)}


@healthy
def tags_of_packed_sentences() -> Built:
    """Lengths go to the net."""
    return Tagger(), rows(**tagged())


class Remembering(System):
    """Its state goes from one batch to the next, cut off from its past."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.rnn, self.head = nn.Embedding(16, 24), nn.LSTM(24, 32, batch_first=True), nn.Linear(32, 16)
        self.state: Any = None

    def on_train_epoch_start(self) -> None:
        """A new text."""
        self.state = None

    def compute(self, batch: Any) -> Tensor:
        """The next letter."""
        x, y = batch
        output, state = self.rnn(self.table(x), self.state)
        self.state = tuple(part.detach() for part in state)
        return F.cross_entropy(self.head(output).flatten(0, 1), y.flatten())


@healthy
def state_goes_on_from_batch_to_batch() -> Built:
    """A stream of pieces that follow each other."""
    return Remembering(), DataLoader(Stream(walks), batch_size=None)


class Causal(nn.Conv1d):
    """Filled up on the left only."""

    def forward(self, x: Tensor) -> Tensor:
        """As long as before."""
        return super().forward(F.pad(x, ((self.kernel_size[0] - 1) * self.dilation[0], 0)))


class Temporal(System):
    """Dilated causal convolutions with weight norms (Bai et al. 2018): the next value at each time."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for k in range(3):
            parts += [weight_norm(Causal(16 if k else 1, 16, 3, dilation=2**k)), nn.ReLU(), nn.Dropout(0.05)]
        self.net = nn.Sequential(*parts, nn.Conv1d(16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """One value ahead at each time."""
        return self.net(x[:, None])[:, 0]

    def compute(self, batch: Any) -> Tensor:
        """Mean square."""
        series = torch.cat(batch, 1)
        return F.mse_loss(self(series[:, :-1]), series[:, 1:])


@healthy
def next_values_by_causal_convolutions() -> Built:
    """Windows of a series."""
    return Temporal(), loader(*demand())


class Patches(System):
    """A window is brought to its own mean and width, cut into patches, and looked at (Nie et al. 2023)."""

    def __init__(self, outputs: int = 8) -> None:
        super().__init__()
        self.enter, self.place = nn.Linear(8, 32), nn.Parameter(0.02 * torch.randn(4, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True)
        self.body, self.leave = nn.TransformerEncoder(layer, 2), nn.Linear(128, outputs)

    def forward(self, past: Tensor) -> Tensor:
        """What comes."""
        mean, std = past.mean(1, keepdim=True), past.std(1, keepdim=True) + 1e-5
        x = self.enter(((past - mean) / std).unfold(1, 8, 8)) + self.place
        return self.leave(self.body(x).flatten(1)) * std + mean

    def compute(self, batch: Any) -> Tensor:
        """Mean square."""
        return F.mse_loss(self(batch[0]), batch[1])


@healthy
def patches_of_a_series() -> Built:
    """With reversible instance norms."""
    return Patches(), loader(*demand())


@healthy
def three_quantiles_of_what_comes() -> Built:
    """Pinball losses at a tenth, a half, nine tenths."""

    class Quantiles(Patches):
        def compute(self, batch: Any) -> Tensor:
            far = batch[1][..., None] - self(batch[0]).view(-1, 8, 3)
            q = torch.tensor([0.1, 0.5, 0.9])
            return torch.maximum(q * far, (q - 1) * far).mean()

    return Quantiles(24), loader(*demand())


@healthy
def mean_and_spread_of_what_comes() -> Built:
    """Gaussian likelihood; the variance is positive by softplus."""

    class Spread(System):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.mu, self.spread = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 8), nn.Linear(32, 8)

        def compute(self, batch: Any) -> Tensor:
            state = self.rnn(batch[0][..., None])[1][-1]
            return F.gaussian_nll_loss(self.mu(state), batch[1], F.softplus(self.spread(state)) + 1e-3)

    return Spread(), loader(*demand())


class Gauges(System):
    """Which fault a machine has, by a recurrent net and attention over time."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.score, self.head = nn.LSTM(4, 24, 2, batch_first=True), nn.Linear(24, 1), nn.Linear(24, 3)

    def pooled(self, states: Tensor) -> Tensor:
        """The sum over time, weighted."""
        return (self.score(states).softmax(1) * states).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        return self.head(self.pooled(self.rnn(x)[0]))

    def compute(self, batch: Any) -> Tensor:
        """Weighted cross entropy."""
        return F.cross_entropy(self(batch[0]), batch[1], torch.tensor([1.0, 1.2, 0.9]))


@healthy
def gauges_and_attention_over_time() -> Built:
    """Classes have weights."""
    return Gauges(), loader(*gauges())


@healthy
def chirps_as_spectra() -> Built:
    """A log spectrum is computed in the net; SpecAugment hides a band."""

    class Spectra(System):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("window", torch.hann_window(32))
            self.net = nn.Sequential(nn.Conv2d(1, 12, 3, 2), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2))
            self.head = nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Tensor:
            power = torch.stft(x, 32, 16, window=self.window, return_complex=True).abs().square()
            x = (power + 1e-4).log()[:, None]
            if self.training:
                x = x * (torch.rand(len(x), 1, x.shape[2], 1, device=x.device) > 0.1)
            return self.head(self.net(x / 3))

        def compute(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    return Spectra(), loader(*chirps())


class Lines(System):
    """Reads strips of strokes: columns, a recurrent net, CTC."""

    learning_rate = 3e-3

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv1d(6, 24, 3, 1, 1), nn.BatchNorm1d(24), nn.ReLU())
        self.rnn, self.head = nn.GRU(24, 24, batch_first=True, bidirectional=True), nn.Linear(48, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities, time first."""
        return self.head(self.rnn(self.cnn(x).mT)[0]).log_softmax(-1).transpose(0, 1)

    def compute(self, batch: Any) -> Tensor:
        """CTC over concatenated labels."""
        x, labels, lengths = batch
        return F.ctc_loss(self(x), labels, torch.full_like(lengths, x.shape[-1]), lengths, blank=0, zero_infinity=True)


def strips(n: int = 320, columns: int = 20) -> list[tuple[Tensor, Tensor]]:
    """Strokes of five letters with gaps, and what they spell."""
    g, made = generator(176), []
    shape = 1.5 * torch.randn(6, 6, generator=g)
    shape[0] = 0
    for _ in range(n):
        word = torch.randint(1, 6, (int(torch.randint(2, 5, (1,), generator=g)),), generator=g)
        ink = torch.stack([word, torch.zeros_like(word)], 1).flatten().repeat_interleave(2)
        ink = F.pad(ink, (1, columns - 1 - len(ink)))
        made.append((shape[ink].T + 0.4 * torch.randn(6, columns, generator=g), word))
    return made


def joined(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Labels one after another, and how long each is."""
    x, words = zip(*samples, strict=True)
    return torch.stack(x), torch.cat(words), torch.tensor([len(word) for word in words])


@healthy
def strokes_spelt_by_ctc() -> Built:
    """Labels of all samples stand in one row."""
    return Lines(), batches(strips(), collate_fn=joined)


@healthy
def questions_about_sentences() -> Built:
    """Cross-attention from a learnt question to the tokens; focal loss of two classes."""

    class Asking(System):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.place = nn.Embedding(20, 32, padding_idx=0), nn.Parameter(0.02 * torch.randn(16, 32))
            self.ask = nn.Parameter(0.1 * torch.randn(1, 2, 32))
            self.mix = nn.GRU(32, 32, batch_first=True)
            self.look, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(64, 1)

        def compute(self, batch: Any) -> Tensor:
            x = self.mix(self.table(batch["input_ids"]) + self.place)[0]
            ask = self.ask.expand(len(x), -1, -1)
            seen, _ = self.look(ask, x, x, key_padding_mask=batch["attention_mask"] == 0)
            logit, y = self.head(seen.flatten(1))[:, 0], batch["label"].float()
            each = F.binary_cross_entropy_with_logits(logit, y, reduction="none")
            return ((1 - (-each).exp()) ** 1.5 * each).mean()

    return Asking(), rows(**letters())
