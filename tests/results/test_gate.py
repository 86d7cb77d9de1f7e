"""Gates: seldom wrong, sure where they say so, and honest about what they could not have seen."""

from __future__ import annotations

import codecs
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy.stats import nct
from scipy.stats import t as student_t

from harness.cli.changes import junit, markdown
from results.baseline import Answer, Baseline, BaselineRecording, baseline, finished_baseline, read_baseline, write_baseline
from results.change import Noise, mean_of_ratios, noise_of_ratio
from results.comparison import OVERALL, compare, compare_drafters, compare_with_baseline
from results.gate import Judged, judge
from simulator.errors import InputError
from tests.results.database import ACCEPTANCE, RUN, recorded
from tests.results.sums import compared, drawn, prompts
from tests.selection import few

DRAWS = 200


def overall(first: Baseline, second: Baseline, tolerance: float) -> Judged:
    [row] = [row for row in judge(compared(first, second), tolerance).rows if row.change.where == OVERALL]
    return row


def two_runs(rng: np.random.Generator, number: int, loss: float, *, paired: bool) -> tuple[Baseline, Baseline]:
    """Independent draws of both runs, the second with a planted loss; of the same prompts, or of others."""
    means = prompts(rng, number)
    first = drawn(rng, means)
    return first, drawn(rng, means if paired else prompts(rng, number), loss=loss, suite="a" if paired else "b")


def outcomes(
    rng: np.random.Generator, number: int, loss: float, tolerance: float, *, paired: bool, draws: int = DRAWS
) -> Counter[str]:
    """What so many gates say of new draws."""
    runs = (two_runs(rng, number, loss, paired=paired) for _ in range(draws))
    return Counter(judge(compared(*pair), tolerance).outcome for pair in runs)


