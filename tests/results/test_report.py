"""The report as a file: complete, self-contained, drawn by a real browser at both widths and in both colour schemes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from plotly.offline import get_plotlyjs

from results import report

SCHEMA = sorted((Path(report.__file__).parent / "schema").glob("*.sql"))
RUN = "3f9c"
DRAFTERS = {"dspark": 7, "dflash": 7, "eagle3": 7, "mtp": 1, "ngram": 7, "none": 0}
ACCEPTANCE = {"dspark": 0.8, "dflash": 0.6, "eagle3": 0.55, "mtp": 0.5, "ngram": 0.2, "none": 0.0}
TASKS = {
    "gsm8k": "math",
    "aime25": "math",
    "humaneval": "code",
    "livecodebench": "code",
    "mt-bench": "chat",
    "alpaca": "chat",
}
PLOTS = {
    *(f"accepted-length-{domain}" for domain in ("math", "code", "chat")),
    *(f"conditional-acceptance-{domain}" for domain in ("math", "code", "chat")),
    "speed-up",
}


def recorded(
    drafters: dict[str, int] = DRAFTERS,
    *,
    keep: Callable[[str, str], bool] = lambda drafter, task: True,
    speed: bool = True,
    finished: bool = True,
    kinds: dict[str, str] | None = None,
) -> duckdb.DuckDBPyConnection:
    """A run of 4 prompts a task whose drafters accept every position with their `ACCEPTANCE`; `keep` thins it out."""
    rng = np.random.default_rng(0)
    responses: list[tuple[object, ...]] = []
    rounds: list[tuple[object, ...]] = []
    samples: list[tuple[object, ...]] = []
    for drafter, gamma in drafters.items():
        alpha = ACCEPTANCE.get(drafter, 0.4)
        for task, domain in TASKS.items():
            for prompt in (f"{task}/{i}" for i in range(4) if keep(drafter, task)):
                lengths = [int(np.argmin([*(rng.random(gamma) < alpha), False])) for _ in range(30)]
                key = (RUN, drafter, gamma)
                responses.append((*key, task, domain, prompt, 0, 9, 31 + sum(lengths), "length", [], "", []))
                rounds += [(*key, prompt, 0, i, gamma, gamma, a, a + 1, [], 1, 0.1, 0.2) for i, a in enumerate(lengths)]
        for sample in range(3):
            samples += [(RUN, drafter, gamma, sample, f"gsm8k/{i}", 1, 60, 1 - alpha / 2 + i / 50) for i in range(4)]
    con = duckdb.connect()
    for migration in SCHEMA:
        con.execute(migration.read_text()).fetchall()
    declared = {name: {"kind": (kinds or {}).get(name, name), "gamma": gamma} for name, gamma in drafters.items()}
    con.execute(
        "INSERT INTO runs VALUES ($1, '2026-02-01 10:00', $2, 'harness run suites/math_code_chat', 'math_code_chat', 1,"
        " '9a4f0c', 'bundled', 'tiny', '{}', $3, '{\"temperature\": 1.0}', 0, '{}', '4be1c77', '{\"torch\": \"2.9\"}',"
        ' \'{"cpu": "Xeon", "memory_bytes": 17179869184, "gpu": null}\')',
        [RUN, "2026-02-01 10:05" if finished else None, json.dumps(declared)],
    ).fetchall()
    for table, rows in (("responses", responses), ("rounds", rounds), ("speed_samples", samples if speed else [])):
        if rows:
            con.register("arriving", pl.DataFrame(rows, orient="row"))
            con.execute(f"INSERT INTO {table} SELECT * FROM arriving").fetchall()
            con.unregister("arriving")
    return con


class Page(HTMLParser):
    """Text outside scripts and styles, the addresses the page loads, and the ids it defines."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.loads, self.ids, self._inside = "", list[str](), list[str](), ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag if tag in ("script", "style") else ""
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "poster", "action"):
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += f" {' '.join(data.split())}" if data.strip() else ""


