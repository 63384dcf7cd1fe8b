"""What a process of the tests does once and not for each Trainer; to be imported before Lightning."""

from __future__ import annotations

import functools
import importlib.metadata

importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)
"""Every Trainer asks all installed packages for callbacks, which takes longer than many a test."""
