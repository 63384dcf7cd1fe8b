"""Muon leaves the output's matrix to AdamW: found by what it does, not by where it is defined."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

import lightning_adam as la


def left_to_adamw(module: nn.Module, **options: Any) -> set[str]:
    """Names of the matrices that Muon does not get."""
    groups = la.configure_optimizers(module, "muon", total_steps=9, **options)["optimizer"].param_groups
    placed = [(g["muon"], n, p) for g in groups for n, p in zip(g["adam_names"], g["params"], strict=True)]
    return {name for muon, name, p in placed if p.dim() == 2 and not muon}


class Block(nn.Module):
    """An MLP in a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(8, 16), nn.Linear(16, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Language(nn.Module):
    """Embedding and two blocks; subclasses say how the words come out."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.blocks = nn.ModuleList([Block(), Block()])

    def stream(self, x: Tensor) -> Tensor:
        x = self.words(x)
        for block in self.blocks:
            x = block(x)
        return x


class TiedByFunction(Language):
    """The head is a function of the embedding's weight."""

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        logits = linear(self.stream(x), self.words.weight)
        return logits if targets is None else cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


class TiedByWeight(Language):
    """Two modules share one weight; nothing can be run: there is no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Linear(8, 20, bias=False)
        self.generator.weight = self.words.weight


class Headless(Language):
    """An encoder: its residual stream is the output."""

    def forward(self, x: Tensor) -> Tensor:
        return self.stream(x)


class DefinedFirst(Language):
    """With an unusual name, and a forward that keeps and prints things."""

    def __init__(self) -> None:
        super().__init__()
        self.vocabulary = nn.Linear(8, 20)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.kept: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.stream(x)
        noise = torch.rand(3)
        print("forward", noise)
        return self.vocabulary(self.kept).log_softmax(-1)


class TwoHeads(DefinedFirst):
    """A policy and a value."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        x = self.stream(x)
        return {"policy": self.vocabulary(x).softmax(-1), "value": self.value(x.mean(1)).squeeze(-1)}


class DependsOnData(Language):
    """A symbolic run fails here; the name tells."""

    def __init__(self) -> None:
        super().__init__()
        self.lm_head = nn.Linear(8, 20)
        self.extra = nn.ModuleList([Block()])

    def forward(self, x: Tensor) -> Tensor:
        return self.lm_head(self.stream(x)) if bool((x > 0).all()) else self.lm_head(x)


FOUND: dict[str, tuple[type[nn.Module], set[str]]] = {
    "tied by a function": (TiedByFunction, set()),
    "tied by a weight": (TiedByWeight, set()),
    "headless": (Headless, set()),
    "defined first": (DefinedFirst, {"vocabulary.weight"}),
    "two heads": (TwoHeads, {"vocabulary.weight", "value.weight"}),
    "depends on data": (DependsOnData, {"lm_head.weight"}),
}


@pytest.mark.parametrize("case", FOUND)
def test_every_hidden_matrix_is_muons_and_the_head_is_adamws(case: str) -> None:
    """Tied, absent, early, unusual, several: the embedding always goes to AdamW, too."""
    kind, heads = FOUND[case]

    assert left_to_adamw(kind()) == heads | {"words.weight"}


def test_it_is_found_in_a_lightning_module_that_only_has_a_network() -> None:
    """What is stepped by ``training_step`` alone has no forward of its own; of two networks, each pattern's own is asked."""

    class Lit(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.discriminator = DefinedFirst(), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))

    assert left_to_adamw(Lit(), parameters="generator.*") == {"generator.vocabulary.weight", "generator.words.weight"}
    assert left_to_adamw(Lit(), parameters="discriminator.*") == {"discriminator.1.weight"}


def test_transformers_models_say_it_themselves() -> None:
    """By ``get_output_embeddings``: GPT-2 is tied, Llama is not."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, tie_word_embeddings=False))
    tied = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, tie_word_embeddings=True))

    assert left_to_adamw(llama) == {"model.embed_tokens.weight", "lm_head.weight"}
    assert left_to_adamw(tied) == {"model.embed_tokens.weight"}


def test_looking_leaves_the_module_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    """No attribute, no hook, no random number and no output of a symbolic run stays behind."""
    module = DefinedFirst()
    handle = module.register_load_state_dict_post_hook(lambda module, keys: None)
    seed = torch.get_rng_state()
    left_to_adamw(module)

    assert module.kept is None
    assert torch.equal(seed, torch.get_rng_state())
    assert capsys.readouterr().out == ""
    handle.remove()
    assert not module._load_state_dict_post_hooks
    assert copy.deepcopy(module)(torch.zeros(1, 2, dtype=torch.long)).shape == (1, 2, 20)
