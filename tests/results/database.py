"""Small databases to report on: runs, anchors, sweeps and studies made up by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import polars as pl

from results.published import PAPER
from results.store.rows import profile_row
from simulator.hardware.profile import Curve, Profile, dump_profile

SCHEMA = sorted((PAPER.parents[1] / "store" / "schema").glob("*.sql"))
RUN = "3f9c"
DRAFTERS = {"dspark": 7, "dflash": 7, "eagle3": 7, "mtp": 1, "ngram": 7, "none": 0}
ACCEPTANCE = {"dspark": 0.8, "dflash": 0.6, "eagle3": 0.55, "mtp": 0.5, "ngram": 0.2, "none": 0.0}
TASKS = {
    "gsm8k": "math",
    "aime25": "math",
    "humaneval": "code",
    "livecodebench": "code",
    "mt-bench": "chat",
    "alpaca": "chat",
}
PROFILE = Profile(
    name="h100/toy", device="H100", model="tiny", source="roofline", provenance={"by": "hand"}, kv_capacity_tokens=100_000,
    verify=Curve((1,), (0.004,)),
)  # fmt: skip
LOADS = (1, 8, 64, 256)


def empty() -> duckdb.DuckDBPyConnection:
    """A database of the present schema without a row."""
    con = duckdb.connect()
    for migration in SCHEMA:
        con.execute(migration.read_text()).fetchall()
    return con


def insert(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows by column name; dictionaries as JSON."""
    for row in rows:
        values = [json.dumps(v) if isinstance(v, dict) else v for v in row.values()]
        con.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", values).fetchall()


def add_run(
    con: duckdb.DuckDBPyConnection,
    run: str = RUN,
    drafters: Mapping[str, int] = DRAFTERS,
    *,
    kinds: Mapping[str, str] | None = None,
    finished: bool = True,
    source: str = "bundled",
) -> None:
    """A row of `runs`."""
    declared = {name: {"kind": (kinds or {}).get(name, name), "gamma": gamma} for name, gamma in drafters.items()}
    row = {
        "run_id": run, "created_at": "2026-02-01 10:00", "finished_at": "2026-02-01 10:05" if finished else None,
        "command": "harness run suites/math_code_chat", "suite": "math_code_chat", "suite_version": 1,
        "suite_hash": "9a4f0c", "prompt_source": source, "pair": "tiny", "target": {"source": "the tiny target"},
        "drafters": declared, "sampling": {"temperature": 1.0}, "seed": 0, "plan": {},
        "git_revision": "4be1c77", "packages": {"torch": "2.9"},
        "host": {"cpu": "Xeon", "memory_bytes": 17179869184, "gpu": None},
    }  # fmt: skip
    insert(con, "runs", [row])


def recorded(
    drafters: Mapping[str, int] = DRAFTERS,
    *,
    keep: Callable[[str, str], bool] = lambda drafter, task: True,
    speed: bool = True,
    con: duckdb.DuckDBPyConnection | None = None,
    run: str = RUN,
    acceptance: Mapping[str, float] = ACCEPTANCE,
    prompts: int = 4,
    seed: int = 0,
    **declared: Any,
) -> duckdb.DuckDBPyConnection:
    """A run of some prompts a task whose drafters accept every position with their `acceptance`; `keep` thins it out."""
    rng = np.random.default_rng(seed)
    responses: list[tuple[object, ...]] = []
    rounds: list[tuple[object, ...]] = []
    samples: list[tuple[object, ...]] = []
    for drafter, gamma in drafters.items():
        alpha = acceptance.get(drafter, 0.4)
        for task, domain in TASKS.items():
            for prompt in (f"{task}/{i}" for i in range(prompts) if keep(drafter, task)):
                lengths = [int(np.argmin([*(rng.random(gamma) < alpha), False])) for _ in range(30)]
                key = (run, drafter, gamma, "sampled")
                responses.append((*key, task, domain, prompt, 0, 9, 31 + sum(lengths), "length", [], "", []))
                rounds += [(*key, prompt, 0, i, gamma, gamma, a, a + 1, [], 1, 0.1, 0.2) for i, a in enumerate(lengths)]
        for sample in range(3):
            cell = (run, drafter, gamma, sample)
            samples += [(*cell, f"gsm8k/{i}", 1, 60, 1 - alpha / 2 + i / 50, "sampled") for i in range(4)]
    con = con or empty()
    add_run(con, run, drafters, **declared)
    for table, rows in (("responses", responses), ("rounds", rounds), ("speed_samples", samples if speed else [])):
        if rows:
            con.register("arriving", pl.DataFrame(rows, orient="row"))
            con.execute(f"INSERT INTO {table} SELECT * FROM arriving").fetchall()
            con.unregister("arriving")
    return con


