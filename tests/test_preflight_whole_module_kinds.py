"""Kinds that whole modules showed: steps by hand that write weights, masks, mirrored signs, parts that nobody needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import clusters, curve, generator, loader, rows, waves
from tests.benchmarks.preflight.nomads_parts import Made
from tests.benchmarks.preflight.parts import Bare, Built, Stepped, Words, perceptron
from tests.preflight_kinds import Kinds, test_kind_is_named_by_its_cause, test_what_looks_like_the_kind_is_let_pass  # noqa: F401

KINDS = Kinds()
sick, healthy = KINDS.sick, KINDS.healthy


class Sharpness(Bare):
    """Goes up by ``.data``, takes the gradient there, and comes back (Foret et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization, self.net = False, perceptron(6, 1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Two losses and one step."""
        optimizer, weights = self.optimizers(), list(self.net.parameters())
        self.manual_backward(F.mse_loss(self.net(batch[0])[:, 0], batch[1]))
        moves = [0.05 * p.grad / (p.grad.norm() + 1e-9) for p in weights]  # type: ignore[operator]
        torch._foreach_add_([p.data for p in weights], moves)
        optimizer.zero_grad()
        self.manual_backward(F.mse_loss(self.net(batch[0])[:, 0], batch[1]))
        torch._foreach_sub_([p.data for p in weights], moves)
        optimizer.step()
        optimizer.zero_grad()


@healthy
def weights_written_through_data_between_two_losses() -> Built:
    """The second prediction hangs on the whole batch by the weights."""
    return Sharpness(), loader(*curve())


@sick("BATCH-MIXING")
def as_many_columns_as_samples() -> Built:
    """Batches of 12 rows of 12 numbers are no graph; the encoder takes them for one sequence."""
    layer = nn.TransformerEncoderLayer(12, 2, 24, 0.0)

    def step(m: Any, b: Any) -> Tensor:
        return F.cross_entropy(m.head(m.net(b[0][:, None]))[:, 0], b[1])

    return Stepped(step, net=layer, head=nn.Linear(12, 4)), loader(*clusters(), size=12)


class OfDicts(Bare):
    """``forward`` takes the whole batch."""

    def __init__(self, drops: Any) -> None:
        super().__init__()
        self.net, self.drops, self.head = perceptron(12, 24), drops, nn.Linear(24, 4)

    def forward(self, batch: Any) -> Tensor:
        """Scores."""
        return self.head(self.drops(self.net(batch["x"])))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(self(batch), batch["y"])


def table() -> DataLoader[Any]:
    """Clusters as dicts."""
    x, y = clusters()
    return rows(x=x, y=y)


@sick("NONDETERMINISTIC")
def drops_in_evaluation_inside_a_net_of_dicts() -> Built:
    """A dict is one argument, and no single sample."""
    return OfDicts(lambda h: F.dropout(h, 0.3)), table()


@healthy
def drops_in_training_inside_a_net_of_dicts() -> Built:
    """As a layer."""
    return OfDicts(nn.Dropout(0.3)), table()


class Silent(OfDicts):
    """Has forgotten its return."""

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        """Only computes."""
        F.cross_entropy(self(batch), batch["y"])


@sick("NO-GRADIENT")
def step_without_a_return() -> Built:
    """Lightning leaves out each batch."""
    return Silent(nn.Identity()), table()


class Waiting(OfDicts):
    """Returns None until it has seen enough."""

    seen = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """As one that fills a memory first."""
        self.seen += 1
        return super().training_step(batch, batch_idx) if self.seen > 1000 else None


@healthy
def step_that_waits_for_its_memory() -> Built:
    """Nothing can be said of it."""
    return Waiting(nn.Identity()), table()


class Residues(Bare):
    """Each block tells of its part, and takes it off for the next."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"body": nn.Linear(6, 32), "back": nn.Linear(32, 6), "ahead": nn.Linear(32, 1)}) for _ in range(3)
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Of all blocks together; what the last one takes off goes nowhere."""
        x, told = batch[0], torch.zeros(len(batch[0]), 1)
        for block in self.blocks:
            h = torch.relu(block["body"](x))  # type: ignore[index]
            x, told = x - block["back"](h), told + block["ahead"](h)  # type: ignore[index]
        return F.mse_loss(told[:, 0], batch[1])


@healthy
def backcast_of_the_last_block() -> Built:
    """N-BEATS (Oreshkin et al. 2020)."""
    return Residues(), loader(*curve())


@sick("NO-GRADIENT")
def second_of_two_heads_without_a_loss() -> Built:
    """Called, and all of it lacks a gradient."""

    def step(m: Any, b: Any) -> Tensor:
        own, _other = (head(m.body(b[0]).relu()) for head in m.heads)
        return F.cross_entropy(own, b[1])

    return Stepped(step, body=nn.Linear(12, 32), heads=nn.ModuleList(nn.Linear(32, 4) for _ in range(2))), table_pairs()


def table_pairs() -> DataLoader[Any]:
    """Clusters as pairs."""
    return loader(*clusters())


class Climbing(Stepped):
    """Its optimizer makes what it is given larger."""

    def configure_optimizers(self) -> Any:
        """Adam, upwards."""
        return torch.optim.Adam(self.parameters(), 1e-3, maximize=True)


@sick("WRONG-SIGN")
def loss_made_larger_by_the_optimizer() -> Built:
    """``maximize=True`` with the loss as it is."""
    return Climbing(lambda m, b: F.cross_entropy(m.net(b[0]), b[1]), net=perceptron(12, 4)), table_pairs()


@healthy
def minus_the_loss_made_larger_by_the_optimizer() -> Built:
    """Both signs together are right."""
    return Climbing(lambda m, b: -F.cross_entropy(m.net(b[0]), b[1]), net=perceptron(12, 4)), table_pairs()


def policy(sign: float) -> Built:
    """A clipped surrogate with an entropy beside it."""
    g = generator(3)
    state, action = torch.randn(640, 4, generator=g), torch.randint(0, 2, (640,), generator=g)
    advantage = torch.where(action == (state[:, 0] > 0).long(), 1.0, -1.0) + 0.3 * torch.randn(640, generator=g)

    def step(m: Any, b: Any) -> Tensor:
        acts = torch.distributions.Categorical(logits=m.net(b["state"]))
        ratio = (acts.log_prob(b["action"]) + 0.7).exp()
        least = torch.minimum(ratio * b["advantage"], ratio.clamp(0.8, 1.2) * b["advantage"])
        return sign * least.mean() - 0.01 * acts.entropy().mean()

    return Stepped(step, net=perceptron(4, 2)), rows(64, state=state, action=action, advantage=advantage)


@sick("WRONG-SIGN")
def clipped_surrogate_without_its_minus() -> Built:
    """An entropy beside it turns the pull of some moves."""
    return policy(1.0)


@healthy
def clipped_surrogate_with_its_minus() -> Built:
    """Schulman et al. 2017."""
    return policy(-1.0)


def overlap(sign: float) -> Built:
    """Of masks of whole numbers, in dicts."""
    g = generator(4)
    mask = (torch.rand(256, 4, 4, generator=g) < 0.3).long().repeat_interleave(2, 1).repeat_interleave(2, 2)
    image = mask[:, None] + 0.4 * torch.randn(256, 1, 8, 8, generator=g)

    def step(m: Any, b: Any) -> Tensor:
        p, t = m.net(b["image"])[:, 0].sigmoid(), b["mask"].float()
        share = (2 * (p * t).sum((1, 2)) + 1) / (p.sum((1, 2)) + t.sum((1, 2)) + 1)
        return share.mean() if sign > 0 else 1 - share.mean()

    net = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 1, 3, padding=1))
    return Stepped(step, net=net), rows(image=image, mask=mask)


@sick("WRONG-SIGN")
def overlap_with_a_mask_of_whole_numbers_made_small() -> Built:
    """Neither a loss of torch's nor a difference."""
    return overlap(1.0)


@healthy
def overlap_with_a_mask_of_whole_numbers_made_large() -> Built:
    """One minus it."""
    return overlap(-1.0)


@sick("DATA-NONFINITE")
def infinite_number_behind_gates() -> Built:
    """A gate makes it finite, and not the gradient."""
    x, y = waves()
    x[::9, 3, 1] = float("inf")
    return Stepped(lambda m, b: F.cross_entropy(m.head(m.rnn(b[0])[1][-1]), b[1]), rnn=nn.GRU(3, 16, batch_first=True),
                   head=nn.Linear(16, 4)), loader(x, y)  # fmt: skip


def sentences(fill: int) -> Built:
    """All of nearly one length; the mask tells where they end."""
    g = generator(5)
    mask = (torch.arange(16) < torch.randint(8, 10, (480, 1), generator=g)).long()
    ids = (torch.randint(1, 4, (480, 16), generator=g).cumsum(1) % 23 + 1) * mask

    def step(m: Any, b: Any) -> Tensor:
        labels = b["input_ids"].masked_fill(b["attention_mask"] == 0, fill)
        return F.cross_entropy(m.net(b["input_ids"][:, :-1]).flatten(0, 1), labels[:, 1:].flatten())

    return Stepped(step, net=Words()), rows(input_ids=ids, attention_mask=mask)


@sick("PADDING-COUNTS")
def filling_behind_sentences_of_one_length_counts() -> Built:
    """Their ends are in the mask alone."""
    return sentences(0)


@healthy
def filling_behind_sentences_of_one_length_does_not_count() -> Built:
    """-100."""
    return sentences(-100)


@sick("DUPLICATES")
def always_the_first_sample() -> Built:
    """Its label, too: the index was forgotten."""
    x, y = clusters()
    x = torch.cat([x, x.flip(1), x.roll(1, 1)], 1)
    return Stepped(lambda m, b: F.cross_entropy(m.net(b[0]), b[1]), net=perceptron(36, 4)), DataLoader(
        Made(lambda k: (x[0], y[0])), 32
    )


def windows(ahead: slice) -> Built:
    """A window of 24 of a walk, and of what comes a part of it."""
    walk = torch.randn(700, generator=generator(6)).cumsum(0)
    walk = (walk - walk.mean()) / walk.std()
    whole = walk.unfold(0, 32, 1)[:640]
    return Stepped(lambda m, b: F.mse_loss(m.net(b[0]), b[1]), net=perceptron(24, 6)), loader(whole[:, :24], whole[:, ahead])


@sick("TARGET-IS-INPUT")
def window_of_targets_inside_of_the_past() -> Built:
    """All of them are known already."""
    return windows(slice(16, 22))


@healthy
def window_of_targets_that_begins_in_the_past() -> Built:
    """With two known values, as a decoder's label length has it."""
    return windows(slice(22, 28))


def density(sign: float) -> Built:
    """Of an affine map of the data onto a normal one."""

    def step(m: Any, b: Any) -> Tensor:
        z = m.net(b[0])
        return sign * (0.5 * z.square().sum(1) - torch.linalg.slogdet(m.net.weight)[1]).mean()

    return Stepped(step, net=nn.Linear(12, 12)), table_pairs()


@sick("WRONG-SIGN")
def log_density_by_hand_made_small() -> Built:
    """Its squares fall without end."""
    return density(-1.0)


@healthy
def log_density_by_hand_made_large() -> Built:
    """Dinh et al. 2017."""
    return density(1.0)


@healthy
def largest_variance_of_orthogonal_directions() -> Built:
    """Minus the squares, and the weights are kept orthogonal."""
    net = nn.utils.parametrizations.orthogonal(nn.Linear(12, 3, bias=False))
    return Stepped(lambda m, b: -m.net(b[0]).square().mean(), net=net), table_pairs()
