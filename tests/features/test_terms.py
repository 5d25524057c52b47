"""Features of the terms of log p, where it is a sum of several."""

from functools import partial

import numpy as np
import pytest
import torch

import fisherscope
from fisherscope.core.errors import ModelError
from fisherscope.core.table import require_columns
from fisherscope.detectors import make_detector
from fisherscope.features.terms import term_names
from fisherscope.models.diffusion import Diffusion
from fisherscope.models.protocols import SumOfTerms
from fisherscope.models.vae import VAE
from fisherscope.pipeline.batches import Batches, as_batches
from fisherscope.pipeline.extraction import ExtractSettings, extract_table
from fisherscope.pipeline.saliency import ExplainSettings
from fisherscope.pipeline.target import as_target

BLOCKS = ("term_norm", "term_log_p", "sketch_norm", "log_p")


def shaken(model):
    model = model.double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return model


def diffusion(timesteps, **settings):
    return shaken(Diffusion((1, 8, 8), channels=16, multipliers=(1,), timesteps=timesteps, **settings))


def vae(**settings):
    return shaken(VAE((1, 8, 8), latents=3, hidden=4, **settings))


@pytest.fixture(scope="module")
def model():
    return diffusion((4, 64, 512), draws=2)


MODELS = {
    "diffusion": (partial(diffusion, (4, 64, 512), draws=2), ("term_4", "term_64", "term_512")),
    "vae": (partial(vae, likelihood="gaussian"), ("log_likelihood", "cross_entropy", "entropy")),
    "grid": (partial(vae, layout="grid", likelihood="mixture"), ("log_likelihood", "cross_entropy", "entropy")),
}


@pytest.fixture(scope="module")
def digits():
    return fisherscope.load_samples("digits")


@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("family", MODELS)
def test_each_terms_norms_are_those_of_its_own_gradient(family, digits, group_size):
    make, terms = MODELS[family]
    model = make()
    target = as_target(model)
    batches = as_batches(digits.select(range(6)), target)
    table = extract_table(target, batches, BLOCKS, ExtractSettings(group_size, seed=3))
    names = [name for name, _ in model.named_parameters()]
    assert table.columns["term_norm"] == tuple(f"{n} [{term}]" for term in terms for n in names)
    assert table.columns["term_log_p"] == terms
    exact = [i for i, p in enumerate(model.parameters()) if p.dim() <= 2]
    for term in range(len(terms)):

        def log_prob(module, x, *, seed, keys, term=term):
            return module.term_log_prob(x, term, seed=seed, keys=keys)

        x = torch.from_numpy(batches.x).double()
        norms = fisherscope.gradient_norms(
            model, x, log_prob=log_prob, keys=batches.keys, seed=3, group_size=group_size, method="loop"
        )
        expected = np.stack([v.numpy() for v in norms.values()], axis=1)[:, exact]
        found = table.block("term_norm")[:, term * len(names) : (term + 1) * len(names)][:, exact]
        # a bias before a normalisation has no gradient but round-off
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-20 * expected.max())
        log_p = log_prob(model, x, seed=3, keys=batches.keys).detach().numpy().reshape(-1, group_size)
        np.testing.assert_allclose(table.block("term_log_p")[..., term], log_p, rtol=1e-12)
    np.testing.assert_allclose(table.block("term_log_p").sum(-1), table.block("log_p"), rtol=1e-12)
    alone = extract_table(target, batches, ("term_norm",), ExtractSettings(group_size, seed=3))
    np.testing.assert_array_equal(alone.block("term_norm"), table.block("term_norm"))
    log_p = extract_table(target, batches, ("term_log_p", "sketch"), ExtractSettings(group_size, seed=3))
    np.testing.assert_allclose(log_p.block("term_log_p"), table.block("term_log_p"), rtol=1e-12)


def own_log_prob(module, x, *, seed, keys):
    return 2 * module.log_prob(x, seed=seed, keys=keys)


@pytest.mark.parametrize(
    ("make", "log_prob"),
    [
        (partial(diffusion, (4, 64, 512)), own_log_prob),
        (partial(diffusion, (64,)), None),
        (partial(diffusion, None), None),
        (partial(vae, importance_samples=2), None),
    ],
    ids=["own", "one", "random", "importance-weighted"],
)
def test_where_log_p_is_one_term_the_blocks_are_those_of_the_whole(digits, make, log_prob):
    model = make()
    assert isinstance(model, SumOfTerms) and term_names(model, log_prob) == ()
    target = as_target(model, log_prob)
    table = extract_table(target, as_batches(digits.select(range(4)), target), BLOCKS)
    np.testing.assert_array_equal(table.block("term_norm"), table.block("sketch_norm"))
    np.testing.assert_array_equal(table.block("term_log_p")[..., 0], table.block("log_p"))
    assert table.columns["term_norm"] == table.columns["sketch_norm"] and "term_log_p" not in table.columns


