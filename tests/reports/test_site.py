"""The site of results: what it holds, that its links lead somewhere, that nothing is loaded from elsewhere, and in a browser."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from built import run_with

pytest.importorskip("mkdocs", reason="mkdocs is not installed (pip install '.[site]')")
pytest.importorskip("material", reason="mkdocs-material is not installed (pip install '.[site]')")
pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed (pip install '.[site]')")

from experiments import records
from experiments.records import ROOT, load, save
from reports import build
from reports.site import __main__ as command
from reports.site import docstrings, links, plots, svg, tree
from reports.summary import Group

CHROMIUM = Path("/usr/bin/chromium")
TABLE = "reports/pages/table_occ3d.html"
RECORD = "records/table_occ3d/toy--tpvformer+gaussrender--cpu.html"

cli = run_with(command.main)


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory, make_record) -> Path:
    """Records of two rows and three seeds, the first losses in one of them, and a variant."""
    root = tmp_path_factory.mktemp("records")
    for seed, (base, row) in enumerate(((10.0, 10.5), (11.0, 12.0), (12.0, 13.5))):
        make_record(root, "tpvformer", seed, base)
        path = make_record(root, "tpvformer+gaussrender", seed, row)
        save(load(path).model_copy(update={"first_losses": [{"loss": 9.0 - seed}, {"loss": 8.0}]}), path)
    make_record(root, "tpvformer", 0, 10.0, overrides={"iterations": 5})
    return root


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, local: Path) -> Path:
    """The site of those records, with one page of the reference."""
    out = tmp_path_factory.mktemp("site") / "below" / "made"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "REFERENCE", {"Intervals": ("experiments.intervals",)})
        done = cli("--results", str(local), "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "a variant" in done.output and "no --predictions" in done.output
    return out


class Page(HTMLParser):
    """What a page loads, what it links, and where links may point in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids |= {value for name in ("id", "name") if (value := found.get(name))}
        if tag in ("script", "img", "iframe", "source") and found.get("src"):
            self.loaded.append(str(found["src"]))
        if tag == "link" and found.get("rel") != "canonical" and found.get("href"):
            self.loaded.append(str(found["href"]))
        if tag == "a" and found.get("href"):
            self.linked.append(str(found["href"]))


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    assert len(pages) > 30
    for path, page in pages.items():
        for target in (*page.loaded, *page.linked):
            parts = urlsplit(target)
            if parts.scheme in ("http", "https", "mailto"):
                assert target in page.linked, f"{path.relative_to(site)} loads {target}"
                continue
            assert not target.startswith("/"), f"{path.relative_to(site)}: {target} holds at the top of an address alone"
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            assert there.is_relative_to(site.resolve()) and there.is_file(), f"{path.relative_to(site)}: {target} is not there"
            if parts.fragment and there in pages and parts.fragment != "__skip":
                assert unquote(parts.fragment) in pages[there].ids, f"{path.relative_to(site)}: {target}: no such place"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_tables_are_those_of_the_reports_with_links(site: Path, local: Path) -> None:
    content = build.read(local, records.QUOTED, lambda _: None)
    text = build.pages(content, Path()).texts[Path("pages/table_occ3d.md")]
    shown = Page(site / TABLE)
    html = (site / TABLE).read_text(encoding="utf-8")
    for cell in ("12.00 ± 1.50", "+1.00 (-0.24 to +2.24)"):
        assert cell in text
        assert re.search(rf'<a href="[^"]*toy--tpvformer%2Bgaussrender--cpu.html">{re.escape(cell)}</a>', html)
    assert any(target.endswith("table_occ3d.html#quoted--tpvformer--mIoU") for target in shown.linked)
    assert "at:" not in re.sub(r"<[^>]*>", "", html) and not re.search(r"plot-[0-9a-f]{16}-here", html)


def test_a_record_shows_all_that_it_holds(site: Path, local: Path) -> None:
    html = (site / RECORD).read_text(encoding="utf-8")
    for said in (
        "seed 2",
        "0123456789ab",
        "table_occ3d --data-root",
        "test cpu",
        "torch 2",
        "mIoU_shuffled_images",
        "car",
        "<svg",
    ):
        assert said in html, said
    copies = {p.name: p.read_bytes() for p in (site / "records/json").rglob("*.json")}
    assert copies == {p.name: p.read_bytes() for p in local.rglob("*.json") if "iterations" not in p.name}


def test_a_page_of_sources_has_every_published_number(site: Path) -> None:
    html = (site / "sources/table_occ3d.html").read_text(encoding="utf-8")
    for number in records.load_published("table_occ3d"):
        assert f"{number.value:g}" in html and number.source.split(",")[0].split("<")[0] in html


