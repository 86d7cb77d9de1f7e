"""Files beside each other: one that says nothing of drafts, results that stand in two files, and a K that changes."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.served.advice import ran_at
from harness.served.server import Server, together
from harness.served.sources.registry import read_files
from simulator.errors import InputError
from tests.harness.served.test_sources import (
    AIPERF_SERVER,
    BENCH,
    CAPTURED,
    GUIDELLM,
    SGLANG_INFO,
    aiperf_row,
    captured,
    trtllm_row,
)
from tests.harness.served.writing import Truth, answer, answers, sglang_log, vllm_log, vllm_metrics

LOADS = [4, 8, 16, 32] * 6


def write(folder: Path, **files: Any) -> list[Path]:
    """Files of a name each: texts as they are, what else there is as JSON; a list is a line each."""
    for name, value in files.items():
        rows = "".join(json.dumps(row) + "\n" for row in value) if isinstance(value, list) else json.dumps(value)
        (folder / name).write_text(value if isinstance(value, str) else rows)
    return [folder / name for name in files]


def server_of(folder: Path, **files: Any) -> Server:
    return together(*read_files(write(folder, **files)))


# --- SGLang's K that changes ---

ADAPTIVE = "speculative_eagle_topk=1, speculative_adaptive=True, speculative_adaptive_config=None"


def test_sglangs_k_that_changes_while_it_runs_is_refused(tmp_path: Path) -> None:
    """`speculative_adaptive` moves the number of steps with acceptance: no line says of which K it is."""
    plain = sglang_log(LOADS)
    assert server_of(tmp_path, log=plain).gamma == 3
    for off in ("=False", "=None"):
        assert server_of(tmp_path, log=plain.replace("topk=1", f"topk=1, speculative_adaptive{off}")).gamma == 3
    with pytest.raises(InputError, match=r"log: K changes while it runs \(speculative_adaptive\).*without it"):
        server_of(tmp_path, log=plain.replace("speculative_eagle_topk=1", ADAPTIVE))
    with pytest.raises(InputError, match=r"info: K changes while it runs \(speculative_adaptive\).*without it"):
        server_of(tmp_path, info={**SGLANG_INFO, "speculative_adaptive": True})


def test_an_adaptive_server_that_was_started_again_without_it_is_read(tmp_path: Path) -> None:
    first = sglang_log(LOADS).replace("speculative_eagle_topk=1", ADAPTIVE)
    assert server_of(tmp_path, log=first + sglang_log(LOADS, begins="12:00:00")).gamma == 3


def test_where_nothing_is_drafted_nothing_changes(tmp_path: Path) -> None:
    """The option is of no meaning without an algorithm; a baseline's log and `/server_info` are read."""
    log = sglang_log(LOADS, length=1.0).replace("speculative_algorithm='EAGLE3'", "speculative_algorithm=None")
    log = log.replace("accept len: 1.00, accept rate: 0.00, ", "").replace("speculative_eagle_topk=1", ADAPTIVE)
    assert not server_of(tmp_path, log=log).speculates
    states = [{"last_gen_throughput": 9.0}]
    info = {**SGLANG_INFO, "speculative_adaptive": True, "speculative_algorithm": None, "internal_states": states}
    assert not server_of(tmp_path, info=info).speculates


def test_lengths_that_k_cannot_give_are_refused(tmp_path: Path) -> None:
    """Of a line, of an average, and where another file says K: the bonus token is one beyond it."""
    whole = sglang_log(LOADS, length=4.0)
    assert server_of(tmp_path, log=whole).length == pytest.approx(4.0)
    some = "".join(sglang_log(LOADS).splitlines(keepends=True)[:-1]) + whole.splitlines()[-1].replace(
        "len: 4.00", "len: 5.20"
    )
    with pytest.raises(InputError, match=r"log: 5\.20 tokens a draft are more than K = 3 gives"):
        server_of(tmp_path, log=some)
    bare = "".join(some.splitlines(keepends=True)[1:])
    with pytest.raises(InputError, match=r"log: 5\.20 tokens a draft are more than K = 3 gives"):
        server_of(tmp_path, log=bare, info={**SGLANG_INFO, "internal_states": [{"last_gen_throughput": 9.0}]})
    states = [{"last_gen_throughput": 9.0, "avg_spec_accept_length": 5.2}]
    with pytest.raises(InputError, match=r"info: 5\.20 tokens a draft are more than K = 3 gives"):
        server_of(tmp_path, info={**SGLANG_INFO, "internal_states": states})


