"""Files as collectors and shells hand them on: rows of several pods, the same file twice, answers of Prometheus, filters."""

from __future__ import annotations

import bz2
import json
import lzma
import re
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from harness.served import text as text_module
from harness.served.observed import Observation
from harness.served.server import together
from harness.served.sources import vllm_log as vllm_log_module
from harness.served.sources.registry import read_files
from simulator.errors import InputError
from tests.harness.served.test_sources import BENCH, SGLANG_INFO, SGLANG_META, observed
from tests.harness.served.writing import Truth, answers, sglang_log, vllm_log, vllm_metrics

LOGS = [vllm_log(Truth(), [8] * 30, seed=seed) for seed in range(2)]
AT = (80, 60, 30)
TIMINGS = {"prompt_n": 5, "predicted_n": 21, "draft_n": 20, "draft_n_accepted": 15}
ROWS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "fluent bit": lambda line, pod: {"log": f"{line}\n", "stream": "stderr", "kubernetes": {"pod_name": pod}},
    "Google": lambda line, pod: {"textPayload": line, "resource": {"labels": {"pod_name": pod}}},
    "Loki": lambda line, pod: {"line": line, "labels": {"pod": pod}, "timestamp": "2026-11-26T10:00:00Z"},
    "journald": lambda line, pod: {"MESSAGE": line, "_HOSTNAME": pod, "_SYSTEMD_UNIT": "vllm.service"},
    "Azure": lambda line, pod: {"LogMessage": line, "PodName": pod},
}  # fmt: skip


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("collector", ROWS)
def test_rows_of_two_pods_are_two_servers(
    collector: str, long: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose processes have the same numbers: nothing in their lines tells them apart."""
    if long:
        monkeypatch.setattr("harness.served.text.LONG_BYTES", 0)
    pairs = zip(*(log.splitlines() for log in LOGS), strict=True)
    rows = [ROWS[collector](line, f"vllm-000{i}") for pair in pairs for i, line in enumerate(pair)]
    (tmp_path / "log").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, _ = read_files([tmp_path / "log"])
    monkeypatch.undo()
    assert [one.drafts for one in found] == [observed(tmp_path, log).drafts for log in LOGS]
    assert not any(interval.plain for one in found for interval in one.intervals)


SGLANG_LOGS = [sglang_log([4, 5] * 20, begins="10:00:00"), sglang_log([8] * 40, length=2.0, begins="10:00:05")]


def lengths(found: list[Observation]) -> list[float]:
    """Tokens per draft, of each server."""
    return sorted(one.drafts.length for one in found if one.drafts is not None)


@pytest.mark.parametrize("collector", [*ROWS, "compose", "kubectl --prefix"])
def test_rows_of_two_pods_of_sglangs_are_two_servers(collector: str, tmp_path: Path) -> None:
    """Neither starts anew where the other one starts."""
    lines: dict[str, Callable[[str, str], str]] = {
        "compose": lambda line, pod: f"{pod}  | {line}",
        "kubectl --prefix": lambda line, pod: f"[pod/{pod}/sglang] 2026-11-26T10:00:00.1Z {line}",
    }
    write = lines.get(collector) or (lambda line, pod: json.dumps(ROWS[collector](line, pod)))
    pairs = zip(*(log.splitlines() for log in SGLANG_LOGS), strict=True)
    (tmp_path / "log").write_text(
        "".join(write(line, f"sglang-{i}") + "\n" for pair in pairs for i, line in enumerate(pair))
    )
    found, _ = read_files([tmp_path / "log"])
    assert lengths(found) == pytest.approx([2.0, 2.5])
    assert [len(one.intervals) for one in found] == [40, 40]


def test_logs_put_one_behind_the_other_are_of_two_servers(tmp_path: Path) -> None:
    """A server that starts before what was written last did not start anew; one that starts later did."""
    assert lengths([*_read_text(tmp_path, "".join(SGLANG_LOGS))]) == pytest.approx([2.0, 2.5])
    [anew] = _read_text(tmp_path, SGLANG_LOGS[0] + sglang_log([8] * 20, length=2.0, begins="11:00:00"))
    assert lengths([anew]) == pytest.approx([2.0])
    assert any("started 2 times" in note for note in anew.notes)
    found = _read_text(tmp_path, LOGS[0] + LOGS[1].replace("09:59:0", "09:59:1"))
    assert [one.drafts for one in found] == [observed(tmp_path, log).drafts for log in LOGS]


def _read_text(folder: Path, text: str) -> list[Observation]:
    (folder / "log").write_text(text)
    return read_files([folder / "log"])[0]


@pytest.mark.parametrize("text", [LOGS[0], SGLANG_LOGS[0]], ids=["vLLM", "SGLang"])
def test_commas_within_numbers_are_refused(text: str, tmp_path: Path) -> None:
    """0,75, 0,50 would be four positions, and 2,50 tokens two."""
    with pytest.raises(InputError, match="commas within its numbers"):
        _read_text(tmp_path, re.sub(r"(\d)\.(\d)", r"\1,\2", text))
    thousands = re.sub(r"(Accepted|throughput \(token/s\)): (\d)", r"\1: 1,\2", text)
    with pytest.raises(InputError, match="commas within its numbers"):
        _read_text(tmp_path, thousands)


@pytest.mark.parametrize("prefix", ["", "vllm-1  | "])
def test_a_log_that_was_cut_within_a_line_is_of_one_server(prefix: str, tmp_path: Path) -> None:
    text = "".join(prefix + line for line in LOGS[0].splitlines(keepends=True))
    at = text.index("Avg generation throughput", len(text) // 2) - 30
    (tmp_path / "a.1").write_text(text[:at])
    (tmp_path / "a").write_text(text[at:])
    assert len(read_files([tmp_path / "a", tmp_path / "a.1"])[0]) == 1
    assert len(_read_text(tmp_path, text[at:])) == 1


def test_a_document_beside_a_log_is_left_out_though_it_quotes_one(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"# What this is\n\n    {SGLANG_LOGS[0].splitlines()[5]}\n")
    (tmp_path / "log").write_text(LOGS[0])
    [one], notes = read_files([tmp_path])
    assert (one.settings.engine, len(notes)) == ("vLLM", 1)
    assert "README.md" in notes[0]
    (tmp_path / "log").rename(tmp_path / "log.md")
    assert read_files([tmp_path / "log.md"])[0][0].intervals == one.intervals
    with pytest.raises(InputError, match="name it itself where a server wrote it"):
        read_files([tmp_path])


def test_parts_of_sglangs_log_in_any_order_count_once(tmp_path: Path) -> None:
    lines = SGLANG_LOGS[0].splitlines(keepends=True)
    (tmp_path / "a").write_text("".join(lines[9:]))
    (tmp_path / "b.1").write_text("".join(lines[:12]))
    [one], _ = read_files([tmp_path / "a", tmp_path / "b.1"])
    assert (len(one.intervals), one.settings.gamma) == (40, 3)
    assert not read_files([tmp_path / "a"])[1]


def test_lines_of_two_servers_of_sglangs_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    """Ranks are told apart, and each has its own line for the same steps."""
    pairs = list(zip(*(log.splitlines()[1:] for log in SGLANG_LOGS), strict=True))
    with pytest.raises(InputError, match="of several servers"):
        _read_text(tmp_path, "\n".join(line for pair in pairs for line in pair) + "\n")
    ranks = [line.replace(" TP0]", f" DP{i} TP0]") for pair in pairs for i, line in enumerate(pair)]
    [one] = _read_text(tmp_path, "\n".join(ranks) + "\n")
    assert len(one.intervals) == 80


@pytest.mark.parametrize("loads", [[32, 4] * 15, [4, 8, 16, 32] * 8, [1, 64, 64] * 10])
def test_a_server_whose_load_jumps_between_two_lines_is_one(loads: list[int], tmp_path: Path) -> None:
    """Whether it jumped right after the line before or right before this one, nobody knows."""
    [one] = _read_text(tmp_path, sglang_log(loads))
    assert len(one.intervals) == len(loads)


@pytest.mark.parametrize("others", [4, 32])
def test_two_servers_of_other_loads_are_refused(others: int, tmp_path: Path) -> None:
    logs = [sglang_log([n] * 20).splitlines() for n in (16, others)]
    pairs = zip(logs[0][1:], logs[1][1:], strict=True)
    with pytest.raises(InputError, match="of several servers"):
        _read_text(tmp_path, "\n".join([logs[0][0], *(line for pair in pairs for line in pair)]) + "\n")


@pytest.mark.parametrize("shape", ["row", "row with a port", "line", "compose"])
def test_hosts_that_are_addresses_are_servers(shape: str, tmp_path: Path) -> None:
    """No part of an address is a time since a start."""
    write: Callable[[str, str], str] = {
        "row": lambda line, host: json.dumps({"MESSAGE": line, "_HOSTNAME": host}),
        "row with a port": lambda line, host: json.dumps({"line": line, "labels": {"instance": f"{host}:8000"}}),
        "line": lambda line, host: f"Nov 26 10:00:00 {host} vllm[123]: {line}",
        "compose": lambda line, host: f"{host} | 1764150000.123 [  12.345678] {line}",
    }[shape]
    pairs = list(zip(*(log.splitlines() for log in LOGS), strict=True))
    rows = [write(line, f"10.0.0.10{i}") for pair in pairs for i, line in enumerate(pair)]
    (tmp_path / "log").write_text("".join(row + "\n" for row in rows))
    found, _ = read_files([tmp_path / "log"])
    assert [one.drafts for one in found] == [observed(tmp_path, log).drafts for log in LOGS]


def test_rotated_rows_of_two_pods(tmp_path: Path) -> None:
    pairs = list(zip(*(log.splitlines() for log in LOGS), strict=True))
    for name, own in (("log.1", pairs[:20]), ("log", pairs[20:])):
        rows = [ROWS["fluent bit"](line, f"vllm-{i}") for pair in own for i, line in enumerate(pair)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, _ = read_files([tmp_path / "log", tmp_path / "log.1"])
    assert [one.drafts for one in found] == [observed(tmp_path, log).drafts for log in LOGS]


@pytest.mark.parametrize("text", [LOGS[0], answers(12)], ids=["log", "answers"])
def test_a_file_that_is_there_twice_counts_once(text: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(text)
    (tmp_path / "copy of a").write_text(text)
    server, once = (together(*read_files(paths)) for paths in ([tmp_path, tmp_path / "a"], [tmp_path / "a"]))
    assert (server.drafts, len(server.intervals)) == (once.drafts, len(once.intervals))
    assert any("copy of a" in note for note in server.notes)


def test_a_log_that_was_copied_again_later_counts_once(tmp_path: Path) -> None:
    lines = LOGS[0].splitlines(keepends=True)
    (tmp_path / "ten").write_text("".join(lines[:30]))
    (tmp_path / "eleven").write_text("".join(lines))
    [one], _ = read_files([tmp_path / "ten", tmp_path / "eleven"])
    assert one.drafts == observed(tmp_path, LOGS[0]).drafts


def test_many_parts_of_a_log_are_put_together_in_time_that_grows_with_them(tmp_path: Path) -> None:
    """Stamps are looked for once a line, not once more for every later part."""
    lines, asked = LOGS[0].splitlines(keepends=True), list[str]()
    for i in range(20):
        (tmp_path / f"log.{i:02}").write_text("".join(lines[3 * i : 3 * i + 3]))

    def stamp(line: str) -> datetime | None:
        asked.append(line)
        return original(line)

    original = vllm_log_module.stamp
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_log_module, "stamp", stamp)
        [one], _ = read_files([tmp_path])
    assert one.drafts == observed(tmp_path.parent, "".join(lines[:60])).drafts
    assert len(asked) < 8 * 60


@pytest.mark.parametrize("shape", ["events", "events, indented", "Datadog", "Splunk", "CSV"])
def test_exports_of_logs(shape: str, tmp_path: Path) -> None:
    lines = LOGS[0].splitlines()
    events = {"events": [{"timestamp": 1764150000000 + i, "message": line} for i, line in enumerate(lines)]}
    text = {
        "events": json.dumps(events), "events, indented": json.dumps(events, indent=2),
        "Datadog": json.dumps([{"id": "x", "content": {"message": line, "host": "h"}} for line in lines]),
        "Splunk": "".join(json.dumps({"preview": False, "result": {"_raw": line}}) + "\n" for line in lines),
        "CSV": "timestamp,message\n" + "".join(f'{1764150000000 + i},"{line}"\n' for i, line in enumerate(lines)),
    }[shape]  # fmt: skip
    one, plain = observed(tmp_path, text), observed(tmp_path, LOGS[0])
    assert (one.drafts, one.intervals, one.settings) == (plain.drafts, plain.intervals, plain.settings)


def results(text: str) -> list[tuple[dict[str, str], str]]:
    matches = (re.fullmatch(r"([\w:]+)\{(.*)\} (\S+)", line) for line in text.splitlines())
    return [({"__name__": m[1], **dict(re.findall(r'(\w+)="([^"]*)"', m[2]))}, m[3]) for m in matches if m]


def test_what_prometheus_answers_is_metrics(tmp_path: Path) -> None:
    """A query at a moment, and one over a range: a scrape at each of its times."""
    first, last = vllm_metrics(100, AT, 400, 20), vllm_metrics(300, (200, 150, 90), 900, 50, steps=300)
    vector = [{"metric": labels, "value": [1764150000.1, value]} for labels, value in results(first)]
    matrix = [
        {"metric": labels, "values": [[1764150000, value], [1764150060, later]]}
        for (labels, value), (_, later) in zip(results(first), results(last), strict=True)
    ]
    plain = [observed(tmp_path, first)]
    (tmp_path / "a").write_text(first)
    (tmp_path / "b").write_text(last)
    plain += read_files([tmp_path / "a", tmp_path / "b"])[0]
    native = {"metric": {"__name__": "vllm:e2e_request_latency_seconds"}, "histograms": [[1764150000, {"count": "1"}]]}
    for own in (vector, matrix):
        own += [native, {**native, "values": [], "value": None}, {**native, "values": [[1764150000]], "value": 3}]  # type: ignore[arg-type]
    for kind, held, expected in (("vector", vector, plain[0]), ("matrix", matrix, plain[1])):
        one = observed(tmp_path, json.dumps({"status": "success", "data": {"resultType": kind, "result": held}}))
        assert facts(one) == facts(expected)


def facts(one: Observation) -> tuple[Any, ...]:
    return one.drafts, one.requests, one.generated, one.request_steps, one.settings


def test_metrics_filtered_to_drafts_say_acceptance_alone(tmp_path: Path) -> None:
    """`curl … | grep spec_decode`: nobody knows in how many steps nothing was drafted."""
    text = "".join(line for line in vllm_metrics(100, AT, 400, 20).splitlines(keepends=True) if "spec_decode" in line)
    one = observed(tmp_path, text)
    assert one.drafts is not None
    assert (one.drafts.accepted_at, one.generated, one.request_steps) == (AT, None, None)
    assert any("filtered" in note for note in one.notes)


def test_a_filtered_scrape_beside_a_whole_one_is_between_the_two(tmp_path: Path) -> None:
    """What it leaves out would count since the server began: only what both have is between them."""
    first, last = vllm_metrics(100, AT, 4000, 20), vllm_metrics(300, (200, 150, 90), 9000, 50, steps=300)
    for kept, known in (
        ("spec_decode", None),
        ("spec_decode|generation", 5000 + 270 + 30),
        ("spec_decode|inter_|iter", None),
    ):
        for i, text in ((0, first), (1, last)):
            texts = [first, last]
            texts[i] = "".join(line for line in text.splitlines(keepends=True) if re.search(kept, line))
            for name, own in zip("ab", texts, strict=True):
                (tmp_path / name).write_text(own)
            [one], _ = read_files([tmp_path / "a", tmp_path / "b"])
            assert one.drafts is not None
            assert (one.drafts.drafts, one.drafts.accepted_at, one.requests) == (200, (120, 90, 60), None)
            assert (one.generated, one.request_steps) == (known, 5000 if "inter_" in kept else None)
    (tmp_path / "a").write_text("".join(line for line in first.splitlines(keepends=True) if "spec_decode" not in line))
    with pytest.raises(InputError, match="was filtered"):
        read_files([tmp_path / "a", tmp_path / "b"])


def test_scrapes_of_a_baseline_beside_those_of_a_server_that_drafts(tmp_path: Path) -> None:
    """Of another server, as its start or its pod says; nobody knows of one that says neither, or that is not whole."""

    def scrapes(began: float) -> list[str]:
        return [
            vllm_metrics(100, AT, 4000, 20, began=began),
            vllm_metrics(300, (200, 150, 90), 9000, 50, steps=300, began=began),
        ]

    def write(name: str, texts: Sequence[str], without: str = " ") -> None:
        for i, text in enumerate(texts):
            kept = [line for line in text.splitlines(keepends=True) if not re.search(without, line.split("{")[0])]
            (tmp_path / f"{name}-{i}").write_text("".join(kept))

    write("drafts", scrapes(1000.0))
    write("plain", scrapes(9000.0), "spec_decode")
    found, _ = read_files([tmp_path])
    assert [(one.drafts and one.drafts.drafts, one.settings.speculates) for one in found] == [(200, True), (0, False)]
    assert [one.generated for one in found] == [5000 + 270 + 30] * 2
    assert [[interval.plain for interval in one.intervals] for one in found] == [[False], [True]]
    assert together(found).gamma == len(AT)
    write("plain", scrapes(1000.0), "spec_decode")  # of a process that began no later: the same server, filtered
    with pytest.raises(InputError, match="was filtered"):
        read_files([tmp_path])
    write("plain", scrapes(9000.0), "spec_decode|iteration")  # another server's, filtered
    with pytest.raises(InputError, match="was filtered"):
        read_files([tmp_path])


def test_older_metrics_call_a_step_time_otherwise(tmp_path: Path) -> None:
    """vLLM before 0.12 counted the time of each step of a request as time_per_output_token."""
    text = vllm_metrics(100, AT, 400, 20)
    older = text.replace("inter_token_latency", "time_per_output_token")
    assert facts(observed(tmp_path, older)) == facts(observed(tmp_path, text))


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_what_unpacks_to_more_than_can_be_held_is_not_unpacked(
    pack: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes may stand for any number of them."""
    monkeypatch.setattr(text_module, "_MOST_BYTES", 1 << 20)
    file = tmp_path / "log"
    file.write_bytes(pack(bytes(48 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="held whole"):
            read_files([file])
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", ["bz2", "xz", "zst"])
def test_other_compressions(packed: str, tmp_path: Path) -> None:
    data = {"bz2": bz2.compress, "xz": lzma.compress, "zst": lambda text: b"\x28\xb5\x2f\xfd" + text}[packed](
        LOGS[0].encode()
    )
    (tmp_path / "log").write_bytes(data)
    if packed == "zst":
        with pytest.raises(InputError, match="zstd -d"):
            read_files([tmp_path / "log"])
        return
    [one], _ = read_files([tmp_path / "log"])
    assert one.drafts == observed(tmp_path, LOGS[0]).drafts
    (tmp_path / "log").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError):
        read_files([tmp_path / "log"])


def test_answers_in_a_collectors_rows_stay_answers(tmp_path: Path) -> None:
    rows = [{"host": "gpu1", "body": line} for line in answers(12).splitlines()]
    assert facts(observed(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))) == facts(
        observed(tmp_path, answers(12))
    )


def test_a_gateways_rows_stay_answers(tmp_path: Path) -> None:
    """They keep an answer beside a word of their own, which is no line of a log; so do rows that somebody has named."""
    vllm, sglang = [json.loads(line) for line in answers(12).splitlines()], [{"meta_info": SGLANG_META}]
    told: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
        (vllm, [{"event": "completion", "response": row} for row in vllm]),
        (vllm, [{"msg": "done", "response": {"body": row}} for row in vllm]),
        (sglang, [{"event": "completion", **row} for row in sglang]),
        ([SGLANG_INFO], [{"event": "info", **SGLANG_INFO}]),
        ([BENCH], [{"message": "tuesday", **BENCH}]),
        ([TIMINGS], [{"body": "x", **TIMINGS}]),
    ]
    for rows, kept in told:
        one, plain = (observed(tmp_path, "".join(json.dumps(row) + "\n" for row in own)) for own in (kept, rows))
        assert (facts(one), one.length) == (facts(plain), plain.length)
