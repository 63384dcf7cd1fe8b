"""What all tests share. Heavy imports wait: xdist's main process reads this file too, and runs no test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tab_fixtures import browser, logdir, opened, server

if TYPE_CHECKING:
    from tests.live_runs import Live

__all__ = ["browser", "calm", "logdir", "opened", "server", "sick"]  # fixtures


LONG = (
    "test_every_optimizer", "test_guard", "test_divergence_benchmark", "test_demo", "test_preflight", "test_triton_kernel",
    "test_distributed", "test_notebook", "test_tab_page", "test_tab", "test_transformers", "test_sinks_of_services",
    "test_sharded", "test_examples", "test_loggers", "test_action_drill", "test_library", "test_requeued_runs",
    "test_run_length", "test_full_disk",
)  # fmt: skip
"""Files that take half a minute and more, the longest first: one of them begun last has the other workers wait."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, as ``--no-loadscope-reorder`` leaves them; each file's tests in their order."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


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
