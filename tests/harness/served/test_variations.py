"""Files as other versions, settings and collectors write them: the same numbers, or a sentence; never another."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.served.observed import NOTHING
from harness.served.server import together
from harness.served.sources.registry import read_files
from harness.served.sources.sglang_log import drafted_tokens
from simulator.errors import InputError
from tests.harness.served.test_sources import (
    CAPTURED,
    SGLANG_LOG,
    SGLANG_METRICS,
    captured,
    observed,
)
from tests.harness.served.writing import Truth, answer, vllm_log, vllm_metrics

AT = (80, 60, 30)
METRICS = vllm_metrics(100, AT, 400, 20)


def openmetrics(text: str) -> str:
    """With times in seconds, examples, and an end."""
    lines = [
        line if line.startswith("#") else f'{line} 1795659910.226 # {{trace_id="a}}b"}} 0.5 1795659910.1'
        for line in text.splitlines()
    ]
    return "\n".join([*lines, "# EOF"]) + "\n"


def engines(text: str) -> str:
    """Of a data-parallel server: half of everything by each of two engines."""
    lines = []
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if line.startswith("#") or "_created" in name or 'engine="0"' not in name:
            lines.append(line)
            continue
        second = name.replace('engine="0"', 'engine="1"')
        lines += [f"{one} {float(value) / 2}" for one in (name, second)]
    return "\n".join(lines) + "\n"


def relabelled(text: str) -> str:
    """As a federating Prometheus keeps them, in another order."""
    return text.replace('{engine="0",', '{instance="10.0.0.1:8000",job="vllm, {a}",pod="p-0",engine="0",')


def flat(text: str) -> str:
    """As collectors write them that know no colons."""
    return text.replace("vllm:", "vllm_")


FORMS: dict[str, Callable[[str], str]] = {
    "OpenMetrics": openmetrics, "engines": engines, "labels": relabelled, "flat": flat,
    "milliseconds": lambda text: "".join(f"{line} 1795659910226\n" for line in text.splitlines() if line[0] != "#"),
    "Ray Serve": lambda text: text.replace("vllm:", "ray_vllm_"),
    "Ray Serve before 2.53": lambda text: text.replace("vllm:", "ray_vllm:"),
    "shuffled": lambda text: "".join(random.Random(3).sample(text.splitlines(keepends=True), len(text.splitlines()))),
    "no twins": lambda text: "".join(line for line in text.splitlines(keepends=True) if "_created" not in line),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_metrics_in_any_form_say_the_same(form: str, tmp_path: Path) -> None:
    plain, varied = observed(tmp_path, METRICS), observed(tmp_path, FORMS[form](METRICS))
    assert (plain.drafts, plain.requests, plain.generated) == (varied.drafts, varied.requests, varied.generated)
    assert (plain.request_steps, plain.settings) == (varied.request_steps, varied.settings)


@captured
@pytest.mark.parametrize("form", FORMS)
def test_captured_metrics_in_any_form_say_the_same(form: str, tmp_path: Path) -> None:
    names = [f"vllm_ngram5/metrics_{when}_c4.prom" for when in ("before", "after")]
    [plain], _ = read_files([CAPTURED / name for name in names])
    for name in names:
        (tmp_path / Path(name).name).write_text(FORMS[form]((CAPTURED / name).read_text()))
    [varied], _ = read_files([tmp_path])
    assert (plain.drafts, plain.requests, plain.generated) == (varied.drafts, varied.requests, varied.generated)
    assert plain.request_steps == varied.request_steps


def test_metrics_that_were_cut_or_filtered_are_refused(tmp_path: Path) -> None:
    """A position less would be read as a smaller K; a number that was cut as a smaller number."""
    lines = METRICS.splitlines(keepends=True)
    for left_out in ('position="1"', 'position="2"', "accepted_tokens_total", "draft_tokens_total", "per_pos"):
        with pytest.raises(InputError, match=r"it was cut, or filtered|cannot rise"):
            observed(tmp_path, "".join(line for line in lines if left_out not in line))
    with pytest.raises(InputError, match="it was cut, or filtered"):
        observed(tmp_path, METRICS.rstrip("\n")[:-3])
    one = observed(tmp_path, "".join(line for line in lines if "inter_token" not in line and "iteration" not in line))
    assert one.request_steps is None


@given(st.integers(0, len(METRICS)))
@settings(max_examples=60, deadline=None)
def test_metrics_cut_anywhere_say_nothing_wrong(size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            one = observed(Path(folder), METRICS[:size])
        except InputError:
            return
        if one.drafts is not None and one.drafts.drafts:
            assert one.drafts.accepted_at == AT
        assert one.generated in (None, 590.0)


def test_a_directory_of_scrapes_with_other_files_between(tmp_path: Path) -> None:
    for i in range(5):
        at = tuple(n * (i + 1) for n in AT)
        (tmp_path / f"metrics-2026-11-26T10:0{i}.prom").write_text(
            vllm_metrics(100 * (i + 1), at, 400 * (i + 1), 20 * (i + 1), steps=100 * (i + 1))
        )
    (tmp_path / "README.md").write_text("Scrapes of the night.\n")
    (tmp_path / "nvidia-smi.csv").write_text("a,b\n1,2\n")
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "more").mkdir()
    [one], notes = read_files([tmp_path])
    assert one.drafts is not None
    assert (one.drafts.drafts, one.drafts.accepted_at, len(one.intervals)) == (400, (320, 240, 120), 4)
    assert sum("left out" in note for note in notes) == 2


def test_drafts_shorter_than_k_are_said(tmp_path: Path) -> None:
    text = METRICS.replace(
        'draft_tokens_total{engine="0",model_name="m"} 300.0', 'draft_tokens_total{engine="0",model_name="m"} 220.0'
    )
    (tmp_path / "a").write_text(text)
    server = together(*read_files([tmp_path / "a"]))
    assert any("2.2 tokens on average, 3 at most" in note for note in server.notes)


WRAPS: dict[str, Callable[[str], str]] = {
    "kubectl": lambda line: f"[pod/vllm-0/server] 2026-11-26T10:00:00.123456789Z {line}",
    "compose": lambda line: f"vllm-1  | {line}",
    "journalctl": lambda line: f"Nov 26 10:00:00 gpu1 vllm[{123}]: {line}",
    "short-iso": lambda line: f"2026-11-26T10:00:00+0100 gpu1 vllm[123]: {line}",
    "stern": lambda line: f"vllm-7f9c vllm {line}",
}  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPS)
def test_lines_with_what_collectors_put_before_them(wrap: str, tmp_path: Path) -> None:
    plain = vllm_log(Truth(), [8] * 20)
    varied = "".join(WRAPS[wrap](line) + "\n" for line in plain.splitlines())
    one, other = observed(tmp_path, plain), observed(tmp_path, varied)
    assert (one.drafts, one.intervals, one.settings) == (other.drafts, other.intervals, other.settings)


def test_journald_keeps_lines_with_colours_as_bytes(tmp_path: Path) -> None:
    plain = vllm_log(Truth(), [8] * 20)
    rows = [{"_PID": "1", "MESSAGE": list(f"\x1b[36m{line}\x1b[0m".encode())} for line in plain.splitlines()]
    varied = observed(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    assert varied.drafts == observed(tmp_path, plain).drafts


def interleaved(one: str, other: str) -> str:
    return "\n".join(line for pair in zip(one.splitlines(), other.splitlines(), strict=True) for line in pair) + "\n"


def test_containers_in_one_log_are_servers_of_their_own(tmp_path: Path) -> None:
    logs = [vllm_log(Truth(), [8] * 20, seed=i) for i in range(2)]
    wrapped = ["".join(f"vllm-{i}  | {line}\n" for line in log.splitlines()) for i, log in enumerate(logs)]
    (tmp_path / "log").write_text(interleaved(*wrapped))
    found, _ = read_files([tmp_path / "log"])
    assert [one.drafts for one in found] == [observed(tmp_path, log).drafts for log in logs]
    assert all(interval.running == 8 for one in found for interval in one.intervals[1:])


@pytest.mark.parametrize("form", [
    "{time} - vllm.v1.{name} - INFO - {said}", "{time} vllm.v1.{name} INFO {said}",
    "[{time}] [vllm.v1.{name}:257] [INFO] {said}",
    "vllm.v1.{name} {time} INFO {said}", "INFO:vllm.v1.{name}:{time} {said}",
])  # fmt: skip
def test_a_format_of_ones_own_names_no_server(form: str, tmp_path: Path) -> None:
    """Python's plainest formats say which part of the engine writes: lines of load and of acceptance are of two."""
    lines = []
    for line in (plain := vllm_log(Truth(), [8] * 20)).splitlines():
        head, _, said = line.partition("] ")
        name = "spec_decode.metrics" if "SpecDecoding" in said else "metrics.loggers"
        time = re.sub(r".*INFO (\d\d-\d\d \d\d:\d\d:\d\d).*", r"2024-\1,123", head)
        lines.append(form.format(time=time, name=name, said=said))
    one, other = observed(tmp_path, plain), observed(tmp_path, "\n".join(lines) + "\n")
    assert (one.drafts, one.intervals) == (other.drafts, other.intervals)


