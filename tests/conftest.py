"""What all tests share. Heavy imports wait: xdist's main process reads this file too, and runs no test."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import once  # noqa: F401
from tests.tab_fixtures import browser, idle_tabs, logdir, opened, server

if TYPE_CHECKING:
    from tests.live_runs import Live

__all__ = ["browser", "calm", "idle_tabs", "logdir", "opened", "server", "sick"]  # fixtures


pytest.register_assert_rewrite("tests.preflight_kinds")
gc.disable()  # until all is collected: what is imported stays, and to search it for garbage takes a second


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadfile``, files that share what takes long to start are one."""
    from tests.scheduling import BySharedFixtures

    return BySharedFixtures(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """A helper module without an example has no doctest; to import all of them for that takes each worker seconds."""
    if collection_path.suffix != ".py" or collection_path.name.startswith("test_"):
        return None
    return ">>>" not in collection_path.read_text() or None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What a file of preflight's kinds has entered, by its name (see tests/preflight_kinds.py)."""
    kinds = getattr(metafunc.module, "KINDS", None)
    for argument in {"fault", "sound"}.intersection(metafunc.fixturenames):
        entered = getattr(kinds, argument)
        metafunc.parametrize(argument, entered.values(), ids=entered)


def pytest_collection_finish() -> None:
    """Tests wait for the compiled statistics: what they show is not to depend on how quick a build is."""
    from lightning_adam.statistics import library

    library.PATIENCE = 60.0
    gc.freeze()  # Lightning's tuner and accelerate collect garbage themselves: among a million objects that is half a second
    gc.enable()


def pytest_sessionfinish() -> None:
    """Triton's bindings complain at the end of what cannot be collected."""
    gc.unfreeze()


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
