"""Finds where a model looks up its tokens, without knowing the model: the place to differentiate for integer inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_LOOKUPS: Final = frozenset({F.embedding, torch.index_select, Tensor.__getitem__, Tensor.index_select})
_MOST_START_SYMBOLS: Final = 1


@dataclass(frozen=True)
class Lookup:
    """How the tokens of one sample were looked up.

    Attributes:
        rows: what was read, (1, S, D) or (S, D), with its graph.
        skip: start symbols before the tokens.
        difference: each token's embedding less the mean of the table, (T, D).
    """

    rows: Tensor
    skip: int
    difference: Tensor

    def by_token(self, slope: Tensor) -> Tensor:
        """Return a slope by position as one by token, (T, D); zero for a token that is not read."""
        rows = slope.reshape(-1, slope.shape[-1])[self.skip : self.skip + len(self.difference)]
        return F.pad(rows, (0, 0, 0, len(self.difference) - len(rows)))


class EmbeddingWatch(TorchFunctionMode):
    """Notes every read of a parameter's rows by integers in one forward pass of one sample.

    Args:
        module: the model.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._tables = {id(p) for p in module.parameters() if p.dim() == 2}
        self._reads: list[tuple[Tensor, Tensor, Tensor]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the function; note output, index and table if it reads rows of a parameter."""
        out = func(*args, **(kwargs or {}))
        if func in _LOOKUPS:
            operands = [a for a in (*args, *(kwargs or {}).values()) if isinstance(a, Tensor)]
            tables = [a for a in operands if id(a) in self._tables]
            integers = [a for a in operands if not a.is_floating_point()]
            if len(tables) == len(integers) == 1 and out.requires_grad:
                self._reads.append((out, integers[0].detach().flatten(), tables[0].detach()))
        return out

    def find(self, leaves: Sequence[Tensor]) -> Lookup | None:
        """Return the first lookup of the tokens in one of the sample's tensors, each (1, ...), or None."""
        for leaf in leaves:
            sample = leaf.detach()[0]
            if sample.dim() == 1 and bool((sample == sample.long()).all()):
                found = self._lookup(sample.long())
                if found is not None:
                    return found
        return None

    def _lookup(self, tokens: Tensor) -> Lookup | None:
        # A decoder that predicts each token from those before it reads a start symbol and all tokens but the last.
        for rows, index, table in self._reads:
            for skip in range(_MOST_START_SYMBOLS + 1):
                common = min(len(tokens), len(index) - skip)
                reads_all = common > 0 and common >= len(tokens) - skip
                if reads_all and torch.equal(index[skip : skip + common].long(), tokens[:common]):
                    return Lookup(rows, skip, table[tokens] - table.mean(0))
        return None
