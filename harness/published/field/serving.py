"""Engines under load, predicted from their cost tables or from their line without speculation, and one point with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import polars as pl

from harness.published.field.client import Client, ClientFigures, serve, step_s
from harness.published.field.model import (
    Drafting,
    LineFit,
    captured_to,
    fit_line,
    law_of,
    line_profile,
    line_step_ms,
    mixed_in_graphs,
    request_profile,
    trace_of,
    with_host_work,
)
from harness.published.field.page import (
    Decision,
    Experiment,
    FieldAlternative,
    FieldPoint,
    Quantity,
    Role,
    field_point,
    summarised,
)
from harness.published.paper.fit import DRAFT_LAYERS, TARGET_LAYERS, Floats, Tables
from simulator.hardware.catalogue import find_profile
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.simulation import Prepared

PrefillSteps = Literal["eager", "graphs", "served"]
"""What a step with prefill costs, and where host work comes from; see `ENGINES`."""
ENGINES: Final[Mapping[PrefillSteps, str]] = {
    "eager": "steps with prefill outside of graphs",
    "graphs": "steps with prefill inside graphs",
    "served": "steps with prefill inside graphs, host work from the line without speculation",
}
VLLM_ADAPTIVE: Final = PolicySpec("vllm_adaptive")
ARMS: Final[Mapping[str, PolicySpec]] = {
    "none": NO_DRAFTER, "k=5": PolicySpec.fixed(5), "k=7": PolicySpec.fixed(7), "adaptive": VLLM_ADAPTIVE,
}  # fmt: skip
"""Our policy for each arm of the V4-Flash table. k=3 is left out."""
GAMMA: Final = 7
SPEED_BENCH_PROMPT_TOKENS: Final = 338
"""880 prompts of SPEED-Bench's qualitative split were 297,348 tokens to Llama 3.3 (vllm-project/vllm#36029)."""
CLIENT: Final = Client(requests=880, prompt_tokens=SPEED_BENCH_PROMPT_TOKENS)
OTHER_WAYS: Final[Mapping[PrefillSteps, Mapping[str, Mapping[str, Any]]]] = {
    "eager": {
        "as kept": {},
        "users begin one after the other": {"client": replace(CLIENT, staggered=True)},
    },
    "graphs": {},
    "served": {
        "as kept": {},
        "prompts of 100 tokens": {"client": replace(CLIENT, prompt_tokens=100)},
        "prompts of 1000 tokens": {"client": replace(CLIENT, prompt_tokens=1000)},
        "prompts of exponential length, 338 tokens on average": {"client": replace(CLIENT, varied=True)},
        "all categories accept alike": {"alike": True},
    },
}
"""Arguments of `v4flash` under other assumptions."""
SATURATED: Final = 256

_PROFILE: Final = "b300/deepseek-v4-flash"
_CONFIDENCES: Final = (
    "confidences: logit-normal with the decline, spread and correlation of Qwen3-4B (paper, Figure 6); calibrated; rounds "
    "independent; the mean logit from the accepted length that is given"
)
_CLIENT: Final = "880 requests of 512 tokens, all users begin at once, the queue drains at the end"


# --- V4-Flash on 4 × B300 -------------------------------------------------------------------------------------------------


def v4flash(
    tables: Tables, engine: PrefillSteps, client: Client = CLIENT, *, alike: bool = False, least_users: int = 1
) -> list[FieldPoint]:
    """Throughput and users' speed of every arm, from the engine's own cost tables; `alike` forgets the categories."""
    recorded, found = speed_bench(tables, alike=alike), []
    for row in _pareto(tables).filter(pl.col("concurrency") >= least_users).iter_rows(named=True):
        arm, users = row["arm"], row["concurrency"]
        out = _serve_v4flash(tables, engine, recorded, ARMS[arm], users, client)
        given = (arm == "none" and users in _GIVEN_LOADS.get(engine, (users,))) or (arm, users) == ("k=7", 1)
        role: Role = "input" if given else "predicted"
        found.append(field_point(arm, f"c={users}", "throughput", role, row["throughput_tok_s_total"], out.throughput))
        if not str(row["note"] or "").startswith("clamped"):
            found.append(field_point(arm, f"c={users}", "tps", role, row["tps_per_user"], out.tps))
    return found


