"""How deep each parameter lies, counted in layers from the input: what layer-wise rates are made of.

A model's own word wins: timm's ``group_matcher`` (:mod:`lightning_adam.layer_matcher`). Otherwise names tell: numbered
modules are layers, in order of appearance. Stacks that work side by side (an encoder and a decoder, a text and an image
tower, lists that hold the parts of the same layers) count beside each other and end alike; stacks that follow each other
(``layer1``, ``layer2``) count on. Embeddings and stems are layer 0, heads the last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from lightning_adam.layer_matcher import said_by_models
from lightning_adam.plain_names import plain_name

STAGES = {"stages", "stage", "layers", "denseblock"}
"""Numbered modules that hold numbered blocks: T5's ``block.3.layer.1`` is a part of layer 3, Swin's ``layers.3.blocks.1``
is one of its own."""
BLOCKS = {"blocks", "layers", "denselayer"}
TOWERS = re.compile(r"encoder|decoder|text|vision|visual|image|audio|speech|video")
INPUT = re.compile(r"embed|token|stem|patch|(^|\.)(wte|wpe|pos)")
OUTPUT = re.compile(
    r"(^|\.)(\w*head\w*|\w*classifier|\w*predictor|score|fc|logits|qa_outputs|pooler"
    r"|(final|last|post)_?(layer_?)?norm|ln_(f|final|post)|norm_f)(\.|$)"
)
STEM = re.compile(r"(^|\.)(\w*stem|patch_embed\w*)(\.\w+)?$")
NORMS = re.compile(r"norm|bn")
NUMBERED = re.compile(r"(\w*?(?:layer|block))_?(\d+)")
"""Where the number is a part of the name: torchvision's ``encoder_layer_3``, DenseNet's ``denseblock1.denselayer2``."""
ENDS_IN_NUMBER = re.compile(r"(\w*?[a-z])_?(\d+)")
"""``conv1``, ``conv2``: layers where nothing else is numbered."""


class Layer(NamedTuple):
    """Where a parameter lies.

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
        module: that they are of; its models' ``group_matcher`` is asked.

    Example:
        >>> list(layer_depths(["embed.weight", "blocks.0.w", "blocks.1.w", "head.weight"]).values())
        [0, 1, 2, 3]
    """
    said = said_by_models(names, module) if module is not None else {}
    layers = _assign_stage_parameters(_numbered_layers(names, module))
    owners = {owner for owner, _ in said.values()}
    layers = [
        _layer_counted_by_model(*said[n], owners) if n in said else layer for n, layer in zip(names, layers, strict=True)
    ]
    heads = {name for name, (_, depth) in said.items() if depth is None}
    depths = _depths(names, layers, heads)
    lowest = min(depths.values(), default=0) if said or len(set(depths.values())) == 1 else 0
    return {name: depth - lowest for name, depth in depths.items()}


def _layer_counted_by_model(owner: str, depth: int | None, owners: set[str]) -> Layer | None:
    """A layer that a model has counted itself; two such models stand side by side."""
    tower = _tower(owner) or (owner if len(owners) > 1 else "")
    return None if depth is None else Layer(tower, owner, depth, None)


def _depths(names: Sequence[str], layers: Sequence[Layer | None], heads: set[str]) -> dict[str, int]:
    numbers = _numbered(layers)
    deepest = max(numbers.values(), default=0) + 1
    depths: dict[str, int] = {}
    for place, (name, layer) in enumerate(zip(names, layers, strict=True)):
        if layer is not None:
            depths[name] = numbers[layer]
        else:
            depths[name] = deepest if name in heads else _between(name, place, layers, numbers, deepest)
    return depths


def _numbered_layers(names: Sequence[str], module: nn.Module | None) -> list[Layer | None]:
    for pattern in (NUMBERED, ENDS_IN_NUMBER):
        parts = [_parts(name, pattern) for name in names]
        stages = _stages(parts)
        layers = [_layer(part, stages) for part in parts]
        if any(layers):
            break
    return _side_by_side(layers, _lists_of(module))


def _parts(name: str, numbered: re.Pattern[str]) -> list[str]:
    """Of the name, each number by itself; ``layer1.0`` is a stack of its own."""
    parts = name.split(".")
    split: list[str] = []
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        found = numbered.fullmatch(part) if not following.isdigit() and part != parts[-1] else None
        split += found.groups() if found else [part]
    return split


def _first_number(parts: Sequence[str]) -> int | None:
    return next((i for i, part in enumerate(parts) if part.isdigit()), None)


def _stages(names: Iterable[Sequence[str]]) -> set[str]:
    """Layers that hold lists of blocks: ``blocks.1.0.…`` and ``blocks.1.1.…`` have the same parameters, mostly.

    The parts of one layer (``layers.1.0.…`` attention, ``layers.1.1.…`` feed-forward) have others.
    """
    parameters: dict[tuple[str, str], dict[str, set[str]]] = {}
    for parts in names:
        first = _first_number(parts)
        if first is not None and len(parts) > first + 3 and parts[first + 1].isdigit():
            layer = parameters.setdefault((".".join(parts[:first]), parts[first]), {})
            layer.setdefault(parts[first + 1], set()).add(".".join(parts[first + 2 :]))
    return {f"{stack}.{number}" for (stack, number), blocks in parameters.items() if _are_alike(list(blocks.values()))}


def _are_alike(blocks: Sequence[set[str]]) -> bool:
    """More than half of what either of the first two has: a first block may have a shortcut besides."""
    return len(blocks) > 1 and 2 * len(blocks[0] & blocks[1]) > len(blocks[0] | blocks[1])


def _layer(parts: Sequence[str], stages: set[str]) -> Layer | None:
    first = _first_number(parts)
    if first is None:
        return None
    stack, rest = ".".join(parts[:first]), parts[first + 1 :]
    if len(rest) > 1 and rest[0].isdigit() and f"{stack}.{parts[first]}" in stages:
        return Layer(_tower(stack), stack, int(parts[first]), int(rest[0]))
    return Layer(_tower(stack), stack, int(parts[first]), _block(stack, rest))


def _tower(stack: str) -> str:
    tower = TOWERS.search(stack)
    return tower[0] if tower else ""


def _block(stack: str, rest: Sequence[str]) -> int | None:
    """The number of a block within a stage that names its blocks: ``stages.0.blocks.1.…``."""
    nested = len(rest) > 2 and stack.rpartition(".")[2] in STAGES and rest[0] in BLOCKS and rest[1].isdigit()
    return int(rest[1]) if nested else None


def _lists_of(module: nn.Module | None) -> set[str]:
    parts = module.named_modules() if module is not None else ()
    return {plain_name(name) for name, part in parts if isinstance(part, nn.ModuleList)}


def _side_by_side(layers: Sequence[Layer | None], lists: set[str]) -> list[Layer | None]:
    """Lists of one parent that hold the parts of the same layers (``attentions.0``, ``ffns.0``) are one stack.

    Sequential modules follow each other, however alike they are. Numbered parts of a head (``classifier.1``) or of a stem
    are no layers, unless the whole model is called so.
    """
    first = _first_of_kin(layers, lists)
    shared = {stack for pair in first.items() if pair[0] != pair[1] for stack in pair}
    is_body = [
        layer is not None and (layer.stack in shared or not (OUTPUT.search(layer.stack) or STEM.search(layer.stack)))
        for layer in layers
    ]
    kept = [layer if body or not any(is_body) else None for layer, body in zip(layers, is_body, strict=True)]
    return [layer and layer._replace(stack=first.get(layer.stack, layer.stack)) for layer in kept]


def _first_of_kin(layers: Sequence[Layer | None], lists: set[str]) -> dict[str, str]:
    """Each list to the first of those that it stands beside."""
    numbers: dict[str, set[int]] = {}
    for layer in layers:
        if layer is not None and layer.stack in lists:
            numbers.setdefault(layer.stack, set()).add(layer.stage)
    first: dict[str, str] = {}
    for stack in numbers:
        alike = (one for one in first if first[one] == one and _are_parts(numbers, one, stack))
        first[stack] = next(alike, stack)
    return first


def _are_parts(numbers: Mapping[str, set[int]], one: str, other: str) -> bool:
    """``layer1`` and ``layer2`` follow each other; a list of norms may lack the last layer's."""
    (parent, _, kind), (parent_of_other, _, other_kind) = one.rpartition("."), other.rpartition(".")
    if parent != parent_of_other or kind.rstrip("0123456789") == other_kind.rstrip("0123456789"):
        return False
    return numbers[one] == numbers[other] or bool(NORMS.search(other_kind) and numbers[other] < numbers[one])


