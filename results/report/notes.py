"""What a report says of its own numbers: notices that come first, and where everything comes from, which comes last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

import polars as pl

from results.figures.common import PROMPT_SOURCES, listed
from results.figures.sweep import Sweep
from results.store.commands import typed
from results.store.queries import Origin
from results.store.rows import plan_row
from results.store.runs import Provenance
from results.store.sensitivities import Sensitivity
from results.store.simulations import Simulation
from results.store.studies import Study
from results.store.validations import Validation
from simulator.decision import layout_of
from simulator.hardware.profile import Profile, formats_told, same_model
from simulator.numbers import counted
from simulator.records import SERVED

Facts = list[tuple[str, list[str]]]
Profiles = Sequence[Profile]

WORDS: Final[Sequence[tuple[str, str]]] = (
    ("round, step", "A round drafts tokens for a request, verifies them and commits what the target keeps. A step is one "
     "pass of an engine: a round of every running request."),
    ("drafter", "What proposes tokens; `none` decodes without. MTP-1 is `mtp` with one token drafted and verified."),
    ("γ", "Block size: tokens drafted in a round."),
    ("τ", "Accepted length: tokens committed in a round, the target's own (the bonus token) included."),
    ("budget", "Tokens of a request that the target verifies in a step, the bonus token's included: at most γ + 1."),
    ("`fixed:k`", "A policy: always verify the first k drafted tokens."),
    ("`threshold:c`", "Verify up to the first token whose confidence is below c."),
    ("`prefix_scheduler`", "DSpark's: in every step verify, over all requests, the tokens most likely to be kept, as many "
     "as give most tokens per second by the step times it believes in. `lagged_scheduler` takes their number from "
     "confidences of earlier rounds, `vllm_adaptive` is vLLM's version of that."),
    ("`k_by_batch:8=7/32=3`", "Draft 7 tokens with up to 8 requests running, and 3 with more: the last row goes on, as in "
     "vLLM. One of 0, as `/64=0`, ends drafting."),
    ("`oracle`", "Knows what will be kept, and drafts and verifies what brings the most tokens a second. No engine can: an "
     "upper bound."),
    ("confidences", "How sure a drafter is of its tokens: raw; calibrated, corrected on other prompts; or estimated, for "
     "drafters that do not say."),
    ("tps, TTFT, TPOT", "Tokens per second of one user after the first; time to the first token; time per token after it. "
     "p95 is what 95 % of requests stay below."),
    ("users", "Of a closed loop: each sends its next request when the last is answered."),
    ("profile", "What a step costs on some hardware: measured there, fitted to published curves, or a roofline, that is "
     "computed from datasheets."),
)  # fmt: skip
"""What words of a report mean."""


def title(run: Provenance, made: Sweep | Study | None, runs: Sequence[Provenance]) -> str:
    """The question that a report answers: of which model, on which hardware, under which traffic, when.

    `made` is what its answer is of, from the run `run`; None where that is what was recorded. `runs` are all of a report's:
    of several suites, or of several models where that was recorded, each is named.
    """
    every = [run, *runs]
    when = run.created_at if made is None else made.created_at
    suites = _each([f"{one.suite} v{one.suite_version}{_origin(one)}" for one in every])
    if made is None:
        model = _each([_model_name(one.target) or "any model" for one in every])
        hardware = _each([str(one.host.get("gpu") or one.host.get("cpu") or "") for one in every])
        asked = f"Which drafter for {model}{f' on {hardware}' if hardware else ''}?"
    else:
        model = _model_name(run.target) or _model_name(made.profile.model)
        gpus, replicas = made.profile.gpus, made.plan.replicas
        shared = f", {layout_of(gpus, replicas)}" if gpus * replicas > 1 else ""
        asked = f"What to run for {model} on {made.profile.name}{shared}{',' if shared else ''} under {_traffic(made)}?"
    return " · ".join([asked, suites, f"{when:%Y-%m-%d}", *([f"{len(runs)} runs"] if len(runs) > 1 else [])])


def _each(values: Sequence[str]) -> str:
    """Every value once, in order; of more than three the first ones."""
    found = [value for value in dict.fromkeys(values) if value]
    return " / ".join([*found[:3], *(["…"] if len(found) > 3 else [])])


def _origin(run: Provenance) -> str:
    """What a run was made of that no model made here, or that its suite did not ask; empty for others."""
    return {"synthesised": " (synthesised)", "served": f" ({SERVED})", "data-dir": " (own prompts)"}.get(
        run.prompt_source, ""
    )


def _model_name(model: str) -> str:
    """A model as people call it: of a folder no more than its own name and that of the one it is in."""
    return "/".join(PurePath(model).parts[-2:])


def _traffic(made: Sweep | Study) -> str:
    """Loads, and the mix of domains where one was asked for."""
    labels = [load.label for load in made.plan.loads]
    weights = made.plan.weights or {}
    mix = [f"{domain} {share / sum(weights.values()):.0%}" for domain, share in weights.items()]
    told = listed(labels) if len(labels) < 3 else _spanned(labels[0], labels[-1])
    return f"{told} of {listed(mix)}" if mix else told


def _spanned(first: str, last: str) -> str:
    """The first and the last of several loads, their unit once: `8 to 64 users`."""
    number, _, unit = first.partition(" ")
    return f"{number if unit and last.partition(' ')[2].startswith(unit) else first} to {last}"


def subtitle(runs: Sequence[Provenance]) -> str:
    """What runs are, in a line; where they differ, each one's in turn."""
    facts = zip(*map(_of_one, runs), strict=True)
    return " · ".join(_each([value or "temperature unknown" for value in values]) for values in facts if any(values))


