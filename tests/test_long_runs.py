"""What a run leaves does not swell with what is found: texts, files and records are bounded."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import lightning_adam as la
from lightning_adam.diagnosis import Finding, findings_table
from lightning_adam.monitoring import optimizer_statistics
from lightning_adam.monitoring.thinning import Thinning
from lightning_adam.sinks.tensorboard import TensorBoardSink


def findings(count: int) -> list[Finding]:
    """So many, of tensors with long names."""
    name = "block." * 80 + "weight"
    return [Finding("LR-HIGH", "warning", step, f"{name} moved too far.", {"update ratio": 0.5}) for step in range(count)]


def test_table_of_very_many_findings_has_the_first_and_the_last() -> None:
    """And says how many are between them."""
    table = findings_table(findings(2000)).splitlines()

    assert len(table) == 2 + 40 + 1
    assert table[2].startswith("| 0 |") and table[-1].startswith("| 1999 |")
    assert "and 1960 more" in table[12]


def test_two_thousand_findings_take_little_room(tmp_path: Path) -> None:
    """The whole table again with each of them took 492 MiB; each finding itself is written once."""
    known = findings(2000)
    with SummaryWriter(str(tmp_path)) as writer:
        sink = TensorBoardSink(writer)
        for count in range(1, len(known) + 1):
            sink.findings("adam", count, known[count - 1 : count], known[:count])
    size = sum(file.stat().st_size for file in tmp_path.iterdir())

    assert size < 16 * 2**20


def test_what_is_written_in_full_grows_with_the_logarithm_of_the_run() -> None:
    """All of the first 4096, 13,500 of 100,000; a resume goes on where it was."""
    whole, parts = Thinning(4096), Thinning(4096)
    kept = [step for step in range(100_000) if whole.take()]
    again = [parts.take() for _ in range(50_000)]
    parts = Thinning(4096, parts.seen)
    again += [parts.take() for _ in range(50_000)]

    assert kept[:4096] == list(range(4096)) and len(kept) < 13_700
    assert max((after - before) / after for before, after in pairwise(kept[4096:])) <= 2 / 4096
    assert [step for step, taken in enumerate(again) if taken] == kept


def test_steps_that_are_not_written_in_full_have_their_headline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 logged steps 8 + 4 + 4 + 2 are whole; every one has its learning rate, described once."""
    monkeypatch.setattr(optimizer_statistics, "IN_FULL", 8)
    module = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(module.parameters())
    with la.watch(module, optimizer, log_dir=tmp_path, every_n_steps=1) as watch:
        for _ in range(40):
            optimizer.zero_grad()
            watch.loss(module(torch.ones(1, 2)).sum()).backward()
            optimizer.step()
    (file,) = tmp_path.glob("*tfevents*")
    written = [v for raw in RawEventFileLoader(str(file)).Load() for v in Event.FromString(raw).summary.value]
    rates = [v for v in written if v.tag == "adam/log10_lr"]

    assert sum(v.tag == "adam_matrix/update_ratio" for v in written) == 8 + 4 + 4 + 1
    assert len(rates) == 40
    assert [v.HasField("metadata") for v in rates] == [True] + [False] * 39


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_run_of_very_many_names_and_groups_is_watched(count: int, tmp_path: Path) -> None:
    """Three tensors in each group, up to ten thousand, with names of five hundred characters."""
    torch.manual_seed(0)
    module = nn.Module()
    for index in range(count):
        module.register_parameter(f"{'long_' * 100}{index}", nn.Parameter(torch.randn(2)))
    parameters = list(module.parameters())
    groups = [{"params": parameters[at : at + 3], "name": f"group {at} {'x' * 480}"} for at in range(0, count, 3)]
    optimizer = torch.optim.AdamW(groups)
    with la.watch(module, optimizer, log_dir=tmp_path, every_n_steps=4) as watch:
        for step in range(4):
            optimizer.zero_grad()
            loss = sum((p.square().sum() for p in parameters), torch.zeros(())) * (float("nan") if step == 3 else 1.0)
            watch.loss(loss).backward()
            optimizer.step()

    assert [finding.rule for finding in watch.findings][-1:] == ["NON-FINITE"]
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < count * 2**15
