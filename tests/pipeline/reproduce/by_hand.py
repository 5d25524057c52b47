"""Calculations by hand that several tests compare an experiment with."""

import numpy as np
import torch

from fisherscope.data import load_samples
from fisherscope.evaluation import out_dist_groups, split_in_dist


def log_norms(model, samples, rows, layers=None, size=1):
    """log f_l by one backward pass a group, (groups, layers)."""
    parameters = dict(model.named_parameters())
    wanted = [parameters[name] for name in layers or parameters]
    found = []
    for group in rows.reshape(-1, size):
        log_p = model.log_prob(torch.from_numpy(samples.x[group]).float(), keys=samples.keys[group])
        gradients = torch.autograd.grad(log_p.sum(), wanted)
        found.append([float(g.double().square().sum().log()) for g in gradients])
    return np.array(found)


def parts_of(name, limit, size=1):
    """An in-distribution set of twice the limit with the rows of its fit and test parts."""
    samples = load_samples(name, limit=2 * limit, resize=(1, 8, 8))
    split = split_in_dist(len(samples), size, 0, clusters=samples.clusters)
    return samples, split.fit, split.test


def other(name, limit, size=1):
    """Another set with its rows."""
    samples = load_samples(name, limit=limit, resize=(1, 8, 8))
    return samples, out_dist_groups(len(samples), size, 0).ravel()