def test_one_file_that_loads_nothing(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    start = time.perf_counter()
    report.write_report(recorded(), RUN, file)
    assert time.perf_counter() - start < 5
    assert file.stat().st_size < 6e6
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    html = file.read_text()
    page = Page(html)
    assert page.loads == []
    assert "default-src 'none'" in html
    assert html.count("* plotly.js v") == 1
    assert PLOTS | {"accepted-length", "conditional-acceptance", "speed", "provenance"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    # Outside plotly.js, which names addresses it would only follow when asked to, nothing even looks like an address.
    assert "http" not in html.replace(get_plotlyjs(), "").replace("http-equiv", "")


def test_the_headline_answers_and_the_page_says_what_it_is_not() -> None:
    text = Page(report.render(recorded(), RUN)).text
    tau = r"\(\d\.\d\d\)"
    assert re.search(rf"Most tokens per round: dspark in math {tau}, code {tau} and chat {tau}\.", text)
    # tokens are equal, seconds 0.63 and 1.03 on average over 4 prompts: 1.03/0.63.
    assert re.search(r"Speed against none on this machine: dspark 1\.63× \(95 % 1\.\d\d to 1\.\d\d\)\.", text)
    assert "bundled prompts, not the benchmarks" in text
    assert "they are not expected to be equal" in text
    for fact in ("harness run suites/math_code_chat", "9a4f0c", "4be1c77", "torch 2.9", "Xeon", "memory 16.0 GiB"):
        assert fact in text
    assert "gpu None" not in text


def test_the_report_says_how_rounds_came_about() -> None:
    con = recorded({"dspark": 7, "none": 0})
    assert "all rounds decoded live" in Page(report.render(con, RUN)).text
    # A dense recording: dspark's rounds are replayed, on responses of none.
    con.execute("INSERT INTO recordings SELECT run_id, drafter, gamma, prompt_id, turn, 30 FROM responses WHERE gamma = 7")
    con.execute("DELETE FROM responses WHERE gamma = 7").fetchall()
    text = Page(report.render(con, RUN)).text
    assert "all rounds decoded live" not in text
    assert "720 rounds replayed from a dense record, every drafted token verified; the others are plain decoding" in text


def test_the_table_sets_the_published_value_beside_the_measured() -> None:
    html = report.render(recorded(), RUN)
    row = re.search(r'<th scope="row">gsm8k</th>(.*?)</tr>', html, re.DOTALL)
    assert row is not None
    cells = re.findall(r"<td title=\"([^\"]*)\">([\d.]+)(?:<small>([\d.]+)</small>)?</td>", row[1])
    assert [paper for _, _, paper in cells] == ["6.11", "5.40", "5.14", "", "", ""]
    assert cells[-1][1] == "1.00"
    assert re.fullmatch(r"\d\.\d{3}, 95 % \d\.\d\d to \d\.\d\d \(4 prompts, 120 rounds\)", cells[0][0])


def test_measured_and_published_marks_never_look_alike() -> None:
    html = report.render(recorded(), RUN)
    match = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)
    assert match is not None
    specs = json.loads(match[1])
    assert set(specs) == PLOTS
    for name, spec in specs.items():
        for trace in spec["data"]:
            published = "in the paper" in trace["hovertext"][0]
            hollow = trace["type"] == "scatter" and trace["marker"]["symbol"].endswith("-open")
            assert hollow == published, name
            assert ("error_y" in trace or "error_x" in trace) != published, name
    colours = {
        name: {t["hovertext"][0].split(",")[0]: t["line"]["color"] for t in spec["data"]}
        for name, spec in specs.items()
        if name.startswith("conditional")
    }
    assert colours["conditional-acceptance-math"] == colours["conditional-acceptance-chat"]
    assert len(set(colours["conditional-acceptance-math"].values())) == 5


def test_a_run_cut_short_says_what_is_missing() -> None:
    def keep(drafter: str, task: str) -> bool:
        return drafter != "ngram" and (drafter, task) != ("dspark", "livecodebench")

    text = Page(report.render(recorded(keep=keep, speed=False, finished=False), RUN)).text
    assert "This run did not finish" in text
    assert "dspark lacks 4 responses that other drafters gave, in livecodebench." in text
    assert "ngram lacks 24 responses that other drafters gave, in 6 tasks." in text
    # dspark's code mean is over humaneval alone, so it may not win code.
    assert re.search(r"Most tokens per round: dspark in math \(.*\) and chat \(.*\); dflash in code", text)
    assert "† Mean of fewer tasks" in text
    assert "How fast that is was not measured." in text
    assert "No speed samples were taken in this run" in text


def test_an_empty_run_and_a_run_of_none_still_report() -> None:
    empty = Page(report.render(recorded(keep=lambda drafter, task: False, speed=False), RUN)).text
    assert "No drafter has committed a round yet." in empty
    assert "No drafted position was ever verified" in empty
    none = Page(report.render(recorded({"none": 0}), RUN)).text
    assert "No rounds of a drafter are recorded" in none
    assert "1.00" in none


def test_speed_without_none_is_given_but_not_compared() -> None:
    text = Page(report.render(recorded({"dspark": 7, "mtp": 1}), RUN)).text
    assert "for want of none's samples beside theirs: dspark 95.2 tokens/s and mtp 76.9 tokens/s." in text


def test_names_are_text_not_markup_and_kinds_give_the_style() -> None:
    evil = "</script><b>mine</b>"
    html = report.render(recorded({evil: 7, "dspark": 7, "none": 0}, kinds={evil: "dspark"}), RUN)
    assert evil not in html
    assert evil in Page(html).text
    assert '"\\u003c/script>' in html
    legend = re.findall(r'<path d="[^"]*" fill="(#\w+)"', html)
    assert legend[:2] == [report.STYLES["dspark"][0], report.SPARE_STYLES[0][0]]


def test_a_failed_write_keeps_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.html"
    file.write_text("the old one")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write_report(recorded(), RUN, file)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert file.read_text() == "the old one"


def test_an_unknown_run_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no run 'gone'"):
        report.write_report(recorded(), "gone", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const plots = [...document.querySelectorAll(".plot")].map((plot) => {
    const svg = plot.querySelector(".main-svg")?.getBoundingClientRect();
    const marks = plot.querySelectorAll(".points path, .point").length;
    return [plot.id, { width: svg?.width ?? 0, height: svg?.height ?? 0, marks }];
  });
  const seen = { plots: Object.fromEntries(plots), viewport: innerWidth,
                 page: document.documentElement.scrollWidth, ground: getComputedStyle(document.body).backgroundColor,
                 ink: getComputedStyle(document.querySelector(".plot .xtick text")).fill };
  document.body.insertAdjacentHTML("beforeend", `<pre id="seen">${JSON.stringify(seen)}</pre>`);
}, 500));
</script>"""
"""Appended to a copy of the report: what the browser made of it."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_draws_every_figure(tmp_path: Path, width: int, scheme: str) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium executable found")
    file = tmp_path / "report.html"
    file.write_text(report.render(recorded(), RUN).replace("</body>", PROBE + "</body>"))
    # A kiosk window has the screen's size; an ordinary headless window is never narrower than 500 pixels.
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--kiosk"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--screen-info={{{width}x900}}"]
    flags += [f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"]
    browser = subprocess.run([chromium, *flags, "--dump-dom", f"file://{file}"], capture_output=True, text=True, timeout=120)
    assert [line for line in browser.stderr.splitlines() if "CONSOLE" in line] == []
    match = re.search(r'<pre id="seen">(\{.*?\})</pre>', browser.stdout)
    assert match is not None, "the page's scripts did not run to the end"
    seen = json.loads(match[1])
    assert seen["viewport"] == width
    assert seen["page"] <= width, "the page scrolls sideways"
    assert set(seen["plots"]) == PLOTS
    for name, plot in seen["plots"].items():
        assert 200 < plot["width"] <= width, name
        assert plot["height"] > 200, name
        assert plot["marks"] > 0, name
    # Ground and tick labels must change sides with the scheme.
    ground, ink = (sum(map(int, re.findall(r"\d+", seen[key])[:3])) for key in ("ground", "ink"))
    assert (ground > 600 and ink < 200) if scheme == "light" else (ground < 200 and ink > 600)
