"""AdamCallback in Hugging Face's Trainer, on a tiny random GPT-2 and sequences that can be learnt."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import Dataset, Subset

from lightning_adam.diagnosis import StepSignals, decode

pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")

from lightning_adam.integrations.transformers import AdamCallback  # noqa: E402


class Counting(Dataset[dict[str, Any]]):
    """Sequences that count up by one or two: half of the next tokens can be known."""

    def __len__(self) -> int:
        return 512

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens = (index + (1 + index % 2) * torch.arange(12)) % 64
        return {"input_ids": tokens, "labels": tokens.clone()}


def model(nan_at: int = -1) -> Any:
    """Two layers, always the same; the loss of one forward pass may be NaN."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=64, n_positions=16, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    made = transformers.GPT2LMHeadModel(config)
    passes = iter(range(10**6))

    def spoil(module: Any, args: Any, output: Any) -> None:
        if next(passes) == nan_at:
            output.loss = output.loss * math.nan

    made.register_forward_hook(spoil)
    return made


def train(folder: Path, net: Any, callbacks: list[Any], resume: str | None = None, **arguments: Any) -> Any:
    """Forty steps, each logged."""
    given = {
        "output_dir": str(folder),
        "max_steps": 40,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 20,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
    }
    settings = transformers.TrainingArguments(**{**given, **arguments})
    data, unseen = Counting(), Subset(Counting(), range(64))
    trainer = transformers.Trainer(net, settings, train_dataset=data, eval_dataset=unseen, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def signals(folder: Path) -> list[StepSignals]:
    """What the rules saw."""
    events = EventAccumulator(str(folder / "runs/adam"), size_guidance={"tensors": 0}).Reload().Tensors("adam_signals")
    records = [record for event in events for record in decode(event.tensor_proto.string_val[0])]
    return [record for record in records if isinstance(record, StepSignals)]


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_losses_and_norms_are_the_trainers(accumulate: int, tmp_path: Path) -> None:
    """Those that it logs itself, before its clipping; a healthy run is silent, and its steps are in the log."""
    callback = AdamCallback()
    options = {"gradient_accumulation_steps": accumulate, "max_grad_norm": 0.5}
    trainer = train(tmp_path, model(), [callback], **options)
    logged = [entry for entry in trainer.state.log_history if "grad_norm" in entry]

    steps = signals(tmp_path)
    assert [step.step for step in steps] == list(range(40))
    assert [step.loss for step in steps] == pytest.approx([entry["loss"] for entry in logged], rel=1e-3)
    assert [step.gradient_norm for step in steps] == pytest.approx([entry["grad_norm"] for entry in logged], rel=1e-4)
    assert any(step.clip_coefficient < 1 for step in steps)
    assert [finding.rule for finding in callback.findings if finding.severity != "info"] == []
    tags = EventAccumulator(str(tmp_path / "runs/adam")).Reload().Tags()
    assert {"adam/log10_update_ratio_p50", "adam/findings_total"} <= set(tags["scalars"])


def test_weights_are_bit_for_bit_those_without_it(tmp_path: Path) -> None:
    """A monitor changes nothing."""
    bare, watched = model(), model()
    train(tmp_path / "bare", bare, [])
    train(tmp_path / "watched", watched, [AdamCallback()])

    assert all(torch.equal(one, other) for one, other in zip(bare.parameters(), watched.parameters(), strict=True))


def test_a_rate_that_is_too_high_is_named(tmp_path: Path) -> None:
    """At 3 every weight moves by 3."""
    callback = AdamCallback()
    train(tmp_path, model(), [callback], learning_rate=3.0, warmup_steps=0)

    assert callback.findings[0].rule == "LR-HIGH"
    assert "LR-HIGH" in callback.summary()


def test_what_an_evaluation_costs_is_known_to_the_rules(tmp_path: Path) -> None:
    """From the step after it on."""
    train(tmp_path, model(), [AdamCallback()], max_steps=12, eval_strategy="steps", eval_steps=5)

    known = {s.step: s.validation_loss for s in signals(tmp_path) if not math.isnan(s.validation_loss)}
    assert [*known] == [5, 10] and all(0 < loss < 5 for loss in known.values())


@pytest.mark.parametrize("metrics", [{"eval_bce": np.array([1.0, 2.0])}, {"eval_nll": [1.0]}, {"val_loss": None}])
def test_metric_that_is_no_number_ends_no_training(metrics: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """It is told about."""
    AdamCallback().on_evaluate(None, None, None, metrics=metrics)

    assert "lost validation's loss" in caplog.text


def test_a_nan_is_found_and_can_end_the_run(tmp_path: Path) -> None:
    """In the step that has it; the Trainer stops after it."""
    callback = AdamCallback(on_divergence="stop")
    trainer = train(tmp_path, model(nan_at=20), [callback])

    assert ("NON-FINITE", 20) in [(finding.rule, finding.step) for finding in callback.findings]
    assert trainer.state.global_step == 21


def test_a_resumed_run_goes_on_along_the_axis(tmp_path: Path) -> None:
    """Its steps are counted from the checkpoint's."""
    train(tmp_path / "first", model(), [], max_steps=20, save_strategy="steps", save_steps=20)
    train(tmp_path / "second", model(), [AdamCallback()], resume=str(tmp_path / "first/checkpoint-20"))

    assert [step.step for step in signals(tmp_path / "second")] == list(range(20, 40))


def test_nothing_is_held_afterwards_and_it_can_be_copied(tmp_path: Path) -> None:
    """Before and after a run; the findings go along."""
    callback = pickle.loads(pickle.dumps(copy.deepcopy(AdamCallback())))
    net = model(nan_at=5)
    trainer = train(tmp_path, net, [callback], max_steps=8)
    held = weakref.ref(net)
    del net, trainer
    gc.collect()

    assert held() is None
    assert [finding.rule for finding in pickle.loads(pickle.dumps(callback)).findings] == ["NON-FINITE"]
