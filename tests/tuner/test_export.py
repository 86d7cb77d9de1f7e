"""Exports: commands that a shell and a JSON reader understand, with vLLM's fields, and comments on what differs."""

from __future__ import annotations

import dataclasses
import sys
import types
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import msgspec
import pytest

from harness.vllm.checkpoints import speculative as speculative_of
from harness.vllm.speculative import check
from results.store.studies import K_BY_BATCH, OVER_NONE
from simulator.decision import Gain, Range
from simulator.load import Users
from simulator.plan import serving_of
from simulator.policies import PolicySpec
from simulator.policies.own import FACTS, OwnPolicy, remember
from simulator.serving.command import batch_rows
from simulator.serving.engine import ServingEngine
from simulator.serving.sglang import SGLANG
from simulator.serving.vllm import VLLM
from tests.tuner.configurations import configuration, plain
from tests.tuner.exports import (
    FOUND,
    FOUND_MTP,
    STUDY,
    WON,
    decided,
    exported,
    found_with,
    models,
    row_of,
    study_of,
)
from tuner.export import (
    confirmed_gains,
    export_content,
    export_study,
    serving,
)
from tuner.stored import AtLoad


def test_vllm_drafts_as_what_was_simulated() -> None:
    """Its default is greedy; the other way has another acceptance. Without a choice, nothing is said."""
    winner = configuration("dspark", 7, "fixed:7")
    for drafting, method, said in (("sampled", "probabilistic", "drawn from"), ("greedy", "greedy", "of greedy drafts")):
        study = study_of(drafting=drafting)
        made = serving(winner, FOUND, study, models("dspark", "dspark", 0.7))
        assert made.speculative is not None
        assert made.speculative["draft_sample_method"] == method
        assert said in "\n".join(made.notes)
        cold = serving(winner, FOUND, study, models("dspark", "dspark", 0.0))
        lookup = serving(configuration("ngram", 7, "fixed:7"), FOUND, study, models("ngram", "ngram", 0.7))
        for other in (cold, lookup):
            assert other.speculative is not None
            assert "draft_sample_method" not in other.speculative


def test_schedulers_become_adaptive_verification() -> None:
    speculative, notes = exported("dspark", 7, "prefix_scheduler", "calibrated")
    assert speculative == {
        "method": "dspark", "model": "org/dspark", "num_speculative_tokens": 7, "enable_adaptive_verification": True,
        "draft_sample_method": "probabilistic",
    }  # fmt: skip
    assert "raw confidences two steps old; simulated, it loses 9.1%" in notes
    speculative, notes = exported("dspark", 7, "vllm_adaptive", "raw")
    assert speculative["enable_adaptive_verification"]
    assert "loses" not in notes


def test_a_shorter_block_is_said_where_it_computes_something_else() -> None:
    speculative, notes = exported("dspark", 7, "fixed:4")
    assert speculative["num_speculative_tokens"] == 4
    assert "verifying 4 of 7 drafted tokens" in notes
    speculative, notes = exported("eagle3", 7, "fixed:4")
    assert (speculative["method"], speculative["num_speculative_tokens"]) == ("eagle3", 4)
    assert "drafted tokens" not in notes
    assert "`harness convert CHECKPOINT --to vllm" in notes
    assert "block" not in exported("dspark", 7, "fixed:7")[1].replace("blocks", "")


def test_tables_by_batch_size() -> None:
    speculative, _ = exported("dspark", 7, "k_by_batch:8=7/32=3/64=0")
    assert speculative["num_speculative_tokens"] == 7
    assert speculative["num_speculative_tokens_per_batch_size"] == [[1, 8, 7], [9, 32, 3], [33, 64, 0]]
    beyond, _ = exported("dspark", 7, "k_by_batch:8=7/32=3")  # the last row goes on, as in vLLM
    assert beyond["num_speculative_tokens_per_batch_size"] == [[1, 8, 7], [9, 64, 3]]
    assert exported("dspark", 7, "cutoff:16")[0]["num_speculative_tokens_per_batch_size"] == [[1, 16, 7], [17, 64, 0]]
    speculative, notes = exported("mtp", 3, "batch_adaptive:0.1", found=FOUND_MTP)
    assert speculative["num_speculative_tokens_per_batch_size"] == [[1, 32, 3], [33, 64, 0]]  # 7 and 3 are both 3 there
    assert "no moving average of acceptance; instead a table of k by batch size; simulated, it loses 20.0% ± 1.0%" in notes


