"""What TensorBoard imports at its start; an exception here would stop TensorBoard itself."""

from __future__ import annotations

import argparse
from typing import Any

from tensorboard.plugins import base_plugin

from lightning_adam.tensorboard.tags import PLUGIN

KEPT_STEPS = 2000
"""Logged steps that TensorBoard keeps of each of our series; by itself it keeps 100, its Python loader 10."""


class AdamLoader(base_plugin.TBLoader):  # type: ignore[misc]
    """Starts the tab."""

    def fix_flags(self, flags: argparse.Namespace) -> None:
        """Raise the sampling limit of our series, unless the user chose one with ``--samples_per_plugin``."""
        limits = dict(getattr(flags, "samples_per_plugin", None) or {})
        flags.samples_per_plugin = {PLUGIN: KEPT_STEPS, **limits}

    def load(self, context: Any) -> Any:
        """The plugin; TensorBoard logs what this raises, and goes on without the tab."""
        from lightning_adam.tensorboard.tab.plugin import AdamPlugin

        return AdamPlugin(context)
