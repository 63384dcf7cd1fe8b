"""Which matrices yield a module's output: Muon leaves them to AdamW, wherever in the module they are defined.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon): embeddings and the classifier head are AdamW's.
"""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

OUTPUT_NAMES = frozenset(
    {"head", "heads", "lm_head", "classifier", "logits", "to_logits", "unembed", "output", "out", "score"}
)
"""What output layers are called, where nothing better tells."""
Named = Sequence[tuple[str, Tensor]]


def output_matrices(module: nn.Module, named: Named) -> set[int]:
    """The identities of the output's matrices among these parameters; none where the output is tied to the embedding.

    Asked in turn: weights that an embedding shares, Transformers' ``get_output_embeddings``, a symbolic run of the module
    (torch.fx) that is walked back from its result, the names, and at last the order.
    """
    matrices = [(name, p) for name, p in named if p.dim() >= 2]
    if _is_tied(module):
        return set()
    asked = _declared_head(module)
    traced = _traced(_owner(module, [p for _, p in matrices])) if asked is None else None
    return asked or traced or _by_name(matrices) or (_last(matrices) if traced is None else set())


def _is_tied(module: nn.Module) -> bool:
    tables = [m for m in module.modules() if isinstance(m, nn.Embedding)]
    embeddings = {id(p) for table in tables for p in table.parameters(recurse=False)}
    others = (m for m in module.modules() if not isinstance(m, nn.Embedding))
    return any(id(p) in embeddings for m in others for p in m.parameters(recurse=False))


def _declared_head(module: nn.Module) -> set[int] | None:
    for part in module.modules():
        head: Any = getattr(part, "get_output_embeddings", lambda: None)()
        if isinstance(getattr(head, "weight", None), Tensor):
            return {id(head.weight)}
    return None


def _owner(module: nn.Module, matrices: Sequence[Tensor]) -> nn.Module:
    """The innermost part that holds all of them: of a LightningModule with a network, the network."""
    wanted = {id(p) for p in matrices}
    for child in module.children():
        if wanted and wanted <= {id(p) for p in child.parameters()}:
            return _owner(child, matrices)
    return module


def _by_name(matrices: Named) -> set[int]:
    """Such names inside of repeated blocks are those of hidden layers."""
    paths = [(name.split(".")[:-1], p) for name, p in matrices]
    return {id(p) for path, p in paths if path and path[-1] in OUTPUT_NAMES and not any(part.isdigit() for part in path)}


def _last(matrices: Named) -> set[int]:
    """The last one, unless an earlier block has the same: then it is one of many hidden ones."""
    if not matrices:
        return set()
    pattern, last = _pattern(matrices[-1][0]), matrices[-1][1]
    repeated = any(_pattern(name) == pattern and p.shape == last.shape for name, p in matrices[:-1])
    return set() if repeated else {id(last)}


def _pattern(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _traced(module: nn.Module) -> set[int] | None:
    """By a symbolic run; None where it has none: control flow on data, hooks, or shards, which a run would gather."""
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    if hooked or any(hasattr(p, "to_local") for p in module.parameters()):
        return None
    try:
        with _untouched(module):
            graph = fx.Tracer().trace(module, concrete_args=_defaults(module))
    except Exception:  # whatever a user's forward raises on symbols: then something else tells
        return None
    result = next(node for node in graph.nodes if node.op == "output")
    return {found for node in result.all_input_nodes for found in _Walk(module).back(node)}


def _defaults(module: nn.Module) -> dict[str, Any]:
    """Optional arguments, such as targets, keep their defaults."""
    arguments = inspect.signature(module.forward).parameters.values()
    return {a.name: a.default for a in arguments if a.default is not a.empty}


@contextlib.contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """What forward writes into modules, prints or draws is taken back: a symbol in an attribute could not be pickled."""
    kept = [store for m in module.modules() for store in (vars(m), *(v for v in vars(m).values() if isinstance(v, dict)))]
    copies = [dict(store) for store in kept]
    try:
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for store, copied in zip(kept, copies, strict=True):
            store.clear()
            store.update(copied)


class _Walk:
    """From a result back to the matrices that made it."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._leads: dict[fx.Node, bool] = {}

    def back(self, node: fx.Node) -> set[int]:
        """Through whatever has one source; a sum of several, such as a residual stream, is no output layer's."""
        while not (here := self._matrices(node)):
            sources = [source for source in node.all_input_nodes if self._follows_matrix(source)]
            if len(sources) != 1:
                return set()
            node = sources[0]
        return set(here) if len(here) == 1 else set()

    def _follows_matrix(self, node: fx.Node) -> bool:
        """Whether a matrix is behind it; sizes are numbers."""
        if node not in self._leads:
            numbers = node.target in ("size", "dim") or (node.target is getattr and node.args[1:2] == ("shape",))
            self._leads[node] = not numbers and (
                bool(self._matrices(node)) or any(self._follows_matrix(source) for source in node.all_input_nodes)
            )
        return self._leads[node]

    def _matrices(self, node: fx.Node) -> list[int]:
        """Those that this very node uses: a layer's own, or what a function such as ``linear`` is given."""
        if node.op == "call_module":
            parameters: Any = self._module.get_submodule(str(node.target)).parameters()
        elif node.op == "call_function":
            parameters = [self._attribute(source) for source in node.all_input_nodes if source.op == "get_attr"]
        else:
            return []
        return [id(p) for p in parameters if isinstance(p, nn.Parameter) and p.dim() >= 2]

    def _attribute(self, node: fx.Node) -> Any:
        value: Any = self._module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value