def test_replicas_are_one_command_unless_the_engine_forgets_the_table_then() -> None:
    study = study_of(replicas=3)
    recorded = models("mtp", "mtp", 0.0)
    fixed = serving(configuration("mtp", 3, "fixed:3"), FOUND, study, recorded)
    assert "--data-parallel-size 3" in fixed.command
    table = serving(configuration("mtp", 3, "k_by_batch:8=3/64=1"), FOUND, study, recorded)
    assert "--data-parallel-size" not in table.command
    assert any("start 3 such servers" in note for note in table.notes)


def test_rows_end_where_loads_did() -> None:
    """Of a study of 16 users with a cap of 64: a cutoff at 8 is known up to 16, and that is said."""
    study = study_of(loads=[Users(16)])
    made = serving(configuration("mtp", 3, "cutoff:8"), FOUND, study, models("mtp", "mtp", 0.0))
    assert made.speculative is not None
    assert made.speculative["num_speculative_tokens_per_batch_size"] == [(1, 8, 3), (9, 16, 0)]
    assert any("no more than 16 requests ran" in note for note in made.notes)


def test_without_a_confirmed_table_every_batch_drafts_the_block() -> None:
    winner = configuration("mtp", 3, "batch_adaptive:0.1")
    made = serving(winner, found_with(), STUDY, models("mtp", "mtp", 0.7))
    assert made.speculative is not None
    assert "num_speculative_tokens_per_batch_size" not in made.speculative
    [note] = [note for note in made.notes if "no table of k by batch size was confirmed" in note]
    assert note.endswith("every batch drafts 3")


@pytest.mark.parametrize(
    "found", [FOUND, found_with(row_of("k by batch", "k_by_batch:8=7/64=0", 0.25, 0.01, drafter="mtp"))]
)
def test_a_table_of_another_drafter_or_block_is_none(found: AtLoad) -> None:
    """One table for all loads stands beside the winner of each, whatever that drafts with: no loss of it is the winner's."""
    alone = found_with()
    winner = configuration("mtp", 3, "batch_adaptive:0.1")
    made = serving(winner, found, STUDY, models("mtp", "mtp", 0.7))
    assert made == serving(winner, alone, STUDY, models("mtp", "mtp", 0.7))
    sglang = configuration("eagle3", 7, "batch_adaptive:0.1")
    made = serving(sglang, found, STUDY, models("eagle3", "eagle3", 0.7), SGLANG)
    assert made == serving(sglang, alone, STUDY, models("eagle3", "eagle3", 0.7), SGLANG)


@pytest.mark.parametrize(("drafter", "gamma", "there"), [("mtp", 3, True), ("mtp", 2, False), ("dspark", 3, False)])
def test_json_has_the_table_of_the_winners_own_drafter(
    monkeypatch: pytest.MonkeyPatch, drafter: str, gamma: int, there: bool
) -> None:
    won = row_of("winner", "batch_adaptive:0.1", 0, None, drafter=drafter, gamma=gamma)
    [one] = content(monkeypatch, msgspec.structs.replace(FOUND_MTP, winner=won))["winners"]
    assert (one["k_by_batch"] is not None) == there
    if there:
        assert one["k_by_batch"]["loss"] == pytest.approx(0.2)
        assert one["k_by_batch"]["rows"] == [(1, 32, 3), (33, 64, 0)]


def test_json_has_the_table_under_the_cap_that_it_was_confirmed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same table under the winner's cap is the winner: it would lose against itself."""
    won = msgspec.structs.replace(WON, configuration=configuration("mtp", 3, "k_by_batch:8=3/64=1", cap=16))
    table = row_of(K_BY_BATCH, "k_by_batch:8=3/64=1", 0.25, 0.01, drafter="mtp", gamma=3)
    [one] = content(monkeypatch, msgspec.structs.replace(FOUND, winner=won, beside=[table]))["winners"]
    assert one["configuration"]["request_cap"] == 16
    assert one["k_by_batch"]["request_cap"] == 64
    assert one["k_by_batch"]["rows"] == [(1, 8, 3), (9, 64, 1)]


