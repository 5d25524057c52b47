"""Intercepting the uses of parameters, wherever a model keeps them.

A forward pass runs under :class:`Tape`, which sees every torch function called with tensors:

1. an op on parameters and constants runs as usual, its result is weight-like (``weights.py``);
2. an op on data runs as usual;
3. an op that mixes data with weight-like tensors, a USE, runs with the weights detached, so that autograd never
   computes their ordinary gradient; a hook on its output turns (inputs, output gradient) into per-group forms.

The user's tensors carry no marks afterwards and no parameter's ``.grad`` is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from time import perf_counter
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

from fisherscope.features.gradients import hooks, rules
from fisherscope.features.gradients.arguments import detached, distinct, operands, tensors_of
from fisherscope.features.gradients.call import Call, Operands, is_in_place
from fisherscope.features.gradients.component import UnsupportedError, scaling_of
from fisherscope.features.gradients.entrywise import relation_of
from fisherscope.features.gradients.forms import GradientForm
from fisherscope.features.gradients.layout import Fold, Layout, support_of
from fisherscope.features.gradients.memory import MemoryMeter
from fisherscope.features.gradients.rows import ROW_MOVERS, RowWatch
from fisherscope.features.gradients.table_form import add_forms
from fisherscope.features.gradients.uses import PlanMismatchError, Use, UseKey, UsePlan
from fisherscope.features.gradients.weights import Sink, WeightGraph

MARK: Final = "_fisherscope_tape"

_PLACING: Final = frozenset(
    {"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "flatten", "unflatten", "flip", "roll"}
)
"""Ops by whose numbers alone the samples come to lie on one axis or another."""

_HOOKS: Final = frozenset({"register_hook", "register_post_accumulate_grad_hook"})

_TURNED: Final = frozenset({"T", "mT", "H", "mH"})

CONSTANT_MAKERS: Final = frozenset(
    {"zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty",
     "new_tensor", "rand_like", "randn_like", "randint_like"}
)  # fmt: skip
"""Their results depend on the shape of their argument only."""


class _Kind(NamedTuple):
    """What a torch function is, whatever its arguments.

    Attributes:
        name: of the function.
        makes_constants: whether it is one of :data:`CONSTANT_MAKERS`.
        moves_rows: whether it is one of :data:`~fisherscope.features.gradients.rows.ROW_MOVERS`.
        in_place: whether it writes to its first argument.
        plain: an equal function whose inner ops the tape can see, or None.
    """

    name: str
    makes_constants: bool
    moves_rows: bool
    in_place: bool
    plain: Callable[..., Any] | None


@lru_cache(maxsize=4096)
def _kind_of(func: Callable[..., Any]) -> _Kind:
    name = getattr(func, "__name__", str(func))
    if name == "__get__" and getattr(getattr(func, "__self__", None), "__name__", "") in _TURNED:
        name = func.__self__.__name__  # type: ignore[attr-defined]
    return _Kind(name, name in CONSTANT_MAKERS, name in ROW_MOVERS, is_in_place(name), rules.decomposition(func))


class _Source(torch.autograd.Function):
    """Make a tensor that autograd does not know part of the graph, without a copy."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, *values: Tensor) -> Any:
        ctx.mark_dirty(*values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (None,) * (1 + len(gradients))


class Tape(TorchFunctionMode):
    """One forward and backward pass.

    Args:
        parameters: trainable parameters by name.
        n: number of samples.
        group_size: B.
        sink: receives each parameter's gradients.
        plan: layouts of the uses; None in a probe, where supports are observed instead.
        skipped: names of the parameters that something else will serve.
        compared: whether what every sample gets is compared with the loop afterwards; so it is in a probe.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        n: int,
        group_size: int,
        sink: Sink,
        plan: Sequence[UsePlan] | None = None,
        skipped: frozenset[str] = frozenset(),
        *,
        compared: bool = True,
    ) -> None:
        super().__init__()
        self.graph = WeightGraph(parameters, n // group_size, sink)
        self.uses: list[Use] = []
        self.anchor = torch.zeros((), requires_grad=True)
        self.backward_runs = False
        self.sample = 0
        self.revived: set[int] = set()
        self.meter: MemoryMeter | None = None
        self._n = n
        self._group_size = group_size
        self._plan = plan
        self._skipped = skipped
        self._context: set[str] = set()
        self._placings: list[str] = []
        self._rows = RowWatch(n, self._is_data, compared=compared)
        self._folds: dict[Layout, Fold] = {}
        self._token = object()

    def mark_data(self, tensor: Tensor) -> None:
        """Declare a tensor to depend on the samples."""
        setattr(tensor, MARK, self._token)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one torch function."""
        kwargs = kwargs or {}
        if func is Tensor.__iter__ and args[0].dim():  # an iterator's tensors would be seen by nobody
            with self:
                return iter(args[0].unbind(0))
        known, token = self.graph.tensors, self._token
        weights: list[Tensor] = []
        data = False
        for tensor in operands(args, kwargs):
            if id(tensor) in known:
                weights.append(tensor)
            elif not data:
                data = tensor.requires_grad or getattr(tensor, MARK, None) is token
        if weights and torch.is_grad_enabled():
            if data:
                return self._use(func, args, kwargs, weights)
            return self._parameter_op(func, args, kwargs, weights)
        result = func(*args, **kwargs)
        if data:
            self._note_data(_kind_of(func), args, kwargs, result)
        return result

    def _is_data(self, tensor: Tensor) -> bool:
        return tensor.requires_grad or getattr(tensor, MARK, None) is self._token

    def _note_data(self, kind: _Kind, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if kind.makes_constants and result.dim() and len(result) != self._n:
            return
        if kind.moves_rows and self._rows.moves(kind.name, args, kwargs, result):
            raise UnsupportedError(f"'{kind.name}' may move samples from their places")
        if kind.name in _PLACING:
            self._placings.append(f"{kind.name} {args[1:]} {kwargs}")
        elif kind.name in _HOOKS:
            raise UnsupportedError("a hook is registered on a tensor that depends on the samples")
        elif kind.name != "__get__":
            self._context.add(kind.name)
        results = _results(args, result)
        for tensor in results:
            if not tensor.requires_grad:
                self.mark_data(tensor)
        if self._rows.picked:
            self._rows.follow(args, kwargs, results)

    def _parameter_op(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], weights: list[Tensor]
    ) -> Any:
        name = _kind_of(func).name
        if name in _HOOKS:
            raise UnsupportedError("a hook is registered on a parameter or a tensor computed from parameters")
        result = func(*args, **kwargs)
        for tensor in _results(args, result):
            if tensor.requires_grad:
                relation = relation_of(name, args, kwargs, weights[0], tensor) if len(weights) == 1 else None
                self.graph.derive(weights, tensor, scaling_of(name, args, result), relation)
        return result

    def _use(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], weights: list[Tensor]
    ) -> Any:
        kind = _kind_of(func)
        if kind.plain is not None:
            with self:
                return kind.plain(*args, **kwargs)
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise UnsupportedError("log_prob uses torch.func transforms")
        if kind.in_place and args[0] in self.graph:
            raise UnsupportedError(f"{kind.name} writes data into a parameter or a tensor computed from parameters")
        use = None if self.backward_runs else self._record(Operands(kind.name, func, args, kwargs, distinct(weights)))
        run = func if use is None or use.call is None else use.call.run
        known = self.graph.tensors
        by_name = dict(zip(kwargs, detached(kwargs.values(), known), strict=True)) if kwargs else kwargs
        result = run(*detached(args, known), **by_name)
        outputs = _results(args, result)
        if not outputs:  # a number, a dtype, a yes or no
            return result
        made = self._outputs(outputs, kind.in_place)
        if self._rows.picked:
            self._rows.follow(args, kwargs, made)
        if use is not None:
            self._listen(use, made)
        if result is None or isinstance(result, Tensor):
            return None if result is None else made[0]
        if len(made) != len(result):
            raise UnsupportedError(f"the result of '{kind.name}' holds more than tensors")
        return type(result)(made) if type(result) in (tuple, list) else _renamed(result, made)

    def _outputs(self, outputs: list[Tensor], in_place: bool) -> list[Tensor]:
        """Make floating outputs part of the graph and mark the rest as data."""
        made = []
        for tensor in outputs:
            if in_place and tensor._is_view():  # autograd sends the gradient through the base alone
                raise UnsupportedError("a parameter is written into a view of the data")
            if tensor.requires_grad or not (tensor.is_floating_point() or tensor.is_complex()):
                made.append(tensor)
            else:
                owned = tensor.clone() if tensor._is_view() else tensor
                made.append(_Source.apply(self.anchor, owned)[0])  # type: ignore[no-untyped-call]
            if not made[-1].requires_grad:
                self.mark_data(made[-1])
        return made

    def _record(self, given: Operands) -> Use:
        names = self.graph.note_use(given.weights)
        if self._plan is None:
            key = UseKey(given.name, names, frozenset(self._context), tuple(self._placings))
            use = Use(key, None, torch.Size())
            self._observe(use, given)
        else:
            use = self._planned(names, given)
        self._context.clear()
        self._placings.clear()
        self.uses.append(use)
        return use

    def _planned(self, names: tuple[str, ...], given: Operands) -> Use:
        """Return the next use of the plan, with its rule ready."""
        assert self._plan is not None
        index = len(self.uses)
        plan = self._plan[index] if index < len(self._plan) else None
        if plan is None or plan.key != UseKey(given.name, names, self._context, tuple(self._placings)):
            after = [*sorted(self._context), *self._placings]
            raise PlanMismatchError(f"use {index} is '{given.name}' on {names} after {after}")
        if plan.layout is None or not self._skipped.isdisjoint(names):
            return Use(plan.key, None, torch.Size(), assumed=plan.assumed)
        fold = self._folds.get(plan.layout)
        if fold is None:
            fold = self._folds[plan.layout] = Fold(self._n, self._group_size, plan.layout)
        call = Call(given, self.graph.tensors, fold, plan.sliceable, certain=not plan.assumed)
        rule = rules.prepare(call)
        return Use(plan.key, call, torch.Size(), assumed=plan.assumed, rule=rule, nbytes=call.nbytes)

    def _observe(self, use: Use, given: Operands) -> None:
        for tensor in operands(given.args, given.kwargs):
            if id(tensor) not in self.graph.tensors:
                use.batch_sized = use.batch_sized and (tensor.dim() == 0 or len(tensor) == self._n)
                if self.meter is not None:
                    self.meter.note(tensor)

    def _listen(self, use: Use, outputs: list[Tensor]) -> None:
        for first in outputs:
            if first.requires_grad:
                break
        else:
            return
        use.shape = first.shape
        if self._plan is not None:
            self._check_shape(use, self._plan[len(self.uses) - 1])
        receive = partial(self._fire, use)
        if use.call is not None and use.call.stand_ins:
            hooks.on_leaves(use.call.take_stand_ins(), receive)
        elif len(outputs) > 1 or not hooks.on_output(first, receive):
            hooks.on_outputs(outputs, receive)

    def _check_shape(self, use: Use, plan: UsePlan) -> None:
        if plan.layout is not None and plan.layout.shape_for(plan.shape, self._n) != use.shape:
            raise PlanMismatchError(f"the output of '{use.key.op}' has shape {tuple(use.shape)}")

    def _confirm(self, gradients: Sequence[Tensor | None]) -> None:
        """Note the samples whose gradient reaches a use that none reached in the probe."""
        for gradient in gradients:
            if gradient is not None:
                self.revived |= set(gradient.reshape(len(gradient), -1).any(1).nonzero().flatten().tolist())

    def _fire(self, use: Use, gradients: list[Tensor | None]) -> None:
        """Serve one use, now that its output gradient is known."""
        if not self.backward_runs:
            raise UnsupportedError("log_prob calls autograd itself")
        with torch._C.DisableTorchFunction():  # autograd itself has switched gradients off
            if self._plan is None:
                use.support[self.sample] = support_of(next(g for g in gradients if g is not None))
                return
            call, use.call = use.call, None
            if call is None:
                if self._skipped.isdisjoint(use.key.parameters):
                    raise UnsupportedError(f"the output of '{use.key.op}' reached log p, but did not in the probe")
                return
            if use.assumed:
                self._confirm(gradients)
            start = perf_counter()
            collected: dict[int, GradientForm] = {}
            for weight, form in call.gradients(gradients):
                old = collected.get(id(weight))
                collected[id(weight)] = form if old is None else add_forms(old, form)
            for weight in call.weights:
                self.graph.add(weight, collected.pop(id(weight), None))
            use.seconds = perf_counter() - start


def _results(args: Sequence[Any], result: Any) -> list[Tensor]:
    """Return the tensors that an op made, or the one that it wrote to."""
    if isinstance(result, Tensor):
        return [result]
    return tensors_of(args[:1] if result is None else (result,))


def _renamed(result: Any, values: list[Tensor]) -> Any:
    # torch.return_types are tuples built from one sequence
    return type(result)(values)