def _pareto(tables: Tables) -> pl.DataFrame:
    return tables["vllm_v4flash_b300_pareto"].filter(pl.col("arm").is_in(list(ARMS)))


def speed_bench(tables: Tables, *, alike: bool = False) -> Prepared:
    """A trace of k = 7 with SPEED-Bench's categories.

    The median one accepts what a lone user's median speed says; the others differ from it as MiniMax-M3's do from theirs.
    """
    table = tables["vllmblog_acceptance_lengths"].filter(pl.col("target") == "MiniMax-M3", pl.col("dataset") != "Average")
    accepted = np.ones(1) if alike else table["acceptance_length_incl_bonus"].to_numpy() - 1
    lengths = 1 + (_accepted_length(tables) - 1) * accepted / np.median(accepted)
    return trace_of([law_of(float(tau), GAMMA) for tau in lengths], GAMMA)


def _accepted_length(tables: Tables) -> float:
    """τ of k = 7, from the median speed of a lone user and the time the profile gives a step."""
    tps = _value(_pareto(tables), "tps_per_user", arm="k=7", concurrency=1)
    return tps * step_s(find_profile(_PROFILE), "dspark", GAMMA, 1, GAMMA)


def _serve_v4flash(
    tables: Tables,
    engine: PrefillSteps,
    recorded: Prepared,
    policy: PolicySpec,
    users: int,
    client: Client = CLIENT,
    captured: int = 1024,
) -> ClientFigures:
    shipped = captured_to(find_profile(_PROFILE), captured)
    # What vLLM looks up at start-up: captured costs, then straight on; neither host work nor what prefill does to a step.
    believed = replace(mixed_in_graphs(shipped), overhead_s=0.0)
    profile = shipped if engine == "eager" else mixed_in_graphs(shipped)
    if engine == "served":
        profile = with_host_work(profile, _host_s(tables, 1), _host_s(tables, users), users)
    return serve(profile, recorded, policy, users, client, believed)


def _host_s(tables: Tables, users: int) -> float:
    """Median time per token without speculation, less the captured pass."""
    tps = _value(_pareto(tables), "tps_per_user", arm="none", concurrency=users)
    return 1 / tps - float(find_profile(_PROFILE).cost("none", 0, users, users).verify_s[users])


_PREFILL: Final[Mapping[PrefillSteps, str]] = {
    "eager": "a step with prefill costs 104.5 ms or more, as profiled outside of graphs",
    "graphs": "a step with prefill costs what a captured one does up to 1024 tokens, and 104.5 ms or more beyond: vLLM's "
    "documentation has mixed steps replay piecewise graphs, whose cost nobody published",
    "served": "a step with prefill costs what a captured one does up to 1024 tokens, and 104.5 ms or more beyond",
}
_HOST: Final[Mapping[PrefillSteps, str]] = {
    "eager": "time per token without speculation at c=1 and c=16: they are in the profile's overhead and eager curve",
    "graphs": "time per token without speculation at c=1: it is in the profile's overhead",
    "served": "all times per token without speculation: what they have above the captured pass is host work of every step, "
    "by running requests",
}
_GIVEN_LOADS: Final[Mapping[PrefillSteps, tuple[int, ...]]] = {"eager": (1, 16), "graphs": (1,)}
"""Users at which the arm without speculation is given, not predicted, by engine; all where an engine is not named."""


