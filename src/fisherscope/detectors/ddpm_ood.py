"""Reconstruction from several amounts of noise (Graham et al. 2023), a variant without LPIPS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.densities.base import Array
from fisherscope.detectors.vectors import group_means, member_vectors, varying_columns


class DdpmOod(Detector):
    """score = mean over starts and measures of (error - m) / d, m and d the fit samples' mean and deviation.

    Graham et al. 2023 (arXiv 2211.07740) measure errors by MSE and LPIPS. LPIPS needs the weights of an image
    classifier; in its place stands 1 - SSIM, which the name says. A group's score is the mean over its samples.
    """

    name = "ddpm-ood-mse-ssim"
    requires = ("restoration",)
    min_fit = 2

    kept_: NDArray[np.intp]
    centre_: Array
    spread_: Array

    def _fit(self, table: FeatureTable) -> None:
        errors = member_vectors(table, "restoration")
        self.kept_ = varying_columns(errors, self.name, table.card.dtype)
        self.centre_ = errors[:, self.kept_].mean(0)
        self.spread_ = errors[:, self.kept_].std(0, ddof=1)

    def _score(self, table: FeatureTable) -> Scores:
        errors = member_vectors(table, "restoration")[:, self.kept_]
        return group_means(((errors - self.centre_) / self.spread_).mean(1), table)
