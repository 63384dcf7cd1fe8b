"""Preflight: faults are named, healthy models are let pass, and nothing is left behind."""

from __future__ import annotations

import functools
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lightning_adam as la
from lightning_adam.callbacks import Preflight
from lightning_adam.callbacks.preflight import PreflightError
from lightning_adam.preflight.cheap import FirstStep, cheap_checks
from lightning_adam.testing import assert_trains
from tests.benchmarks.preflight.cases import FAULTY, HEALTHY
from tests.benchmarks.preflight.data import clusters, loader, pictures
from tests.benchmarks.preflight.parts import Learner, convnet, perceptron

SEVERITIES = ("critical", "warning")


def built(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """A case of the benchmark, the same each time."""
    L.seed_everything(0, verbose=False)
    module, data, *options = (FAULTY[name][1] if name in FAULTY else HEALTHY[name])()
    return module, data, options[0] if options else {}


def graves(report: la.PreflightReport) -> list[str]:
    """Codes that are more than advice."""
    return [finding.rule for finding in report.findings if finding.severity in SEVERITIES]


FAULTS = (
    "column_against_row", "softmax_in_the_step", "nll_of_logits", "counted_from_one", "minus_in_front",
    "head_replaced_later", "layers_in_a_dict", "left_in_eval", "body_under_no_grad", "by_hand_never_cleared",
    "batch_first_missing", "both_directions", "dropout_always_on", "weights_written_over", "by_class",
    "one_column_in_thousands", "adam_at_one", "decays_every_step", "warmup_in_epochs", "clipped_to_nothing",
    "accumulated_for_ever", "likelihood_without_minus", "raw_columns_beside_categories", "optimizer_of_the_average",
    "mask_without_its_channel", "likelihood_of_survival_maximised_wrongly", "embeddings_normalised_over_the_batch",
    "forecast_with_padding_on_both_sides", "only_the_actor_is_cleared", "every_weight_a_hundredth",
    "noise_whatever_the_mode", "pairs_of_zero_and_one", "eps_where_the_decay_belongs", "price_in_another_currency",
    "overlap_made_smaller", "bound_with_one_wrong_sign", "policy_climbs_down", "judged_before_each_batch",
    "cracks_in_one_pixel_of_two_hundred", "one_buffer_for_all_samples", "log_probabilities_of_two_joints",
    "soft_margin_of_shares", "attention_over_its_single_axis", "hands_clamped_to_the_unit_square",
    "stepped_by_the_epochs_number",
)  # fmt: skip
SOUND = (
    "graph_of_nodes", "gan_by_hand", "contrastive_with_norm", "byol", "physics_informed", "policy_gradient",
    "lazy_layers", "stream", "missing_targets", "accumulates_by_hand", "adapters", "autoencoder_of_pixels", "raw_prices",
    "likelihood_of_torch", "one_graph_of_papers", "conditional_gan_by_hand", "wrapped_lightning_module",
    "weights_in_polar_form", "hooks_of_its_own", "compiled_inside", "angles_with_a_margin", "picture_and_words",
    "pairs_by_sigmoid_in_sixes", "bottleneck_that_draws", "cox_by_hand", "bound_of_many_draws", "forecast_at_each_time",
    "state_carried_from_batch_to_batch", "labelled_and_unlabelled_side_by_side", "costs_are_to_fall",
)  # fmt: skip
STRIDE = int(os.environ.get("PREFLIGHT_STRIDE", 0))
"""PREFLIGHT_STRIDE=1 compares the whole zoo bit by bit, some minutes; 14 every fourteenth case of it."""
ZOO = sorted({**HEALTHY, **FAULTY})[::STRIDE] if STRIDE else sorted({*FAULTS, *SOUND})


def fingerprint(module: nn.Module, data: Any) -> dict[str, Any]:
    """Bytes of all that must not change, gathered without the code under test."""

    def raw(tensor: Tensor | None) -> Any:
        lazy = isinstance(tensor, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer))
        return type(tensor).__name__ if tensor is None or lazy else tensor.detach().numpy().tobytes()

    tensors = [*module.named_parameters(), *module.named_buffers()]
    found: dict[str, Any] = {name: (raw(t), raw(t.grad), t.requires_grad) for name, t in tensors}
    for name, part in module.named_modules():
        hooks = [len(part._forward_hooks), len(part._forward_pre_hooks), len(part._backward_hooks)]
        found[f"module {name}"] = (type(part).__name__, part.training, sorted(part.__dict__), hooks)
    generators = {
        id(g): g for g in (getattr(data, "generator", None), getattr(getattr(data, "sampler", None), "generator", None))
    }
    found["loaders"] = [raw(g.get_state()) for g in generators.values() if g is not None]
    found["random"] = (raw(torch.get_rng_state()), random.getstate(), str(np.random.get_state()))
    return found


