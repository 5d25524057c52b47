"""Recurrent layers, opened into the linear maps and gates of each time step.

Each step is then a use of the same matrices, and their gradients add up as outer products over time. The equations
are those of ``torch.nn.RNN``, ``GRU`` and ``LSTM``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from fisherscope.features.gradients.component import UnsupportedError

State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State, Sequence[Tensor]], State]


def _lstm_cell(x: Tensor, state: State, weights: Sequence[Tensor]) -> State:
    hidden, cell = state
    i, f, g, o = (x + _hidden(hidden, weights)).chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    hidden = torch.sigmoid(o) * torch.tanh(cell)
    projection = weights[-1] if len(weights) in (3, 5) else None
    return (hidden if projection is None else F.linear(hidden, projection)), cell


def _gru_cell(x: Tensor, state: State, weights: Sequence[Tensor]) -> State:
    (hidden,) = state
    x_r, x_z, x_n = x.chunk(3, -1)
    h_r, h_z, h_n = _hidden(hidden, weights).chunk(3, -1)
    z = torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
    return ((1 - z) * n + z * hidden,)


def _plain_cell(nonlinearity: Callable[[Tensor], Tensor]) -> Cell:
    def cell(x: Tensor, state: State, weights: Sequence[Tensor]) -> State:
        return (nonlinearity(x + _hidden(state[0], weights)),)

    return cell


def _hidden(hidden: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return F.linear(hidden, weights[1], weights[3] if len(weights) >= 4 else None)


def _direction(x: Tensor, state: State, weights: Sequence[Tensor], cell: Cell, reverse: bool) -> tuple[Tensor, State]:
    """X (T, N, F) -> outputs (T, N, H) and the last state."""
    projected = F.linear(x, weights[0], weights[2] if len(weights) >= 4 else None)
    steps = range(len(x))
    outputs: list[Tensor] = []
    for t in reversed(steps) if reverse else steps:
        state = cell(projected[t], state, weights)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if reverse else outputs), state


def _layers(cell: Cell, n_states: int) -> Callable[..., Any]:
    def run(
        x: Tensor,
        first: Any,
        flat: Any,
        has_biases: Any,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: Any = None,
    ) -> tuple[Tensor, ...]:
        if batch_first is None:
            raise UnsupportedError("packed sequences")
        if dropout and train:
            raise UnsupportedError("dropout in train mode")
        states = tuple(first) if n_states > 1 else (first,)
        directions = 2 if bidirectional else 1
        each = len(flat) // (num_layers * directions)
        value = x.transpose(0, 1) if batch_first else x
        last: list[State] = []
        for layer in range(num_layers):
            outputs = []
            for d in range(directions):
                k = layer * directions + d
                start = tuple(s[k] for s in states)
                out, end = _direction(value, start, flat[k * each : (k + 1) * each], cell, bool(d))
                outputs.append(out)
                last.append(end)
            value = torch.cat(outputs, -1) if directions > 1 else outputs[0]
        ends = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
        return (value.transpose(0, 1) if batch_first else value, *ends)

    return run


CELLS: Final[dict[str, Callable[..., Any]]] = {
    "lstm": _layers(_lstm_cell, 2),
    "gru": _layers(_gru_cell, 1),
    "rnn_tanh": _layers(_plain_cell(torch.tanh), 1),
    "rnn_relu": _layers(_plain_cell(torch.relu), 1),
}
