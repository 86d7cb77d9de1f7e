"""Every source: one class of checks that all of them pass, files of our own making, and files captured from engines."""

from __future__ import annotations

import gzip
import json
import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.served.observed import Observation
from harness.served.server import together
from harness.served.sources.contract import Source
from harness.served.sources.registry import SOURCES, read_files
from harness.served.text import read_text
from simulator.errors import InputError
from tests.harness.served.writing import Truth, answer, dspark_dump, vllm_log, vllm_metrics

CAPTURED = Path(os.environ.get("SPECYARD_SERVED", Path(__file__).parents[4] / "shared" / "served"))
captured = pytest.mark.skipif(not CAPTURED.is_dir(), reason="no captured files: SPECYARD_SERVED names their folder")


@dataclass(frozen=True)
class Made:
    """A file of our own, and what it must say."""

    text: str
    drafts: float | None
    accepted_at: tuple[float, ...]
    tokens_per_step: float | None


def aiperf_row(histogram: dict[str, int], tokens: int) -> dict[str, object]:
    told = {
        "engine": "vllm", "acceptance_histogram": histogram, "num_spec_tokens": 3, "completion_tokens": tokens,
        "num_draft_tokens": 3 * sum(histogram.values()),
    }  # fmt: skip
    metrics = {"input_sequence_length": {"value": 9, "unit": "tokens"}}
    return {"metadata": {"credit_issued_ns": 1, "was_cancelled": False}, "metrics": metrics, "spec_decode_acceptance": told}


LLAMA_LOG = """0.57.288.104 I slot print_timing: id  1 | task 1 | prompt eval time =   16995.30 ms /   127 tokens (  133 ms)
0.57.288.117 I slot print_timing: id  1 | task 1 |        eval time =   32574.63 ms /    21 tokens (  342.89 ms per token)
0.57.288.127 I slot print_timing: id 1 | task 1 | draft acceptance = 0.75000 (  15 accepted /  20 generated), mean len = 4.00
0.57.288.128 I slot print_timing: id  1 | task 1 |      acc per pos = (1.000, 0.800, 0.600, 0.600)
0.58.000.000 I slot print_timing: id  0 | task 9 |        eval time =     100.00 ms /    11 tokens (   10.00 ms per token)
"""
LLAMA_METRICS = """# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 32
llamacpp:prompt_tokens_total 127
llamacpp:n_decode_total 16
llamacpp:n_busy_slots_per_decode 1
llamacpp:spec_decode_num_drafts_total 5
llamacpp:spec_decode_num_draft_tokens_total 20
llamacpp:spec_decode_num_accepted_tokens_total 15
""" + "".join(
    f'llamacpp:spec_decode_num_accepted_tokens_per_pos_total{{position="{i}"}} {n}\n' for i, n in enumerate((5, 4, 3, 3))
)
SGLANG_METRICS = """sglang:num_running_reqs{model_name="m"} 4.0
sglang:gen_throughput{model_name="m"} 400.0
sglang:spec_accept_length{model_name="m"} 2.5
sglang:spec_accept_rate{model_name="m"} 0.5
"""
SGLANG_LOG = (
    """[2026-11-26 10:00:00] server_args=ServerArgs(model_path='Org/M', speculative_algorithm='EAGLE3', \
speculative_num_steps=3, speculative_eagle_topk=1, speculative_num_draft_tokens=4)
""".replace("\\\n", "")
    + "".join(
        f"[2026-11-26 10:00:{i:02d} TP0] Decode batch, #running-req: 4, #token: 9, accept len: {length}, accept rate: 0.50, "
        "cuda graph: True, gen throughput (token/s): 400.00, #queue-req: 0\n"
        for i, length in enumerate((2.0, 3.0))
    )
)
BENCH = {
    "model_id": "m", "num_prompts": 4, "completed": 4, "max_concurrency": 2, "request_rate": "inf",
    "output_throughput": 50.0, "total_input_tokens": 40, "total_output_tokens": 44,
    "spec_decode_acceptance_rate": 50.0, "spec_decode_num_drafts": 10,
    "spec_decode_draft_tokens": 30, "spec_decode_accepted_tokens": 15,
    "spec_decode_per_position_acceptance_rates": [0.8, 0.5, 0.2],
}  # fmt: skip
AIPERF_SERVER = {
    "metrics": {
        **{
            name: {"series": [{"labels": {"model_name": "m"}, "stats": {"total": total}}]}
            for name, total in (
                ("vllm:generation_tokens", 44.0), ("vllm:spec_decode_num_drafts", 10.0),
                ("vllm:spec_decode_num_draft_tokens", 30.0), ("vllm:spec_decode_num_accepted_tokens", 15.0),
            )
        },
        "vllm:spec_decode_num_accepted_tokens_per_pos": {
            "series": [{"labels": {"position": str(i)}, "stats": {"total": n}} for i, n in enumerate((8.0, 5.0, 2.0))]
        },
        "vllm:time_to_first_token_seconds": {"series": [{"labels": {}, "stats": {"count": 4, "sum": 1.0}}]},
        "vllm:inter_token_latency_seconds": {"series": [{"labels": {}, "stats": {"count": 25, "sum": 1.0}}]},
        "vllm:iteration_tokens_total": {"series": [{"labels": {}, "stats": {"count": 13, "sum": 60.0}}]},
    }
}  # fmt: skip
GUIDELLM = {
    "metadata": {"version": 2},
    "benchmarks": [
        {
            "config": {"strategy": {"streams": 2}}, "duration": 2.0,
            "requests": {
                "successful": [
                    {
                        "prompt_tokens": 5, "output_tokens": 12, "inter_token_latency_ms": 1.0,
                        "response_metrics": answer([3, 1], [0, 1, 0, 1], 12)["metrics"],
                    }
                ],
                "errored": [], "incomplete": [{"response_metrics": None}], "total": None,
            },
        }
    ],
}  # fmt: skip