def test_lines_of_two_engines_that_were_sorted_belong_together(tmp_path: Path) -> None:
    """vLLM writes each engine's load and acceptance one after the other; an export by the second, loads before the rest."""
    logs = [vllm_log(Truth(), [8] * 20, seed=i).replace("Engine 000", f"Engine 00{i}").splitlines()[2:] for i in range(2)]
    apart = [line for a, b in zip(logs[0][::2], logs[0][1::2], strict=True) for line in (a, b)]
    assert apart == logs[0]
    written = [line for i in range(0, 40, 2) for own in logs for line in own[i : i + 2]]
    by_kind = [line for i in range(0, 40, 2) for j in (0, 1) for line in (logs[0][i + j], logs[1][i + j])]
    one, other = (observed(tmp_path, "\n".join(lines) + "\n") for lines in (written, by_kind))
    assert (one.drafts, one.intervals) == (other.drafts, other.intervals)
    assert not any(interval.plain for interval in other.intervals)


def test_two_servers_of_process_1_that_write_in_turns_are_refused(tmp_path: Path) -> None:
    """In a container every process is the first; one writes four seconds after the other."""
    one, other = vllm_log(Truth(), [8] * 20), vllm_log(Truth(), [16] * 20, seed=1)
    later = re.sub(r"(\d\d:\d\d:\d)\d ", r"\g<1>4 ", other)
    rows = sorted(one.splitlines()[2:] + later.splitlines()[2:], key=lambda line: line[20:40])
    with pytest.raises(InputError, match="4 and 6 s apart in turns"):
        observed(tmp_path, "\n".join(rows) + "\n")


