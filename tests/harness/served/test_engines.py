"""What SGLang and TensorRT-LLM write, and aiperf of any engine, in the shapes that their versions publish."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.served.observed import NOTHING
from harness.served.server import together
from harness.served.sources.registry import read_files
from simulator.errors import InputError
from tests.harness.served.test_sources import (
    SGLANG_INFO,
    SGLANG_LOG,
    SGLANG_META,
    SGLANG_METRICS,
    TRTLLM_ANSWER,
    TRTLLM_METRICS,
    aiperf_row,
    observed,
    trtllm_row,
)
from tests.harness.served.writing import sglang_log


def state(length: float | None, **more: Any) -> dict[str, Any]:
    return {"last_gen_throughput": 9.0, **({} if length is None else {"avg_spec_accept_length": length}), **more}


def test_sglangs_ranks_count_alike_and_those_that_idle_do_not(tmp_path: Path) -> None:
    one = observed(tmp_path, json.dumps({**SGLANG_INFO, "internal_states": [state(2.0), state(3.0), state(None)]}))
    assert (one.length, one.settings.gamma, one.settings.method, one.settings.version) == (2.5, 3, "EAGLE3", "0.5.9")
    assert any("2 ranks" in note for note in one.notes)


def test_sglangs_older_and_split_servers_say_it_elsewhere(tmp_path: Path) -> None:
    """At the top; with each rank's arguments; of servers that prefill and decode apart."""
    arguments = {name: value for name, value in SGLANG_INFO.items() if name != "internal_states"}
    for document in (
        {**arguments, "avg_spec_accept_length": 2.5},
        {"internal_states": [{**arguments, **state(2.5)}]},
        {"internal_states": [state(2.5)], "prefill": [{"disaggregation_mode": "prefill"}], "decode": [arguments]},
    ):
        one = observed(tmp_path, json.dumps(document))
        assert (one.length, one.settings.gamma, one.settings.model) == (2.5, 3, "Org/M")


def test_a_server_info_before_any_draft_says_k_alone(tmp_path: Path) -> None:
    (tmp_path / "info").write_text(json.dumps({**SGLANG_INFO, "internal_states": [state(None)]}))
    (tmp_path / "log").write_text("".join(line + "\n" for line in SGLANG_LOG.splitlines()[1:]))
    with pytest.raises(InputError, match="how many tokens a draft has"):
        together(*read_files([tmp_path / "log"]))
    with pytest.raises(InputError, match="does not say how many drafts"):
        together(*read_files([tmp_path / "info"]))
    assert together(*read_files([tmp_path / "log", tmp_path / "info"])).gamma == 3
    for wrong, told in (({"speculative_eagle_topk": 4}, "trees"), ({"speculative_algorithm": None}, "")):
        (tmp_path / "info").write_text(json.dumps({**SGLANG_INFO, "internal_states": [state(None)], **wrong}))
        if told:
            with pytest.raises(InputError, match=told):
                read_files([tmp_path / "info"])
        else:
            assert not together(*read_files([tmp_path / "info"])).speculates


BENCH_ROW = {
    "backend": "sglang", "max_concurrency": 4, "request_rate": None, "duration": 2.0, "completed": 4,
    "total_input_tokens": 40, "total_output_tokens": 44, "output_throughput": 22.0, "accept_length": 2.5,
}  # fmt: skip


def test_sglangs_bench_is_a_point_with_an_average(tmp_path: Path) -> None:
    rows = [{**BENCH_ROW, "server_info": SGLANG_INFO}, {**BENCH_ROW, "max_concurrency": 8, "server_info": SGLANG_INFO}]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = together(*read_files([tmp_path / "bench.jsonl"]))
    assert (server.gamma, server.length, [point.concurrency for point in server.points]) == (3, 2.5, [4, 8])
    assert server.tokens_per_step == pytest.approx(2.5)


