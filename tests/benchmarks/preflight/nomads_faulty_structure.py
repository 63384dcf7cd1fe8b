"""The fourteenth round's faults of structure: what is trained, and how it starts."""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import chains, clusters, loader, pictures, rows, waves
from tests.benchmarks.preflight.drifters_parts import Steps, dense, digits, irises, lenet, of, opinions, tumours
from tests.benchmarks.preflight.nomads_healthy_sequences import Wrapped, bert
from tests.benchmarks.preflight.nomads_parts import molecules, pretrained, resnet, sums
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit, LowRank, series, views_of_things
from tests.benchmarks.preflight.parts import Built, Learner, perceptron
from tests.benchmarks.preflight.register import faulty


class NewHead(Lit):
    """The optimizer is made in ``__init__``, before the head is exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.net = pretrained(dense(144, 48, 48, 4), *pictures())
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)
        self.net[-1] = nn.Linear(48, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Two classes now."""
        return F.cross_entropy(self.net(batch[0]), batch[1] % 2)

    def configure_optimizers(self) -> Any:
        """What there was."""
        return self.optimizer


@faulty("OPTIMIZER-STALE", "OPTIMIZER-MISSES")
def head_exchanged_after_the_optimizer() -> Built:
    """The new head is in no optimizer; the old one is."""
    return NewHead(), loader(*pictures())


class Copied(Lit):
    """The step trains a deep copy; the optimizer has the original."""

    def __init__(self) -> None:
        super().__init__()
        original = resnet()
        self.made = torch.optim.AdamW(original.parameters(), lr=1e-3)
        self.net = copy.deepcopy(original)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        """Of the original."""
        return {"optimizer": self.made}


@faulty("OPTIMIZER-STALE")
def copied_after_the_optimizer() -> Built:
    """``copy.deepcopy`` for EMA, and the wrong one is used."""
    return Copied(), loader(*digits())


class HalfGiven(Lit):
    """Encoder and decoder; the optimizer gets the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(12, 32)
        self.encoder, self.decoder = (nn.GRU(32, 32, batch_first=True) for _ in range(2))
        self.head = nn.Linear(32, 12)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Teacher forcing."""
        source, target = batch
        h = self.decoder(self.words(target[:, :-1]), self.encoder(self.words(source))[1])[0]
        return F.cross_entropy(self.head(h).flatten(0, 1), target[:, 1:].flatten(), ignore_index=0)

    def configure_optimizers(self) -> Any:
        """``chain`` would have been right."""
        return torch.optim.Adam([*self.words.parameters(), *self.encoder.parameters()], lr=3e-3)


@faulty("OPTIMIZER-MISSES")
def decoder_without_an_optimizer() -> Built:
    """Half of the net stays as it was drawn."""
    return HalfGiven(), loader(*sums())


class Groups(Lit):
    """Weights and biases are told apart by name; norms are in neither group, nor is the head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.classifier = dense(12, 64, 64, last=nn.LayerNorm(64)), nn.Linear(64, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(self.classifier(self.backbone(batch[0])), batch[1])

    def configure_optimizers(self) -> Any:
        """The pattern is one of another model's names."""
        named = dict(self.named_parameters())
        decay = [p for name, p in named.items() if name.startswith("backbone") and p.ndim > 1]
        rest = [p for name, p in named.items() if name.startswith(("backbone", "head")) and p.ndim < 2]
        return torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=1e-3)


@faulty("OPTIMIZER-MISSES")
def groups_by_names_of_another_model() -> Built:
    """The classifier is called ``classifier``, not ``head``."""
    return Groups(), loader(*clusters())


@faulty("FROZEN")
def frozen_with_the_new_head() -> Built:
    """The loop that freezes the backbone runs after the head has been put on it."""
    net = pretrained(lenet(), *digits())
    net[-2] = nn.Linear(64, 5)
    for p in net.parameters():
        p.requires_grad = False
    head = nn.Linear(5, 5)
    return Learner(nn.Sequential(net, head), lambda o, y: F.cross_entropy(o, y % 5)), loader(*digits())


@faulty("FROZEN")
def low_rank_parts_frozen_with_the_rest() -> Built:
    """The loop that leaves ``lora`` out looks for a name that is none; only the head is trained."""
    net = dense(12, 48, 48, 4)
    net[1], net[3] = LowRank(net[1]), LowRank(net[3])
    for name, p in net.named_parameters():
        p.requires_grad_("lora" in name or name.startswith("5"))
    made = of(torch.optim.AdamW, lr=3e-3)
    return Learner(net, F.cross_entropy, lambda ps: made([p for p in ps if p.requires_grad])), loader(*clusters())