def test_a_number_is_called_better_only_where_its_interval_says_so() -> None:
    assert plots.verdict((1.0, 1.1, 0.9), True) == "better" and plots.verdict((1.0, 1.1, 0.9), False) == "worse"
    assert plots.verdict((1.0, -1.0, 3.0), True) == "open" and plots.verdict((4.0,), True) == "open"


def test_axes_have_round_ticks_within() -> None:
    axis = svg.Axis(-0.7, 2.2, 0.0, 290.0)
    assert axis(-0.7) == 0 and axis(2.2) == 290 and axis.ticks() == [0.0, 1.0, 2.0]
    times = svg.Axis(0.5, 2000.0, 0.0, 100.0, logarithmic=True)
    assert times.ticks() == [1.0, 10.0, 100.0, 1000.0] and times(0.5) == 0
    assert [svg.number(v) for v in (0.5, 9000.0, 30000.0, 2e6)] == ["0.5", "9000", "30k", "2M"]


def test_links_of_different_rows_differ() -> None:
    names = ("a+b", "a b", "a_b", "a:b", "a@b", "a,b", "a%b")
    made = {links.record_page("table", Group("ours", "toy", "cpu"), name) for name in names}
    assert len(made) == len(names) and not [path for path in made if re.search(r"[ :%@]", path)]


def test_columns_of_a_docstring_become_a_list() -> None:
    text = "A thing.\n\nmeans   [B, N, 3] metres,\n        or with time\nwidth, height  pixels\n\n    left as it is\n"
    assert docstrings.as_markdown(text) == (
        "A thing.\n\n- `means`: [B, N, 3] metres, or with time\n- `width, height`: pixels\n\n    left as it is\n"
    )


def test_the_reference_names_modules_that_are_there() -> None:
    for module in (name for modules in tree.REFERENCE.values() for name in modules):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


@pytest.mark.parametrize("inside", ["reports/site-made", "docs", "results/local/site", "."])
def test_no_site_among_the_projects_own_files(inside: str) -> None:
    done = cli("--out", str(ROOT / inside))
    assert done.exit_code == 2 and done.output.startswith("error: --out: ") and "inside the project" in done.output
    assert done.output.count("\n") == 1


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, local: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = cli("--results", str(local), "--out", str(tmp_path))
    assert done.exit_code == 2 and "no site of this command" in done.output and done.output.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert cli("--results", str(local), "--out", str(tmp_path / "thesis.txt")).output.count("is no folder") == 1


