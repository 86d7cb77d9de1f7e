"""Files of several servers, or of one at several times, with counters whose right answer is a sum by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.cli.advise import read_server
from harness.console import Watcher
from harness.served.server import Server
from simulator.errors import InputError
from tests.harness.processes import called
from tests.harness.served.writing import answer, answers

SPEC = "vllm:spec_decode_num_"


def served(folder: Path, **files: str) -> Server:
    """What files of these texts, by name, say."""
    for name, text in files.items():
        (folder / name).write_text(text)
    return read_server([folder / name for name in files], Watcher(lambda text: None, lambda stage, done, total: None))


def sglang(generated: int, requests: int, verified: int, length: float = 0.0) -> str:
    of = '{model_name="m"}'
    gauges = {"spec_num_draft_tokens": 4, "spec_accept_length": length, "num_running_reqs": 8}
    counts = {"generation_tokens_total": generated, "num_requests_total": requests, "spec_verify_calls_total": verified}
    return "".join(f"sglang:{name}{of} {value}\n" for name, value in (gauges | counts).items())


def test_single_scrapes_of_two_servers_are_not_subtracted(tmp_path: Path) -> None:
    """The second's counters are all larger, and a draft between them would have given less than a token."""
    one, other = sglang(100_000, 1_000, 40_000, 2.475), sglang(120_000, 1_100, 60_000, 2.0)
    with pytest.raises(InputError, match="two servers' scrapes"):
        served(tmp_path, a=one, b=other)
    later = served(tmp_path, a=one, b=sglang(149_500, 1_500, 60_000, 2.45))  # 49,000 of 20,000
    assert later.length == pytest.approx(2.45)
    assert any("do not say when the server began" in note for note in later.notes)


def queried(*series: tuple[str, Sequence[int | None], float]) -> str:
    """Drafts of five positions by instance at times 60 s apart, None where it was not scraped; each accepts this share."""
    result = [
        {"metric": {"__name__": name, "instance": instance, "model_name": "m", **more},
         "values": [[60 * i, str(value * scale)] for i, value in enumerate(values) if value is not None]}
        for instance, values, share in series
        for name, more, scale in (
            (f"{SPEC}drafts_total", {}, 1), (f"{SPEC}draft_tokens_total", {}, 5),
            (f"{SPEC}accepted_tokens_total", {}, 5 * share), ("vllm:generation_tokens_total", {}, 1 + 5 * share),
            *((f"{SPEC}accepted_tokens_per_pos_total", {"position": str(k)}, share) for k in range(5)),
        )
    ]  # fmt: skip
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}})


GOOD = ("a", [100_000, 101_000, 102_000, 103_000, 104_000], 0.6)


@pytest.mark.parametrize(
    ("other", "drafts", "accepted"),
    [
        (("b", [900_000, 901_000, 902_000, 903_000, 904_000], 0.2), 8_000, 4_000 * 3 + 4_000 * 1),
        (("b", [None, 901_000, 902_000, 903_000, 904_000], 0.2), 7_000, 4_000 * 3 + 3_000 * 1),
        (("b", [900_000, None, 902_000, 903_000, 904_000], 0.2), 8_000, 4_000 * 3 + 4_000 * 1),
        (("b", [300_000, 301_000, 302_000, None, None], 0.2), 6_000, 4_000 * 3 + 2_000 * 1),
        (("b", [100_000, 104_000, 1_000, 3_000, 6_000], 0.2), 14_000, 4_000 * 3 + 10_000 * 1),
    ],
    ids=["all there", "comes later", "a gap", "goes away", "begins anew"],
)
def test_an_answer_of_prometheus_counts_the_growth_of_each_series(
    other: tuple[str, Sequence[int | None], float], drafts: int, accepted: int, tmp_path: Path
) -> None:
    found = served(tmp_path, q=queried(GOOD, other))
    assert (found.drafts.drafts, found.drafts.accepted) == pytest.approx((drafts, accepted))


