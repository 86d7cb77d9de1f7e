"""Files as people copy them off machines: appended, pretty-printed, stamped, turned round, cut; and of older versions."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from harness.served.server import together
from harness.served.sources.registry import read_files
from simulator.errors import InputError
from tests.harness.served.test_sources import GUIDELLM, aiperf_row, observed
from tests.harness.served.writing import Truth, answer, answers, dspark_dump, vllm_log, vllm_metrics

ROWS = [answer([3, 0], [1, 0, 0, 1], 10), answer(None, [0, 0, 2, 0], 8)]
LOG = vllm_log(Truth(), [8] * 20)
FORMS: dict[str, Callable[[list[dict[str, object]]], str]] = {
    "lines": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    "pretty, one after another": lambda rows: "".join(json.dumps(row, indent=2) + "\n" for row in rows),
    "on one line": lambda rows: " ".join(map(json.dumps, rows)),
    "a list": lambda rows: json.dumps(rows),
    "a pretty list": lambda rows: json.dumps(rows, indent=4),
    "characters that end no line": lambda rows: "".join(
        json.dumps({**row, "text": "a\u2028b\x85c\x0cd"}, ensure_ascii=False) + "\n" for row in rows
    ),
    "UTF-16": lambda rows: "".join(json.dumps(row) + "\r\n" for row in rows),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_answers_however_they_are_written_down(form: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(FORMS[form](ROWS), "utf-16" if form == "UTF-16" else "utf-8", newline="")
    [one], notes = read_files([tmp_path / "a"])
    assert one.drafts is not None
    assert (one.drafts.drafts, one.drafts.accepted_at, one.requests) == (4, (3, 3, 1), 2)
    assert not notes


@pytest.mark.parametrize("form", ["lines", "pretty, one after another", "on one line"])
def test_a_last_answer_that_was_cut_is_left_out_and_said(form: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(FORMS[form](ROWS)[:-40])
    [one], notes = read_files([tmp_path / "a"])
    assert one.requests == 1
    assert any("1 value that is cut" in note for note in notes)


def test_one_json_document_that_was_cut_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(json.dumps(GUIDELLM)[:-5])
    with pytest.raises(InputError, match="JSON that is cut, or damaged"):
        read_files([tmp_path / "a"])


def test_an_error_before_the_answers(tmp_path: Path) -> None:
    """Its message is no line of a log."""
    error = {"object": "error", "message": "The model is overloaded", "code": 503}
    assert observed(tmp_path, FORMS["lines"]([error, *ROWS])).requests == 2


def test_answers_that_miss_fields(tmp_path: Path) -> None:
    """Null and left out are alike; what is needed is named; others are not read, whatever they hold."""
    row = answer([3, 0], [1, 0, 0, 1], 10)
    told = row["metrics"]["speculative_decoding"]
    told |= {"mean_acceptance_length": float("nan"), "draft_acceptance_rate": None, "new": {"x": [1]}}
    assert observed(tmp_path, json.dumps(row)).requests == 1
    del told["num_spec_tokens"], told["per_step_accepted"]
    assert observed(tmp_path, json.dumps(row)).settings.gamma == 3
    other = {"usage": {"input_tokens": 7, "output_tokens": 10}, "metrics": row["metrics"]}
    assert observed(tmp_path, json.dumps(other)).generated == 10
    told["acceptance_histogram"] = None
    with pytest.raises(InputError, match="speculative_decoding"):
        observed(tmp_path, json.dumps(row))
    told |= {"acceptance_histogram": [1, 0, 0, float("nan")]}
    with pytest.raises(InputError, match="counts must be from 0"):
        observed(tmp_path, json.dumps(row))
    told |= {"acceptance_histogram": [1, 0, 0, 1]}
    whole = json.dumps(row)
    del row["usage"]
    one = observed(tmp_path, whole + "\n" + json.dumps(row))  # as of streams, and of an answer that was aborted
    assert one.requests == 1
    assert "1 answer without completion_tokens left out" in one.notes
    with pytest.raises(InputError, match="no answer says its completion_tokens; streams do with stream_options"):
        observed(tmp_path, json.dumps(row))


def test_scrapes_that_were_appended_to_one_file(tmp_path: Path) -> None:
    """`curl … >> metrics.prom` every minute: what was between the first and the last, not the sum of all."""
    scrapes = [vllm_metrics(100 * i, (80 * i, 60 * i, 30 * i), 400 * i, 20 * i, steps=100 * i) for i in (1, 2, 4)]
    one = observed(tmp_path, "".join(scrapes))
    assert one.drafts is not None
    assert (one.drafts.drafts, one.drafts.accepted_at, len(one.intervals)) == (300, (240, 180, 90), 2)
    dated = "".join(f"# Fri Nov 27 19:45:28 UTC 2026\n{scrape}# EOF\n" for scrape in scrapes)
    assert observed(tmp_path, dated).drafts == one.drafts


def test_engines_that_are_scraped_apart_are_not_subtracted(tmp_path: Path) -> None:
    """Of a server without `_created`: each of its two engines has its own counters."""
    for engine in (0, 1):
        text = vllm_metrics(100 + engine, (80, 60, 30), 400 + engine, 20 + engine)
        lines = [line for line in text.splitlines() if "_created" not in line]
        (tmp_path / f"engine{engine}").write_text("\n".join(lines).replace('engine="0"', f'engine="{engine}"') + "\n")
    [one], _ = read_files([tmp_path / "engine0", tmp_path / "engine1"])
    assert one.drafts is not None
    assert (one.drafts.drafts, one.drafts.accepted_at) == (201, (160, 120, 60))


def test_counters_of_versions_that_count_no_drafts_are_no_server_without_drafts(tmp_path: Path) -> None:
    text = "".join(line + "\n" for line in vllm_metrics(100, (80, 60), 400, 20).splitlines() if "num_drafts" not in line)
    with pytest.raises(InputError, match=r"before 0\.9\.1"):
        observed(tmp_path, text)


def stamped(stamp: Callable[[datetime], str]) -> str:
    """Every line with a collector's time before it, half of them on the next day."""
    begin = datetime(2026, 11, 26, 23, 58, 0)
    return "".join(
        f"{stamp(begin + timedelta(seconds=5 * i, milliseconds=7 * i))}{line}\n" for i, line in enumerate(LOG.splitlines())
    )


