"""bitsandbytes' optimizers with one addition: a parameter group may say ``optim_bits`` (embeddings want 32)."""

from __future__ import annotations

from typing import Any

import bitsandbytes.optim as bnb


class _BitsPerGroup:
    def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
        """bitsandbytes asks here for each tensor; its own override is global to the process."""
        config: dict[str, Any] = super().get_config(gindex, pindex, group)  # type: ignore[misc]
        return {**config, "optim_bits": group.get("optim_bits", config["optim_bits"])}


class Adam8bit(_BitsPerGroup, bnb.Adam8bit):  # type: ignore[misc]
    """Dettmers et al. 2022, arXiv:2110.02861."""


class AdamW8bit(_BitsPerGroup, bnb.AdamW8bit):  # type: ignore[misc]
    """Dettmers et al. 2022, arXiv:2110.02861."""


class PagedAdamW8bit(_BitsPerGroup, bnb.PagedAdamW8bit):  # type: ignore[misc]
    """8-bit state that the GPU driver may page out (Dettmers et al. 2023, arXiv:2305.14314)."""


class Lion8bit(_BitsPerGroup, bnb.Lion8bit):  # type: ignore[misc]
    """Chen et al. 2023, arXiv:2302.06675."""


class AdEMAMix8bit(_BitsPerGroup, bnb.AdEMAMix8bit):  # type: ignore[misc]
    """Pagliardini et al. 2024, arXiv:2409.03137."""
