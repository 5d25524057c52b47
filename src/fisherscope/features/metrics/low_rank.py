"""The empirical Fisher matrix itself, of low rank plus damping, by way of the fit gradients' inner products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fisherscope.core.errors import DataError
from fisherscope.core.parts import part
from fisherscope.features.gradients import Reduction
from fisherscope.features.gradients.forms import GradientForm
from fisherscope.features.metrics.base import FisherMetric, State
from fisherscope.features.metrics.collectors import require_finite
from fisherscope.features.metrics.feature import GradientFeature, trainable_names
from fisherscope.features.metrics.frames import ROUND_OFF, shares

RELATIVE_DAMPINGS: Final = np.logspace(-4, 4, 81)
_WHOLE: Final = "(all)"


class LowRank(FisherMetric):
    """d^T (B (C + lambda I))^-1 d, C = D^T D / N with the fit gradients (minus their mean) as rows of D.

    By Woodbury this is (||d||^2 - y^T (N lambda I + D D^T)^-1 y) / (B lambda) with y = D d: nothing of the size of the
    Fisher matrix is formed. lambda maximises the leave-one-out Gaussian likelihood of the fit gradients, in closed
    form. Keeps the gradients of ``max_samples`` fit samples, evenly spaced over all. New samples join them if there is
    room for every one; else an update is refused, as what is kept would no longer be a fair choice of all samples.

    Args:
        name: how blocks call it.
        per_layer: one matrix a parameter tensor; False: one for all, with a single column ``(all)``.
        centred: subtract the mean fit gradient.
        max_samples: how many fit gradients are kept, and as many samples a fit runs.
    """

    stages = 1
    growing = (0,)

    def __init__(self, name: str, *, per_layer: bool = True, centred: bool = True, max_samples: int = 256) -> None:
        self.name = name
        self._per_layer = per_layer
        self._centred = centred
        self.max_samples = max_samples
        self._rows = _Rows(name, max_samples)
        self._damping: dict[str, float] = {}
        self._solvers: dict[str, _Solver] = {}

    def collector(self, stage: int) -> Reduction:
        self._rows.require_room(1)
        return self._rows

    def finish(self, stage: int) -> None:
        rows = self._rows.rows
        groups = {n: [n] for n in rows} if self._per_layer else {_WHOLE: sorted(rows)}
        self._solvers = {}
        for label, names in groups.items():
            solver = _Solver({n: rows[n] for n in names}, self._centred)
            if solver.varies:
                if label not in self._damping:  # the damping of a first fit stays when samples are added
                    self._damping[label] = solver.choose_damping()
                self._solvers[label] = solver
        if not self._solvers:
            raise DataError(f"{self.name} was given fit samples whose gradients are all the same; give different ones")

    def features(self) -> tuple[GradientFeature, ...]:
        return (_Lengths(self.name, self._solvers, self._damping, self._per_layer),)

    def state(self) -> State:
        if not self._solvers:
            return {}
        rows = {f"rows:{n}": r.cpu().numpy() for n, r in self._rows.rows.items()}
        return {**rows, **{f"damping:{n}": np.asarray(d) for n, d in self._damping.items()}}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._rows.rows = {n: torch.from_numpy(r.copy()) for n, r in part(state, "rows:").items()}
        self._damping = {n: float(d) for n, d in part(state, "damping:").items()}
        self.finish(0)


class _Rows(Reduction):
    """Gradients of all samples that it is shown, name -> (N, n_l), as they come; too many are a :class:`DataError`."""

    def __init__(self, metric: str, max_samples: int) -> None:
        self._metric = metric
        self._max_samples = max_samples
        self.rows: dict[str, Tensor] = {}

    def update(self, name: str, form: GradientForm) -> None:
        self.require_room(form.n_groups, name)
        old, new = self.rows.get(name), form.vectors().clone()
        require_finite(new, name, form, 0 if old is None else len(old))
        self.rows[name] = new if old is None else torch.cat([old, new.to(old.device)])

    def require_room(self, n: int, name: str | None = None) -> None:
        """Raise where n further samples of a parameter, by default of any, are more than may be kept."""
        kept = max((len(r) for p, r in self.rows.items() if name in (p, None)), default=0)
        if kept + n > self._max_samples:
            raise DataError(
                f"'{self._metric}' keeps the gradients of at most {self._max_samples} fit samples and has room for "
                f"{self._max_samples - kept} more; a part of the new ones would make no fair choice of all: "
                "fit it again on old and new samples together"
            )

    def result(self, names: list[str]) -> None:
        return None


class _Solver:
    """Fit gradients of some parameters together, centred, with the eigenvalues of their Gram matrix."""

    def __init__(self, rows: Mapping[str, Tensor], centred: bool) -> None:
        self.centred = centred
        self.n = len(next(iter(rows.values())))
        self.size = sum(r.shape[1] for r in rows.values())
        self.means = {n: r.mean(0) if centred else torch.zeros_like(r[0]) for n, r in rows.items()}
        self.deviations = {n: r - self.means[n] for n, r in rows.items()}
        self.gram = sum((d.double() @ d.double().mT for d in self.deviations.values()), torch.zeros(())).cpu()
        whole = sum(float(r.double().square().sum()) for r in rows.values())
        epsilon = torch.finfo(next(iter(rows.values())).dtype).eps
        self.varies = float(self.gram.trace()) > (ROUND_OFF * epsilon) ** 2 * whole

    def choose_damping(self) -> float:
        """Return the lambda of the highest leave-one-out likelihood; see ``detectors.leave_one_out``."""
        values, vectors = np.linalg.eigh(self.gram.numpy())
        eigenvalues = np.maximum(values, 0) / self.n
        squares = np.square(vectors) * np.maximum(values, 0)
        dampings = RELATIVE_DAMPINGS * eigenvalues.sum() / self.size
        likelihoods = [self._likelihood(squares, eigenvalues, damping) for damping in dampings]
        return float(dampings[int(np.argmax(likelihoods))])

    def _likelihood(self, squares: NDArray[np.float64], eigenvalues: NDArray[np.float64], damping: float) -> float:
        n, freedom = self.n, self.n - 1 if self.centred else self.n
        distance = squares @ (1 / (eigenvalues + damping))
        gap = np.maximum(1 - distance / freedom, np.finfo(np.float64).eps)
        left_out = (n / freedom) ** 2 * distance / gap
        # all directions outside the span of the fit gradients have the eigenvalue 0
        log_det = np.log(eigenvalues + damping).sum() + (self.size - n) * np.log(damping) + np.log(gap)
        return float(-0.5 * (left_out + log_det).mean())


class _LowRankLengths(Reduction):
    """name -> (n_groups,) for each solver."""

    def __init__(self, solvers: Mapping[str, _Solver], damping: Mapping[str, float], group_size: int) -> None:
        self._solvers = solvers
        self._damping = damping
        self._group_size = group_size
        self._home = {name: label for label, solver in solvers.items() for name in solver.deviations}
        self._parts: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def update(self, name: str, form: GradientForm) -> None:
        if name in self._home:
            solver = self._solvers[self._home[name]]
            device = form.sample.device
            # the two parts of a length nearly cancel where damping is small, and float32 would leave nothing of it
            gradient = form.vectors().double() - self._group_size * solver.means[name].to(device).double()
            inner = gradient @ solver.deviations[name].to(device).double().mT
            self._parts.setdefault(name, []).append((gradient.square().sum(1), inner))

    def result(self, names: list[str]) -> dict[str, Tensor]:
        labels = [label for label in (*names, _WHOLE) if label in self._solvers]
        return {label: self._lengths(label, self._solvers[label]) for label in labels}

    def _lengths(self, label: str, solver: _Solver) -> Tensor:
        norms = [torch.cat([norm for norm, _ in self._parts[n]]) for n in solver.deviations]
        inners = [torch.cat([inner for _, inner in self._parts[n]]) for n in solver.deviations]
        norm, inner = torch.stack(norms).sum(0).cpu(), torch.stack(inners).sum(0).cpu()
        damping = self._damping[label]
        matrix = solver.gram + solver.n * damping * torch.eye(solver.n, dtype=torch.float64)
        explained = (inner * torch.linalg.solve(matrix, inner.mT).mT).sum(1)
        lengths: Tensor = (norm - explained).clamp_min(0) / (damping * self._group_size)
        return lengths


class _Lengths(GradientFeature):
    """``metric:NAME`` (N, B, L), or (N, B, 1) for all parameters together."""

    per_sample = False

    def __init__(
        self, metric: str, solvers: Mapping[str, _Solver], damping: Mapping[str, float], per_layer: bool
    ) -> None:
        self.block = f"metric:{metric}"
        self._solvers = solvers
        self._damping = damping
        self._per_layer = per_layer

    def reduction(self, module: nn.Module, group_size: int) -> Reduction:
        return _LowRankLengths(self._solvers, self._damping, group_size)

    def to_block(self, result: Any, group_size: int) -> Tensor:
        return shares(torch.stack(list(result.values()), dim=1), group_size)

    def columns(self, module: nn.Module) -> tuple[str, ...] | None:
        return tuple(n for n in trainable_names(module) if n in self._solvers) if self._per_layer else (_WHOLE,)

    def settings(self, module: nn.Module) -> dict[str, Any] | None:
        sizes = [self._solvers[name].size for name in self.columns(module) or ()]
        return {"sizes": sizes}
