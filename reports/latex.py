"""Tables as LaTeX, for papers: booktabs, numbers to the right, ready for \\input."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from experiments import intervals
from experiments.spec import PRESETS, Column, Row
from reports.summary import ABSENT, QUOTED, RERUN, Group, Number, Summary
from reports.summary import spread as plain_spread

_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "\\": "\\textbackslash{}"}
_MATHS = {"<": "<", ">": ">", "±": "\\pm", "×": "\\times", "°": "^\\circ", "²": "^2", "³": "^3", "α": "\\alpha", "δ": "\\delta"}
_SPECIAL |= {c: f"${said}$" for c, said in _MATHS.items()}
MISSING = "--"
_LEGEND = (
    "Mean $\\pm$ sample standard deviation over seeds; differences to the base row: mean over the seeds that both have "
    "(its 95\\,\\% interval), bold where the interval leaves 0 out."
)


def escaped(text: str) -> str:
    """Plain text as LaTeX prints it, with any engine."""
    return "".join(_SPECIAL.get(c, c) for c in text)


def spread(values: Sequence[float], digits: int) -> str:
    """``12.34 $\\pm$ 0.56``: mean and sample standard deviation; a single value alone."""
    return MISSING if not values else escaped(plain_spread(values, digits))


def difference(values: Sequence[float], digits: int, unit: str = "") -> str:
    """``+0.84 ($-$0.36 to +2.04)``, in bold where the interval leaves 0 out."""
    said = escaped(intervals.text(values, digits, unit)).replace("-", "$-$")
    return f"\\textbf{{{said}}}" if intervals.resolved(values) else said


def table(frame: pd.DataFrame, caption: str, label: str) -> str:
    """A table environment of a frame whose texts are LaTeX already; the first column left, the others right."""
    columns = "l" + "r" * (frame.shape[1] - 1)
    lines = [" & ".join(map(str, frame.columns)), *(" & ".join(map(str, line)) for line in frame.itertuples(index=False))]
    head, *body = (f"{line} \\\\" for line in lines)
    return "\n".join(
        (
            "% \\usepackage{booktabs}",
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{caption}}}",
            f"\\label{{tab:{label}}}",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            head,
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
            "",
        )
    )


def render(summary: Summary) -> str:
    """All of a table: published numbers with ours at the published configuration, then ours of each other preset."""
    spec, parts = summary.spec, []
    small = [preset for preset in PRESETS if preset != "paper"]
    shown = [("paper", [QUOTED, RERUN, *summary.ours("paper")]), *((preset, summary.ours(preset)) for preset in small)]
    for preset, groups in shown:
        frame = _numbers(summary, [row for row in spec.rows if preset == "paper" or row.runs], groups)
        if frame.empty:
            continue
        what = "Published numbers, and ours at the published configuration."
        if preset != "paper":
            what = f"Ours, preset {preset}: not comparable with any published number."
        parts.append(table(frame, f"{escaped(spec.title)}. {what} {_LEGEND}", f"{spec.name}-{preset}"))
    return "\n".join(parts)


def _numbers(summary: Summary, rows: Sequence[Row], groups: Sequence[Group]) -> pd.DataFrame:
    """Rows x (metric, group), after each of ours with gains the gain; without columns and rows that hold nothing."""
    lines = []
    for row in rows:
        line = {"Method": escaped(row.title)}
        for column in summary.spec.columns:
            for group in groups:
                head = f"{escaped(column.title)}, {escaped(summary.heading(group))}"
                line[head] = _number(summary.number(group, row.name, column.metric), column)
                gain = summary.gain(group, row.name, column.metric)
                unit = " %" if column.relative else ""
                line[f"{head}, difference"] = (
                    MISSING if gain is None else difference(gain.difference.values, 1 if unit else column.digits, unit)
                )
        if any(text != MISSING for key, text in line.items() if key != "Method"):
            lines.append(line)
    frame = pd.DataFrame(lines)
    return frame if frame.empty else frame.loc[:, ~frame.isin([MISSING, ABSENT]).all()]


def _number(number: Number | None, column: Column) -> str:
    return MISSING if number is None else spread(number.values, column.digits)