def _of_one(run: Provenance) -> list[str]:
    """What a run is, always as many facts; a temperature that it does not know is empty."""
    source = PROMPT_SOURCES.get(run.prompt_source, f"prompts: {run.prompt_source}")
    heat = f"temperature {run.sampling['temperature']:g}" if "temperature" in run.sampling else ""
    return [
        f"pair {run.pair}", source, counted(run.prompts, "prompt"), counted(run.responses, "response"), heat,
        f"seed {run.seed}", f"run {run.run_id}", f"{run.created_at:%Y-%m-%d %H:%M} UTC",
    ]  # fmt: skip


def unlike(first: Provenance, other: Provenance, differences: Sequence[str]) -> list[str]:
    """Warns of runs that are shown side by side and were not asked the same, or not in the same way."""
    if not differences:
        return []
    return [
        f"Runs {first.run_id} and {other.run_id} are shown side by side and differ in {listed(differences)}: what differs "
        "in their figures may come of that, not of the drafters."
    ]


def notices(run: Provenance, missing: pl.DataFrame, *, several: bool = False) -> list[str]:
    """What a reader must know before trusting a run's numbers."""
    found = []
    if run.prompt_source == "synthesised":
        found.append(
            "Synthesised: no model was run. Everything here comes from traces that were made to have stated averages; which "
            "ones, and what was assumed, is told at the end."
        )
    if run.prompt_source == "served":
        found.append(
            f"{SERVED.capitalize()}: an engine logged them, at the anchors that it visited under the policy that ran. At "
            "the served K a replay is exact, below it an estimate; longer drafts, and other drafters, are not in them."
        )
    if run.averaged:
        found.append(
            f"No requests are told apart in these files: {counted(run.prompts, 'answer')} were made with their averages. "
            "They are made to differ so much that intervals over prompts are about as wide as those of what was counted; "
            "which of them is easy, and counts of drafts, are of what was made."
        )
    found += [
        f"{one.name} was trained on {one.prompts_seen:,} of these {counted(run.prompts, 'prompt')}: what it accepts of them "
        "is more than of others."
        for one in run.drafters
        if one.prompts_seen
    ]
    if run.finished_at is None:
        found.append("This run did not finish, or has not yet: everything here is about what it has recorded so far.")
    for (drafter,), rows in missing.group_by("drafter", maintain_order=True):
        lacking = int((rows["expected"] - rows["responses"]).sum())
        where = f"in {rows.height} tasks" if rows.height > 3 else f"in {listed(rows['task'].to_list())}"
        found.append(f"{drafter} lacks {counted(lacking, 'response')} that other drafters gave, {where}.")
    return [f"Run {run.run_id}. {text}" for text in found] if several else found