def test_a_bench_that_says_no_length_drafts_nothing_only_where_its_server_says_so(tmp_path: Path) -> None:
    """It is null whatever a server of vLLM's drafts; a server's arguments know it."""
    row = {**BENCH_ROW, "accept_length": None}
    plain = {name: value for name, value in SGLANG_INFO.items() if name != "internal_states"} | {
        "speculative_algorithm": None
    }
    none = observed(tmp_path, json.dumps({**row, "server_info": plain}))
    assert (none.drafts, [point.what for point in none.points]) == (NOTHING, ["none"])
    for more in ({}, {"backend": "vllm"}, {"server_info": {**SGLANG_INFO, "internal_states": [state(None)]}}):
        one = observed(tmp_path, json.dumps({**row, **more}))
        assert (one.drafts, one.points, one.request_steps) == (None, (), None)
        with pytest.raises(InputError, match="does not say how many drafts"):
            together([one])
        assert not together([one, none] if not more else [none]).speculates


OPENAI = {"id": "a", "object": "chat.completion", "model": "m", "usage": {"prompt_tokens": 9, "completion_tokens": 9}}


@pytest.mark.parametrize("shape", ["native", "choice", "extension", "stream", "older", "bonus", "batch", "file"])
def test_sglangs_answers_in_any_shape(shape: str, tmp_path: Path) -> None:
    meta = dict(SGLANG_META)
    older = {"id": "r", "completion_tokens": 9, "prompt_tokens": 9, "spec_verify_ct": 4, "spec_accept_histogram": [2, 0, 2]}
    partial = {"id": "r", "completion_tokens": 3, "prompt_tokens": 9, "spec_verify_ct": 1}
    extra = {"spec_tokens_details": {name: value for name, value in meta.items() if name.startswith("spec_")}}
    text = {
        "native": json.dumps({"text": "", "meta_info": meta}),
        "choice": json.dumps({**OPENAI, "choices": [{"index": 0, "meta_info": meta}]}),
        "extension": json.dumps({**OPENAI, "choices": [], "sglext": extra}),
        "stream": "".join(f"data: {json.dumps({'meta_info': one})}\n\n" for one in (partial, meta)) + "data: [DONE]\n\n",
        "older": json.dumps({"meta_info": {**older, "spec_accept_token_num": 4, "spec_draft_token_num": 12}}),
        "bonus": json.dumps({"meta_info": {**meta, "spec_correct_drafts_histogram": [0, 2, 0, 2]}}),
        "batch": json.dumps([{"meta_info": meta}]),
        "file": json.dumps({"request_parameters": json.dumps({"rid": "r", "text": "x"}), **meta}),
    }[shape]
    one = observed(tmp_path, text)
    assert one.drafts is not None
    assert (one.drafts.drafts, one.drafts.accepted_at, one.settings.gamma) == (4, (2, 2, 0), 3)
    assert (one.requests, one.settings.engine, one.request_steps) == (1, "SGLang", 4)


def test_an_openai_stream_of_sglangs_says_tokens_and_drafts_apart(tmp_path: Path) -> None:
    extra = {"spec_tokens_details": {name: value for name, value in SGLANG_META.items() if name.startswith("spec_")}}
    events = [
        {"id": "a", "choices": [{"index": 0, "delta": {"content": "x"}}]},
        {"id": "a", "choices": [], "sglext": extra},
        {"id": "a", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 9}},
    ]
    one = observed(tmp_path, "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n")
    assert one.drafts is not None
    assert (one.requests, one.generated, one.drafts.accepted) == (1, 9, 4)


