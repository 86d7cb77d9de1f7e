"""What a report says of its own numbers: notices that come first, and where everything comes from, which comes last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from results.drawing.common import listed
from results.drawing.recorded import PROMPT_SOURCES
from results.figures.run import Provenance
from results.figures.simulated import Sweep
from results.figures.studied import Study

Facts = list[tuple[str, list[str]]]


def subtitle(run: Provenance) -> str:
    """What a run is, in a line."""
    source = PROMPT_SOURCES.get(run.prompt_source, f"prompts: {run.prompt_source}")
    facts = [source, f"{run.prompts} prompts", f"{run.responses} responses"]
    if "temperature" in run.sampling:
        facts.append(f"temperature {run.sampling['temperature']:g}")
    return " · ".join([*facts, f"seed {run.seed}", f"run {run.run_id}", f"{run.created_at:%Y-%m-%d %H:%M} UTC"])


def notices(run: Provenance, missing: pl.DataFrame, *, several: bool = False) -> list[str]:
    """What a reader must know before trusting a run's numbers."""
    found = []
    if run.prompt_source == "synthesised":
        found.append(
            "Synthesised: no model was run. Everything here comes from traces that were fitted to published averages; which "
            "ones is told at the end."
        )
    if run.finished_at is None:
        found.append("This run did not finish, or has not yet: everything here is about what it has recorded so far.")
    for (drafter,), rows in missing.group_by("drafter", maintain_order=True):
        lacking = int((rows["expected"] - rows["responses"]).sum())
        where = f"in {rows.height} tasks" if rows.height > 3 else f"in {listed(rows['task'].to_list())}"
        found.append(f"{drafter} lacks {lacking} responses that other drafters gave, {where}.")
    return [f"Run {run.run_id}. {text}" for text in found] if several else found


def model_notice(profile: Mapping[str, Any], run: Provenance | None) -> list[str]:
    """Warns of a profile that is of another model than the traces."""
    target = "" if run is None else run.target
    if str(profile.get("model", "")).lower().replace("-", "") in target.lower().replace("-", ""):
        return []
    return [
        f"The hardware profile {profile['name']} is of {profile['model']}, the traces are of {target or 'another'}: "
        "what is simulated is no system that exists."
    ]


def sweep_notices(sweep: Sweep, points: pl.DataFrame) -> list[str]:
    """What came to nothing, did not settle, or was never finished."""
    found = []
    if sweep.finished_at is None:
        found.append(f"Sweep {sweep.sweep_id} did not finish: points are missing.")
    failed = points.filter(pl.col("error").is_not_null())
    if failed.height:
        found.append(f"{failed.height} of {points.height} points of the sweep failed: {failed['error'][0]}.")
    for text in dict.fromkeys(w for warnings in points["warnings"].to_list() for w in warnings or []):
        count = sum(text in (w or []) for w in points["warnings"].to_list())
        found.append(f"{count} of {points.height} points: {text}.")
    if sweep.believed:
        found.append(f"Policies decided by the profile {sweep.believed}, which is not the one that was simulated.")
    return found


def of_run(run: Provenance) -> Facts:
    """Name and lines of each fact about a run."""
    host = dict(run.host)
    memory = host.pop("memory_bytes", None)
    machine = [f"{name} {value}" for name, value in host.items() if value is not None]
    if memory is not None:
        machine.append(f"memory {memory / 2**30:.1f} GiB")
    drafters = [
        " ".join(filter(None, [f"{d.name}: {d.kind}, γ {d.gamma}", d.checkpoint and f"· {d.checkpoint}", d.checkpoint_hash]))
        for d in run.drafters
    ]
    replayed = (
        f"{run.replayed} rounds replayed from a dense record, every drafted token verified; the others are plain decoding"
    )
    if not run.rounds:
        replayed = "nothing"
    finished = f"to {run.finished_at:%Y-%m-%d %H:%M:%S} UTC" if run.finished_at else "UTC, not finished"
    facts: list[tuple[str, list[str]]] = [
        ("command", [run.command]),
        ("run", [f"{run.run_id} · {run.created_at:%Y-%m-%d %H:%M:%S} {finished}"]),
        ("suite", [f"{run.suite} v{run.suite_version} · {run.suite_hash}"]),
        ("prompts", [PROMPT_SOURCES.get(run.prompt_source, run.prompt_source), *run.sources]),
        ("pair", [run.pair, f"target {run.target}"] if run.target else [run.pair]),
        ("drafters", drafters),
        ("sampling", [", ".join(f"{name} {value}" for name, value in run.sampling.items())]),
        ("seed", [str(run.seed)]),
        (
            "recorded",
            [
                f"{run.prompts} prompts, {run.responses} responses, {run.rounds} rounds, {run.speed_samples} speed samples",
                replayed if run.replayed or not run.rounds else "all rounds decoded live",
            ],
        ),
        ("git revision", [run.git_revision or "unknown"]),
        ("machine", [", ".join(machine) or "none: nothing was run"]),
        ("versions", [versions(run.packages)]),
    ]
    return facts


