"""Tables read by row: embeddings and integer indexing."""

from __future__ import annotations

import torch
from torch import Tensor

from fisherscope.features.gradients.call import Backward, Call, Gradients
from fisherscope.features.gradients.component import UnsupportedError
from fisherscope.features.gradients.table_form import RowsForm


def embedding(call: Call) -> Backward | None:
    """``torch.embedding(weight, indices, padding_idx, scale_grad_by_freq, sparse)``."""
    bound = call.bind("weight", "indices", "padding_idx", "scale_grad_by_freq", "sparse")
    if bound["scale_grad_by_freq"]:
        raise UnsupportedError("scale_grad_by_freq makes the gradient of a sample depend on its batch")
    padding = -1 if bound["padding_idx"] is None else bound["padding_idx"]
    return _rows(call, bound["weight"], bound["indices"], padding)


def index_select(call: Call) -> Backward | None:
    """``weight.index_select(0, index)``."""
    bound = call.bind("input", "dim", "index")
    return _rows(call, bound["input"], bound["index"]) if bound["dim"] == 0 else None


def getitem(call: Call) -> Backward | None:
    """``weight[index]`` with one integer tensor."""
    weight, index = call.args
    return _rows(call, weight, index) if isinstance(index, Tensor) else None


def _rows(call: Call, weight: Tensor, index: Tensor, padding: int = -1) -> Backward | None:
    integer = not index.is_floating_point() and index.dtype not in (torch.bool, torch.uint8)
    if not call.is_weight(weight) or not integer or call.fold.layout.axis >= index.dim():
        return None
    fold, kept = call.fold, call.saved(index)

    def backward(gradients: list[Tensor | None]) -> Gradients:
        (g,) = gradients
        assert g is not None
        arrived = fold.positions(g, weight.dim() - 1)
        arrived = arrived.reshape(*arrived.shape[:2], -1)
        read = fold.positions(kept, 0) % weight.shape[0]
        if padding >= 0:
            arrived = arrived * (read != padding)[..., None].to(arrived.dtype)
        yield weight, RowsForm(read, arrived, weight.shape)

    return backward
