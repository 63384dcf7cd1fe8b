"""Two DDP processes of which one alone has a NaN loss, once for each action: run by test_distributed.py.

python -m tests.run_actions FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.monitoring.actions import Actions
from lightning_adam.monitoring.good_state import GoodState
from lightning_adam.monitoring.monitor import Monitor
from lightning_adam.monitoring.signal_reader import SignalReader
from tests.digits import Digits, digits_loader, trainer
from tests.run_distributed import strategy

ACTIONS = ("stop", "rollback", "skip_step", "reduce_lr", "two rollback", "two skip_step")
"""Those of ``two`` with a second optimizer, stepped by hand."""
FAILING = {
    "rollback, failing to decide": (Actions, "_asks_for_one", 10),
    "rollback, failing to copy": (GoodState, "of", 2),
    "rollback, failing to begin": (Monitor, "_prepare", 1),
    "rollback, failing to go back": (GoodState, "restore", 1),
    "skip_step, failing to decide": (SignalReader, "gradient_norm", 10),
}
"""Which method raises on rank 1 alone, and at which of its calls."""


@contextmanager
def failing(owner: Any, name: str, at: int) -> Iterator[None]:
    """The n-th call of this method raises."""
    original, calls = vars(owner)[name], count(1)
    function = getattr(original, "__func__", original)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            raise RuntimeError("injected")
        return function(*args, **kwargs)

    setattr(owner, name, type(original)(wrapped) if isinstance(original, classmethod) else wrapped)
    try:
        yield
    finally:
        setattr(owner, name, original)


class OneSided(Digits):
    """Rank 1 has a NaN loss at step 30."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """All ranks get its gradient."""
        sick = self.global_rank == 1 and self.global_step == 30
        return super().training_step(batch, batch_idx) * (torch.nan if sick else 1.0)


class Halves(OneSided):
    """The body and the head have an optimizer each."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        """Of different kinds."""
        body, head = self.net[:-1].parameters(), self.net[-1].parameters()
        return torch.optim.AdamW(body, lr=1e-3), torch.optim.Adam(head, lr=1e-3)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Both take the same backward."""
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        sick = self.global_rank == 1 and self.global_step == 30
        self.manual_backward(loss * (torch.nan if sick else 1.0))
        for optimizer in optimizers:
            optimizer.step()
        return loss


def result(action: str, folder: Path) -> dict[str, Any]:
    """What this rank ended with."""
    kind = Halves if action.startswith("two") else OneSided
    action = action.removeprefix("two ").partition(",")[0]
    module, monitor = kind(total_steps=50), DivergenceMonitor(on_divergence=action)
    logger = TensorBoardLogger(folder, name=action)
    options: dict[str, Any] = {"max_steps": 50, "use_distributed_sampler": False, "logger": logger, "callbacks": [monitor]}
    fit = trainer(**options, **strategy("ddp"))
    fit.fit(module, digits_loader())
    return {
        "steps": fit.global_step,
        "finite": all(bool(torch.isfinite(p).all()) for p in module.parameters()),
        "rates": [group["lr"] for o in fit.optimizers for group in o.param_groups],
        "failures": sorted(monitor.failures),
        "actions": [f.message for f in monitor.findings if f.message.startswith(action)],
        "weights": float(sum(p.double().sum() for p in module.parameters())),
        "rank": fit.global_rank,
    }


def main(folder: Path) -> None:
    """One file per rank."""
    torch.set_num_threads(1)
    results = {action: result(action, folder) for action in ACTIONS}
    rank = results["stop"]["rank"]
    for case, fault in FAILING.items():
        with failing(*fault) if rank == 1 else nullcontext():
            results[case] = result(case, folder)
    (folder / f"rank{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
