"""Probing in one of many processes, without a word to the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def alone() -> Iterator[None]:
    """As far as torch tells, there is one process: collectives of the module (``SyncBatchNorm``, ``all_gather``) return.

    Ranks probe for as long as their data and their clocks have it; were a collective to wait for the others, they would
    hang. So a group of this process alone takes the place of the default group.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        yield
        return
    from torch.distributed import distributed_c10d as c10d

    everyone = c10d._get_default_group()
    own = dist.new_group([dist.get_rank()], use_local_synchronization=True)
    c10d._update_default_pg(own)
    try:
        yield
    finally:
        c10d._update_default_pg(everyone)
        dist.destroy_process_group(own)
