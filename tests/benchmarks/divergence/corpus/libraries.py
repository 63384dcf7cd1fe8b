"""Models of transformers and Lightning as a stranger builds them from their configurations, dropout included."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.supervised import images, seasonal
from tests.benchmarks.divergence.data import text, windows

MASK = 97
"""The token that stands for a hidden one; text has those below."""
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def own_loss(**names: int) -> Any:
    """What the model itself returns as its loss, from keyword arguments at these places of the batch."""
    return lambda net, batch: net(**{name: batch[place] for name, place in names.items()}).loss


def passages(length: int = 24) -> tuple[Tensor, Tensor]:
    """Windows of text, and how much of each is letters, in quarters of equal size."""
    codes, _ = text()
    starts = torch.randint(0, len(codes) - length, (4000,), generator=fixed())
    cut = torch.stack([codes[s : s + length] for s in starts.tolist()])
    letters = ((cut >= ord("a") - 31) & (cut <= ord("z") - 31)).sum(1).float()
    return cut, torch.bucketize(letters, letters.quantile(torch.tensor([0.25, 0.5, 0.75])))


@family("adamw", 1e-3, 120, supervised=True)
def hf_bert_classifier() -> Task:
    """How much of a passage is letters."""
    from transformers import BertConfig, BertForSequenceClassification

    net = BertForSequenceClassification(BertConfig(vocab_size=98, max_position_embeddings=32, num_labels=4, **SMALL))
    return Task(net, rows_of(32, *passages()), own_loss(input_ids=0, labels=1))


@family("adamw", 2e-3, 120)
def hf_bert_masked() -> Task:
    """A seventh of the characters is hidden."""
    from transformers import BertConfig, BertForMaskedLM

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        hidden = torch.rand(batch[0].shape) < 0.15
        labels = batch[0].masked_fill(~hidden, -100)
        return net(input_ids=batch[0].masked_fill(hidden, MASK), labels=labels).loss  # type: ignore[no-any-return]

    return Task(BertForMaskedLM(BertConfig(vocab_size=98, max_position_embeddings=32, **SMALL)), windows(16, 24), loss)


@family("adamw", 2e-3, 120)
def hf_gpt2() -> Task:
    """Characters, tied embeddings."""
    from transformers import GPT2Config, GPT2LMHeadModel

    net = GPT2LMHeadModel(GPT2Config(vocab_size=98, n_positions=32, n_embd=32, n_layer=2, n_head=4))
    return Task(net, windows(8, 24), own_loss(input_ids=0, labels=0))


@family("adamw-95", 3e-3, 120)
def hf_llama() -> Task:
    """Characters, grouped queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=98, max_position_embeddings=32, num_key_value_heads=2, **SMALL)
    return Task(LlamaForCausalLM(config), windows(8, 24), own_loss(input_ids=0, labels=0))


@family("adamw", 2e-3, 120, not_in=("float64",))
def hf_mixtral() -> Task:
    """Characters, four experts of which two are used."""
    from transformers import MixtralConfig, MixtralForCausalLM

    experts: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    config = MixtralConfig(vocab_size=98, max_position_embeddings=32, **experts, **SMALL)
    return Task(MixtralForCausalLM(config), windows(8, 16), own_loss(input_ids=0, labels=0))


@family("adafactor", 1e-2, 120)
def hf_t5() -> Task:
    """Ten digits backwards, by an encoder and a decoder."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=12, d_model=32, d_ff=64, d_kv=8, num_layers=2, num_heads=4, decoder_start_token_id=0,
                      pad_token_id=0)  # fmt: skip
    x = torch.randint(2, 12, (4000, 6), generator=fixed())
    return Task(T5ForConditionalGeneration(config), rows_of(32, x, x.flip(1)), own_loss(input_ids=0, labels=1))


@family("adamw", 1e-3, 120, supervised=True, continuous=True)
def hf_vit() -> Task:
    """Digits in patches of 2×2."""
    from transformers import ViTConfig, ViTForImageClassification

    net = ViTForImageClassification(ViTConfig(image_size=8, patch_size=2, num_channels=1, num_labels=10, **SMALL))
    return Task(net, rows_of(32, *images()), own_loss(pixel_values=0, labels=1))


@family("adamw", 3e-3, 120, supervised=True, continuous=True)
def hf_resnet() -> Task:
    """Digits at twice the size."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
                          num_labels=10)  # fmt: skip
    x, y = images()
    larger = F.interpolate(x, scale_factor=2.0)
    return Task(ResNetForImageClassification(config), rows_of(32, larger, y), own_loss(pixel_values=0, labels=1))


@family("adamw", 1e-3, 120, supervised=True, continuous=True)
def hf_patch_forecast() -> Task:
    """PatchTST: 32 values of a series that it normalises itself, and the next 8."""
    from transformers import PatchTSTConfig, PatchTSTForPrediction

    config = PatchTSTConfig(num_input_channels=1, context_length=32, prediction_length=8, patch_length=8, patch_stride=8,
                            d_model=32, ffn_dim=64, num_attention_heads=4, num_hidden_layers=2, loss="mse")  # fmt: skip
    series = 40 + 9 * seasonal()
    cut = torch.stack([series[i : i + 40] for i in range(3000)])[..., None]
    return Task(
        PatchTSTForPrediction(config), rows_of(32, cut[:, :32], cut[:, 32:]), own_loss(past_values=0, future_values=1)
    )


@family("sgd", 0.3, 150, not_in=("bf16",))
def lightning_transformer() -> Task:
    """Lightning's own demo, by SGD as there, with its gradients clipped or not."""
    from lightning.pytorch.demos import Transformer

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.nll_loss(net(batch[0], batch[1]), batch[1].flatten())

    return Task(Transformer(vocab_size=97, ninp=32, nhead=2, nhid=64, nlayers=2), windows(8, 24), loss)
