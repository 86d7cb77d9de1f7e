"""Files of several servers, or of one at several times, with counters whose right answer is a sum by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.cli.advise import read_server
from harness.console import Watcher
from harness.served.observed import one_hot
from harness.served.server import Server
from simulator.errors import InputError
from tests.harness.processes import called
from tests.harness.served.writing import SURVIVAL, Truth, answer, answers, vllm_log, vllm_metrics

SPEC = "vllm:spec_decode_num_"


def served(folder: Path, **files: str) -> Server:
    """What files of these texts, by name, say."""
    folder.mkdir(exist_ok=True)
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


@pytest.mark.parametrize(("steps", "differ"), [(10_000, False), (17_000, True), (100_000, True)])
def test_sources_that_contradict_in_how_often_drafts_are_made_are_said_to(steps: int, differ: bool, tmp_path: Path) -> None:
    """The log has a draft in every step, with as many tokens accepted of each; scrapes in so many of 10,000."""
    accepted = [round(10_000 * share) for share in SURVIVAL]
    scrape = vllm_metrics(10_000, accepted, steps, 20, model="Org/Model-8B")
    found = served(tmp_path, log=vllm_log(Truth(), [4] * 20), scrape=scrape)
    assert any("of steps by" in note for note in found.notes) is differ


@pytest.mark.parametrize(("processes", "gauges"), [(1, True), (4, True), (4, False)])
def test_api_servers_that_each_count_every_step(processes: int, gauges: bool, tmp_path: Path) -> None:
    """Of an engine with several (the default with data parallel ranks), the gauge of what runs tells how many count."""
    made, slots, steps = list[str](), 0, 0
    for running in (4, 8, 16, 48, 8):
        slots, steps = slots + 100 * running, steps + 100
        text = vllm_metrics(slots, [slots // 2, slots // 4], slots, 20, steps=processes * steps)
        text = text.replace("num_requests_running{", "num_requests_running_{")
        name = 'vllm:num_requests_running{engine="0",model_name="m"}'
        text = "".join(line + "\n" for line in text.splitlines() if processes == 1 or "_created" not in line)
        made.append(text + f"{name} {running if gauges else 0}\n")
    found = served(tmp_path, **{f"s{i}": text for i, text in enumerate(made)})
    times = 1 if gauges else processes
    assert [times * one.running for one in found.intervals] == [8, 16, 48, 8]
    assert any("how many API servers" in note for note in found.notes) is (not gauges)


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


START = "0.00.001.172 I srv  llama_server: initializing ...\n0.00.047.928 I srv    load_model: loading model '{}.gguf'\n"


def test_llama_cpps_log_without_drafts_is_a_baseline(tmp_path: Path) -> None:
    """Its requests were taken for ones in which the drafter found nothing: half of the tokens a step."""
    drafting = START.format("a") + llama(300, 1600, "1.75", 701)
    plain = "".join(line + "\n" for line in drafting.splitlines() if "draft acceptance" not in line and "n_max" not in line)
    found = served(tmp_path, a=drafting, b=plain.replace("10000.00 ms", "20000.00 ms"))
    assert (found.coverage, found.tokens_per_step) == (pytest.approx(1, abs=0.01), pytest.approx(1.75, rel=0.01))
    [told] = [note for note in found.notes if "with drafts" in note]
    assert "70.1 tokens a second with drafts, 35 without (+100%" in told


def test_llama_cpps_logs_of_two_models_are_refused(tmp_path: Path) -> None:
    texts = [START.format(name) + llama(300, 1600, "1.75", 701) for name in "ab"]
    with pytest.raises(InputError, match=r"is of model b\.gguf, other lines of a\.gguf"):
        served(tmp_path, one=texts[0], two=texts[1])
    with pytest.raises(InputError, match=r"is of model b\.gguf"):  # a router's, which starts a server for each model
        served(tmp_path, both="".join(f"[5432{i}] {line}\n" for i in (0, 1) for line in texts[i].splitlines()))


@pytest.mark.parametrize(("drafted", "told"), [(1600, False), (1501, True)])
def test_llama_cpps_most_drafted_tokens_are_not_made_up(drafted: int, told: bool, tmp_path: Path) -> None:
    """Without the line that says it they are known where drafts of a request are all as long; else it is told."""
    log = llama(300, drafted, "1.75", 701)
    found = served(tmp_path, a=log.partition("\n")[2])
    assert found.gamma == 4
    assert any("no line says how many tokens" in note for note in found.notes) is told
    assert not any("no line says how many tokens" in note for note in served(tmp_path, a=log).notes)


def test_two_ways_to_draft_are_neither(tmp_path: Path) -> None:
    lines = [
        f"0.05 I spec common_specu: adding speculative implementation '{way}'\n" for way in ("ngram-simple", "draft-simple")
    ]
    found = served(tmp_path, a="".join(lines) + llama(300, 1600, "1.75", 701))
    assert (found.settings.method, found.kind) == ("ngram-simple,draft-simple", "ngram_simple,draft_simple")
    assert not one_hot(found.kind)


def test_tensorrt_llms_iterations_without_drafts_are_a_baseline(tmp_path: Path) -> None:
    """Of another server, at the same loads; such at more than were drafted for may be the schedule's."""

    def rows(running: int, drafts: bool) -> str:
        told = {"specDecodingStats": {"numDraftTokens": 4 * running, "numAcceptedTokens": 2 * running,
                                      "numRequestsWithDraftTokens": running}} if drafts else {}  # fmt: skip
        row = {"iter": 1, "iterLatencyMS": 10.0, "numActiveRequests": running, **told}
        return (json.dumps(row) + "\n") * 40

    drafting = rows(2, True) + rows(32, True)
    found = served(tmp_path, a=drafting, b=rows(2, False) + rows(32, False))
    assert (found.coverage, len(found.plain), len(found.baseline)) == (1, 0, 80)
    found = served(tmp_path, a=drafting, b=rows(64, False))
    assert (len(found.plain), len(found.baseline)) == (40, 0)


