"""What the command prints of a study, as tables or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.console import print_json, print_table, say
from results.figures.common import drafted_by_load
from results.figures.study import HowFar
from results.store.commands import typed
from results.store.database import Store
from results.store.studies import OVER_NONE, StudyConfirmation, one_table
from simulator.capacity import crowded, dollars_per_million, gpus_told, times_of
from simulator.decision import Decision, Range
from simulator.errors import AnswerIsNo
from simulator.load import Load, Users
from simulator.numbers import counted, give_or_take
from simulator.plan import StudyPlan
from simulator.policies import NO_DRAFTER
from simulator.records import SERVED
from simulator.sentences import sentences, told
from simulator.serving.command import batch_rows
from simulator.sla import promises
from tuner.by_load import OF_THE_TABLE, no_row
from tuner.objective import KEEPS_UP, KNOWN, WANTED
from tuner.stored import AtLoad, StoredStudy, read_study

_ROLES = {"refuted": "refuted here", "scheduler": "not in the engine"}


def print_study(store: Store, study_id: str, *, as_json: bool, whole: bool = True) -> None:
    """A study and its results; of several loads what to run at each, and the tables behind that if `whole`.

    Raises AnswerIsNo where no load has a configuration that keeps the bounds; of JSON, after it is printed.
    """
    study, out = read_study(store, study_id), store.file.parent
    if as_json:
        print_json("study", study.content())
    if all(found.winner is None for found in study.loads.values()) and study.finished:
        raise AnswerIsNo(_nobody(study))
    if as_json:
        return
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=160)

    say(console, _title(study))
    if not study.finished:
        say(console, f"this study is not finished: go on with {typed('tuner', 'search', '--resume', study_id, out=out)}")
    several = len(study.loads) > 1
    if several:
        _print_overview(study, console)
    for load, found in study.loads.items():
        shown = whole or not several
        if several:
            _print_decision(found, console, brief=True)
        if found.winner is None:
            say(console, f"\n{load.label}: {_undecided(found, study) or _closest(found, study.plan)}")
        else:
            if shown:
                _print_load(load, found.winner, study, console)
            for line in [*capacity(load, study), *(_remarks(found, found.winner) if shown else [])]:
                say(console, line)
        if not several:
            _print_decision(found, console)
    if several:
        if not whole:
            say(console, f"\nWhat was tried at each of these loads: {typed('tuner', 'show', study_id, out=out)}")
        if study.finished:
            _print_table_of_all_loads(study, console, out)


def _print_decision(found: AtLoad, console: Console, *, brief: bool = False) -> None:
    """What to run at a load, where that was decided: last of one load alone, where the eye is."""
    if found.decision is None:
        return
    say(console, "")
    for line in sentences(found.decision, brief=True) if brief else told(found.decision):
        say(console, line)


def _print_table_of_all_loads(study: StoredStudy, console: Console, out: Path) -> None:
    """What one server can run at all the loads of a study, and how to get its command."""
    tables = one_table({load: [row for row in (own.winner, *own.beside) if row] for load, own in study.loads.items()})
    name = study.study_id
    if not tables:
        one = typed("tuner", "export", name, "--concurrency", "USERS", out=out)
        say(console, f"\nThe command at one of these loads: {one}")
        return
    run = next(iter(tables.values())).configuration
    gains = ", ".join(f"{_over_none(row)} at {load.label}{study.loads[load].other_cap(run)}" for load, row in tables.items())
    rows = batch_rows(run.policy, run.recording.gamma, run.request_cap)
    who = f"{run.recording.short}, {run.request_cap:,} requests at a time"
    say(console, f"\nOne table for all of these loads: {who}, draft {drafted_by_load(rows)}.")
    say(console, f"Its gains over no speculation, the profile held: {gains}.")
    decided = [own.decision for own in study.loads.values() if own.decision is not None and not own.decision.reason]
    for last in decided[-1:]:
        say(console, f"Traffic: {last.traffic}." + (f" To be surer: {last.next}." if last.next else ""))
    for line in (OF_THE_TABLE, *(no_row(load) for load in study.loads if load not in tables)):
        say(console, line[0].upper() + line[1:] + ".")
    say(console, f"Its command: {typed('tuner', 'export', name, out=out)}")


def _over_none(row: StudyConfirmation) -> str:
    value, half = row.of(OVER_NONE)
    return f"{value:+.1%}" + ("" if half is None else f" ± {half:.1%}")


def replicated(plan: StudyPlan) -> str:
    """The hardware of a study, and how many replicas of it there are."""
    profile, replicas = plan.profile, plan.replicas
    gpus = counted(profile.gpus, "GPU")
    return f"{profile.name}, {replicas} replicas of {gpus} each" if replicas > 1 else profile.name


def _title(study: StoredStudy) -> str:
    plan = study.plan
    traces = f"run {study.run_id}" + (f" ({SERVED})" if study.served else " (synthesised)" if study.synthesised else "")
    wanted = {
        "throughput": "most tokens a second", "tps": "most tokens a second of a user",
        "goodput": "most tokens a second within bounds", "pareto": "throughput against tokens a second of a user",
    }  # fmt: skip
    bounds = "".join(f" · {sla}" for sla in plan.slas)
    name = f"{replicated(plan)} ({plan.profile.source})"
    cache = "no prefix cache" if plan.whole_prompts else ""
    parts = (f"study {study.study_id}", traces, study.drafts, name, cache, wanted[plan.objective])
    return " · ".join(filter(None, parts)) + bounds


def _print_overview(study: StoredStudy, console: Console) -> None:
    """A line a load: what is to be run there and what it gains, with all that is unsure."""
    alone, tps = "if one had to do", "mean tok/s of a user"
    made_large = "tok/s/GPU within the promise" if study.plan.objective == "goodput" else "tok/s/GPU"
    heads = ["load", "run", made_large, tps, "gain over none", alone]
    lines = []
    for load, found in study.loads.items():
        if (winner := found.winner) is None:
            lines.append([load.label, _undecided(found, study) or "nothing keeps the promise"])
            continue
        decision, far = found.decision, _elsewhere(HowFar.of(s for s in found.sensitivities if s.kind == "elsewhere"))
        if decision is not None and decision.reason:
            lines.append([load.label, "no recommendation"])
            continue
        if decision is not None:
            figure, gain = None if decision.figure == "tps" else decision.value, decision.over_none
            cells = [
                _range(figure, ",.0f"), _range(decision.tps, ",.0f"), _range(None if gain is None else gain.all, "+.0%")
            ]  # fmt: skip
            lines.append([load.label, decision.run, *cells, far])
            continue
        none = next(
            (row for row in found.beside if row.configuration.policy == NO_DRAFTER), None
        )  # as studies of the first versions say it
        figures = [_interval(winner, "throughput", ",.0f"), _interval(winner, "tps", ",.0f")]
        lines.append([load.label, _who(winner), *figures, "–" if none is None else _gain(none), far])
    print_table(console, heads, lines, (alone, tps, made_large))


def _undecided(found: AtLoad, study: StoredStudy) -> str:
    """How far a study is with a load of which nothing is known yet; empty where something is."""
    if study.finished or found.decision is not None:
        return ""
    return f"not decided yet; {sum(found.trials.values())} of {counted(study.plan.trials, 'configuration')} tried"


def _elsewhere(far: HowFar) -> str:
    """What becomes of the other loads under what is run at one."""
    lost = f"at most {far.worst:.1%} lost elsewhere" if far.cases > far.broken else "–"
    if not far.broken:
        return lost
    return f"breaks a bound at {far.broken} of {far.cases}" + (f"; else {lost}" if far.cases > far.broken else "")


def _range(of: Range | None, form: str) -> str:
    return "–" if of is None else f"{of.value:{form}} ({of.low:{form}} to {of.high:{form}})"


def _print_load(load: Load, winner: StudyConfirmation, study: StoredStudy, console: Console) -> None:
    found, plan = study.loads[load], study.plan
    counts = found.trials
    tried = sum(counts.values())
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    say(
        console,
        f"\n{load.label} · {counted(tried, 'configuration')} tried, {counts['cut']} of them shortly{failed} · below: "
        f"{counted(winner.prompts, 'prompt')} the search has not seen, drawn {counted(winner.draws, 'time')}",
    )
    bounds = promises(plan.slas)
    gained = "gain over it" if WANTED[plan.objective][0] != "tps" else "gain over it (tok/s of a user)"
    heads = ["run", "cap", "tok/s/GPU", "mean tok/s of a user", "TTFT p95 ms", "τ", gained]
    heads += ["promise"] if len(bounds) == 1 else [bound.name for bound in bounds]
    lines: list[list[str]] = []
    role = ""
    for row in by_role([winner, *found.beside]):
        if role != row.role:
            role = row.role
            told_as = _ROLES.get(role, role)
            if role == "winner" and not _is_run(row, found.decision):
                told_as = "winner, not what is to be run"
            lines.append([told_as])
        instead = role != "winner" and found.decision is not None and row.configuration == found.decision.candidate
        who = f"  {_who(row)}" + (", to be run" if instead else "")
        if row.error:
            lines.append([who, str(row.configuration.request_cap), row.error])
            continue
        f, broken = row.figures or {}, row.violations or {}
        told = (f.get(KNOWN, 1.0) or 0.0) >= 0.5  # in most draws
        kept = [b.attained(f.get(b.name), broken.get(b.name, 0) <= 0 if told else None) for b in bounds]
        ttft = "–" if f["p95_ttft"] is None else f"{f['p95_ttft'] * 1e3:.0f}"
        tau = f"{f['tau']:.2f}" if f["tau"] else "–"
        figures = [_interval(row, "throughput", ",.0f"), _interval(row, "tps", ".1f")]
        lines.append([who, str(row.configuration.request_cap), *figures, ttft, tau, _gain(row), *kept])
    figures_last = ["mean tok/s of a user", "tok/s/GPU"]  # what was made large goes last
    if WANTED[plan.objective][0] == "tps":
        figures_last.reverse()
    expendable = ("τ", "TTFT p95 ms", figures_last[0], gained, figures_last[1])
    print_table(console, heads, lines, expendable)


def by_role(rows: Sequence[StudyConfirmation]) -> list[StudyConfirmation]:
    """Rows with those of one role together, roles in the order of their first rows."""
    roles = list(dict.fromkeys(row.role for row in rows))
    return sorted(rows, key=lambda row: roles.index(row.role))


def capacity(load: Load, study: StoredStudy) -> list[str]:
    """Whether enough came to tell how much of a load is held, the GPUs of a whole service, and what tokens cost."""
    plan, decision, winner, lines = study.plan, study.loads[load].decision, study.loads[load].winner, list[str]()
    figures = {} if winner is None or winner.figures is None else winner.figures
    if decision is None:  # studies of the first versions
        if (times := figures.get("headroom")) is not None:
            lines.append(f"holds up to {times_of(times)} this load within the promise, if the profile is right")
    elif plan.slas and not decision.reason and decision.holds is None and not _waiting(load, decision):
        lines.append(f"too few requests to tell how much is held ({figures.get('finished') or 0:.0f}): give more --seconds")
    elif plan.users is not None and decision.holds is not None and isinstance(load, Users):
        ends = (decision.holds.value, decision.holds.low, decision.holds.high)
        lines.append(gpus_told(plan.users, load, *ends, replicas=plan.replicas, gpus=plan.profile.gpus))
    throughput = figures.get("throughput")
    if decision is not None and decision.value is not None and decision.figure == "throughput":
        throughput = decision.value.value  # of what is to be run, which need not be the search's winner
    elif decision is not None and winner is not None and decision.candidate not in (None, winner.configuration):
        throughput = None
    if plan.gpu_hour is not None and throughput is not None:
        cost = dollars_per_million(throughput, plan.gpu_hour)
        lines.append(f"${cost:.3g} per million output tokens, at ${plan.gpu_hour:g} for an hour of a GPU")
    return lines


def _waiting(load: Load, decision: Decision) -> bool:
    assert decision.candidate is not None
    return crowded(load, decision.candidate.request_cap, decision.replicas)


def _is_run(row: StudyConfirmation, decision: Decision | None) -> bool:
    """Whether the search's winner is what is to be run: the draws may have decided for something else."""
    return decision is None or bool(decision.reason) or row.configuration == decision.candidate


