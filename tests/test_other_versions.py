"""A checkpoint of another version, or a damaged one: what fits is taken, what does not is named in a line."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.diagnosis import Diagnosis, Finding, RunSignals, StepSignals
from lightning_adam.diagnosis.finding import readable_findings
from lightning_adam.monitoring import MonitorState
from lightning_adam.monitoring.actions import Actions
from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.schedules import Schedule
from tests.digits import Digits, digits_loader, trainer

WRONG = st.sampled_from([None, "text", -3, 2.5, True, [], ["text", None], {}, {"text": [None]}, float("nan")])


def places(state: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every entry of nested dicts, and of lists of dicts."""
    found: list[tuple[Any, ...]] = []
    inner = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    for key, value in inner:
        if isinstance(state, dict) or isinstance(value, dict):
            found += [(*path, key), *places(value, (*path, key))]
    return found


@st.composite
def edited(draw: Any, state: dict[str, Any]) -> dict[str, Any]:
    """The state with one entry left out, added or of another type, somewhere in it."""
    changed = copy.deepcopy(state)
    *way, last = draw(st.sampled_from(places(changed)))
    around = changed
    for key in way:
        around = around[key]
    match draw(st.sampled_from(["leave out", "add", "replace"])):
        case "leave out":
            del around[last]
        case "add" if isinstance(around, dict):
            around["of_another_version"] = draw(WRONG)
        case _:
            around[last] = draw(WRONG)
    return changed


def diagnosed() -> Diagnosis:
    """Of thirty steps, with findings."""
    diagnosis = Diagnosis(RunSignals(optimizer="AdamW", beta1=0.9, beta2=0.5, plain_moments=True, total_steps=100.0))
    for step in range(30):
        diagnosis.observe(StepSignals(step, loss=1.0 - step / 100, gradient_norm=1.0, lr=1e-3, beta1=0.9, beta2=0.5))
    return diagnosis


def take_diagnosis(state: dict[str, Any]) -> None:
    """And go on with it."""
    diagnosis = Diagnosis()
    diagnosis.load_state_dict(state)
    diagnosis.observe(StepSignals(30, loss=0.7, gradient_norm=1.0, lr=1e-3, beta1=0.9, beta2=0.5))
    kept = diagnosis.state_dict()
    assert len(kept["seen"]) == len(kept["began"]) == len(diagnosis.findings)


def scheduled(name: str) -> Any:
    """The helper's dict for a small layer."""
    return la.configure_optimizers(nn.Linear(3, 2), schedule=name, total_steps=20, warmup=4)


def take_schedule(name: str) -> Callable[[dict[str, Any]], None]:
    """And go on with it."""

    def take(state: dict[str, Any]) -> None:
        schedule: Schedule = scheduled(name)["lr_scheduler"]["scheduler"]
        schedule.load_state_dict(state)
        schedule.advance()
        assert schedule.last_epoch >= 1

    return take


def rule_state(rule: Any) -> dict[str, Any]:
    """After five norms."""
    for size in (1.0, 2.0, 3.0, 4.0, 5.0):
        rule([parameter(size)])
    return dict(rule.state_dict())


def parameter(gradient: float) -> nn.Parameter:
    """One number with this gradient."""
    made = nn.Parameter(torch.zeros(1))
    made.grad = torch.tensor([gradient])
    return made


def take_rule(make: Callable[[], Any]) -> Callable[[dict[str, Any]], None]:
    """And clip with it."""

    def take(state: dict[str, Any]) -> None:
        rule = make()
        rule.load_state_dict(state)
        assert torch.isfinite(rule([parameter(1.0)]).norm_after)

    return take


def heatmap() -> dict[str, Any]:
    """Two tensors over three steps."""
    columns = {"columns": torch.ones(2, 3), "agreement": torch.ones(2, 3, dtype=torch.float16)}
    return {"steps": [0, 1, 2], "names": ["a", "b"], "counters": [1, 3, 8], "rates": [1e-3] * 3, **columns}


def take_heatmap(state: dict[str, Any]) -> None:
    """And draw it."""
    restored = Heatmap.restore(state)
    shape = (len(restored.names), len(restored.steps))
    assert not restored.steps or restored.matrix().shape == restored.agreement().shape == shape
    assert len(restored.rates) == len(restored.steps)