def test_gains_of_a_table_are_of_its_own_drafter() -> None:
    """Two drafters may have the same rows."""
    row = row_of(K_BY_BATCH, "k_by_batch:8=7/64=0", 0, None)
    study = study_of()
    study.loads[Users(64)] = found_with(
        msgspec.structs.replace(row, figures={OVER_NONE: 0.1}, half_widths={OVER_NONE: 0.02})
    )
    assert confirmed_gains(study, configuration("dspark", 7, "k_by_batch:8=7/64=0")) == {64: (0.1, 0.02)}
    for other in (configuration("mtp", 7, "k_by_batch:8=7/64=0"), configuration("dspark", 8, "k_by_batch:8=7/64=0")):
        assert confirmed_gains(study, other) == {}


def stored(monkeypatch: pytest.MonkeyPatch, found: AtLoad) -> Any:
    """A database that has a study with this at its load, as far as an export asks one."""
    study = study_of()
    study.loads[Users(64)] = found
    monkeypatch.setattr("tuner.export.read_study", lambda store, name: study)
    drafters = {name: {"kind": name, "checkpoint": f"org/{name}"} for name in ("dspark", "mtp", "eagle3")}
    run = {"target": {"source": "Qwen/Qwen3-4B"}, "drafters": drafters, "sampling": {"temperature": 0.7}}
    return SimpleNamespace(run=lambda name: run, file=Path("runs/specyard.duckdb"))


def content(monkeypatch: pytest.MonkeyPatch, found: AtLoad) -> dict[str, Any]:
    """The export as JSON of what was found at one load."""
    return export_content(stored(monkeypatch, found), "abc", None)


@pytest.mark.parametrize("engine", [None, VLLM])
@pytest.mark.parametrize("form", ["sglang", "vllm", "llama.cpp"])
def test_what_was_decided_is_exported_to_whoever_can_run_it(
    monkeypatch: pytest.MonkeyPatch, engine: ServingEngine | None, form: str
) -> None:
    """No speculation was settled on though the search's winner drafts; its figures are its own."""
    if (form, engine) == ("vllm", VLLM):
        return  # the decision's own command
    found = msgspec.structs.replace(FOUND, winner=WON, decision=decided(plain(64), engine))
    text = export_study(stored(monkeypatch, found), "abc", form, None)
    assert "org/eagle3" not in text
    command = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert "eagle3" not in command
    assert "not the search's best at 64 users" in " ".join(text.replace("\n#", "").split())
    confirmed = msgspec.structs.replace(
        row_of("default", "fixed:7", 0, None), configuration=plain(64), figures={"throughput": 1234.0, "tps": 5.0}
    )
    for beside in ([], [confirmed]):
        again = msgspec.structs.replace(found, beside=beside)
        text = " ".join(export_study(stored(monkeypatch, again), "abc", form, None).replace("\n#", "").split())
        assert "100 (90 to 110) tokens/s/GPU" in text  # with the profile's errors, though figures without them are there
        assert "1,234" not in text


