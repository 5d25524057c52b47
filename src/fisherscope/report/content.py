"""What a report is made of: numbers and names only, so that it can be rebuilt without the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fisherscope.evaluation import PairScores, Protocol, Record


@dataclass(frozen=True)
class LayerHistogram:
    """The feature of one parameter tensor.

    Attributes:
        layer: name of the parameter tensor.
        group_size: B.
        log_norms: log f_l by data set, each of shape (n groups,).
        mean: of the normal fitted to the fit part.
        deviation: its standard deviation.
    """

    layer: str
    group_size: int
    log_norms: Mapping[str, NDArray[Any]]
    mean: float
    deviation: float


@dataclass(frozen=True)
class RankedImage:
    """One image with its verdict.

    Attributes:
        image: uint8 (C, H, W), C = 1 or 3.
        name: id of the sample.
        data_set: name of the set it comes from.
        p_value: conformal p-value by the report's detector.
    """

    image: NDArray[np.uint8]
    name: str
    data_set: str
    p_value: float


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page. What is empty or None leaves its section out.

    Attributes:
        title: of the page.
        detector: the gradient detector that the verdict is about, chosen beforehand and not by its result.
        records: results of all detectors.
        pairs: the scores behind them, for ROC curves and paired comparisons.
        protocol: how they were obtained.
        controls: names of the detectors that use no model.
        bits_per_dim: by data set, shape (n,) each.
        layers: histograms to show.
        most_novel: images with the smallest p-values or highest scores, the most novel first.
        least_novel: the least novel first.
        samples: images drawn from the model, uint8 (n, C, H, W).
        model_card: facts about the model, by label.
        versions: of the software, by name.
        command: the command line that reproduces the page.
    """

    title: str
    detector: str
    records: tuple[Record, ...]
    pairs: tuple[PairScores, ...]
    protocol: Protocol
    controls: tuple[str, ...] = ("pixel-mahalanobis",)
    bits_per_dim: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    layers: tuple[LayerHistogram, ...] = ()
    most_novel: tuple[RankedImage, ...] = ()
    least_novel: tuple[RankedImage, ...] = ()
    samples: NDArray[np.uint8] | None = None
    model_card: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