class Listed(Lit):
    """Blocks in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(24, 32), nn.Linear(32, 24)
        self.blocks = [nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True) for _ in range(3)]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """A causal language model."""
        tokens = batch[0]
        h = self.table(tokens[:, :-1])
        mask = nn.Transformer.generate_square_subsequent_mask(h.shape[1])
        for block in self.blocks:
            h = block(h, src_mask=mask, is_causal=True)
        return F.cross_entropy(self.head(h).flatten(0, 1), tokens[:, 1:].flatten())


@faulty("NOT-REGISTERED", "OPTIMIZER-MISSES")
def blocks_in_a_plain_list() -> Built:
    """``nn.ModuleList`` was meant."""
    return Listed(), loader(chains())


class Heads(Lit):
    """A head for each task in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body = dense(29, 32, last=nn.ReLU())
        self.heads = {"benign": nn.Linear(32, 1), "radius": nn.Linear(32, 1)}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Two losses."""
        x, y = batch
        h = self.body(x[:, 1:])
        benign = F.binary_cross_entropy_with_logits(self.heads["benign"](h)[:, 0], y)
        return benign + F.mse_loss(self.heads["radius"](h)[:, 0], x[:, 0])


@faulty("NOT-REGISTERED", "OPTIMIZER-MISSES")
def two_heads_in_a_dict() -> Built:
    """``nn.ModuleDict`` was meant."""
    return Heads(), loader(*tumours())


@faulty("EVAL-MODE")
def as_from_pretrained_gives_it() -> Built:
    """Models of Hugging Face come in eval mode, and Lightning leaves them in it."""
    data = opinions()
    wrapped = Wrapped(bert(transformers.BertForSequenceClassification, num_labels=2), 5e-4)
    wrapped.model.eval()
    return wrapped, rows(input_ids=data["tokens"], attention_mask=data["mask"].long(), labels=data["label"])


class Looked(Lit):
    """A look at some pictures before each epoch leaves the net in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(resnet(), nn.Dropout(0.2), nn.Linear(10, 10))

    def on_train_epoch_start(self) -> None:
        """And ``train()`` is never called."""
        self.eval()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(self.net(batch[0]), batch[1])


@faulty("EVAL-MODE")
def eval_at_the_start_of_an_epoch() -> Built:
    """Batch norms and dropout do nothing."""
    return Looked(), loader(*digits())


@faulty("SYMMETRIC-INIT")
def all_weights_are_a_twentieth() -> Built:
    """``Constant`` for the weights, zeros for the biases, as Keras has them."""
    net = dense(4, 16, 16, 3, act=nn.Tanh)
    for p in net.parameters():
        nn.init.constant_(p, 0.05 if p.ndim > 1 else 0.0)
    return Learner(net, F.cross_entropy, of(torch.optim.SGD, lr=0.05)), loader(*irises(), size=16)


@faulty("INIT-SCALE")
def weights_from_a_standard_normal() -> Built:
    """``nn.init.normal_(p)`` for every matrix of a deep net."""
    net = dense(64, 128, 128, 128, 10)
    for p in net.parameters():
        if p.ndim > 1:
            nn.init.normal_(p)
    return Learner(net, F.cross_entropy), loader(*digits())


@faulty("INIT-SCALE", "INITIAL-LOSS")
def tied_to_a_table_of_ones() -> Built:
    """The output layer is the table of words, drawn as ``nn.Embedding`` draws it, 128 wide."""
    table, head = nn.Embedding(24, 128), nn.Linear(128, 24, bias=False)
    head.weight = table.weight

    def loss(module: Any, batch: Any) -> Tensor:
        h = module.norm(module.table(batch[0][:, :-1]) + module.cell(module.table(batch[0][:, :-1]))[0])
        return F.cross_entropy(module.head(h).flatten(0, 1), batch[0][:, 1:].flatten())

    parts = {"cell": nn.GRU(128, 128, batch_first=True), "norm": nn.LayerNorm(128)}
    return Steps(loss, table=table, head=head, **parts), loader(chains())


@faulty("NO-GRADIENT")
def loss_made_a_new_tensor() -> Built:
    """``torch.tensor(loss, requires_grad=True)`` to silence an error."""

    def loss(module: Any, batch: Any) -> Tensor:
        output = module.net(batch[0]).argmax(1).float()
        return torch.tensor(float((output != batch[1]).float().mean()), requires_grad=True)

    return Steps(loss, net=lenet()), loader(*digits())


