"""Wrong arguments are refused when the optimizer is configured: named, with what is allowed and the nearest spelling."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import instantiate
from lightning.fabric import Fabric
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from omegaconf import OmegaConf
from torch import nn

import lightning_adam as la
from lightning_adam.callbacks import OptimizerMonitor
from lightning_adam.clipping import describe_rule
from lightning_adam.configure import OptimizerAndSchedule
from lightning_adam.integrations.hydra import OptimizerSchema
from lightning_adam.optimizers.sophia import prepare_step
from tests.digits import Digits, digits_loader, trainer


def network() -> nn.Sequential:
    """Two layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"betas": (0.9, 0.99, 0.999)}, "adamw takes two numbers, such as betas="),
    ({"optimizer": "adan", "betas": (0.9, 0.99)}, "adan takes three numbers"),
    ({"optimizer": "ademamix", "betas": (0.9, 0.99)}, "ademamix takes three numbers"),
    ({"optimizer": "muon", "betas": (0.9,)}, "muon takes two numbers"),
    ({"optimizer": "soap", "betas": 0.9}, "soap takes two numbers"),
    ({"optimizer": "lion8bit", "betas": (0.9, 1.5)}, "beta2 is 1.5"),
    ({"betas": (True, 0.9)}, "beta1 is True"),
    ({"optimizer": "adafactor", "eps": 1e-8}, "adafactor takes 2 of them, such as eps="),
    ({"eps": (1e-8, 1e-3)}, "eps must be a finite number above 0"),
    ({"fused": True, "foreach": True}, "cannot be `True` together"),
    ({"fused": "yes"}, "fused='yes'"),
    ({"optimizer": "muon", "momentum": 2}, "momentum must be a finite number of 0 or more, below 1"),
    ({"optimizer": "muon", "ns_steps": 2.5}, "ns_steps must be an int of 1 or more"),
    ({"optimizer": "rmsprop", "alpha": 1.5}, "alpha=1.5"),
    ({"optimizer": "sgd", "nesterov": True, "momentum": 0.0}, "Nesterov momentum requires"),
    ({"optimizer": "soap", "precondition_frequency": 0}, "precondition_frequency must be an int of 1 or more"),
    ({"learning_rate": 1e-3}, "Did you mean 'lr'"),
    ({"weigth_decay": 0.1}, "Did you mean 'weight_decay'"),
    ({"max_grad_norm": 1.0}, "Did you mean 'clip'"),
    ({"schedule": "none"}, "Did you mean 'constant'"),
    ({"schedule": "Cosine"}, "Did you mean 'cosine'"),
    ({"schedule": torch.optim.lr_scheduler.StepLR}, "give the name of a schedule"),
    ({"schedule": ""}, "schedule='' is not known"),
    ({"total_steps": -5}, r"total_steps=-5: give optimizer steps \(an int of 1 or more\) or epochs"),
    ({"total_steps": 0.5}, "total_steps=0.5: give optimizer steps"),
    ({"total_steps": "x"}, "total_steps='x': give optimizer steps"),
    ({"schedule_options": [1]}, "schedule_options=.*give a mapping"),
    ({"parameters": ["0.*"]}, "give one glob"),
    ({"param_groups": [{"lr": 1e-3}]}, "give a mapping of globs"),
    ({"param_groups": {"0.*": 0.1}}, "give a mapping of a glob"),
    ({"param_groups": {"0.*": {"learning_rate": 1e-5}}}, "Did you mean 'lr'"),
    ({"param_groups": {"0.*": {"weigth_decay": 0.5}}}, "Did you mean 'weight_decay'"),
    ({"param_groups": {"0.*": {"foo": 0.5}}}, "adamw has no option 'foo'"),
    ({"param_groups": {"0.*": {"lr": -1.0}}}, r"param_groups\['0.\*'\]: lr=-1.0"),
    ({"param_groups": {"0.*": {"lr": "1e-3"}}}, "lr='1e-3' is a string"),
    ({"param_groups": {"0.*": {"betas": (0.9, 1.5)}}}, "beta2 is 1.5"),
    ({"param_groups": {"0.*": {"betas": (0.9,)}}}, "adamw takes two numbers"),
    ({"param_groups": {"0.*": {"weight_decay": -1.0}}}, "weight_decay must be"),
    ({"param_groups": {"0.*": {"eps": -1e-8}}}, "eps must be"),
    ({"param_groups": {"1.weigth": {"lr": 1e-3}}}, "Did you mean '1.weight'"),
    ({"min_lr": 2.0}, "min_lr=2.0: it is a fraction of lr"),
    ({"min_lr": "1e-5"}, "write a fraction of lr"),
    ({"lr": 1e-3, "min_lr": "1e-2 absolute"}, "is above lr=0.001"),
    ({"min_lr": "1e-5 absolute"}, "give lr beside it"),
    ({"optimizer": "adagrad"}, "Did you mean 'torch.optim.Adagrad'"),
    ({"preset": "gtp"}, "Did you mean 'gpt'"),
    ({"lr": 10**400}, "lr=1000*: lr must be a finite number"),
    ({"total_steps": 10**400}, "total_steps=1000*: give optimizer steps"),
    ({"warmup": 10**400}, "warmup=1000*: Write a fraction"),
    ({"clip": 10**400}, r"ClipNorm\(max_norm=1000*\): max_norm must be a finite number"),
    ({"schedule": "plateau", "monitor": None}, "monitor=None: schedule='plateau' watches a logged metric"),
    ({"optimizer": "ademamix", "alpha": float("nan")}, "alpha=nan: ademamix has alpha=5.0 by default"),
    ({"optimizer": "ademamix", "t_alpha_beta3": 0}, "t_alpha_beta3=0: t_alpha_beta3 must be a finite number above 0"),
    ({"optimizer": "nadam", "momentum_decay": True}, "momentum_decay=True: nadam has momentum_decay=0.004"),
    ({"optimizer": "adamp", "delta": [0.1]}, r"delta=\[0.1\]: adamp has delta=0.1"),
    ({"optimizer": "ranger", "n_sma_threshold": 2}, "n_sma_threshold must be a finite number of 4 or more"),
    ({"optimizer": "soap", "shampoo_beta": float("nan")}, "shampoo_beta must be a finite number of 0 or more, below 1"),
    ({"optimizer": "soap", "data_format": "NHWC"}, "data_format='NHWC' is not known.*channels_first"),
    ({"optimizer": "lbfgs", "line_search_fn": "wolfe"}, "line_search_fn='wolfe' is not known. Allowed: 'strong_wolfe'"),
    ({"optimizer": "lbfgs", "tolerance_grad": [1e-7]}, "tolerance_grad must be a finite number"),
    ({"optimizer": "lbfgs", "max_eval": 0}, "max_eval must be an int of 1 or more"),
    ({"optimizer": torch.optim.Adagrad, "lr": 0.1, "initial_accumulator_value": {}}, "initial_accumulator_value={}"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_arguments_are_refused_when_configured(options: dict[str, Any], message: str) -> None:
    """Each by one ConfigError."""
    with pytest.raises(la.ConfigError, match=message):
        la.configure_optimizers(network(), **{"total_steps": 10, **options})


@pytest.mark.parametrize("module", [network().parameters(), list(network().parameters()), "model", nn.Linear, Digits])
def test_what_is_no_module_is_named(module: Any) -> None:
    """With what to give instead."""
    with pytest.raises(la.ConfigError, match=r"module: got .*; give (the module itself|an instance)"):
        la.configure_optimizers(module, total_steps=10)


def test_numpys_numbers_are_numbers() -> None:
    """Hyperopt and Ray give them."""
    made = la.configure_optimizers(
        network(),
        lr=np.float32(0.5),
        weight_decay=np.int64(0),
        warmup=np.int64(5),
        total_steps=np.int64(10),  # type: ignore[arg-type]
    )

    assert made["optimizer"].param_groups[0]["initial_lr"] == 0.5
    assert made["lr_scheduler"]["scheduler"].phases.warmup == 5
    assert describe_rule(la.ClipNorm(np.float32(0.5))) == "ClipNorm(max_norm=0.5)"
    assert describe_rule(la.ZClip(warmup=np.int64(30))) == "ZClip(z=2.5, alpha=0.97, warmup=30)"  # type: ignore[arg-type]
    assert describe_rule(la.ClipPercentile(np.int64(10), np.int64(5))) == "ClipPercentile(percentile=10, window=5)"  # type: ignore[arg-type]


@pytest.mark.parametrize(("min_lr", "end"), [(0.1, 1e-4), ("10%", 1e-4), ("2e-5 absolute", 2e-5)])
def test_min_lr_is_a_fraction_or_a_rate_by_its_spelling(min_lr: Any, end: float) -> None:
    """The last step of a cosine, of lr = 1e-3; none of these spellings is worth a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", la.LightningAdamWarning)
        made = la.configure_optimizers(network(), lr=1e-3, min_lr=min_lr, total_steps=10, warmup=0)
    schedule = made["lr_scheduler"]["scheduler"]
    for _ in range(10):
        schedule.advance()

    assert made["optimizer"].param_groups[0]["lr"] == pytest.approx(end)


@pytest.mark.parametrize("clip", [la.ClipNorm(1.0), la.ZClip(), la.ClipPercentile()])
def test_a_saved_configuration_loads_with_weights_only(clip: Any, tmp_path: Path) -> None:
    """As Lightning loads the hyper-parameters of a checkpoint: the rule and the class of an optimizer come back."""
    config = la.OptimizerConfig(optimizer=torch.optim.Adagrad, lr=0.1, clip=clip)
    torch.save({"hyper_parameters": {"config": config}}, tmp_path / "a.ckpt")
    loaded = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]["config"]

    assert describe_rule(loaded.clip) == describe_rule(clip)
    assert loaded.optimizer is torch.optim.Adagrad


def test_min_lr_that_looks_like_a_rate_is_not_silently_a_fraction() -> None:
    """The line says where the decay ends, and both spellings."""
    with pytest.warns(la.LightningAdamWarning, match="ends at 1e-09.*min_lr='1e-06 absolute'.*'0.0001%'"):
        la.configure_optimizers(network(), lr=1e-3, min_lr=1e-6, total_steps=10)


def test_eps_of_a_group_is_checked_in_its_own_precision() -> None:
    """1e-8 is 0 in float16, in a group as everywhere."""
    with pytest.raises(la.ConfigError, match=r"eps=1e-09 is 0 in torch.float16"):
        la.configure_optimizers(network().half(), eps=1e-6, param_groups={"0.*": {"eps": 1e-9}}, total_steps=10)


def test_complex_parameters_have_no_eight_bit_state() -> None:
    """bitsandbytes knows real numbers only."""
    module = nn.ParameterDict({"wave": nn.Parameter(torch.ones(64, 64, dtype=torch.complex64))})
    with pytest.raises(la.ConfigError, match="complex parameters"):
        la.configure_optimizers(module, "adamw8bit", total_steps=10)


def test_group_at_rate_0_stays_and_one_of_its_own_is_taken() -> None:
    """What is right passes: rate, decay, betas and ε of a group."""
    own = {"lr": 0.0, "weight_decay": 0.3, "betas": [0.5, 0.6], "eps": 1e-5}
    made = la.configure_optimizers(network(), param_groups={"0.weight": own}, total_steps=10)["optimizer"]
    group = next(g for g in made.param_groups if g["adam_names"] == ["0.weight"])

    assert {name: group[name] for name in own} == own


def test_eight_bit_adam_decays_as_adam() -> None:
    """Coupled, and 0 by default: on tensors that stay in 32 bit both go the same way, and bitsandbytes' own does not."""

    def ended(name: Any, **options: Any) -> torch.Tensor:
        module = network()
        common: dict[str, Any] = {"lr": 0.01, "schedule": "constant", "total_steps": 99, "clip": None}
        optimizer = la.configure_optimizers(module, name, **common, **options)["optimizer"]
        for _ in range(30):
            optimizer.zero_grad()
            module(torch.ones(2, 4)).square().mean().backward()
            gradient = module[0].weight.grad.clone()
            optimizer.step()
            assert torch.equal(module[0].weight.grad, gradient)
        return module[0].weight.detach()

    for options in ({}, {"weight_decay": 0.5}):
        torch.testing.assert_close(ended("adam8bit", **options), ended("adam", **options), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(
        ended("bitsandbytes.optim.Adam8bit", weight_decay=0.5), ended("adam", weight_decay=0.5), rtol=0.01
    )


def curved(module: nn.Module) -> torch.Tensor:
    """A loss with second derivatives."""
    return torch.tanh(module(torch.ones(2, 4))).square().mean()


def test_sophia_in_a_plain_loop_says_what_it_needs() -> None:
    """One sentence in place of autograd's; with prepare_step it steps, under Fabric too, with an estimate each 10th step."""
    module = network()
    optimizer: Any = la.configure_optimizers(module, "sophia", total_steps=20)["optimizer"]
    curved(module).backward()  # type: ignore[no-untyped-call]
    with pytest.raises(la.ConfigError, match=r"sophia.prepare_step\(optimizer, loss\)"):
        optimizer.step()
    fabric = Fabric(accelerator="cpu", devices=1)
    wrapped, stepped = fabric.setup(module, optimizer)
    estimates = []
    for _ in range(12):
        loss = curved(wrapped)
        prepare_step(stepped, loss)
        estimates.append("adam_arguments" in vars(optimizer))
        fabric.backward(loss)
        stepped.step()

    assert [step for step, estimated in enumerate(estimates) if estimated] == [0, 10]


class Normalised(Digits):
    """With batch normalisation, under averaged weights."""

    def __init__(self, **options: Any) -> None:
        super().__init__(optimizer="schedulefree_adamw", lr=None, **options)
        self.net = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """For update_bn, which calls the module on the first of a batch."""
        out: torch.Tensor = self.net(images)
        return out

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """What validation sees."""
        self.seen = float(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def on_validation_start(self) -> None:
        """As the warning says."""
        torch.optim.swa_utils.update_bn(digits_loader(), self)


def test_batch_norm_under_averaged_weights_is_told_and_the_way_that_is_told_works() -> None:
    """With the statistics of one pass under the averaged weights, validation sees what a pass in train mode sees."""
    module = Normalised()
    fit = trainer(max_epochs=1, num_sanity_val_steps=0)
    with pytest.warns(la.LightningAdamWarning, match=r"BatchNorm.*torch.optim.swa_utils.update_bn"):
        fit.fit(module, digits_loader(), digits_loader())
    averaged = module.net[1].running_mean.clone()
    inputs = digits_loader().dataset.tensors[0]  # type: ignore[attr-defined]

    torch.testing.assert_close(averaged, module.net[0](inputs).mean(0), rtol=1e-2, atol=1e-2)


def test_omegaconfs_lists_and_dicts_are_taken_everywhere() -> None:
    """betas, groups, options, a rule and an optimizer with ``_target_``; and globs of a monitor."""
    node = {
        "_target_": "lightning_adam.OptimizerConfig", "optimizer": {"name": "adamw", "amsgrad": True}, "betas": [0.9, 0.95],
        "param_groups": {"0.weight": {"lr": 1e-4}}, "clip": {"_target_": "lightning_adam.ZClip"}, "total_steps": 9,
        "schedule": "polynomial", "schedule_options": {"power": 1.0}, "options": {"maximize": False},
    }  # fmt: skip
    made = la.configure_optimizers(network(), instantiate(OmegaConf.create(node)))
    monitor = instantiate({"_target_": "lightning_adam.callbacks.OptimizerMonitor", "include": ["*.weight"]})

    assert made["optimizer"].defaults["betas"] == (0.9, 0.95)
    assert made["optimizer"].defaults["amsgrad"] is True
    assert isinstance(made["optimizer"].adam_rule, la.ZClip)
    assert isinstance(monitor, OptimizerMonitor)


def test_config_among_a_modules_hyperparameters_is_written_by_lightning_in_full(tmp_path: Path) -> None:
    """``save_hyperparameters()`` in a module that takes a config: Lightning writes them with OmegaConf when a fit begins."""
    config = la.OptimizerConfig("lion", lr=1e-4, clip=0.5, eps=1e-8)

    save_hparams_to_yaml(tmp_path / "hparams.yaml", {"optim": config})

    assert yaml.unsafe_load((tmp_path / "hparams.yaml").read_text()) == {"optim": config}


def test_betas_of_a_partial_that_hydra_made_are_numbers_as_others() -> None:
    """``_partial_: true`` hands over OmegaConf's lists, which no checkpoint should hold."""
    node = {"_target_": "torch.optim.NAdam", "_partial_": True, "betas": [0.8, 0.9]}
    made = la.configure_optimizers(network(), instantiate(OmegaConf.create(node)), total_steps=9)

    assert type(made["optimizer"].defaults["betas"]) is list


def test_schema_is_a_structured_config_with_the_configs_own_fields() -> None:
    """OmegaConf checks the types, instantiate makes an OptimizerConfig, and no field is forgotten."""
    schema = OmegaConf.merge(OmegaConf.structured(OptimizerSchema), {"lr": 1e-2, "betas": [0.9, 0.95], "warmup": "10%"})
    config = instantiate(schema)
    fields = OptimizerSchema.__dataclass_fields__.keys() - {"_target_"}

    assert config == la.OptimizerConfig(lr=1e-2, betas=(0.9, 0.95), warmup="10%")
    assert fields == la.OptimizerConfig.__dataclass_fields__.keys()
    with pytest.raises(Exception, match="could not be converted to Float"):
        OmegaConf.merge(OmegaConf.structured(OptimizerSchema), {"lr": "fast"})


def test_missing_bitsandbytes_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no wheel (Intel Macs), only those that ask for it hear of it."""
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    monkeypatch.delitem(sys.modules, "lightning_adam.optimizers.eight_bit", raising=False)
    with pytest.raises(la.ConfigError, match="pip install --upgrade bitsandbytes"):
        la.configure_optimizers(network(), "adamw8bit", total_steps=10)

    la.configure_optimizers(network(), "adamw", total_steps=10)


RIGHT = """
import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
import lightning_adam as la


class Module(L.LightningModule):
    def configure_optimizers(self) -> OptimizerLRScheduler:
        made = la.configure_optimizers(self, "adamw", betas=[0.9, 0.95], schedule="cosine", fused=True)
        made["lr_scheduler"]["scheduler"].step()
        return made


la.configure_optimizers(Module(), torch.optim.Adagrad)
la.configure_optimizers(Module(), lambda params: torch.optim.SGD(params, lr=0.1))
kind: type[torch.optim.Optimizer] = la.optimizer_class("lion", total_steps=10)
"""
TYPOS = """
import lightning_adam as la
la.OptimizerConfig(schedule="cosin")
la.OptimizerConfig(preset="gtp")
la.OptimizerConfig(mode="down")
la.optimizer_class(schedule="cosin")
"""


def test_return_has_the_entries_of_lightnings_own_type() -> None:
    """With Any for the scheduler's, type checkers take one TypedDict for the other: the names must be the same."""
    ours = get_type_hints(OptimizerAndSchedule, include_extras=True)
    theirs = get_type_hints(OptimizerLRSchedulerConfig, include_extras=True)

    assert ours.keys() == theirs.keys()
    assert (ours["optimizer"], ours["monitor"]) == (theirs["optimizer"], theirs["monitor"])
    assert set(la.configure_optimizers(network(), total_steps=9)) == {"optimizer", "lr_scheduler"}


@pytest.mark.slow
def test_type_checker_takes_the_return_and_finds_misspelt_names(tmp_path: Path) -> None:
    """mypy, strict: a module whose return is annotated as Lightning's type passes; each typo is an error."""
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "typos.py").write_text(TYPOS)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--hide-error-context"]
    found = subprocess.run([*command, "right.py", "typos.py"], cwd=tmp_path, capture_output=True, text=True).stdout
    errors = [line.split(":")[:2] for line in found.splitlines() if ": error:" in line]

    assert errors == [["typos.py", str(line)] for line in (3, 4, 5, 6)], found