# --- How many were inside at a time ---


def rows_inside(users: int, phase: int = 0) -> list[dict[str, Any]]:
    """aiperf's rows of so many users, each of whom asks anew as soon as it is answered, 2 s later."""
    rows = []
    for i in range(10 * users):
        row: dict[str, Any] = aiperf_row({"0": 2, "3": 1}, 12)
        began = 1_795_661_991_000_000_000 + i // users * 2 * 10**9
        row["metadata"] |= {"request_start_ns": began, "request_end_ns": began + 2 * 10**9, "phase_index": phase}
        rows.append(row)
    return rows


def test_when_requests_began_and_ended_says_how_many_ran(tmp_path: Path) -> None:
    """Each phase of each file is a load."""
    one = server_of(tmp_path, rows=rows_inside(8))
    assert [(p.concurrency, p.output_tok_s) for p in one.points] == [pytest.approx((8, 8 * 12 / 2))]
    more = server_of(tmp_path, rows=rows_inside(2) + rows_inside(16, phase=1))
    assert sorted(p.concurrency for p in more.points) == pytest.approx([2, 16])
    cut = rows_inside(8)
    del cut[3]["metadata"]["request_end_ns"]
    assert not server_of(tmp_path, rows=cut).points


def test_requests_that_say_nothing_of_drafts_ran_beside_those_that_do(tmp_path: Path) -> None:
    """In their own file they count as load; of a file that has no others nobody knows what it is of."""
    rows = rows_inside(8)
    mixed = [without_drafts(row) if i % 2 else row for i, row in enumerate(rows)]
    assert [p.concurrency for p in server_of(tmp_path, rows=mixed).points] == pytest.approx([8])
    [silent], _ = read_files(write(tmp_path, rows=[without_drafts(row) for row in rows]))
    assert not silent.points


@captured
def test_a_captured_run_of_four_users_had_about_four_inside() -> None:
    assert CAPTURED is not None
    [[one], _] = read_files([CAPTURED / "aiperf_c4" / "profile_export.jsonl"])
    assert 3 < one.points[0].concurrency <= 4


def test_loads_are_weighed_by_time_not_by_lines(tmp_path: Path) -> None:
    """A line of SGLang's is of so many steps, and those of many requests are the longest: 8 run for 160 s, and 128 do."""
    lines = sglang_log([8] * 80 + [128] * 20).splitlines()
    at = datetime.fromisoformat(lines[0][1:20])
    for i, line in enumerate(lines[1:], 1):
        at += timedelta(seconds=2 if i <= 80 else 8)
        rate = line.partition("(token/s): ")[2].partition(",")[0]
        line = line.replace(rate, f"{float(rate) / 4:.2f}") if i > 80 else line
        lines[i] = line.replace(line[1:20], str(at))
    server = server_of(tmp_path, log="\n".join(lines))
    ran = ran_at(server)
    assert ran.count(128) == pytest.approx(len(ran) / 2, abs=1)
    assert (server.running_at(0.05), server.running_at(0.95)) == (8, 128)


# --- What says nothing of drafts ---


def without_drafts(report: Any) -> Any:
    """guidellm's report, or a row of aiperf's, of a server that was not asked for what becomes of drafts."""
    if "benchmarks" not in report:
        length = {"value": report["spec_decode_acceptance"]["completion_tokens"], "unit": "tokens"}
        kept = {name: value for name, value in report.items() if name != "spec_decode_acceptance"}
        return {**kept, "metrics": {**report["metrics"], "output_sequence_length": length}}
    copy = json.loads(json.dumps(report))
    for one in copy["benchmarks"][0]["requests"]["successful"]:
        one["response_metrics"] = None
    return copy


