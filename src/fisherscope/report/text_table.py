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
        "≥": r"$\geq$",
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

    def head_levels(self) -> list[list[tuple[str, int]]]:
        """Return the lines of headings, each as (text, columns); above the last line equal neighbours share one."""
        *upper, last = zip(*self.heads, strict=True)
        shared = [[(text, len(list(run))) for text, run in groupby(level)] for level in upper]
        return [*shared, [(text, 1) for text in last]]

    def _latex_heads(self) -> list[str]:
        levels = self.head_levels()
        corners = [*("" for _ in levels[1:]), escape_latex(self.corner)]
        return [
            " & ".join([corner, *(_latex_head(text, width) for text, width in level)]) + r" \\"
            for corner, level in zip(corners, levels, strict=True)
        ]


def _latex_head(text: str, width: int) -> str:
    head = f"${text}$" if text.startswith("B = ") else escape_latex(text)
    return head if width == 1 else rf"\multicolumn{{{width}}}{{c}}{{{head}}}"


def escape_latex(text: str) -> str:
    """Return text as LaTeX prints it."""
    return text.translate(_LATEX)


def _markdown(cell: TextCell) -> str:
    return f"{f'**{cell.text}**' if cell.bold else cell.text} {cell.small}".rstrip()


def _latex(cell: TextCell) -> str:
    text = rf"\textbf{{{escape_latex(cell.text)}}}" if cell.bold else escape_latex(cell.text)
    return text + (rf" {{\scriptsize {escape_latex(cell.small)}}}" if cell.small else "")