def _assign_stage_parameters(layers: Sequence[Layer | None]) -> list[Layer | None]:
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
        settled.append(latest.get(stage, first.get(stage, layer)) if layer is not None else None)
    return settled


def _numbered(layers: Iterable[Layer | None]) -> dict[Layer, int]:
    """Layers from 1 on: what precedes an encoder, it and its decoder side by side, what follows them.

    Where towers go by what they read (text, image), one without such a name stands beside them, as CLIP's text tower does.
    """
    seen = _in_order(dict.fromkeys(layer for layer in layers if layer is not None))
    named = [layer.tower for layer in seen if layer.tower]
    if "encoder" not in named or not set(named) <= {"encoder", "decoder"}:
        return _aligned(seen, start=0)
    begins = next(place for place, layer in enumerate(seen) if layer.tower)
    before = [layer for layer in seen[:begins] if not layer.tower]
    within = _aligned([layer for layer in seen if layer.tower], start=len(before))
    after = [layer for layer in seen[begins:] if not layer.tower]
    numbers = dict(zip(before, range(1, len(before) + 1), strict=True)) | within
    return numbers | {layer: max(within.values()) + place for place, layer in enumerate(after, 1)}


def _in_order(seen: Iterable[Layer]) -> list[Layer]:
    """By number within a stack: a model may register its parts otherwise (Twins: all ``patch_embeds`` first)."""
    seen = list(seen)
    stacks: dict[str, list[Layer]] = {}
    for layer in sorted(seen, key=lambda layer: (layer.stage, -1 if layer.block is None else layer.block)):
        stacks.setdefault(layer.stack, []).append(layer)
    waiting = {stack: iter(sorted_layers) for stack, sorted_layers in stacks.items()}
    return [next(waiting[layer.stack]) for layer in seen]


