"""Gated PixelCNN (van den Oord et al. 2016, arXiv 1606.05328): each pixel given those above and to the left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fisherscope.core.errors import SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.models.base import GenerativeModel
from fisherscope.models.discretised import scaled
from fisherscope.models.initial import initial_seed
from fisherscope.models.noise import uniform_noise
from fisherscope.models.pixel_heads import MixtureHead, SoftmaxHead

Output = Literal["softmax", "mixture"]


def _gate(x: Tensor) -> Tensor:
    signal, gate = x.chunk(2, dim=1)
    return signal.tanh() * gate.sigmoid()


class CausalConv(nn.Module):
    """A convolution over rows above and columns to the left, shifted by padding instead of masked weights.

    Output (r, c) sees ``kernel[0]`` rows that end at r, or at r - 1 with ``strict``; a vertical convolution (more
    than one row) sees columns on both sides of c, a horizontal one ``kernel[1]`` columns that end at c or c - 1.
    """

    def __init__(self, channels: int, out_channels: int, kernel: tuple[int, int], *, strict: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel)
        height, width = kernel
        shift = int(strict)
        if height > 1:
            self.padding = (width // 2, width // 2, height - 1 + shift, -shift)
        else:
            self.padding = (width - 1 + shift, -shift, 0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, out_channels, H, W) for x (n, channels, H, W)."""
        out: Tensor = self.conv(F.pad(x, self.padding))
        return out


class GatedLayer(nn.Module):
    """One layer of both stacks (figure 2): rows above feed the row's own stack, never the other way."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.vertical = CausalConv(hidden, 2 * hidden, (2, 3), strict=False)
        self.horizontal = CausalConv(hidden, 2 * hidden, (1, 2), strict=False)
        self.down = nn.Conv2d(2 * hidden, 2 * hidden, 1)
        self.out = nn.Conv2d(hidden, hidden, 1)

    def above(self, vertical: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vertical stack (n, hidden, H, W) and what it tells each row, (n, 2 hidden, H, W)."""
        seen = self.vertical(vertical)
        return vertical + _gate(seen), self.down(seen)

    def along(self, horizontal: Tensor, told: Tensor) -> Tensor:
        """Return the horizontal stack, (n, hidden, H, W)."""
        out: Tensor = horizontal + self.out(_gate(self.horizontal(horizontal) + told))
        return out


class PixelCNN(GenerativeModel):
    """Gated PixelCNN over 8-bit images, rows from the top, pixels from the left, channels in order.

    Args:
        data_shape: (C, H, W).
        hidden: channels of each stack.
        layers: gated layers after the first.
        output: ``softmax`` over 256 levels or ``mixture`` of discretised logistics.
        components: logistics in the mixture.
        init_seed: seed of the initial weights.
    """

    family: ClassVar[str] = "pixelcnn"

    def __init__(
        self,
        data_shape: tuple[int, int, int] = (1, 28, 28),
        hidden: int = 32,
        layers: int = 7,
        output: Output = "mixture",
        components: int = 5,
        init_seed: int = 0,
    ) -> None:
        super().__init__(tuple(data_shape), (0.0, 255.0))
        _check_settings(self.data_shape, hidden, layers, output, components)
        self._config = {
            "data_shape": list(data_shape),
            "hidden": hidden,
            "layers": layers,
            "output": output,
            "components": components,
            "init_seed": init_seed,
        }
        channels = data_shape[0]
        with initial_seed(init_seed):
            self.first_vertical = CausalConv(channels, hidden, (3, 5), strict=True)
            self.first_horizontal = CausalConv(channels, hidden, (1, 3), strict=True)
            self.layers = nn.ModuleList(GatedLayer(hidden) for _ in range(layers))
            self.head: MixtureHead | SoftmaxHead = (
                MixtureHead(hidden, channels, components) if output == "mixture" else SoftmaxHead(hidden, channels)
            )

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._config)

    def _layers(self) -> list[GatedLayer]:
        return [layer for layer in self.layers if isinstance(layer, GatedLayer)]

    def _above(self, v: Tensor) -> list[Tensor]:
        """Return what the rows above tell each row of scaled images v, one tensor for each step along the row."""
        vertical = self.first_vertical(v)
        told = [vertical]
        for layer in self._layers():
            vertical, more = layer.above(vertical)
            told.append(more)
        return told

    def _along(self, v: Tensor, told: Sequence[Tensor]) -> Tensor:
        """Return what is known of each pixel from those before it, (n, hidden, H, W)."""
        horizontal = self.first_horizontal(v) + told[0]
        for layer, more in zip(self._layers(), told[1:], strict=True):
            horizontal = layer.along(horizontal, more)
        return F.relu(horizontal)

    def conditionals(self, x: Tensor) -> Tensor:
        """Return log P of every level given all before it, in nats, shape (n, C, H, W)."""
        x = self.check_batch(x)
        v = scaled(x)
        out: Tensor = self.head(self._along(v, self._above(v)), x)
        return out

    def log_prob(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return log P(x) in nats, (n,), exact; there is no noise, so seed and keys do nothing."""
        return self.conditionals(x).flatten(1).sum(1)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Return n images, uint8 (n, C, H, W), pixel by pixel; what rows above tell is computed once a row."""
        like = next(self.parameters())
        channels, height, width = self.data_shape
        u = uniform_noise(np.arange(n, dtype=np.uint64), (height, width, channels + 1), seed=seed, like=like)
        x = like.new_zeros(n, *self.data_shape)
        reach = len(self.layers) + 3
        for row in range(height):
            told = [t[:, :, -1:] for t in self._above(scaled(x[:, :, max(0, row - reach) : row + 1]))]
            for column in range(width):
                features = self._along(scaled(x[:, :, row : row + 1]), told)[:, :, :, column : column + 1]
                x[:, :, row, column] = self.head.draw(features, u[:, row, column])
        return x.to(torch.uint8)


def _check_settings(data_shape: Sequence[int], hidden: int, layers: int, output: str, components: int) -> None:
    if len(data_shape) != 3:
        raise SettingError(f"data_shape is {tuple(data_shape)}, expected (channels, height, width)")
    if min(hidden, layers, components) < 1:
        raise SettingError(f"hidden ({hidden}), layers ({layers}) and components ({components}) must be at least 1")
    if output not in get_args(Output):
        raise SettingError(f"output is '{output}', expected one of {', '.join(get_args(Output))}")
