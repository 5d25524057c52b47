"""Forward passes alone have the guards that gradients have."""

import numpy as np
import pytest
import torch
from torch import nn

from fisherscope.core.errors import ModelError
from fisherscope.core.keys import sample_keys
from fisherscope.features.companions import Companion
from fisherscope.features.extractors import Request, choose_extractors

X = np.random.default_rng(0).normal(size=(12, 6))


class Model(nn.Module):
    """Linear, then a layer of the test's, then what the test does with the values."""

    def __init__(self, layer=None, run=None):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.layer = nn.Linear(6, 4), layer or nn.Identity()
        self.register_buffer("calls", torch.zeros(()))
        self.run = run or (lambda module, values: values)
        self.sizes = []

    def log_prob(self, x):
        self.sizes.append(len(x))
        return -self.run(self, self.layer(self.linear(x))).square().sum(1)


def plain():
    return Model().double()


def counting(module, values):
    module.calls += 1
    return values


def extractor_and_request(block, module, x=X):
    """The extractor of a block that reads log p of ``module``, as the model itself or as a companion."""
    kind, _, role = block.partition(" of ")
    name = "background" if kind == "background_log_p" else "second"
    other = Companion(name, module if role == "companion" else plain())
    (extractor,) = choose_extractors([kind], companions=[other])
    return extractor, Request(plain() if role == "companion" else module, None, x, sample_keys(x))


BLOCKS = ("log_p", "statistics", "ensemble_log_p", "ensemble_log_p of companion", "background_log_p of companion")

UNUSABLE = {
    "dropout": (lambda: Model(nn.Dropout(0.5)).double(), r"'layer' \(Dropout\) drops units .*eval\(\)"),
    "batch norm": (lambda: Model(nn.BatchNorm1d(4)).double(), r"'layer' \(BatchNorm1d\) normalises .*eval\(\)"),
    "noise": (lambda: Model(run=lambda m, v: v + torch.randn_like(v)).double(), r"random.*seed= and keys="),
    "others": (lambda: Model(run=lambda m, v: v - v.mean(0)).double(), "samples interact"),
    "state": (lambda: Model(run=counting).double(), r"changes buffer 'calls'.*eval\(\)"),
}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("case", UNUSABLE)
def test_models_without_a_log_p_of_each_sample_are_refused_and_left_alone(block, case):
    make, message = UNUSABLE[case]
    module = make().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    extractor, request = extractor_and_request(block, module)
    with pytest.raises(ModelError, match=message):
        extractor.extract(request)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("block", BLOCKS)
def test_a_few_samples_of_the_first_batch_are_the_price_and_values_are_the_models(block):
    module = Model(nn.BatchNorm1d(4)).double().eval()
    with torch.no_grad():
        expected = module.log_prob(torch.from_numpy(X)).numpy()
    module.sizes.clear()
    extractor, request = extractor_and_request(block, module)
    column = -1 if "companion" in block else 0
    for _ in range(2):
        (values,) = extractor.extract(request).values()
        np.testing.assert_array_equal(values.reshape(12, -1)[:, column], expected)
    assert sorted(module.sizes) == [1, 1, 1, 3, 3, 12, 12]


def test_a_batch_of_one_sample_and_inputs_changed_in_place():
    def in_place(module, x):
        return -module.linear(x.mul_(2)).square().sum(1)

    module = plain()
    for n in (1, 2, 12):
        (extractor,) = choose_extractors(["log_p"])
        found = extractor.extract(Request(module, in_place, X[:n], sample_keys(X[:n])))["log_p"]
        expected = in_place(module, torch.from_numpy(X[:n]).clone()).detach()
        np.testing.assert_array_equal(found[:, 0], expected)