def v4flash_experiment(tables: Tables, engine: PrefillSteps) -> Experiment:
    """One of `ENGINES`, with the loads at which fixed k loses and what adaptive verification gains."""
    found = v4flash(tables, engine)
    return Experiment(
        f"V4-Flash on 4 × B300 · {ENGINES[engine]}",
        "vllm_v4flash_b300_pareto",
        (
            "start-up cost tables of verifying and drafting (profile b300/deepseek-v4-flash)",
            _HOST[engine],
            f"speed of a user with k=7 at c=1: accepted length {_accepted_length(tables):.2f}",
            "how accepted lengths of SPEED-Bench's categories differ, from MiniMax-M3 (vllmblog_acceptance_lengths)",
        ),
        (_PREFILL[engine], f"prompts of {SPEED_BENCH_PROMPT_TOKENS} tokens, SPEED-Bench's mean", _CLIENT, _CONFIDENCES),
        tuple(found),
        summarised(found),
        (*_decisions(found, ("k=5", "k=7"), "adaptive", "k=7"), _algorithm_1(tables, engine, found)),
        tuple(_alternative(tables, engine, name, way) for name, way in OTHER_WAYS[engine].items()),
    )


def _alternative(tables: Tables, engine: PrefillSteps, name: str, way: Mapping[str, Any]) -> FieldAlternative:
    summaries = summarised(v4flash(tables, engine, **way, least_users=16))
    return FieldAlternative(
        f"from c=16 on, {name}", "throughput", {s.case: s.mae for s in summaries if s.quantity == "throughput"}
    )


def _algorithm_1(tables: Tables, engine: PrefillSteps, found: Sequence[FieldPoint]) -> Decision:
    recorded = speed_bench(tables)
    out = _serve_v4flash(tables, engine, recorded, PolicySpec("prefix_scheduler"), SATURATED)
    ours = next(p.predicted for p in found if (p.case, p.at, p.quantity) == ("adaptive", f"c={SATURATED}", "throughput"))
    return Decision(
        f"Algorithm 1 in place of vLLM's rule at c={SATURATED}, throughput", "ratio", None, float(out.throughput / ours)
    )


def capture_experiment(tables: Tables, engine: PrefillSteps) -> Experiment:
    """k = 7 with graphs to 512 or to 1024 tokens."""
    recorded = speed_bench(tables)
    found, outcomes = list[FieldPoint](), dict[tuple[int, int], tuple[float, float]]()
    for row in tables["vllm_49390_b300_capture_size"].iter_rows(named=True):
        tokens, users = row["max_cudagraph_capture_size"], row["concurrency"]
        out = _serve_v4flash(tables, engine, recorded, PolicySpec.fixed(7), users, captured=tokens)
        case = f"graphs to {tokens}"
        found.append(field_point(case, f"c={users}", "throughput", "predicted", row["output_tok_s_total"], out.throughput))
        if row["mean_tpot_ms"] is not None:
            found.append(field_point(case, f"c={users}", "tpot", "predicted", row["mean_tpot_ms"], out.mean_tpot_ms))
        outcomes[tokens, users] = row["output_tok_s_total"], out.throughput
    loads = sorted({users for _, users in outcomes})
    cliffs = (
        Decision(
            f"throughput with graphs to 1024 over graphs to 512 at c={n}", "ratio",
            outcomes[1024, n][0] / outcomes[512, n][0], outcomes[1024, n][1] / outcomes[512, n][1],
        )
        for n in loads
    )  # fmt: skip
    return Experiment(
        f"Largest captured graph · {ENGINES[engine]}",
        "vllm_49390_b300_capture_size",
        ("nothing of this table: the same as for V4-Flash on 4 × B300",),
        ("the workload, which is not stated, is that of the other table", _PREFILL[engine], _CLIENT, _CONFIDENCES),
        tuple(found),
        summarised(found),
        tuple(cliffs),
    )


# --- lines without speculation --------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A table of throughput by arm and concurrency, one arm of which does not speculate."""

    users: Floats
    arms: Mapping[str, Floats]
    """Tokens per second."""
    requests: int | None
    """That the client asked in all; None where it is not known, and the queue never drains."""


def mi355x_line(tables: Tables) -> Line:
    """V4-Flash on 8 × MI355X, run A."""
    table = tables["vllm_52362"].filter(pl.col("run").str.starts_with("A"))
    return _line(table, "output_tok_s_total", 880)


