"""What a log's own steps, with drafts and without, say of every k and load, beside servers whose truth is known."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from harness.served.acceptance import Acceptance, acceptance_of, interval
from harness.served.advice import advise
from harness.served.by_load import Trend, shifted, trend_of
from harness.served.check import check
from harness.served.costs import StepBin, _without_prompts, believed, profiled
from harness.served.expected import Estimate
from harness.served.observed import Drafts, Interval
from harness.served.server import Server, together
from harness.served.sources.registry import read_files
from harness.served.timed import Seen, seen
from simulator.errors import InputError
from simulator.hardware.catalogue import find_profile
from tests.harness.served.advising import advised
from tests.harness.served.writing import Clients, Truth, _stretch, clients_log, sglang_clients_log, vllm_log, walked_log

EAGLE = (0.72, 0.53, 0.38)
LINE = Truth(EAGLE, base_s=0.008, token_s=5e-5, draft_s=6e-4)
KNEE = Truth(EAGLE, base_s=0.008, token_s=2e-6, draft_s=5e-4, knee=128, beyond_s=1e-4)
CONTEXT = Truth(EAGLE, base_s=0.006, token_s=2e-6, draft_s=3e-4, request_s=4e-5, knee=300, beyond_s=1.5e-5)
LATE = Truth((0.8, 0.65, 0.5, 0.4, 0.3, 0.2, 0.15), base_s=0.008, token_s=2e-6, draft_s=5e-4, knee=256, beyond_s=5e-5)


def timed(*files: Path, kind: str = "eagle3") -> tuple[Server, Acceptance, Seen]:
    """What files that time steps with drafts and without say."""
    server = together(*read_files(files))
    acceptance = acceptance_of(server)
    costs = seen(server, kind, acceptance)
    assert costs is not None
    return server, acceptance, costs


def from_log(folder: Path, truth: Truth, loads: Sequence[int]) -> tuple[Seen, Acceptance]:
    """What forty stretches of every load with drafts and thirty without say."""
    (folder / "with.log").write_text(vllm_log(truth, [n for n in loads for _ in range(40)]))
    (folder / "without.log").write_text(vllm_log(truth, [n for n in loads for _ in range(30)], k=lambda n: 0))
    _, acceptance, found = timed(folder / "with.log", folder / "without.log")
    return found, acceptance


def over_none(found: Seen, acceptance: Acceptance, k: int, running: int) -> np.ndarray:
    speeds = [acceptance.tokens_drawn(one) / found.seconds(one, running) for one in (k, 0)]
    return speeds[0] / speeds[1] - 1


@pytest.mark.parametrize(
    ("truth", "loads"),
    [
        (LINE, (8, 32, 64)), (KNEE, (8, 32, 64)), (KNEE, (16, 64)), (CONTEXT, (16, 64, 160)), (CONTEXT, (64,)),
        (LATE, (4, 16, 48)), (KNEE, (1, 2, 4)),
    ],
)  # fmt: skip
def test_intervals_hold_the_truth_at_loads_that_ran(tmp_path: Path, truth: Truth, loads: Sequence[int]) -> None:
    """Every k at every load that ran; k that were served are known to a few percent, which is what was measured."""
    found, acceptance = from_log(tmp_path, truth, loads)
    most = len(truth.survival)
    for running in loads:
        for k in range(1, most + 1):
            right = truth.speed(k, running) / truth.speed(0, running) - 1
            low, high = interval(over_none(found, acceptance, k, running))
            # Within two points beside the interval where two loads of eight-fold tokens leave a knee anywhere.
            slack = 0.2 if loads == (16, 64) and k < most else 0.02
            assert low - slack <= right <= high + slack, (running, k)
        served = over_none(found, acceptance, most, running)
        assert np.ptp(interval(served)) < 0.3
        assert np.median(served) == pytest.approx(truth.speed(most, running) / truth.speed(0, running) - 1, abs=0.06)


def test_beyond_what_ran_nothing_is_promised_for_sure(tmp_path: Path) -> None:
    """Loads of 1 to 4 say nothing of 64, where K = 3 loses a quarter; and no such load is looked at."""
    found, acceptance = from_log(tmp_path, KNEE, (1, 2, 4))
    widths = [np.ptp(np.log1p(interval(over_none(found, acceptance, 3, n)))) for n in (4, 8, 16, 32)]
    assert sorted(widths) == widths
    assert widths[-1] > 1.5
    (tmp_path / "more").mkdir()
    told = advised(tmp_path / "more", vllm_log(KNEE, [1, 2, 4] * 40), tmp_path / "without.log")
    loads = told["loads"]
    assert isinstance(loads, list)
    assert max(one["running"] for one in loads) <= 8


def test_more_loads_that_fit_a_line_tell_no_less(tmp_path: Path) -> None:
    """Medians of collinear parts of a curve are no curve: of a server whose steps are a line more loads told less of each
    of them."""
    truth = replace(FIVE, base_s=0.0075, token_s=1.2e-5, draft_s=3.5e-4, request_s=3e-5)
    found, acceptance = from_log(tmp_path, truth, (1, 4, 16, 48, 96, 160))
    assert found.misfit < 0.02
    low, high = interval(over_none(found, acceptance, 5, 1))
    right = truth.speed(5, 1) / truth.speed(0, 1) - 1
    assert low < right < high < low + 0.2


def test_prompts_that_pile_up_are_no_second_server(tmp_path: Path) -> None:
    """What runs when a line is written is no mean of its steps: 25 after 6 were 4.5 s of three, and refused."""
    (tmp_path / "log").write_text(
        sglang_clients_log(FIVE, replace(CHUNKS, users=lambda s: (2, 24)[int(s // 5) % 2]), 5, 400, 40)[0]
    )
    assert acceptance_of(together(*read_files([tmp_path / "log"]))).gamma == 5


def test_a_server_that_loses_is_told_so(tmp_path: Path) -> None:
    """At 64 running K = 3 is 6 % slower than no drafts and k = 1 60 % faster; one line for all loads said +46 %."""
    found, acceptance = from_log(tmp_path, KNEE, (8, 32, 64))
    assert np.quantile(over_none(found, acceptance, 3, 64), 0.975) < 0
    assert np.quantile(over_none(found, acceptance, 1, 64), 0.025) > 0.3


FLAT = Truth(EAGLE, base_s=0.015, token_s=0.00006, draft_s=0.004)
TURNING = Truth(EAGLE, base_s=0.012, token_s=0.00003, draft_s=0.0008, knee=40, beyond_s=0.00022)


def off(running: int) -> int:
    """Drafts up to 16 running."""
    return 3 if running <= 16 else 0


def table(running: int) -> int:
    """Shorter ones on the way."""
    return 3 if running <= 12 else 1 if running <= 30 else 0


@pytest.mark.parametrize("period", [60, 168])
@pytest.mark.parametrize("k", [off, table])
@pytest.mark.parametrize("truth", [FLAT, TURNING], ids=["flat", "turning"])
def test_a_server_whose_k_changes_within_stretches(
    truth: Truth, k: Callable[[int], int], period: float, tmp_path: Path
) -> None:
    """What every k would give lies inside; stretches in which drafting was switched made it a look-up that finds little."""
    text, gains = walked_log(truth, lambda s: round(21 + 19 * np.sin(s / period)), k, 3000)
    (tmp_path / "a").write_text(text)
    server, acceptance, costs = timed(tmp_path / "a")
    assert server.proposing == 1
    for one in advise(server, acceptance, "eagle3", costs).of_tokens:
        assert one.gain.low - 0.015 < gains[one.k] < one.gain.high + 0.015


@pytest.mark.parametrize("begins", [True, False], ids=["from its start", "from the middle"])
@pytest.mark.parametrize("stretches", [30, 240])
def test_a_baseline_is_no_load_that_was_served(stretches: int, begins: bool, tmp_path: Path) -> None:
    """A log without speculation times steps, however long it is; what was served drafted at every load."""
    loads = [2 + 2 * min(i % 18, 18 - i % 18) for i in range(60)]
    (tmp_path / "with").write_text(vllm_log(FLAT, loads))
    without = [3 + 2 * min(i % 18, 18 - i % 18) for i in range(stretches)]
    lines = vllm_log(FLAT, without, k=lambda n: 0, method="").replace("11-26 ", "11-27 ").splitlines(keepends=True)
    (tmp_path / "without").write_text("".join(lines[0 if begins else 2 :]))
    server, acceptance, costs = timed(tmp_path / "with", tmp_path / "without")
    advice = advise(server, acceptance, "eagle3", costs)
    served = sum(n * FLAT.speed(3, n) for n in loads)
    for one in advice.of_tokens:
        gain = sum(n * FLAT.speed(one.k, n) for n in loads) / served - 1
        assert one.gain.low - 0.015 < gain < one.gain.high + 0.015
    assert (advice.of_tokens[0].k, advice.of_tokens[3].gain.value) == (0, 0)
    assert all(one.as_served == 3 for one in advice.loads)
    assert server.running[-1] <= max(loads)


@pytest.mark.parametrize("day", ["11-24", "11-28"], ids=["earlier", "later"])
def test_a_baseline_with_its_start_is_no_part_of_a_drafting_log_without_one(day: str, tmp_path: Path) -> None:
    """Yesterday's baseline is whole and today's log was rotated: no server that was started without speculation drafts."""
    loads = [n for _ in range(3) for n in (2, 4, 8, 16, 32) for _ in range(8)]
    (tmp_path / "with").write_text("".join(vllm_log(LINE, loads).splitlines(keepends=True)[2:]))
    without = vllm_log(LINE, loads + loads, seed=3, k=lambda n: 0, method="").replace("11-26 ", f"{day} ")
    (tmp_path / "without").write_text(without)
    server, acceptance, costs = timed(tmp_path / "with", tmp_path / "without")
    assert (len(server.plain), len(server.baseline)) == (0, 240)
    assert {server.served_k(n) for n in loads} == {3}
    advice = advise(server, acceptance, "eagle3", costs)
    assert (advice.verdict, advice.k) == ("keep", 3)
    more = vllm_log(LINE, [48] * 20, seed=4, k=lambda n: 0, method="").replace("11-26 ", "11-29 ").splitlines(keepends=True)
    (tmp_path / "more").write_text("".join(more[2:]))  # its second part, of a load at which the other did not draft
    assert len(timed(tmp_path / "with", tmp_path / "without", tmp_path / "more")[0].baseline) == 260


def test_drafts_after_a_start_without_speculation_are_of_another_server(tmp_path: Path) -> None:
    """A baseline's log and the end of a drafting one, put one behind the other; a model that brings its drafter names none
    among its arguments, and the engine says it."""
    plain = vllm_log(LINE, [8] * 20, k=lambda n: 0, method="")
    drafting = vllm_log(LINE, [8] * 20).replace("11-26 ", "11-27 ").splitlines(keepends=True)[2:]
    (tmp_path / "a").write_text(plain + "".join(drafting))
    with pytest.raises(InputError, match="started without speculation, and 20 lines of drafts came after"):
        read_files([tmp_path / "a"])
    begins = plain.splitlines(keepends=True)[0] + (
        "(EngineCore pid=2) INFO 11-26 09:59:02 [core.py:1] Initializing a V1 LLM engine (v0.12.0) with config: "
        "model='Org/Model-8B', speculative_config=SpeculativeConfig(method='eagle3', model='Org/D', num_spec_tokens=3)\n"
    )
    (tmp_path / "a").write_text(begins + "".join(drafting))
    assert together(*read_files([tmp_path / "a"])).settings.speculates


def test_a_table_gives_up_no_more_than_it_secures(tmp_path: Path) -> None:
    """No drafts are 1 % faster than what was served at 8 running, K = 1 is by a third at every load: a step of half as many
    tokens as were timed is hardly longer than a line through those that were."""
    truth = Truth((0.72, 0.2, 0.05), base_s=0.01, token_s=6e-5, draft_s=3e-3)
    loads = [n for _ in range(3) for n in (2, 8, 32) for _ in range(8)]
    (tmp_path / "with").write_text(vllm_log(truth, loads))
    without = vllm_log(truth, loads, seed=3, k=lambda n: 0, method="").replace("11-26 ", "11-27 ")
    (tmp_path / "without").write_text(without)
    server, acceptance, costs = timed(tmp_path / "with", tmp_path / "without")
    advice = advise(server, acceptance, "eagle3", costs)
    assert (advice.verdict, advice.k) == ("set", 1)
    truly = sum(n * truth.speed(1, n) for n in loads) / sum(n * truth.speed(3, n) for n in loads) - 1
    assert advice.gain.low < truly < advice.gain.high
    assert all(one.sure for one in advice.loads if one.served)


@pytest.mark.parametrize("knee", [80, np.inf])
def test_passes_beyond_those_that_were_timed_may_turn(knee: float, tmp_path: Path) -> None:
    """Up to 64 tokens were timed; 160 may be memory's or arithmetic's time, and the interval holds both."""
    truth = Truth(EAGLE, base_s=0.015, token_s=0.00001, draft_s=0.001, knee=knee, beyond_s=0.0002)
    loads = [n for n in (4, 7, 10, 13, 16, 20, 25, 30, 35, 40) for _ in range(12)]
    (tmp_path / "a").write_text(vllm_log(truth, loads, k=off))
    _, _, costs = timed(tmp_path / "a")
    low, high = np.quantile(costs.seconds(3, 40) / costs.seconds(0, 40), [0.025, 0.975])
    assert low < truth.step_s(3, 40) / truth.step_s(0, 40) < high


@pytest.mark.parametrize("truth", [FLAT, TURNING], ids=["flat", "turning"])
def test_a_look_up_that_is_switched_off_by_load_finds_as_much_as_where_it_is_on(truth: Truth, tmp_path: Path) -> None:
    """It finds drafts in four steps of ten up to 16 running: the steps above are none in which it found nothing."""
    load = lambda s: round(21 + 19 * np.sin(s / 100))  # noqa: E731
    text, gains = walked_log(truth, load, off, 3000, method="ngram", found=0.4)
    (tmp_path / "a").write_text(text)
    server = together(*read_files([tmp_path / "a"]))
    assert server.drafts_to == pytest.approx(16, abs=1.5)
    assert server.proposing == pytest.approx(0.4, abs=0.04)
    assert (server.served_k(8), server.served_k(30)) == (3, 0)
    acceptance = acceptance_of(server)
    costs = seen(server, "ngram", acceptance)
    assert costs is not None
    for one in advise(server, acceptance, "ngram", costs).of_tokens:
        assert one.gain.low - 0.02 < gains[one.k] < one.gain.high + 0.02


def test_a_drafter_that_always_proposes_is_taken_for_one_where_it_is_named(tmp_path: Path) -> None:
    """Files that name no drafter: it is asked for, and named it was switched off within their stretches."""
    text, _ = walked_log(FLAT, lambda s: round(21 + 19 * np.sin(s / 3)), off, 3000)
    (tmp_path / "a").write_text("".join(line + "\n" for line in text.splitlines() if "speculative_config" not in line))
    found = read_files([tmp_path / "a"])
    assert together(*found).proposing < 0.97
    named = together(*found, "eagle3")
    assert (named.kind, named.proposing) == ("eagle3", 1)


def test_loads_without_drafts_that_are_not_compared_are_told(tmp_path: Path) -> None:
    """They come and go within a few stretches, so that no step without drafts is timed at a load that drafts."""
    text, _ = walked_log(FLAT, lambda s: round(21 + 19 * np.sin(s / 25)), off, 3000)
    (tmp_path / "a").write_text(text)
    server = together(*read_files([tmp_path / "a"]))
    acceptance = acceptance_of(server)
    assert seen(server, "eagle3", acceptance) is None
    advice = advise(server, acceptance, "eagle3", believed(server, "eagle3", acceptance))
    assert any("where nothing was drafted" in one for one in advice.cannot)


FIVE = Truth((0.62, 0.38, 0.24, 0.15, 0.09), base_s=0.012, token_s=0.00003, draft_s=0.0006)
SEVEN = Truth((0.8, 0.6, 0.45, 0.34, 0.25, 0.19, 0.14), base_s=0.012, token_s=0.00003, draft_s=0.0008)
SHORT = Clients(lambda s: 8, answer=10)
LONG = Clients(lambda s: (4, 8, 16)[int(s // 60) % 3], answer=120, prompt=3000, prompt_s=4e-5)
BUSY = Clients(lambda s: (4, 40)[int(s // 120) % 2], survival=lambda n: (0.8, 0.64, 0.5) if n < 20 else (0.35, 0.12, 0.05))


@pytest.mark.parametrize(
    ("truth", "clients"), [(SEVEN, SHORT), (FIVE, LONG), (TURNING, BUSY)],
    ids=["short answers", "long prompts", "harder when busy"],
)  # fmt: skip
def test_a_servers_requests_walked_one_by_one(truth: Truth, clients: Clients, tmp_path: Path) -> None:
    """With drafts and, another day, without: what each k gives lies inside. Steps were taken to be as many as tokens less
    those accepted, prompts' time to be drafts', and acceptance the same at all loads: "off" where that halves the speed."""
    most = len(truth.survival)
    text, _ = clients_log(truth, clients, most, 720)
    (tmp_path / "with").write_text(text)
    plain, _ = clients_log(truth, clients, 0, 720, seed=1)
    (tmp_path / "without").write_text(plain.replace("11-27 ", "11-28 "))
    server, acceptance, costs = timed(tmp_path / "with", tmp_path / "without")
    advice = advise(server, acceptance, "eagle3", costs)
    true = [clients_log(truth, clients, k, 360, seed=2 + k)[1] for k in range(most + 1)]
    for one in advice.of_tokens:
        gain = sum(true[one.k].values()) / sum(true[most].values()) - 1
        assert one.gain.low - 0.03 < gain < one.gain.high + 0.03, one.k
    for at in advice.loads:
        if at.over_none is not None and at.running in true[0]:
            over = true[most][at.running] / true[0][at.running] - 1
            assert at.as_served == most
            assert np.log1p(at.over_none.value) == pytest.approx(np.log1p(over), abs=0.06), at.running


CHUNKS = Clients(lambda s: (6, 12, 24)[int(s // 60) % 3], answer=250, prompt=8000, prompt_s=5e-5, differ=True)


@pytest.mark.parametrize("every", [10, 40])
@pytest.mark.parametrize("filtered", [False, True], ids=["whole", "lines of decoding alone"])
def test_a_server_that_computes_prompts_is_not_idle(every: int, filtered: bool, tmp_path: Path) -> None:
    """SGLang's lines of few steps hold a prompt or none: those that did were taken for idle times, and no drafts to give
    more where they give a sixth less. Whoever kept the lines of decoding alone is told as much, as far as it is known."""
    made = {k: sglang_clients_log(FIVE, CHUNKS, k, 1440, every, seed=k) for k in (0, 3, 5)}
    for k in (0, 5):
        text = made[k][0]
        kept = [line for line in text.splitlines() if not (filtered and "Prefill" in line)]
        (tmp_path / f"{k}.log").write_text("\n".join(kept) + "\n")
    server, acceptance, costs = timed(tmp_path / "5.log", tmp_path / "0.log")
    advice = advise(server, acceptance, "eagle3", costs)
    assert (sum(one.prompt_tok_s > 0 for one in server.intervals) > 50) != filtered
    for k in (0, 3):
        gain = next(one.gain for one in advice.of_tokens if one.k == k)
        truth = made[k][1] / made[5][1] - 1
        assert gain.low - 0.03 < truth < gain.high + 0.03, k


@pytest.mark.parametrize(("users", "think_s"), [(3, 1.0), (1, 0.4), (2, 2.0)])
def test_lines_in_which_nothing_ran_for_a_while_time_no_step(users: int, think_s: float, tmp_path: Path) -> None:
    """Few users who read what they are told: a line of SGLang's holds short idle times, the more of them the faster answers
    come. No drafts were told to lose less than they do, and a table that loses to gain."""
    truth = Truth((0.6, 0.36, 0.2), base_s=0.01, token_s=2e-5, draft_s=1.2e-3)
    clients = Clients(lambda s: users, answer=100, differ=True, think_s=think_s)
    for k in (0, 3):
        (tmp_path / f"{k}.log").write_text(sglang_clients_log(truth, clients, k, 1200, 40, seed=k)[0])
    server, acceptance, costs = timed(tmp_path / "3.log", tmp_path / "0.log")
    advice = advise(server, acceptance, "eagle3", costs)
    for k in (0, 1):
        gain = next(one.gain for one in advice.of_tokens if one.k == k)
        right = truth.speed(k, users) / truth.speed(3, users) - 1
        assert gain.low - 0.02 < right < gain.high + 0.02, k
    assert advice.verdict == "keep"


def test_contexts_that_steps_read_are_no_tokens_cost(tmp_path: Path) -> None:
    """A step at 32 running is more than twice as long as at 4 for contexts' sake, which no K reads less of: the share of the
    memory that they take says so."""
    truth = replace(FIVE, token_s=2e-6, request_s=6e-4)
    used = text = vllm_log(truth, sorted([4, 8, 16, 32] * 20))
    for n in (4, 8, 16, 32):
        used = used.replace(f"usage: {n / 50:.1f}%", f"usage: {2.5 * n:.1f}%")
    gains = []
    for name, own in (("without", re.sub(r"GPU KV cache usage: [\d.]+%, ", "", text)), ("with", used)):
        (tmp_path / name).write_text(own)
        server = together(*read_files([tmp_path / name]))
        acceptance = acceptance_of(server)
        advice = advise(server, acceptance, "eagle3", believed(server, "eagle3", acceptance))
        gains.append(next(one for one in advice.loads if one.running == 32).gains[0])
    right = truth.speed(1, 32) / truth.speed(5, 32) - 1
    assert abs(gains[1].value - right) < abs(gains[0].value - right)
    assert gains[1].low < right < gains[1].high


def test_prompts_in_the_steps_leave_less_to_choose(tmp_path: Path) -> None:
    """They take as long whatever is drafted: what a K gains or loses is less than of a log whose lines have no prompts, by
    what is believed and by a profile alike, and no further from the truth."""
    text, _ = clients_log(FIVE, LONG, 5, 480)
    (tmp_path / "with").write_text(text)
    (tmp_path / "none").write_text(re.sub(r"prompt throughput: [\d.]+", "prompt throughput: 0.0", text))
    loads = {k: clients_log(FIVE, LONG, k, 240, seed=2 + k)[1] for k in (1, 5)}
    for costs_of in (believed, partial(profiled, find_profile("h100/qwen3-8b"))):
        found = []
        for name in ("with", "none"):
            server = together(*read_files([tmp_path / name]))
            acceptance = acceptance_of(server)
            found.append(advise(server, acceptance, "eagle3", costs_of(server, "eagle3", acceptance)).of_tokens)
        one, other = (next(k.gain for k in own if k.k == 1) for own in found)
        truth = sum(loads[1].values()) / sum(loads[5].values()) - 1
        assert abs(one.value - truth) < abs(other.value - truth) + 0.005
        assert one.high - one.low < 1.1 * (other.high - other.low)


def stretch(running: float, drafts: float, accepted: float, steps: float) -> Interval:
    """Ten seconds, with drafts of one token."""
    told = Drafts(drafts=drafts, drafted=drafts, accepted=accepted, accepted_at=(accepted,)) if drafts else None
    rate = (steps + accepted) / 10
    return Interval(seconds=10, running=running, steady=True, generated_tok_s=rate, drafts=told, plain=not drafts)


def trends(share: Callable[[int, float], float], visits: int, seed: int) -> Trend | None:
    """Of phases of five minutes at 2 and 16 running; a request is as easy as all of its phase, where few run more apart."""
    rng, made = np.random.default_rng(seed), list[Interval]()
    for visit in range(visits):
        running = (2, 16)[visit % 2]
        own = share(running, float(rng.standard_normal() / np.sqrt(running)))
        made += [stretch(running, 400 * running, rng.binomial(400 * running, own), 400 * running) for _ in range(30)]
    whole = sum(one.drafts.accepted for one in made if one.drafts) / sum(one.drafts.drafts for one in made if one.drafts)
    return trend_of(made, np.array([whole]), 100, rng)


def test_a_trend_is_no_chance_of_which_requests_ran() -> None:
    """Stretches one after another hold the same requests: of 60 servers without one none shows a trend, of those with
    one nearly all do once each load was seen six times."""
    none = [trends(lambda n, off: 0.6 + 0.1 * off, 6, seed) for seed in range(60)]
    assert sum(one is not None for one in none) <= 1
    some = [trends(lambda n, off: (0.8 if n == 2 else 0.4) + 0.05 * off, 12, seed) for seed in range(20)]
    found = [one for one in some if one is not None]
    assert len(found) >= 18
    for one in found:
        low, high = (float(shifted(np.array([[0.444]]), one.shift(n))[0, 0]) for n in (2, 16))
        assert (low, high) == (pytest.approx(0.8, abs=0.1), pytest.approx(0.4, abs=0.05))


def test_a_look_up_that_finds_more_when_busy_has_its_own_share_at_each_load(tmp_path: Path) -> None:
    """In 15 % of steps at 4 running, in 60 % at 32: one share for both promised four times as much at 4."""
    rng, lines = np.random.default_rng(0), vllm_log(FLAT, [4], method="ngram").splitlines()[:2]
    at = datetime(2026, 11, 27, 2, 0, 0)
    for i in range(120):
        running = 4 if (i // 15) % 2 == 0 else 32
        slots = 300 * running
        drafts = int(rng.binomial(slots, 0.15 if running == 4 else 0.6))
        counts = [int(drafts * share) for share in EAGLE]
        lines += _stretch(at + timedelta(seconds=10 * i), running, slots, drafts, 3 * drafts, counts, 3)
    (tmp_path / "a").write_text("\n".join(lines) + "\n")
    acceptance = acceptance_of(together(*read_files([tmp_path / "a"])))
    for running, share in ((4, 0.15), (32, 0.6)):
        assert acceptance.coverage_at(running) == pytest.approx(share, abs=0.02)
        assert np.median(acceptance.tokens_at(3, running)) == pytest.approx(1 + share * sum(EAGLE), rel=0.03)


def test_prompts_that_were_cached_are_no_time_of_a_profile() -> None:
    """Some versions count them in their lines: taken off, steps would be next to nothing, or fall while more runs."""
    profile = find_profile("h100/qwen3-8b")

    def bins(prompts: float) -> list[StepBin]:
        return [StepBin(n, 0.010 + 2e-4 * n, 9, 0.5, prompts * n, 0.01) for n in (8.0, 32.0)]

    left, each_s = _without_prompts(bins(5), profile)
    assert each_s > 0
    assert left[0].each_s == pytest.approx(0.0116 - 40 * each_s)
    assert _without_prompts(bins(400), profile) == (bins(400), 0.0)


def test_of_a_server_that_trims_its_drafts_nothing_else_is_sure(tmp_path: Path) -> None:
    """What is known is of drafts verified whole, which it did not serve: what lower K gains over those it has already."""
    slow = Truth(EAGLE, base_s=0.008, token_s=2e-4, draft_s=5e-4)
    text = vllm_log(slow, [n for n in (16, 48) for _ in range(40)])
    adaptive = text.replace("'num_speculative_tokens'", "'enable_adaptive_verification': True, 'num_speculative_tokens'")
    plain = vllm_log(slow, [n for n in (16, 48) for _ in range(30)], k=lambda n: 0, method="").replace("11-26 ", "11-27 ")
    (tmp_path / "without").write_text(plain)
    for name, said in (("with", text), ("trims", adaptive)):
        (tmp_path / name).write_text(said)
        server, acceptance, costs = timed(tmp_path / name, tmp_path / "without")
        advice = advise(server, acceptance, "eagle3", costs)
        assert (advice.verdict == "keep") == (name == "trims")
        assert any(one.sure for one in advice.loads) == (name == "with")
        assert (advice.pays_to is None) == (name == "trims")


def test_a_check_expects_of_loads_what_was_told_of_them(tmp_path: Path) -> None:
    """K = 1 gains at 64 running and nothing at 8: a quiet week later shows the latter, and that is as was told. Of a table,
    loads at which it changes nothing tell nothing."""
    loads = [n for n in (8, 64) for _ in range(40)]
    (tmp_path / "with").write_text(vllm_log(KNEE, loads))
    without = vllm_log(KNEE, loads, k=lambda n: 0, method="")
    (tmp_path / "without").write_text(without.replace("11-26 ", "11-27 "))
    server, acceptance, costs = timed(tmp_path / "with", tmp_path / "without")
    advice = advise(server, acceptance, "eagle3", costs)
    quiet = replace(advice, verdict="set", k=1, rows=(), at_loads=tuple(
        (n, Estimate(gain, gain - 0.02, gain + 0.02)) for n in (8, 64) for gain in (KNEE.speed(1, n) / KNEE.speed(3, n) - 1,)
    ), gain=Estimate(0.5, 0.4, 0.6))  # fmt: skip
    later = Truth(EAGLE[:1], KNEE.base_s, KNEE.token_s, KNEE.draft_s, knee=KNEE.knee, beyond_s=KNEE.beyond_s)
    (tmp_path / "later").write_text(vllm_log(later, [8] * 60, seed=3).replace("11-26 ", "11-28 "))
    assert check(quiet, together(*read_files([tmp_path / "later"]))).held
    table = replace(quiet, verdict="by_batch", k=3, rows=((1, 32, 3), (33, 128, 1)))
    (tmp_path / "same").write_text(vllm_log(KNEE, [8] * 60, seed=4).replace("11-26 ", "11-28 "))
    found = check(table, together(*read_files([tmp_path / "same"])))
    assert found.held is None
    assert "no load at which the table has another K" in found.why[0]


def test_a_table_that_is_surer_is_not_given_up_for_one_k(tmp_path: Path) -> None:
    """At 6 running K = 5 is right, at 64 none: K = 1 everywhere gains less, is less sure, and loses 10 % at 6."""
    steep = Truth((0.55, 0.34, 0.2, 0.12, 0.07), base_s=0.012, token_s=1e-5, draft_s=4e-4, knee=60, beyond_s=1.5e-4)
    loads = [n for n in (6, 20, 64) for _ in range(60)]
    (tmp_path / "with").write_text(vllm_log(steep, loads))
    (tmp_path / "without").write_text(vllm_log(steep, loads, k=lambda n: 0, method="").replace("11-26 ", "11-27 "))
    server, acceptance, costs = timed(tmp_path / "with", tmp_path / "without")
    advice = advise(server, acceptance, "eagle3", costs)
    assert advice.verdict == "by_batch"
    assert all(gain.value > -0.02 for _, gain in advice.at_loads)
    assert {one.running for one in advice.loads if one.served} >= {6, 20, 64}
    assert not any(one.served for one in advice.loads if one.running in (2, 32))
