"""One page with every reproduced figure and table, as Markdown and as HTML; pictures lie beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fisherscope.report.templating import page_template
from fisherscope.report.text_table import TextTable

TITLE = "The paper, reproduced by command"
INTRODUCTION = """\
Every figure and table below is written by the command above it, from trained models and the test splits of the sets
that were there; times are of a first run, which may have found features that earlier experiments had left in the cache.
The zoo's models are far smaller than the paper's and were trained for minutes, not days: absolute figures are not
comparable one by one, orderings are the question. Intervals are 95 % bootstrap intervals of the draw of the test
samples; they do not cover another training run. Frames of one GTSRB track are drawn together; groups of several samples
are drawn as if independent, so their intervals are too narrow there. Out-of-distribution is the positive class, a
higher score means more novel, B is the number of samples judged together."""


@dataclass(frozen=True)
class PageEntry:
    """One experiment on the page.

    Attributes:
        name: of the experiment.
        makes: one sentence.
        command: command line that makes it again.
        seconds: what the first run took.
        paper: what the paper reports of it, may be empty.
        note: what was found here.
        comment: what a person says of it, may be empty.
        figures: caption by the path of a PNG beside the page.
        figures_in_all: how many the command writes.
        tables: caption and table by name.
        details: names of tables that are folded away.
        models: names of the models used.
        samples: number of samples by set.
        skipped: why something was left out, by what it was.
        seed: of the run.
        versions: of the libraries.
    """

    name: str
    makes: str
    command: str
    seconds: float
    paper: str
    note: str
    comment: str
    figures: Mapping[str, str]
    figures_in_all: int
    tables: Mapping[str, tuple[str, TextTable]]
    details: tuple[str, ...]
    models: Sequence[str]
    samples: Mapping[str, int]
    skipped: Mapping[str, str]
    seed: int
    versions: Mapping[str, str]

    @property
    def took(self) -> str:
        """The time in words."""
        return f"{self.seconds:.0f} seconds" if self.seconds < 90 else f"{self.seconds / 60:.0f} minutes"

    @property
    def used(self) -> str:
        """Models and sets in one sentence."""
        sets = ", ".join(f"{name} ({count:,})" for name, count in self.samples.items())
        parts = [
            f"Models: {', '.join(self.models)}." if self.models else "",
            f"Samples, at most: {sets}." if sets else "",
        ]
        how = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return " ".join(part for part in (*parts, f"Seed {self.seed}; {how}.") if part)

    @property
    def further(self) -> str:
        """How many figures are not on the page, or nothing."""
        count = self.figures_in_all - len(self.figures)
        return f"The command writes {count} further figure{'s' * (count > 1)}." if count else ""

    @property
    def left_out(self) -> str:
        """What was skipped, by reason."""
        reasons: dict[str, list[str]] = {}
        for what, why in self.skipped.items():
            reasons.setdefault(why, []).append(what)
        return "; ".join(f"{', '.join(whats)} ({why})" for why, whats in reasons.items())


def markdown_page(entries: Sequence[PageEntry], command: str) -> str:
    """Return the page in Markdown; ``command`` is the one that made all of it."""
    head = f"# {TITLE}\n\nLast written by `{command}`; do not edit by hand.\n\n{INTRODUCTION}\n"
    return head + "".join(_section(entry) for entry in entries)


def _section(entry: PageEntry) -> str:
    parts = [
        f"## {entry.name}",
        f"{entry.makes} Took {entry.took}.",
        f"```text\n{entry.command}\n```",
        *(f"![{caption}]({path})\n\n{caption}" for path, caption in entry.figures.items()),
        entry.further,
        *(_table(entry, name) for name in entry.tables),
        f"**The paper.** {entry.paper}" if entry.paper else "",
        f"**Here.** {entry.note}",
        f"**Why.** {entry.comment}" if entry.comment else "",
        f"{entry.used}{f' Left out: {entry.left_out}.' if entry.left_out else ''}",
    ]
    return "\n" + "\n\n".join(part for part in parts if part) + "\n"


def _table(entry: PageEntry, name: str) -> str:
    caption, table = entry.tables[name]
    if name not in entry.details:
        return f"{caption}\n\n{table.markdown()}"
    return f"<details><summary>{caption}</summary>\n\n{table.markdown()}\n</details>"


def html_page(entries: Sequence[PageEntry], command: str) -> str:
    """Return the page in HTML; every text in it is escaped."""
    return page_template("reproduction.html").render(
        title=TITLE, introduction=INTRODUCTION, entries=entries, command=command
    )
