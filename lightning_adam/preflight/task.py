"""One run, as probing sees it: a module whose training step can be called on any batch, with nothing logged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FunctionType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_adam.preflight.batches import Reading, is_finite, mapped
from lightning_adam.preflight.by_hand import Backwards, Cuts, Event, HandOptimizer
from lightning_adam.preflight.placing import planned_precision


class OutOfTimeError(RuntimeError):
    """The budget is used up."""


class NoLossError(ValueError):
    """The training step gives none."""


ASSUMED_EPOCHS = 10
"""Length of a run that nobody tells."""
NORMS = (nn.modules.batchnorm._BatchNorm,)
DROPOUTS = (nn.modules.dropout._DropoutNd,)


@dataclass
class Task:
    """A module with its data and optimizers.

    Attributes:
        module: has ``training_step``.
        reading: the batches.
        trainer: the run's, or a stand-in.
        optimizers: as configured; empty where they could not be.
        schedulers: Lightning's form: dicts with ``scheduler``, ``interval``, ``frequency``.
        events: what a manual step called, in order: ``backward``, or ``step`` with its optimizer.
        given: the last batch as the training step got it.
        collected: gradients of the last manual step's losses together, by name, where nothing was to be stepped.
        deadline: when no further step may begin, by ``time.monotonic``.
        is_exact: whether steps are taken without autocast, whose rounding a comparison would see.
        ticks: how often a manual step has stepped a schedule.
        ticked: by a batch's index, whether a manual step on it has stepped a schedule.
        on_loss: called with each loss of a manual step that goes no further, before its gradients are taken.
        cuts: by how much each step's gradient was clipped between its backward pass and the optimizer.
    """

    module: Any
    reading: Reading
    trainer: Any
    optimizers: list[Optimizer] = field(default_factory=list)
    schedulers: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    given: Any = None
    collected: dict[str, Tensor] = field(default_factory=dict)
    deadline: float = math.inf
    is_exact: bool = False
    ticks: int = 0
    ticked: dict[int, bool] = field(default_factory=dict)
    on_loss: Callable[[Tensor], None] | None = None
    cuts: list[float] = field(default_factory=list)

    @property
    def manual(self) -> bool:
        """Whether the training step steps the optimizers itself."""
        return not getattr(self.module, "automatic_optimization", True)

    @property
    def is_adversarial(self) -> bool:
        """Whether it steps several optimizers itself: one loss may rise as another falls."""
        return self.manual and len(self.optimizers) != 1

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        first = next((p for p in self.module.parameters()), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def batches_per_tick(self) -> int:
        """Batches from one step of a schedule by hand to the next: who accumulates by hand steps it at one of some."""
        hits = sorted(index for index, is_hit in self.ticked.items() if is_hit)
        if not hits or hits[0] > 0:
            return hits[0] + 1 if hits else 1
        return hits[1] if len(hits) > 1 else max(self.ticked) + 1

    def trainable(self) -> dict[str, nn.Parameter]:
        """By name; lazy ones that have seen no batch are left out."""
        known = ((n, p) for n, p in self.module.named_parameters() if p.requires_grad)
        return {n: p for n, p in known if not isinstance(p, nn.parameter.UninitializedParameter)}

    def usable(self) -> list[Any]:
        """The batches without NaN or Inf; all where none is without: then they stand for what is missing."""
        return [batch for batch in self.reading.batches if is_finite(batch)] or list(self.reading.batches)

    def placed(self, batch: Any) -> Any:
        """The batch as the training step gets it: transferred, and through the user's transfer hooks."""
        source = _transfers(self.trainer, self.module)
        batch = source.on_before_batch_transfer(batch, 0)
        batch = self.module.transfer_batch_to_device(batch, self.device, 0) if source is not None else batch
        plugin = getattr(self.trainer, "precision_plugin", None)
        placed = source.on_after_batch_transfer(batch, 0)
        return placed if plugin is None else plugin.convert_input(placed)

    def loss(self, batch: Any, index: int = 0, seed: int = 0, steps: bool = False, backward: bool = False) -> Tensor:
        """The loss of one training step; under manual optimization the sum of all losses that it gave to backward.

        Args:
            batch: as the loader gives it.
            index: of the batch.
            seed: of torch's random numbers, so that the same noise is drawn again.
            steps: whether a manual step really moves weights, backward pass included.
            backward: whether it goes backward, and moves nothing.

        Raises:
            OutOfTimeError: it is past the deadline.
            NoLossError: the step returns no loss.
        """
        if time.monotonic() > self.deadline:
            raise OutOfTimeError("the budget is used up")
        _seed(seed)
        batch = self.given = self.placed(mapped(batch, lambda part: part.clone() if isinstance(part, Tensor) else part))
        with self._precision():
            if self.manual:
                return self._manual_loss(batch, index, steps, steps or backward)
            loss = self.module.training_step(*self._arguments(batch, index))
        loss = loss.get("loss") if isinstance(loss, Mapping) else loss
        if not isinstance(loss, Tensor):
            raise NoLossError("training_step returns no loss")
        return loss if loss.dim() == 0 else loss.mean()

    def _arguments(self, batch: Any, index: int) -> tuple[Any, ...]:
        code = self.module.training_step.__func__.__code__ if hasattr(self.module.training_step, "__func__") else None
        wants = code.co_argcount - 1 if code is not None and not code.co_flags & 0x04 else 2
        return (batch, index, 0)[: max(1, wants)]

    def _precision(self) -> AbstractContextManager[Any]:
        plugin = getattr(self.trainer, "precision_plugin", None)
        if plugin is None or (self.is_exact and hasattr(plugin, "autocast_context_manager")):
            return nullcontext()
        context: AbstractContextManager[Any] = plugin.train_step_context()
        return context

    def _manual_loss(self, batch: Any, index: int, steps: bool, backward: bool) -> Tensor:
        losses: list[Tensor] = []
        cuts = Cuts(self.trainable().values(), self.cuts) if steps and len(self.optimizers) == 1 else None
        hands = [HandOptimizer(o, self.events, steps, cuts) for o in self.optimizers]
        given = hands[0] if len(hands) == 1 else hands
        shadows = {
            "optimizers": lambda *_, **__: given,
            "manual_backward": lambda loss, *args, **kw: loss.backward(*args, **kw),
        }
        self.collected = {}
        before, ticks = {p: p.grad for p in self.trainable().values()}, self.ticks
        try:
            catching = Backwards(self.events, losses, None if backward else self._collect, cuts)
            with shadowed(self.module, shadows), catching:
                self.module.training_step(*self._arguments(batch, index))
        finally:
            if not backward:
                for parameter, gradient in before.items():
                    parameter.grad = gradient
        self.ticked[index] = self.ticked.get(index, False) or self.ticks > ticks
        if not losses:
            raise ValueError("training_step gave no loss to manual_backward")
        return torch.stack([loss.float().mean() for loss in losses]).sum()

    def _collect(self, loss: Tensor) -> None:
        """Of one loss, at once: the step may read ``.grad`` behind it, and write weights, after which the graph is void."""
        named = {name: p for name, p in self.trainable().items() if p.requires_grad}
        if not loss.requires_grad:
            return
        if self.on_loss is not None:
            self.on_loss(loss)
        found = torch.autograd.grad(loss.mean(), list(named.values()), retain_graph=True, allow_unused=True)
        for (name, parameter), gradient in zip(named.items(), found, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
                earlier = self.collected.get(name)
                self.collected[name] = gradient.clone() if earlier is None else earlier + gradient  # it may be clipped


def _seed(seed: int) -> None:
    """Of the generators that run. ``torch.manual_seed`` also queues a seed for each device that nobody has used yet, which
    could not be taken back, and takes a millisecond for writing down who asked.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def _transfers(trainer: Any, module: Any) -> Any:
    """Who moves batches: the datamodule where it has hooks of its own, else the module."""
    data: Any = getattr(trainer, "datamodule", None)
    own = data is not None and type(data).on_after_batch_transfer is not type(module).on_after_batch_transfer
    return data if own and "DataHooks" not in type(data).on_after_batch_transfer.__qualname__ else module


@contextmanager
def shadowed(module: Any, methods: Mapping[str, Any]) -> Iterator[None]:
    """The module's methods replaced for a while, past what ``nn.Module`` does on setting an attribute."""
    attributes = module.__dict__
    before = {name: attributes[name] for name in methods if name in attributes}
    attributes.update(methods)
    try:
        yield
    finally:
        for name in methods:
            attributes.pop(name, None)
        attributes.update(before)


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


LIGHTNING = ("lightning", "pytorch_lightning")


def own_hook(module: Any, name: str) -> Callable[..., Any] | None:
    """A method that the user's class has, and not only Lightning's."""
    method = getattr(module, name, None)
    home = str(getattr(method, "__module__", "") or "").split(".")[0]
    return method if callable(method) and home not in (*LIGHTNING, "") else None


def names_anywhere(module: Any, name: str) -> bool:
    """Whether any method of the user's classes has this name in its code."""
    homes = [kind for kind in type(module).__mro__ if kind.__module__.split(".")[0] not in (*LIGHTNING, "torch")]
    codes = [method.__code__ for kind in homes for method in vars(kind).values() if isinstance(method, FunctionType)]
    return any(name in code.co_names for code in codes)


def _clocks(task: Task) -> Any:
    """What ``self.lr_schedulers()`` gives: one, several, or None, which only count how often they are stepped."""

    def tick(*_: Any, **__: Any) -> None:
        task.ticks += 1

    given = [SimpleNamespace(step=tick, get_last_lr=lambda: [0.0]) for _ in task.schedulers]
    return given if len(given) > 1 else given[0] if given else None


def clip_gradients(
    optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
) -> None:
    """Of all that an optimizer holds, by the norm or by value, as ``LightningModule.clip_gradients`` does."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradient_clip_val:
        return
    if str(gradient_clip_algorithm or "norm").endswith("value"):
        nn.utils.clip_grad_value_(parameters, gradient_clip_val)
    else:
        nn.utils.clip_grad_norm_(parameters, gradient_clip_val)


@contextmanager
def silenced(task: Task) -> Iterator[None]:
    """Nothing is logged or scheduled by the module's own calls, and a trainer is there to be asked."""
    names = ("log", "log_dict", "toggle_optimizer", "untoggle_optimizer", "print")
    methods = dict.fromkeys(names, _nothing) | {"lr_schedulers": lambda: _clocks(task), "clip_gradients": clip_gradients}
    if getattr(task.module, "_trainer", None) is None:
        methods["_trainer"] = task.trainer  # type: ignore[assignment]
    with shadowed(task.module, methods):
        yield


def stand_in(asked: Any, reading: Reading) -> Any:
    """What a module may ask of a trainer that is not running: its settings, and the run's length.

    Args:
        asked: the user's trainer, or None.
        reading: the batches.
    """
    length = reading.length
    epochs, steps = getattr(asked, "max_epochs", None), getattr(asked, "max_steps", -1)
    accumulate = getattr(asked, "accumulate_grad_batches", 1)
    epochs = epochs if epochs is not None and epochs > 0 else ASSUMED_EPOCHS
    batches = float("inf") if length is None else length
    by_epochs = math.ceil(batches / accumulate) * epochs if length is not None else math.inf
    total = min(by_epochs, steps if steps > 0 else math.inf)
    return SimpleNamespace(
        max_epochs=epochs, max_steps=steps, accumulate_grad_batches=accumulate, num_training_batches=batches,
        estimated_stepping_batches=total if math.isfinite(total) else 1000, global_step=0, current_epoch=0,
        gradient_clip_val=getattr(asked, "gradient_clip_val", None), precision=getattr(asked, "precision", "32-true"),
        fit_loop=SimpleNamespace(setup_data=_nothing, max_epochs=epochs), callbacks=[], checkpoint_callbacks=[],
        strategy=SimpleNamespace(), world_size=1, global_rank=0, local_rank=0, num_devices=1, is_global_zero=True,
        is_last_batch=False, training=True, sanity_checking=False, validating=False, testing=False, logger=None, loggers=[],
        callback_metrics={}, logged_metrics={}, datamodule=None, optimizers=[], lr_scheduler_configs=[], log_dir=None,
        is_known=asked is not None, train_dataloader=reading.loader, precision_plugin=planned_precision(asked),
    )  # fmt: skip


def unwrapped(configured: Any) -> tuple[list[Optimizer], list[dict[str, Any]]]:
    """Optimizers and schedulers in whichever of Lightning's forms ``configure_optimizers`` gave them."""
    if configured is None:
        return [], []
    if isinstance(configured, Mapping):
        one = configured.get("lr_scheduler")
        return [configured["optimizer"]], [] if one is None else [_in_full(one)]
    if isinstance(configured, (list, tuple)) and any(
        isinstance(part, Mapping) and "optimizer" in part for part in configured
    ):
        pairs = [unwrapped(part) for part in configured]
        return [o for optimizers, _ in pairs for o in optimizers], [s for _, schedulers in pairs for s in schedulers]
    if isinstance(configured, (list, tuple)) and len(configured) == 2 and isinstance(configured[0], (list, tuple)):
        return list(configured[0]), [_in_full(one) for one in configured[1]]
    return list(configured) if isinstance(configured, (list, tuple)) else [configured], []


def _in_full(scheduler: Any) -> dict[str, Any]:
    given = dict(scheduler) if isinstance(scheduler, Mapping) else {"scheduler": scheduler}
    return {"interval": "epoch", "frequency": 1, **given}


@contextmanager
def mode(module: nn.Module, training: bool, dropout: bool = True, norms: bool = True) -> Iterator[None]:
    """Evaluation throughout, or training in the modes that the user has set; ``dropout`` and ``norms`` may be kept out."""
    flags = [(m, m.training) for m in module.modules()]
    rates = [(m, m.dropout) for m in module.modules() if isinstance(m, (nn.MultiheadAttention, nn.RNNBase))]
    for part, was in flags:
        held = (isinstance(part, DROPOUTS) and not dropout) or (isinstance(part, NORMS) and not norms)
        part.training = training and was and not held
    for part, rate in rates:
        part.dropout = rate if dropout else 0.0
    try:
        yield
    finally:
        for part, was in flags:
            part.training = was
        for part, rate in rates:
            part.dropout = rate


@contextmanager
def kept(module: nn.Module) -> Iterator[None]:
    """Weights and buffers are afterwards as before: quicker than everything that can be reached."""
    tensors = [
        t
        for t in (*module.parameters(), *module.buffers())
        if not isinstance(t, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer))
    ]
    before = [t.detach().clone() for t in tensors]
    try:
        yield
    finally:
        for tensor, values in zip(tensors, before, strict=True):
            tensor.data.copy_(values)


def gradients(task: Task, loss: Tensor, names: Sequence[str]) -> dict[str, Tensor | None]:
    """Of the loss that was taken last to the named parameters, with nothing left in ``.grad``."""
    if task.manual:
        return {name: task.collected.get(name) for name in names}
    parameters = task.trainable()
    found = torch.autograd.grad(loss, [parameters[name] for name in names], allow_unused=True)
    return dict(zip(names, found, strict=True))
