"""A logged step of the monitor beside those of Composer and Lightning: operations, host reads and time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from examples.char_gpt import Block
from lightning_adam.statistics import RepeatedPass, read_optimizer, take_snapshot, tensor_names
from tests.benchmarks.measuring import DEVICE, Table, interleaved, progress, read_and_measure


class Operations(TorchDispatchMode):
    """Counts ATen operations that compute or copy, and among them the reads that make the host wait; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += not func.is_view
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def peers(quick: bool) -> Table:
    """A logged step of each over the 144 tensors of a GPT with 12 blocks: work, and host reads."""
    progress("peers over 144 tensors")
    model = nn.Sequential(*[Block(128, 4) for _ in range(12)]).to(DEVICE)
    model(torch.randn(8, 64, 128, device=DEVICE)).square().mean().backward()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    optimizer.step()
    contenders = contenders_for(model, optimizer)
    times = interleaved([call for call, _ in contenders.values()], 5 if quick else 15)
    rows = []
    for (name, (call, values)), duration in zip(contenders.items(), times, strict=True):
        with Operations() as counted:
            call()
        counts = (counted.operations / 144, counted.reads / 144)
        rows.append((name, str(values), *(f"{count:.1f}" for count in counts), f"{1e3 * duration:.2f}"))
    header = ("one logged step", "numbers per tensor", "ATen operations per tensor", "host reads per tensor", "ms")
    return Table(f"Peers, 144 tensors ({DEVICE.type})", header, rows)


def composer_monitor(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], object] | None:
    """A logged step of Composer's own OptimizerMonitor with its DecoupledAdamW, or None where it is not installed.

    Tried by hand: Composer 0.32.1 asks for torch below 2.7.1 and for torchvision, of which PyPI's wheel (0.29.1) is linked
    to CUDA's libraries and does not load beside the CPU's torch 2.13. With ``pip install --no-deps``, and torchvision's
    missing operators declared (``torch.library.Library("torchvision", "DEF").define(...)`` for nms, qnms, roi_align and
    roi_pool), it imports and measures.
    """
    try:
        from composer.callbacks import OptimizerMonitor as Theirs  # type: ignore[import-not-found,unused-ignore]
        from composer.optim import DecoupledAdamW  # type: ignore[import-not-found,unused-ignore]
    except (ImportError, RuntimeError):
        return None
    theirs = DecoupledAdamW(model.parameters(), lr=1e-3)
    theirs.state.update(optimizer.state)
    batch, logger = SimpleNamespace(value=0), SimpleNamespace(log_metrics=lambda metrics: None)
    state = SimpleNamespace(timestamp=SimpleNamespace(batch=batch), model=model, optimizers=[theirs], fsdp_enabled=False)
    return lambda: Theirs().batch_end(state, logger)


def composer_metrics(optimizer: torch.optim.Optimizer) -> list[float]:
    """The operations of Composer 0.32.1 (OptimizerMonitor, DecoupledAdamW), where it is not installed."""
    (group,) = optimizer.param_groups
    (beta1, beta2), found = group["betas"], []
    for parameter in group["params"]:
        state = optimizer.state[parameter]
        step = state["step"].item()
        below = (state["exp_avg_sq"].sqrt() / math.sqrt(1 - beta2**step)).add_(group["eps"])
        update = state["exp_avg"].div(below) * (group["lr"] / (1 - beta1**step))
        update.add_(parameter.detach(), alpha=-group["weight_decay"])
        measured = (state["exp_avg"], parameter.detach(), update, parameter.grad)
        found += [torch.linalg.vector_norm(tensor).item() for tensor in measured]
    return found


def contenders_for(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[Callable[[], object], int]]:
    """What each does at a logged step, and how many numbers per tensor come of it."""
    from lightning.pytorch.utilities import grad_norm

    names = tensor_names(model.named_parameters())
    readings = read_optimizer(optimizer, names)

    def eager() -> None:
        os.environ["LIGHTNING_ADAM_KERNEL"] = "eager"
        read_and_measure(optimizer, names)
        del os.environ["LIGHTNING_ADAM_KERNEL"]

    columns = take_snapshot(0, readings).table.shape[1]
    kept = RepeatedPass.of(optimizer, names, readings)
    composer = composer_monitor(model, optimizer)
    theirs = "its operations" if composer is None else "itself"
    return {
        "OptimizerMonitor": (
            partial(read_and_measure, optimizer, names) if kept is None else partial(kept.snapshot, 0),
            columns,
        ),
        "OptimizerMonitor, the first logged step": (partial(read_and_measure, optimizer, names), columns),
        "OptimizerMonitor, without a compiler": (eager, columns),
        f"Composer's OptimizerMonitor ({theirs})": (composer or (lambda: composer_metrics(optimizer)), 4),
        "Lightning grad_norm": (lambda: {k: float(v) for k, v in grad_norm(model, 2).items()}, 1),
        "p.grad.norm().item()": (lambda: [p.grad.norm().item() for p in model.parameters() if p.grad is not None], 1),
    }
