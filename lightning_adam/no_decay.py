"""Which parameters weight decay leaves alone: what the fields' own recipes leave out.

Vectors; biases whatever their shape; all parameters of a normalisation or a LayerScale (Hugging Face's Trainer goes by the
type of the module); learned tokens, position tables and logit scales (timm's and torchvision's recipes); and what a model
names itself in ``no_weight_decay()`` (names, or timm's globs) or ``no_weight_decay_keywords()`` (Swin).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from torch import nn

from lightning_adam.plain_names import plain_name

NORMALISES = re.compile(r"(Norm(\dd)?(Act|Gated|Fp32)?|LayerScale|GRN)(\dd)?$")
"""Class names, as LlamaRMSNorm, T5LayerNorm, BatchNorm2d, LayerNorm2dFp32, BatchNormAct2d, ConvNextV2GRN."""
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
TOKENS = re.compile(
    r"(^|\.)(cls_token|class_token|dist_token|mask_token|reg_token|pos_embed|pos_embedding|position_embeddings?|"
    r"absolute_pos_embed|relative_position_bias_table|logit_scale|layer_scale\w*|gamma|beta)$"
)
"""With ConvNeXt's ``gamma`` and ``beta`` (its optim_factory.py), and torchvision's ``layer_scale`` of three dimensions."""
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
    patterns, keywords = _names_listed_by(part, "no_weight_decay"), _names_listed_by(part, "no_weight_decay_keywords")
    for name, _ in part.named_parameters(remove_duplicate=False) if patterns or keywords else ():
        plain = plain_name(name)
        if any(fnmatchcase(plain, pattern) for pattern in patterns) or any(word in plain for word in keywords):
            yield _joined(prefix, name)


def _names_listed_by(part: nn.Module, method: str) -> list[str]:
    listed = getattr(part, method, None)
    names = listed() if callable(listed) else listed
    return [str(name) for name in names] if isinstance(names, (set, frozenset, list, tuple, dict)) else []


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
