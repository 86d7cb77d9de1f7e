"""The advice against servers whose truth is known."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.served.acceptance import acceptance_of, interval
from harness.served.advice import WORTH
from harness.served.costs import Believed, _of_every_length, believed
from harness.served.observed import Drafts, Observation, Settings
from harness.served.server import together
from harness.served.sources.registry import read_files
from simulator.hardware.catalogue import find_profile
from simulator.serving.sglang import SGLANG
from tests.harness.served.advising import HEAVY, LOADS, POOR, advised, run
from tests.harness.served.writing import Truth, answers, vllm_log, vllm_metrics


def test_a_k_that_is_too_large_is_lowered(tmp_path: Path) -> None:
    told = advised(tmp_path, vllm_log(POOR, LOADS, clumped=0.1))
    assert (told["verdict"], told["tokens"], told["knows_off"]) == ("set", 2, False)
    assert '"num_speculative_tokens": 2' in str(told["flags"])
    gain = told["gain"]
    assert isinstance(gain, dict)
    truth = sum(n * POOR.speed(2, n) for n in LOADS) / sum(n * POOR.speed(5, n) for n in LOADS) - 1
    assert gain["low"] < truth < gain["high"]
    assert "no stretch without drafts" in str(told["cannot"])


@pytest.mark.parametrize("survival", [(0.3, 0.08, 0.02, 0.005, 0.001), (0.7, 0.45, 0.25, 0.12, 0.05)])
@pytest.mark.parametrize(("token_s", "draft_s"), [(0.000005, 0.0002), (0.0001, 0.0005), (0.00002, 0.0015)])
def test_what_a_log_alone_cannot_carry_is_not_promised(
    survival: tuple[float, ...], token_s: float, draft_s: float, tmp_path: Path
) -> None:
    """Of a drafter that costs a hundredth of a pass, and of one that costs a seventh: no log tells them apart."""
    truth = Truth(survival=survival, base_s=0.02 if draft_s < 0.0005 else 0.01, token_s=token_s, draft_s=draft_s)
    told = advised(tmp_path, vllm_log(truth, LOADS, clumped=0.1))
    rows, gain = told["rows"], told["gain"]
    assert isinstance(rows, list)
    assert isinstance(gain, dict)
    k = [next((k for first, last, k in rows if first <= n <= last), told["tokens"]) for n in LOADS]
    served = sum(n * truth.speed(len(survival), n) for n in LOADS)
    gained = sum(n * truth.speed(one, n) for one, n in zip(k, LOADS, strict=True)) / served - 1
    assert gained >= -0.001
    assert told["verdict"] == "keep" or gain["low"] - WORTH <= gained <= gain["high"] + WORTH


@pytest.mark.parametrize(("accepted", "low", "high"), [(14, 0.80, 1.0), (11, 0.53, 0.94), (0, 0.0, 0.20)])
def test_few_drafts_leave_a_share_as_open_as_they_do(accepted: int, low: float, high: float) -> None:
    """However many tokens a draft has: Jeffreys' intervals of 14 independent drafts; those of a server are no surer."""
    shares = np.array([accepted / 14] + [0.0] * 47)
    at = tuple((14 * shares).tolist())
    drafts = Drafts(drafts=14, drafted=14 * 48, accepted=sum(at), accepted_at=at)
    settings = Settings(engine="vLLM", method="ngram", gamma=48, speculates=True)
    told = Observation(source="made", files=("made",), settings=settings, drafts=drafts)
    found = interval(acceptance_of(together([told])).survivals[:, 0])
    assert found[0] <= low + 0.02
    assert found[1] >= high - 0.02


@pytest.mark.parametrize("knee", [20, 50, 1000, 3000])
def test_steep_and_flat_machines_lie_inside(knee: int, tmp_path: Path) -> None:
    """A processor doubles its steps at some twenty tokens, a large mixture at thousands: a log tells little of which."""
    truth = Truth(survival=(0.55, 0.3, 0.16, 0.08, 0.04), token_s=0.01 / knee, draft_s=0.0001)
    loads = [n for n in (1, 2, 4, 8, 16, 32) for _ in range(10)]
    told = advised(tmp_path, vllm_log(truth, loads, seed=knee, clumped=0.1))
    each = told["by_tokens"]
    assert isinstance(each, list)
    served = sum(n * truth.speed(5, n) for n in loads)
    for one in each[:4]:
        gain = sum(n * truth.speed(one["tokens"], n) for n in loads) / served - 1
        assert one["gain"]["low"] - WORTH < gain < one["gain"]["high"] + WORTH