def eagle3_line(tables: Tables, model: str) -> Line:
    """Kimi-K2.5 or MiniMax-M2.5, per GPU."""
    return _line(tables["vllmblog_eagle3_mi355x"].filter(model=model), "output_tok_s_per_gpu", None)


def _line(table: pl.DataFrame, column: str, requests: int | None) -> Line:
    by_arm = {str(arm): rows.sort("concurrency") for (arm,), rows in table.group_by("arm", maintain_order=True)}
    users = by_arm["none"]["concurrency"].cast(pl.Float64).to_numpy()
    return Line(users, {arm: rows[column].cast(pl.Float64).to_numpy() for arm, rows in by_arm.items()}, requests)


Attribution = Literal["tokens", "requests"]
_ATTRIBUTIONS: Final[Mapping[Attribution, str]] = {
    "tokens": "all growth of the line is due to the tokens in a step",
    "requests": "all growth of the line is due to the running requests, and verifying is free: the other extreme",
}


def predict_line(
    line: Line, drafting: Drafting, policies: Mapping[str, PolicySpec], known_arm: str, by: Attribution = "tokens"
) -> tuple[list[FieldPoint], LineFit, float]:
    """Points of every arm, the fitted line, and the accepted length that `known_arm` has at the lowest load.

    Read are the line without speculation and that one number.
    """
    fit = fit_line(
        line.users, line_step_ms(line.users, line.arms["none"], line.requests),
        *([("affine",)] if by == "requests" else []),
    )  # fmt: skip
    profile = (line_profile if by == "tokens" else request_profile)(fit, drafting, "field")
    lowest = int(line.users[0])
    step = step_s(profile, drafting.drafter, drafting.gamma, lowest, drafting.gamma)
    tau = float(line.arms[known_arm][0]) * step / lowest
    recorded = trace_of([law_of(tau, drafting.gamma)], drafting.gamma, drafting.drafter)
    found = []
    for arm, policy in policies.items():
        for users, published in zip(line.users, line.arms[arm], strict=True):
            # Prefill is in the line: prompts have one token. Where no number of requests is given, the run is long.
            client = Client(line.requests or 40 * int(users), 1)
            out = serve(profile, recorded, policy, int(users), client)
            given = arm == "none" or (arm == known_arm and users == lowest)
            found.append(
                field_point(
                    arm, f"c={users:.0f}", "throughput", "input" if given else "predicted", published, out.throughput
                )
            )
    return found, fit, tau


def mi355x_experiment(tables: Tables, by: Attribution = "tokens") -> Experiment:
    """Fixed and adaptive verification from the line without speculation."""
    line = mi355x_line(tables)
    drafting = Drafting("dspark", GAMMA, DRAFT_LAYERS["dspark"], TARGET_LAYERS["V4-Flash"], block=True)
    policies = {"none": NO_DRAFTER, "fixed_k7": PolicySpec.fixed(7), "adaptive_k7": VLLM_ADAPTIVE}
    found, fit, tau = predict_line(line, drafting, policies, "fixed_k7", by)
    return Experiment(
        f"V4-Flash on 8 × MI355X · {'growth by tokens' if by == 'tokens' else 'growth by requests'}",
        "vllm_52362",
        (_line_input(fit), f"fixed_k7 at c={line.users[0]:.0f}: accepted length {tau:.2f}"),
        (
            _ATTRIBUTIONS[by],
            "a layer of the drafter costs what a layer of the target does: 3 of 43",
            "prefill is in the line; no cliff where graphs end; all requests accept alike",
            _CLIENT,
            _CONFIDENCES,
        ),
        tuple(found),
        summarised(found),
        _decisions(found, ("fixed_k7",), "adaptive_k7", "fixed_k7"),
    )