def test_averages_of_several_files_do_not_hang_on_their_order(tmp_path: Path) -> None:
    def info(length: float) -> str:
        return json.dumps({
            "version": "0.5.23", "model_path": "m", "speculative_algorithm": "EAGLE3", "speculative_num_draft_tokens": 6,
            "speculative_num_steps": 5, "speculative_eagle_topk": 1,
            "internal_states": [{"avg_spec_accept_length": length, "last_gen_throughput": 100.0}],
        })  # fmt: skip

    one, other = served(tmp_path, a=info(4.5), b=info(2.1)), served(tmp_path, a=info(2.1), b=info(4.5))
    assert one.length == other.length == pytest.approx(3.3)
    assert all(any("DIFFER" in note for note in server.notes) for server in (one, other))


def bench(**more: Any) -> dict[str, Any]:
    """`vllm bench serve`: 500 requests of 40 s in 100 s, so that 200 were inside at a time."""
    return {
        "backend": "openai", "endpoint_type": "openai", "model_id": "m", "max_concurrency": None, "num_prompts": 500,
        "request_throughput": 5.0, "total_token_throughput": 2_869.0, "request_rate": "inf", "date": "20261126-022930",
        "duration": 100.0, "completed": 500,
        "total_input_tokens": 250_000, "total_output_tokens": 36_900, "output_throughput": 369.0, "mean_e2el_ms": 40_000.0,
        "spec_decode_num_drafts": 20_000, "spec_decode_draft_tokens": 100_000, "spec_decode_accepted_tokens": 16_400,
        "spec_decode_per_position_acceptance_rates": [0.5, 0.2, 0.08, 0.03, 0.01], **more,
    }  # fmt: skip


def test_how_many_ran_is_worked_out_or_said_to_be_unknown(tmp_path: Path) -> None:
    assert [point.concurrency for point in served(tmp_path, a=json.dumps(bench())).points] == [200]
    assert [point.concurrency for point in served(tmp_path, a=json.dumps(bench(max_concurrency=64))).points] == [64]
    unknown = served(tmp_path, a=json.dumps(bench(duration=None)))
    assert not unknown.points


def test_no_load_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(answers(12))
    done = called("advise", str(tmp_path / "a.jsonl"), "--drafter", "eagle3")
    told = " ".join(done.stdout.split())
    assert "how many requests ran at a time: no file says it" in told
    assert "at the loads that were served" not in told


def test_coverage_is_that_of_all_files(tmp_path: Path) -> None:
    one = bench(spec_decode_num_drafts=100, spec_decode_draft_tokens=500, spec_decode_accepted_tokens=82)
    other = bench(spec_decode_num_drafts=10_000, spec_decode_draft_tokens=50_000, spec_decode_accepted_tokens=8_200)
    server = served(tmp_path, a=json.dumps(one), b=json.dumps(other))
    steps = [36_900 - 500 - accepted for accepted in (82, 8_200)]
    assert server.coverage == pytest.approx(10_100 / sum(steps))


def llama(accepted: int, drafted: int, mean: str, tokens: int) -> str:
    """Ten requests alike, as llama.cpp's server writes them."""
    of_each = f"({10.0:8.2f} ms per token, {100.0:8.2f} tokens per second)"
    lines = ["0.05.011.658 I spec common_specu: - n_max=4, n_min=0, p_min=0.000000"]
    for i in range(10):
        said = f"0.44.860.727 I slot print_timing: id  0 | task {i} | "
        lines += [
            f"{said}prompt eval time =   1000.00 ms /   100 tokens {of_each}",
            f"{said}       eval time =   10000.00 ms /   {tokens} tokens {of_each}",
            f"{said}draft acceptance = 0.00350 (    {accepted} accepted / {drafted} generated), mean len =  {mean}",
        ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("accepted", "drafts", "mean"), [(7, 500, "1.01"), (5, 150, "1.03"), (1, 225, "1.00"), (300, 400, "1.75")]
)
def test_a_mean_that_is_rounded_does_not_say_how_many_drafts_there_were(
    accepted: int, drafts: int, mean: str, tmp_path: Path
) -> None:
    found = served(tmp_path, a=llama(accepted, 4 * drafts, mean, drafts + accepted + 1))
    assert found.drafts.drafts == pytest.approx(10 * drafts, rel=0.01)