def add_anchors(
    con: duckdb.DuckDBPyConnection, drafter: str = "dspark", gamma: int = 4, *, head: bool = True, calibrated: bool = True
) -> None:
    """Dense records of 12 prompts in two tasks: acceptances and confidences that overstate them a little."""
    rng = np.random.default_rng(1)
    for task in ("gsm8k", "humaneval"):
        for prompt in (f"{task}/{i}" for i in range(6)):
            known = con.execute(
                "SELECT count(*) FROM responses WHERE run_id = ? AND prompt_id = ? AND drafter = 'none'", [RUN, prompt]
            )
            if not known.fetchall()[0][0]:
                response = {
                    "run_id": RUN,
                    "drafter": "none",
                    "gamma": 0,
                    "task": task,
                    "domain": TASKS[task],
                    "prompt_id": prompt,
                }
                response |= {
                    "turn": 0,
                    "prompt_tokens": 5,
                    "output_tokens": 41,
                    "finish": "length",
                    "token_ids": [],
                    "text": "",
                }
                insert(con, "responses", [response])
            key = {"run_id": RUN, "drafter": drafter, "gamma": gamma, "prompt_id": prompt, "turn": 0}
            insert(con, "recordings", [key | {"anchors": 40}])
            rows = []
            for anchor in range(1, 41):
                c = rng.uniform(0.3, 0.95, gamma)
                accepted = int(np.argmin([*(rng.random(gamma) < c**1.3), False]))
                row = key | {"anchor": anchor, "drafted": gamma, "accepted": accepted, "accept_prob": [0.5] * gamma}
                rows.append(row | {"confidence" if head else "certainty": c.tolist()})
            insert(con, "anchors", rows)
    quality = {"observed": 0.5, "fit_prompts": 8, "fit_anchors": 900, "test_prompts": 20, "test_anchors": 3000}
    for position in range(1, gamma + 1):
        key = {"run_id": RUN, "drafter": drafter, "gamma": gamma, "position": position}
        if head and calibrated:
            scores = dict.fromkeys(
                ("ece_before", "ece_after", "auc_before", "auc_after", "brier_before", "brier_after"), 0.1
            )
            insert(con, "calibrations", [key | quality | scores | {"temperature": 1.2}])
        if not head:
            scores = dict.fromkeys(("ece", "auc", "brier"), 0.1)
            insert(con, "estimates", [key | quality | scores | {"intercept": 0.0, "slope": 1.0}])


def point(number: int, drafter: str, policy: str, users: int, throughput: float | None, **more: Any) -> dict[str, Any]:
    """A row of `simulations`; without throughput a failed one."""
    gamma = DRAFTERS.get(drafter, 7)
    row: dict[str, Any] = {
        "sweep_id": "5eed", "point": number, "run_id": RUN, "profile_hash": "abc", "drafter": drafter, "gamma": gamma or 7,
        "confidences": "none", "policy": policy, "lossless": policy != "oracle", "exact": policy != "oracle", "users": users,
        "load": json.dumps(f"users:{users}/0"), "engine": {}, "seed": 0,
    }  # fmt: skip
    if throughput is None:
        return row | {"error": "no room"} | more
    tps = throughput / users
    quantiles = {f"p{q}_{m}": (1 + q / 100) * 0.01 for m in ("ttft", "tpot", "e2e") for q in (5, 50, 95, 99)}
    quantiles |= {f"p{q}_tps": tps * (1 + q / 200) for q in (5, 50, 95, 99)}
    return row | {
        "throughput": throughput, "throughput_half_width": throughput / 100, "tps": tps, "tps_half_width": tps / 50,
        "tau": 3.0, "tau_half_width": 0.01, "budget": 5.0, "budget_half_width": 0.0, "wasted": 0.4, "running": users * 1.0,
        "attainment": 1.0, "goodput": throughput, "stationary": True, "means": {"tps": tps, "ttft": 0.1, "tpot": 1 / tps},
        "finished": 1000,
        "quantiles": quantiles, "step_s": {"overhead": 0.001, "draft": 0.002, "attention": 0.0005, "target": 0.004},
        "slas": {"mean_tps>=50": tps >= 50}, "warnings": [],
    } | more  # fmt: skip


