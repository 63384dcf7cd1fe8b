"""How deep each parameter lies, counted in layers from the input: what layer-wise rates are made of.

A model's own word wins: timm's ``group_matcher``. Otherwise names tell: numbered modules are layers, in order of appearance.
Stacks that work side by side (an encoder and a decoder, a text and an image tower) count beside each other and end alike;
stacks that follow each other (``layer1``, ``layer2``) count on. Embeddings and stems are layer 0, heads the last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

STAGES = {"stages", "stage", "layers", "features"}
"""Numbered modules that hold numbered blocks: T5's ``block.3.layer.1`` is a part of layer 3, Swin's ``layers.3.blocks.1``
is one of its own."""
BLOCKS = {"blocks", "layers"}
TOWERS = re.compile(r"encoder|decoder|text|vision|visual|image|audio|speech|video")
INPUT = re.compile(r"embed|token|stem|patch|(^|\.)(wte|wpe|pos)")
OUTPUT = re.compile(r"(^|\.)(\w*head\w*|\w*classifier|score|fc|logits|qa_outputs|pooler)(\.|$)")
AS_BEFORE = 99999.0
"""timm's mark of parameters that belong to the layer before them."""


class Layer(NamedTuple):
    """Where a parameter lies by its name.

    Attributes:
        tower: the stack's kind, such as ``encoder``; stacks of different towers lie side by side.
        stack: the name up to the number.
        stage: the number.
        block: the number within the stage; None for a layer that is no stage, and for a stage's own parameters.
    """

    tower: str
    stack: str
    stage: int
    block: int | None


def layer_depths(names: Sequence[str], module: nn.Module | None = None) -> dict[str, int]:
    """Depth from the input of every parameter, by its name.

    Args:
        names: in order of registration.
        module: that they are of; its ``group_matcher`` is asked.

    Example:
        >>> list(layer_depths(["embed.weight", "blocks.0.w", "blocks.1.w", "head.weight"]).values())
        [0, 1, 2, 3]
    """
    owner = _with_matcher(module) if module is not None else None
    if owner is not None and (depths := _by_matcher(names, *owner)) is not None:
        return depths
    return _by_name(names)


def _by_name(names: Sequence[str]) -> dict[str, int]:
    layers = [_layer(name) for name in names]
    towers = _towers(_settled(layers))
    deepest = max((len(tower) for tower in towers.values()), default=0) + 1
    depths: dict[str, int] = {}
    for place, (name, layer) in enumerate(zip(names, _settled(layers), strict=True)):
        if layer is None:
            depths[name] = 0 if _is_input(name, place, layers) else deepest
        else:
            depths[name] = deepest - len(towers[layer.tower]) + towers[layer.tower][layer]
    return depths if len(set(depths.values())) > 1 else dict.fromkeys(names, 0)


def _layer(name: str) -> Layer | None:
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if first is None:
        return None
    stack, rest = ".".join(parts[:first]), parts[first + 1 :]
    tower = TOWERS.search(stack)
    return Layer(tower[0] if tower else "", stack, int(parts[first]), _block(parts[first - 1 : first], rest))


def _block(stack: Sequence[str], rest: Sequence[str]) -> int | None:
    """The number of a block within a stage: ``blocks.1.…``, or ``1.conv.…`` where it holds modules of its own."""
    if not STAGES.intersection(stack) or len(rest) < 3:
        return None
    if rest[0] in BLOCKS and rest[1].isdigit():
        return int(rest[1])
    return int(rest[0]) if rest[0].isdigit() else None


def _towers(layers: Iterable[Layer | None]) -> dict[str, dict[Layer, int]]:
    """The layers of each tower, numbered in order of appearance."""
    towers: dict[str, dict[Layer, int]] = {}
    for layer in layers:
        if layer is not None:
            tower = towers.setdefault(layer.tower, {})
            tower.setdefault(layer, len(tower))
    return towers


def _settled(layers: Sequence[Layer | None]) -> list[Layer | None]:
    """A stage's own parameters (downsampling) belong to its block before them, or else to its first."""
    first: dict[tuple[str, int], Layer] = {}
    for layer in layers:
        if layer is not None and layer.block is not None:
            first.setdefault((layer.stack, layer.stage), layer)
    latest: dict[tuple[str, int], Layer] = {}
    settled: list[Layer | None] = []
    for layer in layers:
        stage = ("", 0) if layer is None else (layer.stack, layer.stage)
        if layer is not None and layer.block is not None:
            latest[stage] = layer
        settled.append(latest.get(stage, first.get(stage, layer)))
    return settled


def _is_input(name: str, place: int, layers: Sequence[Layer | None]) -> bool:
    """By its name; where that does not tell, by whether it stands before all layers of its tower."""
    if OUTPUT.search(name) and not name.startswith("conv"):
        return False
    if INPUT.search(name):
        return True
    tower = TOWERS.search(name)
    numbered = [(i, layer.tower) for i, layer in enumerate(layers) if layer is not None]
    alike = [i for i, other in numbered if tower is None or other == tower[0]] or [i for i, _ in numbered]
    return bool(alike) and place < alike[0]


def _with_matcher(module: nn.Module) -> tuple[str, Any] | None:
    """The first module that says how its layers are grouped, with its name; a LightningModule holds it as a part."""
    for name, part in module.named_modules():
        if callable(getattr(part, "group_matcher", None)):
            return name, part
    return None


def _by_matcher(names: Sequence[str], prefix: str, owner: Any) -> dict[str, int] | None:
    """timm's protocol: patterns in order from the stem to the last block; what none matches is the head."""
    patterns = list(_patterns(owner.group_matcher(coarse=False)))
    own = {name: name[len(prefix) + 1 :] if prefix else name for name in names if name.startswith(prefix)}
    keys = {name: _key(short, patterns) for name, short in own.items()}
    depth, depths = -1, dict[tuple[float, ...], int]()
    for key in sorted(set(keys.values())):
        depth += depth < 0 or key[-1] != AS_BEFORE
        depths[key] = depth
    return {name: depths[keys[name]] if name in keys else depth for name in names}


def _patterns(matcher: Mapping[str, Any]) -> Iterable[tuple[re.Pattern[str], float, tuple[float, ...]]]:
    for ordinal, spec in enumerate(matcher.values()):
        for pattern, suffix in [(spec, None)] if isinstance(spec, str) else spec or ():
            yield re.compile(pattern), float(ordinal), tuple(map(float, suffix or ()))


def _key(name: str, patterns: Iterable[tuple[re.Pattern[str], float, tuple[float, ...]]]) -> tuple[float, ...]:
    for pattern, ordinal, suffix in patterns:
        if found := pattern.match(name):
            return (ordinal, *(float(part) for part in found.groups() if part is not None), *suffix)
    return (float("inf"),)
