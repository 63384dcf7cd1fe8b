"""What README and site show runs, their commands exist, and the site builds without a warning."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

import lightning_adam as la
from lightning_adam import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
WITH_CODE = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]


def blocks(page: Path, language: str) -> list[str]:
    """The page's fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def names_that_stand_for_the_users_own() -> dict[str, Any]:
    """What the pages assume: a model, its optimizer, batches."""
    model = nn.Linear(4, 1)
    return {
        "la": la,
        "model": model,
        "module": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
        "batches": list(torch.randn(12, 8, 4)),
        "criterion": lambda output: output.square().mean(),
    }


def failure_of(block: str, names: dict[str, Any]) -> str:
    """What running the block raised; tests/test_transformers.py runs Hugging Face's with a real model."""
    try:
        exec("" if "transformers.Trainer(" in block else compile(block, "block", "exec"), names)
    except Exception as error:
        return f"{type(error).__name__}: {error} in\n{block}"
    return ""


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_python_block_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "transformers" in page.read_text(encoding="utf-8"):
        pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    names = names_that_stand_for_the_users_own()
    failures = [failure for block in blocks(page, "python") if (failure := failure_of(block, names))]
    assert failures == []


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_configure_optimizers_that_a_page_shows_configures_a_module(page: Path) -> None:
    for block in blocks(page, "python"):
        if block.startswith("def configure_optimizers(self)") or "\ndef configure_optimizers(self)" in block:
            names = names_that_stand_for_the_users_own()
            exec(compile(block, str(page), "exec"), names)
            made = names["configure_optimizers"](TwoParts())
            assert all("optimizer" in one for one in (made if isinstance(made, list) else [made]))


class TwoParts(L.LightningModule):
    """What the pages' configurations are tried on: two networks of two matrices each, in a run of 100 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.discriminator = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
        self.trainer = L.Trainer(max_steps=100, accelerator="cpu", logger=False, enable_checkpointing=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_command_of_a_page_is_one_that_the_program_takes(page: Path) -> None:
    for line in "\n".join(blocks(page, "sh")).splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0].endswith("lightning-adam"):
            assert cli._parser().parse_args(words[1:]).run


def test_the_readme_has_at_most_a_thousand_words_and_only_absolute_links() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.split()) <= 1000
    assert all(link.startswith("https://") for link in re.findall(r"\]\(([^)]+)\)", readme))


@pytest.mark.slow  # CI builds it: `make docs`
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "codes" / "LR-HIGH" / "index.html").is_file()