@pytest.mark.parametrize(("knee", "beyond_s"), [(60, 0.0001), (150, 0.00006), (160, 0.00008)])
def test_machines_that_turn_steep_lie_inside(knee: int, beyond_s: float, tmp_path: Path) -> None:
    """Flat to some tokens, then in proportion and more: what less would cost at the largest loads, no line says."""
    truth = Truth(survival=(0.6, 0.36, 0.2), base_s=0.012, draft_s=0.0006, knee=knee, beyond_s=beyond_s)
    loads = [n for n in (8, 64, 96) for _ in range(7)]
    told = advised(tmp_path, vllm_log(truth, loads, seed=knee, clumped=0.05))
    served = sum(n * truth.speed(3, n) for n in loads)
    each = told["by_tokens"]
    assert isinstance(each, list)
    for one in each[:2]:
        gain = sum(n * truth.speed(one["tokens"], n) for n in loads) / served - 1
        assert gain > 0.02
        assert one["gain"]["low"] - WORTH < gain < one["gain"]["high"] + WORTH


def test_what_every_other_k_would_give_is_told(tmp_path: Path) -> None:
    """Less than the K that is right, too, with intervals that hold the truth; on the screen a line each."""
    truth = Truth(survival=(0.8, 0.7, 0.6))
    told = advised(tmp_path, vllm_log(truth, LOADS))
    each = told["by_tokens"]
    assert isinstance(each, list)
    assert [one["tokens"] for one in each] == [1, 2, 3]
    served = sum(n * truth.speed(3, n) for n in LOADS)
    for one in each[:2]:
        gain = sum(n * truth.speed(one["tokens"], n) for n in LOADS) / served - 1
        assert one["gain"]["low"] < gain < one["gain"]["high"]
        assert one["gain"]["value"] < 0
    assert set(each[2]["gain"].values()) == {0.0}
    lines = run("advise", tmp_path / "file.log").stdout.splitlines()
    assert [f"{one['gain']['value']:+.0%}" in line for one, line in zip(each[:2], _rows(lines), strict=False)] == [True] * 2


def _rows(lines: Sequence[str]) -> list[str]:
    """The lines of a table's rows that begin with a number."""
    return [line for line in lines if line.strip()[:1].isdigit()]


def test_the_verdict_stands_below_what_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(vllm_log(POOR, LOADS, clumped=0.1))
    lines = run("advise", tmp_path / "a").stdout.splitlines()
    verdict = next(i for i, line in enumerate(lines) if line.startswith("set K to 2"))
    assert max(i for i, line in enumerate(lines) if line in _rows(lines)) < verdict


