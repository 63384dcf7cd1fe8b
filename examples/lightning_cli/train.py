"""LightningCLI with the optimizer's settings in YAML: they are one dataclass argument of the module.

python examples/lightning_cli/train.py fit --config examples/lightning_cli/config.yaml
python examples/lightning_cli/train.py fit --help                    # shows every setting with its meaning
python examples/lightning_cli/train.py fit --config ... --model.optim.lr 3e-4 --model.optim.schedule wsd
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_adam as la


class DigitsClassifier(L.LightningModule):
    """Handwritten digits, 8 x 8 pixels, in ten classes.

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


class DigitsData(L.LightningDataModule):
    """scikit-learn's digits.

    Args:
        batch_size: images per batch.
    """

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        """All 1,797 images, shuffled."""
        digits = load_digits()
        images = torch.tensor(digits.data / 16, dtype=torch.float32)
        return DataLoader(TensorDataset(images, torch.tensor(digits.target)), self.batch_size, shuffle=True)


if __name__ == "__main__":
    LightningCLI(DigitsClassifier, DigitsData)