def test_two_servers_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    one, other = vllm_log(Truth(), [8] * 20), vllm_log(Truth(), [16] * 20, seed=1).replace("pid=1)", "pid=2)")
    with pytest.raises(InputError, match="several servers"):
        observed(tmp_path, interleaved(one, other))


def later(log: str) -> str:
    """The same two hours later, as a start after another is."""
    return log.replace("11-26 10:", "11-26 12:").replace("11-26 09:", "11-26 11:")


def test_a_restart_counts_from_the_last_start(tmp_path: Path) -> None:
    """Another K, other process ids, and a start that failed in between."""
    first, last = (
        vllm_log(Truth(survival=(0.7, 0.5)), [4] * 20),
        later(vllm_log(Truth(), [8] * 20, seed=2).replace("pid=1)", "pid=7)")),
    )
    failed = later(first.splitlines()[0].replace("pid=1)", "pid=5)")) + "\nTraceback (most recent call last):\n"
    one = observed(tmp_path, first + failed + last)
    assert (one.drafts, one.settings.gamma) == (observed(tmp_path, last).drafts, 3)
    assert any("started 3 times" in note for note in one.notes)


def test_the_depth_that_newer_versions_write_changes_nothing(tmp_path: Path) -> None:
    plain = vllm_log(Truth(), [8] * 20)
    newer = plain.replace(", Accepted throughput", ", Current speculative depth: 3, Accepted throughput")
    assert observed(tmp_path, newer).drafts == observed(tmp_path, plain).drafts


