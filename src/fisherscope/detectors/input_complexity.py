"""The likelihood corrected by how well a codec compresses the sample (Serra et al. 2020)."""

from __future__ import annotations

from typing import Final

import numpy as np

from fisherscope.core.errors import DataError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Scores
from fisherscope.detectors.fixed import FixedScore

NATS_PER_BYTE: Final = 8 * np.log(2)


class InputComplexity(FixedScore):
    """score = -log p(x) - L(x) in nats, L the length of the codec's code (Serra et al., arXiv 1909.11480).

    The log of a likelihood ratio of the codec, as a universal model, and the model. A codec's header is a constant,
    so the score's zero means nothing; its order does. A group's score is the mean over its samples.

    Args:
        codec: column of ``codec_bytes``: ``png``, ``webp``, ``jpeg2000`` or ``zlib``.
    """

    requires = ("log_p", "codec_bytes")

    def __init__(self, codec: str) -> None:
        self.name = f"input-complexity-{codec}"
        self._codec = codec

    def _score(self, table: FeatureTable) -> Scores:
        sizes, names = table.block("codec_bytes"), table.columns.get("codec_bytes", ())
        if self._codec not in names:
            raise DataError(
                f"{self.name} needs code lengths of {self._codec}, the table has those of {', '.join(names)}; "
                "image codecs need a model whose data_shape is (1 or 3, H, W), and zlib takes any bytes"
            )
        lengths = NATS_PER_BYTE * sizes[..., names.index(self._codec)].astype(np.float64)
        scores: Scores = (-table.block("log_p").astype(np.float64) - lengths).mean(1)
        return scores