def test_answers_without_drafts_and_without_a_word_of_them(tmp_path: Path) -> None:
    none = {"meta_info": {"id": "n", "completion_tokens": 5, "prompt_tokens": 2, "spec_verify_ct": 0}}
    rows = [{"meta_info": SGLANG_META}, none, {**OPENAI, "choices": [{"index": 0, "message": {}}]}]
    one = observed(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    assert one.requests == 2
    assert any("1 answer without" in note for note in one.notes)
    bad = {"meta_info": {**SGLANG_META, "spec_verify_ct": 5}}
    with pytest.raises(InputError, match="spec_verify_ct is 5"):
        observed(tmp_path, json.dumps(bad))


def counters(generated: int, requests: int, steps: int) -> str:
    return SGLANG_METRICS + "".join(
        f'sglang:{name}_total{{model_name="m"}} {value}\n'
        for name, value in (
            ("generation_tokens", generated), ("prompt_tokens", 100), ("num_requests", requests),
            ("spec_verify_calls", steps),
        )
    ) + 'sglang:spec_num_draft_tokens{model_name="m"} 4\n'  # fmt: skip


def test_sglangs_counters_count_what_gauges_sample(tmp_path: Path) -> None:
    """Between two scrapes 160 tokens of 10 requests in 60 verifications: 10 of prompts, 60 of steps, 90 accepted."""
    (tmp_path / "a").write_text(counters(100, 5, 40))
    (tmp_path / "b").write_text(counters(260, 15, 100))
    [one], _ = read_files([tmp_path / "a", tmp_path / "b"])
    assert one.drafts is not None
    assert (one.drafts.drafts, one.drafts.drafted, one.drafts.accepted, one.requests) == (60, 180, 90, 10)
    assert one.tokens_per_step == pytest.approx(2.5)
    assert any("every step is taken to verify" in note for note in one.notes)


def test_sglangs_steps_that_verified_nothing_are_not_accepted_tokens(tmp_path: Path) -> None:
    """Some batch sizes may draft nothing: a length well above the gauges', or above K, is theirs; without them K refuses."""
    for generated, steps, verified in ((260, 80, False), (260, 95, True), (900, 100, False)):
        for name, text in (("a", counters(100, 5, 40)), ("b", counters(generated, 15, steps))):
            (tmp_path / name).write_text(text)
        [one], _ = read_files([tmp_path / "a", tmp_path / "b"])
        assert (one.length, one.drafts is not None) == ((None, True) if verified else (2.5, False))
        assert any("without a verification" in note for note in one.notes) != verified
        for name in "ab":
            (tmp_path / name).write_text(
                "".join(f"{line}\n" for line in (tmp_path / name).read_text().splitlines() if "accept" not in line)
            )
        if generated == 900:
            with pytest.raises(InputError, match="do not come of"):
                read_files([tmp_path / "a", tmp_path / "b"])


def test_trtllms_iterations_are_steps_by_load(tmp_path: Path) -> None:
    """8 ms, ¼ ms a token of a pass, and 2 ms where something is drafted."""
    rows = [trtllm_row(n, 3 * n, n, 10.0 + n) for n in (1, 2, 4, 8) * 6] + [
        trtllm_row(n, 0, 0, 8.0 + n / 4) for n in (6, 12) * 6
    ]
    (tmp_path / "stats.json").write_text(json.dumps(rows))
    server = together(*read_files([tmp_path / "stats.json"]))
    assert (server.gamma, server.length, server.settings.engine) == (3, 2.0, "TensorRT-LLM")
    assert len(server.plain) == 12
    assert [one.each_s for one in server.plain[:2]] == pytest.approx([0.0095, 0.011])
    assert [(one.running, one.each_s) for one in server.intervals[:2]] == [
        (1, pytest.approx(0.011)),
        (2, pytest.approx(0.012)),
    ]


def test_trtllms_ranks_that_share_attention_repeat_the_first_ones_drafts(tmp_path: Path) -> None:
    """Its own requests beside its own drafts; four ranks' rows are no four times as many drafts."""
    rows = [trtllm_row(n if rank == 0 else 3, 3 * 6, 9) | {"attentionDpRank": rank} for n in [6] * 30 for rank in range(4)]
    (tmp_path / "stats.json").write_text(json.dumps(rows))
    server = together(*read_files([tmp_path / "stats.json"]))
    assert (server.drafts.drafts, server.length, server.tokens_per_step) == (180, 2.5, 2.5)


def test_trtllms_shorter_drafts_are_told_apart(tmp_path: Path) -> None:
    rows = [trtllm_row(2, 8, 4)] * 20 + [trtllm_row(8, 8, 6)] * 5
    one = observed(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    assert one.drafts is not None
    assert (one.settings.gamma, one.drafts.length) == (4, 3.0)
    assert any("5 iterations drafted less" in note for note in one.notes)
    with pytest.raises(InputError, match="numRequestsWithDraftTokens"):
        observed(tmp_path, json.dumps([{**trtllm_row(2, 8, 4), "specDecodingStats": {"numDraftTokens": 8}}]))


def test_trtllms_counters_without_positions_need_k(tmp_path: Path) -> None:
    older = "".join(line for line in TRTLLM_METRICS.splitlines(keepends=True) if "token_position" not in line)
    one = observed(tmp_path, older)
    assert one.drafts is not None
    assert (one.drafts.drafts, one.drafts.accepted, one.drafts.accepted_at) == (10, 15, ())
    with pytest.raises(InputError, match="neither drafts nor K"):
        observed(tmp_path, "".join(line for line in older.splitlines(keepends=True) if "config_info" not in line))


def test_trtllms_answers_of_several_choices_and_streams(tmp_path: Path) -> None:
    [choice] = TRTLLM_ANSWER["choices"]  # type: ignore[misc]
    several = {**TRTLLM_ANSWER, "choices": [choice, {**choice, "index": 1}], "usage": {"completion_tokens": 102}}
    one = observed(tmp_path, json.dumps(several))
    assert (one.requests, one.generated) == (2, 102)
    events = [{"id": "x", "choices": [choice]}, {"id": "x", "choices": [], "usage": {"completion_tokens": 51}}]
    stream = observed(tmp_path, "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n")
    assert (stream.requests, stream.generated, stream.drafts) == (
        1,
        51,
        observed(tmp_path, json.dumps(TRTLLM_ANSWER)).drafts,
    )


def test_trtllms_answers_under_a_schedule_say_no_k(tmp_path: Path) -> None:
    [choice] = TRTLLM_ANSWER["choices"]  # type: ignore[misc]
    told = choice["speculative_decoding"]
    rows = [
        {**TRTLLM_ANSWER, "id": str(i), "choices": [{**choice, "speculative_decoding": {**told, **more}}]}
        for i, more in enumerate((
            {"num_spec_tokens": None},
            {"num_spec_tokens": None, "acceptance_histogram": [20], "total_accepted_draft_tokens": 0},
        ))
    ]  # fmt: skip
    assert observed(tmp_path, "".join(json.dumps(row) + "\n" for row in rows)).settings.gamma == 3


def test_aiperf_of_other_engines(tmp_path: Path) -> None:
    """Named as they are; of llama.cpp its histograms are made up of averages, and are not read."""
    for engine, name in (("sglang", "SGLang"), ("tensorrt_llm", "TensorRT-LLM")):
        row = aiperf_row({"0": 2, "3": 1}, 12)
        row["spec_decode_acceptance"]["engine"] = engine  # type: ignore[index]
        assert observed(tmp_path, json.dumps(row)).settings.engine == name
    row = aiperf_row({"1": 5, "2": 5}, 26)
    row["spec_decode_acceptance"].update(engine="llamacpp", num_draft_tokens=20, num_spec_tokens=None)  # type: ignore[index,attr-defined]
    one = observed(tmp_path, json.dumps(row))
    assert (one.drafts, one.settings.engine, one.settings.gamma) == (None, "llama.cpp", None)
    assert one.tokens_per_step == pytest.approx(25 / 10)
    (tmp_path / "two").write_text(json.dumps(row) + "\n" + json.dumps(aiperf_row({"0": 2}, 12)) + "\n")
    with pytest.raises(InputError, match=r"llama\.cpp and vLLM"):
        read_files([tmp_path / "two"])


def test_aiperfs_rows_of_several_k_are_refused_where_they_say_it(tmp_path: Path) -> None:
    """Histograms that are shorter are of drafts of which less was accepted."""
    rows = [aiperf_row({"0": 2, "3": 1}, 12), aiperf_row({"0": 2, "1": 1}, 12)]

    def text() -> str:
        return "".join(json.dumps(row) + "\n" for row in rows)

    assert observed(tmp_path, text()).settings.gamma == 3
    told = [row["spec_decode_acceptance"] for row in rows]
    told[1] |= {"num_spec_tokens": 7, "num_draft_tokens": 21}  # type: ignore[operator]
    with pytest.raises(InputError, match="K = 3, 7"):
        observed(tmp_path, text())
    del told[1]["num_spec_tokens"]  # type: ignore[attr-defined]
    assert observed(tmp_path, text()).settings.gamma == 3
    del told[0]["num_spec_tokens"]  # type: ignore[attr-defined]
    assert observed(tmp_path, text()).settings.gamma == 3


def test_sglangs_k_that_changes_is_refused_without_its_word(tmp_path: Path) -> None:
    """The gauge of drafted tokens says it, and so do lines whose average and rate are of other K than the start."""
    for i, tokens in enumerate((8, 6, 8, 4)):
        of = '{model_name="m"}'
        (tmp_path / f"{i}.prom").write_text(
            f"sglang:spec_num_draft_tokens{of} {tokens}\nsglang:spec_accept_length{of} 2.9\nsglang:num_running_reqs{of} 8\n"
            f"sglang:generation_tokens_total{of} {1000 * (i + 1)}\n"
        )
    with pytest.raises(InputError, match="K changes while it runs"):
        read_files(sorted(tmp_path.glob("*.prom")))
    log = sglang_log([8] * 60, length=2.5, gamma=3)
    assert observed(tmp_path, log).settings.gamma == 3
    with pytest.raises(InputError, match="K changes while it runs"):
        observed(tmp_path, log + sglang_log([8] * 20, length=1.8, gamma=1, begins="11:00:00").split("\n", 1)[1])


def test_sglangs_steps_outside_of_graphs_time_nothing_beside_those_inside(tmp_path: Path) -> None:
    log = sglang_log([8] * 30 + [40] * 30)
    lines = [
        line.replace("cuda graph: True", "cuda graph: False") if "req: 40" in line else line for line in log.splitlines()
    ]
    one = observed(tmp_path, "\n".join(lines) + "\n")
    assert {stretch.running for stretch in one.intervals if stretch.each_s is not None} == {8}
    assert any("30 lines of steps outside of CUDA graphs, from 40 running on" in note for note in together([one]).notes)
    for whole in (log, log.replace("cuda graph: True", "cuda graph: False")):
        timed = [stretch.running for stretch in observed(tmp_path, whole).intervals if stretch.each_s is not None]
        assert (timed.count(8), timed.count(40)) == (29, 29)  # a line is of all that ran since the one before


@pytest.mark.parametrize(
    "loads", [[16] * 40, [1, *[16] * 39], [*[4] * 20, *[16] * 20]], ids=["one", "after a warm-up", "two"]
)
@pytest.mark.parametrize("gaps", [(), (1,), (1, 8, 20, 30)])
def test_sglangs_idle_times_are_no_steps_and_no_second_server(
    loads: list[int], gaps: tuple[int, ...], tmp_path: Path
) -> None:
    """A line's throughput is over all that passed since the one before: 40 steps of 50 ms, or those and two minutes. Such
    logs were refused as of several servers, or their steps took a minute."""
    lines = sglang_log(loads).splitlines()
    begun, made, late = datetime.fromisoformat(lines[0][1:20]), [lines[0]], 0
    for i, line in enumerate(lines[1:], 1):
        late += 120 * (i in gaps)
        line = line.replace(line[1:20], str(begun + timedelta(seconds=2 * i + late)))
        rate = float(line.partition("(token/s): ")[2].partition(",")[0])
        made.append(line.replace(f"{rate:.2f}", f"{rate * 2 / 122:.2f}") if i in gaps else line)
    one = observed(tmp_path, "\n".join(made))
    assert {round(stretch.step_s, 3) for stretch in one.intervals if stretch.step_s is not None} == {0.05}
    assert sum(stretch.step_s is not None for stretch in one.intervals) >= 40 - 2 - len(gaps)
    assert sum(stretch.seconds for stretch in one.intervals) == pytest.approx(80, rel=0.02 if 1 not in gaps else 2)


@pytest.mark.parametrize("graph", ["cuda graph", "npu graph", "cpu graph", "musa graph"])
def test_sglangs_steps_outside_of_graphs_are_known_on_every_device(graph: str, tmp_path: Path) -> None:
    log = sglang_log([8] * 30 + [40] * 30).replace("cuda graph: True", f"{graph}: True")
    outside = [line.replace("graph: True", "graph: False") if "req: 40" in line else line for line in log.splitlines()]
    one = observed(tmp_path, "\n".join(outside))
    assert {stretch.running for stretch in one.intervals if stretch.step_s is not None} == {8}


def test_a_trtllm_answer_that_is_there_again_counts_once(tmp_path: Path) -> None:
    """In one file, as in two; several choices of one answer are several requests, with usage or without."""
    answers = [TRTLLM_ANSWER | {"id": f"a{i}"} for i in range(3)]
    once, twice = (observed(tmp_path, "".join(json.dumps(one) + "\n" for one in own)) for own in (answers, answers * 2))
    assert (once.drafts, len(once.told_apart)) == (twice.drafts, len(twice.told_apart))
    bare = {name: value for name, value in answers[0].items() if name != "usage"}
    assert observed(tmp_path, json.dumps(bare)).drafts is not None