def test_sglangs_scrapes_without_drafts_are_a_baseline(tmp_path: Path) -> None:
    """Their steps were taken to give as many tokens as a draft."""

    def scrape(length: float, rate: float) -> str:
        gauges = {
            "num_running_reqs": 8,
            "gen_throughput": rate,
            "spec_accept_length": length,
            "spec_accept_rate": (length - 1) / 4,
        }
        return "".join(f'sglang:{name}{{model_name="m"}} {value}\n' for name, value in gauges.items() if value > 0)

    found = served(tmp_path, a=scrape(2.6, 208.0), b=scrape(0, 400.0))
    assert [(one.each_s, one.plain) for one in found.intervals] == [(pytest.approx(0.1), False)]
    assert [(one.each_s, one.plain) for one in found.baseline] == [(pytest.approx(0.02), True)]


@pytest.mark.parametrize("prefix", ["", "INFO:vllm.v1.metrics.loggers:"])
def test_lines_that_another_logger_wrote_again_count_once(prefix: str, tmp_path: Path) -> None:
    log = vllm_log(Truth(), [4, 8, 8, 16] * 5)
    again = [re.sub(r"^\(API.*?\] ", prefix, line) if prefix else line for line in log.splitlines()]
    twice = "".join(f"{line}\n{more}\n" for line, more in zip(log.splitlines(), again, strict=True))
    one, two = served(tmp_path, a=log), served(tmp_path, a=twice)
    assert (one.drafts, one.intervals, one.plain) == (two.drafts, two.intervals, two.plain)
    assert any("another logger wrote again" in note for note in two.notes)


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


def test_servers_of_other_k_in_one_answer_are_refused(tmp_path: Path) -> None:
    answered = json.loads(queried(GOOD, ("b", [0, 500, 1_000, 1_500, 2_000], 0.2)))
    rows = answered["data"]["result"]
    answered["data"]["result"] = [
        row for row in rows if (row["metric"]["instance"], row["metric"].get("position")) not in {("b", "3"), ("b", "4")}
    ]
    with pytest.raises(InputError, match=r"K = 5 at a, K = 3 at b"):
        served(tmp_path, q=json.dumps(answered))


def test_one_metric_a_file_is_one_scrape_of_all(tmp_path: Path) -> None:
    whole = served(tmp_path, q=queried(GOOD))
    rows = json.loads(queried(GOOD))["data"]["result"]
    named: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        named.setdefault(row["metric"]["__name__"].replace(":", "_"), []).append(row)
    answers_of = {name: json.dumps({"data": {"resultType": "matrix", "result": own}}) for name, own in named.items()}
    parts = served(tmp_path, **answers_of)
    assert (parts.drafts, parts.gamma) == (whole.drafts, whole.gamma)
    assert len(parts.observations[0].files) == len(named)


