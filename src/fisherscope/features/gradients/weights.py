"""The parameter-only part of a model's computation, and the way of gradients back through it.

Whatever is computed from parameters and constants alone (a mask times a weight, exp of a scale, an LU product, a
log-determinant) is "weight-like". Parameters joined by such ops form a component. A parameter used as it is needs no
more than the forms of its uses; in a larger component the per-group gradients of the weight-like tensors that met
data are pulled back to the parameters together, in one batched backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import Parameter

from fisherscope.features.gradients.forms import DenseForm, GradientForm
from fisherscope.features.gradients.scaled_form import ScaledForm
from fisherscope.features.gradients.table_form import add_forms

PULL_BACK_BYTES: Final = 64 << 20
"""Per-group gradients of derived tensors are pulled back once they take this much memory."""

Sink = Callable[[str, GradientForm], None]


class UnsupportedError(Exception):
    """The batched pass cannot serve this model; the reference loop can. Never leaves the package."""


@dataclass(frozen=True)
class Scaling:
    """How a tensor was made of one parameter: multiplied by a constant of as many axes.

    Attributes:
        product: the tensor.
        constant: broadcasts to the parameter's shape.
        versions: of both, when they were multiplied; another version means that somebody wrote into one.
    """

    product: Tensor
    constant: Tensor
    versions: tuple[int, int]

    def check(self) -> None:
        """Raise :class:`UnsupportedError` if either tensor was changed in place since."""
        if (self.product._version, self.constant._version) != self.versions:
            raise UnsupportedError("a masked or scaled parameter is changed in place after it met data")


def scaling_of(func: Callable[..., Any], args: Sequence[Any], result: Any) -> Scaling | None:
    """Return the scaling that a torch function of parameters and constants computed, or None if it is no such."""
    name = getattr(func, "__name__", "")
    if name not in ("mul", "multiply", "__mul__", "__rmul__") or len(args) != 2 or not isinstance(result, Tensor):
        return None
    weight, constant = args if isinstance(args[0], Parameter) else reversed(args)
    if not isinstance(weight, Parameter) or not isinstance(constant, Tensor) or constant.requires_grad:
        return None
    if result.shape != weight.shape or constant.dim() != weight.dim() or not weight.dim() or result.is_complex():
        return None
    return Scaling(result, constant, (result._version, constant._version))


class _Component:
    """Parameters joined by parameter-only ops, and what their uses have yielded so far."""

    def __init__(self, tensor: Tensor, name: str) -> None:
        self.parameters: dict[str, Tensor] = {name: tensor}
        self.derived: list[Tensor] = []
        self.scaling: Scaling | None = None
        self.used: set[int] = set()
        self.uses = 0
        self.done = 0
        self.form: GradientForm | None = None
        self.cotangents: dict[int, tuple[Tensor, int, Tensor]] = {}
        self.finished = False

    def absorb(self, other: _Component) -> None:
        self.parameters |= other.parameters
        self.derived += other.derived
        self.scaling = None
        self.used |= other.used
        self.uses += other.uses

    @property
    def lone(self) -> bool:
        return not self.derived and len(self.parameters) == 1

    @property
    def scaled(self) -> Scaling | None:
        """The one product by a constant through which alone the one parameter meets data, if so."""
        if self.scaling is None or len(self.derived) != 1 or self.used != {id(self.scaling.product)}:
            return None
        return self.scaling


class WeightGraph:
    """Every weight-like tensor of one forward pass and the gradients that arrive at it.

    Args:
        parameters: trainable parameters by name.
        n_groups: M.
        sink: called once for each parameter with its complete gradient.
    """

    def __init__(self, parameters: Mapping[str, Parameter], n_groups: int, sink: Sink) -> None:
        self._sink = sink
        self._n_groups = n_groups
        self._components: dict[int, _Component] = {}
        self.tensors: dict[int, Tensor] = {}
        """Weight-like tensors by id; they live as long as the graph, so an id stays theirs."""
        self.complete = False
        """Whether the forward pass is over, and with it what is known of the components."""
        self._waiting: list[_Component] = []
        self._waiting_bytes = 0
        for name, parameter in parameters.items():
            self.tensors[id(parameter)] = parameter
            self._components[id(parameter)] = _Component(parameter, name)

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self.tensors

    def names(self, tensors: Sequence[Tensor]) -> tuple[str, ...]:
        """Return the names of the parameters behind some weight-like tensors."""
        if len(tensors) == 1:
            return tuple(self._components[id(tensors[0])].parameters)
        return tuple(dict.fromkeys(name for t in tensors for name in self._components[id(t)].parameters))

    def derive(self, sources: Sequence[Tensor], result: Tensor, scaling: Scaling | None = None) -> None:
        """Note that ``result`` was computed from weight-like ``sources`` alone, and how, where it is a scaling."""
        if self.complete:  # a checkpointed segment runs again
            self.tensors[id(result)] = result
            self._components[id(result)] = self._components[id(sources[0])]
            return
        component = self._components[id(sources[0])]
        for source in sources[1:]:
            other = self._components[id(source)]
            if other is not component:
                component.absorb(other)
                for tensor in (*other.parameters.values(), *other.derived):
                    self._components[id(tensor)] = component
        if result not in self:
            self.tensors[id(result)] = result
            self._components[id(result)] = component
            component.derived.append(result)
            component.scaling = scaling
        else:
            component.scaling = None

    def note_use(self, tensor: Tensor) -> None:
        """Count one op in which the tensor met data."""
        component = self._components[id(tensor)]
        component.uses += 1
        component.used.add(id(tensor))

    def add(self, tensor: Tensor, form: GradientForm | None) -> None:
        """Take the gradient that one counted use yields (None: it yields none)."""
        component = self._components[id(tensor)]
        if component.finished:
            raise UnsupportedError(
                f"a gradient of {', '.join(self.names([tensor]))} arrived after the last expected one"
            )
        component.done += 1
        if form is not None and (component.lone or component.scaled):
            component.form = form if component.form is None else add_forms(component.form, form)
        elif form is not None:
            self._accumulate(component, tensor, form.dense())
        if component.done == component.uses:
            self._complete(component)

    def finish(self) -> None:
        """Deliver what is still incomplete: uses whose output did not reach log p, parameters without any use."""
        for component in {id(c): c for c in self._components.values()}.values():
            if not component.finished:
                self._complete(component)
        self._pull_back()

    def _accumulate(self, component: _Component, tensor: Tensor, gradient: Tensor) -> None:
        old = component.cotangents.get(id(tensor))
        if old is not None:
            if old[1] != tensor._version:
                raise UnsupportedError("a tensor computed from parameters is changed in place between two uses")
            gradient = old[2] + gradient
        component.cotangents[id(tensor)] = (tensor, tensor._version, gradient)

    def _complete(self, component: _Component) -> None:
        component.finished = True
        scaling = component.scaled
        if component.lone or scaling is not None:
            ((name, parameter),) = component.parameters.items()
            form, component.form = component.form, None
            if scaling is not None and form is not None:
                scaling.check()
                form = ScaledForm(form, scaling.constant)
            self._deliver(name, parameter, form)
            return
        self._waiting.append(component)
        self._waiting_bytes += sum(g.numel() * g.element_size() for _, _, g in component.cotangents.values())
        if self._waiting_bytes > PULL_BACK_BYTES:
            self._pull_back()

    def _deliver(self, name: str, parameter: Tensor, form: GradientForm | None) -> None:
        if form is None:
            form = DenseForm(parameter.new_zeros(()).expand(self._n_groups, *parameter.shape))
        self._sink(name, form)

    def _pull_back(self) -> None:
        components, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if not components:
            return
        totals = pull_back(components, self._n_groups)
        for component in components:
            component.cotangents.clear()
            for name, parameter in component.parameters.items():
                total = totals.get(id(parameter))
                self._deliver(name, parameter, None if total is None else DenseForm(total))


def pull_back(components: Sequence[_Component], n_groups: int) -> dict[int, Tensor]:
    """Return per-group gradients (M, *shape) by parameter id, from those of the weight-like tensors used with data."""
    totals: dict[int, Tensor] = {}
    scalars: list[tuple[Tensor, Tensor, _Component]] = []
    others: list[tuple[Tensor, Tensor]] = []
    for component in components:
        own = {id(p) for p in component.parameters.values()}
        first = True
        for tensor, version, gradient in component.cotangents.values():
            if tensor._version != version:
                raise UnsupportedError("a tensor computed from parameters is changed in place after it met data")
            if id(tensor) in own:
                totals[id(tensor)] = gradient
            elif tensor.numel() == 1 and first:
                scalars.append((tensor, gradient, component))
                first = False
            else:
                others.append((tensor, gradient))
    parameters = [p for c in components for p in c.parameters.values()]
    _pull_back_scalars(scalars, n_groups, totals)
    _pull_back_tensors(others, parameters, n_groups, totals)
    return totals


def _add(totals: dict[int, Tensor], parameter: Tensor, gradient: Tensor) -> None:
    old = totals.get(id(parameter))
    totals[id(parameter)] = gradient if old is None else old + gradient


def _pull_back_scalars(
    scalars: Sequence[tuple[Tensor, Tensor, _Component]], n_groups: int, totals: dict[int, Tensor]
) -> None:
    # A scalar (log|det W|, say) has one gradient; each group has a multiple of it. The components are disjoint,
    # so one ordinary backward pass serves all of them.
    if not scalars:
        return
    parameters = [p for _, _, c in scalars for p in c.parameters.values()]
    multiples = [g for _, g, c in scalars for _ in c.parameters]
    with torch.enable_grad():
        outputs = [tensor for tensor, _, _ in scalars]
        gradients = torch.autograd.grad(
            outputs, parameters, [torch.ones_like(t) for t in outputs], allow_unused=True, retain_graph=True
        )
    for parameter, multiple, gradient in zip(parameters, multiples, gradients, strict=True):
        if gradient is not None:
            factor = multiple.reshape(n_groups, *(1,) * parameter.dim()).to(gradient.dtype)
            _add(totals, parameter, factor * gradient)


def _pull_back_tensors(
    others: Sequence[tuple[Tensor, Tensor]], parameters: Sequence[Tensor], n_groups: int, totals: dict[int, Tensor]
) -> None:
    if not others:
        return
    outputs = [tensor for tensor, _ in others]
    cotangents = [g.reshape(n_groups, *t.shape).to(t.dtype) for t, g in others]
    for parameter, gradient in zip(parameters, _batched_vjp(outputs, parameters, cotangents), strict=True):
        if gradient is not None:
            _add(totals, parameter, gradient)


def _batched_vjp(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> list[Tensor | None]:
    with torch.enable_grad():
        try:
            return list(
                torch.autograd.grad(
                    outputs, inputs, cotangents, allow_unused=True, retain_graph=True, is_grads_batched=True
                )
            )
        except RuntimeError:
            # some op in the parameter graph has no batched backward: one group at a time
            rows = [
                torch.autograd.grad(outputs, inputs, [c[m] for c in cotangents], allow_unused=True, retain_graph=True)
                for m in range(len(cotangents[0]))
            ]
    return [None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True)]
