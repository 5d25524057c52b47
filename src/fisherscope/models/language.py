"""A small causal transformer over bytes: text as a first-class domain."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fisherscope.core.errors import SettingError
from fisherscope.models.initial import initial_seed
from fisherscope.models.next_symbol import NextSymbolModel

_BYTES: Final = 256
_START: Final = 256


class Block(nn.Module):
    """Causal self-attention and a two-layer perceptron, each after a layer norm and with a skip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for x (n, T, width)."""
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(n, length, width))
        out: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return out


class ByteTransformer(NextSymbolModel):
    """A decoder-only transformer (Radford et al. 2019) over windows of bytes.

    Windows have one length: otherwise the length would decide the score. The first byte is predicted from a start
    symbol. ``-log_prob / (n_dims log 2)`` is in bits per byte.

    Args:
        data_shape: (T,), the window's length in bytes.
        width: features a position, a multiple of ``heads``.
        layers: transformer blocks.
        heads: attention heads.
        init_seed: seed of the initial weights.
    """

    family: ClassVar[str] = "language"
    start = _START

    def __init__(
        self, data_shape: tuple[int] = (128,), width: int = 96, layers: int = 4, heads: int = 4, init_seed: int = 0
    ) -> None:
        super().__init__(tuple(data_shape), (0.0, 255.0))
        if len(data_shape) != 1 or data_shape[0] < 1:
            raise SettingError(f"data_shape is {tuple(data_shape)}, expected (length,): windows of so many bytes")
        if min(width, layers, heads) < 1 or width % heads:
            raise SettingError(
                f"width ({width}), layers ({layers}) and heads ({heads}) do not fit: width/heads is none"
            )
        self._config = {
            "data_shape": list(data_shape),
            "width": width,
            "layers": layers,
            "heads": heads,
            "init_seed": init_seed,
        }
        with initial_seed(init_seed):
            self.bytes = nn.Embedding(_BYTES + 1, width)
            self.positions = nn.Parameter(0.02 * torch.randn(data_shape[0], width))
            self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, _BYTES)
            nn.init.normal_(self.bytes.weight, std=0.02)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._config)

    def logits(self, before: Tensor) -> Tensor:
        """Return logits of the next byte, (n, t, 256), for symbols ``before`` (n, t)."""
        h = self.bytes(before) + self.positions[: before.shape[1]]
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(self.norm(h))
        return logits

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Return n windows, uint8 (n, T), byte by byte."""
        return super().sample(n, seed=seed).to(torch.uint8)
