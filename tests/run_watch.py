"""A plain DDP loop on two gloo processes, watched; rank 1 alone has a NaN loss. Run by test_distributed.py.

RANK=0 python -m tests.run_watch FOLDER, and the same with RANK=1
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import lightning_adam as la
from tests.digits import digits_loader

ACTIONS = ("warn", "stop", "rollback", "skip_step")


def result(action: str, rank: int, folder: Path) -> dict[str, Any]:
    """Forty steps, of which step 30 is sick on rank 1; what this rank ended with."""
    torch.manual_seed(0)
    net = DistributedDataParallel(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
    optimizer = la.configure_optimizers(net.module, lr=1e-3, total_steps=40)["optimizer"]
    batches = list(digits_loader())[rank::2] * 3
    taken = 0
    with la.watch(net, optimizer, log_dir=folder / action, on_divergence=action, every_n_steps=5) as watch:
        for step, (images, labels) in enumerate(batches[:40]):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), labels)
            watch.loss(loss * (math.nan if rank == 1 and step == 30 else 1.0)).backward()
            optimizer.step()
            taken += 1
            if watch.should_stop:
                break
    return {
        "steps": taken,
        "finite": all(bool(torch.isfinite(p).all()) for p in net.parameters()),
        "weights": float(sum(p.double().sum() for p in net.parameters())),
        "actions": [f.message for f in watch.findings if "action" in f.evidence][:1],
        "failures": sorted(watch.failures),
    }


def main(rank: int, folder: Path) -> None:
    """One of the two."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {action: result(action, rank, folder) for action in ACTIONS}
    (folder / f"rank{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(os.environ["RANK"]), Path(sys.argv[1]))
