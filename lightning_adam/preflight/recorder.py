"""Sees what a training step calls: losses, activations, broadcasts, with the place in the user's code."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CLASS_LOSSES = ("cross_entropy", "nll_loss")
BINARY_LOSSES = ("binary_cross_entropy_with_logits", "binary_cross_entropy")
VALUE_LOSSES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
SIGNED_LOSSES = ("cosine_embedding_loss", "margin_ranking_loss", "hinge_embedding_loss", "soft_margin_loss")
"""Their targets are 1 and -1."""
OTHER_LOSSES = ("kl_div", "ctc_loss", "gaussian_nll_loss", "poisson_nll_loss")
LOSSES = (*CLASS_LOSSES, *BINARY_LOSSES, *VALUE_LOSSES, *SIGNED_LOSSES, *OTHER_LOSSES)
ARITHMETIC = (
    "sub", "rsub", "subtract", "__sub__", "__rsub__", "mul", "multiply", "__mul__", "__rmul__", "div", "divide",
    "__truediv__",
)  # fmt: skip
DIFFERENCES = ("sub", "rsub", "subtract", "__sub__", "__rsub__")
SQUASHING = ("softmax", "log_softmax", "sigmoid")
LOGARITHMS = ("log", "log2", "log10", "log1p")
BINARY_PIECES = ("logsigmoid", "log_sigmoid", "softplus", "multilabel_soft_margin_loss", "soft_margin_loss")
"""Binary cross entropies of logits under other names, and what one is written of by hand."""
PRODUCTS = ("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "einsum", "linear")
LENGTHS = ("norm", "vector_norm")
NORMALISERS = ("logsumexp", "logcumsumexp")
JOINING = ("cat", "concat", "concatenate", "hstack")
DROPOUTS = ("dropout", "alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout")

LOOKS_THROUGH = [
    "Squeeze",
    "View",
    "Reshape",
    "Unsqueeze",
    "Transpose",
    "Permute",
    "Alias",
    "Clone",
    "Slice",
    "Select",
    "ToCopy",
    "UnsafeView",
    "Expand",
    "TBackward",
    "Index",
    "Contiguous",
    "Movedim",
    "Unflatten",
    "Flatten",
]
"""Operations that only arrange values: what made them stands behind."""

INSIDE = (*(sysconfig.get_paths()[kind] for kind in ("stdlib", "purelib", "platlib")), str(Path(__file__).parent))


@dataclass
class Call:
    """One call of interest.

    Attributes:
        name: of the function, such as ``cross_entropy``.
        input: its first tensor.
        target: its second tensor, if any.
        output: what it returned.
        options: its keyword arguments, and by position ``dim`` and the like.
        made_by: autograd's name of the operation behind ``input``, looked up through reshapes.
        place: ``file:line`` in the user's code.
    """

    name: str
    input: Tensor
    target: Tensor | None
    output: Any
    options: Mapping[str, Any]
    made_by: str
    place: str


@dataclass
class Gain:
    """A product with a parameter: what it was multiplied with, and how many times as large the result is (rms)."""

    parameter: Tensor
    input: Tensor
    factor: float
    place: str


@dataclass
class Record:
    """All that one training step called.

    ``measures_gains`` says whether products with a parameter are kept in ``gains``, which takes some time for each.
    ``dead`` has the place of each ReLU, and which of its units gave only zeros; ``joined`` what was put beside values that
    have a gradient, and has none itself, such as numbers beside the rows of an embedding; ``directions`` what was brought
    to length 1; ``differences`` predictions compared with numbers by hand; ``weighted`` products of weights that a softmax
    made; ``chosen`` what was picked by its index; ``draws`` random numbers around given ones, without a gradient;
    ``picks`` places of the largest or smallest entry; ``densities`` log-probabilities of ``torch.distributions``.
    """

    measures_gains: bool = False
    losses: list[Call] = field(default_factory=list)
    squashes: list[Call] = field(default_factory=list)
    logarithms: list[Call] = field(default_factory=list)
    broadcasts: list[Call] = field(default_factory=list)
    dead: list[tuple[str, Tensor]] = field(default_factory=list)
    dropouts: list[Call] = field(default_factory=list)
    rearranged: list[Call] = field(default_factory=list)
    joined: list[Call] = field(default_factory=list)
    normalisers: list[Call] = field(default_factory=list)
    directions: list[Call] = field(default_factory=list)
    binary_pieces: list[Call] = field(default_factory=list)
    differences: list[Call] = field(default_factory=list)
    weighted: list[Call] = field(default_factory=list)
    chosen: list[Call] = field(default_factory=list)
    draws: list[Call] = field(default_factory=list)
    picks: list[Call] = field(default_factory=list)
    densities: list[Call] = field(default_factory=list)
    gains: list[Gain] = field(default_factory=list)


class Recorder(TorchFunctionMode):
    """A mode that hands every call on, and keeps those of interest in ``record``.

    Args:
        measures_gains: whether products with a parameter are measured, which takes some time for each.
    """

    def __init__(self, measures_gains: bool = False) -> None:
        super().__init__()
        self.record = Record(measures_gains)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Losses are noted before they are called: a label out of range makes them raise."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        noted = _KEPT.get(name)
        if noted is None:
            return func(*args, **kwargs)
        call = _call(name, args, kwargs)
        if call is not None and name in LOSSES:
            self.record.losses.append(call)
        output = func(*args, **kwargs)
        if call is not None:
            call.output = output
            noted(self.record, call)
        return output


def _keep_nothing(record: Record, call: Call) -> None:
    return None


def _keep_squash(record: Record, call: Call) -> None:
    if call.input.requires_grad:
        record.squashes.append(call)


def _keep_logarithm(record: Record, call: Call) -> None:
    if call.input.requires_grad:
        record.logarithms.append(call)


def _keep_broadcast(record: Record, call: Call) -> None:
    one, other = call.input, call.target
    if other is None or one.requires_grad == other.requires_grad:
        return
    if one.shape != other.shape:
        record.broadcasts.append(call)
    elif call.name in DIFFERENCES and one.dim():
        told, target = (one, other) if one.requires_grad else (other, one)
        record.differences.append(replace(call, input=told, target=target.detach(), made_by=made_by(told)))


def _keep_dead_units(record: Record, call: Call) -> None:
    units = call.output.detach()
    if units.dim() > 1 and units.numel():
        axis = 1 if units.dim() == 4 else units.dim() - 1  # channels of pictures, features of all else
        others = [dim for dim in range(units.dim()) if dim != axis]
        record.dead.append((call.place, (units == 0).all(others[0]) if len(others) == 1 else (units == 0).amin(others)))


def _keep_dropout(record: Record, call: Call) -> None:
    record.dropouts.append(call)


def _keep_reshape(record: Record, call: Call) -> None:
    """A reshape to the same dimensions in another order, or to rows of as many numbers as there are in another dimension
    than the last, which leaves the values where they are."""
    one, other = call.input.shape, call.output.shape
    is_turned = one != other and sorted(one) == sorted(other) and len(set(one)) > 1
    is_cut = len(one) > 2 == len(other) and other[1] == one[1] != one[-1]
    if call.input.requires_grad and (is_turned or is_cut):
        record.rearranged.append(call)


def _keep_normaliser(record: Record, call: Call) -> None:
    if call.input.requires_grad:
        record.normalisers.append(call)


def _keep_direction(record: Record, call: Call) -> None:
    """By its length alone a vector is divided where the length keeps its dimension."""
    if call.output.requires_grad and (call.name not in LENGTHS or call.options.get("keepdim")):
        record.directions.append(call)


def _keep_binary_piece(record: Record, call: Call) -> None:
    if call.input.requires_grad:
        record.binary_pieces.append(call)


def _keep_chosen(record: Record, call: Call) -> None:
    if call.input.requires_grad:
        record.chosen.append(call)


def _keep_pick(record: Record, call: Call) -> None:
    record.picks.append(call)


def _keep_draw(record: Record, call: Call) -> None:
    if isinstance(call.output, Tensor) and not call.output.requires_grad and call.input.dim() > 1:
        record.draws.append(call)


def _keep_product(record: Record, call: Call) -> None:
    if call.made_by == "Softmax":
        record.weighted.append(call)
    elif call.target is not None and record.measures_gains:
        for parameter, values in ((call.target, call.input), (call.input, call.target)):
            if isinstance(parameter, nn.Parameter) and not isinstance(values, nn.Parameter) and values.is_floating_point():
                factor = float(_rms(call.output) / (_rms(values) + 1e-12))
                record.gains.append(Gain(parameter, values.detach(), factor, call.place))


def _rms(values: Tensor) -> Tensor:
    return values.detach().float().square().mean().sqrt()


def _keep_join(record: Record, call: Call) -> None:
    if call.output.requires_grad and not call.input.requires_grad and call.input.is_floating_point():
        record.joined.append(call)


_KEPT: dict[str, Callable[[Record, Call], None]] = {
    **dict.fromkeys(LOSSES, _keep_nothing),
    **dict.fromkeys(SQUASHING, _keep_squash),
    **dict.fromkeys(LOGARITHMS, _keep_logarithm),
    **dict.fromkeys(NORMALISERS, _keep_normaliser),
    **dict.fromkeys(("normalize", "cosine_similarity", *LENGTHS), _keep_direction),
    **dict.fromkeys(("view", "reshape"), _keep_reshape),
    **dict.fromkeys(ARITHMETIC, _keep_broadcast),
    **dict.fromkeys(JOINING, _keep_join),
    **dict.fromkeys(BINARY_PIECES, _keep_binary_piece),
    **dict.fromkeys(PRODUCTS, _keep_product),
    "gather": _keep_chosen,
    "normal": _keep_draw,
    **dict.fromkeys(("argmin", "argmax"), _keep_pick),
    **dict.fromkeys(("relu", "relu_"), _keep_dead_units),
    **dict.fromkeys((*DROPOUTS, "scaled_dot_product_attention"), _keep_dropout),
}

_POSITIONS: dict[str, tuple[str, ...]] = {
    "softmax": ("input", "dim"),
    "log_softmax": ("input", "dim"),
    "dropout": ("input", "p", "training"),
    "ctc_loss": ("log_probs", "targets", "input_lengths", "target_lengths", "blank", "reduction"),
    "gather": ("input", "dim", "index"),
    "cosine_embedding_loss": ("input", "other", "target"),
    "margin_ranking_loss": ("input", "other", "target"),
    "cross_entropy": ("input", "target", "weight"),
    "nll_loss": ("input", "target", "weight"),
    "poisson_nll_loss": ("input", "target", "log_input", "full"),
    **dict.fromkeys(DROPOUTS, ("input", "p", "training")),
    "scaled_dot_product_attention": ("query", "key", "value", "attn_mask", "dropout_p"),
}


def _call(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
    if name == "einsum" and args:
        args, kwargs = args[1:], {**kwargs, "equation": args[0]}
    named = dict(zip(_POSITIONS.get(name, ("input", "target")), args, strict=False)) | dict(kwargs)
    values = list(named.values())
    first = _joined_part(values[0]) if name in JOINING and values else values[0] if values else None
    second = named.get("target", named.get("other", values[1] if len(values) > 1 else None))
    if not isinstance(first, Tensor):
        return None
    return Call(name, first, second if isinstance(second, Tensor) else None, None, named, made_by(first), place())


def _joined_part(parts: Any) -> Any:
    """Of those that are joined the first float tensor without a gradient."""
    return next((p for p in parts if isinstance(p, Tensor) and p.is_floating_point() and not p.requires_grad), None)


def is_on(call: Call) -> bool:
    """Whether a dropout drops anything."""
    if call.name == "scaled_dot_product_attention":
        return float(call.options.get("dropout_p", 0.0)) > 0
    return bool(call.options.get("training", True)) and float(call.options.get("p", 0.5)) > 0


def softmax_axis(call: Call) -> int:
    """That a softmax goes over: without ``dim`` torch takes the first of one or three dimensions, else the second."""
    dim, count = call.options.get("dim"), call.input.dim()
    return dim % count if isinstance(dim, int) else (0 if count in (0, 1, 3) else 1)


def made_by(tensor: Tensor) -> str:
    """The operation that made a tensor, as autograd names it, such as ``Softmax``; empty where it recorded none."""
    return next(iter(makers(tensor, 1)), "")


def makers(tensor: Tensor, most: int) -> list[str]:
    """The operations behind a tensor, the last one first, each on the first value that the one after it got."""
    found: list[str] = []
    node = tensor.grad_fn
    while node is not None and len(found) < most:
        if not node.name().startswith(tuple(LOOKS_THROUGH)):
            found.append(node.name().split("Backward")[0])
        node = node.next_functions[0][0] if node.next_functions else None
    return found


def place() -> str:
    """``file:line`` of the innermost frame that is neither torch's nor Python's nor ours."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith((*INSIDE, "<frozen")):
        frame = frame.f_back  # type: ignore[assignment]
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
