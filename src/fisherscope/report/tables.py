"""Tables of one metric with its intervals: rows are detectors, columns are pairs and group sizes, the best is bold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fisherscope.core.errors import DataError, SettingError
from fisherscope.evaluation import METRICS, Interval, PairScores, Protocol, Record, compare_detectors
from fisherscope.report.text_table import TextCell, TextTable
from fisherscope.report.theme import display_name

METRIC_LABELS = {
    "auroc": "AUROC",
    "aupr": "AUPR (OOD positive)",
    "aupr_in": "AUPR (in-dist. positive)",
    "fpr95": "FPR95",
}
LOWER_IS_BETTER = frozenset({"fpr95"})


@dataclass(frozen=True)
class Column:
    """One pair of sets at one group size.

    Attributes:
        in_dist: name of the in-distribution set.
        out_dist: name of the OOD set.
        group_size: B.
    """

    in_dist: str
    out_dist: str
    group_size: int

    @property
    def pair(self) -> str:
        """Return the pair as ``in → out``."""
        return f"{display_name(self.in_dist)} → {display_name(self.out_dist)}"


@dataclass(frozen=True)
class Cell:
    """A figure with its interval.

    Attributes:
        figure: the metric with its interval.
        best: whether it is marked; by :func:`metric_grid` where no detector of the column is better, to the three
            digits shown.
        sign: ``+`` where positive figures carry their sign.
    """

    figure: Interval
    best: bool
    sign: str = ""

    @property
    def number(self) -> str:
        """Return the estimate to three digits."""
        return f"{self.figure.estimate:{self.sign}.3f}"

    @property
    def interval(self) -> str:
        """Return the interval to three digits, in brackets."""
        return self.figure.ends(f"{self.sign}.3f")


@dataclass(frozen=True)
class Grid:
    """A figure of every detector on every pair.

    Attributes:
        title: what the figure is.
        mark: what marked cells are.
        columns: in order of first appearance.
        rows: by detector, in order of first appearance, one cell a column; None where it was not run.
    """

    title: str
    mark: str
    columns: tuple[Column, ...]
    rows: Mapping[str, tuple[Cell | None, ...]]


def metric_grid(records: Sequence[Record], metric: str = "auroc") -> Grid:
    """Arrange a metric of some records as a table.

    Raises:
        SettingError: the metric is unknown.
        DataError: there is no record, or two of one detector on one pair and group size.
    """
    if metric not in METRICS:
        raise SettingError(f"unknown metric '{metric}'; known: {', '.join(METRICS)}")
    if not records:
        raise DataError("there are no records to tabulate; evaluate at least one detector")
    found: dict[tuple[str, Column], Record] = {}
    for record in records:
        key = (record.detector, Column(record.in_dist, record.out_dist, record.group_size))
        if key in found:
            raise DataError(
                f"{record.detector} has two records on {key[1].pair} with B = {record.group_size}; give one"
            )
        found[key] = record
    columns = tuple(dict.fromkeys(column for _, column in found))
    best = {c: _best([r for (_, column), r in found.items() if column == c], metric) for c in columns}

    def cell(detector: str, column: Column) -> Cell | None:
        record = found.get((detector, column))
        if record is None:
            return None
        estimate, low, high = (getattr(record, metric + end) for end in ("", "_low", "_high"))
        return Cell(Interval(estimate, low, high), round(estimate, 3) == best[column])

    detectors = dict.fromkeys(detector for detector, _ in found)
    rows = {d: tuple(cell(d, c) for c in columns) for d in detectors}
    return Grid(f"{METRIC_LABELS[metric]} with interval", "best of the column", columns, rows)


def _best(records: Sequence[Record], metric: str) -> float:
    figures: list[float] = [round(getattr(record, metric), 3) for record in records]
    return min(figures) if metric in LOWER_IS_BETTER else max(figures)


def difference_grid(pairs: Sequence[PairScores], against: str, protocol: Protocol) -> Grid:
    """Arrange, by pair, the AUROC of every other detector minus that of one, both judged on the same resamples.

    Args:
        pairs: scores of all detectors, at least two, that of ``against`` among them.
        against: the detector to compare with.
        protocol: how to resample: seed, replicates and coverage.

    Raises:
        SettingError: there is nothing to compare, or a pair was not scored by ``against``.
    """
    names = dict.fromkeys(name for pair in pairs for name in pair.scores_in)
    if len(names) < 2 or not all(against in pair.scores_in for pair in pairs):
        raise SettingError(f"cannot compare with '{against}': scored were {', '.join(names)}; give it and another one")
    how = {"seed": protocol.seed, "replicates": protocol.replicates}

    def cell(pair: PairScores, name: str) -> Cell | None:
        if name not in pair.scores_in:
            return None
        difference = compare_detectors(pair, name, against, coverage=protocol.coverage, **how).difference
        return Cell(difference, difference.low > 0, "+")

    columns = tuple(Column(pair.in_dist, pair.out_dist, pair.group_size) for pair in pairs)
    rows = {name: tuple(cell(pair, name) for pair in pairs) for name in names if name != against}
    return Grid(f"AUROC minus that of {against}, with interval", "better, with an interval above 0", columns, rows)


def rich_tables(grid: Grid, width: int = 80) -> list[Table]:
    """Return the table for a terminal, as several where all columns do not fit ``width`` characters.

    Marked cells are bold and have a star.
    """
    heads = [f"{display_name(c.in_dist)} →\n{display_name(c.out_dist)}\nB = {c.group_size}" for c in grid.columns]
    room = width - max(len(name) for name in ("detector", *grid.rows)) - 4
    cells = [cell for row in grid.rows.values() for cell in row if cell is not None]
    widest = max(len(line) for line in (*(cell.interval for cell in cells), *"\n".join(heads).splitlines()))
    step = max(1, room // (widest + 3))
    return [_rich_table(grid, heads, range(len(heads))[i : i + step]) for i in range(0, len(heads), step)]


def _rich_table(grid: Grid, heads: Sequence[str], columns: range) -> Table:
    table = Table(title=grid.title, caption=f"* {grid.mark}")
    table.add_column("detector", no_wrap=True)
    for i in columns:
        table.add_column(Text(heads[i]), justify="center", no_wrap=True)
    for detector, cells in grid.rows.items():
        table.add_row(Text(detector), *(_rich_cell(cells[i]) for i in columns))
    return table


def _rich_cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("-")
    return Text(f"{cell.number}{'*' if cell.best else ' '}", style="bold" if cell.best else "").append(
        f"\n{cell.interval}", style="not bold dim"
    )


def print_grid(grid: Grid, console: Console | None = None) -> None:
    """Print :func:`rich_tables` to the console given, or to standard output."""
    console = console or Console()
    for table in rich_tables(grid, console.width):
        console.print(table)


def text_table(records: Sequence[Record], metric: str = "auroc") -> TextTable:
    """Return the table as text, a heading for each pair and group size; the best of a column is bold."""
    grid = metric_grid(records, metric)
    heads = [(column.pair, f"B = {column.group_size}") for column in grid.columns]
    return TextTable("detector", heads, [(name, [_text_cell(c) for c in cells]) for name, cells in grid.rows.items()])


def _text_cell(cell: Cell | None) -> TextCell:
    return TextCell("-") if cell is None else TextCell(cell.number, cell.interval, cell.best)


def markdown_table(records: Sequence[Record], metric: str = "auroc") -> str:
    """Return the table in Markdown; the best of a column is bold."""
    return text_table(records, metric).markdown()


def latex_table(records: Sequence[Record], metric: str = "auroc") -> str:
    r"""Return the table as a LaTeX ``tabular``; needs ``\usepackage{booktabs}``. The best of a column is bold."""
    return text_table(records, metric).latex()
