"""The page of claims: each is of cells that there are and of numbers that were printed, and records decide its word."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.records import QUOTED, load_published
from experiments.spec import load_table
from reports.claimed import CLAIMS, Claim
from reports.claims import findings, render
from reports.summary import summarise

BASE, ROW = "tpvformer", "tpvformer+gaussrender"
RISES = Claim("GaussRender", "mIoU rises", "table_occ3d", ROW, BASE, "mIoU", 2.65, "somewhere")
FALLS = Claim("GaussRender", "depth falls", "table_occ3d", ROW, BASE, "depth_l1", -0.455, "somewhere")


def test_there_are_claims_of_all_four_papers() -> None:
    assert len(CLAIMS) >= 25 and len({claim.paper for claim in CLAIMS}) == 4
    assert len({(c.table, c.row, c.base, c.metric, c.source, c.says) for c in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.table}-{claim.row}-{claim.metric}-{claim.size}")
def test_a_claim_is_of_rows_and_of_numbers_that_are_quoted(claim: Claim) -> None:
    assert claim.size and claim.says and claim.source and bool(claim.row) == bool(claim.base)
    if not claim.row:
        return
    spec = load_table(claim.table)
    assert spec.row(claim.row).runs and spec.row(claim.base).runs
    kinds = {"valeoai/GaussRender README @0714a19": ("readme",)}.get(claim.source, ("authors_log", "paper", "third_party_quote"))
    quoted = [n for n in load_published(claim.table, QUOTED) if n.metric == claim.metric and n.kind in kinds]
    own, base = ([n.value for n in quoted if n.row == row] for row in (claim.row, claim.base))
    if own and base:
        assert any(claim.size == pytest.approx(a - b, abs=0.0051) for a in own for b in base)


def said(project: Path, claim: Claim) -> list[str]:
    summary = summarise(load_table(claim.table), project / "results/records", project / "results/quoted")
    return [finding.word for finding in findings(claim, summary, "toy")]


@pytest.mark.parametrize(
    ("gains", "word"),
    [
        ([], []),
        ([0.5], ["not resolved"]),
        ([0.3, 0.36, 0.4], ["confirmed"]),
        ([-0.3, -0.36, -0.4], ["contradicted"]),
        ([-1.0, 3.0, 0.4], ["not resolved"]),
    ],
)
def test_records_decide(project: Path, make_record, gains: list[float], word: list[str]) -> None:
    for seed, gain in enumerate(gains):
        make_record(project / "results/records", BASE, seed, 10.0)
        make_record(project / "results/records", ROW, seed, 10.0 + gain)
    assert said(project, RISES) == word


def test_a_fall_is_confirmed_by_falling(project: Path, make_record) -> None:
    for seed, gain in enumerate((-0.1, -0.12, -0.11)):
        make_record(project / "results/records", BASE, seed, 10.0, metrics={"mIoU": 10.0, "depth_l1": 2.0})
        make_record(
            project / "results/records", ROW, seed, 10.0, metrics={"mIoU": 10.0 + 5 * (-1) ** seed, "depth_l1": 2.0 + gain}
        )
    assert said(project, FALLS) == ["confirmed"]
    summary = summarise(load_table("table_occ3d"), project / "results/records", project / "results/quoted")
    text = render({"table_occ3d": summary}, [])
    assert "the rendered depth error falls on Occ3D-nuScenes in 3 of 3 seeds. mIoU does not move beyond" in text
    line = next(line for line in text.splitlines() if "mIoU of TPVFormer rises on Occ3D" in line)
    assert "not resolved: +1.67 (-12.68 to +16.01), 3 seeds" in line and line.count("not run") == 2


def test_rows_on_other_data_or_of_other_seeds_say_nothing(project: Path, make_record) -> None:
    make_record(project / "results/records", BASE, 0, 10.0)
    make_record(project / "results/records", ROW, 1, 11.0)
    assert said(project, RISES) == []
    make_record(project / "results/records", ROW, 0, 11.0, data_fingerprint="other")
    make_record(project / "results/records", ROW, 1, 11.0, data_fingerprint="other")
    assert said(project, RISES) == []


def test_rows_that_read_other_files_besides_are_compared_on_the_data_that_both_read(project: Path, make_record) -> None:
    for seed, gain in enumerate((0.3, 0.36, 0.4)):
        make_record(project / "results/records", BASE, seed, 10.0, data_fingerprint="world+rays")
        make_record(project / "results/records", ROW, seed, 10.0 + gain, data_fingerprint="world+semantics")
    assert said(project, RISES) == ["confirmed"]
    for seed in range(3):
        make_record(project / "results/records", BASE, seed, 10.0, data_fingerprint="other+semantics")
    assert said(project, RISES) == []
