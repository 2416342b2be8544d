"""Tables as LaTeX: characters that no engine prints as they are, and a document with all of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.metrics.registry import own
from reports import build, latex


def test_special_characters_and_maths() -> None:
    assert latex.escaped(r"50% of a_b & {c} #1 \x ~ ^") == (
        r"50\% of a\_b \& \{c\} \#1 \textbackslash{}x \textasciitilde{} \textasciicircum{}"
    )
    assert latex.escaped("δ < 1.25², ±3°") == r"$\delta$ $<$ 1.25$^2$, $\pm$3$^\circ$"


def test_every_title_of_a_metric_is_plain_letters() -> None:
    for name, metric in own().items():
        assert latex.escaped(f"{metric.title} [{metric.unit}]").isascii(), name


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All tables of the committed records."""
    out = tmp_path_factory.mktemp("latex") / "tex"
    done = CliRunner().invoke(build.app, ["--latex", str(out)])
    assert done.exit_code == 0, done.output
    return sorted(out.glob("*.tex"))


def test_all_tables_are_plain_letters(written: list[Path]) -> None:
    assert len(written) > 10
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert text.isascii(), (path.name, [c for c in text if not c.isascii()])


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_all_tables_are_set(written: list[Path]) -> None:
    inputs = "".join(f"\\input{{{path.stem}}}\\clearpage\n" for path in written)
    page = "\\usepackage[paperwidth=200cm,paperheight=60cm]{geometry}\\usepackage{booktabs}"
    document = written[0].parent / "all.tex"
    document.write_text(f"\\documentclass{{article}}{page}\\begin{{document}}\n{inputs}\\end{{document}}\n")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", document.name],
        cwd=document.parent,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert document.with_suffix(".pdf").is_file()
