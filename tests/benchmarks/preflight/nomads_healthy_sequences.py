"""The fourteenth round's healthy cases of words, sounds, series and graphs."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import chains, generator, loader, rows, waves
from tests.benchmarks.preflight.drifters_parts import Steps, dense, of, opinions, run_of, windows
from tests.benchmarks.preflight.nomads_parts import molecules, padded_text, papers, spectrogram, sums, tones
from tests.benchmarks.preflight.outsiders_parts import Lit, LowRank, series
from tests.benchmarks.preflight.parts import Built, Learner
from tests.benchmarks.preflight.register import healthy

Small = {"vocab_size": 24, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}


@healthy
def news_in_bags_at_a_rate_of_five() -> Built:
    """PyTorch's text tutorial: ``EmbeddingBag``, offsets, SGD at 5, clipped at 0.1."""
    data = opinions()
    pairs = list(zip(data["label"], data["tokens"], strict=True))

    def collate(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        texts = [text[text > 0] for _, text in batch]
        sizes = torch.tensor([0, *map(len, texts[:-1])]).cumsum(0)
        return torch.stack([label for label, _ in batch]), torch.cat(texts), sizes

    bag, head = nn.EmbeddingBag(60, 32), nn.Linear(32, 2)
    for p in (bag.weight, head.weight):
        nn.init.uniform_(p, -0.5, 0.5)
    nn.init.zeros_(head.bias)

    def loss(module: Any, batch: Any) -> Tensor:
        label, text, offsets = batch
        return F.cross_entropy(module.head(module.bag(text, offsets)), label)

    data = DataLoader(pairs, batch_size=16, shuffle=True, collate_fn=collate)
    return Steps(loss, of(torch.optim.SGD, lr=5.0), bag=bag, head=head), data, run_of(10, gradient_clip_val=0.1)


@healthy
def packed_by_length() -> Built:
    """Lengths beside the tokens, ``pack_padded_sequence``, the last state of both directions."""
    data = opinions()

    def loss(module: Any, batch: Any) -> Tensor:
        packed = pack_padded_sequence(
            module.table(batch["tokens"]), batch["mask"].sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        state = module.cell(packed)[1][0]
        return F.cross_entropy(module.head(torch.cat([state[0], state[1]], 1)), batch["label"])

    parts = {"table": nn.Embedding(60, 24, padding_idx=0), "cell": nn.LSTM(24, 24, bidirectional=True, batch_first=True)}
    return Steps(loss, of(torch.optim.Adam, lr=3e-3), head=nn.Linear(48, 2), **parts), rows(**data)


class Wrapped(Lit):
    """A model of Hugging Face that gives its own loss."""

    def __init__(self, model: nn.Module, lr: float = 1e-3) -> None:
        super().__init__()
        self.model, self.lr = model.train(), lr

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """``outputs.loss``."""
        outputs = self.model(**batch)
        self.log("train_loss", outputs.loss, prog_bar=True)
        return outputs.loss


@healthy
def gpt2_with_padded_labels_ignored() -> Built:
    """Labels are the tokens, −100 where there are none."""
    data = padded_text()
    labels = data["input_ids"].masked_fill(data["attention_mask"] == 0, -100)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**Small))
    return Wrapped(model), rows(**data, labels=labels)


class MaskedWords(Wrapped):
    """15 % of the words are to be guessed, drawn anew each step."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """As the collator of Hugging Face does."""
        tokens = batch["input_ids"]
        drawn = (torch.rand(tokens.shape) < 0.15) & (tokens > 1)
        return self.model(
            input_ids=tokens.masked_fill(drawn, 1),
            attention_mask=batch["attention_mask"],
            labels=tokens.masked_fill(~drawn, -100),
        ).loss


def bert(kind: Any, **options: Any) -> nn.Module:
    """A small one."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return kind(transformers.BertConfig(**sizes, intermediate_size=64, max_position_embeddings=32, **options))


@healthy
def bert_guesses_words() -> Built:
    """Most labels are ignored: that is how it is done."""
    return MaskedWords(bert(transformers.BertForMaskedLM), 2e-3), rows(**padded_text())


@healthy
def bert_with_its_lower_layers_frozen() -> Built:
    """Tables and the first layer stay as they are: the model was trained before, the head is new."""
    data = opinions()
    model = bert(transformers.BertForSequenceClassification, num_labels=2)
    batch = {"input_ids": data["tokens"], "attention_mask": data["mask"].long(), "labels": data["label"]}
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for start in range(0, 640, 16):
        optimizer.zero_grad()
        model(**{name: column[start : start + 16] for name, column in batch.items()}).loss.backward()
        optimizer.step()
    for part in (model.bert.embeddings, model.bert.encoder.layer[0]):
        part.requires_grad_(False)
    nn.init.normal_(model.classifier.weight, std=0.02)
    return Wrapped(model), rows(**batch, size=16)