def monitor_state() -> dict[str, Any]:
    """Of one optimizer."""
    findings = [finding.to_dict() for finding in diagnosed().findings]
    counted = {"adam": {"clipped": 3, "logged": 7, "heatmap": heatmap()}}
    return MonitorState(counted, [diagnosed().state_dict()], findings, {"taken": 1, "factor": 0.3, "last": 5}).to_dict()


def take_monitor_state(state: dict[str, Any]) -> None:
    """And read its findings."""
    assert all(isinstance(finding, Finding) for finding in MonitorState.from_dict(state).findings)


def take_earlier_fit(state: dict[str, Any]) -> None:
    """As the past of a fit with new optimizers: what its rules found is over."""
    past = MonitorState.from_dict(state).of_earlier_fit()
    assert all(finding["over"] is True for diagnosis in past.diagnoses for finding in diagnosis["findings"])


def take_actions(state: dict[str, Any]) -> None:
    """And go on counting."""
    actions = Actions("rollback", 3)
    actions.load_state_dict(state)
    assert actions.taken >= 0 and 0 < actions.factor <= 1


def optimizer_state() -> dict[str, Any]:
    """Of the helper's AdamW after a step, without the moments: what is said of it."""
    return dict(stepped().state_dict()["param_groups"][0]["adam_names"][-1])