def add_sweep(
    con: duckdb.DuckDBPyConnection,
    points: Sequence[Mapping[str, Any]] | None = None,
    *,
    profile: Profile = PROFILE,
) -> None:
    """A sweep over loads with the bound mean tps ≥ 50; by default of three drafters, a scheduler and a bound."""
    if points is None:
        most = {
            ("none", "none"): 60,
            ("mtp", "fixed:1"): 110,
            ("dspark", "fixed:7"): 240,
            ("dspark", "prefix_scheduler"): 250,
        }
        most |= {("dspark", "oracle"): 300}
        systems = [(who, users, peak) for who, peak in most.items() for users in LOADS]
        points = [
            point(i, *who, users, peak * users / (1 + users / 40) + 0.01 * i)
            for i, (who, users, peak) in enumerate(systems)
        ]  # fmt: skip
    insert(con, "profiles", [profile_row(profile) | {"profile_hash": "abc"}])
    sweep = {"sweep_id": "5eed", "run_id": RUN, "created_at": "2026-02-01 11:00", "finished_at": "2026-02-01 11:01"}
    plan = {"profile": dump_profile(profile), "loads": [f"users:{n}/0" for n in LOADS], "slas": ["mean_tps>=50"], "seed": 0}
    insert(
        con, "sweeps", [sweep | {"command": "harness simulate latest", "plan": plan, "git_revision": None, "packages": {}}]
    )
    insert(con, "simulations", points)


def add_study(con: duckdb.DuckDBPyConnection, *, confirmed: bool = True) -> None:
    """A study at 64 users, on the profile of `add_sweep`: six trials, of which one is cut short and one failed."""
    plan = {"profile": dump_profile(PROFILE), "loads": ["users:64/0"], "slas": ["mean_tps>=50"], "objective": "throughput"}
    study = {"study_id": "57ad", "run_id": RUN, "created_at": "2026-02-01 12:00", "finished_at": "2026-02-01 12:01"}
    insert(con, "studies", [study | {"command": "tuner search", "plan": plan, "profile_hash": "abc", "packages": {}}])
    tried: list[tuple[str, int, str, int | None, int]] = [
        ("none", 0, "none", 2000, 60), ("mtp", 1, "fixed:1", 3500, 70), ("dspark", 7, "fixed:7", 5000, 40),
        ("dspark", 7, "prefix_scheduler", 5200, 75), ("dspark", 7, "fixed:3", 4000, 90), ("ngram", 7, "fixed:7", None, 0),
    ]  # fmt: skip
    for number, (drafter, gamma, policy, throughput, tps) in enumerate(tried):
        row = {"study_id": "57ad", "load": "users:64/0", "number": number, "batch": 0, "origin": "start", "drafter": drafter}
        row |= {
            "gamma": gamma,
            "policy": policy,
            "confidences": "none",
            "request_cap": 256,
            "params": {},
            "distributions": {},
        }
        row |= {"attributes": {}, "rungs": {}, "wall_s": 1.0, "state": "cut" if number == 4 else "complete"}
        if throughput is None:
            row |= {"state": "failed", "error": "no room"}
        else:
            row |= {"figures": {"throughput": throughput, "tps": tps}, "feasible": tps >= 50}
        insert(con, "trials", [row])
    if not confirmed:
        return
    kept = [
        ("winner", *tried[3], None),
        ("next best", *tried[4], 0.3),
        ("default", *tried[1], 0.5),
        ("default", *tried[0], 1.6),
    ]
    for place, (role, drafter, gamma, policy, throughput, tps, gain) in enumerate(kept):
        row = {"study_id": "57ad", "load": "users:64/0", "place": place, "role": role, "drafter": drafter, "gamma": gamma}
        row |= {"policy": policy, "confidences": "none", "request_cap": 256, "exact": True, "prompts": 9, "draws": 6}
        row |= {"figures": {"throughput": throughput, "tps": tps, "tau": 2.5, "budget": 4.0}, "feasible": True, "gain": gain}
        row |= {"half_widths": {"throughput": 50, "tps": None}, "gain_half_width": gain and 0.05}
        insert(con, "confirmations", [row])
    mtp = {"drafter": "mtp", "gamma": 1, "policy": "fixed:1", "confidences": "none", "request_cap": 256}
    common = {"study_id": "57ad", "load": "users:64/0", "best": mtp, "keeps": True}
    cut = mtp | {"value": "mtp", "state": "cut"}
    insert(con, "sensitivities", [
        common | {"kind": "importance", "what": "drafter", "share": 0.8, "best": None, "keeps": None},  # of version 0.3
        common | {"kind": "choice", "what": "request cap", "best": None, "keeps": False},
        common | {"kind": "choice", "what": "drafter", "best": cut, "loss": 0.33},
        common | {"kind": "load", "what": "77 users", "moved": False, "loss": 0.0},
        common | {"kind": "mix", "what": "+20% code", "moved": True, "loss": 0.02},
        common | {"kind": "verify", "what": "+20% seconds of verification", "moved": True, "loss": 0.9, "keeps": False},
    ])  # fmt: skip