def eagle3_experiment(tables: Tables, model: str) -> Experiment:
    """Eagle3 with either dtype of the draft from the line without speculation."""
    line = eagle3_line(tables, model)
    drafting = Drafting("eagle3", 3, 1, {"Kimi-K2.5-MXFP4": 61, "MiniMax-M2.5": 62}[model], block=False)
    found, inputs = list[FieldPoint](), list[str]()
    for arm in (a for a in line.arms if a != "none"):
        points, fit, tau = predict_line(line, drafting, {"none": NO_DRAFTER, arm: PolicySpec.fixed(3)}, arm)
        found += points if not found else [p for p in points if p.case != "none"]
        inputs += [*([] if inputs else [_line_input(fit)]), f"{arm} at c={line.users[0]:.0f}: accepted length {tau:.2f}"]
    arms = tuple(a for a in line.arms if a != "none")
    return Experiment(
        f"Eagle3 on MI355X · {model}",
        "vllmblog_eagle3_mi355x",
        tuple(inputs),
        (
            _ATTRIBUTIONS["tokens"],
            "a pass of the draft layer costs what a layer of the target does, three passes a step",
            "γ is 3, as printed for MiniMax and not for Kimi; per GPU, so times are known but for a factor, which cancels",
            "prefill is in the line; no queue drains; all requests accept alike",
            _CONFIDENCES,
        ),
        tuple(found),
        summarised(found),
        _decisions(found, arms),
    )


def _line_input(fit: LineFit) -> str:
    first, last = 1e3 * fit.seconds([1, SATURATED])
    return (
        f"the line without speculation: step time {fit.form}, {first:.1f} ms for 1 request, {last:.1f} ms for {SATURATED}; "
        f"the form continues the lower part of the line {100 * fit.continuation:.1f} % off"
    )


# --- decisions ------------------------------------------------------------------------------------------------------------


def crossover(users: Sequence[float], ratio: Sequence[float]) -> float | None:
    """The load at which a ratio falls below 1 for good, straight in logarithms between loads.

    The lowest load where it always is; None where it is not at the highest.
    """
    if ratio[-1] >= 1:
        return None
    above = [i for i, r in enumerate(ratio) if r >= 1]
    if not above:
        return float(users[0])
    i = above[-1]
    x, y = np.log(users[i : i + 2]), np.log(ratio[i : i + 2])
    return float(np.exp(x[0] - y[0] * (x[1] - x[0]) / (y[1] - y[0])))


def _decisions(
    found: Sequence[FieldPoint], fixed: Sequence[str], adaptive: str | None = None, over: str | None = None
) -> tuple[Decision, ...]:
    """Where fixed verification falls below none; what adaptive verification gains at the highest load."""
    published, predicted = (_curves(found, of) for of in (lambda p: p.published, lambda p: p.predicted))
    made = []
    for arm in fixed:
        loads = [crossover(*_ratio(curves, arm, "none")) for curves in (published, predicted)]
        made.append(Decision(f"load at which {arm} falls below none", "requests", loads[0], loads[1]))
    if adaptive and over:
        for other, load, which in ((over, 0, "lowest"), (over, -1, "highest"), ("none", -1, "highest")):
            ends = [_ratio(curves, adaptive, other)[1][load] for curves in (published, predicted)]
            made.append(Decision(f"{adaptive} over {other} at the {which} load", "ratio", ends[0], ends[1]))
    return tuple(made)


Curves = Mapping[str, Mapping[float, float]]


def _curves(found: Iterable[FieldPoint], of: Callable[[FieldPoint], float], quantity: Quantity = "throughput") -> Curves:
    """Value by load, by case."""
    curves: dict[str, dict[float, float]] = {}
    for p in found:
        if p.quantity == quantity:
            curves.setdefault(p.case, {})[float(p.at.removeprefix("c="))] = of(p)
    return curves


def _ratio(curves: Curves, one: str, other: str) -> tuple[list[float], list[float]]:
    """Loads that both have, and the ratio at each."""
    loads = sorted(set(curves[one]) & set(curves[other]))
    return loads, [curves[one][n] / curves[other][n] for n in loads]


def _value(table: pl.DataFrame, column: str, **where: Any) -> float:
    return float(table.filter(**where)[column].item())
