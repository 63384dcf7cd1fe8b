"""Kinds of faults in whose target and whose output: samples, places, graphs and words side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import chains, clusters, generator, loader, pictures, rows, waves
from tests.benchmarks.preflight.parts import Built, Stepped, Words, perceptron
from tests.benchmarks.preflight.settlers_parts import pixelcnn
from tests.benchmarks.preflight.travellers_parts import pixelwise
from tests.benchmarks.preflight.wayfarers_parts import Reader, reviews, streets
from tests.preflight_kinds import Kinds, test_kind_is_named_by_its_cause, test_what_looks_like_the_kind_is_let_pass  # noqa: F401

KINDS = Kinds()
sick, healthy = KINDS.sick, KINDS.healthy


@sick("BATCH-MIXING")
def labels_in_another_order_than_time_first_outputs() -> Built:
    """(T, N, C) and (N, T), both flattened."""

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        states, _ = m.cell(m.table(batch["words"].T))
        return F.cross_entropy(m.head(states).flatten(0, 1), batch["tags"].flatten())

    words = chains()
    parts = {"table": nn.Embedding(24, 16), "cell": nn.GRU(16, 24), "head": nn.Linear(24, 5)}
    return Stepped(step, **parts), rows(words=words, tags=words % 5, size=16)


@healthy
def mixed_on_purpose() -> Built:
    """Pairs of samples and of their labels (Zhang et al. 2018), by shares of which some are next to nothing."""

    def step(m: Any, batch: Any) -> Tensor:
        share, order = float(torch.distributions.Beta(0.2, 0.2).sample()), torch.randperm(len(batch[0]))
        told = m.net(share * batch[0] + (1 - share) * batch[0][order])
        return share * F.cross_entropy(told, batch[1]) + (1 - share) * F.cross_entropy(told, batch[1][order])

    return Stepped(step, net=perceptron(12, 4)), loader(*clusters())


def rings(items: list[tuple[Tensor, Tensor]], is_shifted: bool) -> dict[str, Tensor]:
    """Small graphs side by side: nodes, edges, and which graph each node belongs to."""
    counts = torch.tensor([len(x) for x, _ in items])
    begins = torch.cumsum(counts, 0) - counts
    edges = [torch.stack([torch.arange(n), (torch.arange(n) + 1) % n]) for n in counts]
    first = 0 if is_shifted else 1
    shifted = [(edge + begin + first) % counts.sum() for edge, begin in zip(edges, begins, strict=True)]
    owners = torch.arange(len(items)).repeat_interleave(counts)
    return {
        "x": torch.cat([x for x, _ in items]), "edge_index": torch.cat(shifted, 1), "batch": owners,
        "y": torch.stack([y for _, y in items]),
    }  # fmt: skip


def graphs(is_shifted: bool) -> Built:
    """A layer that adds up what the neighbours say, and a mean over each graph."""

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        h, (sender, receiver), owners = m.first(batch["x"]).relu(), batch["edge_index"], batch["batch"]
        h = (h + torch.zeros_like(h).index_add(0, receiver, m.second(h)[sender])).relu()
        count = len(batch["y"])
        pooled = torch.zeros(count, 24).index_add(0, owners, h) / torch.bincount(owners, minlength=count)[:, None]
        return F.cross_entropy(m.head(pooled), batch["y"])

    g = generator()
    xs = [torch.randn(int(n), 5, generator=g) for n in torch.randint(4, 9, (320,), generator=g)]
    data = [(x, (x[:, 0].mean() > 0).long()) for x in xs]
    parts = {"first": nn.Linear(5, 24), "second": nn.Linear(24, 24), "head": nn.Linear(24, 2)}
    read = DataLoader(data, batch_size=16, shuffle=True, collate_fn=lambda items: rings(items, is_shifted))  # type: ignore[arg-type]
    return Stepped(step, **parts), read


@sick("BATCH-MIXING")
def edges_that_lie_one_node_too_far() -> Built:
    """Each graph's last edge leads into the next graph."""
    return graphs(is_shifted=False)


@healthy
def graphs_side_by_side() -> Built:
    """Each graph's edges are shifted behind the nodes of those before it."""
    return graphs(is_shifted=True)


@sick("SOFTMAX-DIM")
def attention_normalised_over_the_queries() -> Built:
    """``dim=-2`` of (samples, queries, keys)."""
    return tagging(lambda scores, values: scores.softmax(-2) @ values)


@healthy
def keys_normalised_over_places() -> Built:
    """Linear attention (Shen et al. 2021): what is summed over is what the softmax goes over."""
    return tagging(lambda scores, values: scores.softmax(-1) @ (values.softmax(1).mT @ values)[:, :1].expand(-1, 17, -1))


def tagging(mix: Callable[[Tensor, Tensor], Tensor]) -> Built:
    """A tag for each word, by one layer of attention."""

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        words = m.table(batch["words"])
        told = m.head(words + mix(m.query(words) @ words.mT / 5, words))
        return F.cross_entropy(told.flatten(0, 1), batch["tags"].flatten())

    words = chains()
    parts = {"table": nn.Embedding(24, 24), "query": nn.Linear(24, 24), "head": nn.Linear(24, 5)}
    return Stepped(step, **parts), rows(words=words, tags=(words + words.roll(1, 1)) % 5, size=16)


@sick("NOT-CAUSAL")
def one_packed_row_without_a_mask() -> Built:
    """Batches of a single long sequence have no other sample to take entries from."""
    net = Words(causal=False)
    net.places = nn.Embedding(65, 32)

    def step(m: Any, batch: Any) -> Tensor:
        return F.cross_entropy(m.net(batch[0][:, :-1]).flatten(0, 1), batch[0][:, 1:].flatten())

    return Stepped(step, net=net), loader(chains(48, 65), size=1)


