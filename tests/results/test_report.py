"""The report as a file: complete, self-contained, and open about what is missing."""

from __future__ import annotations

import json
import re
import shlex
import time
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from plotly.offline import get_plotlyjs

from harness.cli.app import app
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
    insert,
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


def test_it_opens_with_the_study_then_the_sweep_then_what_was_recorded() -> None:
    con = recorded()
    assert "Most tokens per round: dspark in math" in Page(compose.render(con, RUN)).text
    add_sweep(con)
    text = Page(compose.render(con, RUN)).text
    # 250·64/(1 + 64/40) = 6,154 at 64 users, 96 of a user; 8,649 at 256, 34: the bound of 50 lies between.
    where = "On h100/toy, with at least 50 tokens/s on average"
    found = re.search(where + r", run dspark prefix_scheduler: at least 6,154 ± \d+ tokens/s/GPU at 64 users\.", text)
    assert found is not None
    assert "There may be more of it between 64 users and 256 users" in text
    assert "throughput over MTP-1" in text
    assert "throughput over no speculation" in text
    assert "it commits 3.00 tokens per round against 3.00 of MTP-1" in text
    add_study(con)
    text = Page(compose.render(con, RUN)).text
    assert f"{where}: at 64 users, run dspark γ=7 prefix_scheduler." in text
    assert "+50% throughput over MTP-1 at 64 users 95 % +45.0% to +55.0%" in text
    assert "+160% throughput over no speculation" in text


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


def commands(html: str) -> list[list[str]]:
    """Command lines that a page tells to type; those of which it only gives the name are left out."""
    found = re.findall(r"<(?:code|pre[^>]*)>((?:harness|tuner) [^<]*)</(?:code|pre)>", html)
    return [words for words in (shlex.split(unescape(line)) for line in found) if len(words) > 2 + (words[1] == "hardware")]


def test_commands_to_type_next_can_be_pasted() -> None:
    """With what was recorded alone, and with a sweep of a profile of one's own: what is told is about this database."""
    con, out = recorded(), Path("my runs")
    told = commands(compose.render(con, RUN, out=out))
    assert {words[1] for words in told} == {"simulate", "replay", "run"}
    add_sweep(con)
    con.execute("UPDATE sweeps SET command = ?", ["harness simulate --hardware 'my toy.json' --out 'my runs'"]).fetchall()
    told += commands(compose.render(con, RUN, out=out))
    [sensitivity] = [words for words in told if words[1] == "sensitivity"]
    assert sensitivity[sensitivity.index("--hardware") + 1] == "my toy.json"
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for program, command, *arguments in told:
        assert program == "harness"
        known[command].make_context(command, list(arguments))
        assert command == "run" or arguments[-2:] == ["--out", "my runs"]  # which is told as it was typed
    assert not any("--out" in words for words in commands(compose.render(con, RUN)))


@pytest.mark.parametrize(("target", "profile"), [
    ("Qwen/Qwen3-8B", "h100/qwen3-8b"), ("/srv/gemma-4-12B-it/", "h100/gemma-4-12b"),
    ("meta-llama/Llama-3.1-8B-Instruct", "DEVICE/MODEL"), ("the tiny target", "DEVICE/MODEL"), ("", "DEVICE/MODEL"),
])  # fmt: skip
def test_the_next_command_is_about_the_model_that_was_recorded(target: str, profile: str) -> None:
    con = recorded()
    con.execute("UPDATE runs SET target = ?", [json.dumps({"source": target})]).fetchall()
    report = compose.compose(con, RUN)
    told = [words for words in commands(compose.page(report)) if words[1] == "simulate"]
    assert {words[words.index("--hardware") + 1] for words in told} == {profile}
    for text in (report.answer.why_next, report.notices[-1]):
        assert ("`harness hardware list`" in text) == (profile == "DEVICE/MODEL")


def test_the_next_command_takes_the_configuration_that_was_given() -> None:
    con = recorded()
    con.execute("UPDATE runs SET target = ?", [json.dumps({"source": "mine", "config": "my config.json"})]).fetchall()
    told = [words for words in commands(compose.page(compose.compose(con, RUN))) if words[1] == "simulate"]
    assert {words[words.index("--hardware") + 1] for words in told} == {"DEVICE"}
    assert {words[words.index("--model") + 1] for words in told} == {"my config.json"}


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


def test_the_title_can_be_shown_without_explanation() -> None:
    """Question, model, hardware, traffic, suite and date of what the page answers: recordings, a sweep, a study."""
    con = recorded()
    titles = []
    for add in (lambda con: None, add_sweep, add_study):
        add(con)
        html = compose.render(con, RUN)
        title, head = (re.findall(f"<{tag}>(.*?)</{tag}>", html)[0] for tag in ("title", "h1"))
        assert title.startswith(head)
        titles.append(head)
    recordings, sweep, study = titles
    for title in titles:
        assert all(fact in title for fact in ("the tiny target", "math_code_chat v1", "2026-02-01", "?"))
    assert "Xeon" in recordings
    assert "h100/toy under 1 to 256 users" in sweep
    assert "h100/toy under 64 users" in study


