"""Numbers that must never drift: keys, noise, log p and gradient norms of a fixed model on fixed digits.

``python tests/golden/test_scores.py`` writes them anew; do that only when a change is meant, and say why.
"""

import json
from pathlib import Path

import numpy as np
import torch

from fisherscope import gradient_norms
from fisherscope.core.keys import sample_keys
from fisherscope.core.store import write_json
from fisherscope.models.glow import Glow
from fisherscope.models.noise import normal_noise, uniform_noise

STORED = Path(__file__).with_name("scores.json")


def fixed_glow():
    """A Glow in float64 whose weights come from a formula, not from a generator."""
    glow = Glow((1, 8, 8), levels=2, steps=2, hidden=4).double()
    with torch.no_grad():
        for i, parameter in enumerate(glow.parameters()):
            wave = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) + i).reshape(parameter.shape)
            parameter.copy_(0.1 * wave)
        for step in (step for scale in glow.scales for step in scale.steps):
            step.permutation.weight += torch.eye(len(step.permutation.weight))
    return glow


def compute():
    x = (np.arange(3 * 64).reshape(3, 1, 8, 8) * 37 % 256).astype(np.uint8)
    keys = sample_keys(x)
    like = torch.zeros((), dtype=torch.float64)
    glow = fixed_glow()
    norms = gradient_norms(glow, torch.from_numpy(x).double(), keys=keys, seed=3)
    return {
        "keys": [str(k) for k in keys],
        "uniform": uniform_noise(keys, (2,), seed=3, like=like).tolist(),
        "normal": normal_noise(keys, (2,), seed=3, stream=1, like=like).tolist(),
        "log_p": glow.log_prob(torch.from_numpy(x), keys=keys, seed=3).tolist(),
        "norms": {name: value.tolist() for name, value in norms.items()},
    }


def test_scores_have_not_drifted():
    stored, now = json.loads(STORED.read_text()), compute()
    assert now["keys"] == stored["keys"]
    for name in ("uniform", "normal", "log_p"):
        np.testing.assert_allclose(now[name], stored[name], rtol=1e-9)
    assert now["norms"].keys() == stored["norms"].keys()
    for name, value in now["norms"].items():
        np.testing.assert_allclose(value, stored["norms"][name], rtol=1e-7, err_msg=name)


if __name__ == "__main__":
    write_json(STORED, compute())
