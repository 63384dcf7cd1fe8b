"""A fifth round of healthy cases, in the shapes of the fifth round's faults, and wrapped in what torch offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.benchmarks.preflight.data import chains, clusters, curve, generator, loader, pictures, rows
from tests.benchmarks.preflight.newcomers_parts import (
    WORDS,
    Answering,
    ConditionalGan,
    GraphNet,
    Module,
    Stream,
    Translator,
    TwoHeads,
    graphs,
    sentences,
    two_targets,
)
from tests.benchmarks.preflight.parts import Bare, Built, Learner, Stepped, convnet, perceptron, sgd
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.strangers_parts import Split, scenes, views


@healthy
def two_heads_weighed() -> Built:
    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        out = net(batch["x"])
        return 0.5 * nn.HuberLoss()(out["amount"].squeeze(-1), batch["amount"]) + F.cross_entropy(out["kind"], batch["kind"])

    return Split(TwoHeads(), loss), rows(**two_targets())


@healthy
def logits_and_features_in_a_tuple() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = perceptron(12, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.body(x)
            return self.head(h), h

    def loss(net: nn.Module, batch: Any) -> Tensor:
        logits, features = net(batch[0])
        return nn.CrossEntropyLoss(label_smoothing=0.1)(logits, batch[1]) + 1e-3 * features.square().mean()

    return Split(Net(), loss), loader(*clusters())


@healthy
def called_with_labels() -> Built:
    x, y = clusters()
    net = Answering(perceptron(12, 4), nn.BCEWithLogitsLoss())
    return Split(net, lambda net, batch: net(**batch).loss), rows(features=x, labels=F.one_hot(y, 4).float())


@healthy
def translator_with_mask_and_padding() -> Built:
    def loss(net: nn.Module, batch: Any) -> Tensor:
        source, target = batch
        logits = net(source, target[:, :-1])
        return F.cross_entropy(logits.reshape(-1, WORDS), target[:, 1:].reshape(-1), ignore_index=0)

    return Split(Translator(), loss), loader(*sentences(short=True), size=16)


@healthy
def graphs_with_their_own_batch() -> Built:
    return Split(GraphNet(), lambda net, batch: F.cross_entropy(net(batch), batch.y)), graphs()


@healthy
def one_graph_of_papers() -> Built:
    """The whole graph at each step, and a mask of the nodes whose labels are known."""

    class Papers:
        def __init__(self, **fields: Tensor) -> None:
            self.__dict__.update(fields)

        def to(self, device: Any, non_blocking: bool = False) -> Papers:
            return Papers(**{name: value.to(device) for name, value in self.__dict__.items()})

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(12, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            def mean(h: Tensor) -> Tensor:
                count = torch.bincount(edges[1], minlength=len(h)).clamp_min(1)[:, None]
                return torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]) / count

            return self.second(mean(F.relu(self.first(mean(x)))))

    x, y = clusters(240)
    g = generator()
    ends = torch.randint(0, 240, (2, 4000), generator=g)
    kept = (y[ends[0]] == y[ends[1]]) | (torch.rand(4000, generator=g) < 0.2)
    papers = Papers(x=x, edges=ends[:, kept], y=y, train_mask=torch.rand(240, generator=g) < 0.5)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(net(batch.x, batch.edges)[batch.train_mask], batch.y[batch.train_mask])

    return Split(Net(), loss, lr=1e-2), DataLoader([papers], batch_size=None)  # type: ignore[arg-type]


@healthy
def conditional_gan_by_hand() -> Built:
    """The generator's table of classes is trained with it."""
    return ConditionalGan(lambda gan: (gan.g, gan.d)), loader(*clusters())


@healthy
def likelihood_of_torch() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.spread = perceptron(6, 1), nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Any:
            return Normal(self.body(x).squeeze(-1), F.softplus(self.spread) + 0.05)

    return Split(Net(), lambda net, batch: -net(batch[0]).log_prob(batch[1]).mean()), loader(*curve())


@healthy
def student_and_teacher() -> Built:
    teacher = perceptron(12, 4).requires_grad_(False).eval()

    def step(model: Any, batch: Any) -> Tensor:
        with torch.no_grad():
            wanted = (model.teacher(batch[0]) / 2).log_softmax(-1)
        logits = model.student(batch[0])
        soft = nn.KLDivLoss(reduction="batchmean", log_target=True)((logits / 2).log_softmax(-1), wanted)
        return 4 * soft + F.cross_entropy(logits, batch[1])

    return Stepped(step, teacher=teacher, student=perceptron(12, 4)), loader(*clusters())


@healthy
def similar_views_stop_gradient() -> Built:
    """SimSiam (Chen and He 2021): its loss begins near 0 and falls to -1."""

    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(perceptron(144, 32), nn.BatchNorm1d(32))
            self.guess = perceptron(32, 32, width=16)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            z = [self.body(view) for view in batch]
            p = [self.guess(one) for one in z]
            return -(F.cosine_similarity(p[0], z[1].detach()) + F.cosine_similarity(p[1], z[0].detach())).mean() / 2

        def configure_optimizers(self) -> Any:
            return sgd(0.05)(self.parameters())

    return Model(), loader(*views())


