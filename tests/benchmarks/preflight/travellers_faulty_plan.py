"""The ninth round's faults of the plan."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.benchmarks.preflight.data import loader, rows
from tests.benchmarks.preflight.outsiders_parts import Lit
from tests.benchmarks.preflight.parts import Built, perceptron
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.travellers_parts import Points, clouds, listeners, loads


class Forecaster(Lit):
    """Tomorrow's load by a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(32, 8)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Mean square."""
        return F.mse_loss(self.net(batch[0]), batch[1])


@faulty("SCHEDULE-NEVER-ARRIVES")
def stepped_by_the_epochs_number() -> Built:
    """OpenSTL #113: ``lr_scheduler_step`` hands over the epoch, and the cosine was made for 400 steps."""

    class Model(Forecaster):
        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            scheduler.step(epoch=self.current_epoch)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3)
            fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=400)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": fall, "interval": "step"}}

    return Model(), loader(*loads()), {"trainer": L.Trainer(max_epochs=20, logger=False)}


@faulty("SCHEDULE-COLLAPSED")
def multiplied_by_a_power() -> Built:
    """MultiplicativeLR with what belongs into LambdaLR: 0.95, then 0.95², then 0.95³ are multiplied."""

    class Model(Forecaster):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=2e-3)
            return [optimizer], [torch.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: 0.95**epoch)]

    return Model(), loader(*loads()), {"trainer": L.Trainer(max_epochs=60, logger=False)}


@faulty("LR-HIGH", "NO-WARMUP", "PROBE-DIVERGES")
def llama_at_a_tenth() -> Built:
    """Two layers, from nothing; the rate is a fine SGD rate."""
    from transformers import LlamaConfig, LlamaForCausalLM

    class Composer(Lit):
        lr = 0.1

        def __init__(self) -> None:
            super().__init__()
            sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
            self.model = LlamaForCausalLM(LlamaConfig(vocab_size=40, **sizes))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.model(**batch).loss

    heard, _ = listeners()
    return Composer(), rows(input_ids=heard, labels=heard)


@faulty("LR-LOW")
def both_groups_of_a_cloud_at_next_to_nothing() -> Built:
    """Rates of a paper's last epoch for a net that begins."""

    class Clouds(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Points()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            groups = [
                {"params": self.net.each.parameters(), "lr": 1e-8},
                {"params": self.net.head.parameters(), "lr": 1e-7},
            ]
            return torch.optim.AdamW(groups, weight_decay=0.01)

    return Clouds(), loader(*clouds())
