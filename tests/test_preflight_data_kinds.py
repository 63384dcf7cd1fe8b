"""Kinds of faults in the data, and in parameters of one's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from tests.benchmarks.preflight.data import clusters, generator, loader, rows
from tests.benchmarks.preflight.parts import Built, Stepped, perceptron
from tests.benchmarks.preflight.travellers_parts import pixelwise
from tests.benchmarks.preflight.wayfarers_parts import streets, utterances
from tests.preflight_kinds import Kinds, test_kind_is_named_by_its_cause, test_what_looks_like_the_kind_is_let_pass  # noqa: F401

KINDS = Kinds()
sick, healthy = KINDS.sick, KINDS.healthy


@sick("DATA-NONFINITE")
def constant_column_standardised_inside() -> Built:
    """0 / 0 in the step, of batches that are finite."""
    x, y = clusters()
    x[:, 3] = 2.0
    return Stepped(lambda m, b: F.cross_entropy(m.net((b[0] - x.mean(0)) / x.std(0)), b[1]), net=perceptron(12, 4)), loader(
        x, y
    )


@sick("LABEL-RANGE")
def speech_labels_from_nought() -> Built:
    """CTC keeps class 0 for the blank."""
    g = generator()
    y = torch.randint(0, 7, (320, 4), generator=g)
    x = F.one_hot(y.repeat_interleave(4, 1), 7).float() + 0.3 * torch.randn(320, 16, 7, generator=g)

    def step(m: Any, batch: Any) -> Tensor:
        told = m.head(m.cell(batch[0])[0]).log_softmax(-1).transpose(0, 1)
        sizes = [torch.full((len(batch[0]),), length) for length in (16, 4)]
        return F.ctc_loss(told, batch[1], *sizes)

    return Stepped(step, cell=nn.GRU(7, 24, batch_first=True), head=nn.Linear(24, 8)), loader(x, y)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Every worker reads all of it."""

    def __iter__(self) -> Any:
        return zip(*clusters(480), strict=True)


@sick("DUPLICATES")
def stream_is_not_shared_among_workers() -> Built:
    """Each batch comes once for each worker."""
    step = lambda m, b: F.cross_entropy(m.net(b[0]), b[1])  # noqa: E731
    return Stepped(step, net=perceptron(12, 4)), DataLoader(Stream(), batch_size=32, num_workers=2)


@sick("NOT-REGISTERED")
def learnt_tensors_that_are_no_parameters() -> Built:
    """``requires_grad=True`` makes no parameter of a tensor."""
    module = Stepped(lambda m, b: F.cross_entropy(m.net(b[0]) * m.scale, b[1]), net=perceptron(12, 4))
    module.scale = torch.ones(4, requires_grad=True)
    return module, loader(*clusters())


@sick("INIT-SCALE")
def matrices_of_standard_normals() -> Built:
    """No layer of torch's is there."""
    parts = {f"w{k}": nn.Parameter(torch.randn(*shape)) for k, shape in enumerate([(12, 128), (128, 128), (128, 4)])}
    return Stepped(lambda m, b: F.cross_entropy((b[0] @ m.w0).relu() @ m.w1 @ m.w2, b[1]), **parts), loader(*clusters())


class Buffered(IterableDataset[tuple[Tensor, Tensor]]):
    """Class after class, shuffled by a buffer that is a third as long as one of them; the last batch has one sample."""

    def __iter__(self) -> Any:
        x, y = clusters(865)
        held: list[int] = []
        g = generator()
        for place in y.argsort().tolist():
            held.append(place)
            if len(held) == 64:
                chosen = held.pop(int(torch.randint(0, 64, (1,), generator=g)))
                yield x[chosen], y[chosen]


@sick("SORTED")
def buffer_shorter_than_a_class() -> Built:
    """Batches next to each other have the same classes."""
    return Stepped(classify, net=perceptron(12, 4)), DataLoader(Buffered(), batch_size=32)


def classify(module: Any, batch: Any) -> Tensor:
    """Cross entropy of a pair."""
    return F.cross_entropy(module.net(batch[0]), batch[1])


def drawn(weights: Tensor) -> Built:
    """Clusters, drawn with replacement by their weights."""
    x, y = clusters()
    sampler = WeightedRandomSampler(weights.tolist(), len(y), generator=generator())
    return Stepped(classify, net=perceptron(12, 4)), DataLoader(TensorDataset(x, y), batch_size=32, sampler=sampler)


@sick("DUPLICATES")
def weights_of_classes_for_a_sampler_of_samples() -> Built:
    """Only the first four samples have a weight."""
    return drawn(torch.ones(4))


@healthy
def a_weight_for_each_sample() -> Built:
    """Some come again, by chance."""
    return drawn(torch.rand(960, generator=generator()))


