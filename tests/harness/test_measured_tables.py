"""Tables of measurements as people and benches write them: what is read, what is refused, what is told."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.hardware.forecast import crossovers, crowded, overloads, predictions, winners
from harness.hardware.loops import serve
from harness.hardware.measured import completed, read_measured, with_room
from harness.hardware.posterior import Posterior, next_measurement
from harness.hardware.terms import TERMS
from simulator.errors import InputError
from simulator.hardware.catalogue import find_profile
from simulator.load import Users
from simulator.policies import PolicySpec
from tests.harness.processes import called
from tests.harness.test_calibration_of_hardware import DRAFTED, HEAD, base, points


def test_a_benchs_own_table_is_read(tmp_path: Path) -> None:
    """What `vllm bench serve` writes: totals and other throughputs are left out, an endless rate is a closed loop's."""
    file, said = tmp_path / "bench.csv", list[str]()
    file.write_text(
        "max_concurrency,request_rate,num_prompts,total_input_tokens,total_output_tokens,request_throughput,"
        "output_throughput,median_tpot_ms,p99_tpot_ms,std_tpot_ms,drafter\n16,inf,64,32768,16384,2.5,640,22.5,30.1,2.0,none\n"
    )
    [point] = read_measured(file, said.append).points
    assert (point.load.users, point.values) == (16, {"output_tok_s": 640, "tpot_ms": 22.5})
    assert "total_output_tokens" in said[0]


def test_rows_of_another_machine_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2: output_tok_s 1e\+09 is far from"):
        Posterior.of(points("1,none,0,,512,200,1e9,given\n", tmp_path), [base()])


