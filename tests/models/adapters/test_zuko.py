from __future__ import annotations

import pytest
import torch

from fisherscope.pipeline.target import Target

zuko = pytest.importorskip("zuko", reason="needs fisherscope[flows]")
from fisherscope.models.adapters.zuko import log_prob  # noqa: E402


def test_a_flow_and_the_callable_are_a_model() -> None:
    flow = zuko.flows.MAF(features=3, transforms=1, hidden_features=(8,))
    x = torch.randn(4, 3)
    assert torch.equal(log_prob(flow, x), flow().log_prob(x))
    assert log_prob(flow.double(), x).dtype == torch.float64
    assert Target(flow, log_prob, "maf").log_prob is log_prob
