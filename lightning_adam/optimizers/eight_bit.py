"""bitsandbytes' optimizers with two additions: a parameter group may say ``optim_bits`` (embeddings want 32), and paged
ones can be copied."""

from __future__ import annotations

from typing import Any

import bitsandbytes.optim as bnb
import torch
from bitsandbytes.functional import GlobalPageManager
from torch import Tensor


class _BitsPerGroup:
    def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
        """bitsandbytes asks here for each tensor; its own override is global to the process."""
        config: dict[str, Any] = super().get_config(gindex, pindex, group)  # type: ignore[misc]
        return {**config, "optim_bits": group.get("optim_bits", config["optim_bits"])}


class _Paged:
    def __setstate__(self, state: dict[str, Any]) -> None:
        """What was a page is ordinary memory of the host in a copy, where no kernel may look: the next step moves it."""
        super().__setstate__(state)  # type: ignore[misc]
        self.page_mng, self.initialized = GlobalPageManager.get_instance(), False
        for kept in self.state.values():  # type: ignore[attr-defined]
            for tensor in (value for value in kept.values() if isinstance(value, Tensor)):
                vars(tensor).pop("is_paged", None)


class Adam8bit(_BitsPerGroup, bnb.Adam8bit):  # type: ignore[misc]
    """Dettmers et al. 2022, arXiv:2110.02861. Weight decay enters the gradient, as in Adam: bitsandbytes' own shrinks the
    weights beside it, which is AdamW's."""

    def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
        """The kernel is to decay nothing."""
        return {**super().get_config(gindex, pindex, group), "weight_decay": 0.0}

    def update_step(self, group: dict[str, Any], p: Tensor, gindex: int, pindex: int) -> None:
        """With g + λθ in the gradient's place; the gradient itself stays what the model gave."""
        gradient = p.grad
        if group["weight_decay"] and gradient is not None:
            p.grad = gradient.add(p.detach(), alpha=group["weight_decay"])
        try:
            super().update_step(group, p, gindex, pindex)
        finally:
            p.grad = gradient


class AdamW8bit(_BitsPerGroup, bnb.AdamW8bit):  # type: ignore[misc]
    """Dettmers et al. 2022, arXiv:2110.02861."""


class PagedAdamW(_Paged, bnb.PagedAdamW):  # type: ignore[misc]
    """32-bit state that the GPU driver may page out (Dettmers et al. 2023, arXiv:2305.14314)."""


class PagedAdamW8bit(_Paged, _BitsPerGroup, bnb.PagedAdamW8bit):  # type: ignore[misc]
    """8-bit state that the GPU driver may page out (Dettmers et al. 2023, arXiv:2305.14314)."""


class Lion8bit(_BitsPerGroup, bnb.Lion8bit):  # type: ignore[misc]
    """Chen et al. 2023, arXiv:2302.06675."""


class AdEMAMix8bit(_BitsPerGroup, bnb.AdEMAMix8bit):  # type: ignore[misc]
    """Pagliardini et al. 2024, arXiv:2409.03137."""


class PagedLion(_Paged, bnb.PagedLion):  # type: ignore[misc]
    """32-bit state that the GPU driver may page out."""


class PagedAdEMAMix(_Paged, bnb.PagedAdEMAMix):  # type: ignore[misc]
    """32-bit state that the GPU driver may page out."""


class LAMB8bit(_BitsPerGroup, bnb.LAMB8bit):  # type: ignore[misc]
    """You et al. 2019, arXiv:1904.00962, algorithm 2. bitsandbytes' block-wise kernel has no trust ratio: its update is
    Adam's, and the ratio is put to it here."""

    def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
        """The kernel is to give the bare update."""
        return {**super().get_config(gindex, pindex, group), "lr": 1.0, "weight_decay": 0.0, "max_unorm": 0.0}

    def update_step(self, group: dict[str, Any], p: Tensor, gindex: int, pindex: int) -> None:
        """From a weight of 0, so that no rounding of the weight comes in between."""
        before = p.detach().clone()
        p.data.zero_()
        super().update_step(group, p, gindex, pindex)
        update = before.mul(group["weight_decay"]).sub_(p.detach())
        size, length = before.norm(), update.norm()
        trust = torch.where((size > 0) & (length > 0), size / length, 1.0)
        self.state[p]["trust_ratio"] = trust
        p.data.copy_(before.sub_(update.mul_(trust * group["lr"])))
