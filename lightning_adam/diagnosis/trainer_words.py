"""What a remedy asks of whoever trains: in a plain loop there is no Trainer to tell."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_adam.diagnosis.signals import RunSignals


@dataclass(frozen=True)
class TrainerWords:
    """How each thing is done.

    Attributes:
        mixed_precision: weights in 32 bit, and the forward pass in 16.
        anomaly: look for the operation whose gradient is not finite.
        restore: load the optimizer's state with the weights.
    """

    mixed_precision: str
    anomaly: str
    restore: str


LIGHTNING = TrainerWords("Trainer(precision='bf16-mixed')", "Trainer(detect_anomaly=True)", "trainer.fit(ckpt_path=...)")
PLAIN_LOOP = TrainerWords(
    "torch.autocast(device, torch.bfloat16) around the forward pass",
    "torch.autograd.set_detect_anomaly(True)",
    "optimizer.load_state_dict(...)",
)


def words_for(run: RunSignals) -> TrainerWords:
    """Of a run's mode of training."""
    return PLAIN_LOOP if run.mode == "loop" else LIGHTNING