@pytest.mark.parametrize(
    ("loads", "plain", "why"),
    [
        (LOADS, [], "no stretch without drafts"),
        (LOADS, [16] * 3, "5 of each are needed"),
        ([2] * 40, [40] * 40, "of no load are both"),
    ],
)
def test_why_nothing_is_said_of_no_drafts(loads: list[int], plain: list[int], why: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(vllm_log(HEAVY, loads))
    files = [tmp_path / "a"]
    if plain:
        files.append(tmp_path / "b")
        files[1].write_text(vllm_log(HEAVY, plain, k=lambda _: 0))
    told = json.loads(run("advise", *files, "--json").stdout)
    assert not told["knows_off"]
    [said] = [one for one in told["cannot"] if why in one]
    assert "--hardware" in said


class Experts(Truth):
    """A mixture: the more tokens are in a pass, the more of its experts are read, until all are."""

    def step_s(self, k: int, running: float) -> float:
        tokens = running * (1 + k)
        return self.base_s * (0.5 + 0.5 * (1 - (1 - 1 / 16) ** tokens)) + self.token_s * tokens + self.draft_s * k


def test_loads_between_those_that_ran_are_less_known(tmp_path: Path) -> None:
    """A line through two loads does not know how a pass grows between them."""
    truth = Experts(survival=(0.8, 0.6, 0.45), base_s=0.015, token_s=0.00001, draft_s=0.0006)
    loads = [n for _ in range(3) for n in (8, 64) for _ in range(8)]
    (tmp_path / "without").write_text(vllm_log(truth, loads, seed=5, k=lambda _: 0, method=""))
    told = advised(tmp_path, vllm_log(truth, loads), tmp_path / "without")
    over_none = {one["running"]: one["over_none"] for one in told["loads"]}  # type: ignore[attr-defined]
    width = {n: one["high"] - one["low"] for n, one in over_none.items()}
    assert width[16] > 2 * width[8]
    for n in (16, 32):
        gain = truth.speed(3, n) / truth.speed(0, n) - 1
        assert over_none[n]["low"] - 0.01 < gain < over_none[n]["high"] + 0.01


def test_metrics_alone_time_no_steps(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(vllm_metrics(3000, (2400, 1800, 900), 3000, 40))
    told = json.loads(run("advise", tmp_path / "a", "--json").stdout)
    assert "time no steps" in str(told["cannot"])


@pytest.mark.parametrize(("word", "kind"), [("draft_model", "draft_model"), ("eagle", "eagle3"), ("suffix", "suffix")])
def test_a_drafter_is_named_by_its_kind_or_by_its_engines_word(word: str, kind: str, tmp_path: Path) -> None:
    unnamed = vllm_log(POOR, LOADS).replace("'method': 'eagle3', ", "")
    told = advised(tmp_path, unnamed, "--drafter", word)
    assert told["drafter"] == kind
    assert f'"method": "{kind}"' in str(told["flags"])
    given = '"model": "Org/Draft"' in str(told["flags"])
    assert given  # as the log names it
    unnamed = unnamed.replace("'model': 'Org/Draft', ", "")
    again = str(advised(tmp_path, unnamed, "--drafter", word)["flags"])
    assert ('"model": "CHECKPOINT"' in again) == (kind != "suffix")
    knows = "--hardware" in str(told["cannot"])
    assert knows == (kind == "eagle3")
    done = run("advise", tmp_path / "file.log", "--drafter", word, "--hardware", "h100/qwen3-8b")
    assert (done.exit_code, "leave --hardware out" in done.stderr) == ((0, False) if kind == "eagle3" else (2, True))


def test_a_drafter_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(vllm_log(POOR, LOADS))
    for word in ("none", "eagle9"):
        done = run("advise", tmp_path / "a", "--drafter", word)
        assert (done.exit_code, "draft_model" in done.stderr) == (2, True)


def test_a_k_that_is_right_stays(tmp_path: Path) -> None:
    told = advised(tmp_path, vllm_log(Truth(survival=(0.8, 0.7, 0.6)), LOADS))
    assert (told["verdict"], told["tokens"], told["off_above"]) == ("keep", 3, None)


def test_steps_without_drafts_say_where_it_turns(tmp_path: Path) -> None:
    loads = [int(n) for n in np.clip(np.round(24 * np.exp(1.2 * np.sin(np.arange(240) / 27))), 1, 128)]
    told = advised(tmp_path, vllm_log(HEAVY, loads, k=lambda n: 3 if n <= 40 else 0, clumped=0.1))
    turns = next(n for n in range(1, 200) if max(HEAVY.speed(k, n) for k in (1, 2, 3)) < HEAVY.speed(0, n))
    off = told["off_above"]
    assert isinstance(off, dict)
    assert told["knows_off"]
    assert off["low"] <= turns <= off["high"]
    assert told["verdict"] == "by_batch"
    rows = told["rows"]
    assert isinstance(rows, list)
    chosen = {n: next(k for first, last, k in rows if first <= n <= last) for n in (4, 16, 36, 64)}
    assert (chosen[4], chosen[36]) == (3, 1)
    for n, k in chosen.items():  # k of 1 and 0 are 6 % apart at 64 running, which is not sure
        assert HEAVY.speed(k, n) > 0.93 * max(HEAVY.speed(any_k, n) for any_k in range(4))


def test_the_file_of_sglangs_table_is_written_above_the_words_that_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands on the screen it may be copied into a shell."""
    (tmp_path / "f").write_text(vllm_log(HEAVY, sorted(LOADS), k=lambda n: 3 if n <= 16 else 0))
    monkeypatch.setattr("harness.served.advice.engine_of", lambda server: SGLANG)
    lines = run("advise", tmp_path / "f").stdout.splitlines()
    [at] = [i for i, line in enumerate(lines) if "--speculative-adaptive-config adaptive_steps.json" in line]
    subprocess.run(["sh", "-c", lines[at - 1]], cwd=tmp_path, check=True)
    steps = json.loads((tmp_path / "adaptive_steps.json").read_text())
    assert steps["1"] == {"candidate_steps": [3]}
    assert len(steps) > 1


def test_a_draft_of_a_server_with_a_table_is_a_whole_one(tmp_path: Path) -> None:
    """It drafts less at some loads; what is known is what a whole draft commits, and the steps' average is another."""
    log = vllm_log(HEAVY, sorted(LOADS), k=lambda n: 3 if n <= 16 else 0)
    table = "'num_speculative_tokens': 3, 'num_speculative_tokens_per_batch_size': [[1, 16, 3], [17, 512, 0]]"
    (tmp_path / "f").write_text(log.replace("'num_speculative_tokens': 3", table))
    done = run("advise", tmp_path / "f")
    assert "a draft of all 3 tokens commits" in " ".join(done.stdout.split()), done.output


def test_switched_off_above_a_load_is_no_ngram(tmp_path: Path) -> None:
    """Stretches without drafts, by the engine's own table, do not make drafts rare where it drafts."""
    (tmp_path / "f").write_text(vllm_log(HEAVY, sorted(LOADS), k=lambda n: 3 if n <= 16 else 0))
    server = together(*read_files([tmp_path / "f"]))
    assert server.proposing == 1
    assert (server.served_k(4), server.served_k(40)) == (3, 0)


def test_a_profile_says_it_without_such_steps(tmp_path: Path) -> None:
    told = advised(tmp_path, vllm_log(HEAVY, LOADS), "--hardware", "h100/qwen3-8b")
    assert told["knows_off"]
    assert "moved to" in str(told["basis"])


def test_a_profile_of_another_machine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text(vllm_log(Truth(base_s=3.0), LOADS))
    done = run("advise", tmp_path / "f", "--hardware", "h100/qwen3-8b")
    assert done.exit_code == 2
    assert "no machine like it" in done.stderr


@pytest.mark.parametrize(
    ("method", "flags", "note"),
    [
        ("ngram-simple", "--spec-type ngram-simple --spec-ngram-simple-size-m {}", ""),
        ("ngram-cache", "--spec-type ngram-cache", "K cannot be set: ngram-cache drafts up to 8 tokens"),
    ],
)
def test_a_look_up_of_llama_cpp_is_told_its_tokens_by_its_own_option(
    method: str, flags: str, note: str, tmp_path: Path
) -> None:
    lines = [f"0.05.011.653 I spec common_specu: adding speculative implementation '{method}'"]
    for i in range(40):
        said = f"0.{i + 10}.000.000 I slot print_timing: id  0 | task {i} | "
        lines += [
            f"{said}prompt eval time =    1000.00 ms /   100 tokens (   10.00 ms per token,   100.00 tokens per second)",
            f"{said}       eval time =    9000.00 ms /    27 tokens (   10.00 ms per token,   100.00 tokens per second)",
            f"{said}draft acceptance = 0.00833 (    6 accepted /   960 generated), mean len =  1.30",
            f"{said}     acc per pos = ({', '.join(['0.250', '0.050', *['0.000'] * 46])})",
        ]
    told = advised(tmp_path, "\n".join(lines) + "\n")
    assert told["verdict"] == "set"
    assert told["flags"] == flags.format(told["tokens"])
    screen = run("advise", tmp_path / "file.log").stdout
    assert flags.format(told["tokens"]) in screen
    assert note in str(told["flags_notes"])
    assert note in screen


def test_one_screen_of_eighty_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrapped as a terminal would, what is to be copied apart."""
    import textwrap

    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "a").write_text(vllm_log(POOR, LOADS, clumped=0.1))
    lines = run("advise", tmp_path / "a").stdout.splitlines()
    wrapped = [part for line in lines for part in (textwrap.wrap(line, 80) or [""])]
    assert len(wrapped) <= 50


def test_a_server_that_drafts_nothing_has_no_advice(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(vllm_log(Truth(), LOADS, k=lambda n: 0))
    done = run("advise", tmp_path / "a")
    assert done.exit_code == 1
    assert "K = 3 is set, and not one draft was proposed" in done.stderr
    plain = vllm_log(Truth(), LOADS, k=lambda n: 0).splitlines(keepends=True)
    (tmp_path / "b").write_text("".join(line for line in plain if "speculative_config" not in line))
    done = run("advise", tmp_path / "b")
    assert done.exit_code == 1
    assert "drafts nothing" in done.stderr


def test_a_drafter_other_than_the_files_say_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(vllm_log(POOR, LOADS))
    done = run("advise", tmp_path / "a", "--drafter", "ngram")
    assert done.exit_code == 2
    assert "--drafter ngram: the files' server drafts with eagle3" in done.stderr
    assert advised(tmp_path, vllm_log(POOR, LOADS), "--drafter", "mtp")["drafter"] == "mtp"  # SGLang serves MTP as EAGLE


def test_stretches_too_short_to_time_still_tell_another_machine(tmp_path: Path) -> None:
    """A step in ten seconds, and a profile of milliseconds: no stretch has twenty steps."""
    (tmp_path / "a").write_text(vllm_log(Truth(base_s=5.0), [4] * 30))
    done = run("advise", tmp_path / "a", "--hardware", "h100/qwen3-8b")
    assert done.exit_code == 2, done.output
    assert "no machine like it takes what the files' steps took (1e+04 ms at 4 running)" in done.stderr


def test_what_is_to_be_measured_is_what_is_missing(tmp_path: Path) -> None:
    """Of a baseline's log and three stretches with drafts, these."""
    stretches = iter([0] * 30 + [3] * 3)
    told = advised(tmp_path, vllm_log(HEAVY, [16] * 33, k=lambda n: next(stretches)))
    assert "29 had no drafts and 3 had" in str(told["cannot"])
    assert "give more of its log with drafts" in str(told["cannot"])
    assert str(told["next"]).startswith("the same traffic with drafts")


def test_steps_that_get_shorter_with_what_runs_narrow_nothing(tmp_path: Path) -> None:
    """Something else than load decides them; steps that stay as long leave tokens little room to cost much."""

    def costs(token_s: float) -> Believed:
        (tmp_path / "log").write_text(vllm_log(Truth(token_s=token_s), [2] * 12 + [8] * 12 + [32] * 12))
        server = together(read_files([tmp_path / "log"])[0])
        return believed(server, "eagle3", acceptance_of(server))

    flat, falling = costs(1e-7), costs(-2e-5)
    assert "nothing" in falling.basis
    assert "nothing" not in flat.basis
    assert np.median(flat.knee) > 2 * np.median(falling.knee)
    assert np.median(falling.knee) == pytest.approx(300, rel=0.15)  # as it was believed before


def test_a_profile_of_another_model_is_said_to_be_one(tmp_path: Path) -> None:
    told = advised(tmp_path, vllm_log(HEAVY, LOADS), "--hardware", "h100/qwen3-8b")
    assert "it is of Qwen/Qwen3-8B, and the files are of Org/Model-8B" in str(told["basis"])
    told = advised(tmp_path, vllm_log(HEAVY, LOADS).replace("Org/Model-8B", "Qwen/Qwen3-8B"), "--hardware", "h100/qwen3-8b")
    assert "it is of" not in str(told["basis"])


@pytest.mark.parametrize("drafts", [10_000, 700])
def test_of_drafts_that_are_never_right_no_k_pays(drafts: int, tmp_path: Path) -> None:
    """It needs no step times; a drafter that is always wrong is loaded wrongly."""
    told = advised(tmp_path, vllm_metrics(drafts, (0, 0, 0), drafts, 100))
    assert (told["verdict"], told["flags"], told["knows_off"]) == ("off", "", True)
    said = " ".join(run("advise", tmp_path / "file.log").stdout.split())
    assert "no K pays, whatever a step takes" in said
    assert "loaded wrongly" in said
    assert "harness doctor CHECKPOINT --target TARGET" in said
    assert "drafting pays up to" not in said
    right = advised(tmp_path, vllm_metrics(drafts, (drafts // 4, 0, 0), drafts, 100))
    assert right["verdict"] != "off"


def test_few_drafts_and_drafts_that_are_never_wrong_are_remarked(tmp_path: Path) -> None:
    few = advised(tmp_path, vllm_metrics(12, (7, 2), 12, 1))
    assert "12 drafts tell nothing" in str(few["cannot"])
    assert "keep K = 2 until more is known" in run("advise", tmp_path / "file.log").stdout
    sure = advised(tmp_path, vllm_metrics(400, (400, 400), 400, 10))
    assert "none was, as where a model drafts for itself" in str(sure["cannot"])


def test_logs_that_were_not_measured_alike_are_not_compared(tmp_path: Path) -> None:
    """A slower machine without drafts says nothing of what drafts give."""
    (tmp_path / "a").write_text(vllm_log(HEAVY, LOADS))
    (tmp_path / "b").write_text(vllm_log(Truth(base_s=0.05), LOADS, k=lambda n: 0))
    done = run("advise", tmp_path / "a", tmp_path / "b", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert not told["knows_off"]
    assert "not measured alike" in str(told["cannot"])


def test_an_average_leaves_the_shape_open(tmp_path: Path) -> None:
    """Tokens a draft are known, the share of its first position is not."""
    rows = [
        f"Decode batch, #running-req: 4, accept len: {2 + i % 3 / 10}, gen throughput (token/s): 400.0" for i in range(90)
    ]
    (tmp_path / "a").write_text("server_args=ServerArgs(speculative_num_draft_tokens=4)\n" + "\n".join(rows) + "\n")
    found = acceptance_of(together(*read_files([tmp_path / "a"])))
    low, high = interval(found.survivals[:, 0])
    assert high - low > 0.15
    assert np.subtract(*interval(found.lengths_drawn(3))[::-1]) < 0.13


def test_intervals_hold_the_truth_where_requests_are_told_apart(tmp_path: Path) -> None:
    """In nearly all of 40 servers, for every k: tokens a step of the traffic that their requests are drawn from."""
    (tmp_path / "much").write_text(answers(1500, seed=999))
    truth = acceptance_of(together(*read_files([tmp_path / "much"])))
    inside = []
    for seed in range(40):
        (tmp_path / "some").write_text(answers(30, seed=seed))
        found = acceptance_of(together(*read_files([tmp_path / "some"])), seed)
        for k in (1, 2, 3):
            low, high = interval(found.tokens_drawn(k))
            inside.append(low <= truth.tokens(k) <= high)
    assert np.mean(inside) > 0.85


@pytest.mark.parametrize("block", [False, True])
def test_a_profile_of_one_length_of_drafts_is_taken_in_proportion(block: bool) -> None:
    """Tokens of an Eagle3 are a pass each; a block takes as long however much of it is asked for."""
    whole = find_profile("h100/qwen3-8b")
    known = whole.draft["eagle3"]
    only = replace(known, drafted=(3,), requests=(known.requests[known.drafted.index(3)],), block=block)
    made, told = _of_every_length(replace(whole, draft={"eagle3": only}), "eagle3")
    assert "drafts of 3 alone" in told
    for k in (1, 2, 3, 5):
        share = 1.0 if block else k / 3
        assert made.draft["eagle3"].at(k, [1, 40]) == pytest.approx(share * only.at(3, [1, 40]))
    assert _of_every_length(whole, "eagle3") == (whole, "")


def test_files_of_two_servers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(vllm_log(Truth(), LOADS))
    (tmp_path / "b").write_text(vllm_metrics(100, (80, 60), 400, 20, model="Org/Model-8B"))
    done = run("advise", tmp_path / "a", tmp_path / "b")
    assert (done.exit_code, "set otherwise" in done.stderr) == (2, True)
    (tmp_path / "b").write_text(vllm_metrics(100, (80, 60, 30), 400, 20, model="other"))
    done = run("advise", tmp_path / "a", tmp_path / "b")
    assert (done.exit_code, "of model" in done.stderr) == (2, True)


def test_files_that_differ_are_said_to(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(vllm_log(Truth(), LOADS))
    (tmp_path / "b").write_text(vllm_metrics(4000, (1200, 400, 100), 4000, 20, model="Org/Model-8B"))
    done = run("advise", tmp_path / "a", tmp_path / "b")
    assert (done.exit_code, "DIFFER" in done.stdout) == (0, True)
