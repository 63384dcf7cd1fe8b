"""A remedy in the words of whoever trains: in a plain loop there is no Trainer to tell."""

from __future__ import annotations

from dataclasses import replace

from lightning_adam.diagnosis.finding import Finding

IN_A_LOOP = {
    "Trainer(precision='bf16-mixed')": "torch.autocast(device, torch.bfloat16) around the forward pass",
    "Trainer(detect_anomaly=True)": "torch.autograd.set_detect_anomaly(True)",
    "trainer.fit(ckpt_path=...)": "optimizer.load_state_dict(...)",
    "in configure_optimizers from self.parameters()": "from model.parameters()",
    "self.parameters()": "model.parameters()",
}
"""What the rules write for Lightning's Trainer, and what it is called without one."""


def in_words_of(finding: Finding, mode: str) -> Finding:
    """The finding, its remedy one for this mode of training."""
    remedy = finding.remedy
    for trainer, loop in IN_A_LOOP.items() if mode == "loop" else ():
        remedy = remedy.replace(trainer, loop)
    return finding if remedy == finding.remedy else replace(finding, remedy=remedy)
