"""Exports of several loads: one choice or a table for all of them, and where none is made."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from rich.console import Console

from results.store.studies import K_BY_BATCH, OVER_NONE
from simulator.decision import Decision
from simulator.errors import AnswerIsNo
from simulator.hardware.profile import Profile
from simulator.load import Users
from simulator.mix import Mix
from simulator.plan import StudyPlan
from simulator.records import Recording
from simulator.serving.command import batch_rows
from simulator.serving.vllm import VLLM
from simulator.traces import Trace
from tests.tuner.configurations import configuration, plain
from tests.tuner.exports import (
    FIGURES,
    FOUND,
    WON,
    decided,
    found_with,
    row_of,
    study_of,
)
from tests.tuner.test_sensitivity import trials
from tuner.by_load import by_load
from tuner.display import _print_table_of_all_loads, print_study
from tuner.export import (
    _winners,
    better,
    gains_by_load,
    one_k,
    unsettled,
)
from tuner.k_by_batch import k_by_batch
from tuner.plan import StudyInputs
from tuner.prompts import TraceKey
from tuner.stored import StoredStudy


@pytest.mark.parametrize(("caps", "told"), [((64, 64), "Its command: tuner export"), ((64, 32), "--concurrency USERS")])
def test_one_table_has_one_request_cap(caps: tuple[int, int], told: str) -> None:
    """Tables of the same rows under other caps are other servers: no export has their command."""
    loads = {}
    for load, cap in zip((Users(8), Users(64)), caps, strict=True):
        table = configuration("dspark", 7, "k_by_batch:8=7/64=0", cap=cap)
        row = msgspec.structs.replace(row_of(K_BY_BATCH, "fixed:7", 0, None), configuration=table, figures={OVER_NONE: 0.1})
        loads[load] = found_with(row)
    console = Console(file=io.StringIO(), width=200)
    _print_table_of_all_loads(cast("StoredStudy", SimpleNamespace(loads=loads, study_id="ab12cd")), console, Path("runs"))
    assert told in cast("io.StringIO", console.file).getvalue()


def test_a_load_at_which_too_few_requests_finished_leaves_no_table() -> None:
    table = configuration("dspark", 7, "k_by_batch:8=7/64=0", cap=64)
    loads = {}
    for users, finished in ((8, 100.0), (64, 3.0)):
        figures = {OVER_NONE: 0.1, "finished": finished}
        row = msgspec.structs.replace(row_of(K_BY_BATCH, "fixed:7", 0, None), configuration=table, figures=figures)
        loads[Users(users)] = found_with(row)
    console = Console(file=io.StringIO(), width=200)
    _print_table_of_all_loads(cast("StoredStudy", SimpleNamespace(loads=loads, study_id="ab12cd")), console, Path("runs"))
    assert "Its gains" not in cast("io.StringIO", console.file).getvalue()


def test_a_load_without_a_winner_has_no_row_and_leaves_the_table() -> None:
    table = configuration("dspark", 7, "k_by_batch:8=7/64=0", cap=64)
    row = msgspec.structs.replace(row_of(K_BY_BATCH, "fixed:7", 0, None), configuration=table, figures={OVER_NONE: 0.1})
    loads = {Users(8): found_with(row), Users(64): found_with(row), Users(256): found_with()}
    console = Console(file=io.StringIO(), width=200)
    _print_table_of_all_loads(cast("StoredStudy", SimpleNamespace(loads=loads, study_id="ab12cd")), console, Path("runs"))
    told = cast("io.StringIO", console.file).getvalue()
    assert "Its command: tuner export" in told
    assert told.index("o row for 256 users") < told.index("Its command")
    assert "from other draws of the prompts" in " ".join(told.split())


def test_no_winner_at_one_load_names_the_way_out_to_the_others() -> None:
    won = msgspec.structs.replace(FOUND, winner=WON)
    loads = {Users(8): won, Users(64): found_with()}
    study = msgspec.structs.replace(study_of(loads=list(loads)), loads=loads)
    with pytest.raises(AnswerIsNo, match=r"no winner at 64 users.*--concurrency .*: 8$"):
        _winners(study, None, VLLM, Path("runs"))


def test_of_a_study_that_is_not_finished_the_command_to_go_on_is_named() -> None:
    study = msgspec.structs.replace(study_of(), finished=False, loads={Users(64): found_with()})
    with pytest.raises(AnswerIsNo, match=r"not finished; go on with: tuner search --resume abc --out .*elsewhere"):
        _winners(study, None, VLLM, Path("elsewhere"))


def test_a_study_of_one_load_ends_with_what_is_to_be_run_and_its_table_marks_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    won = msgspec.structs.replace(WON, figures={**FIGURES, "p95_ttft": 0.1, "tau": 3.0})
    confirmed = msgspec.structs.replace(won, role="default", place=1, configuration=plain(64))
    tried = {"cut": 0, "failed": 0, "whole": 2}
    found = msgspec.structs.replace(
        FOUND, winner=won, beside=[confirmed], decision=decided(plain(64), VLLM, "vllm serve X"), trials=tried
    )
    study = msgspec.structs.replace(study_of(loads=[Users(64)]), loads={Users(64): found})
    monkeypatch.setattr("tuner.display.read_study", lambda store, name: study)
    print_study(cast("Any", SimpleNamespace(file=Path("runs/specyard.duckdb"))), "abc", as_json=False)
    lines = capsys.readouterr().out.splitlines()
    [marked] = [i for i, line in enumerate(lines) if "to be run" in line and "none" in line]
    command = next(i for i, line in enumerate(lines) if "vllm serve X" in line)
    assert marked < command
    assert not any("fixed:7" in line and "to be run" in line for line in lines)


def test_a_load_at_which_nothing_is_recommended_is_said() -> None:
    decision = Decision(
        engine=VLLM, profile="h100/toy", source="roofline", load=Users(8), promise=(), traffic="toys",
        figure="throughput", errors={}, reason="only 88 requests finished",
    )  # fmt: skip
    loads = {Users(8): msgspec.structs.replace(FOUND, decision=decision), Users(64): FOUND}
    assert unsettled(loads) == ["no recommendation for 8 users: only 88 requests finished"]


def test_one_choice_for_several_loads_tells_its_gain_at_each() -> None:
    """The bar of half the gain is half as long; where it was not confirmed is said."""
    row = msgspec.structs.replace(row_of("winner", "fixed:7", 0, None), half_widths={OVER_NONE: 0.02})
    won = {Users(8): 1.0, Users(64): 0.5}
    loads = {
        load: msgspec.structs.replace(FOUND, winner=msgspec.structs.replace(row, figures={OVER_NONE: gain}))
        for load, gain in won.items()
    }
    candidate = configuration("dspark", 7, "fixed:7")
    _, first, second = gains_by_load(loads, candidate)
    assert ("8 users" in first, "64 users" in second) == (True, True)
    assert ("+100.0% ±  2.0%" in first, "+50.0% ±  2.0%" in second) == (True, True)
    assert first.count("█") == 2 * second.count("█") > 0
    assert "not confirmed" in gains_by_load({**loads, Users(256): FOUND}, candidate)[-1]
    assert gains_by_load({Users(8): loads[Users(8)]}, candidate) == []
    assert gains_by_load(loads, plain(64)) == []


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_table_over_loads_says_where_something_else_is_better(confirmed: bool) -> None:
    """By hand: at 64 users adaptive verification gives 5 % more than k = 7 in the search, and 3 % on other prompts; 0.5 % is
    not said."""
    adaptive, table = configuration("dspark", 7, "vllm_adaptive", "raw"), configuration("dspark", 7, "k_by_batch:64=7")
    everything = {
        users: trials(
            (plain(64), 100, "complete", -1.0),
            (configuration("dspark", 7, "fixed:7"), 200, "complete", -1.0),
            (adaptive, value, "complete", -1.0),
            (configuration("dspark", 7, "oracle"), 900, "complete", -1.0),
        )
        for users, value in ((8, 201), (64, 210))
    }
    found = by_load(everything, {"dspark": True})
    assert found is not None
    assert found.configuration == table
    won = msgspec.structs.replace(WON, configuration=adaptive)
    loads = {}
    for users, gain in ((8, 0.005), (64, 0.03)):
        row = msgspec.structs.replace(row_of(K_BY_BATCH, "fixed:7", gain, 0.02), configuration=table, figures=FIGURES)
        loads[Users(users)] = msgspec.structs.replace(FOUND, winner=won, beside=[row] if confirmed else [])
    study = msgspec.structs.replace(study_of(loads=list(loads)), loads=loads)
    [line] = better(found, everything, study)
    more = "3.0% ± 2.0% more on prompts the search has not seen" if confirmed else "5.0% more on the search's own prompts"
    assert line.startswith(f"at 64 users dspark γ=7 vllm_adaptive (raw) cap 64 gives {more}")
    assert line.endswith(": --concurrency 64 exports it")


@pytest.mark.parametrize(
    ("users", "whole", "told"), [((8, 64), True, True), ((8, 64), False, False), ((8, 999), True, False)]
)
def test_a_table_of_whole_blocks_alone_is_said_to_be_no_choice_of_k(users: tuple[int, int], whole: bool, told: bool) -> None:
    """Drafting pays at both loads; at 999 users it would not."""
    everything = {
        n: trials(
            (plain(n), 100, "complete", -1.0),
            (configuration("dspark", 7, "fixed:7"), 50 if n == 999 else 200, "complete", -1.0),
        )
        for n in users
    }
    found = by_load(everything, {"dspark": whole})
    assert found is not None
    assert bool(one_k(found, {"dspark": whole}, VLLM)) == told


def test_the_table_follows_the_hardware(grounds: Any, plan_of: Any) -> None:
    """Fewer tokens the more requests; with captured sizes no more than fit into the largest, as long as that pays."""
    plan: StudyPlan = plan_of()
    found: StudyInputs = grounds(plan)
    trace: Trace = found.traffic.trace(TraceKey("search", Recording("dspark", 7, "none")))
    mix = Mix(trace, found.weights)

    def rows(profile: Profile) -> list[tuple[int, int, int]]:
        table = k_by_batch(trace, mix, profile.cost("dspark", 7, 256, 2048), [2**i for i in range(9)])
        return batch_rows(table, 7, 256)

    assert plan.profile.captured == 512
    smooth, captured = rows(dataclasses.replace(plan.profile, captured_tokens=(), launches=None)), rows(plan.profile)
    assert smooth[0][2] == captured[0][2] == 7
    assert [k for *_, k in smooth] == sorted((k for *_, k in smooth), reverse=True)
    [at_128] = [k for first, last, k in captured if first <= 128 <= last]
    assert 128 * (1 + at_128) == 512