ROWS = [aiperf_row({"0": 2, "3": 1}, 12), aiperf_row({}, 5)]
SILENT: dict[str, Any] = {"aiperf": [without_drafts(row) for row in ROWS], "guidellm": without_drafts(GUIDELLM)}
SAYS = {
    "log": vllm_log(Truth(), LOADS), "answers": answers(12), "bench": BENCH, "export": AIPERF_SERVER,
    "scrape": vllm_metrics(100, (80, 60, 30), 400, 20),
}  # fmt: skip


@pytest.mark.parametrize("other", SAYS)
@pytest.mark.parametrize("kind", SILENT)
def test_requests_that_say_nothing_of_drafts_refuse_nothing_beside_them(kind: str, other: str, tmp_path: Path) -> None:
    alone = server_of(tmp_path, other=SAYS[other])
    both = server_of(tmp_path, other=SAYS[other], silent=SILENT[kind])
    assert (both.drafts, both.gamma, both.tokens_per_step) == (alone.drafts, alone.gamma, alone.tokens_per_step)
    assert both.points == alone.points
    assert any("silent: does not say whether anything was drafted" in note for note in both.notes)


@pytest.mark.parametrize("kind", SILENT)
def test_alone_they_are_refused_with_what_to_do(kind: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"silent: does not say how many drafts.*per-request-spec-decode-metrics detailed.*log or"
    ):
        server_of(tmp_path, silent=SILENT[kind])


@pytest.mark.parametrize(("kind", "requests", "prompt", "output"), [("aiperf", 2, 9, 8.5), ("guidellm", 1, 5, 12)])
def test_their_lengths_are_known(kind: str, requests: int, prompt: float, output: float, tmp_path: Path) -> None:
    """Of a server whose log says its drafts and no request's length."""
    [one], _ = read_files(write(tmp_path, silent=SILENT[kind]))
    assert (one.drafts, one.requests, one.points) == (None, requests, ())
    server = server_of(tmp_path, log=SAYS["log"], silent=SILENT[kind])
    assert (server.prompt_tokens, server.output_tokens) == (prompt, output)


def test_a_report_without_drafts_beside_one_with_them(tmp_path: Path) -> None:
    """Two reports of guidellm's: the load of the second is of nobody knows what."""
    alone = server_of(tmp_path, report=GUIDELLM)
    both = server_of(tmp_path, report=GUIDELLM, silent=SILENT["guidellm"])
    assert (both.drafts, both.points) == (alone.drafts, alone.points)


@pytest.mark.parametrize("length", [None, float("nan")])
def test_requests_without_a_length_are_left_out(length: float | None, tmp_path: Path) -> None:
    [good] = GUIDELLM["benchmarks"][0]["requests"]["successful"]  # type: ignore[index]
    report = json.loads(json.dumps(GUIDELLM))
    report["benchmarks"][0]["requests"]["successful"] += [{**good, "output_tokens": length}] * 2
    cut = aiperf_row({"0": 2, "3": 1}, 12)
    cut["spec_decode_acceptance"]["completion_tokens"] = None  # type: ignore[index]
    cut["metrics"]["output_sequence_length"] = {"value": length}  # type: ignore[index]
    for whole, some in ((GUIDELLM, report), (ROWS, [*ROWS, cut, cut])):
        expected = server_of(tmp_path, file=whole)
        server = server_of(tmp_path, file=some)
        assert (server.drafts, server.output_tokens) == (expected.drafts, expected.output_tokens)
        assert server.points == expected.points
        assert any("2 answers without a length left out" in note for note in server.observations[0].notes)
    with pytest.raises(InputError, match="without a length left out"):
        server_of(tmp_path, file=[cut])


