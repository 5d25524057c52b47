"""The verdict of a report in words: does likelihood fail, and does the gradient detector do better?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from fisherscope.evaluation import Comparison, Interval, Record, compare_detectors
from fisherscope.report.content import ReportContent
from fisherscope.report.tables import Column
from fisherscope.report.theme import display_name, format_p

BASELINE: Final = "likelihood"
CHANCE: Final = 0.5


State = Literal["fails", "does not fail", "is no better than chance"]


@dataclass(frozen=True)
class PairVerdict:
    """What one pair of sets shows, at the smallest group size that was run.

    Attributes:
        column: the pair and group size.
        records: of all detectors on it, the best AUROC first.
        likelihood: whether the AUROC interval of likelihood lies below chance, above, or holds it; None if it was not
            run.
        comparison: the report's detector against likelihood; None if one of them was not run.
        text: all of it in sentences.
    """

    column: Column
    records: tuple[Record, ...]
    likelihood: State | None
    comparison: Comparison | None
    text: str


def pair_verdicts(content: ReportContent) -> tuple[PairVerdict, ...]:
    """Return a verdict for each pair of sets in the order of the records."""
    pairs = dict.fromkeys((r.in_dist, r.out_dist) for r in content.records)
    return tuple(_judge(content, in_dist, out_dist) for in_dist, out_dist in pairs)


def headline(content: ReportContent, verdicts: tuple[PairVerdict, ...]) -> str:
    """Return the one sentence at the top of the page."""
    if len(verdicts) == 1:
        return _headline_of_one(content, verdicts[0])
    judged = [v for v in verdicts if v.likelihood is not None]
    compared = [v for v in verdicts if v.comparison is not None]
    parts = []
    if judged:
        fails = sum(v.likelihood == "fails" for v in judged)
        parts.append(f"Likelihood fails on {fails} of {len(judged)} out-of-distribution sets")
    if compared:
        better = sum(v.comparison is not None and v.comparison.difference.low > 0 for v in compared)
        worse = sum(v.comparison is not None and v.comparison.difference.high < 0 for v in compared)
        parts.append(f"{content.detector} is better than likelihood on {better} and worse on {worse}")
    return "; ".join(parts) + "." if parts else f"{len(verdicts)} out-of-distribution sets were tested."


def _headline_of_one(content: ReportContent, verdict: PairVerdict) -> str:
    figures = {r.detector: r.auroc for r in verdict.records}
    parts = []
    if BASELINE in figures:
        name, state = display_name(verdict.column.out_dist), verdict.likelihood
        parts.append(f"Likelihood {state} on {name} (AUROC {figures[BASELINE]:.2f})")
    if content.detector in figures and content.detector != BASELINE:
        parts.append(f"{content.detector} reaches {figures[content.detector]:.2f}")
    return "; ".join(parts) + "." if parts else f"{verdict.column.pair} was tested."


def _judge(content: ReportContent, in_dist: str, out_dist: str) -> PairVerdict:
    own = [r for r in content.records if (r.in_dist, r.out_dist) == (in_dist, out_dist)]
    size = min(r.group_size for r in own)
    records = {r.detector: r for r in sorted(own, key=lambda r: -r.auroc) if r.group_size == size}
    column = Column(in_dist, out_dist, size)
    comparison = _compare(content, column)
    sentences = [
        _likelihood_sentence(records[BASELINE]) if BASELINE in records else "",
        _detector_sentence(records[content.detector], comparison) if content.detector in records else "",
        *(_control_sentence(records[c], records.get(content.detector)) for c in content.controls if c in records),
    ]
    return PairVerdict(
        column=column,
        records=tuple(records.values()),
        likelihood=_state(records[BASELINE]) if BASELINE in records else None,
        comparison=comparison,
        text=" ".join(s for s in sentences if s),
    )


def _compare(content: ReportContent, column: Column) -> Comparison | None:
    for pair in content.pairs:
        same = (pair.in_dist, pair.out_dist, pair.group_size) == (column.in_dist, column.out_dist, column.group_size)
        if same and content.detector != BASELINE and {content.detector, BASELINE} <= set(pair.scores_in):
            protocol = content.protocol
            return compare_detectors(
                pair,
                content.detector,
                BASELINE,
                seed=protocol.seed,
                replicates=protocol.replicates,
                coverage=protocol.coverage,
            )
    return None


def _state(record: Record) -> State:
    if record.auroc_high < CHANCE:
        return "fails"
    return "does not fail" if record.auroc_low > CHANCE else "is no better than chance"


def _likelihood_sentence(record: Record) -> str:
    inside, outside, figure = display_name(record.in_dist), display_name(record.out_dist), _figure(record)
    state = _state(record)
    if state == "fails":
        return f"Likelihood fails: the model finds {outside} more likely than {inside} (AUROC {figure}; 0.5 is chance)."
    if state == "does not fail":
        return f"Likelihood does not fail here: AUROC {figure}, above chance (0.5)."
    return f"Likelihood cannot tell {outside} from {inside}: AUROC {figure}, no different from chance (0.5)."


def _detector_sentence(record: Record, comparison: Comparison | None) -> str:
    text = f"{record.detector} reaches {_figure(record)}"
    if comparison is not None:
        text += f", {_difference(comparison.difference)} (p = {format_p(comparison.p_value)})"
    if record.auroc_high < CHANCE:
        text += ", and is itself below chance"
    elif record.auroc_low <= CHANCE:
        text += ", and is itself no different from chance"
    return text + "."


def _difference(difference: Interval) -> str:
    if difference.low > 0:
        return f"better than likelihood by {difference:.3f}"
    if difference.high < 0:
        return f"worse than likelihood by {Interval(-difference.estimate, -difference.high, -difference.low):.3f}"
    return f"no clear difference from likelihood: {difference:+.3f}"


def _control_sentence(control: Record, record: Record | None) -> str:
    text = f"{control.detector}, a control that uses no model, reaches {_figure(control)}"
    if record is not None and control.auroc > record.auroc:
        text += f": more than {record.detector}, so this pair does not show that the model helps"
    return text + "."


def _figure(record: Record) -> str:
    return f"{Interval(record.auroc, record.auroc_low, record.auroc_high):.3f}"