STAMPS: dict[str, Callable[[datetime], str]] = {
    "docker -t": lambda at: f"{at:%Y-%m-%dT%H:%M:%S.%f}123Z ",
    "compose -t": lambda at: f"vllm-1  | {at:%Y-%m-%dT%H:%M:%S.%f}123Z ",
    "compose 1": lambda at: "vllm_1  | ",
    "short-precise": lambda at: f"{at:%b %d %H:%M:%S.%f} gpu1 vllm[77]: ",
    "short-full": lambda at: f"{at:%a %Y-%m-%d %H:%M:%S} UTC gpu1 vllm[77]: ",
    "short-unix": lambda at: f"{at.timestamp():.6f} gpu1 vllm[77]: ",
    "short-monotonic": lambda at: f"[{at.timestamp() % 9999:12.6f}] gpu1 vllm[77]: ",
    "srun": lambda at: "0: ",
    "ray": lambda at: "(ServeReplica:llm:vLLM:m pid=77, ip=10.0.0.1) ",
    "progress": lambda at: "Capturing CUDA graphs: 10%|#  | 1/9\rCapturing CUDA graphs: 20%|## | 2/9\r",
}  # fmt: skip


@pytest.mark.parametrize("stamp", STAMPS)
def test_lines_with_any_time_before_them_are_of_one_server(stamp: str, tmp_path: Path) -> None:
    """Whatever time that is: the engine's own counts."""
    plain = observed(tmp_path, LOG)
    one = observed(tmp_path, stamped(STAMPS[stamp]))
    assert (one.drafts, one.intervals, one.settings) == (plain.drafts, plain.intervals, plain.settings)


@pytest.mark.parametrize(
    "export",
    [
        lambda lines: json.dumps([{"timestamp": f"{i:03}", "textPayload": line} for i, line in lines], indent=2),
        lambda lines: json.dumps([{"jsonPayload": {"message": line}, "logName": "x"} for _, line in lines]),
        lambda lines: "".join(json.dumps({"_source": {"message": line}}) + "\n" for _, line in lines),
        lambda lines: "".join(json.dumps({"line": line, "labels": {"app": "vllm"}}) + "\n" for _, line in lines),
    ],
    ids=["google", "google json", "elastic", "loki"],
)
@pytest.mark.parametrize("latest_first", [False, True])
def test_logs_that_collectors_export(
    export: Callable[[list[tuple[int, str]]], str], latest_first: bool, tmp_path: Path
) -> None:
    lines = list(enumerate(LOG.splitlines()))
    one, plain = observed(tmp_path, export(lines[::-1] if latest_first else lines)), observed(tmp_path, LOG)
    assert (one.drafts, one.intervals) == (plain.drafts, plain.intervals)


