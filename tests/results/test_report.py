"""The report as a file: complete, self-contained, and open about what is missing."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from results.figures import style
from results.report import compose
from results.report.export import write_tables
from simulator.hardware.profile import dump_profile
from tests.results.database import (
    LOADS,
    PROFILE,
    RUN,
    add_study,
    add_sweep,
    add_tolerances,
    add_validation,
    everything,
    point,
    recorded,
)

RECORDED = {
    *(f"accepted-length-{domain}" for domain in ("math", "code", "chat")),
    *(f"conditional-acceptance-{domain}" for domain in ("math", "code", "chat")),
    *(f"block-size-{domain}" for domain in ("math", "code", "chat")),
    "speed-up",
}
SIMULATED = {
    "frontier-plot", "load-throughput", "load-budget", "latency-ttft", "latency-tpot", "latency-e2e",
    "step-time-dspark-prefix-scheduler", "step-time-dspark-fixed-7", "step-time-mtp-fixed-1", "step-time-none",
}  # fmt: skip
CONFIDENT = {"threshold-math", "threshold-code", "reliability-1", "reliability-3"}
STUDIED = {f"study-{kind}-users-64-0" for kind in ("history", "pareto", "decides")}
VALIDATED = {"validation-throughput", *(f"validation-{quantity}-error" for quantity in ("throughput", "tau", "step"))}
TOLERATED = {"tolerance-users-4", "tolerance-users-64"}
ALL = RECORDED | SIMULATED | CONFIDENT | STUDIED | VALIDATED | TOLERATED


class Page(HTMLParser):
    """Text outside scripts and styles, the addresses the page loads, and the ids it defines."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.loads, self.ids, self._inside = "", list[str](), list[str](), ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag if tag in ("script", "style") else ""
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "poster", "action") and not (value or "").startswith("#"):
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += f" {' '.join(data.split())}" if data.strip() else ""


def embedded(html: str, name: str) -> dict[str, object]:
    match = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.DOTALL)
    assert match is not None
    found: dict[str, object] = json.loads(match[1])
    return found


