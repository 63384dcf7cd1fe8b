"""Layer-wise rates and weight decay fall where the models' own authors put them: tables made by hand, and their own word."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import lightning_adam as la
from lightning_adam.layer_depth import layer_depths
from lightning_adam.no_decay import without_decay

transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 3}


def hugging_face(kind: str) -> nn.Module:
    """A tiny model of this kind, without a download."""
    t = transformers
    make = {
        "bert": lambda: t.BertForSequenceClassification(t.BertConfig(vocab_size=20, **SMALL)),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=20, n_embd=16, n_head=2, n_layer=3, n_positions=8)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(vocab_size=20, num_key_value_heads=2, **SMALL)),
        "t5": lambda: t.T5ForConditionalGeneration(
            t.T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=16, num_heads=2, num_layers=3, num_decoder_layers=3)
        ),
        "vit": lambda: t.ViTForImageClassification(t.ViTConfig(image_size=8, patch_size=4, **SMALL)),
        "swin": lambda: t.SwinForImageClassification(
            t.SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=2)
        ),
        "convnext": lambda: t.ConvNextForImageClassification(
            t.ConvNextConfig(depths=[1, 2, 1, 1], hidden_sizes=[4, 4, 8, 8], image_size=32)
        ),
        "efficientnet": lambda: t.EfficientNetForImageClassification(
            t.EfficientNetConfig(width_coefficient=0.1, depth_coefficient=0.1, image_size=32, hidden_dim=16)
        ),
    }
    return make[kind]()


TABLES: dict[str, dict[str, int]] = {
    "bert": {
        "bert.embeddings.word_embeddings.weight": 0,
        "bert.embeddings.LayerNorm.weight": 0,
        "bert.encoder.layer.0.attention.self.query.weight": 1,
        "bert.encoder.layer.2.output.dense.bias": 3,
        "bert.pooler.dense.weight": 4,
        "classifier.weight": 4,
    },
    "gpt2": {
        "transformer.wte.weight": 0,
        "transformer.wpe.weight": 0,
        "transformer.h.0.attn.c_attn.weight": 1,
        "transformer.h.2.mlp.c_fc.weight": 3,
        "transformer.ln_f.weight": 4,
    },
    "llama": {
        "model.embed_tokens.weight": 0,
        "model.layers.0.mlp.up_proj.weight": 1,
        "model.layers.2.input_layernorm.weight": 3,
        "model.norm.weight": 4,
        "lm_head.weight": 4,
    },
    "t5": {
        "shared.weight": 0,
        "encoder.block.0.layer.0.SelfAttention.q.weight": 1,
        "encoder.block.0.layer.1.DenseReluDense.wi.weight": 1,
        "encoder.block.2.layer.1.DenseReluDense.wo.weight": 3,
        "encoder.final_layer_norm.weight": 4,
        "decoder.block.0.layer.1.EncDecAttention.k.weight": 1,
        "decoder.block.2.layer.2.DenseReluDense.wo.weight": 3,
        "decoder.final_layer_norm.weight": 4,
    },
    "vit": {
        "vit.embeddings.cls_token": 0,
        "vit.embeddings.patch_embeddings.projection.weight": 0,
        "vit.layernorm.weight": 4,
        "classifier.weight": 4,
    },
    "swin": {
        "swin.embeddings.patch_embeddings.projection.weight": 0,
        "swin.encoder.layers.0.blocks.1.layernorm_before.weight": 2,
        "swin.encoder.layers.0.downsample.reduction.weight": 2,
        "swin.encoder.layers.1.blocks.0.layernorm_before.weight": 3,
        "swin.layernorm.weight": 5,
        "classifier.weight": 5,
    },
    "convnext": {
        "convnext.embeddings.patch_embeddings.weight": 0,
        "convnext.encoder.stages.0.layers.0.dwconv.weight": 1,
        "convnext.encoder.stages.1.downsampling_layer.1.weight": 2,
        "convnext.encoder.stages.1.layers.1.pwconv1.weight": 3,
        "convnext.encoder.stages.3.layers.0.pwconv1.weight": 5,
        "classifier.weight": 6,
    },
    "efficientnet": {
        "efficientnet.embeddings.convolution.weight": 0,
        "efficientnet.encoder.blocks.0.depthwise_conv.depthwise_conv.weight": 1,
        "efficientnet.encoder.blocks.1.expansion.expand_conv.weight": 2,
    },
}


@pytest.mark.parametrize("kind", TABLES)
def test_layers_of_a_known_model_are_counted_as_by_hand(kind: str) -> None:
    module = hugging_face(kind)
    depths = layer_depths([name for name, _ in module.named_parameters()], module)
    assert {name: depths[name] for name in TABLES[kind]} == TABLES[kind]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["conv1.w", "layer1.0.conv.w", "layer1.1.conv.w", "layer2.0.conv.w", "fc.w"], [0, 1, 2, 3, 4]),
        (["features.0.0.w", "features.1.0.block.0.w", "features.1.1.block.0.w", "classifier.1.w"], [1, 2, 3, 4]),
        (["text.embed.w", "text.layers.0.w", "image.stem.w", "image.layers.0.w", "image.layers.1.w"], [0, 2, 0, 1, 2]),
        (["head.w", "embed.w", "blocks.0.w", "blocks.1.w"], [3, 0, 1, 2]),
        (["0.weight", "2.weight", "4.weight"], [1, 2, 3]),
        (["a.weight", "b.weight"], [0, 0]),
    ],
    ids=["stages one after the other", "torchvision", "two towers", "head first", "sequential", "nothing numbered"],
)
def test_names_alone_tell_the_depth(names: list[str], expected: list[int]) -> None:
    assert list(layer_depths(names).values()) == expected


class AsTimm(nn.Module):
    """What timm's models say of themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.gate = nn.Parameter(torch.zeros(4, 4))
        self.stem = nn.Linear(4, 4)
        self.body = nn.ModuleDict({f"part{i}": nn.Linear(4, 4) for i in range(2)})
        self.norm = nn.LayerNorm((4, 4))
        self.head = nn.Linear(4, 2)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^cls_token|^gate|^stem", "blocks": [(r"^body\.part(\d+)", None), (r"^norm", (99999,))]}

    def no_weight_decay(self) -> set[str]:
        return {"gate"}


