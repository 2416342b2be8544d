"""Tables as data: fingerprints that committed records depend on, rows that are other tables' cells, ablations, views."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from run_tiny import TABLES

import experiments.tables
from baselines.gaussrender import PAPER, GaussRenderConfig
from baselines.renderocc.recipe import MENDED
from experiments.spec import (
    PRESETS,
    Cell,
    SpecError,
    ViewSpec,
    load_spec,
    load_table,
    same_cell,
    table_names,
    views_of,
)

OCC3D = load_table("table_occ3d")
BRIEF = [name for name in table_names() if load_table(name).brief]
ABLATIONS = [name for name in BRIEF if name.startswith("table_ablation_") and load_table(name).rows[0].model == "tpvformer"]


@pytest.mark.parametrize(
    ("table", "preset", "row", "fingerprint"),
    [
        ("table_occ3d", "toy", "tpvformer", "c2b2366de88eaa02"),
        ("table_occ3d", "toy", "tpvformer+gaussrender", "fca02c14542e9bb2"),
        ("table_occ3d", "paper", "surroundocc+gaussrender", "6ffd944db1325f12"),
        ("table_surroundocc", "toy", "surroundocc+gaussrender", "3907b04d036848b6"),
    ],
)
def test_fingerprints_of_recorded_cells_stay(table: str, preset: Any, row: str, fingerprint: str) -> None:
    """A new field of a spec must not make the committed records those of an earlier version."""
    spec = load_table(table)
    assert Cell(spec, spec.row(row), "cpu", preset, 0).fingerprint("x") == fingerprint


def test_what_a_row_trains_with_is_in_its_fingerprint_and_what_it_shows_is_not() -> None:
    row = OCC3D.row("tpvformer+gaussrender")
    plain = Cell(OCC3D, row, "cpu", "toy", 0)
    other = replace(plain, row=replace(row, gaussrender_options={"num_cameras": 2}))
    assert other.fingerprint("x") != plain.fingerprint("x")
    assert (plain.gaussrender, other.gaussrender) == ({"bev_reduction": 2}, {"bev_reduction": 2, "num_cameras": 2})
    assert replace(plain, row=OCC3D.row("tpvformer")).gaussrender is None
    shown = replace(plain, row=replace(row, title="other", note="other", base=None, presets=("toy",)))
    assert shown.fingerprint("x") == plain.fingerprint("x")
    short = replace(OCC3D.presets["toy"], short_evaluation=True)
    table = replace(OCC3D, presets={"toy": short})
    assert replace(plain, table=table).fingerprint("x") != plain.fingerprint("x")


@pytest.mark.parametrize("name", BRIEF)
def test_every_brief_table_runs_in_all_presets_with_valid_options(name: str) -> None:
    table = load_table(name)
    assert tuple(table.presets) == PRESETS
    assert len({row.name for row in table.rows}) == len(table.rows)
    for preset in PRESETS:
        rows = [row for row in table.rows if row.runs]  # the others are quoted only
        cells = [table.cell(row, "cpu", preset, 0) for row in rows]
        assert cells and len({cell.fingerprint("x") for cell in cells}) == len(cells), "no two rows are the same cell"
        for row, cell in zip(rows, cells, strict=True):
            assert row.base is None or table.row(row.base).trained
            assert cell.row.trained
            if cell.gaussrender is not None:
                GaussRenderConfig(**cell.gaussrender)


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_trains_only_what_differs_from_the_main_table(name: str) -> None:
    table, losses = load_table(name), load_table("table_ablation_losses")
    shared = [row for row in table.rows if row.cell_of]
    assert [row.name for row in shared] == ["tpvformer", "tpvformer+gaussrender"]
    known = {f.name for f in fields(GaussRenderConfig)}
    for row in table.rows:
        if not row.cell_of:
            assert row.gaussrender and row.gaussrender_options.keys() <= known
            assert any(getattr(PAPER, field) != value for field, value in row.gaussrender_options.items())
            assert table.cell(row, "cpu", "toy", 0).table is table
            continue
        for preset in ("mini", "paper"):
            assert table.cell(row, "cpu", preset, 0) == OCC3D.cell(OCC3D.row(row.name), "cpu", preset, 0)
        # The toy schedule is the ablations' own: one of them trains these two rows, the others show them.
        toy = table.cell(row, "cpu", "toy", 0)
        assert toy == losses.cell(losses.row(row.name), "cpu", "toy", 0)
        assert toy.table.name == "table_ablation_losses" and toy.schedule.iterations == 300


def test_tables_of_rays_share_the_main_tables_cells_and_vary_one_thing_a_row() -> None:
    main, rays = load_table("table_renderocc"), load_table("table_ablation_rays")
    for table, name in ((main, "renderocc-2d"), (main, "renderocc"), (rays, "renderocc-2d")):
        for preset in PRESETS:
            assert table.cell(table.row(name), "cpu", preset, 0) == OCC3D.cell(OCC3D.row(name), "cpu", preset, 0)
    for row in rays.rows[1:]:
        assert len(row.traits) + len(row.options) == 1 and row.base == "renderocc-2d"
    shown = {row.name: row.parts(training=True).get("rays") for row in (*main.rows, *rays.rows) if row.trained}
    assert shown["renderocc-2d"] == (0, -3, -2, -1, 1, 2, 3) and shown["frames-0"] == (0,) and shown["frames-2"] == (0, -1, 1)
    assert shown["renderocc-3d"] is None and shown["renderocc-3d-seen"] is None, "voxels alone teach: no ray is read"
    assert "rays" not in main.row("renderocc-2d").parts(training=False)
    own, splats = main.row("renderocc-rays"), main.row("renderocc-splats")
    assert own.options["teaching"] == {**MENDED, "distortion_weight": 0.0}
    assert splats.options == {**own.options, "splats": True} and splats.parts(training=True) == own.parts(training=True)
    paper = OCC3D.cell(OCC3D.row("renderocc"), "cpu", "paper", 0)
    assert paper.data.image_size == (1408, 512) and paper.first_weights is not None
    assert OCC3D.cell(OCC3D.row("tpvformer"), "cpu", "paper", 0).data.image_size == (1600, 896)
    chosen = replace(paper, overrides={"data.image_size": (704, 256)})
    assert chosen.data.image_size == (704, 256)


def test_the_ablation_of_gaussianflowocc_varies_what_a_row_says() -> None:
    from experiments.cell import models

    table, main = load_table("table_ablation_flow"), load_table("table_gaussianflowocc")
    for name in ("gaussianflowocc", "gaussianflowocc-still"):
        for preset in PRESETS:
            assert table.cell(table.row(name), "cpu", preset, 0) == main.cell(main.row(name), "cpu", preset, 0)
    rows = {row.name: row for row in table.rows if not row.cell_of}
    assert all(row.base == "gaussianflowocc" and row.options | row.traits for row in rows.values())
    for row in rows.values():
        for preset in row.presets:
            cell = table.cell(row, "cpu", preset, 0)
            models.check(cell)
            assert {column.metric for column in table.columns} <= set(cell.metrics)
            steps = row.parts(training=True)["views"]
            assert max(map(abs, steps)) <= cell.options.get("horizon", 6), "there is a code for every moment"
            looks_back = "temporal_att" in cell.options.get("operations", ("temporal_att",))
            before = {"toy": (-1, -2)}.get(preset, (-1, -2, -3, -4, -5))
            assert cell.parts(training=True).get("history", ()) == (before if looks_back else ())
    assert rows["own-moment"].parts(training=True)["views"] == (0,)
    assert rows["horizon-8"].recipe.views == {"toy": 2, "paper": 6} and rows["horizon-1"].recipe.views["paper"] == 2
    assert rows["neighbourhood-1"].presets == ("toy",) and "toy" not in rows["neighbourhood-5"].presets


def test_losses_are_added_one_after_the_other() -> None:
    terms = ("with_camera", "with_depth", "with_bev", "with_bev_depth")
    on = []
    for row in load_table("table_ablation_losses").rows[1:]:
        config = GaussRenderConfig(**row.gaussrender_options)
        on.append([getattr(config, term) for term in terms])
    assert on == [[i <= n for i in range(4)] for n in range(4)]


def test_another_tables_cell_is_refused_where_it_would_not_be_the_same() -> None:
    ablation = load_table("table_ablation_losses")
    row = ablation.row("tpvformer")
    other = replace(ablation, presets={"mini": replace(ablation.presets["mini"], model_size="toy")})
    with pytest.raises(
        SpecError, match="'tpvformer' of table_ablation_losses cannot be a cell of table_occ3d: their preset mini"
    ):
        other.cell(row, "cpu", "mini", 0)


class TestViews:
    @pytest.fixture(autouse=True)
    def prepare(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(experiments.tables, "__path__", [*experiments.tables.__path__, TABLES])

    def test_the_view_shows_the_three_main_tables(self) -> None:
        view = load_spec("table_2d")
        assert isinstance(view, ViewSpec) and "table_2d" not in table_names()
        assert [v.name for v in views_of(OCC3D)] == ["table_2d"] and views_of(view) == []
        assert [t.name for t in view.tables()] == ["table_occ3d", "table_surroundocc", "table_kitti360"]
        shown = {c.metric for c in view.columns}
        assert not any(shown & {c.metric for c in t.columns} for t in view.tables()), "nothing is shown twice"

    def test_rows_by_default_are_those_that_are_trained(self) -> None:
        view = load_spec("table_tiny_2d")
        assert isinstance(view, ViewSpec)
        chosen = {t.name: [r.name for r in rows] for t, rows in view.select([])}
        assert chosen["table_tiny"] == ["small", "small+gaussrender"]
        assert chosen["table_tiny_surroundocc"] == [
            *("tpvformer", "surroundocc", "surroundocc+gaussrender"),
            *("gaussianformer2-init", "gaussianformer2", "gaussianformer2+gaussrender"),
        ]

    def test_a_name_need_only_match_in_one_table(self) -> None:
        view = load_spec("table_tiny_2d")
        assert isinstance(view, ViewSpec)
        assert [(t.name, [r.name for r in rows]) for t, rows in view.select(["small"])] == [("table_tiny", ["small"])]
        with pytest.raises(SpecError, match="unknown row 'smal'; did you mean 'small'"):
            view.select(["smal"])

    def test_a_view_is_no_table(self) -> None:
        with pytest.raises(SpecError, match="table_tiny_2d has no cells of its own, .* table_tiny, table_tiny_surroundocc"):
            load_table("table_tiny_2d")


def test_a_row_of_a_row_is_the_same_cell() -> None:
    ablation = load_table("table_ablation_losses")
    twice = same_cell(ablation, "tpvformer", name="again")
    table = replace(ablation, name="table_other", rows=(twice,))
    assert table.cell(twice, "cpu", "paper", 0).key == "table_occ3d/paper/tpvformer--cpu--seed0"
    assert table.cell(twice, "cpu", "toy", 0).key == "table_ablation_losses/toy/tpvformer--cpu--seed0"
