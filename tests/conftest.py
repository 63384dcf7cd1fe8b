"""What all tests share. Heavy imports wait: xdist's main process reads this file too, and runs no test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tab_fixtures import browser, logdir, opened, server

if TYPE_CHECKING:
    from tests.live_runs import Live

__all__ = ["browser", "calm", "logdir", "opened", "server", "sick"]  # fixtures


def pytest_collection_finish() -> None:
    """Tests wait for the compiled statistics: what they show is not to depend on how quick a build is."""
    from lightning_adam.statistics import library

    library.PATIENCE = 60.0


@pytest.fixture(scope="session")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Live:
    """A real run that its monitor found sick; the doctor's tests copy what it left."""
    from tests.live_runs import sick_run

    return sick_run(tmp_path_factory.mktemp("sick"))


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Live:
    """A real run in which nothing was found."""
    from tests.live_runs import calm_run

    return calm_run(tmp_path_factory.mktemp("calm"))
