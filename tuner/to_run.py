"""What an engine is to run of what a study found at a load, and the numbers of exactly that."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from results.store.studies import StudyConfirmation
from simulator.configuration import Configuration
from simulator.decision import FIGURES, Decision, refused
from simulator.load import Load
from simulator.policies import NO_DRAFTER
from simulator.sentences import sentences
from simulator.serving.engine import ServingEngine
from tuner.objective import WANTED
from tuner.stored import AtLoad, StoredStudy


def to_run(found: AtLoad, engine: ServingEngine, study: StoredStudy) -> Configuration | None:
    """What an engine is to run at a load: what was decided, for whichever engine, where this one can; else the winner; else
    the best that was confirmed beside it.

    The winner where the engine runs nothing of all that; None without a winner.
    """
    decision, target = found.decision, study.target or ""
    if decision is not None and decision.candidate is not None and not refused(engine, decision.candidate, target):
        return decision.candidate
    if found.winner is None:
        return None
    winner = found.winner.configuration
    if not refused(engine, winner, target):
        return winner
    return _best_confirmed(found.beside, engine, study) or winner


def _best_confirmed(rows: Sequence[StudyConfirmation], engine: ServingEngine, study: StoredStudy) -> Configuration | None:
    """The configuration that gives most of what was confirmed and an engine runs; None where nothing of it drafts."""
    figure = WANTED[study.plan.objective][0]
    able = {
        row.configuration: (row.feasible is not False, value)
        for row in rows
        if (value := row.of(figure)[0]) is not None and not refused(engine, row.configuration, study.target or "")
    }
    if all(configuration.policy == NO_DRAFTER for configuration in able):
        return None
    return max(able, key=lambda configuration: able[configuration])


def expected(found: AtLoad, run: Configuration) -> str:
    """What the simulation says of a configuration: as it was decided, else as it was confirmed."""
    row, decision = found.of(run), found.decision
    if decision is not None and decision.value is not None and decision.candidate == run:
        value = decision.value
        return f"{value.value:,.0f} ({value.low:,.0f} to {value.high:,.0f}) {FIGURES[decision.figure]}"
    if row is None:
        return "nothing that tells"
    (throughput, half), (tps, _) = row.of("throughput"), row.of("tps")
    width = "" if half is None or math.isnan(half) else f" ± {half:,.0f}"
    told = [] if throughput is None else [f"{throughput:,.0f}{width} tok/s/GPU with the profile held"]
    told += [] if tps is None else [f"{tps:.0f} tok/s of a user"]
    return ", ".join(told) or "nothing that tells"


def as_decided(decision: Decision, engine: ServingEngine, theirs: Sequence[str]) -> list[str]:
    """A decision in sentences for another engine than it was made for, which runs the same configuration.

    `theirs` are notes on the command of the engine that it was made for, which are left out.
    """
    made_for = "whichever engine has it" if decision.engine is None else decision.engine.name
    told = sentences(msgspec.structs.replace(decision, engine=None, better=None))
    notes = [note for note in decision.notes if note not in theirs]
    return [f"what follows was decided for {made_for}; {engine.name} runs the same configuration", *told, *notes]


def otherwise(load: Load, study: StoredStudy, run: Configuration, engine: ServingEngine) -> list[str]:
    """That something else was decided than what is exported, or was the search's best, and why an engine cannot run it."""
    found = study.loads[load]
    winner = None if found.winner is None else found.winner.configuration
    decided = None if found.decision is None else found.decision.candidate
    told = []
    if decided not in (None, run):
        instead = "the search's winner" if run == winner else f"the best confirmed that {engine.name} runs"
        told.append(f"decided for {load.label}: {_with_reason(decided, study, engine)}; this is {instead} instead")
    if winner not in (None, run, decided):
        told.append(f"not the search's best at {load.label}, which was {_with_reason(winner, study, engine)}")
    row = found.of(run)
    if told and decided != run and row is not None and row.gain is not None:
        half = row.gain_half_width
        width = "" if half is None or math.isnan(half) else f" ± {half:.1%}"
        told.append(f"against the search's best it {loses(row.gain)}{width}, the profile held")
    if decided != run and row is not None and row.feasible is False:
        told.append("it misses the promise on prompts that the search has not seen")
    return told


def _with_reason(one: Configuration | None, study: StoredStudy, engine: ServingEngine) -> str:
    """A configuration in words, with why an engine cannot run it where it cannot."""
    assert one is not None
    why = refused(engine, one, study.target or "")
    return f"{one.with_cap}{f' ({why})' if why else ''}"


def lost(gain: float) -> float:
    """What something loses against a winner that has this gain over it, as a share."""
    return 1 - 1 / (1 + gain)


def loses(gain: float) -> str:
    """The same in words."""
    share = lost(gain)
    return f"loses {share:.1%}" if share >= 0 else f"gives {-share:.1%} more"