def add_validation(con: duckdb.DuckDBPyConnection) -> None:
    """Two points of a live engine: throughput outside of the simulation's interval at 4 users and inside at 8, τ inside.

    The profile is that of `add_sweep`.
    """
    row = {"validation_id": "a1", "run_id": RUN, "created_at": "2026-02-01", "command": "harness validate"}
    row |= {"engine": "specyard", "profile_hash": "abc", "believed_hash": "abc", "drafter": "dspark", "gamma": 7}
    row |= {"policy": "fixed:7", "confidences": "none", "seconds": 90.0, "steps": 100, "requests": 20, "packages": {}}
    row |= {"live_prompts": ["a", "b"], "trace_prompts": ["c", "d", "e"], "step_errors": {"step": -0.02, "draft": 0.1}}
    row |= {"same_prompts": {"throughput": 102}, "measured": {"throughput": 100, "tau": 2.0}}
    row |= {"simulated": {"throughput": 110, "tau": 2.1}}
    insert(con, "validations", [
        row | {"point": 0, "users": 4, "low": {"throughput": 105, "tau": 1.9}, "high": {"throughput": 120, "tau": 2.2}},
        row | {"point": 1, "users": 8, "low": {"throughput": 90, "tau": 1.9}, "high": {"throughput": 120, "tau": 2.2}},
    ])  # fmt: skip


def add_tolerances(con: duckdb.DuckDBPyConnection) -> None:
    """At 64 users verification may be 12 % slower before mtp wins, acceptance 30 % off; at 4 users answers 25 % shorter.

    The profile is that of `add_sweep`.
    """
    best, other = "dspark γ=7 prefix_scheduler", "mtp γ=1 fixed:1"
    found: list[tuple[str, str, float | None, float | None]] = [
        ("users:4", "length of answers", -0.25, None), ("users:64", "acceptance", None, None),
        ("users:64", "seconds of verification", None, 0.12),
    ]  # fmt: skip
    common = {"tolerance_id": "70", "run_id": RUN, "created_at": "2026-02-01 13:00", "command": "harness sensitivity latest"}
    common |= {"profile_hash": "abc", "objective": "throughput", "seconds": 60.0, "seed": 0, "clear": 0.01, "packages": {}}
    for number, (load, what, down, up) in enumerate(found):
        looks = []
        for off in (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3):
            lost = (down is not None and off <= down) or (up is not None and off >= up)
            looks.append({"what": what, "off": off, "best": other if lost else best, "loss": abs(off) / 10 if lost else 0.0})
        row = {"number": number, "load": load, "what": what, "winner": best, "margin": 0.021, "down": down, "up": up}
        insert(con, "tolerances", [common | row | {"instead": other, "looks": json.dumps(looks)}])


def everything() -> duckdb.DuckDBPyConnection:
    """A database with something for every section that there is data for today."""
    con = recorded()
    add_anchors(con)
    add_anchors(con, "mtp", 1, head=False)
    add_sweep(con)
    add_study(con)
    add_validation(con)
    add_tolerances(con)
    return con
