"""Tests wait for the compiled statistics: what they show is not to depend on how quick a build is."""

from __future__ import annotations

from lightning_adam.statistics import library
from tests.tab_fixtures import browser, logdir, opened, server

__all__ = ["browser", "logdir", "opened", "server"]  # fixtures

library.PATIENCE = 60.0