@sick("ONE-LABEL")
def class_numbers_that_were_divided() -> Built:
    """The batch's masks differ, and ``.long()`` makes 0 of all of them."""
    x, mask = streets(void=0)
    step = lambda m, b: F.cross_entropy(m.net(b["image"]), b["mask"].long())  # noqa: E731
    return Stepped(step, net=pixelwise(3, 3)), rows(image=x, mask=mask.float() / 255, size=16)


@sick("ONE-LABEL")
def words_that_are_spelt_otherwise() -> Built:
    """A comparison of words never holds."""

    def step(m: Any, batch: Any) -> Tensor:
        is_first = torch.tensor([float(word == "First") for word in batch[1]])
        return F.binary_cross_entropy_with_logits(m.net(batch[0])[:, 0], is_first)

    x, y = clusters()
    named = [(row, ("first", "second", "third", "fourth")[kind]) for row, kind in zip(x, y.tolist(), strict=True)]
    return Stepped(step, net=perceptron(12, 1)), DataLoader(named, batch_size=32, shuffle=True)  # type: ignore[arg-type]


@healthy
def right_answer_is_always_the_first() -> Built:
    """The step makes zeros of nothing (He et al. 2020), whatever the batch has beside its inputs."""

    def step(m: Any, batch: dict[str, Any]) -> Tensor:
        one, other = (F.normalize(m.net(batch["x"] + 0.1 * torch.randn(32, 12))) for _ in range(2))
        scores = torch.cat([(one * other).sum(1, keepdim=True), one @ other.roll(1, 0).T[:, :8]], 1)
        return F.cross_entropy(scores / 0.2, torch.zeros(len(one), dtype=torch.long))

    x, y = clusters()
    return Stepped(step, net=perceptron(12, 8)), rows(x=x, kind=y)


@sick("IGNORED")
def one_of_two_classes_is_the_ignored_one() -> Built:
    """What is left are labels of the other."""
    step = lambda m, b: F.cross_entropy(m.net(b[0]), b[1], ignore_index=1)  # noqa: E731
    return Stepped(step, net=perceptron(12, 2)), loader(*clusters(classes=2))


@healthy
def letters_padded_with_the_blank() -> Built:
    """Behind its length a row of labels is no label."""

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        told = m.head(m.cell(batch["frames"])[0]).log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(told, batch["letters"], batch["long"], batch["spelt"])

    return Stepped(step, cell=nn.GRU(8, 24, batch_first=True), head=nn.Linear(24, 7)), utterances()


@healthy
def two_places_and_what_is_given_there() -> Built:
    """Any two numbers lie on a line with any other two."""

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        return F.mse_loss(m.net(batch["end"]), batch["value"]) + 0.01 * m.net(batch["inside"]).square().mean()

    end = torch.tensor([[0.0], [3.0]]).repeat(320, 1)
    inside = 3 * torch.rand(640, 1, generator=generator())
    return Stepped(step, net=perceptron(1, 1)), rows(end=end, value=end.sin(), inside=inside)


def series(is_masked: bool) -> Built:
    """Noise of unequal length behind which there are zeros, in the input and in the target."""
    g = generator()
    real = (torch.arange(20) < torch.randint(6, 21, (320, 1), generator=g)).float()
    x = torch.randn(320, 20, 3, generator=g) * real[..., None]

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        mask = (batch["x"] != 0).any(-1, keepdim=True) if is_masked else 1.0
        return F.smooth_l1_loss(m.net(batch["x"]) * mask, batch["y"])

    return Stepped(step, net=perceptron(3, 1)), rows(x=x, y=x.sum(-1, keepdim=True) + 0.5 * real[..., None])


@sick("PADDING-COUNTS")
def zeros_behind_each_series_are_told() -> Built:
    """A third of the places that the loss adds up are behind the ends."""
    return series(is_masked=False)


@healthy
def zeros_behind_each_series_cost_nothing() -> Built:
    """The prediction is 0 there, too."""
    return series(is_masked=True)


@sick("TARGET-IS-INPUT")
def target_in_thousands_among_the_columns() -> Built:
    """That its scale is wrong as well is the smaller fault."""
    x, _ = clusters()
    price = 300.0 + 20.0 * x.sum(1)
    leaking = torch.cat([x, price[:, None] / 1000], 1)
    return Stepped(lambda m, b: F.mse_loss(m.net(b[0])[:, 0], b[1]), net=perceptron(13, 1)), loader(leaking, price)


class Mixes(Stepped):
    """Classes of the loader become shares in a hook, which miss 1 by a rounding."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Each sample with another one."""
        hot, share = F.one_hot(batch[1], 4).float(), float(torch.distributions.Beta(0.8, 0.8).sample())
        return share * batch[0] + (1 - share) * batch[0].flip(0), share * hot + (1 - share) * hot.flip(0)


@healthy
def classes_mixed_in_a_hook() -> Built:
    """The loss never sees the class numbers, of which 3 is no share."""
    x, y = clusters()
    step = lambda m, b: F.binary_cross_entropy_with_logits(m.net(b[0]), b[1])  # noqa: E731
    return Mixes(step, net=perceptron(12, 4)), loader(x, y)
