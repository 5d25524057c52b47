"""The parameter-only part of a model's computation, and the way of gradients back through it.

Whatever is computed from parameters and constants alone (a mask times a weight, exp of a scale, an LU product, a
log-determinant) is "weight-like". Parameters joined by such ops form a component. A parameter used as it is needs no
more than the forms of its uses; in a larger component the per-group gradients of the weight-like tensors that met
data are pulled back to the parameters together, in one batched backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from torch import Tensor
from torch.nn import Parameter

from fisherscope.features.gradients.component import Component, Scaling, UnsupportedError
from fisherscope.features.gradients.entrywise import Relation
from fisherscope.features.gradients.forms import DenseForm, GradientForm, ZeroForm
from fisherscope.features.gradients.pull_back import pull_back
from fisherscope.features.gradients.scaled_form import ScaledForm
from fisherscope.features.gradients.table_form import add_forms

PULL_BACK_BYTES: Final = 64 << 20
"""Per-group gradients of derived tensors are pulled back once they take this much memory."""

Sink = Callable[[str, GradientForm], None]


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
        self._components: dict[int, Component] = {}
        self.tensors: dict[int, Tensor] = {}
        """Weight-like tensors by id; they live as long as the graph, so an id stays theirs."""
        self.complete = False
        """Whether the forward pass is over, and with it what is known of the components."""
        self._waiting: list[Component] = []
        self._waiting_bytes = 0
        for name, parameter in parameters.items():
            self.tensors[id(parameter)] = parameter
            self._components[id(parameter)] = Component(parameter, name)

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self.tensors

    def derive(
        self,
        sources: Sequence[Tensor],
        result: Tensor,
        scaling: Scaling | None = None,
        relation: Relation | None = None,
    ) -> None:
        """Note that ``result`` was computed from weight-like ``sources`` alone, and how, where that is of use."""
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
            component.relate(sources, result, relation)
        else:
            component.scaling = None
            component.forget_origins()

    def note_use(self, tensors: Sequence[Tensor]) -> tuple[str, ...]:
        """Count one op in which some weight-like tensors, each once, met data; return the parameters behind them."""
        found = []
        for tensor in tensors:
            component = self._components[id(tensor)]
            component.uses += 1
            component.used.add(id(tensor))
            if component not in found:
                found.append(component)
        return tuple(name for component in found for name in component.parameters)

    def add(self, tensor: Tensor, form: GradientForm | None) -> None:
        """Take the gradient that one counted use yields (None: it yields none)."""
        component = self._components[id(tensor)]
        if component.finished:
            raise UnsupportedError(
                f"a gradient of {', '.join(component.parameters)} arrived after the last expected one"
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

    def _accumulate(self, component: Component, tensor: Tensor, gradient: Tensor) -> None:
        old = component.cotangents.get(id(tensor))
        if old is not None:
            if old[1] != tensor._version:
                raise UnsupportedError("a tensor computed from parameters is changed in place between two uses")
            gradient = old[2] + gradient
        component.cotangents[id(tensor)] = (tensor, tensor._version, gradient)

    def _complete(self, component: Component) -> None:
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
        self._sink(name, ZeroForm(parameter, self._n_groups) if form is None else form)

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
