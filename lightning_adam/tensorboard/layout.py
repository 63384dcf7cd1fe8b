"""What opens well: the Custom Scalars tab, and a link with the right cards pinned."""

from __future__ import annotations

import json
import re
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


GROUP_CHARTS = {
    "log10_update_ratio_p50": "log10 update ratio, median",
    "log10_step_size_rms": "log10 step size, rms",
    "log10_effective_lr_p50": "log10 effective learning rate, median",
    "signal_to_noise": "signal to noise",
}
TENSOR_CHARTS = {
    "update_ratio": "update ratio",
    "step_size_rms": "step size, rms",
    "effective_lr_p50": "effective learning rate, median",
    "gradient_surprise": "gradient surprise",
    "signal_to_noise": "signal to noise",
}


def layout(prefix: str, each_tensor: bool = False) -> dict[str, dict[str, list[Any]]]:
    """Charts for the Custom Scalars tab, as ``SummaryWriter.add_custom_scalars`` takes them.

    Args:
        prefix: of the optimizer's tags.
        each_tensor: whether its tensors have scalars of their own: one chart per quantity then shows all of them.
    """
    name = re.escape(prefix)
    charts: dict[str, list[Any]] = {
        "log10 update ratio: p10, p50, p90 over the tensors": _margin(f"{prefix}/log10_update_ratio", "p10", "p50", "p90"),
        "log10 step size: p01, p50, p99 over the weights": _margin(f"{prefix}.dist/log10_step_size", "p01", "p50", "p99"),
        "log10 effective learning rate: p01, p50, p99 over the weights": _margin(
            f"{prefix}.dist/log10_effective_lr", "p01", "p50", "p99"
        ),
        "log10 rms of first and second moment": ["Multiline", [f"^{name}/log10_(first|second)_moment_rms$"]],
        "log10 learning rate and effective learning rate": ["Multiline", [f"^{name}/log10_(lr|effective_lr_p50)$"]],
        "log10 gradient norm before and after clipping": [
            "Multiline",
            [f"^{name}/log10_gradient_norm$", f"^{name}\\.clip/log10_norm_after$"],
        ],
    }
    title = "Adam" if prefix == "adam" else f"Adam: {prefix}"
    groups = {
        f"{words} per group": ["Multiline", [f"^{name}\\.groups/{quantity}/"]] for quantity, words in GROUP_CHARTS.items()
    }
    tensors = {
        f"{words}, every tensor": ["Multiline", [f"^{name}\\.tensors/{quantity}/"]]
        for quantity, words in (TENSOR_CHARTS.items() if each_tensor else ())
    }
    rooms = {title: charts, f"{title}, per parameter group": groups, f"{title}, per tensor": tensors}
    return {room: found for room, found in rooms.items() if found}


def _margin(stem: str, low: str, middle: str, high: str) -> list[Any]:
    return ["Margin", [f"{stem}_{middle}", f"{stem}_{low}", f"{stem}_{high}"]]


def deep_link(port: int = 6006, prefix: str = "adam", run: str = ".") -> str:
    """A TensorBoard address with the headline cards and the heatmap pinned, and smoothing off."""
    cards: list[dict[str, Any]] = [{"plugin": "scalars", "tag": f"{prefix}/{name}"} for name in PINNED]
    heatmap = f"{prefix}.dist/update_ratio_heatmap"
    cards.insert(0, {"plugin": "images", "tag": heatmap, "runId": f"defaultExperimentId/{run}", "sample": 0})
    pins = quote(json.dumps(cards, separators=(",", ":")))
    return f"http://127.0.0.1:{port}/?pinnedCards={pins}&smoothing=0#timeseries"