def test_one_file_that_loads_nothing(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    con = everything()
    start = time.process_time()  # of this process alone: others may keep the machine busy
    compose.write_report(con, RUN, file)
    assert time.process_time() - start < 5
    assert file.stat().st_size < 6e6
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    html = file.read_text()
    page = Page(html)
    assert page.loads == []
    assert "default-src 'none'" in html
    assert html.count("* plotly.js v") == 1
    assert ALL | {"accepted-length", "speed", "provenance"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    # Outside plotly.js, which names addresses it would only follow when asked to, nothing even looks like an address.
    assert "http" not in html.replace(get_plotlyjs(), "").replace("http-equiv", "")


def test_every_figure_has_its_data_and_a_link() -> None:
    html = compose.render(everything(), RUN)
    data = embedded(html, "data")
    sections = re.findall(r'<section id="([^"]+)"', html)
    assert set(data) == set(sections) - {"provenance"}
    for name in sections:
        assert f'href="#{name}"' in html
    for name, columns in data.items():
        assert isinstance(columns, dict)
        assert len({len(values) for values in columns.values()}) == 1, name


def test_a_drafter_that_is_never_right_leads_nowhere() -> None:
    """It commits what decoding alone does, 1 a round, and no gain is told of it."""
    con = recorded({"ngram": 4}, acceptance={"ngram": 0.0}, speed=False)
    answer = compose.compose(con, RUN).answer
    assert (
        answer.headline
        == "No drafter commits more tokens per round than decoding without one in math, code and chat (1.00)."
    )
    assert not answer.gains
    con.execute("UPDATE rounds SET accepted = 3, committed = 4 WHERE prompt_id LIKE 'gsm8k%'").fetchall()
    answer = compose.compose(con, RUN).answer
    assert answer.headline.startswith("Most tokens per round: ngram in math (")
    assert "without one in code and chat (1.00)" in answer.headline
    assert answer.gains


def test_a_small_lead_on_the_same_prompts_is_clear_and_one_that_is_chance_is_not() -> None:
    """Rounds of a prompt commit 2, 4 or 6 tokens, and every tenth of `old` one fewer: intervals overlap, prompts agree."""
    con = recorded({"old": 7, "new": 7, "none": 0}, kinds={"old": "eagle3", "new": "eagle3"}, prompts=8, speed=False)
    con.execute(
        "UPDATE rounds SET committed = 2 + 2 * (hash(prompt_id) % 3) - (CASE WHEN drafter = 'old' AND round % 10 = 0"
        " THEN 1 ELSE 0 END), accepted = 7"
    ).fetchall()
    assert "Not clearly ahead" not in compose.compose(con, RUN).answer.headline
    con.execute("UPDATE rounds SET committed = CASE WHEN (hash(prompt_id, drafter) % 2) = 0 THEN 3 ELSE 5 END").fetchall()
    told = compose.compose(con, RUN).answer.headline
    assert "Not clearly ahead in math" in told
    assert "prompt by prompt the difference may be chance" in told


def test_overload_opens_no_report_with_what_is_kept() -> None:
    con = recorded()
    grows = {"keeps_up": False, "stationary": False}
    add_sweep(con, [point(0, "none", "none", 8, 1000, **grows), point(1, "dspark", "fixed:7", 8, 1100, **grows)])
    text = Page(compose.render(con, RUN)).text
    assert "nothing that was simulated keeps up with what arrives" in text
    assert not re.search(r"≥ 1,[01]00", text)
    assert "run dspark" not in text


def test_what_a_study_simulated_was_simulated() -> None:
    con = recorded()
    add_sweep(con, [])  # that came to nothing
    assert any("Nothing was simulated" in notice for notice in compose.compose(con, RUN).notices)
    add_study(con)
    assert not any("Nothing was simulated" in notice for notice in compose.compose(con, RUN).notices)


def test_one_prompt_a_task_tells_how_many_it_takes() -> None:
    con = recorded(prompts=1)
    con.execute("DELETE FROM speed_samples WHERE prompt_id <> 'gsm8k/0'").fetchall()
    text = Page(compose.render(con, RUN)).text
    assert "no interval: it takes 2 prompts of every task or more" in text
    assert "no interval from 1 prompt: it takes 3 and two passes or more" in text
    assert "it takes 2 prompts" not in Page(compose.render(recorded(prompts=2), RUN)).text


def test_the_most_within_a_bound_is_of_a_load_that_was_simulated_and_what_may_be_more_is_told() -> None:
    """dspark keeps it at 4 users, and 32 users would deliver far more but break it; mtp keeps it at 8."""
    con = recorded()
    add_sweep(con, [
        point(0, "none", "none", 4, 250), point(1, "mtp", "fixed:1", 4, 350), point(2, "mtp", "fixed:1", 8, 500),
        point(3, "mtp", "fixed:1", 32, 520), point(4, "dspark", "fixed:7", 4, 480), point(5, "dspark", "fixed:7", 32, 1500),
        point(6, "none", "none", 8, 100),
    ])  # fmt: skip
    report = compose.compose(con, RUN)
    answer = report.answer
    assert "run mtp fixed:1: at least 500 ± 5 tokens/s/GPU at 8 users" in answer.headline
    assert any("dspark fixed:7: this delivers 4.2% more, of what was simulated." in told for told in answer.remarks)
    assert any("more at loads that were not simulated: dspark fixed:7 between 4 users and 32" in t for t in answer.remarks)
    text = Page(compose.page(report)).text
    assert "≥ 500 ± 5" in text
    assert "32 users (1,500)" in text


def test_a_lead_over_a_baseline_that_may_deliver_more_between_two_loads_is_not_clear() -> None:
    con = recorded()
    add_sweep(con, [
        point(0, "mtp", "fixed:1", 4, 400), point(1, "mtp", "fixed:1", 32, 1500),
        point(2, "dspark", "fixed:7", 4, 600), point(3, "dspark", "fixed:7", 32, 1400),
    ])  # fmt: skip
    answer = compose.compose(con, RUN).answer
    assert "at least 600 ± 6 tokens/s/GPU at 4 users, which is not clearly more than MTP-1" in answer.headline
    assert "There may be more of it between 4 users and 32 users, where a bound breaks." in answer.remarks


def test_the_section_of_a_study_names_its_question() -> None:
    [found] = [section for section in compose.compose(everything(), RUN).sections if section.name == "study"]
    assert all(fact in found.lede for fact in ("57ad", "h100/toy", "64 users", "mean_tps ≥ 50"))


def test_a_lead_within_the_noise_is_called_unclear() -> None:
    con = recorded()
    wide = {"throughput_half_width": 300.0}
    add_sweep(con, [point(0, "none", "none", 8, 1000, **wide), point(1, "dspark", "fixed:7", 8, 1100, **wide)])
    text = Page(compose.render(con, RUN)).text
    assert (
        "run dspark fixed:7: at least 1,100 ± 300 tokens/s/GPU at 8 users, which is not clearly more than no speculation."
        in text
    )
    assert "within the interval: take whichever is easier to run" in text


def test_a_profile_of_another_model_is_warned_of() -> None:
    con = recorded()
    add_sweep(con, profile=replace(PROFILE, model="Qwen/Qwen3-4B"))
    text = Page(compose.render(con, RUN)).text
    assert "The hardware profile h100/toy is of Qwen/Qwen3-4B, the traces are of the tiny target" in text
    con = recorded()
    add_sweep(con)
    assert "The hardware profile h100/toy is of" not in Page(compose.render(con, RUN)).text


def test_the_report_says_how_rounds_came_about() -> None:
    con = recorded({"dspark": 7, "none": 0})
    assert "all rounds decoded live" in Page(compose.render(con, RUN)).text
    # A dense recording: dspark's rounds are replayed, on responses of none.
    con.execute(
        "INSERT INTO recordings SELECT run_id, drafter, gamma, drafting, prompt_id, turn, 30 FROM responses WHERE gamma = 7"
    )
    con.execute("DELETE FROM responses WHERE gamma = 7").fetchall()
    text = Page(compose.render(con, RUN)).text
    assert "all rounds decoded live" not in text
    assert "720 rounds replayed from a dense record, every drafted token verified; the others are plain decoding" in text


def test_the_table_sets_the_published_value_beside_the_measured() -> None:
    html = compose.render(recorded(), RUN)
    row = re.search(r'<th scope="row">gsm8k</th>(.*?)</tr>', html, re.DOTALL)
    assert row is not None
    cells = re.findall(r"<td title=\"([^\"]*)\" data-value=\"[\d.]+\">([\d.]+)(?:<small>([\d.]+)</small>)?</td>", row[1])
    assert [paper for _, _, paper in cells] == ["6.11", "5.40", "5.14", "", "", ""]
    assert cells[-1][1] == "1.00"
    assert re.fullmatch(r"\d\.\d{3}, 95 % \d\.\d\d to \d\.\d\d \(4 prompts, 120 rounds\)", cells[0][0])


def test_measured_simulated_synthesised_and_published_never_look_alike() -> None:
    con = everything()
    seen: dict[str, set[tuple[str, bool]]] = {}
    for source in ("bundled", "synthesised"):
        con.execute("UPDATE runs SET prompt_source = ?", [source])
        for name, spec in embedded(compose.render(con, RUN), "figures").items():
            if name == "frontier-plot" or name.startswith(("conditional", "threshold", "load")):
                for trace in spec["data"]:  # type: ignore[index]
                    if "lines" in trace.get("mode", "") and trace.get("meta") != "ink":
                        look_of = (trace["line"].get("dash", "solid"), trace["marker"]["symbol"].partition("-")[2])
                        seen.setdefault(trace["meta"], set()).add((look_of[0], look_of[1].removeprefix("up")))
    assert set(seen) == {"measured", "simulated", "synthesised", "published"}
    every = [look_of for looks in seen.values() for look_of in looks]
    assert len(every) == len(set(every)), seen


def test_names_that_look_like_markup_are_text_in_figures() -> None:
    """Plotly takes ticks and hover texts for markup, as it does line breaks, which are the report's own."""
    name = 'my<b>x</b>&"'
    html = compose.render(recorded({"none": 0, name: 4}), RUN)
    texts = json.dumps(embedded(html, "figures"))
    assert "<b>x" not in texts
    assert "my&lt;b&gt;x&lt;/b&gt;&amp;" in texts
    assert "<br>" in texts
    assert name in Page(html).text
    assert "&lt;b&gt;" not in Page(html).text


def test_a_drafter_has_one_colour_and_mark_in_all_figures() -> None:
    specs = embedded(compose.render(everything(), RUN), "figures")
    marks: dict[str, set[tuple[str, str]]] = {}
    for spec in specs.values():
        for trace in spec["data"]:  # type: ignore[index]
            text = (trace.get("hovertext") or [""])[0]
            symbol = trace.get("marker", {}).get("symbol", "")
            who = re.match(r"(dspark|dflash|eagle3|mtp|ngram|none)\b", text)
            if who and isinstance(symbol, str) and symbol and "published" not in trace.get("meta", ""):
                marks.setdefault(who[1], set()).add((trace["marker"]["color"], re.sub("-(open|dot|open-dot)$", "", symbol)))
    for kind, found in marks.items():
        assert {(c, s.removesuffix("-open")) for c, s in found} == {style.STYLES[kind]}, kind
    assert set(marks) == set(style.STYLES)


def test_a_run_cut_short_says_what_is_missing() -> None:
    def keep(drafter: str, task: str) -> bool:
        return drafter != "ngram" and (drafter, task) != ("dspark", "livecodebench")

    text = Page(compose.render(recorded(keep=keep, speed=False, finished=False), RUN)).text
    assert "This run did not finish" in text
    assert "dspark lacks 4 responses that other drafters gave, in livecodebench." in text
    assert "ngram lacks 24 responses that other drafters gave, in 6 tasks." in text
    # dspark's code mean is over humaneval alone, so it may not win code.
    assert re.search(r"Most tokens per round: dspark in math \(.*\) and chat \(.*\); dflash in code", text)
    assert "† Mean of fewer tasks" in text
    assert "How fast that is was not measured." in text
    assert "No speed samples were taken in this run" in text
    assert "Nothing was simulated on these runs" in text


def test_an_empty_run_and_a_run_of_none_still_report() -> None:
    empty = Page(compose.render(recorded(keep=lambda drafter, task: False, speed=False), RUN)).text
    assert "No drafter has committed a round yet." in empty
    assert "No drafted position was ever verified" in empty
    assert "there are no confidences to look at" in empty
    none = Page(compose.render(recorded({"none": 0}), RUN)).text
    assert "No rounds of a drafter are recorded" in none
    assert "1.00" in none


def test_failed_partial_and_unknown_simulations_are_said() -> None:
    con = recorded()
    unsure = {"throughput_half_width": None, "tps": None, "tau": None, "quantiles": {}, "means": {}, "step_s": {}}
    add_sweep(con, [
        point(0, "none", "none", 8, 400), point(1, "dspark", "fixed:7", 8, 900, **unsure),
        point(2, "mtp", "fixed:1", 8, None),
        point(3, "dspark", "fixed:7", 64, 4000, stationary=False, warnings=["did not settle"]),
    ])  # fmt: skip
    con.execute("UPDATE sweeps SET finished_at = NULL").fetchall()
    text = Page(compose.render(con, RUN)).text
    assert "1 of 4 points of the sweep failed: no room." in text
    assert "1 of 4 points: did not settle." in text
    assert "Sweep 5eed did not finish" in text
    assert "Most tokens per round" in text  # and nobody is told what to run by half of the points
    assert "tokens/s/GPU." not in text.split("Sweep 5eed did not finish")[0]
    assert "NaN" not in text
    con = recorded()
    add_sweep(con, [point(0, "none", "none", 8, None)])
    con.execute("UPDATE simulations SET error = NULL").fetchall()
    text = Page(compose.render(con, RUN, sweep_id="5eed")).text
    assert "No simulation of sweep 5eed has come to a result" in text
    assert "Most tokens per round: dspark in math" in text
    con = recorded()
    add_sweep(con, [point(i, "none", "none", n, 20.0) for i, n in enumerate(LOADS)])
    assert (
        "On h100/toy nothing that was simulated keeps the bound: at least 50 tokens/s on average."
        in Page(compose.render(con, RUN)).text
    )


def test_a_study_without_confirmations_leaves_the_answer_to_the_sweep() -> None:
    con = recorded()
    add_sweep(con)
    add_study(con, confirmed=False)
    text = Page(compose.render(con, RUN)).text
    assert "run dspark prefix_scheduler: at least" in text
    assert "What the tuner found" in text


def test_several_runs_are_shown_side_by_side() -> None:
    con = recorded({"dspark": 7, "none": 0})
    recorded({"dspark": 3, "none": 0}, con=con, run="beef")
    html = compose.render(con, [RUN, "beef"])
    page = Page(html)
    assert "2 runs" in page.text
    # A panel a run, in which a drafter has the colour it always has; a row a run in tables.
    for run in (RUN, "beef"):
        assert {f"accepted-length-math-{run}", f"conditional-acceptance-code-{run}", f"speed-up-{run}"} <= set(page.ids)
        assert f"math · tiny {run}" in page.text
        assert f"gsm8k · {run}" in page.text
    assert set(re.findall(r'<path d="[^"]*" fill="(#\w+)"[^>]*>\s*</svg>dspark', html)) == {style.STYLES["dspark"][0]}
    # What it opens with is about the first run.
    assert f"Most tokens per round: dspark γ=7 ({RUN}) in math" in page.text


def test_runs_that_were_not_asked_the_same_are_told_to_differ() -> None:
    """In a notice on top; title and subtitle have each one's suite, temperature and seed, or none that differs."""
    con = recorded({"dspark": 7, "none": 0})
    recorded({"dspark": 7, "none": 0}, con=con, run="beef")
    alike = compose.compose(con, [RUN, "beef"])
    assert not any("side by side" in notice for notice in alike.notices)
    assert "temperature 1 · seed 0 · " in alike.subtitle
    con.execute(
        """UPDATE runs SET seed = 7, suite = 'other', sampling = '{"temperature": 0.5}' WHERE run_id = 'beef'"""
    ).fetchall()
    report = compose.compose(con, [RUN, "beef"])
    [told] = [notice for notice in report.notices if "side by side" in notice]
    assert f"Runs {RUN} and beef are shown side by side and differ in suite (math_code_chat → other), seed (0 → 7)" in told
    assert "temperature (1.0 → 0.5): what differs" in told
    assert told in Page(compose.page(report)).text
    assert "temperature 1 / temperature 0.5 · seed 0 / seed 7 · " in report.subtitle
    assert f"run {RUN} / run beef" in report.subtitle
    assert "math_code_chat v1 / other v1" in report.title
    con.execute("UPDATE runs SET sampling = '{}' WHERE run_id = 'beef'").fetchall()
    assert "temperature 1 / temperature unknown" in compose.compose(con, [RUN, "beef"]).subtitle


@pytest.mark.slow
def test_published_values_step_back_beside_another_model() -> None:
    con = everything()

    def published(name: str) -> list[dict[str, object]]:
        traces = embedded(compose.render(con, RUN), "figures")[name]["data"]  # type: ignore[index]
        return [trace for trace in traces if trace.get("meta") == "published"]

    assert {trace["opacity"] for trace in published("conditional-acceptance-math")} == {0.45}
    for figure in ("frontier-plot", "load-throughput"):  # of what DeepSeek served, not of this target
        assert published(figure) == []
    assert "DeepSeek-V4" not in Page(compose.render(con, RUN)).text
    con.execute("""UPDATE runs SET target = '{"source": "Qwen/Qwen3-4B"}'""").fetchall()
    assert {trace["opacity"] for trace in published("conditional-acceptance-math")} == {0.7}
    served = dump_profile(replace(PROFILE, model="DeepSeek-V4-Flash"))
    con.execute("UPDATE sweeps SET plan = json_merge_patch(plan, ?)", [json.dumps({"profile": served})]).fetchall()
    assert len(published("frontier-plot")) >= 4
    assert compose.render(con, RUN).count("DeepSeek-V4 in production, in the paper") == 2  # legends of the two figures


def test_every_block_size_is_in_the_figure_over_block_sizes() -> None:
    con = recorded({"dspark": 7, "none": 0})
    con.execute("INSERT INTO responses SELECT * REPLACE (3 AS gamma) FROM responses WHERE gamma = 7").fetchall()
    con.execute("INSERT INTO rounds SELECT * REPLACE (3 AS gamma) FROM rounds WHERE gamma = 7").fetchall()
    html = compose.render(con, RUN)
    [line] = [t for t in embedded(html, "figures")["block-size-math"]["data"] if t["meta"] == "measured"]  # type: ignore[index]
    assert line["x"] == [3, 7]
    assert "Of every drafter this is the largest block size recorded" in Page(html).text


def test_it_says_how_wrong_the_profile_may_be() -> None:
    con = recorded()
    add_sweep(con)
    add_tolerances(con)
    text = Page(compose.render(con, RUN)).text
    # The answer is at 64 users.
    assert (
        "On h100/toy at 64 users, without bounds, dspark γ=7 prefix_scheduler has most throughput, 2.1% ahead. Another "
        "would win once verification takes 12% more time (then mtp γ=1 fixed:1)."
    ) in text
    assert "4 users: length of answers -25.0% mtp γ=1 fixed:1 beyond +30% 3.0% 0.0%" in text
    assert "64 users: anything else beyond -30% beyond +30% 0.0% 0.0%" in text
    for fact in (
        "harness sensitivity latest",
        "70 of run 3f9c",
        "h100/toy, as above",
        "60 simulated seconds a point, seed 0",
    ):
        assert fact in text
    assert "`harness sensitivity` tells" not in text
    con.execute("UPDATE tolerances SET down = NULL, up = NULL").fetchall()
    text = Page(compose.render(con, RUN)).text
    assert "It stays best whatever is up to 30% off: acceptance and seconds of verification." in text


def test_a_validation_says_how_far_off_the_simulation_is() -> None:
    con = recorded()
    add_sweep(con)
    add_validation(con)
    text = Page(compose.render(con, RUN)).text
    assert "served 2 prompts in turn, in 2 combinations of drafter, policy and load, 3 minutes in all" in text
    assert "throughput 10.0% +10.0% 10.0% 2.0% 1 of 2" in text
    assert "step time 2.0% -2.0% 2.0% – –" in text
    assert "dspark fixed:7 4 100 +10.0%* 2.00 +5.0% -2.0%" in text
    assert "3 of 4 measured values do lie within." in text


def test_speed_without_none_is_given_but_not_compared() -> None:
    text = Page(compose.render(recorded({"dspark": 7, "mtp": 1}), RUN)).text
    assert "for want of none's samples beside theirs: dspark 95.2 tokens/s and mtp 76.9 tokens/s." in text


def test_names_are_text_not_markup_and_kinds_give_the_style() -> None:
    evil = "</script><b>mine</b>"
    html = compose.render(recorded({evil: 7, "dspark": 7, "none": 0}, kinds={evil: "dspark"}), RUN)
    assert evil not in html
    assert evil in Page(html).text
    assert '"\\u003c/script>' in html
    legend = re.findall(r'<path d="[^"]*" fill="(#\w+)"', html)
    assert legend[:2] == [style.STYLES["dspark"][0], style.SPARE_STYLES[0][0]]


def test_a_failed_write_keeps_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.html"
    file.write_text("the old one")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        compose.write_report(recorded(), RUN, file)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert file.read_text() == "the old one"


def test_an_unknown_run_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no run 'gone'"):
        compose.write_report(recorded(), "gone", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_tables_of_every_figure(tmp_path: Path) -> None:
    files = write_tables(compose.compose(everything(), RUN), tmp_path)
    names = {file.stem for file in files}
    assert {"frontier", "load", "step-time", "latency", "study", "accepted-length", "threshold", "reliability"} <= names
    write_tables(compose.compose(recorded(), RUN), tmp_path)
    head, *rows = (tmp_path / "accepted-length.csv").read_text().splitlines()
    assert head.startswith("run,drafter,gamma,drafting,domain,task")
    assert len(rows) == 6 * (6 + 3)
