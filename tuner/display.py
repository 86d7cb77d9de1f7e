"""What the command prints of a study, as tables or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from harness.console import print_json, print_table, say
from results.figures.study import HowFar, choice
from results.store.commands import typed
from results.store.database import Store
from results.store.decisions import decisions
from results.store.rows import plan_row, read_plan
from results.store.studies import Studies
from simulator.capacity import crowded, dollars_per_million, gpus_told, times_of
from simulator.configuration import Configuration
from simulator.decision import Decision, sentences, told
from simulator.errors import InputError
from simulator.load import Load, Users
from simulator.numbers import counted
from simulator.sla import Sla, attained, promises
from tuner.confirmation import K_BY_BATCH, OVER_NONE
from tuner.objective import KEEPS_UP, WANTED
from tuner.plan import StudyPlan
from tuner.trial import Trial, closest

_ROLES = {"refuted": "refuted here", "scheduler": "not in the engine"}


def print_study(store: Store, study_id: str, *, as_json: bool) -> None:
    """A study and its results. Raises InputError where no load has a configuration that keeps the bounds."""
    study, out = describe(store, study_id), store.file.parent
    if all(found["winner"] is None for found in study["loads"].values()) and study["study"]["finished_at"] is not None:
        raise InputError(_nobody(study))
    if as_json:
        print_json("study", study)
        return
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=160)

    say(console, _title(study))
    if study["study"]["finished_at"] is None:
        say(console, f"this study is not finished: go on with {typed('tuner', 'search', '--resume', study_id, out=out)}")
    if len(study["loads"]) > 1:
        _print_policies(study, console)
    for load, found in study["loads"].items():
        if (decision := found["decision"]) is not None:
            say(console, "")
            made = msgspec.convert(decision, Decision)
            for line in told(made) if len(study["loads"]) == 1 else _shortly(made):
                say(console, line)
        if found["winner"] is None:
            say(console, f"\n{load_label(load)}: {_closest(found, study['plan'])}")
        else:
            _print_load(load, study, console)
    if len(study["loads"]) > 1:
        _print_table_over_loads(study, console, out)


def _shortly(decision: Decision) -> list[str]:
    """What to run at one load of many and what it gains; the command and what is to be known of it come with an export."""
    said = sentences(decision)
    return said if decision.reason else said[: 2 + len(decision.gains)]


def _print_table_over_loads(study: dict[str, Any], console: Console, out: Path) -> None:
    """What one server can run at all the loads of a study, and how to get its command."""
    rows = {load: _over_loads(found) for load, found in study["loads"].items()}
    name = study["study"]["study_id"]
    there = [row for row in rows.values() if row is not None]
    if len(there) < len(rows):
        say(
            console,
            f"\nThe command at one of these loads: {typed('tuner', 'export', name, '--concurrency', 'USERS', out=out)}",
        )
        return
    gains = ", ".join(f"{_over_none(row)} at {load_label(load)}" for load, row in rows.items() if row is not None)
    say(console, f"\nOne table for all of these loads, {_who(there[0])}, gains over no speculation {gains}.")
    say(console, f"Its command: {typed('tuner', 'export', name, out=out)}")


def _over_loads(found: dict[str, Any]) -> dict[str, Any] | None:
    """The confirmed table of k by batch size at a load of a study; None without one that came to figures."""
    rows = (row for row in found["beside"] if row["role"] == K_BY_BATCH)
    return next((row for row in rows if (row["figures"] or {}).get(OVER_NONE) is not None), None)


def _over_none(row: dict[str, Any]) -> str:
    half = row["half_widths"][OVER_NONE]
    return f"{row['figures'][OVER_NONE]:+.1%}" + ("" if half is None else f" ± {half:.1%}")


def describe(store: Store, study_id: str) -> dict[str, Any]:
    """Everything there is to say about a study, ready for JSON."""
    studies = Studies(store)
    row = studies.find(study_id)
    plan = read_plan(row.pop("plan"), StudyPlan)
    profile = plan.profile
    run = store.run(row["run_id"])
    result: dict[str, Any] = {
        "study": row,
        "plan": {**plan_row(plan), "profile": profile.name},
        "profile": {"name": profile.name, "model": profile.model, "source": profile.source, "gpus": profile.gpus},
        "target": run["target"].get("source"),
        "synthesised": bool(run["target"].get("synthesised")),
        "loads": {},
    }
    confirmations, sensitivities = studies.confirmations(row["study_id"]), studies.sensitivities(row["study_id"])
    with store.reading() as connection:
        kept = {load: msgspec.to_builtins(d) for load, d in decisions(connection, row["study_id"]).items()}
    for load in map(str, plan.loads):
        trials = [Trial.read(r, plan.drafting) for r in studies.trials(row["study_id"], load)]
        confirmed = [c for c in confirmations if c["load"] == load]
        near = closest(trials)
        result["loads"][load] = {
            "trials": {state: sum(t.state == state for t in trials) for state in ("complete", "cut", "failed")},
            "errors": sorted({t.error for t in trials if t.error}),
            "decision": kept.get(load),
            "winner": confirmed[0] if confirmed else None,
            "beside": confirmed[1:],
            "closest": None if near is None else {
                "configuration": near.configuration.in_full, "violations": dict(near.last.violations),
                "figures": near.figures,
            },
            "sensitivities": [s for s in sensitivities if s["load"] == load],
        }  # fmt: skip
    return result


def load_label(text: str) -> str:
    """A load as it is stored, for people."""
    return Load.parse(text).label


def replicated(study: dict[str, Any]) -> str:
    """The hardware of a study, and how many replicas of it there are."""
    profile, replicas = study["profile"], study["plan"]["replicas"]
    gpus = counted(profile["gpus"], "GPU")
    return f"{profile['name']}, {replicas} replicas of {gpus} each" if replicas > 1 else str(profile["name"])


def _title(study: dict[str, Any]) -> str:
    plan, profile = study["plan"], study["profile"]
    traces = f"run {study['study']['run_id']}" + (" (synthesised)" if study["synthesised"] else "")
    wanted = {
        "throughput": "most tokens a second", "tps": "most tokens a second of a user",
        "goodput": "most tokens a second within bounds", "pareto": "throughput against tokens a second of a user",
    }  # fmt: skip
    bounds = "".join(f" · {sla}" for sla in plan["slas"])
    name = f"{replicated(study)} ({profile['source']})"
    traces += f" · {plan['drafting']} drafts"
    return f"study {study['study']['study_id']} · {traces} · {name} · {wanted[plan['objective']]}{bounds}"


def _print_policies(study: dict[str, Any], console: Console) -> None:
    heads = ["load", "run", "tok/s/GPU", "mean tok/s of a user", "gain over none", "if one had to do"]
    lines = []
    for load, found in study["loads"].items():
        if (winner := found["winner"]) is None:
            lines.append([load_label(load), "nothing keeps the promise"])
            continue
        none = next((c for c in found["beside"] if c["drafter"] == "none"), None)
        far = HowFar.of(s for s in found["sensitivities"] if s["kind"] == "elsewhere")
        alone = f"at most {far.worst:.1%} lost elsewhere" if far.cases > far.broken else "–"
        if far.broken:
            alone = f"breaks a bound at {far.broken} of {far.cases}" + (f"; else {alone}" if far.cases > far.broken else "")
        figures = [_interval(winner, "throughput", ",.0f"), _interval(winner, "tps", ".0f")]
        lines.append([load_label(load), _who(winner), *figures, "–" if none is None else _gain(none), alone])
    print_table(console, heads, lines, ("if one had to do", "mean tok/s of a user", "tok/s/GPU"))


def _print_load(load: str, study: dict[str, Any], console: Console) -> None:
    found, plan = study["loads"][load], study["plan"]
    winner, counts = found["winner"], found["trials"]
    tried = sum(counts.values())
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    say(
        console,
        f"\n{load_label(load)} · {counted(tried, 'configuration')} tried, {counts['cut']} of them shortly{failed} · below: "
        f"{counted(winner['prompts'], 'prompt')} the search has not seen, drawn {counted(winner['draws'], 'time')}",
    )
    bounds = _promised(plan)
    gained = "gain over it" if WANTED[plan["objective"]][0] != "tps" else "gain over it (tok/s of a user)"
    heads = ["run", "cap", "tok/s/GPU", "mean tok/s of a user", "TTFT p95 ms", "τ", gained]
    heads += ["promise"] if len(bounds) == 1 else bounds
    lines: list[list[str]] = []
    role = ""
    for row in [winner, *found["beside"]]:
        if role != row["role"]:
            role = row["role"]
            lines.append([_winner(row, found["decision"]) if role == "winner" else _ROLES.get(role, role)])
        who = f"  {_who(row)}"
        if row["error"]:
            lines.append([who, str(row["request_cap"]), row["error"]])
            continue
        f = row["figures"]
        kept = [attained(b, f.get(b), row["violations"].get(b, 0) <= 0) for b in bounds]
        ttft = "–" if f["p95_ttft"] is None else f"{f['p95_ttft'] * 1e3:.0f}"
        tau = f"{f['tau']:.2f}" if f["tau"] else "–"
        figures = [_interval(row, "throughput", ",.0f"), _interval(row, "tps", ".1f")]
        lines.append([who, str(row["request_cap"]), *figures, ttft, tau, _gain(row), *kept])
    figures_last = ["mean tok/s of a user", "tok/s/GPU"]  # what was made large goes last
    if WANTED[plan["objective"]][0] == "tps":
        figures_last.reverse()
    expendable = ("τ", "TTFT p95 ms", figures_last[0], gained, figures_last[1])
    print_table(console, heads, lines, expendable)
    for line in [*capacity(load, study), *_remarks(found)]:
        say(console, line)


def capacity(load: str, study: dict[str, Any]) -> list[str]:
    """Whether enough came to tell how much of a load is held, the GPUs of a whole service, and what tokens cost."""
    plan, figures, lines = study["plan"], study["loads"][load]["winner"]["figures"], list[str]()
    decision, at = study["loads"][load]["decision"], Load.parse(load)
    if decision is None:  # studies of the first versions
        if (times := figures.get("headroom")) is not None:
            lines.append(f"holds up to {times_of(times)} this load within the promise, if the profile is right")
    elif plan["slas"] and not decision["reason"] and decision["holds"] is None and not _waiting(at, decision):
        lines.append(f"too few requests to tell how much is held ({figures['finished']:.0f}): give more --seconds")
    elif plan["users"] is not None and decision["holds"] is not None and isinstance(at, Users):
        lines.append(_gpus(at, decision["holds"], study))
    if plan["gpu_hour"] is not None:
        cost = dollars_per_million(figures["throughput"], plan["gpu_hour"])
        lines.append(f"${cost:.3g} per million output tokens, at ${plan['gpu_hour']:g} for an hour of a GPU")
    return lines


def _waiting(load: Load, decision: dict[str, Any]) -> bool:
    return crowded(load, int(decision["candidate"]["request_cap"]), decision["replicas"])


def _gpus(load: Users, holds: dict[str, float], study: dict[str, Any]) -> str:
    """The GPUs that the users of a whole service need, `holds` times the load being held."""
    ends = (holds[end] for end in ("value", "low", "high"))
    plan = study["plan"]
    return gpus_told(plan["users"], load, *ends, replicas=plan["replicas"], gpus=study["profile"]["gpus"])


def _winner(row: dict[str, Any], decision: dict[str, Any] | None) -> str:
    """The search's winner; where the draws have decided for something else, that is said."""
    same = ("drafter", "gamma", "policy", "confidences", "request_cap")
    decided = decision["candidate"] if decision is not None and not decision["reason"] else row
    return "winner" if all(row[name] == decided[name] for name in same) else "winner of the search, not what is to be run"


