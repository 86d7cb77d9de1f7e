"""The report drawn by a real browser, at both widths and in both colour schemes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from results.report import browser, compose
from results.report.export import write_pictures
from tests.results.database import LOADS, RUN, everything, recorded
from tests.results.test_report import ALL

pytestmark = pytest.mark.browser

needs_browser = pytest.mark.skipif(browser.find_browser() is None, reason="no Chromium found")

PLOTS = """[...document.querySelectorAll(".plot")].map((plot) => {
  const svg = plot.querySelector(".main-svg")?.getBoundingClientRect();
  return { id: plot.id, width: svg?.width ?? 0, height: svg?.height ?? 0,
           marks: plot.querySelectorAll(".points path, .point").length };
})"""
PLACE = """(id) => {
  const plot = document.getElementById(id);
  plot.scrollIntoView({ block: "center", behavior: "instant" });
  const marks = [...plot.querySelectorAll(".points path, .point")].map((mark) => mark.getBoundingClientRect());
  const box = plot.querySelector(".nsewdrag").getBoundingClientRect();
  const inside = marks.filter((m) => m.width && m.x >= box.x && m.y >= box.y
    && m.x + m.width <= box.right && m.y + m.height <= box.bottom + 1);
  const mark = inside[Math.floor(inside.length / 2)];
  return mark && [mark.x + mark.width / 2, mark.y + mark.height / 2];
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Page]:
    with browser.browsing() as page:
        yield page


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    compose.write_report(everything(), RUN, file)
    return file


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_draws_every_figure(chromium: browser.Page, full: Path, width: int, scheme: str) -> None:
    chromium.open(full, width=width, scheme="dark" if scheme == "dark" else "light")
    assert chromium.complaints == []
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    plots = chromium.evaluate(PLOTS)
    assert {plot["id"] for plot in plots} == ALL
    for plot in plots:
        assert 200 < plot["width"] <= width, plot
        assert plot["height"] > 120, plot
        assert plot["marks"] > 0, plot
    colours = chromium.evaluate(
        "[document.body, document.querySelector('.plot .xtick text')].map((e) => getComputedStyle(e))"
        ".map((style, i) => i ? style.fill : style.backgroundColor)"
    )
    ground, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert (ground > 600 and ink < 200) if scheme == "light" else (ground < 200 and ink > 600)


@needs_browser
def test_every_figure_answers_the_mouse(chromium: browser.Page, full: Path) -> None:
    chromium.open(full, width=1400)
    silent = []
    for name in sorted(ALL):
        place = chromium.evaluate(f"({PLACE})({json.dumps(name)})")
        assert place, name
        chromium.point_at(place[0] - 3, place[1])
        chromium.point_at(*place)
        shown = f"document.getElementById({json.dumps(name)}).querySelectorAll('.hovertext').length"
        deadline = time.monotonic() + 3
        while not chromium.evaluate(shown) and time.monotonic() < deadline:
            time.sleep(0.02)
        silent += [] if chromium.evaluate(shown) else [name]
    assert silent == []


@needs_browser
def test_tables_sort_and_data_downloads(chromium: browser.Page, full: Path) -> None:
    chromium.open(full, width=1400)
    column = """[...document.querySelectorAll("#accepted-length tbody tr")].map((row) => row.cells[1].dataset.value)"""
    before = chromium.evaluate(column)
    head = "document.querySelectorAll('#accepted-length thead th')[1].click()"
    chromium.evaluate(head)
    falling = [float(v) for v in chromium.evaluate(column)]
    chromium.evaluate(head)
    rising = [float(v) for v in chromium.evaluate(column)]
    chromium.evaluate(head)
    assert falling == sorted(falling, reverse=True) == rising[::-1]
    assert chromium.evaluate(column) == before
    catch = """new Promise((done) => {
      const make = URL.createObjectURL;
      URL.createObjectURL = (blob) => { blob.text().then(done); URL.createObjectURL = make; return make(blob); };
      document.querySelector("[data-csv=frontier]").click();
    })"""
    head_line, *rows = chromium.evaluate(catch).splitlines()
    assert head_line.startswith("run,drafter,gamma,policy")
    assert len(rows) == 5 * len(LOADS)
    assert chromium.complaints == []


@pytest.mark.slow
@needs_browser
def test_published_layers_come_and_go(chromium: browser.Page, tmp_path: Path) -> None:
    """On a page about what DeepSeek serves: its own published lines are there at first."""
    con = everything()
    con.execute("UPDATE sweeps SET plan = replace(plan::VARCHAR, 'tiny', 'DeepSeek-V4-Flash')::JSON").fetchall()
    file = tmp_path / "report.html"
    compose.write_report(con, RUN, file)
    chromium.open(file, width=1400)
    lines = "document.querySelectorAll('#load-throughput .scatterlayer .trace').length"
    before = chromium.evaluate(lines)
    click = "document.querySelector('#load [data-layer=published]').click()"
    for fewer in (4, 0):
        chromium.evaluate(click)
        deadline = time.monotonic() + 3
        while chromium.evaluate(lines) != before - fewer and time.monotonic() < deadline:
            time.sleep(0.02)
        assert before - fewer - 2 <= chromium.evaluate(lines) <= before - fewer  # their names too
    assert chromium.complaints == []


@needs_browser
def test_pictures_of_every_figure(tmp_path: Path) -> None:
    files = write_pictures(compose.compose(recorded(), RUN), tmp_path, scale=1)
    assert {file.stem for file in files} == {"accepted-length", "conditional-acceptance", "block-size", "speed"}
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size > 5_000