def test_switched_off_for_a_while(tmp_path: Path) -> None:
    """By batch size: stretches without drafts are no drafts that failed."""
    loads = [4] * 10 + [64] * 10 + [4] * 10
    one = observed(tmp_path, vllm_log(Truth(), loads, k=lambda n: 3 if n < 20 else 0))
    assert sum(interval.plain for interval in one.intervals) == 10
    assert one.drafts is not None
    assert one.drafts.survival == pytest.approx(Truth().survival, abs=0.02)


@given(st.integers(1, 16), st.floats(0.02, 0.98), st.integers(0, 1), st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_k_of_sglangs_averages_is_right_or_not_told(k: int, share: float, held: int, lines: int) -> None:
    """Whichever of the two rates a version writes, rounded to two digits."""
    rng = random.Random(f"{k} {share} {held} {lines}")
    seen = []
    for _ in range(lines):
        accepted = k * min(max(share + rng.gauss(0, 0.1), 0), 1)
        seen.append((round(1 + accepted, 2), round((accepted + held) / (k + held), 2)))
    assert drafted_tokens(seen, 0.00501) in (k, None)


def test_k_follows_from_enough_lines_of_either_version() -> None:
    for held in (0, 1):
        seen = [(1 + a, (a + held) / (4 + held)) for a in (1.0, 1.7, 2.3, 3.1)]
        assert drafted_tokens(seen, 1e-6) == 4


def test_an_average_without_k_is_no_server_that_drafts_nothing(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(line + "\n" for line in SGLANG_LOG.splitlines()[1:2]))
    (tmp_path / "prom").write_text(SGLANG_METRICS)  # 2.5 tokens at a rate of one half: 3 drafted, or 4
    for name in ("log", "prom"):
        with pytest.raises(InputError, match="how many tokens a draft has"):
            together(*read_files([tmp_path / name]))
    told = "# HELP sglang:spec_accept_rate Speculative acceptance rate (`accepted drafts / proposed drafts` in batch).\n"
    assert observed(tmp_path, told + SGLANG_METRICS).settings.gamma == 3


def test_sglangs_ranks_that_idle_and_engines_that_draft_do_not_count(tmp_path: Path) -> None:
    plain = SGLANG_METRICS.replace(" 2.5", " 2.8").replace(" 0.5", " 0.6")
    text = plain + "".join(
        line.replace('{model_name="m"}', '{model_name="m",dp_rank="1"}').rpartition(" ")[0] + " 0.0\n"
        + line.replace('{model_name="m"}', '{engine_type="draft",model_name="d"}').rpartition(" ")[0] + " 1.1\n"
        for line in plain.splitlines()
    )  # fmt: skip
    one = observed(tmp_path, text)
    assert (one.length, one.settings.gamma, one.settings.model) == (2.8, 3, "m")


def test_sglang_started_again_counts_from_there(tmp_path: Path) -> None:
    again = SGLANG_LOG.replace("num_draft_tokens=4", "num_draft_tokens=6").replace("accept len: 2.0", "accept len: 4.0")
    one = observed(tmp_path, SGLANG_LOG + again)
    assert one.settings.gamma == 5
    assert one.drafts == observed(tmp_path, again).drafts
    assert any("started 2 times" in note for note in one.notes)


def test_answers_with_errors_and_of_batches(tmp_path: Path) -> None:
    """Failures between answers, and vLLM's own batch files, which keep each under `response.body`."""
    good = [answer([3, 0], [1, 0, 0, 1], 10), answer(None, [0, 0, 2, 0], 8)]
    rows = [good[0], {"error": {"message": "no", "code": 500}}, good[1], {"object": "error", "message": "x"}]
    plain = observed(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    batch = [{"id": "b", "custom_id": "1", "response": {"status_code": 200, "body": row}, "error": None} for row in good]
    batch.append({"id": "b", "custom_id": "2", "response": {"status_code": 500, "body": {"error": {}}}, "error": None})
    varied = observed(tmp_path, "".join(json.dumps(row) + "\n" for row in batch))
    assert (plain.drafts, plain.requests) == (varied.drafts, varied.requests)
    assert plain.requests == 2


@captured
@pytest.mark.skipif("SPECYARD_SERVED" not in os.environ and not CAPTURED.is_dir(), reason="no captured files")
@pytest.mark.parametrize("wrap", ["crlf", "gzip", "docker", *WRAPS])
@pytest.mark.parametrize("name", ["vllm_draft3/server.log", "llamacpp_draft/server.log"])
def test_captured_logs_however_they_were_copied(name: str, wrap: str, tmp_path: Path) -> None:
    plain = (CAPTURED / name).read_text()
    if wrap in WRAPS:
        data = "".join(WRAPS[wrap](line) + "\n" for line in plain.splitlines()).encode()
    elif wrap == "docker":
        data = "".join(json.dumps({"log": f"{line}\n", "stream": "stderr"}) + "\n" for line in plain.splitlines()).encode()
    else:
        data = gzip.compress(plain.encode()) if wrap == "gzip" else plain.replace("\n", "\r\n").encode()
    (tmp_path / "copied").write_bytes(data)
    [one], _ = read_files([CAPTURED / name])
    [other], _ = read_files([tmp_path / "copied"])
    assert (one.drafts, one.requests, one.generated) == (other.drafts, other.requests, other.generated)


def test_bench_results_of_several_runs(tmp_path: Path) -> None:
    """Appended, a line each: a point of each load, and their drafts together."""
    from tests.harness.served.test_sources import BENCH

    runs = [BENCH, {**BENCH, "max_concurrency": 8, "request_rate": 4.0}, {**BENCH, "max_concurrency": None}]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
    found, notes = read_files([tmp_path / "runs.jsonl"])
    server = together(found, notes)
    assert [point.concurrency for point in server.points] == [2, 8]
    assert server.drafts.drafts == 30
    other = {**BENCH, "spec_decode_per_position_acceptance_rates": [0.8, 0.7], "spec_decode_draft_tokens": 20}
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in (BENCH, other)))
    with pytest.raises(InputError, match="set otherwise"):
        together(*read_files([tmp_path / "runs.jsonl"]))