@pytest.mark.parametrize(("metric", "value"), [("tpot_ms", "0.011"), ("step_ms", "0.02"), ("output_tok_s_per_gpu", "1e7")])
def test_another_unit_is_refused_before_anything_is_simulated(
    metric: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first such row is named: seconds where milliseconds are asked for."""
    monkeypatch.setattr("harness.hardware.posterior.simulated", lambda *_: pytest.fail("was simulated"))
    file = tmp_path / "seconds.csv"
    rows = f"8,none,0,,512,200,{value},given\n16,none,0,,512,200,{value},given\n"
    file.write_text(HEAD.replace("output_tok_s", metric) + rows)
    done = CliRunner().invoke(app, ["predict", str(file), "--base", "h100/qwen3-4b"])
    assert done.exit_code == 2
    assert f"line 2: {metric}" in done.stderr


@pytest.mark.parametrize("users", [2049, 5000])
def test_many_users_and_requests(users: int, tmp_path: Path) -> None:
    [point] = points(f"{users},none,0,,20,4,,predict\n", tmp_path)
    ones = dict.fromkeys(TERMS, 1.0)
    assert serve(point, base()).value("output_tok_s", ones, 1) > 1000
    assert serve(replace(point, load=Users(8), requests=9000), base()).value("output_tok_s", ones, 1) > 100


def test_only_rows_of_one_traffic_are_compared(tmp_path: Path) -> None:
    told = "".join(f"{u},none,0,,512,256,{75 * u},given\n{u},eagle3,3,2.5,4096,32,,predict\n" for u in (8, 16))
    rows = points(told, tmp_path)
    found = Posterior.of(rows, [base()])
    assert winners(found, rows) == []
    assert crossovers(found, rows) == []
    assert next_measurement(found, rows) is None


@pytest.mark.parametrize("sent", [(1,), (1, 10)])
def test_benches_send_more_requests_the_more_users(sent: tuple[int, ...], tmp_path: Path) -> None:
    """Loads are one series however many requests were sent at each; of loads that were sent twice each is its own."""
    rows = [
        f"{users},{drafts},512,256,{tok_s},{n * users * 5},{role}\n"
        for n in sent for users in (8, 16, 64)
        for drafts, tok_s, role in (("none,0,", 75 * users, "given"), ("eagle3,3,2.5", "", "predict"))
    ]  # fmt: skip
    file = tmp_path / "bench.csv"
    file.write_text(HEAD.replace("output_tok_s", "output_tok_s,requests") + "".join(rows))
    read = read_measured(file).points
    found = Posterior.of(read, [base()])
    series, best = crossovers(found, read), winners(found, read)
    assert len(best) == 3 * len(sent)
    doubtful = [b.load for b in best if b.gain is not None and b.gain.low < 0 < b.gain.high]
    if len(sent) == 1:
        [crossed] = series
        assert [f"{users} users" for users in crossed.doubtful] == doubtful
    else:
        assert series == []  # no two loads were sent as many


def test_what_cannot_be_answered_is_not_to_be_measured(tmp_path: Path) -> None:
    file = tmp_path / "rates.csv"
    rows = ("2,none,0,,512,256,10,given", "2,eagle3,3,2.6,512,256,5,given", "5000,eagle3,3,2.6,512,256,,predict")
    file.write_text(HEAD.replace("concurrency", "rate").replace("output_tok_s", "tpot_mean_ms") + "\n".join(rows) + "\n")
    found = Posterior.of(told := read_measured(file).points, [base()])
    assert len(overloads(found, told)) == 1
    assert next_measurement(found, told) is None


def test_a_row_that_is_mistyped_is_named(tmp_path: Path) -> None:
    """In a fit as in a prediction: near enough to be possible, and it makes all others unsure."""
    file = tmp_path / "typed.csv"
    rows = ("1,none,0,,512,256,44.6", "8,none,0,,512,256,190", "32,none,0,,512,256,1190", "64,none,0,,512,256,2010")
    file.write_text(HEAD + "".join(f"{row},given\n" for row in (*rows, "128,none,0,,512,256,2960")))
    done = called("hardware", "fit", str(file), "--base", "l40s/qwen3-8b", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "line 3, none at 8 users" in done.stdout


def test_users_that_do_not_fit_are_named(tmp_path: Path) -> None:
    told = "".join(f"{u},none,0,,4000,500,{40 * u},given\n" for u in (1, 8)) + "4000,none,0,,4000,500,,predict\n"
    rows = points(told, tmp_path)
    [named] = crowded(Posterior.of(rows, [base()]), rows)
    assert (named.point.load.users, named.tokens) == (4_000, 4_000 * 4250)
    assert named.room < named.tokens


def test_a_file_as_people_write_it(tmp_path: Path) -> None:
    file = tmp_path / "as written.csv"
    file.write_bytes(
        b'\xef\xbb\xbf# to 1,024\r\nConcurrency , "Drafter",drafted_tokens, survival,output_tok_s,role,\r\n'
        b'1,NONE,,,100,Given,\r\n,,,\r\n8,eagle3,3,"0.7, 0.5,  0.3",,,,\r\n'
    )
    one, other = read_measured(file).points
    assert (one.kind, one.given, other.given) == ("none", True, False)
    assert other.averages is not None
    assert other.averages.survival == (0.7, 0.5, 0.3)


@pytest.mark.parametrize(
    "text",
    [
        "Max-Concurrency;TPOT (ms);date;method;num_speculative_tokens;Survival\n16;12,5;May;eagle3;3;0,72 0,53 0,38\n",
        "tpot_ms [ms]\tusers\tsurvival\tdrafter\n12.5\t16\t.72 .53 .38\teagle3\n",
        "users,drafter,policy,survival,tpot_ms\n16,eagle3,fixed:3,.72 .53 .38,12.5\n16,eagle3,fixed:3,.72 .53 .38,12.5\n",
    ],
)
def test_files_of_other_hands_say_the_same(text: str, tmp_path: Path) -> None:
    file, told = tmp_path / "m.csv", list[str]()
    file.write_text(text)
    [one] = read_measured(file, told.append).points
    assert (one.load, one.kind, one.policy, one.gamma, one.given) == (Users(16), "eagle3", PolicySpec.fixed(3), 3, True)
    assert one.values == {"tpot_ms": 12.5}
    assert one.averages is not None
    assert one.averages.survival == (0.72, 0.53, 0.38)
    assert len(told) == ("date" in text) + ("fixed" in text) + 2  # no lengths


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        ("987.5\t12,345", (987.5, 12345)),
        ("987,5\t12.345", (987.5, 12345)),
        ("987,5;1.234", (987.5, 1234)),
        ("12,345.6\t2,000", (12345.6, 2000)),
        ("1,234,567\t2,000", (1234567, 2000)),
        ("0,125;12", (0.125, 12)),
        ("1.234,12", (1.234, 12)),
        ('"1,234.5",12', (1234.5, 12)),
    ],
)
def test_marks_of_numbers_are_told_by_the_whole_file(cells: str, values: tuple[float, float], tmp_path: Path) -> None:
    """Thousands that are set apart must not be read as a thousandth of what was measured."""
    file, apart = tmp_path / "m.csv", next(mark for mark in "\t;," if mark in cells)
    one, other = next(csv.reader([cells], delimiter=apart))
    rows = [["users", "output_tok_s"], ["1", one], ["64", other]]
    with file.open("w", newline="") as out:
        csv.writer(out, delimiter=apart).writerows(rows)
    assert tuple(point.values["output_tok_s"] for point in read_measured(file).points) == values


def test_equal_rows_of_two_runs_are_two_measurements(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text("users,output_tok_s,run\n8,12.3,run1\n8,12.3,run2\n8,12.3,run2\n")
    assert len(read_measured(file).points) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rows"),
        ("users\toutput_tok_s\n1\t987\n64\t12,345\n", "12,345 may be a thousand times as much"),
        ("users;output_tok_s\n1;98.7\n64;12,5\n", "some numbers have decimal points, and some decimal commas"),
        (HEAD, "has no rows"),
        ("concurency,drafter\n1,none\n", "no column 'concurency' is read; did you mean concurrency"),
        ("concurrency,TPOT (us)\n1,5\n", "'TPOT \\(us\\)' is in us; tpot_ms is in ms"),
        ("concurrency,TPOT (s)\n1,fast\n", "tpot_ms"),
        ("users,concurrency,output_tok_s\n1,1,5\n", "'concurrency' is there twice"),
        ("concurrency,concurrency\n1,1\n", "is there twice"),
        ("drafter,output_tok_s\nnone,1\n", "a column concurrency, or rate, is needed"),
        (HEAD + "0,none,0,,1,1,5,given\n", "line 2: concurrency must be from 1"),
        (HEAD + ",none,0,,1,1,5,given\n", "line 2: needs a concurrency or a rate"),
        (HEAD + "1,medusa,3,,1,1,5,given\n", "drafter 'medusa': write one of"),
        (HEAD + "1,eagle3,,2,1,1,5,given\n", "drafted_tokens: how many"),
        (HEAD + "1,eagle3,3,5,1,1,5,given\n", "accepted_length: with γ = 3"),
        (HEAD + "1,none,0,2.0,1,1,5,given\n", "accepted_length: nothing drafts here"),
        (HEAD + "1,none,0,,1,1,nan,given\n", "a given row needs one of"),
        (HEAD + "1,none,0,,1,1,-5,given\n", "output_tok_s must be above 0"),
        (HEAD + "1,none,0,,1,1,,given\n", "a given row needs one of"),
        (HEAD + "1,none,0,,1,1,5,later\n", "role 'later' is not given or predict"),
        (HEAD + "1,none,0,,1,1,5,given,7\n", "has 9 cells under 8 heads"),
        (HEAD + "9999999,none,0,,1,1,5,given\n", "concurrency must be from 1 to 8,192"),
        ("concurrency\n1\n", "its head has no commas"),
        (DRAFTED + "64,eagle3,3,,2.1,2100\n64,eagle3,3,,2.9,2600\n", "lines 2 and 3: are of eagle3 fixed:3 at one load"),
        (DRAFTED + "16,eagle3,,cutoff:32,,5\n", "drafted_tokens: how many"),
        ("rate,drafter,policy,accepted_length,tpot_ms\n2,eagle3,k_by_batch:8=3/512=1,2.0,5\n", "give survival"),
        ("concurrency,output_tok_s,step_ms\n8,5,9\n", "give the step a row of its own"),
        ("rate,step_ms\n8,9\n", "step_ms: is of so many requests"),
        ("rate,output_tok_s\n8,900\n", "output_tok_s: is what arrives"),
        ("rate,num_prompts,output_tok_s\ninf,500,900\n", "concurrency is how many"),
        ("users;output_tok_s\n1;987\n64;12.345\n", "12.345 may be a thousand times as much"),
        ("# captured sizes to 99999999999\n" + HEAD + "1,none,0,,1,1,5,given\n", "captured sizes to 99999999999: must be"),
        ("concurrency,requests,output_tok_s\n8,4,5\n", "requests 4 are fewer than the users"),
        ("concurrency,context,output_tok_s\n8,400,5\n", "context: says something of a step_ms"),
        ("concurrency,output_tokens,tpot_ms\n8,1,5\n", "output_tokens 1: between"),
        ("concurrency,drafter,drafted_tokens,policy,output_tok_s\n8,eagle3,3,fixed:5,5\n", "verifies 5 tokens where 3"),
        ("concurrency,drafter,survival,accepted_length,output_tok_s\n8,eagle3,.5 .2 .1,3.4,5\n", "differ"),
        ("users,toks\n1,44\n2,80\n", "no column of what was measured: output_tok_s, .*; is 'toks' one of them"),
        ("users,drafter\n1,none\n", "no column of what was measured: .*step_ms \\(docs"),
        ("users,method,k,acceptance_rate,tpot_ms\n8,eagle3,3,154%,5\n", "acceptance_rate: must be from 0 to 1"),
        ("users,method,k,acceptance_rate,tpot_ms\n8,eagle3,3,half,5\n", "acceptance_rate: half is no number"),
        ("concurrency,drafter,survival,output_tok_s\n8,eagle3,.5 .7,5\n", "survival: position 2 .* more often"),
        (
            "concurrency,drafter,drafted_tokens,policy,output_tok_s\n8,eagle3,3,k_by_batch:16=3;64=1,5\n",
            "is no row REQUESTS=K",
        ),
    ],
)
def test_wrong_files_name_line_column_and_fix(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=said) as raised:
        read_measured(file)
    assert "\n" not in str(raised.value)


def test_of_a_table_accepted_tokens_are_of_as_many_as_it_drafts_there(tmp_path: Path) -> None:
    """At 64 users 1.7 tokens of 1 drafted one are 0.7 of it; so as if the row said 1 and nothing of a table."""
    table = "k_by_batch:8=7/32=3/512=1"
    rows = f"64,eagle3,,{table},1.7,1\n64,eagle3,1,,1.7,1\n32,eagle3,,{table},2.6,1\n32,eagle3,3,,2.6,1\n"
    (tmp_path / "m.csv").write_text(DRAFTED + rows)
    given = [point.averages for point in read_measured(tmp_path / "m.csv").points]
    assert all(given)
    whole = [one.conditional[0] for one in given if one is not None]
    assert whole[::2] == pytest.approx(whole[1::2])
    assert [one.gamma for one in given if one is not None] == [7, 1, 7, 3]


@pytest.mark.parametrize(
    ("head", "cell"),
    [
        ("acceptance_rate", "0.54"), ("Acceptance rate", "54%"), ("spec_decode_acceptance_rate", "54.0"),
        ("Draft acceptance rate (%)", "54"), ("acceptance rate (%)", "54%"), ("survival", ".72 .54 .36"),
    ],
)  # fmt: skip
def test_a_share_of_draft_tokens_is_an_accepted_length(head: str, cell: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"users,method,k,{head},output_tok_s\n1,none,0,,44\n1,eagle3,3,{cell},87\n")
    _, drafting = read_measured(tmp_path / "m.csv").points
    assert drafting.averages is not None
    assert drafting.averages.accepted_length == pytest.approx(1 + 3 * 0.54)


def test_the_share_under_a_head_in_percent_is_in_percent(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("users,method,k,acceptance_rate (%),output_tok_s\n1,mtp,3,0.8,87\n")
    [drafting] = read_measured(tmp_path / "m.csv").points
    assert drafting.averages is not None
    assert drafting.averages.accepted_length == pytest.approx(1.024)


def test_the_share_of_what_a_look_up_drafts_is_not_read(tmp_path: Path) -> None:
    """It says nothing of steps in which there is no draft."""
    told = list[str]()
    (tmp_path / "m.csv").write_text("users,method,k,acceptance_rate,output_tok_s\n1,ngram,3,0.54,87\n")
    [drafting] = read_measured(tmp_path / "m.csv", told.append).points
    assert drafting.averages is None
    assert any("acceptance_rate of ngram" in line for line in told)


def test_acceptance_that_other_lines_say_is_taken_of_them(tmp_path: Path) -> None:
    told = list[str]()
    rows = "1,none,,,,1\n4,eagle3,3,,2.9,1\n64,eagle3,3,,2.5,1\n128,eagle3,3,,,\n128,eagle3,5,,,\n"
    (tmp_path / "m.csv").write_text(DRAFTED + rows)
    *_, near, other = read_measured(tmp_path / "m.csv", told.append).points
    assert near.averages is not None
    assert near.averages.accepted_length == pytest.approx(2.5)
    assert other.averages is None
    assert any("lines 5 say" in line or "lines 5 " in line for line in told)


def test_a_drafter_that_idles_is_no_drafter_unless_there_are_lines_without(tmp_path: Path) -> None:
    told = list[str]()
    (tmp_path / "m.csv").write_text(DRAFTED + "64,eagle3,0,,1.0,1800\n64,none,0,,,2010\n8,eagle3,0,,,300\n")
    found = read_measured(tmp_path / "m.csv", told.append).points
    assert [point.values["output_tok_s"] for point in found] == [2010, 300]
    assert any("left out" in line for line in told)


def test_cells_as_spreadsheets_and_frames_write_them(tmp_path: Path) -> None:
    """A file for Excel, in UTF-16; counts as floats; means of lengths; cells that say there is no number."""
    text = "sep=;\nmax_concurrency;method;num_speculative_tokens;mean_acceptance_length;input_len;output_len;output_tok_s\n"
    text += "1.0;none;0.0;N/A;211.7;99.5;44.5\n64.0;eagle3;3.0;2.63;211.7;99.5;OOM\n"
    (tmp_path / "m.csv").write_text(text, encoding="utf-16")
    one, other = read_measured(tmp_path / "m.csv").points
    assert (one.load, one.prompt_tokens, one.output_tokens, one.values) == (Users(1), 212, 100, {"output_tok_s": 44.5})
    assert (other.gamma, other.given, other.values) == (3, False, {})


def test_a_benchs_requests_beside_a_rate_are_not_read(tmp_path: Path) -> None:
    told = list[str]()
    (tmp_path / "m.csv").write_text("request_rate,num_prompts,tpot_mean_ms,output_tok_s\n4,500,24,1024\n")
    [point] = read_measured(tmp_path / "m.csv", told.append).points
    assert (point.requests, point.values) == (None, {"tpot_mean_ms": 24})
    assert sum("rate" in line for line in told) == 2


def test_the_same_measurement_in_two_columns_is_one(tmp_path: Path) -> None:
    """Intervals are as wide as with one, or nearly; of another number of GPUs it is a mistake."""
    rows = (
        "1,none,0,,44.6,{}",
        "64,none,0,,2010,{}",
        "64,eagle3,3,2.63,2390,{}",
        "128,none,0,,,{}",
        "128,eagle3,3,2.63,,{}",
    )
    head = "concurrency,drafter,drafted_tokens,accepted_length,output_tok_s,"
    times = ["22.4", "31.8", "26.8", "", ""]

    def widths(column: str, values: Sequence[str]) -> list[float]:
        table = "\n".join(row.format(value) for row, value in zip(rows, values, strict=True))
        (tmp_path / "m.csv").write_text(f"{head}{column}\n{table}\n")
        read = read_measured(tmp_path / "m.csv").points
        told = predictions(Posterior.of(read, [base()]), read)
        return [float(np.log(one.forecast.high / one.forecast.low)) for one in told]

    alone = widths("tpot_mean_ms", [""] * 5)
    assert widths("output_tok_s_per_gpu", ["44.6", "2010", "2390", "", ""]) == pytest.approx(alone)
    assert widths("tpot_mean_ms", times) > [0.85 * width for width in alone]
    with pytest.raises(InputError, match="of no whole number of GPUs"):
        widths("output_tok_s_per_gpu", ["60", "2010", "2390", "", ""])


def test_seconds_are_read_where_the_head_says_so(tmp_path: Path) -> None:
    """With decimal commas too; and throughput for each GPU by its name elsewhere."""
    for text in ("concurrency,TPOT (s),TPOT mean\n1,0.0244,25\n", "concurrency;Median TPOT [s];mean_tpot\n1;0,0244;25\n"):
        (tmp_path / "m.csv").write_text(text.replace("TPOT mean", "mean_tpot"))
        [point] = read_measured(tmp_path / "m.csv").points
        assert point.values == {"tpot_ms": pytest.approx(24.4), "tpot_mean_ms": 25}
    (tmp_path / "m.csv").write_text("concurrency,output_throughput_per_gpu\n1,40\n")
    assert read_measured(tmp_path / "m.csv").points[0].values == {"output_tok_s_per_gpu": 40}


def test_more_than_can_be_answered_has_no_times(tmp_path: Path) -> None:
    """And no winner; what can be answered is said."""
    (tmp_path / "m.csv").write_text("rate,drafter,drafted_tokens,accepted_length,tpot_mean_ms\n2,none,0,,24\n400,none,0,,\n")
    rows = read_measured(tmp_path / "m.csv").points
    found = Posterior.of(rows, [base()])
    assert predictions(found, rows) == []
    [over] = overloads(found, rows)
    assert 2 < over.most_per_s.low < over.most_per_s.value < over.most_per_s.high < 400


def test_captured_sizes_are_read_from_a_line_for_people(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text("﻿# device: one L40S; vLLM, captured sizes to 1024\n" + HEAD + "1,none,0,,1,1,5,given\n")
    assert read_measured(file).captured == 1024


def test_a_server_that_verifies_trees_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    file = tmp_path / "measured.csv"
    file.write_text("# sglang --speculative-eagle-topk 8 --speculative-num-steps 5\nconcurrency,output_tok_s\n1,100\n")
    read_measured(file, told.append)
    assert any("speculative_eagle_topk 8" in line and "tree" in line for line in told)
    told.clear()
    file.write_text("# sglang --speculative-eagle-topk 1\nconcurrency,output_tok_s\n1,100\n")
    read_measured(file, told.append)
    assert not any("tree" in line for line in told)


def test_predictions_tell_what_drafting_would_lose_what_no_row_says_and_what_to_measure_next(tmp_path: Path) -> None:
    file = tmp_path / "bench.csv"
    given = "".join(f"{users},none,0,,512,256,{75 * users},given\n" for users in (1, 8))
    asked = "256,none,0,,512,256,,predict\n256,eagle3,7,1.1,512,256,,predict\n16,eagle3,7,1.1,512,256,,predict\n"
    file.write_text(HEAD + given + asked)
    done = called("predict", str(file), "--base", "h100/qwen3-4b")
    assert done.returncode == 0, done.stderr
    [row] = [line for line in done.stdout.splitlines() if line.strip().startswith("256 users  ") and "%" in line]
    gain = re.search(r"none +([+-]\d+)% \(([+-]\d+)% to ([+-]\d+)%\)", row)
    assert gain is not None, row
    low, value, high = (int(gain[i]) for i in (2, 1, 3))
    assert low <= value <= high < 0  # of the drafter, though none is the best
    assert re.search(r"^ none at 16 users ", done.stdout, re.MULTILINE), "which no row says, and the gain there hangs on"
    assert re.search(r"^ 16 users .*%", done.stdout, re.MULTILINE)
    assert "measure next: " in done.stdout


@pytest.mark.parametrize(
    ("metric", "unit"),
    [("tpot_ms", "ms a token, median"), ("output_tok_s_per_gpu", "tokens/s/GPU"), ("output_tok_s", "tokens/s")],
)
def test_what_is_predicted_is_what_was_measured(metric: str, unit: str, tmp_path: Path) -> None:
    """Whoever measured tokens a second of each GPU would take those of all for four times as many."""
    row = f"concurrency,drafter,drafted_tokens,{metric}\n1,none,0,9\n16,none,0,11\n16,eagle3,3,\n"
    (tmp_path / "m.csv").write_text(row.replace(",9", ",110").replace(",11\n", ",1500\n") if "tok_s" in metric else row)
    done = called("predict", str(tmp_path / "m.csv"), "--base", "h100/qwen3-4b")
    assert done.returncode == 0, done.stderr
    [told] = [line for line in done.stdout.splitlines() if line.startswith(" eagle3 fixed:3 at 16 users")]
    assert f"  {unit} " in f"{told} ", told


def test_every_way_to_draft_is_told_at_every_load_of_a_file(tmp_path: Path) -> None:
    rows = HEAD + "1,none,0,,64,40,100,given\n8,none,0,,64,40,600,given\n8,mtp,1,1.7,64,40,900,given\n16,mtp,2,2.1,64,40,,\n"
    (tmp_path / "m.csv").write_text(rows)
    own = read_measured(tmp_path / "m.csv").points
    more = completed(own)
    assert more[: len(own)] == own
    added = more[len(own) :]
    assert {(one.name, one.gamma, one.given, bool(one.values)) for one in added} == {
        ("none at 16 users", 0, False, False), ("mtp fixed:1 at 1 user", 1, False, False),
        ("mtp fixed:1 at 16 users", 1, False, False), ("mtp fixed:2 at 1 user", 2, False, False),
        ("mtp fixed:2 at 8 users", 2, False, False),
    }  # fmt: skip
    assert len({one.line for one in more}) == len(more)
    assert all(one.line < 0 and one.averages == own[2 if one.gamma == 1 else 3].averages for one in added if one.gamma)


def test_a_file_of_what_was_measured_alone_is_told_what_to_measure_next(tmp_path: Path) -> None:
    """Nobody lists what he has not measured: every load of the line is a place to measure at."""
    rows = "".join(f"{u},none,0,,512,256,{v},given\n" for u, v in ((1, 180), (16, 2400), (128, 9000)))
    (tmp_path / "m.csv").write_text(f"{HEAD}{rows}1,eagle3,3,2.6,512,256,390,given\n")
    for command in ("predict", "hardware fit"):
        done = called(*command.split(), str(tmp_path / "m.csv"), "--base", "h100/qwen3-4b", "--out", str(tmp_path / "runs"))
        assert done.returncode == 0, done.stderr
        assert "measure next: eagle3 fixed:3 at 128 users" in done.stdout


def test_an_engine_that_captures_by_requests_is_heard_where_the_file_names_it(tmp_path: Path) -> None:
    """SGLang's graphs are of so many requests, however long their drafts: no step is outside of them for its tokens."""
    rows = f"{HEAD}1,none,0,,64,40,100,given\n"
    file = tmp_path / "m.csv"
    for said, captured in (
        ("# SGLang 0.5.16, 2 x H200", 16_384), ("# TensorRT-LLM", 16_384), ("# vLLM, beside SGLang", None), ("# vLLM", None),
        ("# SGLang, captured sizes to 256", 256),
    ):  # fmt: skip
        file.write_text(f"{said}\n{rows}")
        heard = list[str]()
        assert read_measured(file, heard.append).captured == captured
        assert any("captures passes by requests" in line for line in heard) == (captured == 16_384)


def test_drafters_are_known_by_what_tables_call_them(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    for word, kind in (("EAGLE-3", "eagle3"), ("n-gram", "ngram"), ("NEXTN", "mtp"), ("Eagle 3", "eagle3")):
        file.write_text(f"{HEAD}1,baseline,0,,64,40,100,given\n1,{word},3,2.0,64,40,200,given\n")
        assert [point.kind for point in read_measured(file).points] == ["none", kind]


def test_what_was_measured_has_room(tmp_path: Path) -> None:
    """By the data sheet a drafter does not fit beside the model; its rows show that it did."""
    file, heard = tmp_path / "m.csv", list[str]()
    file.write_text(f"{HEAD}1,none,0,,64,40,100,given\n8,dspark,7,2.0,64,40,200,given\n")
    profile = find_profile("l40s/qwen3-8b")
    tight = replace(profile, kv_capacity_by_drafter={**profile.kv_capacity_by_drafter, "dspark": 0})
    with pytest.raises(InputError, match="does not fit"):
        tight.capacity("dspark", "dspark")
    made = with_room(tight, read_measured(file).points, heard.append)
    assert made.capacity("dspark", "dspark") == 8 * (64 + 40 + 8)
    assert "since it was measured" in heard[0]
    assert with_room(profile, read_measured(file).points, heard.append) == profile