@captured
def test_a_captured_folder_of_aiperfs_without_acceptance_in_its_rows(tmp_path: Path) -> None:
    for name in ("profile_export_aiperf.csv", "profile_export_aiperf.json", "server_metrics_export.json"):
        shutil.copy(CAPTURED / "aiperf_c4" / name, tmp_path)
    rows = [json.loads(line) for line in (CAPTURED / "aiperf_c4/profile_export.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("spec_decode_acceptance", None)
    write(tmp_path, **{"profile_export.jsonl": rows})
    server = together(*read_files([tmp_path]))
    assert (server.drafts.drafts, server.counted_by) == (85, "aiperf's server metrics")
    assert server.length == pytest.approx(4.059, abs=5e-4)


# --- What stands in two files ---

RUNS = [{**BENCH, "date": f"20261126-02293{i}", "duration": 2.0 + i, "run_number": i} for i in range(3)]


def write_sweep(folder: Path, runs: list[dict[str, Any]]) -> None:
    """As `vllm bench sweep serve` writes a combination: each run, and a list of them."""
    for i, run in enumerate(runs):
        (folder / f"run={i}.json").write_text(json.dumps(run, indent=4))
    (folder / "summary.json").write_text(json.dumps(runs, indent=4))


@pytest.mark.parametrize("named", ["folder", "summary first", "one behind the other", "summary alone", "runs alone"])
def test_runs_of_a_sweep_count_once(named: str, tmp_path: Path) -> None:
    write_sweep(tmp_path, RUNS)
    runs, summary = [tmp_path / f"run={i}.json" for i in range(3)], tmp_path / "summary.json"
    (tmp_path / "all").mkdir()
    (tmp_path / "all/both").write_text("".join(file.read_text() for file in (*runs, summary)))
    paths = {
        "folder": [tmp_path], "summary first": [summary, *runs], "one behind the other": [tmp_path / "all"],
        "summary alone": [summary], "runs alone": runs,
    }[named]  # fmt: skip
    server = together(*read_files(paths))
    assert (server.drafts.drafts, len(server.points)) == (30, 3)
    once = any("once" in note for note in (*server.notes, *(n for one in server.observations for n in one.notes)))
    assert once is not named.endswith("alone")


def test_a_part_of_a_summary_counts_once(tmp_path: Path) -> None:
    """Where two runs of three were kept beside it, or one more was made since."""
    write_sweep(tmp_path, RUNS)
    (tmp_path / "run=1.json").unlink()
    write(tmp_path, **{"run=3.json": {**RUNS[0], "date": "x"}})
    server = together(*read_files([tmp_path]))
    assert server.drafts.drafts == 40
    assert any("summary.json: 2 of its 3 values stand in other files too" in note for note in server.notes)


def test_a_warm_up_is_no_run(tmp_path: Path) -> None:
    write_sweep(tmp_path, RUNS)
    [warm] = write(tmp_path, **{"warmup.json": {**BENCH, "run_number": -1, "num_prompts": 1, "date": "x"}})
    server = together(*read_files([tmp_path]))
    assert (server.drafts.drafts, len(server.points)) == (30, 3)
    assert any("warm-up" in note for one in server.observations for note in one.notes)
    assert together(*read_files([warm])).drafts.drafts == 10


REPEATED: dict[str, list[dict[str, Any]]] = {
    "vLLM's answers": [json.loads(line) for line in answers(12).splitlines()],
    "aiperf's rows": [aiperf_row({"0": 2, "3": i}, 20 + i) for i in range(1, 9)],
    "TensorRT-LLM's iterations": [{**trtllm_row(2, 8, 4), "iter": i} for i in range(12)],
    "one answer": [answer([3, 0], [1, 0, 0, 1], 10)],
}


@pytest.mark.parametrize("kind", REPEATED)
def test_rows_that_were_copied_again_later_count_once(kind: str, tmp_path: Path) -> None:
    """The copy before holds the first of them; so may one whose lines are written otherwise."""
    rows = REPEATED[kind]
    whole = server_of(tmp_path, whole=rows)
    for early in (rows[: len(rows) // 2 + 1], list(reversed(rows))):
        indented = "".join(json.dumps(dict(reversed(row.items())), indent=2) + "\n" for row in early)
        for order in ({"early": indented, "whole": rows}, {"whole": rows, "early": indented}):
            for old in tmp_path.iterdir():
                old.unlink()
            server = server_of(tmp_path, **order)
            assert (server.drafts, server.told_apart and len(server.told_apart)) == (
                whole.drafts,
                whole.told_apart and len(whole.told_apart),
            )
            assert any("once" in note for note in server.notes)


def test_rows_that_are_alike_in_one_file_are_all_counted(tmp_path: Path) -> None:
    """What has no name may be the same twice."""
    assert server_of(tmp_path, rows=[trtllm_row(2, 8, 4)] * 20).drafts.drafts == 40