@healthy
def digits_reversed() -> Built:
    """``nn.Transformer`` with all its masks, ``ignore_index``, a shift by one, a warmup by ``LambdaLR``."""
    source, target = sums()

    class Reverse(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(12, 32, padding_idx=0), nn.Parameter(0.02 * torch.randn(9, 32))
            self.net = nn.Transformer(32, 2, 1, 1, 64, dropout=0.1, batch_first=True)
            self.head = nn.Linear(32, 12)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            source, target = batch
            given, wanted = target[:, :-1], target[:, 1:]
            future = nn.Transformer.generate_square_subsequent_mask(given.shape[1])
            output = self.net(
                self.words(source) + self.places[: source.shape[1]], self.words(given) + self.places[: given.shape[1]],
                tgt_mask=future, tgt_is_causal=True, src_key_padding_mask=source == 0,
                tgt_key_padding_mask=given == 0, memory_key_padding_mask=source == 0,
            )  # fmt: skip
            return F.cross_entropy(self.head(output).transpose(1, 2), wanted, ignore_index=0)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=2e-3, betas=(0.9, 0.98), eps=1e-9)
            schedule = lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 40))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Reverse(), loader(source, target), run_of(30)


class LowRankGPT(Wrapped):
    """Only the low-rank parts are given to the optimizer."""

    def configure_optimizers(self) -> Any:
        """What takes a gradient."""
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.0)


@healthy
def low_rank_parts_of_a_trained_tagger() -> Built:
    """A net that was trained before, frozen, with two low-rank parts; the task has changed a little."""
    x, y = waves()

    class Tagger(LowRankGPT):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0].flatten(1)), batch[1])

    net = dense(48, 48, 48, 4)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for start in range(0, 640, 8):
        optimizer.zero_grad()
        F.cross_entropy(net(x[start : start + 8].flatten(1)), y[start : start + 8]).backward()
        optimizer.step()
    net.requires_grad_(False)
    net[1], net[3] = LowRank(net[1]), LowRank(net[3])
    return Tagger(net), loader(x, (y + 1) % 4)


@healthy
def voices_of_no_fixed_length() -> Built:
    """CTC: fewer labels than frames, lengths of both, ``zero_infinity``."""
    g = generator()
    said = torch.randint(1, 6, (480, 5), generator=g)
    long = torch.randint(3, 6, (480,), generator=g)
    frames = torch.eye(6)[said].repeat_interleave(4, 1) + 0.4 * torch.randn(480, 20, 6, generator=g)

    def loss(module: Any, batch: Any) -> Tensor:
        frames, said, long = batch
        logp = module.head(module.cell(frames)[0]).log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(logp, said, 4 * long, long, zero_infinity=True)

    parts = {"cell": nn.GRU(6, 32, batch_first=True, bidirectional=True), "head": nn.Linear(64, 6)}
    return Steps(loss, of(torch.optim.AdamW, lr=5e-3), **parts), loader(frames, said, long)


@healthy
def tones_by_log_power() -> Built:
    """Spectrogram, logarithm, and a norm inside; bands are masked while it trains."""
    x, y = tones()

    def loss(module: Any, batch: Any) -> Tensor:
        power = torch.log(spectrogram(batch[0]) + 1e-6)
        power = (power - power.mean((1, 2), keepdim=True)) / (power.std((1, 2), keepdim=True) + 1e-5)
        if module.training:
            low = int(torch.randint(0, 28, (1,)))
            power = torch.cat([power[:, :low], torch.zeros_like(power[:, : low + 4][:, low:]), power[:, low + 4 :]], 1)
        return F.cross_entropy(module.net(power), batch[1])

    net = nn.Sequential(
        nn.Conv1d(33, 32, 3), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.AdaptiveMaxPool1d(1), nn.Flatten(),
        nn.Linear(32, 5),
    )  # fmt: skip
    return Steps(loss, net=net), loader(x, y)


@healthy
def what_is_added_to_the_last_value() -> Built:
    """The net says only how the series goes on from where it is; the last layer starts at zero."""
    net = dense(24, 48, 6)
    nn.init.zeros_(net[-1].weight)
    nn.init.zeros_(net[-1].bias)

    def loss(module: Any, batch: Any) -> Tensor:
        past, ahead = batch
        return F.huber_loss(past[:, -1:] + module.net(past - past[:, -1:]), ahead)

    return Steps(loss, net=net), loader(*windows())


@healthy
def two_stacks_of_backcasts() -> Built:
    """Each block explains a part of the past and takes it away (Oreshkin et al. 2020)."""

    def loss(module: Any, batch: Any) -> Tensor:
        rest, ahead = batch
        forecast = torch.zeros_like(ahead)
        for block in (module.first, module.second):
            back, more = block(rest).split([24, 6], 1)
            rest, forecast = rest - back, forecast + more
        return F.l1_loss(forecast, ahead)

    return Steps(loss, first=dense(24, 48, 48, 30), second=dense(24, 48, 48, 30)), loader(*windows())


