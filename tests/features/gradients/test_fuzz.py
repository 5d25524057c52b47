"""Random small models, compositions of everything a user may write, batched against the loop."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from gradient_reference import assert_close_norms, call, energy, normal
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from fisherscope.features.gradients import GroupGradients, Sketch, gradient_norms, gradient_pass, rules_report


class Fuzzed(nn.Module):
    """A chain of random steps on (n, C, H, W) or (n, T, D) data, then a log p of each sample."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.channels = self.random.choice([2, 4, 6])
        self.image = self.random.random() < 0.5
        self.layers = nn.ModuleList()
        self.loose = nn.ParameterList()
        self.steps = []
        for _ in range(self.random.randint(2, 6)):
            self.steps.append(self._step())
        self.head = nn.Parameter(0.3 * torch.randn(()))
        self.double().eval()
        for p in self.parameters():
            if p.dim() < 2:
                nn.init.normal_(p, std=0.5)
        for p in list(self.parameters())[:-1]:
            p.requires_grad_(self.random.random() < 0.85)

    def sample(self, n: int) -> torch.Tensor:
        shape = (self.channels, 5, 6) if self.image else (5, self.channels)
        return normal(n, *shape, seed=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        extra = 0
        for step in self.steps:
            result = step(x)
            if isinstance(result, tuple):
                x, term = result
                extra = extra + term
            else:
                x = result
        return energy(x) + extra + self.head

    def _module(self, module: nn.Module) -> nn.Module:
        self.layers.append(module)
        return module

    def _parameter(self, *shape: int) -> nn.Parameter:
        p = nn.Parameter(0.5 * torch.randn(shape))
        self.loose.append(p)
        return p

    def _step(self):
        kinds = ["affine", "inplace", "tied", "logdet", "masked", "assign", "norm", "gated", "checkpoint", "detour"]
        kinds += ["prelu", "embedding"]
        of_images = ["conv", "transposed", "groups", "volume"]
        kinds += of_images if self.image else ["linear", "attention", "recurrent", "matmul", "einsum", "line", "scaled"]
        return getattr(self, f"_{self.random.choice(kinds)}")()

    def _bcast(self, p: torch.Tensor) -> torch.Tensor:
        return p.view(-1, 1, 1) if self.image else p

    def _mix(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.tanh(F.conv2d(x, w[:, :, None, None]) if self.image else F.linear(x, w))

    def _affine(self):
        a, b = self._parameter(self.channels), self._parameter(self.channels)
        if self.random.random() < 0.5:
            return lambda x: ((x + self._bcast(b)) * torch.exp(self._bcast(a)), 7 * a.sum())
        return lambda x: torch.addcmul(self._bcast(b), x, self._bcast(a)) - self._bcast(a) / (1 + x.square())

    def _inplace(self):
        a, b = self._parameter(self.channels), self._parameter(1)

        def run(x):
            y = x * 1.0
            y += self._bcast(a)
            y.mul_(b)
            return y.tanh_()

        return run

    def _tied(self):
        w = self._parameter(self.channels, self.channels)
        return lambda x: self._mix(x + self._mix(x, w), w)

    def _logdet(self):
        w = self._parameter(self.channels, self.channels)
        d = self._parameter(self.channels)

        def run(x):
            lower = torch.tril(w, -1) + torch.eye(self.channels, dtype=w.dtype)
            full = lower @ (torch.triu(w, 1) + torch.diag(torch.exp(d)))
            return self._mix(x, full), d.sum() * 5 + torch.linalg.slogdet(full)[1]

        return run

    def _masked(self):
        w = self._parameter(self.channels, self.channels)
        return lambda x: self._mix(x, w * torch.ones_like(w).tril())

    def _assign(self):
        a = self._parameter(self.channels)
        axis = 1 if self.image else 2

        def run(x):
            y = torch.zeros_like(x)
            y[:, 0] = x[:, 0] * a[0]
            y[:, 1:] = x[:, 1:]
            y += x.select(axis, 0).unsqueeze(axis) * self._bcast(a)
            return y

        return run

    def _norm(self):
        c = self.channels
        if not self.image:
            norm = self._module(self.random.choice([nn.LayerNorm(c), nn.RMSNorm(c), nn.LayerNorm((5, c))]))
            return lambda x: norm(x)
        norm = self._module(
            self.random.choice([nn.GroupNorm(2, c), nn.InstanceNorm2d(c, affine=True), nn.BatchNorm2d(c)])
        )
        return lambda x: norm(x)

    def _gated(self):
        w, v = self._parameter(self.channels, self.channels), self._parameter(self.channels, self.channels)
        return lambda x: self._mix(x, w) * torch.sigmoid(self._mix(x, v.T))

    def _checkpoint(self):
        w = self._parameter(self.channels, self.channels)
        handed = self.random.random() < 0.3  # checkpoint hands such a weight on as another tensor: the loop serves it

        def run(x):
            x = x if x.requires_grad else x.requires_grad_()
            if handed:
                return checkpoint(self._mix, x, w, use_reentrant=False)
            return checkpoint(lambda x: self._mix(x, w), x, use_reentrant=False)

        return run

    def _detour(self):
        layer = self._module(nn.Linear(self.channels, self.channels))

        def run(x):
            rows = (x.movedim(1, -1) if self.image else x).reshape(-1, self.channels)
            mean = layer(rows).view(len(x), -1, self.channels).mean(1)
            return x + (mean[:, :, None, None] if self.image else mean[:, None])

        return run

    def _conv(self):
        r, c = self.random, self.channels
        layer = nn.Conv2d(
            c, c, r.choice([1, 3]), padding="same", padding_mode=r.choice(["zeros", "circular"]), bias=r.random() < 0.5
        )
        if r.random() < 0.3:
            layer = parametrizations.weight_norm(layer)
        layer = self._module(layer)
        return lambda x: torch.tanh(layer(x))

    def _transposed(self):
        layer = self._module(
            nn.ConvTranspose2d(self.channels, self.channels, 3, 2, 1, groups=self.random.choice([1, 2]))
        )
        return lambda x: torch.tanh(layer(x))[:, :, :5, :6]

    def _groups(self):
        layer = self._module(nn.Conv2d(self.channels, self.channels, 3, padding=2, dilation=2, groups=2))
        return lambda x: torch.relu_(layer(x)) + x

    def _linear(self):
        layer = self._module(nn.Linear(self.channels, self.channels, bias=self.random.random() < 0.5))
        first = self.random.random() < 0.5
        return lambda x: F.gelu(layer(x.transpose(0, 1)).transpose(0, 1) if first else layer(x))

    def _attention(self):
        layer = self._module(nn.MultiheadAttention(self.channels, 2, batch_first=self.random.random() < 0.5))

        def run(x):
            y = x if layer.batch_first else x.transpose(0, 1)
            y = layer(y, y, y)[0]
            return x + (y if layer.batch_first else y.transpose(0, 1))

        return run

    def _recurrent(self):
        kind = self.random.choice([nn.GRU, nn.LSTM, nn.RNN])
        both = self.random.random() < 0.3
        layer = self._module(kind(self.channels, self.channels // (1 + both), batch_first=True, bidirectional=both))
        return lambda x: layer(x)[0]

    def _prelu(self):
        # it takes its channels on axis 1
        layer = self._module(nn.PReLU(self.random.choice([1, self.channels]) if self.image else 1))
        return lambda x: layer(x)

    def _embedding(self):
        table = self._module(nn.Embedding(5, self.channels))
        tied = self.random.random() < 0.5

        def run(x):
            rows = x.movedim(1, -1) if self.image else x
            tokens = (2 * torch.tanh(rows[..., 0].detach())).round().long() + 2
            rows = rows + table(tokens)
            if tied:
                rows = rows + F.linear(torch.softmax(F.linear(rows, table.weight), -1), table.weight.T)
            return rows.movedim(-1, 1) if self.image else rows

        return run

    def _volume(self):
        layer = self._module(nn.Conv3d(self.channels, self.channels, (1, 3, 3), padding=(0, 1, 1)))
        return lambda x: torch.tanh(layer(x[:, :, None])).squeeze(2)

    def _line(self):
        layer = self._module(nn.Conv1d(self.channels, self.channels, 3, padding=1, groups=self.random.choice([1, 2])))
        return lambda x: torch.tanh(layer(x.mT)).mT

    def _scaled(self):
        layer = nn.Linear(self.channels, self.channels, bias=False)
        layer = self._module(self.random.choice([parametrizations.spectral_norm, parametrizations.orthogonal])(layer))
        bias = self._parameter(5, 5)
        return lambda x: F.scaled_dot_product_attention(layer(x), x, x, attn_mask=bias)

    def _matmul(self):
        w = self._parameter(5, 5)
        return lambda x: torch.tanh(w @ x) + (x.mT @ w).mT

    def _einsum(self):
        w = self._parameter(self.channels, self.channels, 2)
        return lambda x: torch.tanh(torch.einsum("ntc,cdk->ntd", x, w))


def check(seed: int) -> None:
    model = Fuzzed(seed)
    group_size = 1 + seed % 3
    # more than the three samples of the probe, which the engine itself compares with the loop
    x = model.sample(5 * group_size)
    found = gradient_norms(model, x, log_prob=call, group_size=group_size)
    expected = gradient_norms(model, x, log_prob=call, group_size=group_size, method="loop")
    assert_close_norms(found, expected)
    assert all(p.grad is None for p in model.parameters())
    if seed % 5 == 0:
        keep = [
            gradient_pass(model, x, [GroupGradients(), Sketch(64)], log_prob=call, group_size=group_size, method=m)
            for m in ("batched", "loop")
        ]
        results = [done.results for done in keep]
        for name, value in results[1][0].items():
            torch.testing.assert_close(results[0][0][name], value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("seed", range(50))
def test_random_models(seed):
    check(seed)


def test_few_of_them_need_the_loop():
    models = [Fuzzed(seed) for seed in range(25)]
    reports = [rules_report(model, model.sample(4), log_prob=call) for model in models]
    rows = [(report.loop_all is not None, row.rules) for report in reports for row in report.rows]
    looped = [whole or any(rule.startswith("loop") for rule in rules) for whole, rules in rows]
    assert len(rows) > 100 and sum(looped) <= 0.1 * len(rows)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(40))
def test_two_thousand_random_models(block):
    for seed in range(50 + block * 50, 100 + block * 50):
        check(seed)
