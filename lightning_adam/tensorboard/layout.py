"""What opens well: the Custom Scalars tab, and a link with the right cards pinned."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

PINNED = (
    "log10_update_ratio_p50",
    "log10_step_size_rms",
    "log10_effective_lr_p50",
    "log10_lr",
    "log10_gradient_norm",
    "signal_to_noise",
    "log10_first_moment_rms",
    "log10_second_moment_rms",
    "findings_total",
)


def layout(prefix: str) -> dict[str, dict[str, list[Any]]]:
    """Charts for the Custom Scalars tab, as ``SummaryWriter.add_custom_scalars`` takes them."""
    band = [f"{prefix}/log10_update_ratio_{p}" for p in ("p50", "p10", "p90")]
    charts: dict[str, list[Any]] = {
        "log10 update ratio: p10, p50, p90 over the tensors": ["Margin", band],
        "log10 rms of first and second moment": ["Multiline", [f"{prefix}/log10_(first|second)_moment_rms"]],
        "log10 step size": ["Multiline", [f"{prefix}/log10_step_size_rms"]],
        "log10 learning rate and effective learning rate": ["Multiline", [f"{prefix}/log10_(lr|effective_lr_p50)"]],
        "log10 update ratio per group": ["Multiline", [f"{prefix}\\.groups/log10_update_ratio_p50/.*"]],
    }
    return {"Adam": charts}


def deep_link(port: int = 6006, prefix: str = "adam", run: str = ".") -> str:
    """A TensorBoard address with the headline cards and the heatmap pinned, and smoothing off."""
    cards: list[dict[str, Any]] = [{"plugin": "scalars", "tag": f"{prefix}/{name}"} for name in PINNED]
    heatmap = f"{prefix}.dist/update_ratio_heatmap"
    cards.insert(0, {"plugin": "images", "tag": heatmap, "runId": f"defaultExperimentId/{run}", "sample": 0})
    pins = quote(json.dumps(cards, separators=(",", ":")))
    return f"http://127.0.0.1:{port}/?pinnedCards={pins}&smoothing=0#timeseries"
