import io
from dataclasses import replace

import pytest
from rich.console import Console

from fisherscope.core.errors import DataError, SettingError
from fisherscope.evaluation import Interval, compare_detectors
from fisherscope.report import difference_grid, latex_table, markdown_table, metric_grid, print_grid


def plain(records, **kwargs):
    buffer = io.StringIO()
    print_grid(metric_grid(records, **kwargs), Console(file=buffer, width=80))
    return buffer.getvalue()


def test_grid_has_a_column_a_pair_and_group_size_and_a_row_a_detector(records):
    grid = metric_grid(records)
    assert [(c.out_dist, c.group_size) for c in grid.columns] == list(
        dict.fromkeys((r.out_dist, r.group_size) for r in records)
    )
    assert list(grid.rows) == ["likelihood", "layerwise-gaussian", "pixel-mahalanobis"]
    first = records[0]
    cell = grid.rows["likelihood"][0]
    assert cell.figure == Interval(first.auroc, first.auroc_low, first.auroc_high)


def test_best_is_highest_except_for_fpr(records):
    for metric, choose in (("auroc", max), ("aupr", max), ("fpr95", min)):
        grid = metric_grid(records, metric)
        for i in range(len(grid.columns)):
            column = [cells[i] for cells in grid.rows.values()]
            best = choose(round(cell.figure.estimate, 3) for cell in column)
            assert [cell.best for cell in column] == [round(cell.figure.estimate, 3) == best for cell in column]


def test_equal_figures_are_both_best(records):
    tied = [replace(r, auroc=0.9001 + 0.0001 * i) for i, r in enumerate(records[:2])]
    assert [cells[0].best for cells in metric_grid(tied).rows.values()] == [True, True]


def test_missing_record_is_a_dash(records):
    text = markdown_table(records[1:])
    assert "| likelihood | - |" in text


def test_markdown_is_a_table_with_the_best_in_bold(records):
    lines = markdown_table(records[:3]).splitlines()
    assert lines[0] == "| detector | fashion_mnist → mnist, B = 1 |"
    assert {line.count("|") for line in lines} == {3}
    best = max(records[:3], key=lambda r: r.auroc)
    expected = f"| {best.detector} | **{best.auroc:.3f}** [{best.auroc_low:.3f}, {best.auroc_high:.3f}] |"
    assert expected in lines
    assert markdown_table(records[:3]).count("**") == 2


def test_latex_escapes_names_and_balances(records):
    text = latex_table(records)
    assert r"fashion\_mnist $\to$ mnist" in text
    assert r"\&" in text and "odd & long" not in text
    assert text.count("{") == text.count("}")
    assert text.count(r"\textbf") == 4
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in body} == {4}
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lcccc}"):
        assert rule in text


def test_terminal_table_fits_and_truncates_nothing(records):
    text = plain(records)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    for record in records:
        assert f"[{record.auroc_low:.3f}, {record.auroc_high:.3f}]" in text
    best = max(records[:3], key=lambda r: r.auroc)
    assert f"{best.auroc:.3f}*" in text


def test_terminal_table_does_not_read_names_as_markup(records):
    odd = [replace(r, out_dist="x[red]", detector=f"[bold]{r.detector}") for r in records[:3]]
    text = plain(odd)
    assert "x[red]" in text and "[bold]likelihood" in text


def test_differences_are_those_of_the_paired_comparison(pairs, protocol):
    grid = difference_grid(pairs, "likelihood", protocol)
    assert list(grid.rows) == ["layerwise-gaussian", "pixel-mahalanobis"]
    assert [(c.out_dist, c.group_size) for c in grid.columns] == [(p.out_dist, p.group_size) for p in pairs]
    for name, cells in grid.rows.items():
        for cell, pair in zip(cells, pairs, strict=True):
            found = compare_detectors(pair, name, "likelihood", seed=0, replicates=200).difference
            assert cell.figure == found
            assert cell.best == (found.low > 0)
    buffer = io.StringIO()
    print_grid(grid, Console(file=buffer, width=80))
    text = buffer.getvalue()
    assert "AUROC minus that of likelihood" in text and max(len(line) for line in text.splitlines()) <= 80
    assert f"{grid.rows['layerwise-gaussian'][0].figure.estimate:+.3f}*" in text


def test_differences_need_the_detector_and_another(pairs, protocol):
    with pytest.raises(SettingError, match="cannot compare with 'typicality': scored were likelihood, layerwise"):
        difference_grid(pairs, "typicality", protocol)
    alone = replace(pairs[0], scores_in={"likelihood": [0.0, 1.0]}, scores_out={"likelihood": [0.0, 1.0]})
    with pytest.raises(SettingError, match="give it and another one"):
        difference_grid([alone], "likelihood", protocol)


def test_unusable_requests_are_refused(records):
    with pytest.raises(SettingError, match="unknown metric 'f1'"):
        metric_grid(records, "f1")
    with pytest.raises(DataError, match="no records"):
        metric_grid([])
    with pytest.raises(DataError, match="two records"):
        metric_grid([records[0], records[0]])