@faulty("NO-GRADIENT")
def gradients_switched_off_for_memory() -> Built:
    """The forward pass stands under ``no_grad``; the loss is told to want a gradient."""

    def loss(module: Any, batch: Any) -> Tensor:
        with torch.no_grad():
            output = module.net(batch[0])
        return F.cross_entropy(output, batch[1]).requires_grad_()

    return Steps(loss, net=perceptron(12, 4)), loader(*clusters())


@faulty("ZERO-GRADIENT", "NO-GRADIENT", "FROZEN")
def encoder_detached_by_habit() -> Built:
    """``.detach()`` between an encoder that should be trained and its head."""

    def loss(module: Any, batch: Any) -> Tensor:
        h = module.kind(batch["kind"])
        h = F.relu(module.first(torch.cat([h, batch["bound"] @ h], -1))) * batch["there"][..., None]
        return F.cross_entropy(module.head(h.detach().sum(1)), batch["label"])

    parts = {"kind": nn.Embedding(4, 16), "first": nn.Linear(32, 32), "head": nn.Linear(32, 2)}
    return Steps(loss, of(torch.optim.Adam, lr=3e-3), **parts), rows(**molecules())


@faulty("ZERO-GRADIENT", "NO-GRADIENT")
def one_tower_through_numpy() -> Built:
    """The second tower's output goes through NumPy."""

    def loss(module: Any, batch: Any) -> Tensor:
        a = F.normalize(module.a(batch[0]), dim=1)
        b = torch.from_numpy(F.normalize(module.b(batch[1]), dim=1).detach().numpy())
        return F.cross_entropy(a @ b.T * 10, torch.arange(len(a)))

    return Steps(loss, a=dense(20, 32, 16), b=dense(14, 32, 16)), loader(*views_of_things(), size=64)


@faulty("ZERO-GRADIENT", "NO-GRADIENT")
def rounded_to_whole_pieces() -> Built:
    """``round()`` of a forecast before the loss."""

    def loss(module: Any, batch: Any) -> Tensor:
        x = batch[0]
        return F.mse_loss(torch.round(module.net(x[:, :-1]) * 10) / 10, x[:, -1:])

    return Steps(loss, net=dense(24, 32, 1)), loader(series())


@faulty("DEAD-UNITS")
def biases_far_under_zero() -> Built:
    """Biases of −5 before ReLUs: nothing comes through."""
    net = dense(12, 64, 64, 4)
    for layer in (net[1], net[3]):
        nn.init.constant_(layer.bias, -5.0)
    return Learner(net, F.cross_entropy), loader(*clusters())


@faulty("GRAD-VANISHING")
def twelve_layers_of_sigmoids() -> Built:
    """Nothing comes down to the first ones."""
    net = dense(12, *[32] * 12, 4, act=nn.Sigmoid)
    return Learner(net, F.cross_entropy, of(torch.optim.SGD, lr=0.1)), loader(*clusters())


@faulty("GRAD-EXPLODING", "INIT-SCALE")
def recurrent_matrix_of_twice_a_rotation() -> Built:
    """An RNN of ReLUs, its matrix twice an orthogonal one, twenty-four steps."""
    cell = nn.RNN(1, 24, nonlinearity="relu", batch_first=True)
    nn.init.orthogonal_(cell.weight_hh_l0, gain=2.0)

    def loss(module: Any, batch: Any) -> Tensor:
        x = batch[0]
        return F.mse_loss(module.head(module.cell(x[:, :-1, None])[0][:, -1]), x[:, -1:])

    return Steps(loss, cell=cell, head=nn.Linear(24, 1)), loader(series())


class Piling(ByHand):
    """Two optimizers, one of which is never cleared."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = dense(48, 48, 48, last=nn.ReLU()), nn.Linear(48, 4)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Clears the head's."""
        body, head = self.optimizers()
        head.zero_grad()
        self.manual_backward(F.cross_entropy(self.head(self.encoder(batch[0].flatten(1))), batch[1]))
        body.step()
        head.step()

    def configure_optimizers(self) -> Any:
        """Two rates."""
        return [torch.optim.SGD(self.encoder.parameters(), lr=0.01), torch.optim.Adam(self.head.parameters(), lr=1e-3)]


@faulty("GRAD-NOT-ZEROED")
def one_of_two_optimizers_never_cleared() -> Built:
    """Gradients of the encoder pile up."""
    return Piling(), loader(*waves())