def of_sweep(sweep: Sweep) -> Facts:
    """About a sweep and its profile."""
    plan = sweep.plan
    engine = [f"{name.replace('_', ' ')} {plan[name]}" for name in _ENGINE if plan.get(name) is not None]
    return [
        ("command", [sweep.command]),
        ("sweep", [f"{sweep.sweep_id} of run {sweep.run_id} · {sweep.created_at:%Y-%m-%d %H:%M} UTC"]),
        *_profile(sweep.profile),
        ("policies believe", [sweep.believed or "the same profile"]),
        ("loads", [", ".join(plan.get("loads") or [])]),
        ("bounds", [", ".join(plan.get("slas") or []) or "none"]),
        ("engine", [", ".join(engine)]),
        ("seeds", [f"{plan.get('seed', 0)}, {plan.get('replications', 1)} of each point"]),
        ("git revision", [sweep.git_revision or "unknown"]),
        ("versions", [versions(sweep.packages)]),
    ]


def of_study(study: Study, sweep: Sweep | None) -> Facts:
    """About a study and its profile, which is not told again where the sweep has the same."""
    plan = {name: value for name, value in study.plan.items() if name != "profile" and value not in (None, [])}
    return [
        ("command", [study.command]),
        ("study", [f"{study.study_id} of run {study.run_id} · {study.created_at:%Y-%m-%d %H:%M} UTC"]),
        *([("hardware", ["as above"])] if sweep is not None and sweep.profile == study.profile else _profile(study.profile)),
        ("plan", [", ".join(f"{name.replace('_', ' ')} {value}" for name, value in plan.items())]),
        ("git revision", [study.git_revision or "unknown"]),
        ("versions", [versions(study.packages)]),
    ]


def of_method() -> Facts:
    """How intervals are made, and which publications are drawn."""
    return [
        (
            "intervals",
            [
                "95 %. τ: bootstrap over prompts. α: Wilson's, all rounds taken as independent. Speed: bootstrap over "
                "prompts and passes. All are too narrow where prompts are few.",
                "Simulations: means of batches of simulated time, the simulation's own noise. Studies: draws of held-out "
                "prompts, each with a fresh seed.",
            ],
        ),
        (
            "published values",
            [
                "DSpark: Confidence-Scheduled Speculative Decoding with Semi-Autoregressive Generation, DeepSeek-AI and "
                "Peking University, 2026: Table 1, and Figures 2, 4, 5, 6, 7 and 8 digitised from their vector paths. "
                "Figures 2 to 6 are of Qwen3-4B at temperature 1, 7 and 8 of DeepSeek-V4 in production, on hardware that is "
                "not told."
            ],
        ),
    ]


def versions(packages: Mapping[str, str]) -> str:
    """Of packages, by name."""
    return ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))


_ENGINE: Sequence[str] = (
    "request_cap", "step_tokens", "kv_capacity_tokens", "replicas", "router", "seconds", "prompt_tokens", "output_tokens",
    "confidences",
)  # fmt: skip


def _profile(profile: Mapping[str, Any]) -> Facts:
    told = profile.get("provenance") or {}
    lines = [f"{name}: {value}" for name, value in told.items()] if isinstance(told, Mapping) else [str(told)]
    what = (
        f"{profile['name']} · {profile.get('device', '?')} · of {profile.get('model', '?')} · {profile.get('gpus', '?')} GPU"
    )
    return [("hardware", [what, f"source: {profile.get('source', '?')}", *lines])]
