"""An optimizer can be copied, pickled, saved whole and sent to another process: the copy trains on as it would itself."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

import lightning_adam as la
from lightning_adam.guided import guide, guided_class
from lightning_adam.optimizers.sophia import estimate_hessian
from lightning_adam.schedules import Phases, Schedule
from tests.children import CONTEXT

NAMES = [row.name for row in la.available_optimizers()]


def save_and_load(whole: Any) -> Any:
    """Through torch's own file format."""
    file = io.BytesIO()
    torch.save(whole, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda whole: pickle.loads(pickle.dumps(whole)), "torch.save": save_and_load}
Made = tuple[nn.Module, Any, Schedule]
"""What belongs together: module, optimizer, scheduler."""


def make(name: str = "adamw", **options: Any) -> Made:
    """A classifier with one matrix that is large enough for 8-bit state; adaptive clipping, which L-BFGS refuses, and a
    schedule that moves."""
    clip = None if name == "lbfgs" else la.ZClip(warmup=2)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    made = la.configure_optimizers(module, name, **{"total_steps": 10, "warmup": 4, "clip": clip, **options})
    if hasattr(made["optimizer"], "train"):
        made["optimizer"].train()
    return module, made["optimizer"], made["lr_scheduler"]["scheduler"]


def train(made: Made, first: int, last: int) -> None:
    """These steps, each with data and noise of its own."""
    module, optimizer, _ = made
    for step in range(first, last):
        torch.manual_seed(step)
        images, labels = torch.randn(16, 64), torch.randint(10, (16,))

        def evaluate(images: Tensor = images, labels: Tensor = labels) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(module(images), labels)
            if type(optimizer).__name__ == "SophiaH":
                optimizer.adam_arguments = {"hessian": estimate_hessian(optimizer, loss)}
            loss.backward()
            return loss.detach()

        optimizer.step(evaluate)


@functools.cache
def weights_of_the_twin(name: str) -> list[Tensor]:
    """After six steps of an optimizer that was never copied."""
    made = make(name)
    train(made, 0, 6)
    return weights(made[0])


def weights(module: nn.Module) -> list[Tensor]:
    """As they are now."""
    return [p.detach().clone() for p in module.parameters()]


def same(ones: list[Tensor], others: list[Tensor]) -> bool:
    """Bit for bit."""
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize(("way", "steps"), [*((way, 3) for way in WAYS), (next(iter(WAYS)), 0)])
@pytest.mark.parametrize("name", NAMES)
def test_copy_trains_on_bit_for_bit(name: str, way: str, steps: int) -> None:
    """Copied before or after its first steps, with its module and scheduler, it gets where the never-copied twin gets."""
    original = make(name)
    train(original, 0, steps)
    module, optimizer, schedule = WAYS[way](original)
    train((module, optimizer, schedule), steps, 6)

    assert same(weights(module), weights_of_the_twin(name))
    assert type(optimizer) is type(original[1])
    assert schedule.optimizer is optimizer
    assert schedule.last_epoch == 6


def train_elsewhere(wholes: dict[str, Made], threads: int) -> dict[str, list[Any]]:
    """What the spawned process does; with as many threads, sums come in the same order."""
    torch.set_num_threads(threads)
    for made in wholes.values():
        train(made, 3, 6)
    return {name: [w.tolist() for w in weights(module)] for name, (module, _, _) in wholes.items()}


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.slow
def test_spawned_process_trains_on_bit_for_bit() -> None:
    """Every optimizer of the catalogue, sent to another process in mid-run."""
    wholes = {name: make(name) for name in NAMES}
    for made in wholes.values():
        train(made, 0, 3)
    with ProcessPoolExecutor(1, CONTEXT) as processes:
        trained = processes.submit(train_elsewhere, wholes, torch.get_num_threads()).result()

    for name in NAMES:
        assert same([torch.tensor(w) for w in trained[name]], weights_of_the_twin(name)), name