SGLANG_INFO = {
    "model_path": "Org/M", "speculative_algorithm": "EAGLE3", "speculative_num_steps": 3, "speculative_eagle_topk": 1,
    "speculative_num_draft_tokens": 4, "version": "0.5.9",
    "internal_states": [
        {"last_gen_throughput": 400.0, "avg_spec_accept_length": 2.5, "memory_usage": {"token_capacity": 9000}},
    ],
}  # fmt: skip
SGLANG_META = {
    "id": "r", "prompt_tokens": 9, "completion_tokens": 9, "spec_verify_ct": 4, "spec_num_correct_drafts": 4,
    "spec_num_proposed_drafts": 12, "spec_correct_drafts_histogram": [2, 0, 2], "spec_accept_length": 2.25,
}  # fmt: skip
TRTLLM_METRICS = """# TYPE trtllm_generation_tokens_total counter
trtllm_generation_tokens_total{engine_type="trtllm",model_name="m"} 44
trtllm_prompt_tokens_total{engine_type="trtllm",model_name="m"} 40
trtllm_request_success_total{engine_type="trtllm",finished_reason="stop",model_name="m"} 4
trtllm_spec_decode_num_draft_tokens_total{engine_type="trtllm",model_name="m"} 30
trtllm_spec_decode_num_accepted_tokens_total{engine_type="trtllm",model_name="m"} 15
trtllm_speculative_config_info{engine_type="trtllm",model_name="m",spec_method="Eagle3",spec_num_tokens="3"} 1
""" + "".join(
    f'trtllm_spec_decode_{word}_tokens_total{{engine_type="trtllm",model_name="m",token_position="{i}"}} {n}\n'
    for word, counts in (("drafted", (10, 10, 10)), ("accepted", (8, 5, 2)))
    for i, n in enumerate(counts)
)