@dataclass(frozen=True)
class Examined:
    """What preflight said of a case, and what was no longer as before it."""

    graves: list[str]
    changed: list[str]


@functools.cache
def examined(name: str) -> Examined:
    """Looked at once, for all that is claimed of it."""
    module, data, options = built(name)
    before = fingerprint(module, data)
    report = la.preflight(module, data, **options)
    after = fingerprint(module, data)
    return Examined(graves(report), [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)])


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named_by_its_cause(name: str) -> None:
    """The gravest finding has the code of what was broken."""
    assert examined(name).graves[0] in FAULTY[name][0]


@pytest.mark.parametrize("name", SOUND)
def test_healthy_model_is_let_pass(name: str) -> None:
    """Nothing more than advice is said of what is meant to be so."""
    assert examined(name).graves == []


@pytest.mark.parametrize("name", ZOO)
def test_everything_is_bit_by_bit_as_before(name: str) -> None:
    """Weights, buffers, gradients, modes, attributes, hooks and all random states."""
    assert examined(name).changed == []


@pytest.mark.parametrize("name", ["gan_by_hand", "lazy_layers", "stream", "head_replaced_later"])
@pytest.mark.parametrize("calls", [1, 12])
def test_an_exception_in_the_middle_leaves_no_trace(name: str, calls: int) -> None:
    """The user's step may raise at any time, and what stands in the report is that it did."""
    module, data, options = built(name)
    count, step = iter(range(10**6)), module.training_step

    def fails(batch: Any, batch_idx: int) -> Any:
        if next(count) >= calls - 1:
            raise RuntimeError("in the middle")
        return step(batch, batch_idx)

    module.training_step = fails
    before = fingerprint(module, data)

    report = la.preflight(module, data, **options)

    assert fingerprint(module, data) == before
    assert any("in the middle" in why for why in report.not_judged.values())


def test_interruption_leaves_no_trace_either() -> None:
    """Ctrl-C goes through, and everything is set back."""
    module, data, _ = built("cnn_plain")
    step, count = module.training_step, iter(range(100))

    def interrupted(batch: Any, batch_idx: int) -> Any:
        if next(count) == 9:
            raise KeyboardInterrupt
        return step(batch, batch_idx)

    module.training_step = interrupted
    before = fingerprint(module, data)

    with pytest.raises(KeyboardInterrupt):
        la.preflight(module, data)

    assert fingerprint(module, data) == before


def test_own_state_of_a_step_is_set_back() -> None:
    """Lists, counters, closures and optimizer state that the user's step keeps."""

    class Counting(Learner):
        def __init__(self) -> None:
            super().__init__(perceptron(12, 4), F.cross_entropy)
            self.seen: list[Tensor] = []
            self.counts = {"steps": 0}
            self.moments = torch.optim.Adam(self.parameters(), lr=1e-3)
            inside = [0]
            self.bump = lambda: inside.__setitem__(0, inside[0] + 1) or inside[0]

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.counts["steps"] += 1
            self.bump()
            loss = super().training_step(batch, batch_idx)
            self.seen.append(loss.detach())
            return loss

        def configure_optimizers(self) -> Any:
            return self.moments

    module = Counting()
    la.preflight(module, loader(*clusters()))

    assert (module.seen, module.counts, module.bump(), dict(module.moments.state)) == ([], {"steps": 0}, 1, {})


def fitted(callbacks: list[Any], make: Callable[[], Any] = lambda: built("with_the_helper")) -> Tensor:
    """Weights after a few steps of a real Trainer."""
    module, data, _ = make()
    trainer = L.Trainer(
        max_steps=12, callbacks=callbacks, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, data)
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_callback_changes_nothing_of_a_run() -> None:
    """Order of the data, dropout, optimizer and schedule go on as without it."""
    callback = Preflight()

    assert torch.equal(fitted([]), fitted([callback]))
    assert callback.report is not None and graves(callback.report) == []


