"""A parameter's name as the user wrote the module."""

from __future__ import annotations

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What torch.compile, FSDP and activation checkpointing put in."""


def plain_name(name: str) -> str:
    """Without what wrappers put in.

    Example:
        >>> plain_name("net._orig_mod.0.weight")
        'net.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)