def _promised(plan: dict[str, Any]) -> list[str]:
    return [promise.name for promise in promises([Sla.parse(text) for text in plan["slas"]])]


def _remarks(found: dict[str, Any]) -> list[str]:
    lines = []
    rows = found["sensitivities"]
    if decided := [_decided(s) for s in rows if s["kind"] == "choice"][:4]:
        lines.append("what decides, the rest tuned anew: " + ", ".join(decided))
    off = [s for s in rows if s["kind"] in ("load", "mix", "verify") and s["best"]]
    if off:
        lines.append(f"off by 20 %: {HowFar.of(off)}")
    for s in off:
        instead = f"; of those compared {_configuration(s['best'])} is best then" if s["moved"] else ""
        if not s["keeps"]:
            lines.append(f"· with {s['what']} the winner breaks a bound{instead}")
        elif s["moved"]:
            lines.append(
                f"· with {s['what']} {_configuration(s['best'])} is better: keeping the winner costs {s['loss']:.1%}"
            )
    if not found["winner"]["feasible"]:
        lines.append("the winner breaks a bound on these prompts, and so do the runners-up: ask for less, or try more")
    if not found["winner"]["exact"]:
        lines.append(
            "the winner looks at old confidences: its replay of sampled drafts is an approximation; see docs/simulating.md"
        )
    if found["errors"]:
        lines.append(f"failed trials: {'; '.join(found['errors'][:3])}")
    return lines


