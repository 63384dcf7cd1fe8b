"""What a user does not want to hear of is neither told nor counted, live and by the doctor."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.diagnosis import Finding
from lightning_adam.diagnosis.ignoring import is_ignored
from lightning_adam.errors import ConfigError

UNUSED = Finding("UNUSED-PARAMETER", "info", 10, "never had a gradient", parameters=("experts.0.weight", "experts.1.weight"))


class WithAnUnusedLayer(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 1), nn.Linear(4, 1)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        return self.used(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def trained(folder: Path, **options: object) -> DivergenceMonitor:
    torch.manual_seed(0)
    monitor = DivergenceMonitor(**options)
    trainer = L.Trainer(
        max_steps=30,
        accelerator="cpu",
        logger=TensorBoardLogger(folder, name=""),
        callbacks=[monitor],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(WithAnUnusedLayer(), torch.utils.data.DataLoader(torch.randn(240, 4), batch_size=8))
    return monitor


def rules(findings: list[Finding]) -> list[str]:
    return [finding.rule for finding in findings]


def told_by_the_doctor(folder: Path) -> list[str]:
    return rules([found.finding for found in la.report(folder).findings])


def test_an_ignored_code_is_not_found_and_the_doctor_keeps_to_it(tmp_path: Path) -> None:
    assert "UNUSED-PARAMETER" in rules(trained(tmp_path / "told").findings)
    assert "UNUSED-PARAMETER" in told_by_the_doctor(tmp_path / "told")
    assert "UNUSED-PARAMETER" not in rules(trained(tmp_path / "ignored", ignore=["UNUSED-PARAMETER"]).findings)
    assert "UNUSED-PARAMETER" not in told_by_the_doctor(tmp_path / "ignored")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("UNUSED-PARAMETER", True),
        ("UNUSED-PARAMETER:experts.*", True),
        ("UNUSED-PARAMETER:experts.0.*", False),
        ("DEAD-PARAMETER", False),
    ],
)
def test_a_glob_ignores_a_finding_only_where_all_its_parameters_match(pattern: str, expected: bool) -> None:
    assert is_ignored(UNUSED, [pattern]) is expected


@pytest.mark.parametrize(("wrong", "hint"), [(["LR-HIHG"], "'LR-HIGH'"), ("LR-HIGH", "give a list"), (["LR-HIGH:"], "glob")])
def test_a_wrong_code_is_refused_when_the_monitor_is_made(wrong: object, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        DivergenceMonitor(ignore=wrong)  # type: ignore[arg-type]