def _aligned(layers: Sequence[Layer], start: int) -> dict[Layer, int]:
    towers: dict[str, list[Layer]] = {}
    for layer in layers:
        towers.setdefault(layer.tower, []).append(layer)
    end = start + max(map(len, towers.values()), default=0)
    return {layer: end - len(tower) + place for tower in towers.values() for place, layer in enumerate(tower, 1)}


def _between(name: str, place: int, layers: Sequence[Layer | None], numbers: Mapping[Layer, int], deepest: int) -> int:
    """Depth of what is in no layer: by its name; where that does not tell, by where it stands among its tower's layers."""
    if OUTPUT.search(name) and not name.startswith("conv"):
        return deepest
    if INPUT.search(name):
        return 0
    near = _near(name, layers)
    before = [numbers[layer] for i, layer in near if i < place]
    if not near or (place > near[-1][0] and max(before) == deepest - 1):
        return deepest
    return max(before, default=0)


def _near(name: str, layers: Sequence[Layer | None]) -> list[tuple[int, Layer]]:
    """The layers that share the longest part of the name, and their places: those of its tower, or all."""
    numbered = [(place, layer) for place, layer in enumerate(layers) if layer is not None]
    parts = name.split(".")[:-1]
    for length in range(len(parts), 0, -1):
        start = ".".join(parts[:length]) + "."
        if alike := [(place, layer) for place, layer in numbered if f"{layer.stack}.".startswith(start)]:
            return alike
    return numbered