def _remarks(found: AtLoad, winner: StudyConfirmation) -> list[str]:
    lines = []
    rows = found.sensitivities
    if decided := [s.words for s in rows if s.kind == "choice"][:4]:
        lines.append("what decides, the rest tuned anew: " + ", ".join(decided))
    off = [(s, s.best.in_full) for s in rows if s.kind in ("load", "mix", "verify") and s.best is not None]
    if off:
        lines.append(f"off by 20 %: {HowFar.of(s for s, _ in off)}")
    for s, best in off:
        if not s.keeps:
            instead = f"; of those compared {best} is best then" if s.moved else ""
            lines.append(f"· with {s.what} the choice breaks a bound{instead}")
        elif s.moved:
            lines.append(f"· with {s.what} {best} is better: keeping the choice costs {s.loss:.1%}")
    if not winner.feasible:
        lines.append("the winner breaks a bound on these prompts, and so do the runners-up: ask for less, or try more")
    if not winner.exact:
        lines.append(
            "the winner looks at old confidences: its replay of sampled drafts is an approximation; see docs/simulating.md"
        )
    if found.errors:
        lines.append(f"failed trials: {'; '.join(found.errors[:3])}")
    return lines


def _nobody(study: StoredStudy) -> str:
    each = [f"at {load.label} {_closest(found, study.plan)}" for load, found in study.loads.items()]
    return f"study {study.study_id}: " + "; ".join(each)


