"""The study beyond images: a byte language model of tiny_shakespeare, a flow of a table that ships with scikit-learn.

Command: python benchmarks/study_domains.py [--data-root DIR] [--work DIR] writes docs/study_domains.md
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer

from fisherscope.core.store import write_atomic, write_json
from fisherscope.data import Samples, load_samples
from fisherscope.evaluation import Record
from fisherscope.models.base import GenerativeModel, load_model
from fisherscope.models.training import TrainSettings
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.evaluation import EvaluationSettings, evaluate
from fisherscope.pipeline.target import Target
from fisherscope.pipeline.training import train_on
from fisherscope.report import markdown_table

DOCS = Path(__file__).parents[1] / "docs"
WINDOW = 128
SHARED = (
    "fisher-dose",
    "gradient-dose",
    "complexity-dose",
    "layerwise-gaussian",
    "rao-sketch",
    "total-norm",
    "likelihood",
    "typicality",
)
TEXT = (*SHARED, "typicality-fisher", "input-complexity-zlib")
TABLE = (*SHARED, "typicality-fisher", "dose-kde", "pixel-mahalanobis")

HEAD = """# The study beyond images

Written by `python benchmarks/study_domains.py`; do not edit by hand. All figures are in
[study_domains.json](study_domains.json).

AUROC with a 95 % bootstrap interval (1,000 resamples, seed 0); out-of-distribution (OOD) is the positive class and a
higher score means more novel. Every detector runs with its defaults: nothing was chosen on these sets.
"""


@dataclass(frozen=True)
class Domain:
    """One model with its sets.

    Attributes:
        title: heading.
        model: trained on samples that are in none of the sets.
        in_dist: in-distribution samples.
        out_dists: OOD samples.
        detectors: names.
        says: what the sets are.
        group_sizes: every B.
    """

    title: str
    model: GenerativeModel
    in_dist: Samples
    out_dists: tuple[Samples, ...]
    detectors: tuple[str, ...]
    says: str
    group_sizes: tuple[int, ...] = (1, 5)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not trained, evaluate, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default=os.environ.get("FISHERSCOPE_DATA"), help="folder of named sets")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="folder for models and feature tables")
    options = parser.parse_args(arguments)
    domains = [text_domain(options.work, options.data_root), table_domain(options.work)]
    page, figures = HEAD, []
    for domain in domains:
        section, records = run(domain, options.work)
        page += section
        figures += [{"domain": domain.title} | record.to_json() for record in records]
    write_json(DOCS / "study_domains.json", figures)
    write_atomic(DOCS / "study_domains.md", page.encode())
    print(page)


def text_domain(work: Path, data_root: str | None) -> Domain:
    """Return the language model of the first 80 % of tiny_shakespeare, with the rest of it and other texts."""

    def windows(name: str, split: str) -> Samples:
        return load_samples(f"text/{name}.txt", split=split, data_root=data_root, window=WINDOW, seed=0)

    model = _trained(
        work / "language-tiny_shakespeare",
        "language",
        windows("tiny_shakespeare", "train"),
        TrainSettings(steps=1500, learning_rate=2e-3, validate_every=250, patience=4, seed=0),
        {"width": 64, "layers": 3},
    )
    good = windows("tiny_shakespeare", "test")
    others = tuple(_some(windows(name, "test"), 1000) for name in ("wikitext2_test", "progit_german"))
    return Domain(
        "Text: a byte language model of tiny_shakespeare",
        model,
        good,
        (*others, shuffled_words(good, 1000)),
        TEXT,
        f"Windows of {WINDOW} bytes. In-distribution: the last 20 % of the text; the model saw the first 80 %. "
        "OOD: English Wikipedia, a German book, and the in-distribution windows with their words shuffled.",
    )


def table_domain(work: Path) -> Domain:
    """Return a flow of the benign rows of scikit-learn's breast cancer table, with the malignant and shuffled ones."""
    table = load_breast_cancer()
    rows = np.log1p(table.data)  # sizes and areas: positive, of long tails
    rng = np.random.default_rng(0)
    benign = rng.permutation(np.flatnonzero(table.target == 1))
    trained_on, rest = np.split(benign, [len(benign) // 2])
    mean, std = rows[trained_on].mean(0), rows[trained_on].std(0)
    z = ((rows - mean) / std).astype(np.float32)
    model = _trained(
        work / "tabular-breast_cancer",
        "tabular",
        _samples(z[trained_on], "benign[train]"),
        TrainSettings(
            steps=2000,
            learning_rate=1e-3,
            validate_every=100,
            patience=3,
            validation_fraction=0.2,
            batch_size=32,
            seed=0,
        ),
        {"flow": "MAF", "hidden": [32, 32]},
    )
    permuted = np.stack([rng.permutation(column) for column in z[rest].T], axis=1)
    return Domain(
        "Table: a flow of the benign rows of breast cancer measurements",
        model,
        _samples(z[rest], "benign[test]"),
        (_samples(z[table.target == 0], "malignant"), _samples(permuted, "benign, columns permuted")),
        TABLE,
        f"{z.shape[1]} columns, log(1 + x), standardised by the {len(trained_on)} training rows. In-distribution: the "
        "other benign rows, too few for groups. OOD: the malignant rows, and the in-distribution rows with each column "
        "permuted by itself.",
        (1,),
    )


def shuffled_words(texts: Samples, limit: int) -> Samples:
    """Return windows whose words, split at blanks, come in random order; the same bytes, so the same length."""
    rng = np.random.default_rng(0)
    rows = []
    for window in texts.x[:limit]:
        words = bytes(window).split(b" ")
        order = rng.permutation(len(words))
        rows.append(np.frombuffer(b" ".join(words[i] for i in order), dtype=np.uint8))
    return _samples(np.stack(rows), "shuffled words")


def _samples(x: Any, name: str) -> Samples:
    return Samples.from_array(x, [f"{name}[{i}]" for i in range(len(x))], name)


def _some(samples: Samples, limit: int) -> Samples:
    rows = np.sort(np.random.default_rng(0).permutation(len(samples.x))[:limit])
    return samples.select(rows)


def _trained(
    folder: Path, family: str, samples: Samples, settings: TrainSettings, config: dict[str, Any]
) -> GenerativeModel:
    if not (folder / "model.json").is_file():
        begun = (folder / "training" / "state.safetensors").is_file()
        train_on(
            family,
            samples,
            settings,
            folder,
            config=config,
            resume=begun,
            command="python benchmarks/study_domains.py",
            report=lambda p: print(f"\r{folder.name}: step {p.step}, {p.bits_per_dim:.3f}", end="", flush=True),
        )
        print()
    return load_model(folder)


def run(domain: Domain, work: Path) -> tuple[str, tuple[Record, ...]]:
    """Return the section of a domain and its records."""
    target = Target(domain.model, None, domain.title)
    evaluation = evaluate(
        target,
        as_batches(domain.in_dist, target),
        [as_batches(out, target) for out in domain.out_dists],
        EvaluationSettings(detectors=domain.detectors, group_sizes=domain.group_sizes, tables=work / "tables"),
    )
    tables = "\n\n".join(
        markdown_table([r for r in evaluation.records if r.group_size == b]) for b in domain.group_sizes
    )
    card = domain.model.card
    bits = ", ".join(f"{name} {value:.3f}" for name, value in card.bits_per_dim.items())
    parameters = sum(p.numel() for p in domain.model.parameters())
    return (
        f"\n## {domain.title}\n\n{domain.says} The model: {parameters:,} parameters, {card.steps:,} steps, seed "
        f"{card.seed}; bits a value: {bits}.\n\n{tables}\n\nProtocol: {evaluation.protocol.statement()}\n",
        evaluation.records,
    )


if __name__ == "__main__":
    main()
