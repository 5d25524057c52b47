"""Explanations and rankings as files: a page, heat maps, tables and arrays."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from fisherscope.core.errors import SettingError
from fisherscope.core.store import atomic_folder, write_arrays, write_atomic, write_json
from fisherscope.detectors import LayerProfile
from fisherscope.detectors.base import Scores
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.explanation import Explanation
from fisherscope.pipeline.output import known_note, require_known_format, write_rows
from fisherscope.pipeline.ranking import Ranking
from fisherscope.report import ExplainedGroup, ExplainedPage, display_image, explained_rows, write_explained_page
from fisherscope.report.explained import SHOWN_LAYERS
from fisherscope.report.figures import figure_bytes
from fisherscope.report.heatmap import heatmap_figure
from fisherscope.report.theme import format_p

_NAME: Final = 40
_PAGE: Final = "index.html"
_MAP_LABELS: Final = {
    "positions": "<d score / d g, g> from here",
    "contrast": "|d score / d pixel x contrast|",
    "leverage": "log leverage of what the layers read here",
}


def write_explanation(explanation: Explanation, samples: Batches, folder: Path, command: str) -> Path:
    """Write an explanation into a folder and return the path of its page.

    ``index.html`` shows all groups; ``explanations.json`` holds scores, p-values and layers; ``layers.csv`` one row a
    group and layer; ``maps.safetensors`` the maps as numbers; ``heatmaps/*.png`` one picture an image. An explanation
    that the folder holds is replaced when everything is written; other files in it stay.

    Args:
        explanation: what :func:`explain_groups` returned.
        samples: the samples that it speaks of; those left over by whole groups come last.
        folder: where; made if it does not exist.
        command: command line that makes it again.

    Raises:
        DataError: the folder is a file.
    """
    with atomic_folder(folder, _PAGE) as new:
        _write(explanation, samples, new, command)
    return folder / _PAGE


def _write(explanation: Explanation, samples: Batches, folder: Path, command: str) -> None:
    groups = explained_groups(explanation, samples, explanation.layers)
    rows = explained_rows(groups)
    kind = explanation.layers.kind if explanation.layers else ""
    found = int(explanation.novel.sum())
    page = ExplainedPage(
        title=f"Why: {samples.name}",
        headline=f"{found} of {len(groups)} novel.",
        groups=groups,
        layer_kind=kind,
        command=command,
    )
    for name, figure in _heatmaps(groups, explanation.method).items():
        write_atomic(folder / "heatmaps" / name, figure)
    ids = [list(i) for i in explanation.ids]
    write_arrays(
        folder / "maps.safetensors",
        {"maps": explanation.maps},
        {"kind": explanation.kind, "method": explanation.method, "ids": ids},
    )
    if explanation.layers is not None:
        write_atomic(folder / "layers.csv", _layers_csv(explanation.ids, explanation.layers))
    write_json(
        folder / "explanations.json",
        {"map": explanation.kind, "method": explanation.method, "layers": kind, "groups": _json(rows, groups)},
    )
    write_explained_page(page, folder / _PAGE)


def write_ranking(ranking: Ranking, path: Path, command: str) -> None:
    """Write a ranking as a page (.html) or as a table (.csv, .jsonl, .parquet), atomically."""
    require_ranking_format(path)
    groups = ranked_groups(ranking)
    if path.suffix != ".html":
        write_rows(path, explained_rows(groups))
        return
    write_explained_page(
        ExplainedPage(
            title=f"Most novel of {ranking.name}",
            headline=f"{ranking.n_discoveries} of {ranking.n_groups} are discoveries at a false discovery rate of "
            f"{ranking.fdr:g}.",
            groups=groups,
            layer_kind=ranking.layers.kind if ranking.layers else "",
            notes=ranking_notes(ranking),
            command=command,
        ),
        path,
    )


def require_ranking_format(path: Path) -> None:
    """Raise :class:`SettingError` for a suffix that a ranking is not written in; ask before the long work."""
    if path.suffix != ".html":
        try:
            require_known_format(path)
        except SettingError as cause:
            raise SettingError(f"{cause}, or .html") from None


def ranking_notes(ranking: Ranking) -> tuple[str, ...]:
    """Return what a reader of a ranking should know: what it promises, and what it cannot show."""
    notes = [f"Shown: the {len(ranking.ids)} most novel."]
    if ranking.clusters is None:
        notes[0] += (
            f" On average at most {100 * ranking.fdr:g} % of the discoveries are in-distribution (Benjamini & Hochberg "
            "on conformal p-values, Bates et al. 2023), provided that those come from the distribution that the guard "
            "was calibrated on."
        )
    else:
        notes.append(
            f"At most {100 * ranking.fdr:g} % of the discoveries should be in-distribution, but that is not promised: "
            f"the calibration samples come from {ranking.clusters} clusters (tracks, photographs, equal samples), and "
            "a new cluster can be found novel as a whole."
        )
    needed, there = ranking.least_discoverable(), ranking.n_groups
    if needed > 1:
        outcome = f", more than there are ({there}), so that none can be" if needed > there else ""
        notes.append(
            f"With {ranking.n_calibration} calibration groups no p-value is below "
            f"{format_p(1 / (ranking.n_calibration + 1))}: at least {needed} groups have to be "
            f"as novel as that before any is a discovery{outcome}. More calibration samples, or fewer to rank, lower "
            "the number."
        )
    if ranking.n_known:
        notes.append(known_note(ranking.n_known))
    return (*notes, *ranking.notes)


def ranked_groups(ranking: Ranking) -> tuple[ExplainedGroup, ...]:
    """Return the groups of a ranking as the page shows them."""
    return _groups(
        ranking.ids,
        (ranking.score, ranking.p_value, ranking.discovery, ranking.adjusted),
        ranking.samples,
        ranking.explanation,
        ranking.layers,
    )


def explained_groups(
    explanation: Explanation, samples: Batches, layers: LayerProfile | None
) -> tuple[ExplainedGroup, ...]:
    """Return the groups of an explanation as the page shows them."""
    verdict = (explanation.score, explanation.p_value, explanation.novel, None)
    return _groups(explanation.ids, verdict, samples, explanation, layers)


def _groups(
    ids: tuple[tuple[str, ...], ...],
    verdict: tuple[Scores, Scores, Any, Scores | None],
    samples: Batches,
    explanation: Explanation | None,
    layers: LayerProfile | None,
) -> tuple[ExplainedGroup, ...]:
    score, p_value, novel, adjusted = verdict
    shown = _shown_array(samples)
    if shown is None:
        members, kind, explanation = np.empty((len(ids), len(ids[0]), 0)), "entries", None
    else:
        x = shown[: len(ids) * len(ids[0])]
        members = x.reshape(len(ids), len(ids[0]), *x.shape[1:])
        kind = explanation.kind if explanation else ("pixels" if x.ndim == 4 else "columns")
    return tuple(
        ExplainedGroup(
            names=names,
            score=float(score[i]),
            p_value=float(p_value[i]),
            novel=bool(novel[i]),
            samples=members[i],
            maps=None if explanation is None else explanation.maps[i],
            kind=kind,
            layers=() if layers is None else tuple(layers.largest(i, SHOWN_LAYERS)),
            adjusted=None if adjusted is None else float(adjusted[i]),
            columns=samples.columns,
        )
        for i, names in enumerate(ids)
    )


def _shown_array(samples: Batches) -> NDArray[Any] | None:
    """Return the array of the samples; None where they are of several, of which none is the one to be shown."""
    leaves = pytree.tree_leaves(samples.x)
    return np.asarray(leaves[0]) if len(leaves) == 1 else None


def _heatmaps(groups: tuple[ExplainedGroup, ...], method: str) -> dict[str, bytes]:
    """Return PNG files by name: the number of the sample and what of its name a file system takes."""
    files: dict[str, bytes] = {}
    for group in groups:
        if group.kind != "pixels" or group.maps is None:
            continue
        for name, sample, heat in zip(group.names, group.samples, group.maps, strict=True):
            title = f"{name}: p = {format_p(group.p_value)}"
            label = _MAP_LABELS.get(method) or ("d score / d pixel" if (heat < 0).any() else "|d score / d pixel|")
            figure = heatmap_figure(display_image(sample), heat, title, label)
            plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[-_NAME:]
            files[f"{len(files):04d}-{plain}.png"] = figure_bytes(figure, "png")
    return files


def _layers_csv(ids: tuple[tuple[str, ...], ...], layers: LayerProfile) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["id", "layer", layers.kind])
    for names, values in zip(ids, layers.values, strict=True):
        writer.writerows(
            [";".join(names), layer, repr(float(v))] for layer, v in zip(layers.layers, values, strict=True)
        )
    return text.getvalue().encode()


def _json(rows: list[dict[str, Any]], groups: tuple[ExplainedGroup, ...]) -> list[dict[str, Any]]:
    return [
        {**{k: v for k, v in row.items() if k not in ("rank", "layers")}, "layers": dict(group.layers)}
        for row, group in zip(rows, groups, strict=True)
    ]
