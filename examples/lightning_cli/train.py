"""LightningCLI with the optimizer's settings in YAML: they are one dataclass argument of the module.

pip install "lightning-adam[cli]"
python examples/lightning_cli/train.py fit --config examples/lightning_cli/config.yaml
python examples/lightning_cli/train.py fit --help                    # shows every setting with its meaning
python examples/lightning_cli/train.py fit --config ... --model.optim.lr 3e-4 --model.optim.schedule wsd
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_adam as la


class PatternsClassifier(L.LightningModule):
    """Ten patterns of 8 x 8 pixels, to be told apart.

    Args:
        hidden: width of the hidden layer.
        optim: everything about the optimizer.
    """

    def __init__(self, hidden: int = 64, optim: la.OptimizerConfig = la.OptimizerConfig()) -> None:  # noqa: B008
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        self.optim = optim

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of one batch."""
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """The dataclass is all there is to say."""
        return la.configure_optimizers(self, self.optim)


class PatternsData(L.LightningDataModule):
    """The patterns, seen through noise.

    Args:
        batch_size: images per batch.
    """

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        """2,000 images, shuffled."""
        generator = torch.Generator().manual_seed(0)
        patterns, labels = torch.randn(10, 64, generator=generator), torch.randint(10, (2000,), generator=generator)
        images = patterns[labels] + 0.5 * torch.randn(2000, 64, generator=generator)
        return DataLoader(TensorDataset(images, labels), self.batch_size, shuffle=True)


if __name__ == "__main__":
    LightningCLI(PatternsClassifier, PatternsData)