def model_notice(profile: Profile, run: Provenance | None) -> list[str]:
    """Warns of a profile that is of another model than the traces, or of other number formats than its checkpoint has."""
    target, formats = "" if run is None else run.target, formats_told(profile)
    found = []
    if formats:
        found.append(
            f"The hardware profile {profile.name} is of {formats}, which are not the checkpoint's own: what was recorded "
            "may be accepted otherwise."
        )
    if same_model(profile.model, target):
        return found
    return [
        *found,
        f"The hardware profile {profile.name} is of {profile.model}, the traces are of {target or 'another'}: "
        "what is simulated is no system that exists.",
    ]


def sweep_notices(sweep: Sweep, points: Sequence[Simulation]) -> list[str]:
    """What came to nothing, did not settle, or was never finished."""
    found = []
    if sweep.finished_at is None:
        goes_on = typed("harness", "simulate", "--resume", sweep.sweep_id)
        found.append(
            f"Sweep {sweep.sweep_id} did not finish: what to run is not decided, and points may be missing; `{goes_on}`."
        )
    every = counted(len(points), "point")
    if failed := [point.error for point in points if point.error is not None]:
        found.append(f"{len(failed)} of {every} of the sweep failed: {failed[0]}.")
    texts = dict.fromkeys(warning for point in points for warning in point.warnings)
    found += [f"{sum(text in point.warnings for point in points)} of {every}: {text}." for text in texts]
    if (believed := sweep.plan.believed) is not None:
        found.append(f"Policies decided by the profile {believed.name}, which is not the one that was simulated.")
    return found


def of_run(run: Provenance, lost: Mapping[str, str] | None = None) -> Facts:
    """Name and lines of each fact about a run; `lost` says of drafters what their vocabularies lack."""
    host = dict(run.host)
    memory = host.pop("memory_bytes", None)
    machine = [f"{name} {value}" for name, value in host.items() if value is not None]
    if memory is not None:
        machine.append(f"memory {memory / 2**30:.1f} GiB")
    drafters = []
    for d in run.drafters:
        parts = [f"{d.name}: {d.kind}, γ {d.gamma}", d.checkpoint and f"· {d.checkpoint}", d.checkpoint_hash]
        drafters += [" ".join(filter(None, parts)), *filter(None, [d.read_as, (lost or {}).get(d.name)])]
    rounds = counted(run.replayed, "round")
    told = {
        "served": f"{rounds} {SERVED}: walked again as an engine logged them",
        "synthesised": f"{rounds} of traces that were made, every drafted token verified; the others are plain decoding",
    }
    dense = f"{rounds} replayed from a dense record, every drafted token verified; the others are plain decoding"
    replayed = told.get(run.prompt_source, dense)
    if not run.rounds:
        replayed = "nothing"
    finished = f"to {run.finished_at:%Y-%m-%d %H:%M:%S} UTC" if run.finished_at else "UTC, not finished"
    facts: list[tuple[str, list[str]]] = [
        ("command", [run.command]),
        ("run", [f"{run.run_id} · {run.created_at:%Y-%m-%d %H:%M:%S} {finished}"]),
        ("suite", [f"{run.suite} v{run.suite_version} · {run.suite_hash}"]),
        ("prompts", [PROMPT_SOURCES.get(run.prompt_source, run.prompt_source), *run.sources]),
        ("pair", [run.pair, *filter(None, [run.target and f"target {run.target}", run.asked_with])]),
        ("drafters", drafters),
        ("sampling", [", ".join(f"{name} {value}" for name, value in run.sampling.items())]),
        ("seed", [str(run.seed)]),
        (
            "recorded",
            [
                f"{counted(run.prompts, 'prompt')}, {counted(run.responses, 'response')}, "
                f"{counted(run.rounds, 'round')}, {counted(run.speed_samples, 'speed sample')}",
                replayed if run.replayed or not run.rounds else "all rounds decoded live",
            ],
        ),
        ("git revision", [run.git_revision or "unknown"]),
        ("machine", [", ".join(machine) or "none: nothing was run"]),
        ("versions", [versions(run.packages)]),
    ]
    return facts


def of_sweep(sweep: Sweep, told: Profiles = ()) -> Facts:
    """About a sweep and its profile; here and below, `told` are profiles that need not be told again."""
    plan = sweep.plan
    engine = [f"{name.replace('_', ' ')} {value}" for name in _ENGINE if (value := getattr(plan, name))]
    engine += [] if plan.prefix_cache else ["no prefix cache"]
    return [
        *_made("sweep", sweep.sweep_id, sweep),
        *_profile(sweep.profile, told),
        ("policies believe", ["the same profile" if plan.believed is None else plan.believed.name]),
        ("drafts", [plan.drafting]),
        ("loads", [", ".join(load.label for load in plan.loads)]),
        ("bounds", [", ".join(map(str, plan.slas)) or "none"]),
        ("engine", [", ".join(engine)]),
        ("seeds", [f"{plan.seed}, {plan.replications} of each point"]),
        *_code(sweep),
    ]


