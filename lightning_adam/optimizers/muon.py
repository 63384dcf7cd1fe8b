"""Muon for matrices and AdamW for the rest, as one optimizer (Jordan et al. 2024, kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """torch's Muon on groups whose ``muon`` is true, torch's AdamW on all others; one learning rate serves both.

    Muon's update is scaled to AdamW's rms (``match_rms_adamw``: 0.2·√max(rows, columns); Liu et al. 2025,
    arXiv:2502.16982, equation 4), so that AdamW's learning rate and decay fit it.

    Args:
        params: groups; ``muon`` says whose they are.
        lr: learning rate.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: decoupled.
        momentum: of Muon.
        ns_steps: Newton-Schulz iterations of Muon.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        ns_steps: int = 5,
    ) -> None:
        super().__init__(list(params), {"lr": lr, "weight_decay": weight_decay, "muon": False})
        self._of_muon = {"momentum": momentum, "ns_steps": ns_steps, "adjust_lr_fn": "match_rms_adamw"}
        self._of_adamw = {"betas": betas, "eps": eps}
        self._divide()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """One that joins in mid-run is AdamW's, unless it says ``muon``."""
        super().add_param_group(param_group)
        if hasattr(self, "_of_adamw"):
            self._divide()

    def _divide(self) -> None:
        matrices, others = self._split()
        self._muon = Muon(matrices, **self._of_muon) if matrices else None  # type: ignore[arg-type]
        self._adamw = AdamW(others, **self._of_adamw) if others else None  # type: ignore[arg-type]

    def _split(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return [g for g in self.param_groups if g["muon"]], [g for g in self.param_groups if not g["muon"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Both step on this optimizer's groups and state, which a checkpoint may have replaced."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for inner, groups in zip((self._muon, self._adamw), self._split(), strict=True):
            if inner is not None:
                inner.param_groups, inner.state = groups, self.state
                inner.step()  # type: ignore[no-untyped-call]
        return loss