@pytest.mark.parametrize("form", ["sglang", "tensorrt-llm", "llama.cpp"])
def test_what_was_decided_for_another_engine_keeps_all_its_intervals(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    gain = Gain(over="no speculation", all=Range(1.0, 0.5, 1.3), held=Range(1.0, 0.9, 1.1))
    decision = msgspec.structs.replace(
        decided(WON.configuration, VLLM, "vllm serve X"), over_none=gain, runner_up=gain, better=gain, next="measure",
        notes=["vLLM reads something", "it is rough"],
    )  # fmt: skip
    theirs = SimpleNamespace(told=["vLLM reads something"])
    monkeypatch.setattr(
        "tuner.export.serving_of", lambda plan, engine, *rest: theirs if engine == VLLM else serving_of(plan, engine, *rest)
    )
    found = msgspec.structs.replace(FOUND, winner=WON, decision=decision)
    text = " ".join(export_study(stored(monkeypatch, found), "abc", form, None).replace("\n#", "").split())
    for said in (
        "100 (90 to 110) tokens/s/GPU", "+100% tokens/s over no speculation (95 %: +50% to +130%; with the profile held",
        "The next best", "Traffic: toys", "To be surer: measure", "decided for vLLM;", "it is rough",
    ):  # fmt: skip
        assert said in text
    for not_said in ("cannot run", "with vLLM", "vLLM reads something", "4,321"):
        assert not_said not in text


@pytest.mark.parametrize(("form", "policy"), [("llama.cpp", "fixed:3"), ("sglang", "fixed:7"), ("vllm", "fixed:7")])
def test_what_an_engine_cannot_run_gives_way_to_the_best_confirmed(
    monkeypatch: pytest.MonkeyPatch, form: str, policy: str
) -> None:
    """Its own numbers and request cap stand beside its command, and what it loses against the search's best."""
    drafter = "eagle3" if form == "llama.cpp" else "dspark"
    best = "k_by_batch:8=7/64=2" if form == "llama.cpp" else "fixed:5"
    won = msgspec.structs.replace(WON, configuration=configuration(drafter, 7, best, cap=32))
    rows = [
        msgspec.structs.replace(
            row_of("next best", policy, 0.25, 0.01, drafter=drafter), figures={"throughput": 1234.0, "tps": 5.0},
            half_widths={"throughput": 6.0}, configuration=configuration(drafter, 7, policy, cap=16),
        ),
        msgspec.structs.replace(row_of("default", "fixed:7", 0, None), configuration=plain(64), figures={"throughput": 9.0}),
    ]  # fmt: skip
    for decision in (None, decided(won.configuration, None)):
        found = msgspec.structs.replace(FOUND, winner=won, beside=rows, decision=decision)
        text = " ".join(export_study(stored(monkeypatch, found), "abc", form, None).replace("\n#", "").split())
        assert f"γ=7 {policy} cap 16 for 64 users" in text
        assert "simulated: 1,234 ± 6 tok/s/GPU with the profile held" in text
        assert "the profile's own errors come on top" in text
        assert f"{best} with 32 requests at a time (" in text
        assert "against the search's best it loses 20.0% ± 1.0%" in text
        assert "not simulated" not in text
        assert " 16 " in text[text.index("checked") :]
    worse = [msgspec.structs.replace(rows[0], feasible=False), *rows[1:]]
    found = msgspec.structs.replace(FOUND, winner=won, beside=worse)
    assert "none cap 64" in export_study(stored(monkeypatch, found), "abc", form, None)  # it keeps the promise


def test_without_anything_confirmed_the_numbers_are_said_not_to_be_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    won = msgspec.structs.replace(WON, configuration=configuration("eagle3", 7, "k_by_batch:8=7/64=2"))
    found = msgspec.structs.replace(FOUND, winner=won)
    text = " ".join(export_study(stored(monkeypatch, found), "abc", "llama.cpp", None).replace("\n#", "").split())
    assert "simulated, which the command below is not: 4,321 ± 5" in text
    assert "every batch drafts 7, and what that loses was not simulated" in text


def test_what_an_engine_cannot_run_leaves_the_winner_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = configuration("ngram", 3, "fixed:3")  # llama.cpp looks further back
    found = msgspec.structs.replace(FOUND, winner=WON, decision=decided(candidate, None))
    text = " ".join(export_study(stored(monkeypatch, found), "abc", "llama.cpp", None).replace("\n#", "").split())
    assert "-md org/eagle3" in text
    assert "4,321" in text
    assert "decided for 64 users: ngram" in text
    assert "runs ngram is not known here" in text
    assert "instead" not in export_study(stored(monkeypatch, found), "abc", "vllm", None)
    [one] = content(monkeypatch, found)["winners"]
    assert one["vllm"]["configuration"] == candidate.row()  # which vLLM runs
    assert '"ngram"' in one["vllm"]["command"]
    assert not any("decided for" in note for note in one["notes"])
    only = configuration("dspark", 7, "prefix_scheduler")  # which it does not
    [one] = content(monkeypatch, msgspec.structs.replace(found, decision=decided(only, None)))["winners"]
    assert one["vllm"]["configuration"] == one["configuration"] == WON.configuration.row()
    assert any("decided for 64 users: dspark" in note for note in one["notes"])


@pytest.mark.parametrize(("reads", "told"), [(True, "vLLM's adaptive verification"), (False, "vLLM has no such policy")])
def test_a_policy_of_a_user_s_own_is_exported_as_what_is_closest(reads: bool, told: str, tmp_path: Path) -> None:
    """Of a database, without its file, whether it reads confidences or not."""
    facts = dict.fromkeys(FACTS, False) | {"lossless": True, "reads_confidences": reads}
    remember(OwnPolicy("mine.py", "Best", "0123456" + "01"[reads], **facts, searched=(), text=""))
    name = f"mine.py:Best#0123456{'01'[reads]}:2"
    made = serving(configuration("dspark", 7, name), FOUND, STUDY, models("dspark", "dspark", 0.7))
    assert made.speculative is not None
    [note] = [note for note in made.notes if "mine.py:Best#" in note]
    assert told in note
    rows = (("in vLLM", "vllm_adaptive"), ("k by batch", "k_by_batch:8=7/64=0"))
    better = found_with(*(row_of(*row, -0.02, None) for row in rows))
    made = serving(configuration("dspark", 7, name), better, STUDY, models("dspark", "dspark", 0.7))
    assert any("simulated, it gives 2.0% more" in note for note in made.notes)


def test_n_gram_is_exported_as_it_is_validated(tmp_path: Path) -> None:
    assert exported("ngram", 7, "fixed:7")[0] == speculative_of(
        {"kind": "ngram", "gamma": 7}, "target", tmp_path, 0.7, "greedy"
    )


def test_a_name_that_is_only_a_files_is_not_passed_off_as_a_model() -> None:
    winner = configuration("mtp", 3, "fixed:3")
    recorded = models("mtp", "mtp", 0.7, source="my-llama", named_after="my-llama.json", synthesised=True)
    assert any("my-llama.json" in note and "my-llama " in note for note in serving(winner, FOUND, STUDY, recorded).notes)
    known = models("mtp", "mtp", 0.7, named_after="", synthesised=True)
    assert not any("Qwen3-4B" in note for note in serving(winner, FOUND, STUDY, known).notes)


@pytest.mark.parametrize("policy", ["k_by_batch:8=7/200=3", "k_by_batch:64=2", "cutoff:1", "cutoff:64", "cutoff:255"])
def test_rows_cover_every_batch_once(policy: str) -> None:
    rows = batch_rows(PolicySpec.parse(policy), 7, 64)
    assert rows[0][0] == 1
    assert rows[-1][1] == 64
    assert all(a[1] + 1 == b[0] for a, b in pairwise(rows))
    assert all(0 <= k <= 7 for *_, k in rows)


def test_other_drafters() -> None:
    speculative, notes = exported("mine", 5, "fixed:5", kind="dflash")
    assert speculative["method"] == "dspark"
    assert "`harness convert CHECKPOINT --to vllm" in notes
    speculative, notes = exported("ngram", 4, "fixed:4")
    assert speculative == {
        "method": "ngram", "prompt_lookup_max": 4, "prompt_lookup_min": 2, "num_speculative_tokens": 4,
    }  # fmt: skip
    assert "own checkpoint" in exported("mtp", 1, "fixed:1")[1]
    assert serving(plain(8), FOUND, STUDY, models("mtp", "mtp", 0.0)).speculative is None


def test_fields_are_checked_where_vllm_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert check({"method": "dspark"}).startswith("not checked: vLLM is not installed here")
    assert "nothing to check" in check(None)

    @dataclasses.dataclass
    class SpeculativeConfig:
        method: Literal["dspark", "ngram"] | None = None
        num_speculative_tokens: int | None = None
        num_speculative_tokens_per_batch_size: list[tuple[int, int, int]] | None = None
        prompt_lookup_max: int | None = None
        prompt_lookup_min: int | None = None

        def __post_init__(self) -> None:
            if self.num_speculative_tokens == 13:
                raise ValueError("an unlucky number")

    SpeculativeConfig.__annotations__ = {
        "method": Literal["dspark", "ngram"] | None, "num_speculative_tokens": int | None,
        "num_speculative_tokens_per_batch_size": list[tuple[int, int, int]] | None,
    }  # fmt: skip
    vllm, config = types.ModuleType("vllm"), types.ModuleType("vllm.config")
    vllm.__version__, config.SpeculativeConfig = "9.9", SpeculativeConfig  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.config", config)
    assert check({"method": "dspark", "num_speculative_tokens_per_batch_size": [(1, 8, 7)]}).endswith("the numbers")
    assert "refuses the numbers: an unlucky" in check({"method": "dspark", "num_speculative_tokens": 13})
    assert "does not know enable_adaptive_verification" in check({"enable_adaptive_verification": True})
    assert "refuses method" in check({"method": "medusa"})


def test_a_figure_that_nobody_knows_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no request finished there are no tokens a second of a user."""
    for figures, told in (
        ({"throughput": 4321.0, "tps": None}, "simulated: 4,321 ± 5 tok/s/GPU"),
        ({}, "simulated: nothing"),
    ):
        won = msgspec.structs.replace(WON, figures=figures)
        store = stored(monkeypatch, msgspec.structs.replace(FOUND, winner=won))
        text = " ".join(export_study(store, "abc", "vllm", None).replace("\n#", "").split())
        assert told in text
        assert "of a user" not in text
