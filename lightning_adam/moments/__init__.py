"""Reads moments, learning rate and weight decay out of any optimizer: the only place that knows state layouts."""

from lightning_adam.moments.layouts import read_moments, read_steps, resting_state
from lightning_adam.moments.slot import Moments, kind_names, plain
from lightning_adam.moments.steps import (
    Decay,
    decays,
    gradients_are_spoiled,
    learning_rates,
    step_is_adam_formula,
)

__all__ = [
    "Decay",
    "Moments",
    "decays",
    "gradients_are_spoiled",
    "kind_names",
    "learning_rates",
    "plain",
    "read_moments",
    "read_steps",
    "resting_state",
    "step_is_adam_formula",
]