def trtllm_row(running: int, drafted: int, accepted: int, ms: float = 10.0) -> dict[str, object]:
    """An iteration of TensorRT-LLM's, of so many requests that all drafted."""
    row: dict[str, object] = {
        "iter": 1, "iterLatencyMS": ms, "numActiveRequests": running, "numQueuedRequests": 0, "maxBatchSizeRuntime": 64,
        "inflightBatchingStats": {"numScheduledRequests": running, "numContextRequests": 0, "numGenRequests": running},
    }  # fmt: skip
    spec = {"numDraftTokens": drafted, "numAcceptedTokens": accepted, "numRequestsWithDraftTokens": running}
    return {**row, "specDecodingStats": spec} if drafted else row


TRTLLM_ANSWER = {
    "id": "x", "model": "m", "usage": {"prompt_tokens": 5, "completion_tokens": 51},
    "choices": [
        {
            "index": 0, "finish_reason": "stop", "avg_decoded_tokens_per_iter": 2.5,
            "speculative_decoding": {
                "acceptance_rate": 0.5, "total_accepted_draft_tokens": 30, "total_draft_tokens": 60, "num_spec_steps": 20,
                "acceptance_histogram": [8, 0, 6, 6], "num_spec_tokens": 3,
            },
        }
    ],
}  # fmt: skip

MADE: dict[str, Made] = {
    "vLLM's /metrics": Made(vllm_metrics(100, (80, 60, 30), 400, 20), 100, (80, 60, 30), 570 / 400),
    "vLLM's log": Made(vllm_log(Truth(), [8] * 20), None, (), None),
    "vLLM's answers": Made(
        "\n".join(json.dumps(one) for one in (answer([3, 0], [1, 0, 0, 1], 10), answer(None, [0, 0, 2, 0], 8))) + "\n",
        4, (3, 3, 1), 16 / (6 + 3),
    ),
    "vllm bench serve": Made(json.dumps(BENCH), 10, (8, 5, 2), 40 / 25),
    "aiperf's rows": Made(
        "\n".join(json.dumps(aiperf_row(*one)) for one in (({"0": 2, "3": 1}, 12), ({}, 5))) + "\n", 3, (1, 1, 1), 15 / 12
    ),
    "aiperf's server metrics": Made(json.dumps(AIPERF_SERVER), 10, (8, 5, 2), 40 / 25),
    "guidellm's report": Made(json.dumps(GUIDELLM), 2, (2, 1, 1), 11 / 7),
    "SGLang's dspark_info_record": Made(dspark_dump(), 4, (3, 1.5, 1.5), None),
    "SGLang's log": Made(SGLANG_LOG, 320, (), None),
    "SGLang's /metrics": Made(SGLANG_METRICS, None, (), None),
    "SGLang's /server_info": Made(json.dumps(SGLANG_INFO), None, (), None),
    "SGLang's answers": Made(json.dumps({"text": "a", "meta_info": SGLANG_META}), 4, (2, 2, 0), 8 / 4),
    "TensorRT-LLM's /prometheus/metrics": Made(TRTLLM_METRICS, 10, (8, 5, 2), 40 / 25),
    "TensorRT-LLM's /metrics": Made(json.dumps([trtllm_row(4, 12, 6), trtllm_row(2, 6, 3)]), 6, (), None),
    "TensorRT-LLM's answers": Made(json.dumps(TRTLLM_ANSWER), 20, (12, 12, 6), 50 / 20),
    "llama.cpp's log": Made(LLAMA_LOG, 5, (5, 4, 3, 3), 30 / (5 + 10)),
    "llama.cpp's /metrics": Made(LLAMA_METRICS, 5, (5, 4, 3, 3), None),
    "llama.cpp's answers": Made(
        json.dumps({"timings": {"prompt_n": 5, "predicted_n": 21, "draft_n": 20, "draft_n_accepted": 15}}), None, (), 20 / 5
    ),
}  # fmt: skip