@pytest.mark.parametrize(
    ("named", "opens_with_study"),
    [
        ({}, True),
        ({"study_id": "57ad"}, True),
        ({"sweep_id": "5eed"}, False),
        ({"study_id": "57ad", "sweep_id": "5eed"}, True),
    ],
)
@pytest.mark.parametrize("sweep_on", ["2026-02-01", "2026-02-03"])
def test_it_opens_with_the_study_or_with_the_sweep_that_alone_was_named(
    named: dict[str, str], opens_with_study: bool, sweep_on: str
) -> None:
    """Whatever was asked last."""
    con = everything()
    con.execute("UPDATE sweeps SET created_at = ?", [sweep_on]).fetchall()
    report = compose.compose(con, RUN, **named)  # type: ignore[arg-type]
    assert ("under 64 users" in report.title) == opens_with_study
    assert report.answer.headline.startswith("On h100/toy, with at least 50 tokens/s on average: at 64") == opens_with_study


def test_a_table_for_all_loads_opens_the_report_whole() -> None:
    """And not what is best at the busiest load; its command stands there to be copied."""
    con = recorded()
    add_study(con)
    con.execute(
        """UPDATE studies SET plan = replace(plan::VARCHAR, '["users:64/0"]', '["users:8/0", "users:64/0"]')::JSON"""
    )
    row = {"study_id": "57ad", "place": 9, "role": "k by batch", "drafter": "dspark", "gamma": 7, "confidences": "none"}
    row |= {"policy": "k_by_batch:8=7/64=0", "request_cap": 64, "exact": True, "prompts": 9, "draws": 6, "feasible": True}
    for load, gain in (("users:8/0", 0.5), ("users:64/0", 0.0)):
        figures = {"figures": {"over none": gain}, "half_widths": {"over none": 0.02}}
        insert(con, "confirmations", [row | figures | {"load": load}])
    answer = compose.compose(con, RUN).answer
    assert "7 with 1 to 8 running and 0 with 9 to 64 running" in answer.headline
    assert [(gain.value, gain.over[-8:]) for gain in answer.gains] == [("+50%", " 8 users"), ("+0%", "64 users")]
    assert '"num_speculative_tokens_per_batch_size": [[1, 8, 7], [9, 64, 0]]' in answer.command


def test_a_study_that_found_nothing_leaves_the_opening_to_the_sweep() -> None:
    con = recorded()
    add_sweep(con)
    add_study(con, confirmed=False)
    report = compose.compose(con, RUN)
    assert "1 to 256 users" in report.title
    assert "1 to 256 users" not in compose.compose(con, RUN, study_id="57ad").title  # what is named is shown alone
    assert "prefix_scheduler: at least" in report.answer.headline


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


@pytest.mark.parametrize(
    ("target", "named"), [("Qwen/Qwen3-4B", "for Qwen/Qwen3-4B on"), ("/srv/models/qwen/ours", "for qwen/ours on")]
)
def test_the_title_names_a_model_that_is_a_folder(target: str, named: str) -> None:
    con = recorded()
    con.execute("UPDATE runs SET target = ?", [json.dumps({"source": target})]).fetchall()
    assert named in compose.compose(con, RUN).title


def test_the_title_of_traces_of_no_model_names_that_of_the_profile() -> None:
    con = recorded(source="synthesised")
    con.execute("UPDATE runs SET target = '{}', host = '{}'").fetchall()
    assert "(synthesised)" in compose.compose(con, RUN).title
    add_sweep(con, profile=replace(PROFILE, model="Qwen/Qwen3-4B"))
    assert "Qwen3-4B on h100/toy" in compose.compose(con, RUN).title


def test_the_title_says_how_gpus_are_shared_out() -> None:
    """Which the name of a profile need not say, as that of a fitted one."""
    con = recorded()
    add_sweep(con, profile=replace(PROFILE, gpus=2))
    assert "on h100/toy, 1 replica on 2 GPUs, under" in compose.compose(con, RUN).title


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


def test_the_headline_answers_and_the_page_says_what_it_is_not() -> None:
    text = Page(compose.render(recorded(), RUN)).text
    tau = r"\(\d\.\d\d\)"
    assert re.search(rf"Most tokens per round: dspark in math {tau}, code {tau} and chat {tau}\.", text)
    assert re.search(r"\d\.\d\d× tokens per round of dspark over MTP-1 95 % \d\.\d\d to \d\.\d\d", text)
    # tokens are equal, seconds 0.63 and 1.03 on average over 4 prompts: 1.03/0.63.
    measured = r"Measured on this machine, one request at a time, dspark is 1\.63 times .*\(95 % 1\.\d\d to 1\.\d\d\)\."
    assert re.search(measured, text)
    assert "bundled prompts, not the benchmarks" in text
    assert "they are not expected to be equal" in text
    for fact in ("harness run suites/math_code_chat", "9a4f0c", "4be1c77", "torch 2.9", "Xeon", "memory 16.0 GiB"):
        assert fact in text
    assert "gpu None" not in text


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


def test_tables_of_every_figure(tmp_path: Path) -> None:
    files = write_tables(compose.compose(everything(), RUN), tmp_path)
    names = {file.stem for file in files}
    assert {"frontier", "load", "step-time", "latency", "study", "accepted-length", "threshold", "reliability"} <= names
    write_tables(compose.compose(recorded(), RUN), tmp_path)
    head, *rows = (tmp_path / "accepted-length.csv").read_text().splitlines()
    assert head.startswith("run,drafter,gamma,drafting,domain,task")
    assert len(rows) == 6 * (6 + 3)