def test_a_bench_that_counts_no_drafts_is_a_baseline_only_where_its_tokens_came_one_by_one(tmp_path: Path) -> None:
    """Older versions counted none, whatever the server did, and others do only where they reach its metrics."""
    from tests.harness.served.test_sources import BENCH

    bare = {name: value for name, value in BENCH.items() if not name.startswith("spec_decode")} | {"output_throughput": 40.0}
    told = {"mean_tpot_ms": 20.0, "mean_itl_ms": 20.0}
    for more, known in (
        ({}, False),
        ({**told, "mean_itl_ms": 26.0}, False),
        ({**told, "mean_itl_ms": 0.0}, False),
        (told, True),
    ):
        alone = observed(tmp_path, json.dumps({**bare, **more}))
        assert (alone.drafts, [point.what for point in alone.points]) == ((NOTHING, ["none"]) if known else (None, []))
        (tmp_path / "runs.jsonl").write_text(json.dumps(BENCH) + "\n" + json.dumps({**bare, **more}) + "\n")
        server = together(*read_files([tmp_path / "runs.jsonl"]))
        assert server.speculates
        assert any("does not say whether anything was drafted" in note for note in server.notes) is not known
        assert any("a baseline" in note for note in server.notes) is known
        if not known:
            with pytest.raises(InputError, match="does not say how many drafts"):
                together([alone])


@captured
@pytest.mark.parametrize("name", ["vllm_none", "vllm_ngram5", "vllm_draft3"])
def test_captured_benches_without_their_drafts(name: str, tmp_path: Path) -> None:
    whole = json.loads((CAPTURED / name / "bench_c4.json").read_text())
    one = observed(tmp_path, json.dumps({key: value for key, value in whole.items() if not key.startswith("spec_decode")}))
    assert one.drafts == (NOTHING if name == "vllm_none" else None)