def observed(folder: Path, text: str, name: str = "file") -> Observation:
    """What one file says."""
    (folder / name).write_text(text)
    [one], _ = read_files([folder / name])
    return one


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
class TestEverySource:
    """What every source keeps."""

    def test_says_what_it_must(self, source: Source, tmp_path: Path) -> None:
        made = MADE[source.name]
        one = observed(tmp_path, made.text)
        assert one.source == source.name
        if made.drafts is not None:
            assert one.drafts is not None
            assert one.drafts.drafts == made.drafts
        if made.accepted_at:
            assert one.drafts is not None
            assert one.drafts.accepted_at == pytest.approx(made.accepted_at)
        if made.tokens_per_step is not None:
            assert one.tokens_per_step == pytest.approx(made.tokens_per_step)

    def test_is_known_by_its_content_and_is_of_one_kind(self, source: Source, tmp_path: Path) -> None:
        (tmp_path / "anything.bin").write_text(MADE[source.name].text)
        text = read_text(tmp_path / "anything.bin")
        assert [other.name for other in SOURCES if other.recognises(text)] == [source.name]

    @pytest.mark.parametrize("wrap", ["gzip", "bom", "crlf", "curl", "docker", "cri", "ansi"])
    def test_however_it_was_copied(self, source: Source, wrap: str, tmp_path: Path) -> None:
        plain = MADE[source.name].text
        if wrap in ("docker", "cri", "ansi") and not source.name.endswith("log"):
            pytest.skip("no runtime wraps it")
        file = tmp_path / "wrapped"
        file.write_bytes(WRAPS[wrap](plain))
        [one], _ = read_files([file])
        expected = observed(tmp_path, plain)
        assert (one.drafts, one.request_steps, one.length) == (expected.drafts, expected.request_steps, expected.length)

    @pytest.mark.parametrize("wrap", ["plain", "gzip", "crlf", "docker", "cri", "ansi"])
    def test_however_long(self, source: Source, wrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a long log only the lines that count are held, and it says the same; so does what is no log."""
        monkeypatch.setattr("harness.served.text.LONG_BYTES", 0)
        plain = MADE[source.name].text
        if source.counts:
            noise = "INFO 11-26 10:00:00 [x.py:1] 127.0.0.1 - POST /v1/chat/completions 200 OK\n"
            plain = "".join(f"{noise}{line}" for line in plain.splitlines(keepends=True))
        elif wrap in ("docker", "cri", "ansi"):
            pytest.skip("no runtime wraps it")
        file, heard = tmp_path / "wrapped", list[int]()
        file.write_bytes(plain.encode() if wrap == "plain" else WRAPS[wrap](plain))
        [one], _ = read_files([file], lambda _, done, total: heard.append(done))
        assert heard or not source.counts
        monkeypatch.undo()
        expected = observed(tmp_path, MADE[source.name].text)
        assert (one.drafts, one.request_steps, one.length) == (expected.drafts, expected.request_steps, expected.length)

    def test_nothing_is_dropped_in_silence_when_it_is_cut_anywhere(self, source: Source, tmp_path: Path) -> None:
        """A part gives a sentence, or counts no more than the whole."""
        plain = MADE[source.name].text
        whole = observed(tmp_path, plain)
        rng = random.Random(source.name)
        for _ in range(25):
            (tmp_path / "cut").write_text(plain[: rng.randrange(1, len(plain))])
            try:
                [one], _ = read_files([tmp_path / "cut"])
            except InputError:
                continue
            if one.drafts is not None and whole.drafts is not None:
                assert one.drafts.accepted <= whole.drafts.accepted + 1

    def test_damage_is_told_in_a_sentence(self, source: Source, tmp_path: Path) -> None:
        """Digits made other ones, signs and words: no traceback, whatever comes of it."""
        plain = MADE[source.name].text
        rng = random.Random(source.name)
        for _ in range(60):
            letters = list(plain)
            for _ in range(4):
                letters[rng.randrange(len(letters))] = rng.choice(["9", "-", "e", "nan", "", "0", '"', "null", "[", "\x00"])
            (tmp_path / "damaged").write_text("".join(letters))
            try:
                found, _ = read_files([tmp_path / "damaged"])
            except InputError:
                continue
            for one in found:
                if one.drafts is not None:
                    assert math.isfinite(one.drafts.drafts)


WRAPS: dict[str, Callable[[str], bytes]] = {
    "gzip": lambda text: gzip.compress(text.encode()),
    "bom": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "crlf": lambda text: text.replace("\n", "\r\n").encode(),
    "docker": lambda text: "".join(
        json.dumps({"log": line + "\n", "stream": "stderr", "time": "2026-11-26T02:25:50.1Z"}) + "\n"
        for line in text.splitlines()
    ).encode(),
    "cri": lambda text: "".join(
        f"2026-11-26T02:25:50.123456789Z stderr P {line[:40]}\n2026-11-26T02:25:50.2Z stderr F {line[40:]}\n"
        for line in text.splitlines()
    ).encode(),
    "curl": lambda text: (
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ndate: Thu, 26 Nov 2026\r\ncontent-type: text/plain\r\n\r\n" + text
    ).encode(),
    "ansi": lambda text: "".join(f"\x1b[0;36m{line[:9]}\x1b[0m{line[9:]}\n" for line in text.splitlines()).encode(),
}  # fmt: skip


NGRAM, DRAFT, NONE = "vllm_ngram5", "vllm_draft3", "vllm_none"
AT_C1, AT_C4, AT_AIPERF = (45, 37, 35, 33, 30), (110, 99, 91, 86, 78), (65, 60, 51, 46, 38)
TABLE = {
    # files: requests, generated, drafts, drafted, accepted at, slots
    (f"{NGRAM}/metrics_before_c1.prom", f"{NGRAM}/metrics_after_c1.prom"): (8, 747, 60, 300, AT_C1, 568),
    (f"{NGRAM}/metrics_before_c4.prom", f"{NGRAM}/metrics_after_c4.prom"): (20, 1810, 148, 740, AT_C4, 1341),
    (f"{NONE}/metrics_before_c4.prom", f"{NONE}/metrics_after_c4.prom"): (20, 1810, 0, 0, (), 1790),
    (f"{NONE}/metrics_before_c16.prom", f"{NONE}/metrics_after_c16.prom"): (48, 4340, 0, 0, (), 4292),
    (f"{DRAFT}/metrics_before_c4.prom", f"{DRAFT}/metrics_after_c4.prom"): (20, 1810, 453, 1359, (453,) * 3, 453),
    ("aiperf_c4/metrics_before.prom", "aiperf_c4/metrics_after.prom"): (20, 1468, 85, 425, AT_AIPERF, 1205),
    ("aiperf_c4/server_metrics_export.json",): (20, 1468, 85, 425, AT_AIPERF, 1205),
    ("aiperf_c4/profile_export.jsonl",): (20, 1468, 85, 425, AT_AIPERF, None),
    ("guidellm_c2/report.json",): (8, 640, 48, 240, (35, 23, 20, 13, 12), None),
    (f"{NGRAM}/bench_c4.json",): (20, 1810, 148, 740, AT_C4, None),
    (f"{DRAFT}/response_chat.json",): (1, 60, 15, 45, (15, 15, 15), None),
    ("llamacpp_draft/server.log",): (6, 576, 114, 456, (114,) * 4, 114),
    ("llamacpp_ngram/server.log",): (10, 917, 14, 452, (), 739),
    ("llamacpp_ngram/timings.jsonl",): (10, 917, None, None, (), 739),
}  # fmt: skip
"""Files that engines wrote, and what is true of them."""


@captured
@pytest.mark.parametrize("files", TABLE, ids=lambda files: files[-1])
def test_captured_files_say_what_is_true_of_them(files: tuple[str, ...]) -> None:
    requests, generated, number, drafted, at, slots = TABLE[files]
    [one], _ = read_files([CAPTURED / file for file in files])
    assert (one.requests, one.generated) == (requests, generated)
    if number is not None:
        assert one.drafts is not None
        assert (one.drafts.drafts, one.drafts.drafted) == (number, drafted)
        assert one.drafts.accepted_at == pytest.approx(at)
    if slots is not None:
        assert one.request_steps == slots
        assert one.tokens_per_step == pytest.approx((generated - requests) / slots)


@captured
def test_captured_logs_say_what_is_true_of_them() -> None:
    for name, drafts, drafted, accepted, generated in (
        ("vllm_ngram5/server.log", 210, 1050, 645, None), ("vllm_draft3/server.log", 453, 1359, 1359, 1810),
        ("vllm_none/server.log", 0, 0, 0, 1810), ("vllm_none/server_c16.log", 0, 0, 0, 4340),
    ):  # fmt: skip
        [one], _ = read_files([CAPTURED / name])
        assert one.drafts is not None
        assert (one.drafts.drafts, one.drafts.drafted, one.drafts.accepted) == (drafts, drafted, accepted)
        if generated is not None:  # throughputs are rounded, and stamps to seconds
            assert one.generated == pytest.approx(generated, rel=0.005)


def test_a_draft_is_no_step(tmp_path: Path) -> None:
    """An n-gram server that proposes in a tenth of its steps: 4 tokens per draft, 1.3 per step."""
    one = observed(tmp_path, vllm_metrics(100, (90, 80, 70, 60), 1000, 20))
    assert one.drafts is not None
    assert one.drafts.length == 4
    assert one.tokens_per_step == pytest.approx(1.3)
    assert one.coverage == pytest.approx(0.1)


def test_two_scrapes_are_what_was_between_them(tmp_path: Path) -> None:
    (tmp_path / "b").write_text(vllm_metrics(100, (80, 60, 30), 400, 20, steps=100))
    (tmp_path / "a").write_text(vllm_metrics(300, (200, 150, 90), 900, 50, steps=300))
    for order in (["a", "b"], ["b", "a"]):
        [one], _ = read_files([tmp_path / name for name in order])
        assert one.drafts is not None
        assert (one.drafts.drafts, one.drafts.accepted_at, one.request_steps) == (200, (120, 90, 60), 500)
        assert one.intervals[0].running == pytest.approx(500 / 200)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (vllm_metrics(100, (80, 60), 400, 20), vllm_metrics(90, (85, 70), 900, 50), "falls"),
        (vllm_metrics(100, (80, 60), 400, 20), vllm_metrics(10, (8, 7, 6), 900, 50, began=5000), "set otherwise"),
        (vllm_metrics(100, (80, 60), 400, 20), vllm_metrics(200, (90, 70), 900, 50, model="other"), "2 models"),
        (vllm_metrics(100, (80, 60), 400, 20), vllm_metrics(100, (80, 60), 400, 20), "nothing was generated between"),
    ],
)  # fmt: skip
def test_scrapes_that_cannot_be_of_one_server_are_refused(first: str, second: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(first)
    (tmp_path / "b").write_text(second)
    with pytest.raises(InputError, match=told):
        read_files([tmp_path / "a", tmp_path / "b"])


def test_a_restart_between_scrapes_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(vllm_metrics(100, (80, 60), 400, 20))
    (tmp_path / "b").write_text(vllm_metrics(50, (40, 30), 200, 10, began=9000))
    [one], _ = read_files([tmp_path / "a", tmp_path / "b"])
    assert one.drafts is not None
    assert one.drafts.drafts == 150
    assert any("2 servers" in note for note in one.notes)


def test_parts_of_a_rotated_log_count_once(tmp_path: Path) -> None:
    lines = vllm_log(Truth(), [8] * 40).splitlines(keepends=True)
    (tmp_path / "log.1").write_text("".join(lines[:50]))
    (tmp_path / "log").write_text("".join(lines[44:]))
    (tmp_path / "whole").write_text("".join(lines))
    [parts], _ = read_files([tmp_path / "log", tmp_path / "log.1"])
    [whole], _ = read_files([tmp_path / "whole"])
    assert (parts.drafts, parts.generated) == (whole.drafts, whole.generated)


def test_logs_of_two_servers_are_two(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(vllm_log(Truth(), [8] * 20))
    (tmp_path / "b").write_text(vllm_log(Truth(), [8] * 20, k=lambda n: 0).replace("'num_spec", "'x"))
    found, _ = read_files([tmp_path / "a", tmp_path / "b"])
    assert [one.drafts is not None and one.drafts.drafts > 0 for one in found] == [True, False]


def test_logs_of_two_engines_that_interleave(tmp_path: Path) -> None:
    """Lines of a data-parallel server: each engine's own load, all of their acceptance; other K's are refused."""
    lines = vllm_log(Truth(), [8] * 20).splitlines()
    other = [line.replace("Engine 000", "Engine 001") for line in vllm_log(Truth(), [8] * 20, seed=1).splitlines()]
    pairs = zip(*(zip(own[2::2], own[3::2], strict=True) for own in (lines, other)), strict=True)
    both = [line for group in pairs for pair in group for line in pair]
    one = observed(tmp_path, "\n".join(both) + "\n")
    assert len(one.intervals) == 40
    assert {interval.running for interval in one.intervals} == {4.0, 8.0}
    shorter = vllm_log(Truth(survival=(0.7, 0.5)), [8] * 20).splitlines()
    mixed = [line for pair in zip(lines[2:], shorter[2:], strict=True) for line in pair]
    with pytest.raises(InputError, match="alternate"):
        observed(tmp_path, "\n".join(mixed) + "\n")


def test_another_k_from_some_time_on(tmp_path: Path) -> None:
    """Lines without the server's start may be of one whose K was changed; behind a start with another K they are not."""
    before = vllm_log(Truth(), [8] * 20).splitlines(keepends=True)
    after = vllm_log(Truth(survival=(0.7, 0.5)), [8] * 20).splitlines(keepends=True)[2:]
    one = observed(tmp_path, "".join(before[2:] + after))
    assert one.drafts is not None
    assert (one.settings.gamma, len(one.drafts.accepted_at), len(one.intervals)) == (2, 2, 20)
    assert any("K was changed" in note for note in together([one]).notes)
    with pytest.raises(InputError, match="started with K = 3, and 20 lines of K = 2"):
        observed(tmp_path, "".join(before + after))


def test_a_server_that_does_not_verify_losslessly_is_told(tmp_path: Path) -> None:
    """Whatever the source: its rounds must not be taken for those of a lossless chain without a word. Trees are refused."""
    (tmp_path / "chain.log").write_text(SGLANG_LOG)
    assert not any("lossless" in note for note in read_files([tmp_path / "chain.log"])[1])
    lossy = SGLANG_LOG.replace("eagle_topk=1", "eagle_topk=1, speculative_accept_threshold_single=0.5")
    (tmp_path / "lossy.log").write_text(lossy)
    [note] = [note for note in read_files([tmp_path / "lossy.log"])[1] if "lossless" in note]
    assert "lossy.log: speculative_accept_threshold_single 0.5" in note
    (tmp_path / "tree.log").write_text(SGLANG_LOG.replace("eagle_topk=1", "eagle_topk=4"))
    with pytest.raises(InputError, match="trees"):
        read_files([tmp_path / "tree.log"])


def test_what_is_no_text_is_told_by_its_beginning(tmp_path: Path) -> None:
    """A pickle of 8 GB lies beside a log; a log that was rotated while it was written begins with as many NULs as it had."""
    (tmp_path / "a.log").write_bytes(b"\x00" * 3000 + vllm_log(Truth(), [4] * 20).encode())
    with (tmp_path / "weights.pkl").open("wb") as file:
        file.write(b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00numpy" + bytes(range(256)))
        file.truncate(8 << 30)
    found, notes = read_files([tmp_path])
    assert sum(len(one.intervals) for one in found) == 20
    assert [note for note in notes if "weights.pkl" in note and "left out" in note]
    with pytest.raises(InputError, match="is no text"):
        read_files([tmp_path / "weights.pkl"])
    (tmp_path / "a.log").unlink()
    with pytest.raises(InputError, match="it is no text"):
        read_files([tmp_path])