@sick("TARGET-IS-INPUT")
def label_among_the_sensors() -> Built:
    """One sensor's reading at one time is the label."""
    x, y = waves()
    x[:, 3, 2] = y.float()
    cell = nn.GRU(3, 24, batch_first=True)
    return Stepped(
        lambda m, b: F.cross_entropy(m.head(m.cell(b[0])[0][:, -1]), b[1]), cell=cell, head=nn.Linear(24, 4)
    ), loader(x, y)


@healthy
def label_in_two_forms() -> Built:
    """The batch has it as numbers, too; no net gets to see them."""
    x, y = clusters()
    step = lambda m, b: F.cross_entropy(m.net(b["x"]), b["label"])  # noqa: E731
    return Stepped(step, net=perceptron(12, 4)), rows(x=x, label=y, marks=F.one_hot(y, 4).float())


@sick("SOFTMAX-DIM")
def classes_of_maps_viewed_as_rows() -> Built:
    """``view(-1, C)`` of (N, C, H, W)."""
    x, mask = streets()
    step = lambda m, b: F.cross_entropy(m.net(b[0]).view(-1, 3), b[1].view(-1), ignore_index=255)  # noqa: E731
    return Stepped(step, net=pixelwise(3, 3)), loader(x, mask, size=16)


@healthy
def classes_of_maps_moved_to_the_end() -> Built:
    """The same rows, and each has one pixel's scores."""
    x, mask = streets()
    step = lambda m, b: F.cross_entropy(m.net(b[0]).movedim(1, -1).reshape(-1, 3), b[1].view(-1), ignore_index=255)  # noqa: E731
    return Stepped(step, net=pixelwise(3, 3)), loader(x, mask, size=16)


def opinions(hides: Callable[[Tensor], Tensor]) -> Built:
    """Of padded texts, by an encoder that is told what to hide."""
    step = lambda m, b: F.cross_entropy(m.net(b["input_ids"], hides(b["attention_mask"])), b["labels"])  # noqa: E731
    return Stepped(step, net=Reader()), rows(**reviews())


@sick("IGNORES-INPUT")
def mask_hides_what_is_real() -> Built:
    """torch hides where its mask is True, and Hugging Face's is 1 where there is a word."""
    return opinions(lambda mask: mask.bool())


@healthy
def mask_hides_the_padding() -> Built:
    return opinions(lambda mask: mask == 0)


@sick("GRAD-VANISHING")
def ten_sigmoids_in_a_row() -> Built:
    """All outputs are alike, and depth is why: a gradient does come through."""
    deep = [part for _ in range(10) for part in (nn.Linear(32, 32), nn.Sigmoid())]
    net = nn.Sequential(nn.Linear(12, 32), *deep, nn.Linear(32, 4))
    return Stepped(lambda m, b: F.cross_entropy(m.net(b[0]), b[1]), net=net), loader(*clusters())


def quantised(bridge: Callable[[Tensor, Tensor], Tensor], pull: float) -> Built:
    """Codes of a book (van den Oord et al. 2017), of which all samples get the same at first."""

    def step(m: Any, batch: Any) -> Tensor:
        code = m.encoder(batch[0])
        entry = m.book(torch.cdist(code, m.book.weight).argmin(1))
        told = F.mse_loss(m.decoder(bridge(code, entry)), batch[0]) + F.mse_loss(entry, code.detach())
        return told + pull * F.mse_loss(code, entry.detach()) if pull else told

    parts = {"encoder": perceptron(12, 8), "decoder": perceptron(8, 12), "book": nn.Embedding(16, 8)}
    return Stepped(step, **parts), loader(*clusters())


@sick("NO-GRADIENT")
def codes_without_a_bridge() -> Built:
    """That all get one code is no fault of the input's."""
    return quantised(lambda code, entry: entry, 0.0)


@healthy
def codes_with_a_bridge() -> Built:
    """The gradient is copied from the entry to the code."""
    return quantised(lambda code, entry: code + (entry - code).detach(), 0.25)


@healthy
def texts_told_from_each_other_by_a_second_net() -> Built:
    """What the last net gives hangs on no text; the loss does."""

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        texts = F.normalize(m.reader(batch["input_ids"], batch["attention_mask"] == 0))
        return F.cross_entropy(texts @ F.normalize(m.tower(batch["seen"])).T / 0.2, torch.arange(len(texts)))

    texts = reviews()
    seen = F.one_hot(texts["labels"], 3).float() + 0.1 * torch.randn(640, 3, generator=generator())
    parts = {"reader": Reader(outputs=8), "tower": perceptron(3, 8)}
    return Stepped(step, **parts), rows(input_ids=texts["input_ids"], attention_mask=texts["attention_mask"], seen=seen)


def told_again(kind: str) -> Built:
    """Pixels one after another, by a net whose first mask is of a kind."""
    x, y = pictures()

    def step(m: Any, batch: Any) -> Tensor:
        return F.mse_loss(m.net(batch[0]), batch[0])

    return Stepped(step, net=pixelcnn(kind)), loader(x, y)


@sick("TARGET-IS-INPUT")
def pixel_is_told_from_itself() -> Built:
    """Kind B is for all masks but the first."""
    return told_again("B")


@healthy
def pixel_is_told_from_those_before() -> Built:
    """Kind A."""
    return told_again("A")


@healthy
def picture_told_again_by_an_autoencoder() -> Built:
    """Each output sees its own pixel, and later ones as well."""
    x, y = pictures()
    return Stepped(lambda m, b: F.mse_loss(m.net(b[0]), b[0]), net=pixelwise(1, 1)), loader(x, y)