def of_study(study: Study, told: Profiles = ()) -> Facts:
    """About a study and its profile."""
    row = plan_row(study.plan)
    plan = {name: row[name] for name in study.planned if name != "profile" and row[name] not in (None, [])}
    plan |= {"loads": [load.label for load in study.plan.loads]}
    said = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in plan.items())
    return [*_made("study", study.study_id, study), *_profile(study.profile, told), ("plan", [said]), *_code(study)]


def of_sensitivity(found: Sensitivity, told: Profiles = ()) -> Facts:
    """About what was made wrong in turn."""
    plan = (
        f"objective {found.objective}, {found.drafting} drafts, {found.seconds:g} simulated seconds a point, "
        f"seed {found.seed}"
    )
    made = _made("sensitivity", found.sensitivity_id, found)
    return [*made, *_profile(found.profile, told), ("plan", [plan]), *_code(found)]


def of_validation(found: Validation, told: Profiles = ()) -> Facts:
    """About a live engine and its simulation."""
    prompts = f"{found.live_prompts} served live, {found.trace_prompts} others simulated"
    return [
        *_made("validation", found.validation_id, found),
        *_profile(found.profile, told),
        ("schedulers believe", [found.believed]),
        ("drafts", [found.drafting]),
        ("engine", [f"{found.engine}, {found.seconds:.0f} s of its clock in {counted(len(found.points), 'point')}"]),
        ("prompts", [prompts]),
        *_code(found),
    ]


def of_method(*, served: bool) -> Facts:
    """How intervals are made, and which publications are drawn; `served` is whether what DeepSeek served is among them."""
    figures = "2, 4, 5, 6, 7 and 8" if served else "2, 4, 5 and 6"
    production = ", 7 and 8 of DeepSeek-V4 in production, on hardware that is not told" if served else ""
    return [
        (
            "intervals",
            [
                "95 %. τ: bootstrap over prompts. α: Wilson's, widened by how unlike prompts are. Speed: bootstrap over "
                "prompts and passes. All are too narrow where prompts are few.",
                "Simulations: means of batches of simulated time, the simulation's own noise. Studies: draws of held-out "
                "prompts, each with a fresh seed.",
            ],
        ),
        (
            "published values",
            [
                "DSpark: Confidence-Scheduled Speculative Decoding with Semi-Autoregressive Generation, DeepSeek-AI and "
                f"Peking University, 2026: Table 1, and Figures {figures} digitised from their vector paths. "
                f"Figures 2 to 6 are of Qwen3-4B at temperature 1{production}."
            ],
        ),
    ]


def versions(packages: Mapping[str, str]) -> str:
    """The packages and their versions in one line, sorted by name."""
    return ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))


_ENGINE: Sequence[str] = (
    "request_cap", "step_tokens", "kv_capacity_tokens", "replicas", "router", "seconds", "prompt_tokens", "output_tokens",
    "output_cv", "confidences",
)  # fmt: skip


def _made(kind: str, name: str, made: Origin) -> Facts:
    """What was typed, and what came of it."""
    return [("command", [made.command]), (kind, [f"{name} of run {made.run_id} · {made.created_at:%Y-%m-%d %H:%M} UTC"])]


def _code(made: Origin) -> Facts:
    return [("git revision", [made.git_revision or "unknown"]), ("versions", [versions(made.packages)])]


def _profile(profile: Profile, told: Profiles) -> Facts:
    if profile in told:
        return [("hardware", [f"{profile.name}, as above"])]
    what = f"{profile.name} · {profile.device} · of {profile.model} · {profile.gpus} GPU"
    facts = [f"{name}: {value}" for name, value in profile.provenance.items()]
    return [("hardware", [what, f"source: {profile.source}", *facts])]


def _plain(value: Any) -> str:
    """A setting without the marks of code."""
    if isinstance(value, Mapping):
        return " ".join(f"{name}={one:g}" if isinstance(one, float) else f"{name}={one}" for name, one in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
