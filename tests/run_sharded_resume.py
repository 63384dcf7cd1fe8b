"""Resumes FSDP2 runs on two CPU processes from both kinds of checkpoint: run by test_distributed.py.

python -m tests.run_sharded_resume FOLDER
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch.strategies import ModelParallelStrategy

import lightning_adam as la
from tests.digits import digits_loader, trainer
from tests.run_distributed import RULES, Sharded

HOW: dict[str, bool] = {"shards": True, "file": False}


class Watched(Sharded):
    """Remembers what clipping left of each step, and what its rule knew when training went on."""

    def on_train_start(self) -> None:
        """Restored, and not yet stepped."""
        optimizer: Any = self.trainer.optimizers[0]
        remembers = hasattr(optimizer.adam_rule, "state_dict")
        self.memory = dict(optimizer.adam_rule.state_dict()) if remembers else {}
        self.left: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        """A step is done."""
        optimizer: Any = self.trainer.optimizers[0]
        self.left.append(float(optimizer.adam_clip.norm_after))


def fit(how: str, epochs: int, rule: Any, checkpoint: Path | None = None, **options: Any) -> dict[str, Any]:
    """Six steps per epoch, the same batches on both ranks; saved, or resumed."""
    sharded = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=HOW[how])
    module = Watched(clip=rule, total_steps=12, **options)
    run = trainer(max_epochs=epochs, strategy=sharded, devices=2, use_distributed_sampler=False)
    resumed = checkpoint if epochs == 2 else None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", la.LightningAdamWarning)
        run.fit(module, digits_loader(examples=384), ckpt_path=resumed)
    if checkpoint is not None and epochs == 1:
        run.save_checkpoint(checkpoint)
    steps = [float(state["step"]) for state in run.optimizers[0].state.values()]
    lines = [str(w.message) for w in said if issubclass(w.category, la.LightningAdamWarning)]
    return {"left": module.left[-6:], "memory": module.memory, "said": lines, "steps": steps}


def as_before() -> Any:
    """An earlier version wrote names alone into the groups."""
    return patch("lightning_adam.guided.with_record", lambda optimizer, state: state)


def resume(folder: Path, how: str, old: Callable[[], Any], new: Callable[[], Any], **options: Any) -> dict[str, Any]:
    """One epoch under one rule, the next under another."""
    earlier = options.pop("earlier", False)
    checkpoint = folder / f"{how}-{len(list(folder.iterdir()))}.ckpt"
    with as_before() if earlier else nullcontext():
        fit(how, 1, old(), checkpoint)
    return fit(how, 2, new(), checkpoint, **options)


def main(folder: Path) -> None:
    """All that is to be compared, from rank 0."""
    torch.set_num_threads(1)
    zclip, percentile, norm = RULES["zclip"], RULES["percentile"], RULES["norm"]
    found: dict[str, Any] = {}
    for name, rule in (("zclip", zclip), ("percentile", percentile)):
        found[f"{name} whole"] = fit("shards", 2, rule())
        found |= {f"{name} {how}": resume(folder, how, rule, rule) for how in HOW}
    found["another rule"] = resume(folder, "shards", norm, zclip, weight_decay=0.3)
    found["another rule file"] = resume(folder, "file", zclip, norm)
    found["earlier version"] = resume(folder, "shards", zclip, zclip, earlier=True)
    found["reset"] = resume(folder, "shards", zclip, zclip, reset_optimizer=True)
    if torch.distributed.get_rank() == 0:
        (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
