"""Tables of text, written as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from fisherscope.core.errors import DataError

_LATEX: Final = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "→": r"$\to$",
        "±": r"$\pm$",
        "≤": r"$\leq$",
        "−": "$-$",
        **{c: "\\" + c for c in "_&%#${}"},
    }
)


@dataclass(frozen=True)
class TextCell:
    """One cell.

    Attributes:
        text: what it says.
        small: said after it in small print, such as an interval.
        bold: whether ``text`` is bold.
    """

    text: str
    small: str = ""
    bold: bool = False


@dataclass(frozen=True)
class TextTable:
    """A table whose first column names the rows.

    Attributes:
        corner: heading of the first column.
        heads: one heading a further column; each has as many levels as the others, the broadest first.
        rows: (name of the row, one cell a column).
        rules: numbers of the rows before which LaTeX draws a line.
    """

    corner: str
    heads: Sequence[tuple[str, ...]]
    rows: Sequence[tuple[str, Sequence[TextCell]]]
    rules: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Check that it is a rectangle."""
        widths = {len(self.heads), *(len(cells) for _, cells in self.rows)}
        if len(widths) != 1 or len({len(head) for head in self.heads}) != 1:
            raise DataError(f"a table of {len(self.heads)} headings has rows of {sorted(widths)} cells; give one each")

    def markdown(self) -> str:
        """Return the table in Markdown; the levels of a heading are joined by commas."""
        head = [self.corner, *(", ".join(level for level in levels if level) for levels in self.heads)]
        lines = [head, ["---", *(":-:" for _ in self.heads)]]
        lines += [[name, *map(_markdown, cells)] for name, cells in self.rows]
        escaped = [[text.replace("|", r"\|") for text in line] for line in lines]
        return "".join(f"| {' | '.join(line)} |\n" for line in escaped)

    def latex(self) -> str:
        r"""Return the table as a LaTeX ``tabular``; needs ``\usepackage{booktabs}``."""
        lines = [rf"\begin{{tabular}}{{l{'c' * len(self.heads)}}}", r"\toprule", *self._latex_heads(), r"\midrule"]
        for number, (name, cells) in enumerate(self.rows):
            lines += [r"\midrule"] if number in self.rules else []
            lines.append(" & ".join([escape_latex(name), *map(_latex, cells)]) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def _latex_heads(self) -> list[str]:
        levels = list(zip(*self.heads, strict=True))
        corners = [*("" for _ in levels[1:]), escape_latex(self.corner)]
        return [
            " & ".join([corner, *_spans(level, spanning=number < len(levels) - 1)]) + r" \\"
            for number, (corner, level) in enumerate(zip(corners, levels, strict=True))
        ]


def _spans(level: Sequence[str], *, spanning: bool) -> list[str]:
    """Return the cells of a line of headings; above the last line equal neighbours share one."""
    if not spanning:
        return [_latex_head(text) for text in level]
    runs = [(text, len(list(run))) for text, run in groupby(level)]
    return [_latex_head(text) if n == 1 else rf"\multicolumn{{{n}}}{{c}}{{{_latex_head(text)}}}" for text, n in runs]


def _latex_head(text: str) -> str:
    return f"${text}$" if text.startswith("B = ") else escape_latex(text)


def escape_latex(text: str) -> str:
    """Return text as LaTeX prints it."""
    return text.translate(_LATEX)


def _markdown(cell: TextCell) -> str:
    return f"{f'**{cell.text}**' if cell.bold else cell.text} {cell.small}".rstrip()


def _latex(cell: TextCell) -> str:
    text = rf"\textbf{{{escape_latex(cell.text)}}}" if cell.bold else escape_latex(cell.text)
    return text + (rf" {{\scriptsize {escape_latex(cell.small)}}}" if cell.small else "")
