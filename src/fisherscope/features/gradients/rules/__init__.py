"""What is known of torch's ops: one file a family, one table here.

A rule is a function ``Call -> Backward | None``. It runs in the forward pass, keeps what it needs by
:meth:`Call.saved`, and returns what turns the op's output gradients into forms; None hands the call to the generic
rule, which is exact for every op.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

from fisherscope.features.gradients.call import Backward, Call
from fisherscope.features.gradients.entrywise import ARITHMETIC
from fisherscope.features.gradients.rules import conv, elementwise, embedding, generic, matmul, norm, recurrent
from fisherscope.features.gradients.rules.composite import is_composite, opened

Rule = Callable[[Call], Backward | None]

TABLE: Final[dict[str, Rule]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), conv.convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), conv.transposed_convolution),
    "linear": matmul.linear,
    **dict.fromkeys(("matmul", "mm", "__matmul__"), matmul.matmul),
    "__rmatmul__": matmul.reflected_matmul,
    "addmm": matmul.addmm,
    "einsum": matmul.einsum,
    "group_norm": norm.group_norm,
    "layer_norm": norm.layer_norm,
    "rms_norm": norm.rms_norm,
    "instance_norm": norm.instance_norm,
    "batch_norm": norm.batch_norm,
    "embedding": embedding.embedding,
    "index_select": embedding.index_select,
    "__getitem__": embedding.getitem,
    **dict.fromkeys(ARITHMETIC, elementwise.elementwise),
}


def prepare(call: Call) -> str:
    """Let the best rule serve a call; return its name."""
    rule = TABLE.get(call.name)
    backward = rule(call) if rule is not None else None
    if rule is None or backward is None:
        call.serve(generic.generic(call))
        return f"generic[{call.name}]"
    call.serve(backward)
    return rule.__name__


def decomposition(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return an equal function whose inner ops the tape can see, for those that are one op to torch's dispatcher."""
    name = getattr(func, "__name__", "")
    if name in recurrent.CELLS:
        return recurrent.CELLS[name]
    return opened(func) if isinstance(func, FunctionType) and is_composite(func) else None