def test_an_export_of_victoriametrics_is_an_answer_of_prometheus(tmp_path: Path) -> None:
    rows = json.loads(queried(GOOD, ("b", [900_000, 901_000, 902_000, 903_000, 904_000], 0.2)))["data"]["result"]
    lines = [
        {"metric": row["metric"], "values": [float(v) for _, v in row["values"]],
         "timestamps": [1000 * at for at, _ in row["values"]]}
        for row in rows
    ]  # fmt: skip
    found = served(tmp_path, q="".join(json.dumps(line) + "\n" for line in lines))
    assert (found.drafts.drafts, found.drafts.accepted) == pytest.approx((8_000, 4_000 * 3 + 4_000 * 1))


def vllm_lines(*gammas: int, prefix: str = "") -> str:
    """vLLM's log, a load and 100 drafts every ten seconds, of so many tokens each."""
    lines = []
    for i, gamma in enumerate(gammas):
        head = f"{prefix}(EngineCore_0 pid=7) INFO 11-26 10:{i // 6:02d}:{i % 6}0 "
        rates = [0.8 - 0.1 * k for k in range(gamma)]
        length, accepted = 1 + sum(rates), round(100 * sum(rates))
        lines += [
            f"{head}[loggers.py:1] Engine 000: Avg prompt throughput: 10.0 tokens/s, Avg generation throughput: 50.0 "
            "tokens/s, Running: 8 reqs, Waiting: 0 reqs, GPU KV cache usage: 1.0%, Prefix cache hit rate: 0.0%",
            f"{head}[metrics.py:1] SpecDecoding metrics: Mean acceptance length: {length:.2f}, Accepted throughput: 1.00 "
            f"tokens/s, Drafted throughput: 2.00 tokens/s, Accepted: {accepted} tokens, Drafted: {100 * gamma} tokens, "
            f"Per-position acceptance rate: {', '.join(f'{rate:.3f}' for rate in rates)}, Avg Draft acceptance rate: 50.0%",
        ]
    return "\n".join(lines) + "\n"


def test_k_that_was_changed_back_is_of_one_server(tmp_path: Path) -> None:
    server = served(tmp_path, a=vllm_lines(*[3] * 10, *[5] * 10, *[3] * 10))
    assert (server.gamma, server.drafts.drafts) == (3, 1_000)
    with pytest.raises(InputError, match="logs of two servers"):
        served(tmp_path, a=vllm_lines(*[3, 5] * 10))


@pytest.mark.parametrize("prefix", ["2026-11-26T10:00:00.123456789Z ", "[pod/vllm-0/server] ", "vllm-0  | "])
def test_a_log_saved_twice_counts_once_whatever_stands_before_its_lines(prefix: str, tmp_path: Path) -> None:
    once = served(tmp_path, a=vllm_lines(*[3] * 12))
    twice = served(tmp_path, a=vllm_lines(*[3] * 12), b=vllm_lines(*[3] * 12, prefix=prefix))
    assert twice.drafts == once.drafts
    beside = "".join(vllm_lines(3, prefix=f"[pod/other-{i}/server] ") for i in range(2))
    of_many = served(tmp_path, a=vllm_lines(*[3] * 12, prefix=prefix) + beside, b=vllm_lines(*[3] * 12))
    assert of_many.drafts.drafts <= once.drafts.drafts + 200


def test_lines_of_writers_of_few_are_told(tmp_path: Path) -> None:
    many = "".join(vllm_lines(*[3] * 12, prefix=f"[pod/vllm-{i}/server] ") for i in range(2))
    server = served(tmp_path, a=many + vllm_lines(3, prefix="[pod/vllm-2/server] "))
    assert server.drafts.drafts == 2_400
    assert any("2 lines left out" in note for one in server.observations for note in one.notes)


def test_an_engine_is_the_one_that_was_measured(tmp_path: Path) -> None:
    silent = {name: value for name, value in bench(backend="sglang").items() if not name.startswith("spec_")}
    found = served(tmp_path, a=json.dumps(silent), b=sglang(100_000, 1_000, 40_000, 2.475))
    assert {one.settings.engine for one in found.observations} == {"SGLang"}


def test_how_often_drafts_are_made_is_told_by_who_saw_enough(tmp_path: Path) -> None:
    """A scrape of one question, with three drafts, beside a log of thousands: it counts steps exactly, and few."""
    log = vllm_log(Truth(), [4] * 20)
    scrape = vllm_metrics(3, [2, 1, 1], 57, 1, model="Org/Model-8B")
    alone, both = served(tmp_path, log=log), served(tmp_path, log=log, scrape=scrape)
    assert (both.coverage, both.tokens_per_step) == (alone.coverage, alone.tokens_per_step)