@pytest.mark.slow
def test_a_log_of_two_gigabytes_is_not_held_whole(tmp_path: Path) -> None:
    """In a process of its own, whose memory the system measures; 200 MB stand for the two, which take as much."""
    noise = "INFO 11-26 10:00:00 [x.py:1] 127.0.0.1:40000 - POST /v1/chat/completions HTTP/1.1 200 OK\n" * 1000
    with (tmp_path / "server.log").open("w") as stream:
        for line in vllm_log(Truth(), [8] * 200).splitlines(keepends=True):
            stream.write(noise * 6 + line)
    size = (tmp_path / "server.log").stat().st_size
    code = (
        "import resource, sys; from pathlib import Path; from harness.served.sources.registry import read_files\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "[one], _ = read_files([Path(sys.argv[1])])\n"
        "print(len(one.intervals), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "server.log")], capture_output=True, text=True, check=True
    )
    intervals, grown_kb = map(int, done.stdout.split())
    assert size > 150e6
    assert intervals == 200
    assert grown_kb < 30_000


def test_arrivals_are_called_so(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,5,3\n1,5,3\n")
    with pytest.raises(InputError, match="is arrivals"):
        read_files([tmp_path / "own.csv"])


@pytest.mark.parametrize(("begins", "beside"), [
    ("Metric,avg,min,max,sum\nRequest Latency (ms),1,1,1,1\n", "profile_export.jsonl"),
    ('{\n  "schema_version": "1.4",\n  "aiperf_version": "0.13.0"}', "profile_export.jsonl"),
    ("# AIPerf Server Metrics Export (CSV)\n# aiperf_version: 0.13.0\n", "json"),
    ("Run Info,Run Info,Benchmark\nid,name,strategy\n", "JSON"),
], ids=["aiperf", "aiperf JSON", "aiperf server", "guidellm"])  # fmt: skip
def test_a_summary_names_what_lies_beside_it(tmp_path: Path, begins: str, beside: str) -> None:
    """As aiperf 0.13.0 and guidellm write them beside the files that are read."""
    (tmp_path / "summary").write_text(begins)
    with pytest.raises(InputError, match=beside) as told:
        read_files([tmp_path / "summary"])
    assert "none of what is read" not in str(told.value)


STARTS = (
    "0.00.001.172 I srv  llama_server: initializing ...\n0.02.323.556 I llama_model_loader: loaded meta data with 33 pairs\n"
    "0.03.1 I common: loading draft model 'draft.gguf'\n0.03.2 I   - n_max=4, n_min=0\n"
    "0.03.523.086 I srv  llama_server: listening on http://127.0.0.1:8022\n"
)
"""What llama.cpp writes before its first request."""
ANSWERED = (
    "0.57.1 I slot print_timing: id  1 | task 1 | prompt eval time =   16995.30 ms /   127 tokens\n"
    "0.57.1 I slot print_timing: id  1 | task 1 |        eval time =   32574.63 ms /    96 tokens\n"
    "0.57.1 I slot print_timing: id  1 | task 1 | draft acceptance = 0.75 (  60 accepted /  80 generated), mean len = 4.00\n"
)


def test_a_rotated_log_may_begin_with_a_part_without_requests(tmp_path: Path) -> None:
    (tmp_path / "log.1").write_text(STARTS)
    (tmp_path / "log").write_text(ANSWERED)
    with pytest.raises(InputError, match="not answered a request yet"):
        read_files([tmp_path / "log.1"])
    [both], _ = read_files([tmp_path / "log.1", tmp_path / "log"])
    assert (both.requests, both.settings.gamma, both.settings.drafter) == (1, 4, "draft.gguf")


def test_of_a_folder_no_file_is_blamed_alone(tmp_path: Path) -> None:
    """A README that lies in it is not why nothing is read; one that is damaged is."""
    (tmp_path / "README.md").write_text("# notes\n")
    (tmp_path / "a list.txt").write_text("1\n")
    with pytest.raises(InputError, match=rf"^{re.escape(str(tmp_path))}: none of its 2 files"):
        read_files([tmp_path])
    (tmp_path / "scrape.json").write_text('{"a": 1')
    with pytest.raises(InputError, match=r"scrape\.json: .*cut"):
        read_files([tmp_path])
