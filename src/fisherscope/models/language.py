"""A small causal transformer over bytes: text as a first-class domain."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fisherscope.core.errors import SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.models.base import GenerativeModel
from fisherscope.models.initial import initial_seed
from fisherscope.models.noise import uniform_noise

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


class ByteTransformer(GenerativeModel):
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

    def _logits(self, before: Tensor) -> Tensor:
        """Return logits of the next byte (n, T, 256) for symbols ``before`` (n, T), the first a start symbol."""
        h = self.bytes(before) + self.positions[: before.shape[1]]
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(self.norm(h))
        return logits

    def conditionals(self, x: Tensor) -> Tensor:
        """Return log P of each byte given those before it, in nats, shape (n, T)."""
        self.check_shape(x)
        symbols = x.to(self.positions.device).long()
        before = F.pad(symbols[:, :-1], (1, 0), value=_START)
        log_p = F.log_softmax(self._logits(before), dim=2)
        return log_p.gather(2, symbols[:, :, None])[:, :, 0]

    def log_prob(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return log P(x) of byte windows x (n, T) in nats, (n,), exact; seed and keys do nothing."""
        return self.conditionals(x).sum(1)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Return n windows, uint8 (n, T), byte by byte."""
        length = self.data_shape[0]
        like = next(self.parameters())
        u = uniform_noise(np.arange(n, dtype=np.uint64), (length,), seed=seed, like=like.double())
        symbols = torch.full((n, 1), _START, device=like.device)
        for i in range(length):
            cumulative = F.softmax(self._logits(symbols)[:, -1].double(), dim=1).cumsum(1)
            drawn = (cumulative < u[:, i : i + 1] * cumulative[:, -1:]).sum(1, keepdim=True)
            symbols = torch.cat([symbols, drawn], dim=1)
        return symbols[:, 1:].to(torch.uint8)
