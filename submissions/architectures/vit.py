"""A small vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) as in the RCM paper's code: 4x4 patches.

Pre-norm blocks, a class token and learned positions; the answer is read from all tokens pooled together. The single
digit of ``strides`` is the step between patches: 4 lays them side by side, 2 lets them overlap, which gives four
times the tokens, the transformer's larger map. Upsampling the input does the same with larger pictures of pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions.architectures.parts import check, entrance

PATCH = 4


class Attention(nn.Module):
    """Multi-head self-attention, written out so that it can be differentiated twice."""

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, head_dim**-0.5
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = self.dropout((q @ k.transpose(-2, -1) * self.scale).softmax(-1))
        mixed: Tensor = self.dropout(self.out((weights @ v).transpose(1, 2).flatten(2)))
        return mixed


class FeedForward(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up, self.down, self.dropout = nn.Linear(dim, hidden), nn.Linear(hidden, dim), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = self.dropout(self.down(self.dropout(F.gelu(self.up(self.norm(x))))))
        return moved


class Pool(nn.Module):
    """Tokens (N, T, D) to (N, D): their average or their maximum."""

    def __init__(self, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1) if self.pooling == "avg" else tokens.amax(1)


class ViT(nn.Module):
    """The network; see the module's text."""

    def __init__(
        self,
        *,
        stride: int,
        pooling: str,
        upsample: int,
        upsample_mode: str,
        classes: int,
        dim: int,
        depth: int,
        heads: int,
        head_dim: int,
        mlp: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.entrance = entrance(upsample, upsample_mode)
        self.patches = nn.Conv2d(3, dim, PATCH, stride, (PATCH - stride) // 2)
        side = 32 * upsample // stride
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, side * side + 1, dim))
        self.dropout = nn.Dropout(dropout)
        blocks: list[nn.Module] = []
        for _ in range(depth):
            blocks += [Attention(dim, heads, head_dim, dropout), FeedForward(dim, mlp, dropout)]
        self.blocks = nn.ModuleList(blocks)
        self.pool = Pool(pooling)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(self.entrance(x)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = self.dropout(tokens + self.positions)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        logits: Tensor = self.head(self.pool(tokens))
        return logits


def build(
    *,
    strides: str = "4",
    pooling: str = "avg",
    upsample: int = 1,
    upsample_mode: str = "nearest",
    classes: int = 10,
    dim: int = 512,
    depth: int = 6,
    heads: int = 8,
    head_dim: int = 64,
    mlp: int = 512,
    dropout: float = 0.1,
) -> ViT:
    """Build the network; ``upsample`` enlarges the image under patches that stay 4x4.

    Raises ``ValueError`` for strides other than 2 or 4, or an unknown pooling or upsampling.
    """
    check(strides=strides, digits=1, pooling=pooling, upsample=upsample, upsample_mode=upsample_mode, allowed="24")
    return ViT(
        stride=int(strides), pooling=pooling, upsample=upsample, upsample_mode=upsample_mode, classes=classes, dim=dim,
        depth=depth, heads=heads, head_dim=head_dim, mlp=mlp, dropout=dropout,
    )  # fmt: skip