@pytest.mark.parametrize("paired", few([True, False], True))
def test_a_planted_loss_is_found_with_the_prompts_asked_for_and_nothing_else_is(paired: bool) -> None:
    """At most 5 % false alarms, at least 80 % of planted losses of 5 % found, at the numbers the tool says it takes.

    The numbers come from 10 pilots of 30 prompts a task, 20 draws each. Of 200 false alarms with chance 2.5 %, 10 are
    beyond 97 %.
    """
    rng = np.random.default_rng(7)
    found: dict[str, Counter[str]] = {"same": Counter(), "same, 5 %": Counter(), "worse": Counter(), "worse, 5 %": Counter()}
    for _ in range(10):
        number = overall(*two_runs(rng, 30, 0.0, paired=paired), 0.05).prompts_needed
        assert number is not None
        for name, loss, tolerance in (
            ("same", 0.0, 0.02), ("same, 5 %", 0.0, 0.05), ("worse", 0.05, 0.02), ("worse, 5 %", 0.05, 0.05),
        ):  # fmt: skip
            found[name] += outcomes(rng, number, loss, tolerance, paired=paired, draws=DRAWS // 10)
    assert found["same"]["worse"] <= 0.05 * DRAWS
    assert found["same, 5 %"]["worse"] <= 0.05 * DRAWS
    assert found["same, 5 %"]["pass"] >= 0.8 * DRAWS
    assert found["worse"]["worse"] >= 0.8 * DRAWS
    assert found["worse, 5 %"]["worse"] >= 0.5 * DRAWS
    assert found["worse, 5 %"]["pass"] <= 0.05 * DRAWS


@pytest.mark.parametrize("number", few([3, 8], 8))
def test_few_prompts_raise_no_false_alarms_and_let_no_loss_pass(number: int) -> None:
    rng = np.random.default_rng(number)
    assert outcomes(rng, number, 0.0, 0.02, paired=True)["worse"] <= 0.05 * DRAWS
    assert outcomes(rng, number, 0.02, 0.02, paired=True)["pass"] <= 0.05 * DRAWS


def test_a_noisy_comparison_is_inconclusive_and_says_what_it_would_take() -> None:
    """Other prompts before and now, ten a task, hard and easy ones: an interval of some 40 %."""
    rng = np.random.default_rng(1)
    first, second = (drawn(rng, prompts(rng, 10, spread=0.8), suite=name) for name in "ab")
    row = overall(first, second, 0.02)
    assert judge(compared(first, second), 0.02).outcome == row.outcome == "inconclusive"
    assert row.change.low is not None
    assert row.change.high is not None
    assert row.change.high - row.change.low > 0.3
    assert row.change.sees is not None
    assert row.change.sees > 0.2
    assert row.prompts_needed is not None
    assert row.prompts_needed > 1000


def test_what_all_prompts_do_alike_has_no_noise_where_they_are_paired() -> None:
    """Prompts are as unlike as prompts are, and each of them loses a tenth: of that nothing is in doubt."""
    rng = np.random.default_rng(0)
    before = [np.stack([rng.lognormal(5, 1, 20), np.ones(20)], axis=1) for _ in range(2)]
    after = [stratum * [0.9, 1] for stratum in before]
    paired, apart = (noise_of_ratio(before, after, paired=paired) for paired in (True, False))
    assert paired is not None
    assert apart is not None
    assert paired.error == pytest.approx(0, abs=1e-12)
    assert apart.error > 0.1


def test_noise_is_that_of_the_law() -> None:
    """The jackknife's error, over tasks that weigh the same, is the spread of the estimate over 2000 draws."""
    rng = np.random.default_rng(0)

    def sums(number: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        rounds = rng.integers(10, 60, number)
        return np.stack([rounds + rng.poisson(rounds * rng.lognormal(0.5, 0.4, number)), rounds], axis=1).astype(float)

    logs, errors, missed = [], [], 0
    for _ in range(2000):
        first, second = [sums(30), sums(12)], [sums(30), sums(12)]
        noise = noise_of_ratio(first, second, paired=False)
        before, after = mean_of_ratios(first), mean_of_ratios(second)
        assert noise is not None
        assert before
        assert after
        logs.append(math.log(after / before))
        errors.append(noise.error)
        missed += abs(logs[-1]) > noise.half_width
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(logs), rel=0.08)
    assert 0.035 < missed / 2000 < 0.07


def test_what_could_be_seen_is_seen_in_four_of_five_cases() -> None:
    """Beside the exact power of a t-test, by the noncentral t."""
    for units in (6, 20, 200):
        noise = Noise((0.01**2,), (units,))
        shift = -math.log1p(-noise.sees) / noise.error
        critical = float(student_t.ppf(0.975, units - 1))
        assert float(nct.sf(critical, units - 1, shift)) == pytest.approx(0.8, abs=0.02)


def test_prompts_needed_is_the_least_that_do() -> None:
    """2000 units make the noise well known: (z.975 + z.8)² σ² / log(.98)² by the normal, and a little more."""
    sigma = 0.2
    noise = Noise((sigma**2 / 2000,), (2000,))
    normal = ((1.95996 + 0.84162) * sigma / math.log(0.98)) ** 2
    needed = noise.needed(0.02, 1)
    assert needed is not None
    assert normal < needed < 1.1 * normal
    assert noise.needed(0.02, 50) == pytest.approx(normal * ((3.29053 + 0.84162) / 2.80158) ** 2, rel=0.1)
    assert Noise((0.0,), (5,)).needed(0.02, 1) is None
    assert Noise((9.0,), (2,)).needed(1e-6, 1) is None


def test_the_same_answers_pass_and_tell_no_number() -> None:
    run = drawn(np.random.default_rng(0), prompts(np.random.default_rng(1), 5))
    row = overall(run, run, 0.02)
    assert (row.outcome, row.change.low, row.change.sees, row.prompts_needed) == ("pass", 0, 0, None)


def test_one_prompt_a_task_is_inconclusive() -> None:
    rng = np.random.default_rng(0)
    row = overall(drawn(rng, prompts(rng, 1)), drawn(rng, prompts(rng, 1)), 0.5)
    assert (row.outcome, row.change.low, row.prompts_needed) == ("inconclusive", None, None)


def test_two_prompts_that_change_alike_know_no_noise() -> None:
    before, after = np.array([[20.0, 10.0], [33.0, 11.0]]), np.array([[22.0, 10.0], [36.3, 11.0]])
    assert noise_of_ratio([before], [after], paired=True) is None
    assert noise_of_ratio([before, before], [after, after], paired=True) is not None


def test_what_is_gone_fails_in_whole_or_in_part() -> None:
    rng = np.random.default_rng(0)
    means = prompts(rng, 40, spread=0.01)
    whole = drawn(rng, means, drafters=("dspark", "mtp"))
    kept = {name: answer for name, answer in whole.recordings[0].answers.items() if name != "gsm8k/3"}
    part = msgspec.structs.replace(
        whole, recordings=(BaselineRecording("dspark", 7, "sampled", kept), *whole.recordings[1:])
    )
    assert judge(compared(whole, whole), 0.1).outcome == "pass"
    assert judge(compared(whole, part), 0.1).outcome == "worse"
    assert judge(compared(part, whole), 0.1).outcome == "pass"
    assert judge(compared(whole, msgspec.structs.replace(whole, recordings=whole.recordings[:1])), 0.1).outcome == "worse"


def test_noisy_speed_holds_nothing_up_but_is_told() -> None:
    """Few prompts of much the same length, timed three times: lengths are known, speeds are not."""
    two = {"dspark": 7, "none": 0}
    con = recorded(two)
    recorded(two, con=con, run="beef")
    con.execute("UPDATE speed_samples SET seconds = seconds * (1 + 0.9 * (hash(sample, prompt_id, drafter) % 7)) "
                "WHERE run_id = 'beef'").fetchall()  # fmt: skip
    gate = judge(compare(con, RUN, "beef"), 0.02)
    assert gate.outcome == "pass"
    assert [row.change.quantity for row in gate.undecided] == ["speed against none"]


def test_speed_of_two_passes_is_shown_and_said_not_to_be_judged() -> None:
    """It fails no gate, however slow; on a terminal and in Markdown it is told what would be judged."""
    two = {"dspark": 7, "none": 0}
    con = recorded(two)
    recorded(two, con=con, run="beef")
    con.execute("DELETE FROM speed_samples WHERE sample = 2").fetchall()
    con.execute("UPDATE speed_samples SET seconds = 3 * seconds WHERE run_id = 'beef' AND drafter = 'dspark'").fetchall()
    found = compare(con, RUN, "beef")
    [row] = [change for change in found.changes if change.quantity == "speed against none"]
    assert (row.verdict, row.judged) == ("not judged", False)
    assert row.low is not None
    gate = judge(found, 0.02)
    assert gate.outcome == "pass"
    assert "--speed-passes 3" in markdown(found, gate)
    assert "not judged, for want of passes" in junit(found, gate, allow_inconclusive=False)


def test_old_and_new_of_one_run_are_paired() -> None:
    con = recorded(
        {"old": 7, "new": 7, "none": 0}, kinds={"old": "eagle3", "new": "eagle3"}, prompts=20,
        acceptance={"old": 0.8, "new": 0.6},
    )  # fmt: skip
    found = compare_drafters(con, RUN, "old", "new")
    [row] = [change for change in found.changes if change.where == OVERALL]
    # τ of α = .8 and .6 at γ = 7: 4.16 and 2.46.
    assert row.change == pytest.approx(2.46 / 4.16 - 1, abs=0.05)
    assert (row.drafter, row.paired, row.verdict) == ("old → new", True, "worse")
    assert "speed against none" in {change.quantity for change in found.changes}
    assert judge(found, 0.02).outcome == "worse"
    assert judge(compare_drafters(con, RUN, "new", "old"), 0.02).outcome == "pass"
    with pytest.raises(InputError, match="has no recordings of older; it has new, old"):
        compare_drafters(con, RUN, "older", "new")


def test_drafters_of_one_block_each_are_compared_at_their_own() -> None:
    con = recorded({"old": 7, "new": 5, "none": 0}, kinds={"old": "mtp", "new": "mtp"}, speed=False)
    [row] = [change for change in compare_drafters(con, RUN, "old", "new").changes if change.where == OVERALL]
    assert (row.drafter, row.gamma) == ("old γ=7 → new", 5)


# --- baseline files -------------------------------------------------------------------------------------------------------


def test_a_baseline_says_what_its_run_says(tmp_path: Path) -> None:
    con = recorded({"dspark": 7, "mtp": 1, "none": 0}, prompts=6)
    recorded({"dspark": 7, "mtp": 1, "none": 0}, con=con, run="beef", prompts=6, acceptance=ACCEPTANCE | {"dspark": 0.5})
    file = tmp_path / "base.json"
    write_baseline(finished_baseline(con, RUN), file)
    read = read_baseline(file)
    marked = tmp_path / "marked.json"
    marked.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert read_baseline(marked) == read
    marked.unlink()
    assert read == baseline(con, RUN)
    lengths = [c for c in compare(con, RUN, "beef").changes if c.quantity == "accepted length"]
    by_file = compare_with_baseline(con, "base.json", read, "beef")
    assert [(c.where, c.first, c.second, c.noise) for c in by_file.changes] == [
        (c.where, c.first, c.second, c.noise) for c in lengths
    ]
    assert judge(by_file, 0.02).outcome == "worse"
    assert [file.name for file in tmp_path.iterdir()] == ["base.json"]


def test_a_baseline_of_the_first_format_is_read_and_what_it_cannot_see_is_told(tmp_path: Path) -> None:
    """It has no turns: none of those is missed, and where there are several that is said."""
    con = recorded({"dspark": 7, "none": 0}, prompts=6)
    recorded({"dspark": 7, "none": 0}, con=con, run="beef", prompts=6)
    file = tmp_path / "base.json"
    write_baseline(baseline(con, RUN), file)
    text = file.read_text()
    file.write_text(text.replace("specyard baseline 2", "specyard baseline 1").replace(', "turns": 1', ""))
    before = read_baseline(file)
    assert {answer.turns for answer in before.recordings[0].answers.values()} == {None}
    found = compare_with_baseline(con, "base.json", before, "beef")
    assert (judge(found, 0.02).outcome, found.differences) == ("pass", ())
    con.execute("INSERT INTO responses SELECT * REPLACE (1 AS turn) FROM responses WHERE prompt_id = 'gsm8k/0'").fetchall()
    [told] = compare_with_baseline(con, "base.json", before, "beef").differences
    assert told.startswith("base.json is of an earlier version and knows no turns")
    file.write_text(text.replace('"turns": 1', '"turns": 0', 1))
    with pytest.raises(InputError, match="at least one turn"):
        read_baseline(file)


def test_a_baseline_is_stable_and_changes_by_the_line(tmp_path: Path) -> None:
    con = recorded({"dspark": 7, "none": 0})
    made = baseline(con, RUN)
    write_baseline(made, tmp_path / "a.json")
    [one] = made.recordings
    shuffled = dict(reversed(one.answers.items()))
    write_baseline(
        msgspec.structs.replace(made, recordings=(msgspec.structs.replace(one, answers=shuffled),)), tmp_path / "b.json"
    )
    shuffled["gsm8k/0"] = Answer(99, 33)
    write_baseline(
        msgspec.structs.replace(made, recordings=(msgspec.structs.replace(one, answers=shuffled),)), tmp_path / "c.json"
    )
    a, b, c = ((tmp_path / f"{name}.json").read_text() for name in "abc")
    assert a == b
    changed = [line for line, other in zip(a.splitlines(), c.splitlines(), strict=True) if line != other]
    assert len(changed) == 1
    assert '"gsm8k/0"' in changed[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE runs SET finished_at = NULL", "is not finished"),
        ("DELETE FROM rounds", "has no rounds of any drafter"),
        ("DELETE FROM responses", "has no rounds of any drafter"),
        ("DELETE FROM rounds WHERE drafter = 'mtp'", "has no rounds of mtp"),
    ],
)
def test_no_baseline_of_a_run_that_failed(change: str, said: str) -> None:
    con = recorded({"dspark": 7, "mtp": 1, "none": 0})
    con.execute(change).fetchall()
    with pytest.raises(InputError, match=said):
        finished_baseline(con, RUN)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("suite_hash = 'ff00'", r"suite hash \(9a4f0c → ff00\)"),
        ("suite = 'other'", r"suite \(math_code_chat → other\)"),
        ("seed = 3", r"seed \(0 → 3\)"),
        ("""sampling = '{"temperature": 0.5}'""", r"temperature \(1.0 → 0.5\)"),
        ("""target = '{"source": "another"}'""", r"name of the target"),
        ("""target = '{"source": "the tiny target", "hash": "1"}'""", r"known by its files"),
        ("""plan = '{"mode": "live"}'""", r"mode \(bundled → live\)"),
        ("""plan = '{"responses_hash": "77"}'""", r"responses hash \(None → 77\)"),
    ],
)
def test_another_key_is_no_comparison(change: str, said: str) -> None:
    con = recorded({"dspark": 7, "none": 0})
    recorded({"dspark": 7, "none": 0}, con=con, run="beef")
    before = baseline(con, RUN)
    con.execute(f"UPDATE runs SET {change} WHERE run_id = 'beef'").fetchall()
    with pytest.raises(InputError, match=said):
        compare_with_baseline(con, "base.json", before, "beef")
    with pytest.raises(InputError, match=said):
        judge(compare(con, RUN, "beef"), 0.02)


