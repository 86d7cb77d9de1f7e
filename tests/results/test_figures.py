"""The numbers behind the report, against values worked out by hand on databases of a few rows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest

from results import published
from results.figures.acceptance import _with_intervals, conditional_acceptance
from results.figures.accepted_length import accepted_length
from results.figures.intervals import interval
from results.figures.section import slugs
from results.figures.speed import _bootstrap_speedup, speed
from results.published import PAPER
from results.store.runs import DeclaredDrafter, missing_responses, provenance

SCHEMA = sorted((PAPER.parents[1] / "store" / "schema").glob("*.sql"))
RUN = "3f9c"
KINDS = {"dspark": 7, "dflash": 7, "eagle3": 7, "mtp": 1, "ngram": 7, "none": 0}

Round = tuple[int, int, int]
"""verified, accepted, committed."""


@pytest.fixture
def con() -> duckdb.DuckDBPyConnection:
    """An empty database holding one run that declares one drafter of every kind."""
    con = duckdb.connect()
    for migration in SCHEMA:
        con.execute(migration.read_text()).fetchall()
    add_run(con, {kind: {"kind": kind, "gamma": gamma} for kind, gamma in KINDS.items()})
    return con


def add_run(con: duckdb.DuckDBPyConnection, drafters: dict[str, dict[str, object]], run_id: str = RUN) -> None:
    con.execute(
        "INSERT INTO runs VALUES ($1, '2026-02-01 10:00', '2026-02-01 10:05', 'harness run suites/math_code_chat',"
        " 'math_code_chat', 1, 'abc123', 'bundled', 'tiny', '{}', $2, '{\"temperature\": 1.0}', 0, '{}', NULL,"
        ' \'{"torch": "2.9"}\', \'{"cpu": "a cpu"}\', NULL)',
        [run_id, json.dumps(drafters)],
    ).fetchall()


def add_response(
    con: duckdb.DuckDBPyConnection,
    drafter: str,
    prompt_id: str,
    rounds: Sequence[Round],
    *,
    task: str = "gsm8k",
    domain: str = "math",
    gamma: int | None = None,
    turn: int = 0,
    finish: str = "length",
    run_id: str = RUN,
) -> None:
    gamma = KINDS[drafter] if gamma is None else gamma
    tokens = 1 + sum(committed for _, _, committed in rounds)
    con.execute(
        "INSERT INTO responses VALUES ($1, $2, $3, 'sampled', $4, $5, $6, $7, 5, $8, $9, [], '', [])",
        [run_id, drafter, gamma, task, domain, prompt_id, turn, tokens, finish],
    ).fetchall()
    for index, (verified, accepted, committed) in enumerate(rounds):
        con.execute(
            "INSERT INTO rounds VALUES ($1, $2, $3, 'sampled', $4, $5, $6, $3, $7, $8, $9, [], 1, 0.001, 0.002)",
            [run_id, drafter, gamma, prompt_id, turn, index, verified, accepted, committed],
        ).fetchall()


def add_speed(
    con: duckdb.DuckDBPyConnection, drafter: str, cells: Sequence[tuple[int, str, int, float]], batch: int = 1
) -> None:
    """`cells`: sample, prompt_id, tokens, seconds."""
    for sample, prompt_id, tokens, seconds in cells:
        con.execute(
            "INSERT INTO speed_samples VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'sampled')",
            [RUN, drafter, KINDS[drafter], sample, prompt_id, batch, tokens, seconds],
        ).fetchall()


def cell(frame: pl.DataFrame, column: str, **where: object) -> object:
    """The value of the one row that matches; a condition of None asks for null."""
    for name, value in where.items():
        frame = frame.filter(pl.col(name).is_null() if value is None else pl.col(name) == value)
    return frame[column].item()


def test_accepted_length_is_a_ratio_of_sums_and_domains_average_tasks(con: duckdb.DuckDBPyConnection) -> None:
    add_response(con, "dspark", "a", [(7, 3, 4), (7, 0, 1)])
    add_response(con, "dspark", "b", [(7, 7, 8)])
    add_response(con, "dspark", "c", [(7, 1, 2), (7, 1, 2)], task="math500")
    table = accepted_length(con, RUN)
    # gsm8k: 13 tokens in 3 rounds (a mean of prompts would be 5.25); the domain is (13/3 + 2)/2, not 17/5.
    assert cell(table, "tau", task="gsm8k") == pytest.approx(13 / 3)
    assert cell(table, "tau", task="math500") == pytest.approx(2)
    assert cell(table, "tau", task=None, domain="math") == pytest.approx((13 / 3 + 2) / 2)
    whole = table.filter(pl.col("task").is_null()).row(0, named=True)
    assert (whole["tasks"], whole["prompts"], whole["responses"], whole["rounds"]) == (2, 3, 3, 5)


def test_turns_of_a_prompt_are_one_unit_of_the_bootstrap(con: duckdb.DuckDBPyConnection) -> None:
    add_response(con, "dspark", "a", [(7, 3, 4)], task="mt-bench", domain="chat")
    add_response(con, "dspark", "a", [(7, 0, 1)], task="mt-bench", domain="chat", turn=1)
    row = accepted_length(con, RUN).filter(task="mt-bench").row(0, named=True)
    assert (row["prompts"], row["responses"], row["tau"]) == (1, 2, 2.5)
    assert row["low"] is None
    assert row["high"] is None


def test_interval_has_the_width_the_delta_method_gives(con: duckdb.DuckDBPyConnection) -> None:
    rng = np.random.default_rng(5)
    committed, rounds = [], []
    for prompt in range(120):
        lengths = rng.integers(1, 9, size=rng.integers(3, 9)).tolist()
        add_response(con, "dspark", f"p{prompt}", [(7, n - 1, n) for n in lengths])
        committed.append(sum(lengths))
        rounds.append(len(lengths))
    x, n = np.array(committed), np.array(rounds)
    tau = x.sum() / n.sum()
    standard_error = np.sqrt(((x - tau * n) ** 2).sum()) / n.sum()
    row = accepted_length(con, RUN).filter(task="gsm8k").row(0, named=True)
    assert row["low"] < tau < row["high"]
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * standard_error, rel=0.1)
    assert accepted_length(con, RUN).equals(accepted_length(con, RUN))


def test_the_same_rounds_under_two_names_have_the_same_interval(con: duckdb.DuckDBPyConnection) -> None:
    for prompt in range(12):
        for drafter in ("dspark", "dflash"):
            add_response(con, drafter, f"p{prompt}", [(7, prompt % 8, prompt % 8 + 1)] * 5)
    rows = accepted_length(con, RUN).filter(task="gsm8k").select("tau", "low", "high")
    assert rows.height == 2
    assert rows.row(0) == rows.row(1)
    assert rows["low"][0] < rows["tau"][0] < rows["high"][0]


def test_none_commits_one_token_per_round_and_is_never_judged(con: duckdb.DuckDBPyConnection) -> None:
    for prompt in "ab":
        add_response(con, "none", prompt, [(0, 0, 1)] * 3)
    row = accepted_length(con, RUN).filter(task="gsm8k").row(0, named=True)
    assert (row["tau"], row["low"], row["high"], row["paper"]) == (1.0, 1.0, 1.0, None)
    assert conditional_acceptance(con, RUN).is_empty()


def test_a_response_without_rounds_counts_but_does_not_divide(con: duckdb.DuckDBPyConnection) -> None:
    add_response(con, "dspark", "a", [], finish="stop")
    add_response(con, "dspark", "b", [(7, 1, 2)], task="math500")
    table = accepted_length(con, RUN)
    assert cell(table, "tau", task="gsm8k") is None
    assert cell(table, "responses", task="gsm8k") == 1
    assert cell(table, "tau", task=None) == 2
    assert cell(table, "tasks", task=None) == 1


def test_the_paper_is_joined_by_kind_of_drafter_and_dataset(con: duckdb.DuckDBPyConnection) -> None:
    add_run(con, {"mine": {"kind": "dspark", "gamma": 4}, "ngram": {"kind": "ngram", "gamma": 7}}, run_id="other")
    for drafter, gamma in (("mine", 4), ("ngram", 7)):
        for task, domain in (("gsm8k", "math"), ("arithmetic", "math"), ("arena-hard-v2", "chat"), ("haiku", "poems")):
            add_response(con, drafter, task, [(4, 1, 2)], gamma=gamma, task=task, domain=domain, run_id="other")
    table = accepted_length(con, "other")
    mine = table.filter(drafter="mine")
    assert cell(mine, "paper", task="gsm8k") == 6.11
    assert cell(mine, "paper", task="arena-hard-v2") == 3.29
    assert cell(mine, "paper", task="arithmetic") is None
    assert cell(mine, "paper", task=None, domain="math") == pytest.approx((6.11 + 5.70 + 4.89) / 3)
    assert cell(mine, "paper", task=None, domain="poems") is None
    assert table.filter(drafter="ngram")["paper"].null_count() == table.filter(drafter="ngram").height
    alpha = conditional_acceptance(con, "other").filter(drafter="mine", domain="math")
    assert alpha["paper"].to_list() == [0.9053, 0.8899]


def test_the_papers_own_figure_and_table_agree_on_domain_means() -> None:
    product = published.paper_alpha().sort("kind", "domain", "position").group_by("kind", "domain")
    implied = product.agg((1 + pl.col("paper").cum_prod().sum()).alias("implied"))
    means = published.paper_tau().filter(dataset=published.DOMAIN_MEAN).join(implied, on=["kind", "domain"])
    assert means.height == 9
    assert (means["implied"] / means["paper"] - 1).abs().max() < 0.008  # type: ignore[operator]


def test_conditional_acceptance_counts_successes_and_the_one_failure(con: duckdb.DuckDBPyConnection) -> None:
    # Accepted 2 of 7, 0 of 7, 7 of 7 (no failure), 1 of 1 (nothing rejected), 0 of 0 (nothing tried).
    add_response(con, "dspark", "a", [(7, 2, 3), (7, 0, 1), (7, 7, 8), (1, 1, 2), (0, 0, 1)])
    table = conditional_acceptance(con, RUN)
    assert table["position"].to_list() == [1, 2, 3, 4, 5, 6, 7]
    assert table["trials"].to_list() == [4, 2, 2, 1, 1, 1, 1]
    assert table["accepted"].to_list() == [3, 2, 1, 1, 1, 1, 1]
    assert table["alpha"].to_list() == [0.75, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    assert set(table["domain"]) == {"math"}
    assert set(table["gamma"]) == {7}


@pytest.mark.parametrize(
    ("finish", "last", "trials"),
    [
        ("stop", (7, 2, 2), [1, 1]),  # the end token is draft token 2: position 3 was never judged
        ("stop", (7, 2, 3), [1, 1, 1]),  # the end token is the bonus: position 3 was rejected
        ("length", (7, 2, 2), [1, 1, 1]),  # the limit cut the bonus: position 3 was rejected
    ],
)
def test_an_end_token_inside_the_draft_is_no_rejection(
    con: duckdb.DuckDBPyConnection, finish: str, last: Round, trials: list[int]
) -> None:
    add_response(con, "dspark", "a", [(7, 0, 1), last], finish=finish)
    table = conditional_acceptance(con, RUN)
    assert table["trials"].to_list() == [1 + trials[0], *trials[1:]]
    assert table["accepted"].to_list() == [1, 1, 0][: len(trials)]


def test_wilsons_interval_at_8_of_10(con: duckdb.DuckDBPyConnection) -> None:
    """Of two prompts alike; of one nothing is known of others."""
    add_response(con, "mtp", "a", [(1, 1, 2)] * 4 + [(1, 0, 1)])
    alone = conditional_acceptance(con, RUN).row(0, named=True)
    assert (alone["alpha"], alone["low"], alone["high"]) == (0.8, None, None)
    add_response(con, "mtp", "b", [(1, 1, 2)] * 4 + [(1, 0, 1)])
    row = conditional_acceptance(con, RUN).row(0, named=True)
    assert (row["trials"], row["accepted"], row["alpha"], row["paper"]) == (10, 8, 0.8, None)
    assert (row["low"], row["high"]) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


def test_intervals_of_conditional_acceptance_know_that_rounds_of_a_prompt_are_alike() -> None:
    """30 prompts of 50 rounds whose own α spreads as Beta(6, 4): 1500 independent rounds would leave 0.05, and miss half.

    Of 300 intervals 15 should miss; 30 prompts are few, so up to 8 % may.
    """
    rng = np.random.default_rng(0)
    missed, widths = 0, []
    for _ in range(300):
        own = rng.beta(6, 4, 30)
        trials = pl.DataFrame({"prompt_id": range(30), "trials": [50] * 30, "accepted": rng.binomial(50, own)})
        key = {"drafter": "mtp", "gamma": 1, "domain": "math", "position": 1}
        row = _with_intervals(trials.with_columns(**{k: pl.lit(v) for k, v in key.items()})).row(0, named=True)
        assert row["trials"] == 1500
        missed += not row["low"] <= 0.6 <= row["high"]
        widths.append(row["high"] - row["low"])
    assert missed <= 0.08 * 300
    # The spread of Beta(6, 4) is 0.148; of 30 prompts and their rounds 0.0298 in the mean.
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 0.0298, rel=0.08)


def test_two_prompts_tell_nothing_of_others(con: duckdb.DuckDBPyConnection) -> None:
    for name, seconds in (("none", 1.0), ("dspark", 0.5)):
        add_speed(con, name, [(sample, p, 10, seconds + sample / 10) for p in "ab" for sample in range(3)])
    row = speed(con, RUN).filter(drafter="dspark").row(0, named=True)
    assert row["speedup"] > 1
    assert (row["low"], row["high"]) == (None, None)


def test_speed_up_is_a_ratio_of_paired_sums(con: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("results.figures.speed.FEWEST_PROMPTS", 2)
    add_speed(con, "none", [(0, "a", 10, 1.0), (0, "b", 30, 3.0)])
    add_speed(con, "dspark", [(0, "a", 10, 0.5), (0, "b", 60, 2.0), (1, "a", 1000, 1.0)])
    table = speed(con, RUN)
    assert cell(table, "tokens_per_s", drafter="none") == 10
    assert cell(table, "tokens_per_s", drafter="dspark") == pytest.approx(1070 / 3.5)
    # The third cell has no partner: (70 tokens/2.5 s) / (40 tokens/4 s); a mean of ratios would be 2.5.
    assert cell(table, "pairs", drafter="dspark") == 2
    assert cell(table, "speedup", drafter="dspark") == pytest.approx(2.8)
    assert (cell(table, "low", drafter="dspark"), cell(table, "high", drafter="dspark")) == pytest.approx((2.0, 3.0))
    none = table.filter(drafter="none").row(0, named=True)
    assert (none["speedup"], none["low"], none["high"]) == (1.0, None, None)


def test_a_machine_that_slows_between_samples_leaves_the_ratio_alone(con: duckdb.DuckDBPyConnection) -> None:
    for sample, slowdown in enumerate((1.0, 3.0, 0.7)):
        add_speed(con, "none", [(sample, p, 20, 2.0 * slowdown) for p in "abc"])
        add_speed(con, "dflash", [(sample, p, 20, 1.25 * slowdown) for p in "abc"])
    row = speed(con, RUN).filter(drafter="dflash").row(0, named=True)
    assert (row["speedup"], row["low"], row["high"]) == pytest.approx((1.6, 1.6, 1.6))


def test_only_equal_batches_are_paired(con: duckdb.DuckDBPyConnection) -> None:
    add_speed(con, "none", [(0, "a", 10, 1.0)], batch=1)
    add_speed(con, "dspark", [(0, "a", 10, 0.5)], batch=8)
    row = speed(con, RUN).filter(drafter="dspark").row(0, named=True)
    assert (row["pairs"], row["speedup"], row["low"], row["tokens_per_s"]) == (0, None, None, 20.0)


def test_speed_without_a_baseline_or_samples(con: duckdb.DuckDBPyConnection) -> None:
    empty = speed(con, RUN)
    assert empty.is_empty()
    assert {"drafter", "tokens_per_s", "speedup", "low", "high"} <= set(empty.columns)
    add_speed(con, "dspark", [(0, "a", 10, 0.5)])
    row = speed(con, RUN).row(0, named=True)
    assert (row["tokens_per_s"], row["speedup"]) == (20.0, None)


def test_the_speed_interval_covers_when_prompts_and_samples_both_vary(con: duckdb.DuckDBPyConnection) -> None:
    """12 prompts × 6 samples, 80 times: the truth must lie inside at least 85 % of the nominally 95 % intervals.

    Prompt and sample effects are log-normal on the drafter's seconds, so its true speed-up is 2/E[effects]. An interval
    that took the 72 pairs as independent would cover about half of the time.
    """
    rng = np.random.default_rng(11)
    truth = 2 / np.exp((0.3**2 + 0.05**2 + 0.02**2) / 2)
    prompts, samples, covered = 12, 6, 0
    for _ in range(80):
        seconds = np.exp(
            0.3 * rng.standard_normal(prompts)
            + 0.05 * rng.standard_normal((samples, 1))
            + 0.02 * rng.standard_normal((samples, prompts))
        )
        grid = {
            "sample": np.repeat(np.arange(samples), prompts),
            "prompt_id": [str(p) for p in range(prompts)] * samples,
        }
        pairs = pl.DataFrame(
            grid | {"tokens": 50.0, "seconds": seconds.ravel() / 2, "tokens_none": 50.0, "seconds_none": 1.0}
        )
        low, high = interval(_bootstrap_speedup(pairs, rng))
        assert low is not None
        assert high is not None
        covered += low < truth < high
    assert covered >= 0.85 * 80


def test_empty_and_unknown_runs(con: duckdb.DuckDBPyConnection) -> None:
    assert accepted_length(con, RUN).is_empty()
    assert conditional_acceptance(con, RUN).is_empty()
    assert missing_responses(con, RUN).is_empty()
    with pytest.raises(LookupError, match="no run 'gone'"):
        provenance(con, "gone")


def test_runs_do_not_mix(con: duckdb.DuckDBPyConnection) -> None:
    add_run(con, {"dspark": {"kind": "dspark", "gamma": 7}}, run_id="other")
    add_response(con, "dspark", "a", [(7, 7, 8)], run_id="other")
    add_response(con, "dspark", "a", [(7, 0, 1)])
    assert cell(accepted_length(con, RUN), "tau", task="gsm8k") == 1
    assert conditional_acceptance(con, RUN)["alpha"].to_list() == [0.0]


def test_missing_responses_names_the_drafter_and_the_task(con: duckdb.DuckDBPyConnection) -> None:
    for drafter in set(KINDS) - {"ngram"}:
        add_response(con, drafter, "a", [(KINDS[drafter], 0, 1)])
        if drafter != "mtp":
            add_response(con, drafter, "a", [(KINDS[drafter], 0, 1)], turn=1)
    columns = ["drafter", "task", "responses", "expected"]
    assert missing_responses(con, RUN).select(columns).rows() == [
        ("mtp", "gsm8k", 1, 2),
        ("ngram", "gsm8k", 0, 2),
    ]


def test_rounds_replayed_from_anchors_are_counted_apart(con: duckdb.DuckDBPyConnection) -> None:
    add_response(con, "none", "a", [(0, 0, 1)] * 3)
    add_response(con, "mtp", "b", [(1, 1, 2)])
    assert provenance(con, RUN).replayed == 0
    con.execute("INSERT INTO recordings VALUES ($1, 'dspark', 7, 'sampled', 'a', 0, 3)", [RUN]).fetchall()
    for index in range(2):
        values = [RUN, "dspark", 7, "sampled", "a", 0, index, 7, 7, 1, 2, [], 1, None, None]
        con.execute(f"INSERT INTO rounds VALUES ({', '.join('?' * 15)})", values).fetchall()
    run = provenance(con, RUN)
    assert (run.rounds, run.replayed) == (6, 2)


def test_provenance_opens_the_json_and_counts(tmp_path: Path) -> None:
    file = tmp_path / "specyard.duckdb"
    with duckdb.connect(str(file)) as writer:
        for migration in SCHEMA:
            writer.execute(migration.read_text()).fetchall()
        add_run(writer, {"dspark": {"kind": "dspark", "gamma": 7, "checkpoint": "here", "checkpoint_hash": "beef"}})
        add_response(writer, "dspark", "a", [(7, 0, 1), (7, 1, 2)])
        add_response(writer, "dspark", "a", [(7, 0, 1)], turn=1)
        add_speed(writer, "dspark", [(0, "a", 10, 0.5)])
    with duckdb.connect(str(file), read_only=True) as con:
        run = provenance(con, RUN)
    assert (run.suite, run.suite_version, run.suite_hash, run.prompt_source) == (
        "math_code_chat",
        1,
        "abc123",
        "bundled",
    )
    assert run.drafters == (DeclaredDrafter("dspark", "dspark", 7, "here", "beef"),)
    assert (run.prompts, run.responses, run.rounds, run.speed_samples) == (1, 2, 3, 1)
    assert run.sampling == {"temperature": 1.0}
    assert run.packages == {"torch": "2.9"}
    assert run.host == {"cpu": "a cpu"}
    assert run.git_revision is None
    assert run.created_at.isoformat() == "2026-02-01T10:00:00"


def test_domains_whose_names_look_alike_have_panels_of_their_own() -> None:
    """Links and drawings go by the anchor: the panel of c would show what is of c++."""
    names = ["c", "c++", "C", "数学", "代码", "a b", "a/b", "math", "long context"]
    assert len(set(slugs(names))) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", short) for short in slugs(names))
    assert slugs(["math", "long context", "数学"])[:2] == ["math", "long-context"]
    assert slugs([""]) == [""]