def _decided(row: dict[str, Any]) -> str:
    then = row["best"] or {}
    return choice(row["what"], row["loss"], then.get("value"), estimated=then.get("state") == "cut")


def _nobody(study: dict[str, Any]) -> str:
    each = [f"at {load_label(load)} {_closest(found, study['plan'])}" for load, found in study["loads"].items()]
    return f"study {study['study']['study_id']}: " + "; ".join(each)


def _closest(found: dict[str, Any], plan: dict[str, Any]) -> str:
    near, tried = found["closest"], sum(found["trials"].values())
    if near is None:
        return "no trial came to an end" + "".join(f": {error}" for error in found["errors"][:1])
    broken = [name for name, v in near["violations"].items() if v > 0]
    if KEEPS_UP in broken:
        return (
            f"overload: none of {tried} configurations keeps up with what arrives; lower the load, or give more --replicas "
            f"(the closest: {near['configuration']})"
        )
    reached = ", ".join(f"{name}: {attained(name, near['figures'].get(name), False)}" for name in broken)
    if not broken:
        return f"none of {counted(tried, 'configuration')} was simulated in full; give more --trials"
    bounds, f = " and ".join(_promised(plan)) or "up", near["figures"]
    said = f"none of {counted(tried, 'configuration')} keeps {bounds}; the closest, {near['configuration']}: {reached}"
    if not f["p5_tps"] or f["p95_ttft"] is None:
        return said
    speed, wait = f"{f['p5_tps']:.3g} tok/s or more", f"the first token in {1e3 * f['p95_ttft']:,.0f} ms"
    return f"{said}; 95 % of its requests get {speed}, and 95 % {wait}"


def _who(row: dict[str, Any]) -> str:
    """A configuration without its request cap."""
    return str(Configuration.read(row, "sampled").system)


def _configuration(row: dict[str, Any]) -> str:
    """A configuration with its request cap."""
    return Configuration.read(row, "sampled").in_full


def _interval(row: dict[str, Any], name: str, form: str) -> str:
    value, half = row["figures"][name], row["half_widths"][name]
    return "–" if value is None else f"{value:{form}}" + ("" if half is None else f" ± {half:{form}}")


def _gain(row: dict[str, Any]) -> str:
    if row["gain"] is None:
        return ""
    half = row["gain_half_width"]
    return f"{round(row['gain'], 3) + 0.0:+.1%}" + ("" if half is None else f" ± {half:.1%}")
