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
        "opt": lambda: t.OPTForCausalLM(
            t.OPTConfig(
                vocab_size=20, hidden_size=16, num_attention_heads=2, ffn_dim=16, num_hidden_layers=3, word_embed_proj_dim=16
            )
        ),
        "xlm": lambda: t.XLMForSequenceClassification(t.XLMConfig(vocab_size=20, emb_dim=16, n_layers=3, n_heads=2)),
        "resnet": lambda: t.ResNetForImageClassification(
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic")
        ),
        "wav2vec2": lambda: t.Wav2Vec2ForCTC(
            t.Wav2Vec2Config(
                vocab_size=20,
                conv_dim=(8, 8),
                conv_kernel=(3, 3),
                conv_stride=(2, 2),
                num_feat_extract_layers=2,
                num_conv_pos_embedding_groups=2,
                num_conv_pos_embeddings=4,
                **SMALL,
            )
        ),
        "clip": lambda: t.CLIPModel(
            t.CLIPConfig(text_config={"vocab_size": 20, **SMALL}, vision_config={**SMALL, "image_size": 8, "patch_size": 4})
        ),
        "convnextv2": lambda: t.ConvNextV2ForImageClassification(
            t.ConvNextV2Config(depths=[1, 2], hidden_sizes=[4, 8], num_stages=2)
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
    "opt": {
        "model.decoder.embed_positions.weight": 0,
        "model.decoder.layers.0.fc1.weight": 1,
        "model.decoder.layers.2.fc1.weight": 3,
        "model.decoder.final_layer_norm.weight": 4,
    },
    "xlm": {
        "transformer.embeddings.weight": 0,
        "transformer.attentions.0.q_lin.weight": 1,
        "transformer.layer_norm1.0.weight": 1,
        "transformer.ffns.0.lin1.weight": 1,
        "transformer.ffns.2.lin1.weight": 3,
        "sequence_summary.summary.weight": 4,
    },
    "resnet": {
        "resnet.embedder.embedder.convolution.weight": 0,
        "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight": 1,
        "resnet.encoder.stages.1.layers.1.layer.0.convolution.weight": 3,
        "classifier.1.weight": 4,
    },
    "wav2vec2": {
        "wav2vec2.feature_extractor.conv_layers.1.conv.weight": 2,
        "wav2vec2.encoder.layers.0.attention.q_proj.weight": 3,
        "wav2vec2.encoder.layers.2.attention.q_proj.weight": 5,
        "lm_head.weight": 6,
    },
    "clip": {
        "text_model.embeddings.token_embedding.weight": 0,
        "vision_model.embeddings.class_embedding": 0,
        "text_model.encoder.layers.0.mlp.fc1.weight": 1,
        "vision_model.encoder.layers.2.mlp.fc1.weight": 3,
        "vision_model.post_layernorm.weight": 4,
        "text_projection.weight": 4,
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
        (
            ["pos", "encoder.layers.encoder_layer_0.mlp.0.w", "encoder.layers.encoder_layer_1.mlp.0.w", "heads.head.w"],
            [0, 1, 2, 3],
        ),
        (
            ["conv0.w", "denseblock1.denselayer1.c.w", "transition1.c.w", "denseblock2.denselayer1.c.w", "fc.w"],
            [0, 1, 1, 2, 3],
        ),
        (["stem.0.w", "stem.1.w", "blocks.0.0.c.w", "blocks.1.0.c.w", "blocks.1.1.c.w", "head.0.w"], [0, 0, 1, 2, 3, 4]),
        (["layers.0.0.qkv.w", "layers.0.1.net.w", "layers.1.0.qkv.w", "layers.1.1.net.w", "head.w"], [1, 1, 2, 2, 3]),
        (["conv1.w", "conv2.w", "fc1.w"], [1, 2, 3]),
    ],
    ids=[
        "stages one after the other",
        "torchvision",
        "two towers",
        "head first",
        "sequential",
        "nothing numbered",
        "number in the name",
        "densenet",
        "numbered stem and head",
        "parts of a layer",
        "by hand",
    ],
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


class SaysByFunction(nn.Module):
    """As timm's CaiT: layers are told by a function, tokens by a glob; a body without a head."""

    def __init__(self) -> None:
        super().__init__()
        self.after, self.first = nn.Linear(4, 4), nn.Linear(4, 4)
        self.table = nn.ModuleDict({"projection": nn.Linear(4, 4)})

    def group_matcher(self, coarse: bool = False) -> Any:
        return lambda name: {"first": 1, "table": 0}.get(name.split(".")[0], 2)

    def no_weight_decay(self) -> set[str]:
        return {"table.*"}


def test_a_part_that_speaks_for_itself_ends_below_the_head_put_upon_it() -> None:
    """Its layers in its own order, wherever they are registered; compiled or not."""
    for body in (SaysByFunction(), torch.compile(SaysByFunction())):
        module = nn.ModuleDict({"body": body, "mine": nn.Linear(4, 2)})
        made = la.configure_optimizers(module, lr=1.0, schedule="constant", warmup=0, total_steps=9, layer_decay=0.5)
        groups = [(name, group) for group in made["optimizer"].param_groups for name in group["adam_names"]]
        rates = {name: group["lr"] for name, group in groups if name.endswith("weight")}
        assert rates == {
            "body.table.projection.weight": 0.125,
            "body.first.weight": 0.25,
            "body.after.weight": 0.5,
            "mine.weight": 1.0,
        }
        assert {name for name, group in groups if group["weight_decay"]} == set(rates) - {"body.table.projection.weight"}


def test_an_encoder_of_ones_own_precedes_the_layers_put_upon_it() -> None:
    """Pretrained layers get smaller rates than those of a new head, which count on."""
    names = ["encoder.layers.0.w", "encoder.layers.1.w", "mixer.0.w", "mixer.2.w", "out.w"]
    assert list(layer_depths(names).values()) == [1, 2, 3, 4, 5]


def test_frozen_layers_count_and_other_optimizers_parameters_do_not() -> None:
    module = nn.ModuleDict({"g": nn.Sequential(*[nn.Linear(2, 2) for _ in range(3)]), "d": nn.Sequential(nn.Linear(2, 2))})
    module["g"][2].requires_grad_(False)
    made = la.configure_optimizers(
        module, lr=1.0, schedule="constant", warmup=0, total_steps=9, layer_decay=0.5, parameters="g.*"
    )
    rates = {name: group["lr"] for group in made["optimizer"].param_groups for name in group["adam_names"]}
    assert (rates["g.1.weight"], rates["g.0.weight"]) == (0.5, 0.25)


def test_convnexts_response_norm_is_not_decayed() -> None:
    """As its authors' optim_factory.py has it, though it has four dimensions."""
    module = hugging_face("convnextv2")
    spared = without_decay(module)
    assert {name for name, p in module.named_parameters() if "grn" in name and p.dim() == 4} < spared


TIMM = ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto", "efficientnet_b0", "cait_xxs24_224"]


@pytest.mark.parametrize("name", TIMM)
def test_timms_own_groups_are_ours(name: str) -> None:
    """Rate and decay of every tensor, where timm is installed."""
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    net = timm.create_model(name, pretrained=False)
    said = net.no_weight_decay() if hasattr(net, "no_weight_decay") else ()
    theirs = param_groups_layer_decay(net, 0.05, no_weight_decay_list=said, layer_decay=0.5)
    made = la.configure_optimizers(
        net, lr=1.0, weight_decay=0.05, layer_decay=0.5, total_steps=9, warmup=0, schedule="constant"
    )
    ours = {id(p): (g["lr"], g["weight_decay"]) for g in made["optimizer"].param_groups for p in g["params"]}
    assert ours == {id(p): (g["lr_scale"], g["weight_decay"]) for g in theirs for p in g["params"]}


def test_a_layer_decay_that_finds_no_layers_says_so() -> None:
    """Two matrices named ``encode`` and ``decode`` are one layer: a rate for each has to come from the user."""
    with pytest.warns(la.LightningAdamWarning, match=r"layer_decay=0.5 changes nothing.*encode.weight"):
        la.configure_optimizers(
            nn.ModuleDict({"encode": nn.Linear(2, 2), "decode": nn.Linear(2, 2)}), layer_decay=0.5, total_steps=9
        )