def test_callback_prints_and_raises_where_it_is_asked_to(capsys: pytest.CaptureFixture[str]) -> None:
    """Before the first step, with the report as the message."""
    with pytest.raises(PreflightError, match="NOT-CAUSAL"):
        fitted([Preflight(raise_on="critical")], lambda: built("convolution_sees_ahead"))

    assert "causal mask" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"raise_on": "critcal"}, "Did you mean 'critical'"),
        ({"budget": 0}, "more than 0"),
        ({"budget": True}, "more than 0"),
    ],
)
def test_wrong_argument_of_the_callback_is_refused(arguments: dict[str, Any], message: str) -> None:
    """With the nearest right spelling."""
    with pytest.raises(la.ConfigError, match=message):
        Preflight(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((nn.Linear(2, 2), [0]), "training_step"),
        ((Learner(perceptron(12, 4), F.cross_entropy), []), "no batch"),
        ((Learner(perceptron(12, 4), F.cross_entropy), iter([1])), "iterator"),
        ((Learner(perceptron(12, 4), F.cross_entropy), 3), "DataLoader"),
    ],
)
def test_wrong_argument_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    """Before anything is run."""
    with pytest.raises(la.ConfigError, match=message):
        la.preflight(*arguments)


def test_report_shows_place_and_remedy_in_every_form() -> None:
    """Text, HTML and a data frame say the same; the evidence has file and line of the loss call."""
    module, data, _ = built("softmax_in_the_step")
    report = la.preflight(module, data)
    place = str(report.findings[0].evidence["at"])
    path, line = place.rsplit(":", 1)

    assert "F.cross_entropy(torch.softmax" in Path(path).read_text().splitlines()[int(line) - 1]
    assert all("DOUBLE-SOFTMAX" in form for form in (str(report), report._repr_html_(), report.to_dataframe().to_string()))
    assert report.findings[0].remedy.split()[0] in str(report)


def test_what_cannot_be_judged_is_said_with_its_reason() -> None:
    """A step that raises leaves the checks that need it undone, by name."""
    report = la.preflight(Learner(perceptron(9, 4), F.cross_entropy), loader(*clusters()))

    assert report.not_judged["NO-GRADIENT"].startswith("training_step raised RuntimeError")
    assert "not judged" in str(report)


def test_budget_is_kept() -> None:
    """Roughly: without one this model takes half a minute."""

    class Slow(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            time.sleep(0.05)
            return super().training_step(batch, batch_idx)

    begun = time.monotonic()
    la.preflight(Slow(perceptron(12, 4), F.cross_entropy), loader(*clusters()), budget=3)

    assert time.monotonic() - begun < 10


def test_assertion_passes_a_healthy_model_and_fails_a_faulty_one() -> None:
    """Unless the code is allowed."""
    assert_trains(*built("cnn_plain")[:2])
    faulty = built("relu_at_the_end")[:2]

    with pytest.raises(AssertionError, match="RELU-LOGITS"):
        assert_trains(*faulty)
    assert_trains(*faulty, allow={"RELU-LOGITS"})


def test_assertion_and_headline_say_that_the_training_step_raises() -> None:
    """Of what could not be judged nobody says that nothing was found."""
    module, data = Learner(perceptron(9, 4), F.cross_entropy), loader(*clusters())

    with pytest.raises(AssertionError, match=r"^training_step raised RuntimeError: mat1 and mat2"):
        assert_trains(module, data)
    assert str(la.preflight(module, data)).startswith("preflight: training_step raised RuntimeError")


def test_cheap_checks_need_no_step_of_their_own() -> None:
    """A monitor has them for a step that is taken anyway: the loss call, modes, and the optimizer against the module."""
    module, data, _ = built("column_against_row")
    batch, first = next(iter(data)), FirstStep()
    stale = torch.optim.Adam(perceptron(6, 1).parameters())

    first.begin(batch)
    module.training_step(batch, 0)
    findings = cheap_checks(module, [stale], batch, first.end())

    assert {f.rule for f in findings} == {"BROADCAST", "OPTIMIZER-STALE"}


def test_cheap_checks_are_silent_on_a_healthy_model() -> None:
    """With the module's own optimizer."""
    module = Learner(convnet(norm=True), F.cross_entropy)
    batch, first = next(iter(loader(*pictures()))), FirstStep()

    first.begin(batch)
    module.training_step(batch, 0)

    assert cheap_checks(module, [module.configure_optimizers()], batch, first.end()) == []


def test_loader_with_workers_goes_on_where_it_was() -> None:
    """Its generator is set back, and no worker is left."""
    generator = torch.Generator().manual_seed(3)
    data = DataLoader(TensorDataset(*clusters()), batch_size=32, shuffle=True, num_workers=1, generator=generator)
    before = generator.get_state()

    la.preflight(Learner(perceptron(12, 4), F.cross_entropy), data, budget=10)

    assert torch.equal(generator.get_state(), before)
