"""What the fourth round of cases is built of: tiny models of transformers, a U-Net, adapters, and their data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import chains, generator, pictures

WORDS = 32


class Hosted(L.LightningModule):
    """A model of transformers that makes its own loss of a batch that is a dict."""

    def __init__(self, model: nn.Module, lr: float = 5e-4) -> None:
        super().__init__()
        self.model, self.lr = model, lr

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss that the model gives."""
        return self.model(**batch).loss

    def configure_optimizers(self) -> Any:
        """Over what is trained."""
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.lr)


class Split(L.LightningModule):
    """A net, and what its loss is of the whole batch."""

    def __init__(self, net: nn.Module, loss: Callable[..., Tensor], lr: float = 1e-3) -> None:
        super().__init__()
        self.net, self.loss_of, self.lr = net, loss, lr

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss gets the net and the batch."""
        return self.loss_of(self.net, batch)

    def configure_optimizers(self) -> Any:
        """Of all parameters."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def bert(kind: str, **options: Any) -> nn.Module:
    """One of transformers' BERT models, tiny, with new weights."""
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=WORDS, max_position_embeddings=64, **sizes, **options)
    made: nn.Module = getattr(transformers, kind)(config)
    return made.train()


def gpt2(**options: Any) -> nn.Module:
    """GPT-2, tiny, with new weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=WORDS, n_positions=64, n_embd=32, n_layer=2, n_head=4, **options)
    return GPT2LMHeadModel(config).train()


def vit() -> nn.Module:
    """ViT, tiny, with new weights."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = ViTConfig(image_size=12, patch_size=3, num_channels=1, num_labels=4, **sizes)
    return ViTForImageClassification(config).train()


def reviews(n: int = 480, length: int = 16) -> dict[str, Tensor]:
    """Sentences of many lengths, and whether words of one half prevail in them."""
    g = generator()
    tokens = chains(n, length, WORDS - 2) + 2
    sizes = torch.randint(length // 2, length + 1, (n,), generator=g)
    mask = torch.arange(length) < sizes[:, None]
    tokens = torch.where(mask, tokens, torch.zeros_like(tokens))
    labels = ((tokens > WORDS // 2).float().sum(1) / sizes > 0.5).long()
    return {"input_ids": tokens, "attention_mask": mask.long(), "labels": labels}


def scenes(n: int = 320, classes: int = 3, side: int = 16) -> tuple[Tensor, Tensor]:
    """Pictures with a bright square of one of some kinds, and each pixel's kind; 0 is what is behind."""
    g = generator()
    x, y = 0.3 * torch.randn(n, 1, side, side, generator=g), torch.zeros(n, side, side, dtype=torch.long)
    for i in range(n):
        kind = int(torch.randint(1, classes, (1,), generator=g))
        top, left = torch.randint(0, side - 8, (2,), generator=g).tolist()
        y[i, top : top + 8, left : left + 8] = kind
    return (x + y[:, None].float() - 0.5), y


class Unet(nn.Module):
    """Two levels with a connection over the middle."""

    def __init__(self, outputs: int = 3, width: int = 8) -> None:
        super().__init__()
        self.down, self.middle = self._block(1, width), self._block(width, 2 * width)
        self.up, self.last = nn.ConvTranspose2d(2 * width, width, 2, 2), self._block(2 * width, width)
        self.head = nn.Conv2d(width, outputs, 1)

    def _block(self, inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every pixel."""
        high = self.down(x)
        low = self.up(self.middle(F.max_pool2d(high, 2)))
        return self.head(self.last(torch.cat([high, low], 1)))


class LowRank(nn.Module):
    """LoRA (Hu et al. 2021) around a frozen layer; the second factor starts at zero."""

    def __init__(self, layer: nn.Module, inputs: int, outputs: int, rank: int = 4, first: float = 0.1) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.lora_a, self.lora_b = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
        nn.init.normal_(self.lora_a.weight, std=first)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output and the low-rank one."""
        return self.layer(x) + 2 * self.lora_b(self.lora_a(x))


def adapted(first: float = 0.1) -> nn.Module:
    """GPT-2 with adapters on its attention, and all else frozen."""
    model: Any = gpt2().requires_grad_(False)
    for block in model.transformer.h:
        block.attn.c_attn = LowRank(block.attn.c_attn, 32, 96, first=first)
    made: nn.Module = model
    return made


def spoken(n: int = 320, length: int = 24) -> dict[str, Tensor]:
    """Sequences in which tokens are held for four frames each, with lengths; as for speech."""
    g = generator()
    count = torch.randint(3, 7, (n,), generator=g)
    words = torch.randint(1, 7, (n, 6), generator=g)
    frames = F.one_hot(words.repeat_interleave(4, 1), 7).float() + 0.2 * torch.randn(n, length, 7, generator=g)
    return {"frames": frames, "frame_lengths": 4 * count, "words": words, "word_lengths": count}


def views(n: int = 640) -> tuple[Tensor, Tensor]:
    """Two noisy views of each picture, flat."""
    x, g = pictures(n)[0].flatten(1), generator(1)
    return tuple(x + 0.3 * torch.randn(x.shape, generator=g) for _ in range(2))  # type: ignore[return-value]