@healthy
def next_value_and_its_spread() -> Built:
    """A GRU is given what was, and says a normal distribution of what comes (Salinas et al. 2020)."""

    def loss(module: Any, batch: Any) -> Tensor:
        (x,) = batch
        mean, spread = module.head(module.cell(x[:, :-1, None])[0]).unbind(-1)
        return -torch.distributions.Normal(mean, F.softplus(spread) + 1e-3).log_prob(x[:, 1:]).mean()

    parts = {"cell": nn.GRU(1, 32, batch_first=True), "head": nn.Linear(32, 2)}
    return Steps(loss, of(torch.optim.Adam, lr=3e-3), **parts), loader(series())


@healthy
def one_graph_with_a_mask() -> Built:
    """Cora's way: the same graph each step, and only some of its nodes count; Adam at 0.01 with decay."""
    graph = papers()

    def loss(module: Any, batch: Any) -> Tensor:
        x, a, y, train = (batch[name][0] for name in ("x", "a", "y", "train"))
        h = F.dropout(torch.relu(a @ module.first(x)), 0.5, module.training)
        return F.cross_entropy((a @ module.second(h))[train], y[train])

    data = DataLoader([graph], batch_size=1)
    parts = {"first": nn.Linear(16, 32), "second": nn.Linear(32, 4)}
    return Steps(loss, of(torch.optim.Adam, lr=0.01, weight_decay=5e-4), **parts), data, run_of(200)


@healthy
def bonds_between_atoms() -> Built:
    """Message passing over padded atoms, a sum over those that are there."""

    def loss(module: Any, batch: Any) -> Tensor:
        h, there = module.kind(batch["kind"]) * batch["there"][..., None], batch["there"][..., None]
        for layer in (module.first, module.second):
            h = F.relu(layer(torch.cat([h, batch["bound"] @ h], -1))) * there
        return F.cross_entropy(module.head(h.sum(1)), batch["label"])

    parts = {"kind": nn.Embedding(4, 16), "first": nn.Linear(32, 32), "second": nn.Linear(64, 32)}
    return Steps(loss, of(torch.optim.Adam, lr=3e-3), head=nn.Linear(32, 2), **parts), rows(**molecules())


class Experts(nn.Module):
    """The best of four experts for each place, and a loss that spreads the load (Fedus et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(32, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32)) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output and load."""
        p = self.gate(x).softmax(-1)
        best, which = p.max(-1)
        y = sum((which == k).float()[..., None] * e(x) for k, e in enumerate(self.experts))
        return x + best[..., None] * y, 4 * (F.one_hot(which, 4).float().mean((0, 1)) * p.mean((0, 1))).sum()


@healthy
def words_by_experts() -> Built:
    """A recurrent language model with experts on top."""

    def loss(module: Any, batch: Any) -> Tensor:
        tokens = batch[0]
        h, load = module.experts(module.cell(module.table(tokens[:, :-1]))[0])
        return F.cross_entropy(module.head(h).flatten(0, 1), tokens[:, 1:].flatten()) + 0.01 * load

    parts = {"table": nn.Embedding(24, 32), "cell": nn.GRU(32, 32, batch_first=True), "experts": Experts()}
    return Steps(loss, of(torch.optim.Adam, lr=3e-3), head=nn.Linear(32, 24), **parts), loader(chains())


@healthy
def convolutions_over_the_past() -> Built:
    """Padding on both sides, and what sees the future is cut off."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv1d(1 if d == 1 else 16, 16, 3, padding=2 * d, dilation=d) for d in (1, 2, 4))
            self.head = nn.Conv1d(16, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = x[:, None]
            for layer in self.layers:
                h = F.relu(layer(h)[..., : x.shape[1]])
            return self.head(h)[:, 0]

    def loss(module: Any, batch: Any) -> Tensor:
        return F.mse_loss(module.net(batch[0][:, :-1]), batch[0][:, 1:])

    return Steps(loss, of(torch.optim.Adam, lr=3e-3), net=Net()), loader(series())


@healthy
def order_of_points_matters_for_none() -> Built:
    """Attention over a set without places; a learnt query gathers it."""
    x, y = waves()

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.query = nn.Linear(3, 32), nn.Parameter(0.1 * torch.randn(1, 1, 32))
            self.attention, self.head = nn.MultiheadAttention(32, 2, batch_first=True), nn.Linear(32, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.inside(x))
            return self.head(self.attention(self.query.expand(len(x), -1, -1), h, h, need_weights=False)[0][:, 0])

    return Learner(Pooled(), F.cross_entropy, of(torch.optim.Adam, lr=3e-3)), loader(x, y % 2)