def test_a_model_that_groups_its_layers_itself_is_obeyed() -> None:
    """timm's rules: norm belongs to the last block, what no pattern matches is the head."""
    module = nn.ModuleDict({"model": AsTimm()})
    depths = layer_depths([name for name, _ in module.named_parameters()], module)
    expected = {"cls_token": 0, "stem.weight": 0, "body.part0.weight": 1, "body.part1.weight": 2, "norm.weight": 2}
    assert {name: depths[f"model.{name}"] for name in expected} == expected
    assert depths["model.head.weight"] == 3


def test_decay_spares_norms_tokens_biases_and_what_the_model_names() -> None:
    made = la.configure_optimizers(AsTimm(), weight_decay=0.1, total_steps=10)
    decayed = {n for g in made["optimizer"].param_groups if g["weight_decay"] for n in g["adam_names"]}
    assert decayed == {"stem.weight", "body.part0.weight", "body.part1.weight", "head.weight"}


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5", "vit", "swin"])
def test_what_hugging_faces_trainer_spares_is_spared(kind: str) -> None:
    module = hugging_face(kind)
    decayed_there = set(transformers.Trainer.get_decay_parameter_names(None, module))
    decayed_here = {name for name, _ in module.named_parameters()} - without_decay(module)
    assert decayed_here <= decayed_there


def test_a_group_of_the_users_own_wins_over_what_is_spared() -> None:
    made = la.configure_optimizers(AsTimm(), total_steps=10, param_groups={"gate": {"weight_decay": 0.3}})
    rates = {n: g["weight_decay"] for g in made["optimizer"].param_groups for n in g["adam_names"]}
    assert rates["gate"] == 0.3