RULES = [la.ClipNorm(0.05), la.ClipValue(1e-3), la.ClipAdaptive(), la.ClipPercentile(1.0)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_copy_clips_by_a_rule_of_its_own(rule: Any) -> None:
    """It clips as the twin does; and so does the original, whose rule has seen none of the copy's gradients."""
    original, twin, unclipped = make(clip=copy.deepcopy(rule)), make(clip=copy.deepcopy(rule)), make(clip=None)
    train(original, 0, 3)
    copied = copy.deepcopy(original)
    for made, first in ((copied, 3), (original, 3), (twin, 0), (unclipped, 0)):
        train(made, first, 6)

    assert same(weights(copied[0]), weights(twin[0]))
    assert same(weights(original[0]), weights(twin[0]))
    assert not same(weights(unclipped[0]), weights(twin[0]))


@pytest.mark.parametrize("way", WAYS)
def test_copy_follows_its_plateau(way: str) -> None:
    """The best metric, the patience and the cut so far are the copy's own."""
    original = make(schedule="plateau", warmup=0, total_steps=None, schedule_options={"patience": 1})
    original[2].step(1.0)
    original[2].step(2.0)
    copied = WAYS[way](original)
    copied[2].step(2.0)

    assert [group["lr"] for group in copied[1].param_groups] == pytest.approx([1e-4, 1e-4])
    assert [group["lr"] for group in original[1].param_groups] == pytest.approx([1e-3, 1e-3])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_copy_after_an_fp16_step(way: str, fused: bool) -> None:
    """The GradScaler leaves nothing in the optimizer that cannot be copied, or that a copy would unscale by."""
    original, twin = make(fused=fused), make(fused=fused)
    for module, optimizer, _ in (original, twin):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale(module(torch.ones(2, 64)).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    copied = WAYS[way](original)
    train(copied, 1, 4)
    train(twin, 1, 4)

    assert same(weights(copied[0]), weights(twin[0]))


@pytest.mark.parametrize("way", WAYS)
def test_copy_resumes_by_parameter_name(way: str) -> None:
    """A checkpoint of re-ordered layers goes to its own parameters, and the rule goes on from the checkpoint."""
    old, new = two("a", "b"), two("b", "a")
    saved, fresh = (la.configure_optimizers(m, total_steps=9, clip=la.ZClip())["optimizer"] for m in (old, new))
    for value, parameter in enumerate(old.parameters()):
        parameter.grad = torch.full_like(parameter, value + 1.0)
    saved.step()
    module, copied = WAYS[way]((new, fresh))
    copied.load_state_dict(saved.state_dict())

    assert first_moments(module, copied) == first_moments(old, saved)
    assert int(copied.adam_rule.state_dict()["seen"]) == 1


def two(first: str, second: str) -> nn.ModuleDict:
    """Two layers of equal shape, in this order."""
    return nn.ModuleDict({first: nn.Linear(2, 2, bias=False), second: nn.Linear(2, 2, bias=False)})


def first_moments(module: nn.Module, optimizer: Any) -> dict[str, list[float]]:
    """By parameter name."""
    return {name: optimizer.state[p]["exp_avg"].flatten().tolist() for name, p in module.named_parameters()}


def test_hooks_stay_with_the_original() -> None:
    """What listens to one optimizer does not hear another's steps."""
    original, heard = make(), []
    original[1].register_step_pre_hook(lambda *_: heard.append("before the step"))
    original[1].register_step_post_hook(lambda *_: heard.append("after the step"))
    original[1].register_before_clip_hook(lambda _: heard.append("before clipping"))
    train(copy.deepcopy(original), 0, 1)
    assert not heard

    train(original, 0, 1)
    assert heard == ["before clipping", "before the step", "after the step"]


def test_loading_a_state_keeps_the_hooks() -> None:
    """torch loads a state through the method that unpickling uses."""
    made, heard = make(), []
    made[1].register_before_clip_hook(heard.append)
    made[1].load_state_dict(make()[1].state_dict())
    train(made, 0, 1)

    assert heard == [made[1]]


def test_copy_steps_itself_under_one_of_torchs_schedulers() -> None:
    """Those replace ``optimizer.step`` by a function that steps the original."""
    original = make()
    torch.optim.lr_scheduler.ConstantLR(original[1])
    before = weights(original[0])
    copied = copy.deepcopy(original)
    train(copied, 0, 1)

    assert same(weights(original[0]), before)
    assert not same(weights(copied[0]), before)


def own_kind() -> type[torch.optim.Optimizer]:
    """A class that torch has never seen."""

    class Descent(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                torch._foreach_add_(group["params"], [p.grad for p in group["params"]], alpha=-group["lr"])

    return Descent


def guided(kind: type[torch.optim.Optimizer]) -> Any:
    """One of the helper's, made of this class."""
    optimizer = guided_class(kind)([nn.Parameter(torch.ones(1))], {"lr": 0.1})
    guide(optimizer, None, Schedule(optimizer, "constant", Phases(warmup=0, decay=0, total=9)))
    return optimizer


@pytest.mark.parametrize("library_first", [True, False])
def test_step_hooks_are_called_once_whichever_class_comes_first(library_first: bool) -> None:
    """In the library's own optimizer, the helper's, and copies of them."""
    kind = own_kind()
    makers: list[Any] = [lambda: kind([nn.Parameter(torch.ones(1))], {"lr": 0.1}), lambda: guided(kind)]
    for make_one in makers if library_first else makers[::-1]:
        optimizer = make_one()
        assert steps_heard(copy.deepcopy(optimizer)) == 1
        assert steps_heard(optimizer) == 1


def steps_heard(optimizer: Any) -> int:
    """How often one step calls a hook."""
    heard: list[Any] = []
    optimizer.register_step_post_hook(lambda *arguments: heard.append(arguments))
    optimizer.param_groups[0]["params"][0].grad = torch.ones(1)
    optimizer.step()
    assert optimizer.param_groups[0]["params"][0].item() == pytest.approx(0.9)
    return len(heard)


def test_copy_of_fabrics_wrapper_is_a_wrapper() -> None:
    """Fabric derives from the helper's class: what it adds is copied, too."""
    module, optimizer, _ = make()
    wrapped = Fabric(accelerator="cpu", devices=1).setup(module, optimizer)
    copied = copy.deepcopy(wrapped)
    train((*copied, None), 0, 6)  # type: ignore[arg-type]

    assert type(copied[1]) is type(wrapped[1])
    assert same(weights(copied[0]), weights_of_the_twin("adamw"))


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("name", ["paged_adamw", "paged_adamw8bit"])
def test_copy_of_a_page_is_not_taken_for_one(name: str) -> None:
    """It is ordinary memory: bitsandbytes moves it to the parameter's device before the next step."""
    original = make(name)
    train(original, 0, 1)
    matrix = original[0][0].weight
    original[1].state[matrix]["state1"].is_paged = True
    copied = copy.deepcopy(original)

    assert not hasattr(copied[1].state[copied[0][0].weight]["state1"], "is_paged")
    assert original[1].state[matrix]["state1"].is_paged
    assert not copied[1].initialized