def _closest(found: AtLoad, plan: StudyPlan) -> str:
    near, tried = found.closest, sum(found.trials.values())
    if near is None:
        return "no trial came to an end" + "".join(f": {error}" for error in found.errors[:1])
    tries, f, decision = counted(tried, "configuration"), near.figures or {}, found.decision
    if not any(v > 0 for v in near.violations.values()):
        return f"none of {tries} was simulated in full; give more --trials"
    if decision is not None and decision.reason:
        said = f"{decision.reason}; {tries} tried"
    else:  # studies of the first versions
        bounds = " and ".join(promise.name for promise in promises(plan.slas)) or "up"
        said = f"none of {tries} keeps {bounds}; the closest is {near.configuration.in_full}"
    if not f["p5_tps"] or f["p95_ttft"] is None or near.violations.get(KEEPS_UP, 0) > 0:
        return said
    speed, wait = f"{f['p5_tps']:.3g} tok/s or more", f"the first token in {1e3 * f['p95_ttft']:,.0f} ms"
    return f"{said}; of the closest 95 % of requests get {speed}, and 95 % {wait}"


def _who(row: StudyConfirmation) -> str:
    """A configuration without its request cap."""
    return str(row.configuration.system)


def _interval(row: StudyConfirmation, name: str, form: str) -> str:
    return give_or_take(*row.of(name), form)


def _gain(row: StudyConfirmation) -> str:
    if row.gain is None:
        return ""
    half = row.gain_half_width
    return f"{round(row.gain, 3) + 0.0:+.1%}" + ("" if half is None else f" ± {half:.1%}")
