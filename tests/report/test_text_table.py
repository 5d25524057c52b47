"""Tables of text as Markdown and LaTeX."""

import pytest

from fisherscope.core.errors import DataError
from fisherscope.report import TextCell, TextTable

HEADS = [("glow", "a_b"), ("glow", "c"), ("vae", "c")]
ROWS = [
    ("in → out", [TextCell("0.9", "[0.8, 1.0]", bold=True), TextCell("0.1"), TextCell("x|y")]),
    ("mean", [TextCell("≥ 1"), TextCell("-"), TextCell("5 %")]),
]


def test_markdown():
    lines = TextTable("pair", HEADS, ROWS).markdown().splitlines()
    assert lines == [
        "| pair | glow, a_b | glow, c | vae, c |",
        "| --- | :-: | :-: | :-: |",
        "| in → out | **0.9** [0.8, 1.0] | 0.1 | x\\|y |",
        "| mean | ≥ 1 | - | 5 % |",
    ]


def test_latex():
    lines = TextTable("pair", HEADS, ROWS, rules=(1,)).latex().splitlines()
    assert lines == [
        r"\begin{tabular}{lccc}",
        r"\toprule",
        r" & \multicolumn{2}{c}{glow} & vae \\",
        r"pair & a\_b & c & c \\",
        r"\midrule",
        r"in $\to$ out & \textbf{0.9} {\scriptsize [0.8, 1.0]} & 0.1 & x|y \\",
        r"\midrule",
        r"mean & $\geq$ 1 & - & 5 \% \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_a_table_is_a_rectangle():
    with pytest.raises(DataError, match=r"3 headings has rows of \[2, 3\] cells"):
        TextTable("pair", HEADS, [("short", [TextCell("1")] * 2)])
