"""Which parameters weight decay leaves alone: what the fields' own recipes leave out.

Vectors; biases whatever their shape; all parameters of a normalisation or a LayerScale (Hugging Face's Trainer goes by the
type of the module); learned tokens, position tables and logit scales (timm's and torchvision's recipes); and what a model
names itself in ``no_weight_decay()`` or ``no_weight_decay_keywords()`` (timm, Swin).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

NORMALISES = re.compile(r"(Norm(Act)?|LayerScale)(\d?d)?$")
"""Class names, as LlamaRMSNorm, T5LayerNorm, BatchNorm2d, LayerNorm2d."""
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
TOKENS = re.compile(
    r"(^|\.)(cls_token|class_token|dist_token|mask_token|reg_token|pos_embed|pos_embedding|position_embeddings?|"
    r"relative_position_bias_table|logit_scale)$"
)
BIAS = re.compile(r"bias")


def without_decay(module: nn.Module) -> set[str]:
    """Names of the parameters that are not decayed, whatever their shape.

    Args:
        module: whose parameters are split.
    """
    named = {name for name, p in module.named_parameters(remove_duplicate=False) if p.dim() < 2 or _by_name(name)}
    return named.union(*(_of_part(prefix, part) for prefix, part in module.named_modules()))


def _by_name(name: str) -> bool:
    return bool(TOKENS.search(name) or BIAS.search(name))


def _of_part(prefix: str, part: nn.Module) -> Iterator[str]:
    own = [name for name, _ in part.named_parameters(recurse=False)]
    if isinstance(part, NORMS) or NORMALISES.search(type(part).__name__):
        yield from (_joined(prefix, name) for name in own)
    yield from (_joined(prefix, name) for name in _said(part, "no_weight_decay"))
    for keyword in _said(part, "no_weight_decay_keywords"):
        yield from (_joined(prefix, name) for name, _ in part.named_parameters() if keyword in name)


def _said(part: nn.Module, method: str) -> list[str]:
    ask = getattr(part, method, None)
    return [str(name) for name in ask()] if callable(ask) else []


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