@pytest.mark.parametrize("servers", [1, 4])
def test_what_runs_is_told_of_one_server_of_several(servers: int, tmp_path: Path) -> None:
    """A fleet's loads were as many times a server's, and each server's flags for loads that it never has."""

    def scrape(i: int) -> str:
        drafts = 1000 * i
        one = vllm_metrics(drafts, (750 * i, 500 * i, 300 * i), drafts, 10 * i, steps=100 * i)
        one = one.replace(
            'num_requests_running{engine="0",model_name="m"} 0.0', 'num_requests_running{engine="0",model_name="m"} 10.0'
        )
        return "".join(one.replace("{", f'{{instance="10.0.0.{name}:8000",') for name in range(servers))

    found = served(tmp_path, **{f"scrape{i}": scrape(i) for i in range(1, 9)})
    assert {one.running for one in found.intervals} == {10.0}
    assert any("4 servers in the scrapes" in note for one in found.observations for note in one.remarks) == (servers == 4)


def test_what_says_nothing_is_left_out_beside_what_does(tmp_path: Path) -> None:
    """An idle scrape, and a benchmark's summary that a shell's star named too; alone they are refused."""
    log, idle = vllm_log(Truth(), [4] * 20), vllm_metrics(0, (), 0, 0, model="Org/Model-8B")
    found = served(tmp_path, log=log, idle=idle, summary="Metric,avg,min,max,p99\n")
    assert found.gamma == 3
    idle_note, summary_note = (next(note for note in found.notes if name in note) for name in ("idle", "/summary"))
    assert "nothing was generated since the server began, and is left out" in idle_note
    assert "profile_export.jsonl beside it has the requests, and is read: left out" in summary_note
    with pytest.raises(InputError, match="nothing was generated"):
        served(tmp_path / "alone", idle=idle)


@pytest.mark.parametrize("label", ["pod", "instance", "WorkerId"])
@pytest.mark.parametrize("becomes", ["gone", "anew", "new", "there"])
def test_a_server_of_several_that_is_gone_takes_nothing_from_the_others(label: str, becomes: str, tmp_path: Path) -> None:
    """Its old counts were taken from what the others did since: 2.1 tokens a draft where it was 2.7. Those alone count that
    ran from the first scrape to the last, each since it began to count."""

    began = {"b": 2000.0}

    def scrape(*, anew: bool = False, **counts: tuple[int, tuple[int, int, int], int, int]) -> str:
        made = {name: vllm_metrics(*own, began=began.get(name, 1000.0) if anew else 1000.0) for name, own in counts.items()}
        return "".join(text.replace("{", f'{{{label}="{name}",') for name, text in made.items())

    first = {"a": (1000, (750, 500, 300), 4000, 20), "b": (900, (400, 100, 50), 2000, 20)}
    later = {"a": (3000, (2250, 1500, 900), 12000, 60), "b": (1900, (800, 200, 100), 4000, 40)}
    if becomes == "anew":
        later["b"] = (200, (80, 20, 10), 400, 4)
    if becomes in ("gone", "new"):
        del {"gone": later, "new": first}[becomes]["b"]
    texts = {"before": scrape(**first), "later": scrape(anew=becomes == "anew", **later)}
    found = served(tmp_path, **texts)
    if becomes == "there":
        assert found.drafts.drafts == 3000
        return
    assert (found.drafts.drafts, found.drafts.accepted_at) == (2000, (1500, 1000, 600))
    assert any(f"b ({label}) did not run all the while: left out" in note for note in found.notes)
    (tmp_path / "began").mkdir()
    long = (9000, (4000, 1000, 500), 20000, 200)
    before = scrape(a=first["a"], b=long, c=first["a"])  # the most is counted before one begins anew
    found = served(tmp_path / "began", a=before, z=scrape(a=later["a"], b=(200, (80, 20, 10), 400, 4), c=later["a"]))
    assert (found.drafts.drafts, found.drafts.accepted_at) == (4000, (3000, 2000, 1200))
    (tmp_path / "unsaid").mkdir()
    with pytest.raises(InputError, match=rf"of 2 servers \({label}\) none is known to have run from the first"):
        served(tmp_path / "unsaid", m=scrape(**{**first, "b": long}), n=scrape(a=later["a"], b=(200, (80, 20, 10), 400, 4)))
    few, some, many = ((n, (n, n, n), 4 * n, n) for n in (10, 1000, 3000))
    with pytest.raises(InputError, match=rf"of 2 servers \({label}\) none is known to have run from the first"):
        served(tmp_path, a=scrape(a=some, b=few), b=scrape(a=few, b=many), c=scrape(a=many, b=few))
