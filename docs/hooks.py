"""Pages of the site that are made from the package: one per code of a finding, and the catalogue of optimizers."""

from __future__ import annotations

import csv
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from lightning_adam.diagnosis.rules import RULES
from lightning_adam.explain import codes, explanation
from lightning_adam.optimizer_page import described
from lightning_adam.optimizers import OptimizerSpec, available_optimizers

CATALOGUE = "<!-- the catalogue -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page per optimizer and per code, and the table of all codes."""
    for spec in available_optimizers():
        files.append(File.generated(config, f"catalogue/{spec.name}.md", content=_page_of(spec)))
    for code in codes():
        files.append(File.generated(config, f"codes/{code}.md", content=explanation(code).page))
    files.append(File.generated(config, "codes/index.md", content=_table_of_codes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the catalogue where a page asks for it."""
    return markdown.replace(CATALOGUE, _catalogue()) if CATALOGUE in markdown else markdown


def _table_of_codes() -> str:
    live = [code for code in codes() if code in RULES]
    before = [code for code in codes() if code not in RULES]
    return (
        "# All codes\n\nThe same pages on the command line: `lightning-adam explain LR-HIGH`.\n\n"
        f"## While training, and from logs\n\n{_rows(live)}\n\n## Before training\n\n{_rows(before)}\n"
    )


def _rows(of: list[str]) -> str:
    rows = [f"| [{e.code}]({e.code}.md) | {e.says} | {e.first} |" for e in map(explanation, of)]
    return "\n".join(["| code | what it says | what to do first |", "|---|---|---|", *rows])


def _catalogue() -> str:
    head = ["| name | from | bytes | time | lr | what it is | needs |", "|---|---|---:|---:|---:|---|---|"]
    return "\n".join([*head, *map(_row, available_optimizers())])


def _row(spec: OptimizerSpec) -> str:
    link, time, needs = f"[`{spec.name}`](catalogue/{spec.name}.md)", _costs()[spec.name][1], ", ".join(spec.needs)
    return f"| {link} | {spec.library} | {spec.state_bytes:g} | {time} | {spec.lr:g} | {spec.summary} | {needs} |"


def _page_of(spec: OptimizerSpec) -> str:
    """What ``lightning-adam optimizers NAME`` prints, with the cost as it was recorded."""
    bytes_, time = _costs()[spec.name]
    cost = {
        "state": f"{spec.state}: {bytes_} bytes per parameter, counted",
        "time": f"{time} times AdamW's, a step on a CPU",
    }
    entries = [f"**{key}**\n\n```text\n{text}\n```\n" for key, text in {**described(spec), **cost}.items()]
    use = f'```python\nla.configure_optimizers(self, "{spec.name}")\n```\n'
    return "\n".join([f"# {spec.name}\n\n{spec.summary.capitalize()}.\n", use, *entries])


def _costs() -> dict[str, tuple[str, str]]:
    """Name to bytes per parameter and time beside AdamW's, from ``python -m tests.benchmarks.catalogue_cost``."""
    with (Path(__file__).parent / "catalogue_cost.csv").open() as file:
        return {name: (bytes_, time) for name, bytes_, time in csv.reader(file)}