def test_a_target_known_in_part_is_the_same_until_it_is_known_not_to_be() -> None:
    one = drawn(np.random.default_rng(0), prompts(np.random.default_rng(0), 2)).key
    more = msgspec.structs.replace(one, target={"hash": "a", "tokenizer_hash": "b"})
    other = msgspec.structs.replace(one, target={"hash": "a", "tokenizer_hash": "c"})
    assert one.differences(more) == []
    assert more.differences(other) == ["tokenizer or chat template of the target (b → c)"]


def test_nothing_in_common_is_no_comparison() -> None:
    con = recorded({"dspark": 7, "none": 0})
    recorded({"mtp": 1, "none": 0}, con=con, run="beef")
    with pytest.raises(InputError, match="nothing is comparable: no drafter, block size"):
        compare(con, RUN, "beef")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "is damaged, or no JSON"),
        (lambda text: "", "is damaged, or no JSON"),
        (lambda text: text.replace('"seed"', '"sead"'), "sead"),
        (lambda text: text.replace("specyard baseline 2", "specyard baseline 3"), "is no baseline of this version"),
        (lambda text: text.replace('"rounds": 30', '"rounds": -30'), "cannot|commits"),
        (lambda text: text.replace('  "gsm8k/0": {"task"', '  "gsm8k/x": {"task"'), "none of the prompts"),
        (lambda text: text.replace('"gamma": 7', '"gamma": 0'), "at least 1"),
        (lambda text: "[]", "is no baseline"),
    ],
)
def test_a_damaged_baseline_is_told_in_one_sentence(tmp_path: Path, damage: Callable[[str], str], said: str) -> None:
    file = tmp_path / "base.json"
    write_baseline(baseline(recorded({"dspark": 7, "none": 0}), RUN), file)
    text = file.read_text()
    assert damage(text) != text
    file.write_text(damage(text))
    with pytest.raises(InputError, match=said) as caught:
        read_baseline(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_an_empty_baseline_is_refused(tmp_path: Path) -> None:
    made = baseline(recorded({"dspark": 7, "none": 0}), RUN)
    write_baseline(msgspec.structs.replace(made, recordings=()), tmp_path / "base.json")
    with pytest.raises(InputError, match="is empty"):
        read_baseline(tmp_path / "base.json")
