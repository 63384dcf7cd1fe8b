"""The notebook runs from the first cell to the last, and each of our objects shows once, as a page or a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lightning_adam as la

NOTEBOOK = Path(__file__).parent.parent / "examples" / "sick_run.ipynb"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The outputs of the notebook's code cells by their last line, for somebody who does not sit in a test: some things are
    shown only then."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST")
        nbclient.NotebookClient(notebook, timeout=300, resources=place).execute()
    return {cell.source.splitlines()[-1]: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "form"),
    [
        ("la.describe(Net(lr=3e-3))", "text/markdown"),
        ('la.plot_schedule(la.OptimizerConfig(lr=3e-3, schedule="cosine", warmup=0.05), 300)', "image/png"),
        ("la.preflight(Net(lr=3.0), loader)", "text/html"),
        ('la.report("runs")', "text/html"),
    ],
)
def test_an_object_shows_once(shown: dict[str, list[Any]], line: str, form: str) -> None:
    outputs = shown[line]
    assert len(outputs) == 1
    assert form in outputs[0]["data"]


@pytest.mark.slow
def test_the_sick_run_is_named_and_its_remedy_cures_it(shown: dict[str, list[Any]]) -> None:
    texts = [output["text"] for output in shown['la.report("runs/cured")'] if output["output_type"] == "stream"]
    losses = [line for text in texts for line in text.splitlines() if line.startswith("cured: loss ")]
    assert float(losses[0].split()[-1]) < 0.3


def test_describe_prints_outside_of_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    told = la.describe(la.OptimizerConfig(optimizer="lion"))
    assert capsys.readouterr().out.strip() == told.strip()