def test_an_answer_that_is_there_again_counts_once(tmp_path: Path) -> None:
    said = [answer([3, 1, 0], [1, 1, 0, 1], 9) | {"id": f"chatcmpl-{i:08}"} for i in range(6)]
    rows = "".join(json.dumps(one) + "\n" for one in said)
    assert len(served(tmp_path, a=rows + rows).told_apart) == 6
    gateways = "".join(json.dumps({"time": "2026-11-03T09:00:00Z", "response": json.dumps(one)}) + "\n" for one in said)
    assert len(served(tmp_path, a=rows, b=gateways).told_apart) == 6
    pieces = [{"id": "chatcmpl-00000000", "usage": {"completion_tokens": i}} for i in range(9)]
    found = served(tmp_path, a="".join(json.dumps(one) + "\n" for one in [*pieces, *said]))
    assert not any("without speculative metrics" in note for one in found.observations for note in one.notes)


@pytest.mark.parametrize(
    "kept",
    [
        lambda one: {"response_body": one}, lambda one: {"response": json.dumps(one)},
        lambda one: {"response": one, "metrics": {"latency_ms": 12}}, lambda one: {"response": {"body": json.dumps(one)}},
    ],
    ids=["a body", "text", "metrics of its own", "a body as text"],
)  # fmt: skip
def test_gateways_that_keep_answers_are_read(kept: Any, tmp_path: Path) -> None:
    row: Mapping[str, Any] = kept(answer([3, 1, 0], [1, 1, 0, 1], 9))
    found = served(tmp_path, a=json.dumps({"time": "2026-11-03T09:00:00Z", **row}) + "\n")
    assert (found.drafts.drafts, found.drafts.accepted) == (3, 4)


def test_a_gauge_that_was_never_set_is_no_baseline(tmp_path: Path) -> None:
    idle = "".join(line + "\n" for line in sglang(100_000, 1_000, 0).splitlines() if "verify" not in line)
    with pytest.raises(InputError, match="does not say how many drafts there were"):
        served(tmp_path, a=idle)


@pytest.mark.parametrize(("few", "k", "length"), [(10, 2, 2.0), (9_000, 4, 3.0)])
def test_of_a_schedule_by_batch_size_the_k_that_most_requests_had_is_told(
    few: int, k: int, length: float, tmp_path: Path
) -> None:
    """Four drafted tokens where 4 ran, of which half were accepted; two where 32 ran, likewise, ninety times."""
    rows = [(4, 4)] * few + [(32, 2)] * 90
    text = "".join(
        json.dumps({
            "iter": i, "iterLatencyMS": 10.0, "numActiveRequests": running,
            "inflightBatchingStats": {"numGenRequests": running, "numContextRequests": 0},
            "specDecodingStats": {"numDraftTokens": size * running, "numRequestsWithDraftTokens": running,
                                  "numAcceptedTokens": size * running // 2},
        }) + "\n"
        for i, (running, size) in enumerate(rows)
    )  # fmt: skip
    found = served(tmp_path, a=text)
    assert (found.gamma, found.length) == (k, pytest.approx(length))


def test_a_scrape_that_was_torn_by_a_few_tokens_is_read(tmp_path: Path) -> None:
    """Counters of one scrape are read one after another, while requests go on; far apart they are refused."""

    def scrape(drafted: int) -> str:
        counts = {"drafts": 1_000, "draft_tokens": drafted, "accepted_tokens": 3_000}
        at = "".join(f'{SPEC}accepted_tokens_per_pos_total{{position="{k}"}} 600\n' for k in range(5))
        return (
            at + "".join(f"{SPEC}{name}_total {n}\n" for name, n in counts.items()) + "vllm:generation_tokens_total 4000\n"
        )

    assert served(tmp_path, a=scrape(5_015)).drafts.accepted == 3_000
    with pytest.raises(InputError, match="6,000 tokens were drafted in 1,000 drafts of 5 at most"):
        served(tmp_path, a=scrape(6_000))