def test_a_log_that_was_truncated_while_it_was_written(tmp_path: Path) -> None:
    """`copytruncate` leaves zeros where the old lines stood."""
    (tmp_path / "log").write_bytes(b"\x00" * 4096 + LOG.encode() + b"\x00" * 100)
    [one], _ = read_files([tmp_path / "log"])
    assert one.drafts == observed(tmp_path, LOG).drafts


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_long_log_in_another_encoding(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = observed(tmp_path, LOG)
    monkeypatch.setattr("harness.served.text.LONG_BYTES", 0)
    (tmp_path / "log").write_text(LOG, encoding)
    [one], _ = read_files([tmp_path / "log"])
    assert one.drafts == plain.drafts


def test_a_line_of_acceptance_that_was_cut_is_no_stretch_without_drafts(tmp_path: Path) -> None:
    lines = LOG.splitlines(keepends=True)
    broken = "".join(line[:90] + "\n" if "SpecDecoding" in line and i % 8 == 3 else line for i, line in enumerate(lines))
    one = observed(tmp_path, broken)
    assert not any(interval.plain for interval in one.intervals)
    assert any("could not be read whole" in note for note in one.notes)


def older(log: str) -> str:
    """As vLLM wrote it before 0.9.1."""
    lines = []
    for line in log.splitlines():
        head, spec, told = line.partition("SpecDecoding metrics: ")
        counts = ", ".join(part for part in told.split(", ") if part.startswith(("Accepted: ", "Drafted: ")))
        lines.append(f"{head}{spec}Draft acceptance rate: 50.0%, {counts}" if spec else line)
    return "\n".join(lines) + "\n"


def test_lines_of_acceptance_before_they_had_positions(tmp_path: Path) -> None:
    """An average, where K is in the log; else a sentence; never a server that drafts nothing."""
    old, plain = observed(tmp_path, older(LOG)), observed(tmp_path, LOG)
    assert old.drafts is not None
    assert plain.drafts is not None
    assert (old.drafts.drafts, old.drafts.accepted) == (plain.drafts.drafts, plain.drafts.accepted)
    assert (old.drafts.accepted_at, together([old]).gamma) == ((), 3)
    with pytest.raises(InputError, match=r"before vLLM 0\.9\.1"):
        observed(tmp_path, "\n".join(older(LOG).splitlines()[2:]))
    with_rate = LOG.replace("metrics: Mean", "metrics: Draft acceptance rate: 50.0%, Mean")
    assert observed(tmp_path, with_rate).drafts == plain.drafts


def test_lines_without_a_process_before_them(tmp_path: Path) -> None:
    """As vLLM wrote them before 0.10.2, and as its own JSON has them."""
    plain = observed(tmp_path, LOG)
    one = observed(tmp_path, LOG.replace("(APIServer pid=1) ", ""))
    assert (one.drafts, one.intervals, one.settings) == (plain.drafts, plain.intervals, plain.settings)


@pytest.mark.parametrize("line", [
        "INFO 04-16 02:00:00 metrics.py:477] Speculative metrics: Draft acceptance rate: 0.612, System efficiency: 0.412, "
        "Number of speculative tokens: 5, Number of accepted tokens: 5304, Number of draft tokens: 8660, Number of emitted "
        "tokens: 4206.\n",
        "INFO 04-25 10:00:00 metrics.py:455] Avg prompt throughput: 0.0 tokens/s, Avg generation throughput: 17.5 tokens/s, "
        "Running: 1 reqs, Swapped: 0 reqs, Pending: 0 reqs, GPU KV cache usage: 0.1%, CPU KV cache usage: 0.0%.\n",
    ], ids=["drafts", "load"])  # fmt: skip
def test_the_engine_before_this_one_is_named(line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="V0 engine"):
        observed(tmp_path, line * 3)


def test_a_model_that_is_served_by_another_name(tmp_path: Path) -> None:
    """Its log names the checkpoint and the name, its metrics the name alone."""
    log = LOG.replace("'model': 'Org/Model-8B',", "'model': 'Org/Model-8B', 'served_model_name': ['chat'],", 1)
    (tmp_path / "log").write_text(log)
    (tmp_path / "prom").write_text(vllm_metrics(1000, (750, 500, 300), 4000, 20, model="chat"))
    server = together(*read_files([tmp_path / "log", tmp_path / "prom"]))
    assert (server.settings.called, server.settings.served_as) == ("Org/Model-8B", "chat")
    (tmp_path / "prom").write_text(vllm_metrics(1000, (750, 500, 300), 4000, 20, model="other"))
    with pytest.raises(InputError, match="of model other"):
        together(*read_files([tmp_path / "log", tmp_path / "prom"]))


def test_dumps_that_overlap_and_ranks_of_their_own(tmp_path: Path) -> None:
    """Two dumps of one ring of records count its steps once; ranks with requests of their own count each."""
    dump = json.loads(dspark_dump())
    [state] = dump["internal_states"]
    records = state["dspark_info_record"]["records"]
    other = json.loads(json.dumps(records).replace('"rid": "', '"rid": "rank1-'))
    (tmp_path / "first").write_text(json.dumps(dump))
    (tmp_path / "second").write_text(json.dumps(dump))
    [one], _ = read_files([tmp_path / "first", tmp_path / "second"])
    assert (one.engine_steps, one.request_steps) == (2, 4)
    state_1 = {"dspark_info_record": {**state["dspark_info_record"], "records": other}}
    (tmp_path / "both").write_text(json.dumps({"internal_states": [state, state, state_1]}))
    [one], _ = read_files([tmp_path / "both"])
    assert (one.engine_steps, one.request_steps) == (4, 8)


def test_rows_of_a_long_file_are_held_without_their_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with what nothing reads; the counts are the same, and a cut row is said."""
    text = "x" * 100_000
    heavy = {"choices": [{"message": {"content": text}}], "itls": [0.01] * 9000}
    rows = [heavy | json.loads(line) for line in answers(200).splitlines()]
    (tmp_path / "plain").write_text(answers(200))
    (tmp_path / "heavy").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"id": "cut')
    [plain], _ = read_files([tmp_path / "plain"])
    monkeypatch.setattr("harness.served.text.LONG_BYTES", 1 << 20)
    tracemalloc.start()
    [one], notes = read_files([tmp_path / "heavy"])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (one.drafts, one.told_apart) == (plain.drafts, plain.told_apart)
    assert most < 6e6 < (tmp_path / "heavy").stat().st_size
    assert any("1 value that is cut" in note for note in notes)


def test_json_that_is_too_large_to_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.served.text.LONG_BYTES", 100)
    monkeypatch.setattr("harness.served.text._MOST_BYTES", 1000)
    for text in (json.dumps(GUIDELLM | {"x": "y" * 2000}), json.dumps(GUIDELLM | {"x": "y" * 2000}, indent=1)):
        (tmp_path / "a").write_text(text)
        with pytest.raises(InputError, match="give the part that matters") as caught:
            read_files([tmp_path / "a"])
        assert "not readable" not in str(caught.value)


def test_rows_of_aiperf_with_extra_and_missing_values(tmp_path: Path) -> None:
    row = aiperf_row({"0": 2, "3": 1}, 12)
    metrics = row["metrics"]
    assert isinstance(metrics, dict)
    metrics |= {"inter_chunk_latency": {"value": [1.0], "unit": "ms"}, "request_latency": None}
    failed = {**row, "error": {"code": 500}, "spec_decode_acceptance": None}
    one = observed(tmp_path, "".join(json.dumps(each) + "\n" for each in (failed, row)))
    assert (one.requests, one.generated) == (1, 12)
    assert any("1 rows" in note or "1 row" in note for note in one.notes)


def test_drafts_of_more_tokens_than_anything_drafts_are_refused(tmp_path: Path) -> None:
    """A number of 31 digits was a list of as many zeros, until the memory was gone; wherever it stands."""
    walked = {"per_step_accepted": [1], "per_step_drafted": [2]}
    for hostile in (
        {"acceptance_histogram": [1, 2], **walked, "num_spec_tokens": 10**30},
        {"acceptance_histogram": {"0": 1, "9" * 30: 2}, "num_spec_tokens": 3},
        {"acceptance_histogram": [1, 2], "num_spec_tokens": 10**30},
    ):
        told = {"num_draft_tokens": 6, **hostile}
        answer = {"usage": {"prompt_tokens": 7, "completion_tokens": 9}, "metrics": {"speculative_decoding": told}}
        (tmp_path / "answers.jsonl").write_text(json.dumps(answer) + "\n")
        with pytest.raises(InputError, match=r"answers.jsonl.*are a tree's"):
            together(*read_files([tmp_path / "answers.jsonl"]))
