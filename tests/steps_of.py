"""Steps any optimizer of the catalogue by hand, and asks what it would have done without weight decay."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import lightning_adam as la
from lightning_adam.optimizers.sophia import estimate_hessian
from lightning_adam.statistics import TensorReading, copy_parameters, read_optimizer, tensor_names

Array = NDArray[np.float64]
NO_DECAY = ("sm3", "lbfgs")


@dataclass
class Stepped:
    """One step: what the monitor reads, and what happened, in float64.

    Attributes:
        readings: as the monitor takes them.
        gradients: as the optimizer got them.
        moved: change of the weights, by name.
        free: the change that the same step makes with weight decay 0; filled on demand.
        norms: of the weights after the step.
        extra: Sophia's Hessian estimates.
    """

    readings: list[TensorReading]
    gradients: dict[str, Array]
    moved: dict[str, Array]
    norms: dict[str, float]
    free: dict[str, Array] = field(default_factory=dict)
    extra: dict[str, Array] = field(default_factory=dict)


class Stepper:
    """A two-layer classifier on random data, stepped by one optimizer of the catalogue."""

    def __init__(self, name: str, weight_decay: float = 0.1, **options: Any) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
        decay = None if name in NO_DECAY else weight_decay
        made = la.configure_optimizers(self.module, name, total_steps=40, weight_decay=decay, clip=None, **options)
        self.name, self.optimizer = name, made["optimizer"]
        if hasattr(self.optimizer, "train"):
            self.optimizer.train()
        self.named = dict(self.module.named_parameters())
        self.optimizer.register_step_post_hook(self._after)

    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._readings = read_optimizer(optimizer, tensor_names(self.module.named_parameters()), self._before)

    def step(self, without_decay: bool = False) -> Stepped:
        """One real step; ``without_decay`` tries it before on saved state with weight decay 0."""
        images, labels = torch.randn(16, 64), torch.randint(10, (16,))
        start = self._numbers()
        if self.name == "lbfgs":
            self._before = copy_parameters(self.optimizer)
            self.optimizer.step(lambda: self._backward(images, labels))
            return self._stepped(start, self._gradients(), {}, {})
        extra = self._backward(images, labels)
        gradients, free = self._gradients(), self._try_without_decay() if without_decay else {}
        self._before = copy_parameters(self.optimizer)
        self.optimizer.step()
        return self._stepped(start, gradients, free, extra if isinstance(extra, dict) else {})

    def _stepped(
        self, start: dict[str, Array], gradients: dict[str, Array], free: dict[str, Array], extra: dict[str, Array]
    ) -> Stepped:
        end = self._numbers()
        moved = {name: end[name] - start[name] for name in start}
        norms = {name: float(np.linalg.norm(end[name])) for name in end}
        return Stepped(self._readings, gradients, moved, norms, free, extra)

    def _backward(self, images: Tensor, labels: Tensor) -> Any:
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.module(images), labels)
        extra: dict[str, Array] = {}
        if self.name == "sophia":
            estimates = estimate_hessian(self.optimizer, loss)
            self.optimizer.adam_arguments = {"hessian": estimates}
            placed = [p for group in self.optimizer.param_groups for p in group["params"]]
            names = {id(p): n for n, p in self.named.items()}
            extra = {names[id(p)]: h.double().numpy().copy() for p, h in zip(placed, estimates, strict=True)}
        loss.backward()
        if self.name == "adamz":
            self.optimizer.adam_arguments = {"loss": float(loss)}
        return extra if self.name == "sophia" else loss

    def _numbers(self) -> dict[str, Array]:
        return {name: p.detach().double().numpy().copy() for name, p in self.named.items()}

    def _gradients(self) -> dict[str, Array]:
        return {name: p.grad.double().numpy().copy() for name, p in self.named.items() if p.grad is not None}

    def _try_without_decay(self) -> dict[str, Array]:
        optimizer = self.optimizer
        weights = [p.detach().clone() for p in self.named.values()]
        gradients = [p.grad.clone() for p in self.named.values() if p.grad is not None]
        state = {p: copy.deepcopy(kept) for p, kept in optimizer.state.items()}
        groups = [{k: copy.deepcopy(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        counters = {k: v for k, v in vars(optimizer).items() if isinstance(v, (int, float))}
        hooks = dict(optimizer._optimizer_step_post_hooks)
        optimizer._optimizer_step_post_hooks.clear()
        start = self._numbers()
        names = {id(p): n for n, p in self.named.items()}
        decay = {names[id(p)]: g.get("weight_decay", 0.0) for g in optimizer.param_groups for p in g["params"]}
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        optimizer.adam_kind.step(optimizer, **(getattr(optimizer, "adam_arguments", None) or {}))
        free = {name: end - start[name] for name, end in self._numbers().items()}
        self._with_the_real_trust(free, start, decay)
        for parameter, weight, gradient in zip(self.named.values(), weights, gradients, strict=True):
            parameter.data.copy_(weight)
            parameter.grad = gradient
        optimizer.state.clear()
        optimizer.state.update(state)
        for group, kept in zip(optimizer.param_groups, groups, strict=True):
            for key in set(group) - set(kept) - {"params"}:
                del group[key]
            group.update(kept)
        vars(optimizer).update(counters)
        optimizer._optimizer_step_post_hooks.update(hooks)
        return free

    def _with_the_real_trust(self, free: dict[str, Array], start: dict[str, Array], decay: dict[str, float]) -> None:
        """LAMB's trust ratio is that of the step with decay: ‖θ‖/‖r + λθ‖, where the twin's was ‖θ‖/‖r‖."""
        if self.name not in ("lamb", "lamb8bit"):
            return
        for name, parameter in self.named.items():
            r = -free[name] / (self.optimizer.param_groups[0]["lr"] * float(self.optimizer.state[parameter]["trust_ratio"]))
            free[name] *= np.linalg.norm(r) / np.linalg.norm(r + decay[name] * start[name])