def stepped() -> Any:
    """The helper's AdamW on one number, with a rule that remembers."""
    module = nn.Linear(1, 1, bias=False)
    optimizer = la.configure_optimizers(module, total_steps=20, clip=la.ZClip(warmup=2))["optimizer"]
    module(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    return optimizer


def take_optimizer_state(record: dict[str, Any]) -> None:
    """With the rest unchanged; that it is another optimizer's may be said, and then nothing has changed."""
    optimizer = stepped()
    state = optimizer.state_dict()
    group = state["param_groups"][0]
    group["adam_names"] = (*group["adam_names"][:-1], record)
    with contextlib.suppress(la.ConfigError):
        optimizer.load_state_dict(state)
    optimizer.step()


def watched() -> la.Watch:
    """One number in a plain loop."""
    module = nn.Linear(1, 1, bias=False)
    return la.watch(module, torch.optim.AdamW(module.parameters()), on_divergence="rollback")


def watch_state() -> dict[str, Any]:
    """Before its first step; the monitor's is that of a run."""
    with watched() as watch:
        return {**watch.state_dict(), "monitor": monitor_state()}


def take_watch(state: dict[str, Any]) -> None:
    """And close it."""
    with watched() as watch:
        watch.load_state_dict(state)
        assert watch.failures == frozenset()


def take_finding(state: dict[str, Any]) -> None:
    """One that cannot be read is None."""
    assert len(readable_findings([state])) == 1


PERCENTILE = lambda: la.ClipPercentile(50.0, window=8)  # noqa: E731
KINDS: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], None]]] = {
    "finding": (diagnosed().findings[0].to_dict(), take_finding),
    "diagnosis": (diagnosed().state_dict(), take_diagnosis),
    "heatmap": (heatmap(), take_heatmap),
    "monitor": (monitor_state(), take_monitor_state),
    "earlier fit": (monitor_state(), take_earlier_fit),
    "watch": (watch_state(), take_watch),
    "actions": ({"taken": 1, "factor": 0.3, "last": 5}, take_actions),
    "optimizer": (optimizer_state(), take_optimizer_state),
    "schedule": (scheduled("cosine")["lr_scheduler"]["scheduler"].state_dict(), take_schedule("cosine")),
    "plateau": (scheduled("plateau")["lr_scheduler"]["scheduler"].state_dict(), take_schedule("plateau")),
    "zclip": (rule_state(la.ZClip(warmup=2)), take_rule(lambda: la.ZClip(warmup=2))),
    "percentile": (rule_state(PERCENTILE()), take_rule(PERCENTILE)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_with_any_entry_changed_is_taken_or_left(kind: str) -> None:
    """Nothing is raised, at most one warning is given at each level, and what was loaded can be used."""
    valid, take = KINDS[kind]

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(edited(valid))
    def check(state: dict[str, Any]) -> None:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            take(state)
        assert len([w for w in said if issubclass(w.category, la.LightningAdamWarning)]) <= 1

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_an_unchanged_state_is_taken_without_a_word(kind: str) -> None:
    """The control: no line where nothing is lost."""
    valid, take = KINDS[kind]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        take(copy.deepcopy(valid))
    assert [str(w.message) for w in said if issubclass(w.category, la.LightningAdamWarning)] == []


def test_what_is_left_of_a_damaged_diagnosis_goes_on() -> None:
    """A finding of no known severity is dropped and its neighbour kept, with its counts; the history is whole."""
    state = diagnosed().state_dict()
    strange = {**state["findings"][0], "severity": "catastrophe"}
    state = {**state, "findings": [strange, *state["findings"]], "seen": [1, 29], "began": [1, 0], "suspected": [False] * 2}
    restored = Diagnosis()
    with pytest.warns(la.LightningAdamWarning, match="left out findings"):
        restored.load_state_dict(state)

    assert [finding.rule for finding in restored.findings] == ["BETA2-LOW"]
    kept = restored.state_dict()
    assert (kept["seen"], kept["began"], restored.history.count) == ([29], [0], 30)


def test_rules_take_the_tensors_that_earlier_versions_stored() -> None:
    """Their memory lay beside the groups then, as tensors."""
    made = scheduled("constant")["optimizer"]
    made.adam_rule = la.ZClip()
    state = made.state_dict()
    state["param_groups"][0]["adam_names"] = ["weight"]
    state["adam_clip_rule"] = {"seen": torch.tensor(7.0), "mean": torch.tensor(2.0), "square": torch.tensor(5.0)}
    made.load_state_dict(state)

    assert made.adam_rule.state_dict() == {"seen": 7.0, "mean": 2.0, "variance": 1.0}


def test_another_window_keeps_the_latest_norms() -> None:
    """Ten norms in a window of eight, resumed with a window of three: the last three."""
    rule, narrow = PERCENTILE(), la.ClipPercentile(100.0, window=3)
    for size in range(1, 11):
        rule([parameter(float(size))])
    narrow.load_state_dict(rule.state_dict())

    assert narrow.state_dict()["norms"] == [8.0, 9.0, 10.0]
    narrow([parameter(1.0)])
    assert sorted(narrow.state_dict()["norms"]) == [1.0, 9.0, 10.0]


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a finding of a newer version": lambda c: c["DivergenceMonitor"]["diagnoses"][0]["findings"][0].update(new=1),
    "no count of its beginning": lambda c: c["DivergenceMonitor"]["diagnoses"][0].pop("began"),
    "no actions": lambda c: c["DivergenceMonitor"].pop("actions"),
    "half a heatmap": lambda c: c["OptimizerMonitor"]["statistics"]["adam"]["heatmap"].pop("columns"),
    "no counters": lambda c: c["OptimizerMonitor"].pop("statistics"),
    "version 1": lambda c: c.update(DivergenceMonitor={"diagnoses": [], "taken": 1}, OptimizerMonitor={"clipped": {}}),
}


def test_monitors_of_another_version_do_not_end_the_resume(tmp_path: Path) -> None:
    """Whatever is missing in a checkpoint, the run goes on, monitored; what could be read of the findings is there."""

    def fit(steps: int, checkpoint: Path | None = None) -> Any:
        monitors = [OptimizerMonitor(every_n_steps=1), DivergenceMonitor(every_n_steps=1)]
        done = trainer(max_steps=steps, callbacks=monitors)
        done.fit(Digits(lr=5.0, total_steps=20), digits_loader(examples=512), ckpt_path=checkpoint)
        assert not monitors[0].failures | monitors[1].failures
        return done, monitors[1]

    first, _ = fit(4)
    first.save_checkpoint(tmp_path / "whole.ckpt")
    for name, edit in EDITS.items():
        checkpoint = torch.load(tmp_path / "whole.ckpt", weights_only=True)
        edit(checkpoint["callbacks"])
        torch.save(checkpoint, tmp_path / "edited.ckpt")
        resumed, monitor = fit(6, tmp_path / "edited.ckpt")
        assert resumed.global_step == 6, name
        assert [finding.rule for finding in monitor.findings] == ([] if name == "version 1" else ["LR-HIGH"]), name
