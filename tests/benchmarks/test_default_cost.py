"""What the page of the default's cost is made of."""

from argparse import Namespace

import pytest

from fisherscope.data import load_samples
from fisherscope.models.base import make_model


@pytest.fixture
def script(import_script):
    return import_script("default_cost")


def cost(script, **changes):
    figures = {"model": "vae-digits", "channels": 32, "terms": 2, "base": 0.1, "extraction": 0.11, "ratio": 1.1}
    return script.Cost(
        **{**figures, "whole": 0.055, "low": 1.0, "high": 1.2, "code": 0.011, "table": 2.0, "fit": 1.0, **changes}
    )


def test_targets(script):
    assert cost(script).missed == []
    assert cost(script, ratio=1.2, fit=4.0).missed == ["extraction 1.20, wanted 1.15", "fit 2.00, wanted 1.5"]
    assert cost(script, channels=128).missed == ["extraction 1.10, wanted 1.00"]


def test_the_page_says_what_is_missed(script):
    costs = [cost(script), cost(script, model="glow-digits", channels=200)]
    text, figures = script.write_page(costs, "python some.py", Namespace(rounds=15, samples=1000))
    assert "Missed on 1 of 2 models:\n\n- glow-digits: extraction 1.10, wanted 1.00." in text
    assert "| vae-digits | 32 | 2 | 100 | 1.10 [1.00, 1.20] | 1.15 | yes | 2.00 | 10.0 % |" in text
    assert "| glow-digits | 2.0 | 1.00 | 0.50 | yes |" in text
    assert [c["target"] for c in figures["costs"]] == [1.15, 1.0]
    assert "Missed on no model." in script.missed(costs[:1])


def test_models_are_chosen_by_name(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--models", "glow-mnist", "glow-nothing"])
    assert "no models of the zoo: glow-nothing; there are diffusion-celeba, " in capsys.readouterr().err


def test_width_by_settings(script):
    assert script.channels({"channels": 32, "multipliers": [1, 2, 2]}) == 64
    assert script.channels({"hidden": 48}) == 48


def test_rounds_are_interleaved_after_one_that_does_not_count(script):
    called = []
    seconds = script.rounds_of({name: lambda name=name: called.append(name) for name in "ab"}, 3)
    assert called == list("ab" * 4)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize(("family", "terms"), [("vae", 3), ("glow", 1)])
def test_a_model_is_measured(script, family, terms):
    settings = {"vae": {"latents": 2}, "glow": {"levels": 2, "steps": 1}}[family]
    model = make_model(family, data_shape=(1, 8, 8), hidden=4, **settings).eval()
    measured = script.measure(f"{family}-digits", model, load_samples("digits[test]", limit=300), rounds=2)
    assert measured.model == f"{family}-digits" and measured.channels == 4 and measured.terms == terms
    assert measured.low <= measured.high
    assert 0 < measured.code < measured.extraction
    assert min(measured.base, measured.whole, measured.table, measured.fit) > 0