def test_no_records_and_no_place_to_write_are_one_line(tmp_path: Path, local: Path, monkeypatch) -> None:
    done = cli("--results", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    assert done.exit_code == 2 and "holds no records" in done.output and done.output.count("\n") == 1
    monkeypatch.setattr(command, "tree", lambda *_: tree.Tree())
    done = cli("--results", str(local), "--out", "/proc/site")
    assert done.exit_code == 2 and "/proc/site" in done.output and "cannot be written" in done.output
    assert "Traceback" not in done.output and not (tmp_path / "out").exists()


def test_predictions_that_are_none_are_one_line(tmp_path: Path, local: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"no npz")
    for given, says in ((tmp_path, "a.npz is not a readable npz file"), (tmp_path / "gone", "does not exist")):
        done = cli("--results", str(local), "--out", str(tmp_path / "out"), "--predictions", str(given))
        assert done.exit_code == 2 and says in done.output and "error: " in done.output


def test_an_older_site_is_replaced_and_one_that_fails_is_kept(tmp_path: Path, local: Path, monkeypatch) -> None:
    old = tmp_path / "site"
    old.mkdir()
    (old / command.MARK).touch()
    (old / "old.html").touch()
    broken = tree.Tree(texts={"README.md": "# A\n\n[gone](nowhere.md)\n"}, nav=[{"A": "README.md"}])
    monkeypatch.setattr(command, "tree", lambda *_: broken)
    done = cli("--results", str(local), "--out", str(old))
    assert done.exit_code == 2 and "cannot be built" in done.output and "nowhere.md" in done.output
    assert (old / "old.html").is_file()
    monkeypatch.setattr(command, "tree", lambda *_: tree.Tree(texts={"README.md": "# A\n"}, nav=[{"A": "README.md"}]))
    assert cli("--results", str(local), "--out", str(old)).exit_code == 0
    assert not (old / "old.html").exists() and (old / "index.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["site"], "nothing is left beside it"


# ---- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"{CHROMIUM} is not installed")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser):
    """A page of the browser that fails the test for whatever its console complains of and for every request that leaves."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("requestfailed", lambda request: wrong.append(f"{request.url}: {request.failure}") if _failed(request) else None)
    opened.on("request", lambda request: wrong.append(request.url) if not _here(request.url) else None)
    yield opened
    opened.close()
    assert not wrong


def _failed(request) -> bool:
    """Whether a request found nothing; one that a click ended did not fail."""
    return "ERR_ABORTED" not in str(request.failure)


def _here(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:", "about:", "http://127.0.0.1:"))


def follow(tab, link: str) -> None:
    """Click a link, and wait until all of its page is there."""
    with tab.expect_navigation():
        tab.click(link)


def column(tab, table: str, place: int) -> list[str]:
    return tab.eval_on_selector_all(f"{table} tbody tr:not([hidden]) td:nth-child({place})", "all => all.map(c => c.innerText)")


def test_tables_sort_and_filter(tab, site: Path) -> None:
    tab.goto((site / TABLE).as_uri())
    table = ".md-content table >> nth=0"
    tab.evaluate("document.querySelector('.md-content table').id = 'first'")
    before = column(tab, "#first", 2)
    tab.click(f"{table} >> th >> nth=1")
    rising = [float(text) for text in column(tab, "#first", 2) if text != "-"]
    assert rising == sorted(rising) and len(rising) > 3
    tab.press("#first th:nth-child(2)", "Enter")
    falling = column(tab, "#first", 2)
    assert [float(text) for text in falling if text != "-"] == rising[::-1]
    assert falling[-1] == "-" and sorted(falling) == sorted(before), "what is missing stays last"
    tab.fill(".filter input >> nth=0", "gaussrender tpv")
    assert {"TPVFormer + GaussRender"} <= set(column(tab, "#first", 1)) and "SurroundOcc" not in column(tab, "#first", 1)
    tab.fill(".filter input >> nth=0", "")
    assert len(column(tab, "#first", 2)) == len(before)


def test_a_number_opens_its_record_and_a_published_one_its_source(tab, site: Path) -> None:
    tab.goto((site / TABLE).as_uri())
    follow(tab, "text='12.00 ± 1.50' >> visible=true")
    assert tab.url == (site / RECORD).as_uri().replace("%2B", "+") or unquote(tab.url).endswith(RECORD)
    assert "0123456789ab" in tab.inner_text(".md-content")
    tab.go_back()
    follow(tab, "text='30.07' >> visible=true")
    assert "sources/table_occ3d.html#rerun--tpvformer--mIoU" in tab.url


@pytest.mark.parametrize(
    "page",
    ["index.html", TABLE, RECORD, "reports/claims.html", "predictions.html", "docs/results.html", "reference/intervals.html"],
)
def test_a_narrow_window_shows_whole_pages(tab, site: Path, page: str) -> None:
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.goto((site / page).as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert len(tab.inner_text(".md-content")) > 200


def test_search_works_from_the_file_system(tab, site: Path) -> None:
    tab.goto((site / "index.html").as_uri())
    tab.fill("input.md-search__input", "bootstrap")
    end = time.monotonic() + 60
    while not tab.locator(".md-search-result__item a").count():
        assert time.monotonic() < end, "nothing is found"
        tab.dispatch_event("input.md-search__input", "keyup")  # what is typed before the page listens is not heard
        tab.wait_for_timeout(200)
    assert "Intervals" in tab.inner_text(".md-search-result__list")


def test_it_may_lie_below_any_address(tab, site: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        tab.goto(f"http://127.0.0.1:{server.server_port}/made/{TABLE}")
        assert tab.locator("th.sortable").count() > 5
        follow(tab, ".md-tabs >> text=Start")
        assert tab.url.endswith("/made/index.html")
    finally:
        server.shutdown()
        server.server_close()


def test_a_slider_goes_through_the_frames(tab, tmp_path: Path, local: Path, monkeypatch) -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    from test_visualise import frame

    from experiments import predictions
    from reports.site import frames

    for index in range(3):
        predictions.save(frame(index), tmp_path / f"npz/{index}.npz")
    monkeypatch.setattr(frames, "_WIDTH", 600)
    text, pictures = frames.page(tmp_path / "npz")
    assert len(pictures) == 3
    made = tree.Tree(
        texts={"README.md": "# A\n", frames.PAGE: text}, binaries=pictures, nav=[{"A": "README.md"}, {"B": frames.PAGE}]
    )
    monkeypatch.setattr(command, "tree", lambda *_: made)
    assert cli("--results", str(local), "--out", str(tmp_path / "out")).exit_code == 0
    tab.goto((tmp_path / "out/predictions.html").as_uri())
    shown = ".frames img:not([hidden])"
    assert tab.locator(shown).get_attribute("title") == "frame 0"
    tab.press(".frames input", "ArrowRight")
    assert tab.locator(shown).count() == 1 and tab.locator(shown).get_attribute("title") == "frame 1"
    assert tab.eval_on_selector(shown, "image => image.naturalWidth") == 600
