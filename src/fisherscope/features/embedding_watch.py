"""Finds where a model looks up its tokens, without knowing the model: the place to differentiate for integer inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fisherscope.features.gradients.arguments import operands

_LOOKUPS: Final = frozenset({F.embedding, torch.index_select, Tensor.__getitem__, Tensor.index_select})
_MOST_START_SYMBOLS: Final = 1


class _Read(NamedTuple):
    """One read of a table.

    Attributes:
        rows: what was read, (1, S, D') or (S, D'), with its graph.
        numbers: of the rows, (S,).
        table: the parameter, (V, D').
        of_tokens: whether the numbers were made from the sample's tokens.
    """

    rows: Tensor
    numbers: Tensor
    table: Tensor
    of_tokens: bool


class _Place(NamedTuple):
    """Where the rows of a read belong: start symbols before the tokens, and columns of the table among all."""

    read: _Read
    skip: int
    columns: slice


@dataclass(frozen=True)
class Lookup:
    """How the tokens of one sample were looked up, once or several times.

    Attributes:
        places: one for each read of the tokens.
        difference: each token's embedding less the mean of the table, (T, D); several tables lie side by side, zero
            for one that this sample's tokens were not found in.
    """

    places: tuple[_Place, ...]
    difference: Tensor

    @property
    def rows(self) -> list[Tensor]:
        """What each read gave, (1, S, D') or (S, D'), with its graph."""
        return [place.read.rows for place in self.places]

    def by_token(self, slopes: Sequence[Tensor | None]) -> Tensor:
        """Return the slopes of ``rows``, added up, as one by token, (T, D); zero for a token that is not read."""
        total = torch.zeros_like(self.difference)
        for place, slope in zip(self.places, slopes, strict=True):
            if slope is not None:
                rows = slope.reshape(-1, slope.shape[-1])[place.skip : place.skip + len(total)]
                total[: len(rows), place.columns] += rows
        return total


class EmbeddingWatch(TorchFunctionMode):
    """Notes every read of a parameter's rows by integers in one forward pass of one sample.

    What is read requires a gradient, whether the parameter does or not.

    Args:
        module: the model.
        leaves: the sample's tensors, each (1, ...).
    """

    def __init__(self, module: nn.Module, leaves: Sequence[Tensor]) -> None:
        super().__init__()
        self._tables = {id(p) for p in module.parameters() if p.dim() == 2}
        self._leaves = [leaf for leaf in leaves if leaf.dim() == 2 and _is_whole(leaf)]
        self._longest = max((leaf.shape[1] for leaf in self._leaves), default=0) + _MOST_START_SYMBOLS
        self._of_tokens = {id(leaf): leaf for leaf in self._leaves}  # kept alive, so that an id stays theirs
        self._reads: list[_Read] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the function; note output, index and table if it reads rows of a parameter."""
        out = func(*args, **(kwargs or {}))
        if not self._leaves:
            return out
        given = operands(args, kwargs or {})
        if func in _LOOKUPS and torch.is_grad_enabled():
            tables = [a for a in given if id(a) in self._tables]
            integers = [a for a in given if not a.is_floating_point()]
            if len(tables) == len(integers) == 1:
                return self._noted(out, integers[0], tables[0])
        made = args[0] if func is Tensor.__setitem__ else out
        # what is longer is no list of tokens any more, and not worth its memory
        if isinstance(made, Tensor) and made.numel() <= self._longest and any(id(a) in self._of_tokens for a in given):
            self._of_tokens[id(made)] = made
        return out

    def _noted(self, out: Tensor, index: Tensor, table: Tensor) -> Tensor:
        rows = out if out.requires_grad else out.detach().requires_grad_()
        self._reads.append(_Read(rows, index.detach().flatten().long(), table, id(index) in self._of_tokens))
        return rows.clone()  # a model may overwrite what it has read: the gradient is that of what was read

    def find(self) -> Lookup | None:
        """Return all lookups of the tokens in the first of the sample's tensors that is looked up, or None."""
        # Positions are looked up as tokens are, and tokens may count up by chance: how the numbers came about tells
        # them apart, where that is known.
        reads = [read for read in self._reads if read.of_tokens] or self._reads
        for leaf in self._leaves:
            found = _lookup(reads, leaf.detach()[0].long())
            if found is not None:
                return found
        return None


def _is_whole(leaf: Tensor) -> bool:
    return not leaf.is_floating_point() or bool((leaf == leaf.long()).all())


def _lookup(reads: Sequence[_Read], tokens: Tensor) -> Lookup | None:
    columns, width = _columns(reads)
    skips = [(read, _start_symbols(tokens, read.numbers)) for read in reads]
    places = tuple(_Place(read, skip, columns[id(read.table)]) for read, skip in skips if skip is not None)
    if not places:
        return None
    difference = places[0].read.rows.new_zeros(len(tokens), width)
    for read, _, part in places:
        table = read.table.detach()
        known = tokens.clamp(max=len(table) - 1)  # a last token that nothing reads may have no row
        difference[:, part] = table[known] - table.mean(0)
    return Lookup(places, difference)


def _columns(reads: Sequence[_Read]) -> tuple[dict[int, slice], int]:
    """Return the columns of each table, by its id, with all of them side by side, and their number.

    They are those of all reads, matched by this sample or not: every sample of a model has as many.
    """
    columns: dict[int, slice] = {}
    width = 0
    for read in reads:
        if id(read.table) not in columns:
            columns[id(read.table)] = slice(width, width + read.table.shape[1])
            width += read.table.shape[1]
    return columns, width


def _start_symbols(tokens: Tensor, index: Tensor) -> int | None:
    """Return how many start symbols come before the tokens in an index, or None if it does not read the tokens.

    A decoder that predicts each token from those before it reads all tokens but the last.
    """
    for skip in range(_MOST_START_SYMBOLS + 1):
        common = min(len(tokens), len(index) - skip)
        if common >= max(1, len(tokens) - 1) and torch.equal(index[skip : skip + common], tokens[:common]):
            return skip
    return None
