"""A class token and two transformer blocks over the tokens, for classification.

The class token starts as the mean of the tokens, which is the output of the linear head, plus a learned offset. Only
this token is read, so the second block computes nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aselect_edge.fold.algebra import attend

HEAD_WIDTH = 32
DROPOUT = 0.1


class Block(nn.Module):
    """A pre-norm transformer block (N, T, D) -> (N, T, D), or (N, S, D) for only the first S tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = next(n for n in range(max(1, width // HEAD_WIDTH), 0, -1) if width % n == 0)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(approximate="tanh"), nn.Dropout(DROPOUT), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, first: int | None = None) -> Tensor:
        h = self.norm(x)
        query = self.query(h[:, :first])
        key, value = self.key_value(h).chunk(2, dim=2)
        scale = (query.shape[2] // self.heads) ** -0.5
        x = x[:, :first] + self.dropout(self.out(attend(query, key, value, self.heads, scale)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class AttentionClassifier(nn.Module):
    """(N, D, h, w) -> logits (N, C)."""

    def __init__(self, width: int, classes: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, channels)
        self.token = nn.Parameter(torch.randn(channels) * 0.02)
        self.among, self.of_token = Block(channels), Block(channels)
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(DROPOUT)
        self.classify = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.dropout(self.project(x.flatten(2).transpose(1, 2)))  # (N, T, channels)
        tokens = torch.cat([self.token + tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        token = self.of_token(self.among(tokens), first=1)  # (N, 1, channels)
        return self.classify(self.dropout(self.norm(token).flatten(1)))