class Halved(VAE):
    """Its terms say nothing of the entropy."""

    def term_log_prob(self, x, index, *, seed=0, keys=None):
        return super().term_log_prob(x, index, seed=seed, keys=keys) * (index < 2)


@pytest.mark.parametrize("blocks", [("term_norm",), ("term_log_p",)])
def test_terms_that_do_not_add_up_are_refused(digits, blocks):
    target = as_target(shaken(Halved((1, 8, 8), latents=3, hidden=4)))
    batches = as_batches(digits.select(range(4)), target)
    with pytest.raises(ModelError, match=r"terms that Halved takes it apart into add up to .*; let term_log_prob"):
        extract_table(target, batches, blocks, ExtractSettings(2))


def test_a_table_of_other_terms_is_another_table(digits):
    model, other = diffusion((4, 64)), diffusion((4, 512))
    guard = fisherscope.fit(model, digits.select(range(60)), detector="gradient-dose", fpr=0.1)
    target = as_target(other)
    table = extract_table(target, as_batches(digits.select(range(2)), target), guard.detector.requires)
    with pytest.raises(fisherscope.CardMismatchError):
        guard.score(table)
    names = len([*model.parameters()])
    with pytest.raises(fisherscope.CardMismatchError, match=rf"'{2 * names} columns, column {names} .*\[term_64\]'"):
        require_columns(guard.columns["term_norm"], table.columns["term_norm"])
    with pytest.raises(fisherscope.CardMismatchError, match=r"expected '2 columns', found '3 columns, column 2 c'"):
        require_columns(("a", "b"), ("a", "b", "c"))


def test_the_score_by_term_is_the_sum_of_the_terms_scores(model, digits):
    samples = digits.select(range(60)), digits.select(range(300, 310))

    def tables(module, detector):
        target = as_target(module)
        return [extract_table(target, as_batches(s, target), detector.requires) for s in samples]

    by_term, plain = make_detector("fisher-dose"), make_detector("fisher-dose")
    fit, new = tables(model, by_term)
    total = np.zeros(10)
    for term, timestep in enumerate((4, 64, 512)):
        own_fit, own_new = tables(diffusion((timestep,), draws=2), plain)
        np.testing.assert_allclose(own_new.block("log_p"), new.block("term_log_p")[..., term], rtol=1e-12)
        total += plain.fit(own_fit).score(own_new)
    np.testing.assert_allclose(by_term.fit(fit).score(new), total, rtol=1e-6)


@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("family", ["diffusion", "vae"])  # discretised likelihoods jump where pixels are 0
def test_maps_are_slopes_of_the_score_by_term(family, digits, group_size):
    make, terms = MODELS[family]
    model = make()
    guard = fisherscope.fit(model, digits.select(range(120)), detector="gradient-dose", fpr=0.2, group_size=group_size)
    batches = as_batches(digits.select(range(300, 302)), guard.target)
    found = guard.explain(batches, ExplainSettings(aggregate="sum", method="gradient"))
    direction = np.random.default_rng(0).normal(size=batches.x.shape)

    def scores(step):
        return guard.score(Batches(batches.x + step * direction, batches.ids, batches.keys, batches.name))

    slope = (found.maps * direction.reshape(found.maps.shape)).sum((1, 2, 3))
    expected = (scores(1e-4) - scores(-1e-4)) / 2e-4
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert found.layers is not None and found.layers.layers[-1].endswith(f"[{terms[-1]}]")
    placed = guard.explain(batches, ExplainSettings(method="positions"))
    assert placed.maps.shape == found.maps.shape and np.isfinite(placed.maps).all()


@pytest.mark.parametrize("names", [("a", "a"), (1, 2)])
def test_terms_need_names_of_their_own(names):
    model = diffusion((4, 64, 512))

    class Own(type(model)):
        term_names = names

    model.__class__ = Own
    with pytest.raises(ModelError, match=r"calls the terms of its log p .* give each a text of its own"):
        term_names(model, None)
    Own.term_names = ["a", "b"]
    assert term_names(model, None) == ("a", "b")