@healthy
def ranking_of_pairs() -> Built:
    """Bayesian personalised ranking (Rendle et al. 2009): who, what was taken, and what was not."""

    def loss(net: Any, batch: Any) -> Tensor:
        who, taken, other = batch
        score = lambda item: (net[0](who) * net[1](item)).sum(1)  # noqa: E731
        return -F.logsigmoid(score(taken) - score(other)).mean()

    g = generator()
    who, items = torch.randint(0, 40, (2, 960), generator=g)
    taken = (who % 4) * 10 + items % 10
    return Split(nn.ModuleList([nn.Embedding(40, 8), nn.Embedding(40, 8)]), loss, lr=1e-2), loader(who, taken, items)


@healthy
def pinball_by_hand_in_stream() -> Built:
    def stream() -> Iterator[dict[str, Tensor]]:
        return iter({"signal": a, "next": b} for a, b in zip(*curve(), strict=True))

    levels = torch.tensor([0.1, 0.5, 0.9])

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        off = batch["next"][:, None] - net(batch["signal"])
        return torch.maximum(levels * off, (levels - 1) * off).mean()

    return Split(perceptron(6, 3), loss), DataLoader(Stream(stream), batch_size=32)


@healthy
def ordered_grades() -> Built:
    """CORAL (Cao et al. 2020): one score, and a bias for each step between grades."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.steps = perceptron(6, 1), nn.Parameter(torch.linspace(1, -1, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) + self.steps

    def loss(net: nn.Module, batch: Any) -> Tensor:
        above = (batch[1][:, None] > torch.arange(3)).float()
        return F.binary_cross_entropy_with_logits(net(batch[0]), above)

    x, y = curve()
    return Split(Net(), loss), Module(lambda: TensorDataset(x, torch.bucketize(y, torch.tensor([-0.7, 0.0, 0.7]))))


@healthy
def soft_dice_of_logits() -> Built:
    def loss(net: nn.Module, batch: Any) -> Tensor:
        odds, wanted = net(batch[0]).sigmoid(), (batch[1] > 0).float()[:, None]
        return 1 - (2 * (odds * wanted).sum((1, 2, 3)) + 1).div((odds + wanted).sum((1, 2, 3)) + 1).mean()

    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1))
    return Split(net, loss), loader(*scenes(), size=8)


@healthy
def patches_filled_in() -> Built:
    """MAE (He et al. 2022): most patches are hidden, and only those are judged."""

    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(9, 32), nn.Linear(32, 9)
            self.hidden, self.places = nn.Parameter(torch.zeros(32)), nn.Parameter(0.02 * torch.randn(16, 32))
            layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
            self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            patches = F.unfold(batch[0], 3, stride=3).transpose(1, 2)
            hides = torch.rand(patches.shape[:2], device=patches.device) < 0.6
            h = torch.where(hides[..., None], self.hidden, self.embed(patches)) + self.places
            off = (self.head(self.body(h)) - patches).square().mean(-1)
            return (off * hides).sum() / hides.sum()

    return Model(), loader(*pictures())


@healthy
def wrapped_lightning_module() -> Built:
    """A module of Lightning's inside another, which calls its step."""

    class Outer(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Learner(perceptron(12, 4), F.cross_entropy)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.inner(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return self.inner.configure_optimizers()

    return Outer(), loader(*clusters())


def _normalised(layer: nn.Module) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(layer)


@healthy
def weights_in_polar_form() -> Built:
    net = nn.Sequential(_normalised(nn.Linear(12, 48)), nn.ReLU(), _normalised(nn.Linear(48, 4)))
    return Learner(net, F.cross_entropy), loader(*clusters())


@healthy
def orthogonal_recurrence() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.turn, self.head = nn.Embedding(WORDS, 24), nn.Linear(24, 24, bias=False), nn.Linear(24, WORDS)
            nn.utils.parametrizations.orthogonal(self.turn)

        def forward(self, tokens: Tensor) -> Tensor:
            h, states = torch.zeros(len(tokens), 24, device=tokens.device), []
            for place in self.table(tokens).unbind(1):
                h = F.relu(self.turn(h) + place)
                states.append(h)
            return self.head(torch.stack(states, 1))

    def loss(net: nn.Module, tokens: Any) -> Tensor:
        return F.cross_entropy(net(tokens[0][:, :-1]).flatten(0, 1), tokens[0][:, 1:].flatten())

    return Split(Net(), loss), loader(chains(words=WORDS), size=16)


@healthy
def hooks_of_its_own() -> Built:
    """Activations are kept by a hook, and their size goes into the loss; gradients are clipped by another."""

    class Model(Learner):
        def __init__(self, net: Any, loss: Callable[..., Tensor]) -> None:
            super().__init__(net, loss)
            self.seen: list[Tensor] = []
            net[1].register_forward_hook(lambda _, __, output: self.seen.append(output))
            net[0].weight.register_hook(lambda gradient: gradient.clamp(-1, 1))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.seen.clear()
            loss = super().training_step(batch, batch_idx)
            return loss + 1e-3 * sum(h.square().mean() for h in self.seen)

    return Model(perceptron(12, 4), F.cross_entropy), loader(*clusters())


@healthy
def compiled_inside() -> Built:
    return Learner(torch.compile(convnet(norm=True)), F.cross_entropy), loader(*pictures())  # type: ignore[arg-type]
