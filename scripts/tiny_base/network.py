"""The network in the Llama architecture, written flat so that training on a CPU is quick.

It computes what `transformers.LlamaForCausalLM` computes (a test compares the two) and its tensors carry the names that
class expects, so the saved weights load there without conversion.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD_SIZE = 64


@dataclass(frozen=True)
class Shape:
    """Sizes of the network. Head size is 64 throughout; embeddings are tied."""

    vocabulary: int = 2048
    width: int = 320
    layers: int = 4
    heads: int = 5
    kv_heads: int = 1
    hidden: int = 896
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5


def rotary_table(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, each `[length, 64]` (Su et al. 2021, arXiv:2104.09864)."""
    frequencies = 1.0 / shape.rope_theta ** (torch.arange(0, HEAD_SIZE, 2, dtype=torch.float32) / HEAD_SIZE)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, the halves of a head as pairs (the layout of `transformers`)."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cos + turned * sin


class Attention(nn.Module):
    """Causal attention with grouped keys and values."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads = shape.heads, shape.kv_heads
        self.q_proj = nn.Linear(shape.width, shape.heads * HEAD_SIZE, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.kv_heads * HEAD_SIZE, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.kv_heads * HEAD_SIZE, bias=False)
        self.o_proj = nn.Linear(shape.heads * HEAD_SIZE, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q = self.q_proj(x).view(rows, length, self.heads, HEAD_SIZE).transpose(1, 2)
        k = self.k_proj(x).view(rows, length, self.kv_heads, HEAD_SIZE).transpose(1, 2)
        v = self.v_proj(x).view(rows, length, self.kv_heads, HEAD_SIZE).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = (q @ k.transpose(-1, -2)) * HEAD_SIZE**-0.5 + mask
        mixed = scores.softmax(dim=-1) @ v
        result: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))
        return result


class Mlp(nn.Module):
    """Gated feed-forward layer (SwiGLU; Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return result


class Block(nn.Module):
    """One layer: attention, then feed-forward, each behind a norm and beside a residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.width, eps=shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.width, eps=shape.norm_eps)
        self.mlp = Mlp(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        result: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return result


class Backbone(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=shape.norm_eps)


class Network(nn.Module):
    """Llama with tied embeddings. `documents` keeps packed documents apart: attention never leaves one."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape, length: int) -> None:
        super().__init__()
        self.shape = shape
        self.model = Backbone(shape)
        cos, sin = rotary_table(shape, length)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def logits(self, tokens: Tensor, documents: Tensor) -> Tensor:
        """Logits `[rows, length, vocabulary]` for `tokens` and document numbers `documents`, both `[rows, length]`."""
        length = tokens.shape[1]
        place = torch.arange(length, device=tokens.device)
        seen = (documents[:, :, None] == documents[:, None, :]) & (place[:, None] >= place[None, :])
        x: Tensor = self.model.embed_tokens(tokens)
        mask = torch.zeros(seen.shape, dtype=x.dtype).masked_fill(~seen, -1e9)[:, None]
        cos, sin = self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return functional.linear(self.model.norm(x), self.model.embed_tokens.weight)

    def forward(self, tokens: Tensor, documents: Tensor, weights: Tensor) -> Tensor:
        """Sum of weighted next-token losses; `weights[:, i]` belongs to token i as a target, the first is never one."""
        logits = self.logits(tokens, documents)[:, :-1].float()
        losses = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        return (losses * weights[:, 1:].flatten()).sum()


def initialised(shape: Shape, length: int, seed: int) -> Network:
    """A fresh network in float32: normal weights, smaller where a layer writes into the residual stream."""
    generator = torch.Generator().manual_seed(seed)
    network = Network(shape, length)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim == 2:
                into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                scale = 0.02 / (2 * shape.layers) ** 0.5 if into_residual else 0.02
                weight.normal_(0.0, scale, generator=generator)
    return network
